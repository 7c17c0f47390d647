# SPDX-License-Identifier: Apache-2.0
"""Group commit: one thread writes what many callers wait for.

A commit costs an fsync, whatever it holds. So the thread takes everything that waits,
commits once, and then tells each caller its own outcome. No outcome is told before the
commit is durable, and one caller's conflict does not touch the others.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from tightseal.audit.schema import BUSY_SECONDS, is_busy, wrapped
from tightseal.durable import connect
from tightseal.errors import Code, EvidenceError, ServiceError, TightsealError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "MAX_BATCH",
    "PURGE_MARGIN_SECONDS",
    "PURGE_PER_COMMIT",
    "GroupWriter",
    "Redemption",
    "Write",
    "judge_kept",
]

MAX_BATCH: Final = 256
"""Most entries of one commit."""

PURGE_MARGIN_SECONDS: Final = 60
"""How long a redeemed nonce and its response are kept after it expired: enough for
workers whose clocks differ. What comes later is refused by how far purging went."""

PURGE_PER_COMMIT: Final = 64
"""Most expired nonces that a small commit drops, so that none takes long."""

_LOCK_PAUSE: Final = 0.0005
"""Seconds between two tries for the lock; SQLite's own waits grow to 0.1 s."""

_Outcome: TypeAlias = "bytes | TightsealError"


@dataclass(frozen=True, slots=True)
class Redemption:
    """A nonce to burn: hash of the nonce, its expiry, hash of the request."""

    nonce_hash: bytes
    expires_at: int
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Write:
    """One entry that waits for its commit; ``row`` as the journal's columns."""

    row: tuple[bytes, int, int, str, str, bytes]
    time: int
    redemption: Redemption | None
    response: bytes
    done: Future[bytes] = field(default_factory=Future)


