# SPDX-License-Identifier: Apache-2.0
"""The journal in SQLite: entries, redeemed nonces, and the responses kept for retries.

What a hostile host can do to this file: read it (it holds no key, and envelopes are
sealed), delete or change entries, and put back an older copy of all of it. Entries are
leaves of a tree whose head a key inside the TEE signs, in the same commit: a change
under a running provider is refused at its next commit, and otherwise when it starts or
when anybody checks the log (``tightseal audit verify``). A whole older copy, put back
while no provider runs, makes a redeemed nonce look new: such a nonce still needs
evidence that commits to it, and yields the same key sealed to the same recipient, but
it is counted twice. Witnesses of the log see that it went back; nothing here does.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, Full, LifoQueue
from typing import TYPE_CHECKING, Final, Self

from tightseal.audit.entry import entry_bytes
from tightseal.audit.log import (
    Head,
    LogKey,
    log_signer,
    read_head,
    read_leaves,
    root_at,
)
from tightseal.audit.merkle import leaf_hash
from tightseal.audit.schema import (
    BUSY_SECONDS,
    FileMode,
    check_file,
    fill_file,
    wrapped,
)
from tightseal.audit.writer import GroupWriter, Redemption, Write, judge_kept
from tightseal.durable import connect, create_file
from tightseal.errors import Code, RequestError, ServiceError
from tightseal.model import canonical
from tightseal.model.exchange import LogPromise
from tightseal.model.labels import Label
from tightseal.model.ports import Completion, JournalEntry, NonceRedemption

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

__all__ = [
    "ENTRY_ID_BYTES",
    "MAX_BODY_BYTES",
    "MAX_LISTED",
    "MAX_RESPONSE_BYTES",
    "MAX_WAITING",
    "RECORD_SECONDS",
    "FileMode",
    "RecordedEntry",
    "SqliteJournal",
]

ENTRY_ID_BYTES: Final = 16
MAX_BODY_BYTES: Final = 256 << 10
MAX_RESPONSE_BYTES: Final = 6 << 20
"""Longest body and kept response, in bytes: a whole keyring handed over fits."""

MAX_WAITING: Final = 1024
"""Most entries that wait for the writer before more are refused."""

MAX_LISTED: Final = 1000
"""Most entries of one page of ``entries``."""

RECORD_SECONDS: Final = 15.0
"""Longest that ``record`` waits for its commit, in seconds."""

_HASH_BYTES: Final = 32
_MAX_NONCE_BYTES: Final = 256
_MAX_WORD_CHARS: Final = 64
_MAX_TIME: Final = (1 << 53) - 1
_IDLE_READERS: Final = 4


@dataclass(frozen=True, slots=True)
class RecordedEntry:
    """An entry as it stands in the journal, with its place in it."""

    seq: int
    entry: JournalEntry


class SqliteJournal:
    """The recorder of one provider; several processes may open one file.

    ``create`` and ``open`` are different calls: a missing file is an error, never a
    fresh start. Thread-safe. Not usable after ``fork``: open it in the child.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_waiting: int = MAX_WAITING,
        log_key: LogKey | None = None,
    ) -> None:
        check_file(path)
        try:
            self._writer = GroupWriter(path, max_waiting=max_waiting, log_key=log_key)
        except OSError as e:
            raise wrapped(e, f"opening {path}") from e
        self._path = path
        self._log_key = log_key
        self._named: str | None = None
        self._pid = os.getpid()
        self._readers: LifoQueue[sqlite3.Connection] = LifoQueue(_IDLE_READERS)
        self._closed = False

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        mode: FileMode = FileMode.WAL,
        max_waiting: int = MAX_WAITING,
        log_key: LogKey | None = None,
    ) -> Self:
        """Create a journal where none is, mode 0600, durable, and open it.

        Raises:
            ServiceError: ``journal_failed``, where there is a file already, or none
                can be made.
        """
        try:
            create_file(path, exclusive=True)
            fill_file(path, mode)
        except (sqlite3.Error, OSError) as e:
            raise wrapped(e, f"creating {path}") from e
        return cls(path, max_waiting=max_waiting, log_key=log_key)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        max_waiting: int = MAX_WAITING,
        log_key: LogKey | None = None,
    ) -> Self:
        """Open an existing journal.

        Args:
            path: the file.
            max_waiting: most entries that wait for the writer.
            log_key: derives the key that signs the log's checkpoints. Without it the
                log is kept unsigned, and one that was signed takes no entry.

        Raises:
            ServiceError: ``journal_failed``, where it is missing, damaged, of another
                version, or not a journal.
        """
        return cls(path, max_waiting=max_waiting, log_key=log_key)

    @classmethod
    def open_or_create(
        cls,
        path: Path,
        *,
        mode: FileMode = FileMode.WAL,
        max_waiting: int = MAX_WAITING,
        log_key: LogKey | None = None,
    ) -> Self:
        """Open the journal, or create it: for the sidecar, which starts with nothing.

        An empty file, as a crash while creating leaves it, counts as none. Whoever
        removes the file gets a fresh start here; use ``open`` where that matters.

        Raises:
            ServiceError: ``journal_failed``.
        """
        try:
            with suppress(FileExistsError):
                create_file(path, exclusive=True)
            fill_file(path, mode)
        except (sqlite3.Error, OSError) as e:
            raise wrapped(e, f"opening {path}") from e
        return cls(path, max_waiting=max_waiting, log_key=log_key)

    def head(self) -> Head:
        """The head of the log, as the file has it; its signature is not checked.

        Raises:
            ServiceError: ``journal_failed``; ``log_tampered``, where it has no form.
        """
        with self._reader() as connection:
            return read_head(connection)

    def signed_head(self) -> Head | None:
        """The newest head that this process signed or checked; none before an entry."""
        return self._writer.signed_head

    def root_at(self, size: int) -> bytes:
        """The root that the log had at a size, as its rows say now.

        Raises:
            ServiceError: ``journal_failed``; ``log_tampered``, where rows are missing.
        """
        with self._reader() as connection:
            return root_at(connection, size)

    def leaves(self, start: int, end: int) -> list[bytes]:
        """The log's entries from leaf ``start`` up to, and without, leaf ``end``.

        Raises:
            ServiceError: ``journal_failed``; ``log_tampered``, where one is missing.
        """
        with self._reader() as connection:
            return read_leaves(connection, start, end)

    @property
    def waiting(self) -> int:
        """Entries that wait for the next commit; for metrics."""
        return self._writer.waiting

    def require_alive(self) -> None:
        """Check that entries are still taken; readiness asks.

        Raises:
            ServiceError: ``journal_failed``; ``log_tampered``, where the last entries
                were refused for that.
        """
        self._usable()
        if (refused := self._writer.refused) is not None:
            raise ServiceError(refused.code, refused.detail)
        if not self._writer.alive:
            raise ServiceError(Code.JOURNAL_FAILED, "the journal's writer has ended")

    def promise(self, entry: JournalEntry) -> LogPromise | None:
        """The log's key and the entry's leaf; ``None`` where the log has no key.

        Raises:
            ServiceError: ``journal_failed``, where entry or journal cannot be used.
        """
        if self._log_key is None:
            return None
        if self._named is None:
            self._named = str(log_signer(self.head().log_id, self._log_key).key)
        return LogPromise(self._named, leaf_hash(entry_bytes(_row(entry))))

    def submit(
        self,
        entry: JournalEntry,
        *,
        redemption: NonceRedemption | None,
        response: bytes | Completion,
    ) -> Future[bytes]:
        """``record`` without waiting; the future gets its result or its error.

        Raises:
            ServiceError: ``overloaded``, where too many entries wait;
                ``journal_failed``, where entry or journal cannot be used.
        """
        self._usable()
        if isinstance(response, bytes) and len(response) > MAX_RESPONSE_BYTES:
            raise _malformed(f"response of {len(response)} bytes")
        write = Write(
            row=_row(entry),
            time=entry.time,
            redemption=None if redemption is None else _redemption(redemption),
            response=response,
        )
        self._writer.submit(write)
        return write.done

    def record(
        self,
        entry: JournalEntry,
        *,
        redemption: NonceRedemption | None,
        response: bytes | Completion,
    ) -> bytes:
        """Burn the nonce, append the entry and keep the response, in one commit.

        Blocks until the commit is durable. A retry of the same request appends no
        second entry.

        Args:
            entry: the decision.
            redemption: the nonce to burn; ``None`` where there is none.
            response: what to keep, or what makes it from the entry's proof; that is
                called on the writer's thread, so it must be quick and not raise.

        Returns:
            the response to send: ``response``, or the one kept for this very request.

        Raises:
            EvidenceError: ``nonce_replayed``; ``nonce_expired``, where the nonce is so
                old that its redemption may have been dropped.
            ServiceError: ``journal_failed`` or ``overloaded``; then nothing may leave.
        """
        done = self.submit(entry, redemption=redemption, response=response)
        try:
            return done.result(timeout=RECORD_SECONDS)
        except TimeoutError as e:
            done.cancel()
            detail = f"no commit within {RECORD_SECONDS:g} s"
            raise ServiceError(Code.JOURNAL_FAILED, detail) from e

    def kept_response(self, redemption: NonceRedemption) -> bytes | None:
        """The response kept for this very request, or ``None`` where the nonce is new.

        Raises:
            EvidenceError: ``nonce_replayed``.
            ServiceError: ``journal_failed``.
        """
        wanted = _redemption(redemption)
        with self._reader() as connection:
            row = connection.execute(
                "SELECT request_hash, response FROM redeemed WHERE nonce_hash = ?",
                (wanted.nonce_hash,),
            ).fetchone()
        return None if row is None else judge_kept(row, wanted.request_hash)

    def entries(self, *, after: int = 0, limit: int = 100) -> tuple[RecordedEntry, ...]:
        """The entries behind ``after``, oldest first, at most ``limit``.

        Raises:
            ServiceError: ``journal_failed``, also where a row is not of the form that
                this program writes.
        """
        with self._reader() as connection:
            rows = connection.execute(
                "SELECT seq, entry_id, time, granted, class, code, body FROM journal"
                " WHERE seq > ? ORDER BY seq LIMIT ?",
                (after, max(0, min(limit, MAX_LISTED))),
            ).fetchall()
        return tuple(_recorded(row) for row in rows)

    def latest(self) -> int:
        """The number of the last entry; 0 where there is none.

        Raises:
            ServiceError: ``journal_failed``.
        """
        with self._reader() as connection:
            row = connection.execute("SELECT max(seq) FROM journal").fetchone()
        return int(row[0] or 0)

    def close(self) -> None:
        """Commit what waits, then let go of the file."""
        self._closed = True
        self._writer.close(RECORD_SECONDS)
        self._close_readers()

    def _close_readers(self) -> None:
        with suppress(Empty):
            while True:
                self._readers.get_nowait().close()

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A reading connection for this thread alone, kept for the next one."""
        self._usable()
        try:
            try:
                connection = self._readers.get_nowait()
            except Empty:
                connection = connect(self._path, busy_seconds=BUSY_SECONDS)
                connection.execute("PRAGMA query_only = ON")
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
        except (sqlite3.Error, OSError, OverflowError) as e:
            raise wrapped(e, "reading") from e
        try:
            self._readers.put_nowait(connection)
        except Full:
            connection.close()
        if self._closed:
            self._close_readers()

    def _usable(self) -> None:
        if self._closed:
            raise ServiceError(Code.JOURNAL_FAILED, "the journal is closed")
        if os.getpid() != self._pid:
            detail = "the journal was opened by another process; open it anew"
            raise ServiceError(Code.JOURNAL_FAILED, detail)


def _row(entry: JournalEntry) -> tuple[bytes, int, int, str, str, bytes]:
    body = canonical.encode(entry.body)
    if len(entry.entry_id) != ENTRY_ID_BYTES:
        raise _malformed(f"entry id of {len(entry.entry_id)} bytes")
    if not 0 <= entry.time <= _MAX_TIME:
        raise _malformed(f"time {entry.time}")
    if len(body) > MAX_BODY_BYTES:
        raise _malformed(f"body of {len(body)} bytes")
    for word in (entry.protocol_class, entry.code):
        if not 1 <= len(word) <= _MAX_WORD_CHARS or not word.isascii():
            raise _malformed("protocol class and code are short ASCII words")
    return (
        entry.entry_id,
        entry.time,
        int(entry.granted),
        str(entry.protocol_class),
        str(entry.code),
        body,
    )


def _redemption(redemption: NonceRedemption) -> Redemption:
    if not 1 <= len(redemption.nonce) <= _MAX_NONCE_BYTES:
        raise _malformed(f"nonce of {len(redemption.nonce)} bytes")
    if len(redemption.request_hash) != _HASH_BYTES:
        raise _malformed(f"request hash of {len(redemption.request_hash)} bytes")
    if not 0 <= redemption.expires_at <= _MAX_TIME:
        raise _malformed(f"expiry {redemption.expires_at}")
    covered = canonical.labelled(Label.REDEEMED_NONCE, redemption.nonce)
    return Redemption(
        nonce_hash=hashlib.sha256(covered).digest(),
        expires_at=redemption.expires_at,
        request_hash=redemption.request_hash,
    )


def _recorded(row: tuple[int, bytes, int, int, str, str, bytes]) -> RecordedEntry:
    seq, entry_id, time, granted, protocol_class, code, body = row
    try:
        value = canonical.decode(body)
    except RequestError as e:
        detail = f"entry {seq} is damaged: {e.detail}"
        raise ServiceError(Code.JOURNAL_FAILED, detail) from e
    entry = JournalEntry(
        entry_id=entry_id,
        time=time,
        granted=bool(granted),
        protocol_class=protocol_class,
        code=code,
        body=value,
    )
    return RecordedEntry(seq=seq, entry=entry)


def _malformed(detail: str) -> ServiceError:
    return ServiceError(Code.JOURNAL_FAILED, f"not recorded: {detail}")
