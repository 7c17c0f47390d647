# SPDX-License-Identifier: Apache-2.0
"""The keyring's file: a crash at any call leaves one that opens, and loses nothing.

Beside ``keyring`` lie, for a moment each: ``keyring.new`` while it is written;
``keyring.previous``, the version before, until the new one was read back and opened;
``keyring.next``, a version under another keyring key that waits until what lies under
that key has followed it; and always ``keyring.lock``. The order of a save:

1. lock; look that the file is still the one that the change was made from, and that
   none waits but this one
2. write ``.new``, fsync, read it back
3. copy the file to ``.previous``: write, fsync, rename, fsync of the folder
4. rename ``.new`` over the file, fsync of the folder
5. read back and verify; where that fails, rename ``.previous`` back
6. remove ``.previous``, fsync of the folder

A copy and not a hard link, since not every file system of an enclave has links. What
lies in the files is sealed; what they are worth is for ``open_keyring`` to judge.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeAlias

from tightseal.errors import Code, KeyReleaseError, ServiceError, TightsealError
from tightseal.keys.keyring.sealed import MAX_KEYRING_BYTES, decode_keyring
from tightseal.keys.keyring.system import OPERATING_SYSTEM, FileSystem

__all__ = ["Basis", "KeyringFile", "Loaded", "Saved", "Source", "Verify"]

Verify: TypeAlias = Callable[[bytes], None]
"""Opens what was read back; raises where it does not open or is not what was meant."""

_READ_BYTES: Final = 1 << 20
_REPLACE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY

_PROCESS_LOCKS: dict[str, threading.Lock] = {}
_PROCESS_LOCKS_LOCK: Final = threading.Lock()


def _process_lock(path: str) -> threading.Lock:
    """POSIX locks exclude processes, not threads: closing one drops all of ours."""
    with _PROCESS_LOCKS_LOCK:
        return _PROCESS_LOCKS.setdefault(path, threading.Lock())


class Source(StrEnum):
    """Which file was loaded."""

    CURRENT = "current"
    PREVIOUS = "previous"
    NEXT = "next"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file as it was read.

    Attributes:
        data: its bytes.
        digest: SHA-256 of them: how ``save`` knows that nobody wrote since.
        source: which file it was.
        passed_over: why the newer file was not taken; empty where this is it.
    """

    data: bytes = field(repr=False)
    digest: bytes
    source: Source = Source.CURRENT
    passed_over: str = ""


@dataclass(frozen=True, slots=True)
class Saved:
    """A file as it was written and read back.

    Attributes:
        digest: SHA-256 of its bytes.
        leftover: why ``.previous`` could not be removed; empty where it is gone. The
            next save removes it.
    """

    digest: bytes
    leftover: str = ""

    @property
    def source(self) -> Source:
        """The file itself."""
        return Source.CURRENT


Basis: TypeAlias = Loaded | Saved
"""What a change was made from."""