class GroupWriter:
    """Owns the writing connection and its thread.

    After an I/O error the connection is closed and opened anew: what a failed fsync
    left in the page cache must not count as written.
    """

    def __init__(self, path: Path, *, max_waiting: int) -> None:
        self._path = path
        self._max_waiting = max_waiting
        self._identity = _identity(path)
        self._connection: sqlite3.Connection | None = None
        self._waiting: list[Write] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(
            target=self._run, name="tightseal-journal", daemon=True
        )
        self._thread.start()

    def submit(self, write: Write) -> None:
        """Queue an entry; ``write.done`` gets the outcome.

        Raises:
            ServiceError: ``overloaded``, where too many wait; ``journal_failed`` after
                ``close``.
        """
        with self._wake:
            if not self.alive:
                raise ServiceError(Code.JOURNAL_FAILED, "the journal is closed")
            if len(self._waiting) >= self._max_waiting:
                detail = f"{self._max_waiting} entries wait for the journal"
                raise ServiceError(Code.OVERLOADED, detail)
            self._waiting.append(write)
            self._wake.notify()

    @property
    def alive(self) -> bool:
        """Whether entries are still taken."""
        return not self._closed and self._thread.is_alive()

    def close(self, timeout: float) -> None:
        """Commit what waits, then stop; entries after that are refused."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            while batch := self._take():
                self._serve(batch)
        finally:
            self._disconnect()
            with self._wake:
                self._closed = True
                left, self._waiting = self._waiting, []
            for write in left:
                if write.done.set_running_or_notify_cancel():
                    _tell(write, None)

    def _serve(self, batch: list[Write]) -> None:
        outcomes: list[_Outcome] = []
        try:
            outcomes = self._commit(batch)
        except (sqlite3.Error, OSError) as e:
            outcomes = [wrapped(e, "recording") for _ in batch]
            self._disconnect()
        finally:
            for at, write in enumerate(batch):
                _tell(write, outcomes[at] if at < len(outcomes) else None)

    def _take(self) -> list[Write]:
        """Everything that waits, at most ``MAX_BATCH``; empty when closed."""
        while True:
            with self._wake:
                while not self._waiting and not self._closed:
                    self._wake.wait()
                if not self._waiting:
                    return []
                batch = self._waiting[:MAX_BATCH]
                del self._waiting[:MAX_BATCH]
            wanted = [w for w in batch if w.done.set_running_or_notify_cancel()]
            if wanted:
                return wanted

    def _commit(self, batch: list[Write]) -> list[_Outcome]:
        if _identity(self._path) != self._identity:
            raise OSError(f"{self._path} is not the file that was opened")
        if self._connection is None:
            self._connection = connect(self._path, busy_seconds=BUSY_SECONDS)
            self._connection.execute("PRAGMA busy_timeout = 0")
        connection = self._connection
        _patiently(connection, "BEGIN IMMEDIATE")
        try:
            outcomes = [_apply(connection, write) for write in batch]
            # At least what this commit adds, or a steady load would outgrow purging.
            most = max(PURGE_PER_COMMIT, 2 * len(batch))
            _purge(connection, now=max(write.time for write in batch), most=most)
            _patiently(connection, "COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return outcomes

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def judge_kept(row: tuple[bytes, bytes], request_hash: bytes) -> bytes:
    """The response kept for a redeemed nonce, where it was this very request.

    Raises:
        EvidenceError: ``nonce_replayed``, where it was another.
    """
    before, response = row
    if before != request_hash:
        detail = "the nonce was redeemed by another request"
        raise EvidenceError(Code.NONCE_REPLAYED, detail)
    return response


def _apply(connection: sqlite3.Connection, write: Write) -> _Outcome:
    """Write one entry inside the open transaction, or say why not."""
    redemption = write.redemption
    if redemption is not None:
        try:
            kept = _kept(connection, redemption)
        except TightsealError as e:
            return e
        if kept is not None:
            return kept
    try:
        connection.execute(
            "INSERT INTO journal (entry_id, time, granted, class, code, body)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            write.row,
        )
    except sqlite3.IntegrityError as e:
        return wrapped(e, "entry refused")
    if redemption is not None:
        connection.execute(
            "INSERT INTO redeemed (nonce_hash, expires_at, request_hash, response)"
            " VALUES (?, ?, ?, ?)",
            (
                redemption.nonce_hash,
                redemption.expires_at,
                redemption.request_hash,
                write.response,
            ),
        )
    return write.response


def _kept(connection: sqlite3.Connection, redemption: Redemption) -> bytes | None:
    row = connection.execute(
        "SELECT request_hash, response FROM redeemed WHERE nonce_hash = ?",
        (redemption.nonce_hash,),
    ).fetchone()
    if row is not None:
        return judge_kept(row, redemption.request_hash)
    mark = connection.execute("SELECT through FROM purged").fetchone()
    if mark is None:
        # The file lies with the host, and without the mark nothing stops a revival.
        raise ServiceError(Code.JOURNAL_FAILED, "the mark of purging is gone")
    through = mark[0]
    if redemption.expires_at <= through:
        # Its row may be among those dropped: a clock set back must not revive it.
        detail = f"nonce expired at {redemption.expires_at}, purged through {through}"
        raise EvidenceError(Code.NONCE_EXPIRED, detail)
    return None


def _purge(connection: sqlite3.Connection, *, now: int, most: int) -> None:
    """Drop the oldest expired nonces, and remember how far that went."""
    oldest = connection.execute(
        "SELECT nonce_hash, expires_at FROM redeemed WHERE expires_at < ?"
        " ORDER BY expires_at LIMIT ?",
        (now - PURGE_MARGIN_SECONDS, most),
    ).fetchall()
    if not oldest:
        return
    connection.executemany(
        "DELETE FROM redeemed WHERE nonce_hash = ?", [(h,) for h, _ in oldest]
    )
    connection.execute("UPDATE purged SET through = max(through, ?)", (oldest[-1][1],))


def _patiently(connection: sqlite3.Connection, statement: str) -> None:
    """Execute, trying again while another process holds the lock.

    Counted in tries, not by the clock: the clock is the host's.
    """
    for _ in range(int(BUSY_SECONDS / _LOCK_PAUSE)):
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as e:
            if not is_busy(e):
                raise
            time.sleep(_LOCK_PAUSE)
        else:
            return
    connection.execute(statement)


def _identity(path: Path) -> tuple[int, int]:
    """Which file: writing on into one that was removed would lose every entry."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _tell(write: Write, outcome: _Outcome | None) -> None:
    if isinstance(outcome, bytes):
        write.done.set_result(outcome)
    elif outcome is None:
        detail = "the journal's writer failed"
        write.done.set_exception(ServiceError(Code.JOURNAL_FAILED, detail))
    else:
        write.done.set_exception(outcome)
