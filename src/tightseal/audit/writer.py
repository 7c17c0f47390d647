# SPDX-License-Identifier: Apache-2.0
"""Group commit: one thread writes what many callers wait for.

A commit costs an fsync, whatever it holds. So the thread takes everything that waits,
commits once, and then tells each caller its own outcome. No outcome is told before the
commit is durable, and one caller's conflict does not touch the others.

A commit that fails may have shown the host everything: the signed head, and responses
with their proofs. So its entries are owed to the log. They are entered again, in their
order and before anything else is signed; else the host could deliver such a response,
and the log would have neither its entry nor the tree that was signed for it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from tightseal.audit.entry import Row, entry_bytes
from tightseal.audit.log import Grown, Head, Log, LogKey
from tightseal.audit.merkle import leaf_hash
from tightseal.audit.schema import BUSY_SECONDS, is_busy, wrapped
from tightseal.durable import connect
from tightseal.errors import Code, EvidenceError, ServiceError, TightsealError
from tightseal.model.ports import Completion

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ERA_STEP",
    "MAX_BATCH",
    "MAX_ERA",
    "PURGE_MARGIN_SECONDS",
    "PURGE_PER_COMMIT",
    "GroupWriter",
    "Redemption",
    "Write",
    "judge_kept",
    "purge_mark",
    "require_era",
]

MAX_BATCH: Final = 256
"""Most entries of one commit."""

PURGE_MARGIN_SECONDS: Final = 60
"""How long a redeemed nonce and its response are kept after it expired: enough for
workers whose clocks differ. What comes later is refused by how far purging went."""

PURGE_PER_COMMIT: Final = 64
"""Most expired nonces that a small commit drops, so that none takes long."""

ERA_STEP: Final = 1 << 53
"""The mark of purging is ``era * ERA_STEP`` and the newest expiry that was purged in
that era. Times are below it, so the mark only rises, whatever clocks do."""

MAX_ERA: Final = 1023
"""The last era: SQLite's numbers end there."""

_LOCK_PAUSE: Final = 0.0005
"""Seconds between two tries for the lock; SQLite's own waits grow to 0.1 s."""

_Outcome: TypeAlias = "bytes | TightsealError"


@dataclass(frozen=True, slots=True)
class Redemption:
    """A nonce to burn: its hash, expiry and era, and the hash of the request."""

    nonce_hash: bytes
    expires_at: int
    request_hash: bytes
    era: int = 0


@dataclass(frozen=True, slots=True)
class Write:
    """One entry that waits for its commit; ``row`` as the journal's columns."""

    row: Row
    time: int
    redemption: Redemption | None
    response: bytes | Completion
    done: Future[bytes] = field(default_factory=Future)