class KeyringFile:
    """A keyring's file and what lies beside it.

    Every method raises ``ServiceError``: ``state_unavailable``, where the operating
    system fails; ``state_conflict``, where another writer holds the lock or has changed
    the file.

    Args:
        path: the file; its folder must exist.
        system: the operating system's calls.
    """

    def __init__(self, path: Path, *, system: FileSystem = OPERATING_SYSTEM) -> None:
        self._path = str(path.absolute())
        self._folder = str(path.absolute().parent)
        self._new = f"{self._path}.new"
        self._previous = f"{self._path}.previous"
        self._next = f"{self._path}.next"
        self._system = system

    def load(self, *, recover: bool = False, check: Verify | None = None) -> Loaded:
        """Read the file.

        Args:
            recover: take ``.previous`` where the file is missing or fails ``check``;
                ``Loaded`` says so. What only the newer one had is lost then.
            check: how to tell whether a file is good; with ``recover`` only. By
                default whether it has the form of a keyring.

        Raises:
            KeyReleaseError: ``keyring_missing``; ``keyring_malformed``, where it is
                too long; with ``recover``, where neither file is good, what is wrong
                with the newer one.
        """
        if not recover:
            return self._read_or_missing()
        verify = check or _check_form
        try:
            loaded = self._read_or_missing()
            verify(loaded.data)
        except TightsealError as newer:
            found = self._older(verify)
            if found is None:
                raise
            return Loaded(found, _digest(found), Source.PREVIOUS, str(newer))
        return loaded

    def create(self, data: bytes, verify: Verify) -> Saved:
        """Write the first version.

        Raises:
            KeyReleaseError: ``keyring_exists``, where there is a file, or a previous or
                next version of one; what ``verify`` raises, and then nothing is left.
        """
        with self._locked():
            for path in (self._path, self._previous, self._next):
                if self._read(path) is not None:
                    detail = f"{path} is there already"
                    raise KeyReleaseError(Code.KEYRING_EXISTS, detail)
            self._write(self._new, data)
            try:
                self._publish(data, verify)
            except Exception:
                with suppress(OSError):
                    self._system.unlink(self._path)
                    self._sync_folder()
                raise
        return Saved(_digest(data))

    def save(self, data: bytes, verify: Verify, *, replaces: Basis) -> Saved:
        """Write the next version; the one before stays until this one was opened.

        Args:
            data: the new bytes.
            verify: opens what was read back, as the next start will.
            replaces: what the change was made from, as it was loaded or saved.

        Raises:
            KeyReleaseError: ``keyring_missing``; what ``verify`` raises, and then the
                version before is in place.
            ServiceError: as of the class. After ``state_unavailable`` either version
                may be in place: load, and compare counters.
        """
        with self._locked():
            keep = self._replaced(replaces)
            if self._read(self._next) not in (None, data):
                # What lies under its key may have followed it already.
                detail = f"{self._next} waits: start the provider, which ends the"
                raise ServiceError(Code.STATE_CONFLICT, f"{detail} renewal of the key")
            self._write(self._new, data)
            if keep is not None:
                self._keep(keep)
            try:
                self._publish(data, verify)
            except Exception:
                self._put_back()
                raise
            return Saved(_digest(data), self._removed())

    def remove(self) -> None:
        """Remove every version, for good: another provider has the keyring.

        What was on disk is not erased from it.

        Raises:
            KeyReleaseError: ``keyring_missing``.
        """
        with self._locked():
            if self._read(self._path) is None:
                raise self._missing(self._read(self._previous))
            with self._failing("remove the keyring"):
                for path in (self._previous, self._next, self._path):
                    with suppress(FileNotFoundError):
                        self._system.unlink(path)
                self._sync_folder()

    def stage(self, data: bytes, verify: Verify, *, replaces: Basis) -> None:
        """Write a version beside the file, whole or not at all; the file stays.

        Args:
            data: its bytes.
            verify: opens what was read back.
            replaces: what it was made from, as it was loaded or saved.

        Raises:
            KeyReleaseError: ``keyring_exists``, where one waits already; what
                ``verify`` raises, and then none waits.
            ServiceError: as of the class. After ``state_unavailable`` it may be there.
        """
        with self._locked():
            self._replaced(replaces)
            if self._read(self._next) is not None:
                detail = f"{self._next} is there already: start the provider, which "
                raise KeyReleaseError(Code.KEYRING_EXISTS, f"{detail}ends the renewal")
            self._write(self._new, data)
            verify(data)
            with self._failing("put the next version beside it"):
                self._system.rename(self._new, self._next)
                self._sync_folder()
            self._check_same(self._next, data)

    def staged(self) -> Loaded | None:
        """The version that waits beside the file; ``None`` where none does.

        Raises:
            KeyReleaseError: ``keyring_malformed``, where it is too long.
        """
        data = self._read(self._next)
        return None if data is None else Loaded(data, _digest(data), Source.NEXT)

    def unstage(self) -> None:
        """Remove the version that waits, for good; nothing happens where none does."""
        with self._locked(), self._failing("remove the next version"):
            with suppress(FileNotFoundError):
                self._system.unlink(self._next)
            self._sync_folder()

    def _replaced(self, replaces: Basis) -> bytes | None:
        """What is to be kept as ``.previous``; ``None`` where it lies there already.

        Only a basis that was loaded from ``.previous`` may stand there: one left over
        must not let a writer through who knows nothing of the newer file.
        """
        recovered = replaces.source is Source.PREVIOUS
        path = self._previous if recovered else self._path
        found = self._read(path)
        if found is None and not recovered:
            raise self._missing(self._read(self._previous))
        if found is None or not hmac.compare_digest(_digest(found), replaces.digest):
            detail = f"{path}: another writer changed it; load it and try again"
            raise ServiceError(Code.STATE_CONFLICT, detail)
        return None if recovered else found

    def _keep(self, data: bytes) -> None:
        copy = f"{self._previous}.new"
        self._write(copy, data)
        with self._failing("keep the previous version"):
            self._system.rename(copy, self._previous)
            self._sync_folder()

    def _publish(self, data: bytes, verify: Verify) -> None:
        with self._failing("put the new version in place"):
            self._system.rename(self._new, self._path)
            self._sync_folder()
        self._check_same(self._path, data)
        verify(data)

    def _put_back(self) -> None:
        """The version before, where it can be had; a later load sees to the rest."""
        with suppress(OSError):
            self._system.rename(self._previous, self._path)
            self._sync_folder()

    def _removed(self) -> str:
        """The new version is safe, so a failure here is only worth a word."""
        try:
            self._system.unlink(self._previous)
            self._sync_folder()
        except OSError as e:
            return f"{self._previous}: {e.strerror or type(e).__name__}"
        return ""

    def _older(self, verify: Verify) -> bytes | None:
        found = self._read(self._previous)
        if found is not None:
            try:
                verify(found)
            except TightsealError:
                return None
        return found

    def _read_or_missing(self) -> Loaded:
        data = self._read(self._path)
        if data is None:
            raise self._missing(self._read(self._previous))
        return Loaded(data, _digest(data))

    def _missing(self, previous: bytes | None) -> KeyReleaseError:
        detail = f"{self._path}: no such file"
        if previous is not None:
            detail += f"; {self._previous} is there: recover from it"
        return KeyReleaseError(Code.KEYRING_MISSING, detail)

    def _check_same(self, path: str, data: bytes) -> None:
        if self._read(path) != data:
            detail = f"{path}: not what was written comes back"
            raise ServiceError(Code.STATE_UNAVAILABLE, detail)

    def _read(self, path: str) -> bytes | None:
        """The whole file, or ``None`` where there is none."""
        with self._failing(f"read {path}"):
            try:
                fd = self._system.open(path, os.O_RDONLY | os.O_NONBLOCK)
            except FileNotFoundError:
                return None
            with self._closing(fd):
                parts: list[bytes] = []
                size = 0
                while part := self._system.read(fd, _READ_BYTES):
                    parts.append(part)
                    size += len(part)
                    if size > MAX_KEYRING_BYTES:
                        detail = f"{path}: over {MAX_KEYRING_BYTES} bytes"
                        raise KeyReleaseError(Code.KEYRING_MALFORMED, detail)
                return b"".join(parts)

    def _write(self, path: str, data: bytes) -> None:
        """A file that nothing refers to yet: whole, on disk, and read back."""
        with self._failing(f"write {path}"):
            fd = self._system.open(path, _REPLACE)
            with self._closing(fd):
                rest = data
                while rest:
                    rest = rest[self._system.write(fd, rest) :]
                self._system.fsync(fd)
        self._check_same(path, data)

    def _sync_folder(self) -> None:
        fd = self._system.open(self._folder, _FOLDER)
        with self._closing(fd):
            self._system.fsync(fd)

    @contextmanager
    def _closing(self, fd: int) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with suppress(OSError):
                self._system.close(fd)
            raise
        self._system.close(fd)

    @contextmanager
    def _failing(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            why = e.strerror or type(e).__name__
            detail = f"{self._path}: cannot {doing}: {why}"
            raise ServiceError(Code.STATE_UNAVAILABLE, detail) from e

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Against other writers; the system drops it with the process."""
        busy = f"{self._path}: another writer has it; try again when it is done"
        lock = _process_lock(self._path)
        if not lock.acquire(blocking=False):
            raise ServiceError(Code.STATE_CONFLICT, busy)
        try:
            with self._failing("lock it"):
                fd = self._system.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT)
            try:
                self._take(fd, busy)
                yield
            finally:
                with suppress(OSError):
                    self._system.close(fd)
        finally:
            lock.release()

    def _take(self, fd: int, busy: str) -> None:
        with self._failing("lock it"):
            try:
                self._system.lock(fd)
            except BlockingIOError as e:
                raise ServiceError(Code.STATE_CONFLICT, busy) from e


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _check_form(data: bytes) -> None:
    decode_keyring(data)
