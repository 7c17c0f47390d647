# SPDX-License-Identifier: Apache-2.0
"""The journal in SQLite: entries, redeemed nonces, and the responses kept for retries.

What a hostile host can do to this file: read it (it holds no key, and envelopes are
sealed), delete or change entries, and put back an older copy of all of it. Entries are
leaves of a tree whose head a key inside the TEE signs, in the same commit: a change
under a running provider is refused at its next commit, and otherwise when it starts or
when anybody checks the log (``tightseal audit verify``). Redeemed nonces are in no
tree: a dropped row, or a whole older copy put back while no provider runs, makes a
nonce look new. It still needs evidence that commits to it, and yields the same key,
sealed to the same recipient, and one more entry. That the log went back is seen by
witnesses, and by the state where there is one.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager, suppress
from queue import Empty, Full, LifoQueue
from typing import TYPE_CHECKING, Final, Self

from tightseal.audit.checkpoint import Trust
from tightseal.audit.entry import entry_bytes
from tightseal.audit.log import (
    Head,
    LogKey,
    log_signer,
    read_head,
    read_leaves,
    read_tile_roots,
    require_checkpoint,
    root_at,
)
from tightseal.audit.merkle import leaf_hash
from tightseal.audit.note import NoteKey
from tightseal.audit.rows import (
    ENTRY_ID_BYTES,
    MAX_BODY_BYTES,
    RecordedEntry,
    malformed,
    recorded_of,
    redemption_of,
    row_of,
)
from tightseal.audit.schema import (
    BUSY_SECONDS,
    FileMode,
    check_file,
    fill_file,
    wrapped,
)
from tightseal.audit.writer import (
    GroupWriter,
    Write,
    judge_kept,
    purge_mark,
    require_era,
)
from tightseal.durable import connect, create_file
from tightseal.errors import Code, EvidenceError, ServiceError
from tightseal.model.exchange import LogPromise
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
    "given_up",
]

MAX_RESPONSE_BYTES: Final = 6 << 20
"""Longest kept response, in bytes: a whole keyring handed over fits."""

MAX_WAITING: Final = 1024
"""Most entries that wait for the writer before more are refused."""

MAX_LISTED: Final = 1000
"""Most entries of one page of ``entries``."""

RECORD_SECONDS: Final = 15.0
"""Longest that ``record`` waits for its commit, in seconds."""

_IDLE_READERS: Final = 4


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
        self._era: int | None = None
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
        """The newest head that this process signed or checked, from opening on.

        ``None`` where the log is kept without a key.
        """
        return self._writer.signed_head

    def root_at(self, size: int) -> bytes:
        """The root that the log had at a size, as rows say that lead to its head.

        Raises:
            ServiceError: ``journal_failed``; ``log_tampered``, where rows are missing
                or do not lead there.
        """
        with self._reader() as connection:
            head = self.signed_head() or read_head(connection)
            return root_at(connection, size, head=head)

    def leaves(self, start: int, end: int) -> list[bytes]:
        """The log's entries from leaf ``start`` up to, and without, leaf ``end``.

        Raises:
            ServiceError: ``journal_failed``; ``log_tampered``, where one is missing.
        """
        with self._reader() as connection:
            return read_leaves(connection, start, end)

    def proven_head(self) -> Head:
        """The head of the log as the file has it, once the log's key is seen on it.

        Whichever process of this provider signed it.

        Raises:
            ServiceError: ``journal_failed``, also where the log is kept without a key;
                ``log_tampered``.
        """
        head = self.head()
        require_checkpoint(head, Trust(self._verifier(head)))
        return head

    def verifier(self) -> NoteKey:
        """The log's verifier key.

        Raises:
            ServiceError: ``journal_failed``, also where the log is kept without a key;
                ``log_tampered``.
        """
        return self._verifier(self.head())

    def _verifier(self, head: Head) -> NoteKey:
        if self._log_key is None:
            raise ServiceError(Code.JOURNAL_FAILED, "the log is kept without a key")
        return log_signer(head.log_id, self._log_key).key

    def tile_roots(self, start: int, end: int) -> list[bytes]:
        """The roots of full tiles of level 0 from ``start`` up to, without, ``end``.

        Raises:
            ServiceError: ``journal_failed``; ``log_tampered``, where one is missing.
        """
        with self._reader() as connection:
            return read_tile_roots(connection, start, end)

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
        # Another process may have begun another era.
        self._era = None
        refused = self._writer.condemned or self._writer.refused
        if refused is not None:
            raise ServiceError(refused.code, refused.detail)
        if not self._writer.alive:
            raise ServiceError(Code.JOURNAL_FAILED, "the journal's writer has ended")

    def condemn(self, error: ServiceError) -> None:
        """Take no entry any more: somebody else knows that this is not the log."""
        self._writer.condemned = error

    def promise(self, entry: JournalEntry) -> LogPromise | None:
        """The log's key and the entry's leaf; ``None`` where the log has no key.

        Raises:
            ServiceError: ``journal_failed``, where entry or journal cannot be used.
        """
        if self._log_key is None:
            return None
        if self._named is None:
            self._named = str(log_signer(self.head().log_id, self._log_key).key)
        return LogPromise(self._named, leaf_hash(entry_bytes(row_of(entry))))

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
            raise malformed(f"response of {len(response)} bytes")
        write = Write(
            row=row_of(entry),
            time=entry.time,
            redemption=None if redemption is None else redemption_of(redemption),
            response=response,
        )
        write.done.add_done_callback(self._heard)
        self._writer.submit(write)
        return write.done

    def _heard(self, done: Future[bytes]) -> None:
        if not done.cancelled() and isinstance(done.exception(), EvidenceError):
            # Perhaps it began another era.
            self._era = None

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
            raise given_up(done) from e

    def nonce_era(self) -> int:
        """What new nonces are to be minted in; see ``Recorder``.

        Raises:
            ServiceError: ``journal_failed``.
        """
        era = self._era
        if era is None:
            with self._reader() as connection:
                era, _ = purge_mark(connection)
            self._era = era
        return era

    def kept_response(self, redemption: NonceRedemption) -> bytes | None:
        """The response kept for this very request, or ``None`` where the nonce is new.

        Raises:
            EvidenceError: ``nonce_replayed``; ``nonce_expired``, where it is of another
                era.
            ServiceError: ``journal_failed``.
        """
        wanted = redemption_of(redemption)
        with self._reader() as connection:
            row = connection.execute(
                "SELECT request_hash, response FROM redeemed WHERE nonce_hash = ?",
                (wanted.nonce_hash,),
            ).fetchone()
            if row is None:
                self._era, _ = purge_mark(connection)
        if row is not None:
            return judge_kept(row, wanted.request_hash)
        require_era(wanted, era=self._era or 0)
        return None

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
        return tuple(recorded_of(row) for row in rows)

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


def given_up(done: Future[bytes]) -> ServiceError:
    """The error of an entry that no commit took in time; it is withdrawn, if it can."""
    done.cancel()
    detail = f"no commit within {RECORD_SECONDS:g} s"
    return ServiceError(Code.JOURNAL_FAILED, detail)
