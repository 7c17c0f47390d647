# SPDX-License-Identifier: Apache-2.0
"""Tiles as files in a folder, as a web server would serve them.

A file is written under another name, made durable and then renamed, so a crash leaves
the old one or the new one. Names that begin with a dot are left by a crash and are no
part of the log.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final

from tightseal.audit.tiles import MAX_BUNDLE_BYTES
from tightseal.errors import Code, ServiceError

__all__ = ["FileTileStore", "alone_in"]

_LOCK_NAME: Final = ".lock"
_HELD: Final[set[Path]] = set()
_CHANGED: Final = threading.Condition()

_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def alone_in(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold a folder against other processes that ask for it, and make it if missing.

    Args:
        folder: of tiles, or of a witness.
        wait: until another one is done; else that is an error.

    Raises:
        ServiceError: ``state_conflict``, where another one has it; ``journal_failed``.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = folder.resolve() / _LOCK_NAME
    except OSError as e:
        raise _failed(str(folder), e) from e
    with _alone_here(lock, wait=wait):
        try:
            fd = os.open(lock, flags, 0o600)
        except OSError as e:
            raise _failed(str(folder), e) from e
        try:
            _lock(fd, folder, wait=wait)
            yield
        finally:
            os.close(fd)


def _lock(fd: int, folder: Path, *, wait: bool) -> None:
    """A record lock: Gramine has them without further settings."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError) as e:
        # POSIX says one or the other where it is taken.
        raise _taken(folder) from e
    except OSError as e:
        raise _failed(str(folder), e) from e


@contextmanager
def _alone_here(lock: Path, *, wait: bool) -> Iterator[None]:
    """Record locks hold off other processes, and not the threads of this one."""
    with _CHANGED:
        if not wait and lock in _HELD:
            raise _taken(lock.parent)
        _CHANGED.wait_for(lambda: lock not in _HELD)
        _HELD.add(lock)
    try:
        yield
    finally:
        with _CHANGED:
            _HELD.discard(lock)
            _CHANGED.notify_all()


def _taken(folder: Path) -> ServiceError:
    detail = f"{folder}: somebody else uses it"
    return ServiceError(Code.STATE_CONFLICT, detail)


class FileTileStore:
    """A ``tiles.TileStore`` over one folder. For one writer at a time: ``alone_in``.

    Args:
        folder: is made where it is missing, once something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._touched: set[Path] = set()

    def __str__(self) -> str:
        return str(self._folder)

    def alone(self, *, wait: bool) -> AbstractContextManager[None]:
        """As of ``TileStore``."""
        return alone_in(self._folder, wait=wait)

    def read(self, path: str) -> bytes | None:
        """As of ``TileStore``."""
        try:
            fd = os.open(self._at(path), _READ)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            raise _failed(path, e) from e
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BUNDLE_BYTES:
                detail = f"{path}: no plain file of at most {MAX_BUNDLE_BYTES} bytes"
                raise ServiceError(Code.LOG_TAMPERED, detail)
            with os.fdopen(os.dup(fd), "rb") as file:
                return file.read(MAX_BUNDLE_BYTES)
        except OSError as e:
            raise _failed(path, e) from e
        finally:
            os.close(fd)

    def put(self, path: str, data: bytes) -> None:
        """As of ``TileStore``."""
        found = self.read(path)
        if found is None:
            self.write(path, data)
        elif found != data:
            detail = f"{self._at(path)} is there already, with other data"
            raise ServiceError(Code.LOG_TAMPERED, detail)
        else:
            # A crash may have come before its name was durable.
            self._touched.add(self._at(path).parent)

    def write(self, path: str, data: bytes) -> None:
        """As of ``TileStore``."""
        target = self._at(path)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        try:
            self._make(target.parent)
            fd = os.open(temporary, _WRITE, 0o644)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.rename(target)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
        except OSError as e:
            raise _failed(path, e) from e
        self._touched.add(target.parent)

    def flush(self) -> None:
        """As of ``TileStore``: a name is durable once its folder is."""
        touched, self._touched = self._touched, set()
        for folder in touched:
            try:
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            except OSError as e:
                raise _failed(str(folder), e) from e

    def remove(self, path: str) -> None:
        """As of ``TileStore``."""
        target = self._at(path)
        try:
            target.unlink(missing_ok=True)
            with suppress(OSError):
                target.parent.rmdir()
        except OSError as e:
            raise _failed(path, e) from e

    def paths(self, size: int) -> Iterator[str]:
        """As of ``TileStore``."""
        del size

        def refuse(error: OSError) -> None:
            raise _failed(str(self._folder), error) from error

        for folder, _, names in os.walk(self._folder, onerror=refuse):
            below = PurePosixPath(Path(folder).relative_to(self._folder).as_posix())
            yield from (str(below / name) for name in names if name[0] != ".")

    def _make(self, folder: Path) -> None:
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._touched.update(p.parent for p in missing)

    def _at(self, path: str) -> Path:
        parts = PurePosixPath(path).parts
        if not parts or any(part[0] in "./" for part in parts):
            raise ServiceError(Code.INTERNAL, f"no path of a log: {path!r}")
        return self._folder.joinpath(*parts)


def _failed(path: str, error: OSError) -> ServiceError:
    return ServiceError(Code.JOURNAL_FAILED, f"{path}: {error.strerror}")
