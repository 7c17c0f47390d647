# SPDX-License-Identifier: Apache-2.0
"""A guard that survives restarts and is shared by processes.

The file lies on the host, which is the adversary: with a key, a MAC keeps it from being
written by others; nothing here keeps the host from putting an older file back while no
process runs. While one runs, what it remembers never sinks. A missing or damaged file
is an error, never a fresh start.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tightseal.collateral import wire
from tightseal.collateral.guard import (
    EMPTY,
    MAX_MARKS,
    RELEASE_FLOORS,
    Floor,
    Mark,
    MarkKey,
    Marks,
    check_facts,
    merge,
    raised,
)
from tightseal.errors import Code, CollateralError
from tightseal.model.canonical import labelled
from tightseal.model.collateral import CollateralFacts
from tightseal.model.labels import Label
from tightseal.model.secret import Secret

__all__ = ["MAX_GUARD_BYTES", "FileGuard"]

MAX_GUARD_BYTES: Final = 2 << 20
"""Longest guard file, in bytes."""

MAX_NUMBER_CHARS: Final = 40
"""Most hex digits of a number: 20 octets."""

_BROKEN: Final = Code.COLLATERAL_GUARD_BROKEN
_VERSION: Final = 1
_MAX_TIME: Final = 1 << 62
_MARK_MEMBERS: Final = 5

_PROCESS_LOCKS: dict[str, threading.Lock] = {}
_PROCESS_LOCKS_LOCK: Final = threading.Lock()


def _process_lock(path: Path) -> threading.Lock:
    """POSIX locks exclude processes, not threads: closing one drops all of ours."""
    with _PROCESS_LOCKS_LOCK:
        return _PROCESS_LOCKS.setdefault(str(path), threading.Lock())


class FileGuard:
    """A guard whose marks are in a file; implements ``CollateralGuard``.

    Made by ``create`` once and by ``open`` from then on. Admission reads memory and
    looks whether the file changed; it writes only where a mark rises, under a lock
    beside the file, and merges with what other processes wrote.
    """

    def __init__(
        self, path: Path, *, floors: tuple[Floor, ...], key: Secret | None
    ) -> None:
        self._path = path.absolute()
        self._floors = floors
        self._key = key
        self._marks: Marks = EMPTY
        self._memory = threading.Lock()
        self._seen: tuple[int, int, int] | None = None

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        floors: tuple[Floor, ...] = RELEASE_FLOORS,
        key: Secret | None = None,
    ) -> FileGuard:
        """Make a new guard file.

        Args:
            path: must not exist; its folder must.
            floors: floors besides what is remembered.
            key: MACs the file; without one a checksum finds accidents only.

        Raises:
            CollateralError: ``collateral_guard_broken``, where the file is there
                already or cannot be written.
        """
        guard = cls(path, floors=floors, key=key)
        with guard._locked():
            if guard._path.exists():
                raise CollateralError(_BROKEN, f"{path}: exists already")
            guard._write(EMPTY)
        return guard

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        floors: tuple[Floor, ...] = RELEASE_FLOORS,
        key: Secret | None = None,
    ) -> FileGuard:
        """Open an existing guard file; arguments as of ``create``.

        Raises:
            CollateralError: ``collateral_guard_broken``, where it is missing, damaged,
                or written under another key.
        """
        guard = cls(path, floors=floors, key=key)
        guard._refresh()
        return guard

    @classmethod
    def rekey(cls, path: Path, *, before: Secret, after: Secret) -> None:
        """Write an existing guard file under another key, at once; marks stay.

        Guards that are open under the old key fail from then on.

        Raises:
            CollateralError: ``collateral_guard_broken``, where it is missing, damaged,
                written under another key than ``before``, or cannot be written.
        """
        guard = cls(path, floors=(), key=before)
        with guard._locked():
            guard._refresh()
            guard._key = after
            guard._write(guard._marks)

    @property
    def marks(self) -> Marks:
        """What has been admitted, as far as this process knows."""
        return self._marks

    def check(self, facts: tuple[CollateralFacts, ...]) -> None:
        """Refuse facts below a mark or floor; remember nothing.

        Raises:
            CollateralError: ``collateral_rollback``, ``collateral_guard_broken``.
        """
        self._refresh()
        check_facts(facts, self._marks, self._floors)

    def admit(self, facts: tuple[CollateralFacts, ...], *, now: int) -> None:
        """Admit the facts of verified collateral, or refuse them; see ``MemoryGuard``.

        Raises:
            CollateralError: ``collateral_rollback``, ``collateral_too_large``, or
                ``collateral_guard_broken``, also where a raised mark cannot be
                written: forgetting it at the next start would be going back.
        """
        del now
        self._refresh()
        if not check_facts(facts, self._marks, self._floors):
            return
        with self._locked():
            self._refresh()
            if check_facts(facts, self._marks, self._floors):
                marks = raised(self._marks, facts)
                self._write(marks)
                self._take_in(marks)

    def admitted(self, *, trust_domain: str, kind: str, subject: str) -> bool:
        """Whether collateral on this subject was ever admitted, by any process.

        Raises:
            CollateralError: ``collateral_guard_broken``.
        """
        self._refresh()
        return MarkKey(trust_domain, kind, subject) in self._marks

    def _stamp(self) -> tuple[int, int, int]:
        try:
            stat = self._path.stat()
        except OSError as error:
            raise self._broken("cannot be read", error) from error
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns)

    def _broken(self, what: str, error: Exception) -> CollateralError:
        reason = getattr(error, "strerror", None) or str(error)
        return CollateralError(_BROKEN, f"{self._path}: {what}: {reason}")

    def _refresh(self) -> None:
        """Take in what other processes wrote since the last look."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_GUARD_BYTES + 1)
        except OSError as error:
            raise self._broken("cannot be read", error) from error
        self._take_in(self._decode(data))
        self._seen = stamp

    def _take_in(self, marks: Marks) -> None:
        """Raise the marks in memory; a thread that read the file earlier sinks none."""
        with self._memory:
            self._marks = merge(self._marks, marks)

    def _check_value(self, rows: list[list[Any]]) -> str:
        data = labelled(Label.COLLATERAL_GUARD_MAC, rows)
        if self._key is None:
            return "sha256:" + hashlib.sha256(data).hexdigest()
        mac = hmac.digest(self._key.reveal(), data, "sha256")
        return "hmac-sha256:" + mac.hex()

    def _encode(self, marks: Marks) -> bytes:
        rows: list[list[Any]] = [
            [*key, mark.issued_at, f"{mark.number:x}"]
            for key, mark in sorted(marks.items())
        ]
        fields = {"version": _VERSION, "marks": rows, "check": self._check_value(rows)}
        return json.dumps(fields, indent=1).encode()

    def _decode(self, data: bytes) -> Marks:
        try:
            if len(data) > MAX_GUARD_BYTES:
                message = f"more than {MAX_GUARD_BYTES} bytes"
                raise ValueError(message)
            fields = wire.json_object(data, code=_BROKEN)
            rows = fields["marks"]
            marks = dict(_mark(row) for row in rows)
            if fields["version"] != _VERSION or not _within(rows, marks):
                message = "unknown version, too many marks or a mark twice"
                raise ValueError(message)
            check = fields["check"].encode()
            expected = self._check_value(rows).encode()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._broken("damaged", error) from error
        except CollateralError as error:
            raise CollateralError(_BROKEN, f"{self._path}: {error.detail}") from error
        if not hmac.compare_digest(check, expected):
            raise CollateralError(
                _BROKEN, f"{self._path}: damaged, or written under another key"
            )
        return marks

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self._path.with_name(self._path.name + ".lock")
        with _process_lock(self._path):
            try:
                handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise self._broken("cannot be locked", error) from error
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX)
                yield
            except OSError as error:
                raise self._broken("cannot be locked or written", error) from error
            finally:
                os.close(handle)

    def _write(self, marks: Marks) -> None:
        """Replace the file at once; a crash leaves the old one or the new one."""
        name = f".{self._path.name}.{secrets.token_hex(8)}"
        temporary = self._path.with_name(name)
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(self._encode(marks))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._seen = self._stamp()


def _within(rows: list[Any], marks: Marks) -> bool:
    return len(rows) == len(marks) <= MAX_MARKS


def _mark(row: object) -> tuple[MarkKey, Mark]:
    """Read one row.

    Raises:
        ValueError: it has not the form that ``_encode`` writes.
    """
    if not isinstance(row, list) or len(row) != _MARK_MEMBERS:
        message = f"expected {_MARK_MEMBERS} members"
        raise ValueError(message)
    domain, kind, subject, issued_at, number = row
    texts = (domain, kind, subject, number)
    if not all(isinstance(text, str) for text in texts) or len(number) > (
        MAX_NUMBER_CHARS
    ):
        message = "domain, kind, subject and number must be text"
        raise ValueError(message)
    if type(issued_at) is not int or not 0 <= issued_at < _MAX_TIME:
        message = "issue date out of range"
        raise ValueError(message)
    return MarkKey(domain, kind, subject), Mark(issued_at, int(number, 16))