class GroupWriter:
    """Owns the writing connection and its thread.

    After an I/O error the connection is closed and opened anew: what a failed fsync
    left in the page cache must not count as written.
    """

    def __init__(self, path: Path, *, max_waiting: int, log_key: LogKey | None) -> None:
        self._path = path
        self._log = Log(log_key)
        self.refused: TightsealError | None = None
        """Why the last entries were refused, where the log was changed."""
        self.condemned: ServiceError | None = None
        """Why no entry is taken any more, whatever the file says."""
        self._max_waiting = max_waiting
        self._identity = _identity(path)
        self._connection: sqlite3.Connection | None = None
        self._waiting: list[Write] = []
        self._owed: list[Write] = []
        self._wake = threading.Condition()
        self._closed = False
        if log_key is not None:
            self._hold(path)
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
            if self.condemned is not None:
                raise ServiceError(self.condemned.code, self.condemned.detail)
            if not self.alive:
                raise ServiceError(Code.JOURNAL_FAILED, "the journal is closed")
            if len(self._waiting) >= self._max_waiting:
                detail = f"{self._max_waiting} entries wait for the journal"
                raise ServiceError(Code.OVERLOADED, detail)
            self._waiting.append(write)
            self._wake.notify()

    @property
    def waiting(self) -> int:
        """Entries that no commit has taken yet."""
        return len(self._waiting)

    @property
    def signed_head(self) -> Head | None:
        """The newest head of the log that this process stands for."""
        return self._log.signed

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

    def _hold(self, path: Path) -> None:
        """Go on from the head as it is now: nothing older counts before an entry, too.

        Else a file could be put back between the checks of a start and the first entry.
        """
        try:
            with closing(connect(path, busy_seconds=BUSY_SECONDS)) as connection:
                connection.execute("BEGIN")
                self._log.begin(connection)
        except sqlite3.Error as e:
            raise wrapped(e, "opening the log") from e

    def _run(self) -> None:
        try:
            while batch := self._take():
                self._serve(batch)
            if self._owed:
                self._serve([])
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
        except TightsealError as e:
            outcomes = [e for _ in batch]
            self.refused = e
            self._disconnect()
        else:
            self.refused = None
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
        if self._owed:
            self._write(self._connection, self._owed, again=True)
        return self._write(self._connection, batch, again=False) if batch else []

    def _write(
        self, connection: sqlite3.Connection, batch: list[Write], *, again: bool
    ) -> list[_Outcome]:
        """One transaction; ``again`` is for a batch that is owed."""
        _patiently(connection, "BEGIN IMMEDIATE")
        try:
            head = self._log.begin(connection)
            if again and not self._log.owes:
                connection.execute("ROLLBACK")
                self._owed = []
                return []
            step = _Step(connection, head.frontier.size, again=again)
            step.enter(batch)
            grown = self._log.append(connection, head, step.leaves)
            outcomes = step.answer(grown)
            # At least what this commit adds, or a steady load would outgrow purging.
            most = max(PURGE_PER_COMMIT, 2 * len(batch))
            _purge(connection, now=max(write.time for write in batch), most=most)
            if step.leaves:
                self._log.owe(grown)
                self._owed = step.entered
            _patiently(connection, "COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._log.committed(grown)
        self._owed = []
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


class _Step:
    """The entries of one commit: first all entered, then each answered.

    An answer may hold the proof that its entry is in the log, and for that the whole
    batch has to be in the tree first.

    ``again``: every entry is owed to the log, whatever the file says of its nonce.
    """

    def __init__(
        self, connection: sqlite3.Connection, size: int, *, again: bool
    ) -> None:
        self._connection = connection
        self._size = size
        self._again = again
        self._burned: dict[bytes, tuple[bytes, int]] = {}
        self._found: list[tuple[Write, _Outcome | int]] = []
        self.leaves: list[bytes] = []
        self.entered: list[Write] = []

    def enter(self, batch: Sequence[Write]) -> None:
        """Enter what is new; of the rest there is an outcome, or an earlier write."""
        for at, write in enumerate(batch):
            try:
                known = self._known(write)
            except TightsealError as e:
                known = e
            self._found.append(
                (write, self._entered(write, at) if known is None else known)
            )

    def answer(self, grown: Grown) -> list[_Outcome]:
        """Complete and keep the responses, now that their entries are in the tree."""
        outcomes: list[_Outcome] = []
        index = self._size
        for at, (write, found) in enumerate(self._found):
            if not isinstance(found, int):
                outcomes.append(found)
            elif found != at:
                outcomes.append(outcomes[found])
            else:
                outcomes.append(self._completed(write, grown, index))
                index += 1
        return outcomes

    def _known(self, write: Write) -> _Outcome | int | None:
        """What was answered before, also by a write of this very batch."""
        redemption = write.redemption
        if redemption is None or self._again:
            return None
        if redemption.nonce_hash in self._burned:
            before, at = self._burned[redemption.nonce_hash]
            judge_kept((before, b""), redemption.request_hash)
            return at
        return _kept(self._connection, redemption, now=write.time)

    def _entered(self, write: Write, at: int) -> _Outcome | int:
        seq = self._size + len(self.leaves) + 1
        try:
            self._connection.execute(
                "INSERT INTO journal (seq, entry_id, time, granted, class, code, body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (seq, *write.row),
            )
        except sqlite3.IntegrityError as e:
            if self._again:
                raise
            return wrapped(e, "entry refused")
        self.leaves.append(leaf_hash(entry_bytes(write.row)))
        self.entered.append(write)
        if write.redemption is not None:
            burned = write.redemption.request_hash, at
            self._burned[write.redemption.nonce_hash] = burned
        return at

    def _completed(self, write: Write, grown: Grown, index: int) -> bytes:
        response, redemption = write.response, write.redemption
        if callable(response):
            response = response(grown.proof(index).encode())
        if redemption is not None:
            # Of one that is owed another process may have kept an answer since.
            kept = "INSERT OR IGNORE" if self._again else "INSERT"
            self._connection.execute(
                f"{kept} INTO redeemed"
                " (nonce_hash, expires_at, request_hash, response) VALUES (?, ?, ?, ?)",
                (
                    redemption.nonce_hash,
                    redemption.expires_at,
                    redemption.request_hash,
                    response,
                ),
            )
        return response


def purge_mark(connection: sqlite3.Connection) -> tuple[int, int]:
    """The era, and the newest expiry that was purged in it.

    Raises:
        ServiceError: ``journal_failed``, where the mark is gone.
    """
    mark = connection.execute("SELECT through FROM purged").fetchone()
    if mark is None:
        # The file lies with the host, and without the mark nothing stops a revival.
        raise ServiceError(Code.JOURNAL_FAILED, "the mark of purging is gone")
    if mark[0] < 0:
        return 0, mark[0]
    era, through = divmod(mark[0], ERA_STEP)
    return era, through


def require_era(redemption: Redemption, *, era: int) -> None:
    """Refuse a nonce of another era: its row may be among those dropped.

    Raises:
        EvidenceError: ``nonce_expired``.
    """
    if redemption.era != era:
        detail = f"nonce of era {redemption.era}, now {era}: the clock was set back"
        raise EvidenceError(Code.NONCE_EXPIRED, detail)


def _kept(
    connection: sqlite3.Connection, redemption: Redemption, *, now: int
) -> bytes | None:
    row = connection.execute(
        "SELECT request_hash, response FROM redeemed WHERE nonce_hash = ?",
        (redemption.nonce_hash,),
    ).fetchone()
    if row is not None:
        return judge_kept(row, redemption.request_hash)
    era, through = purge_mark(connection)
    require_era(redemption, era=era)
    if redemption.expires_at <= through:
        # Its row may be among those dropped: a clock set back must not revive it.
        if now < through and era < MAX_ERA:
            # Nor must it shut out what is minted from now on.
            mark = ((era + 1) * ERA_STEP,)
            connection.execute("UPDATE purged SET through = ?", mark)
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
    era, _ = purge_mark(connection)
    mark = (era * ERA_STEP + oldest[-1][1],)
    connection.execute("UPDATE purged SET through = max(through, ?)", mark)


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
