# SPDX-License-Identifier: Apache-2.0
"""The calls to the operating system that keep a keyring, as an interface."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final, Protocol

__all__ = ["OPERATING_SYSTEM", "FileSystem", "OperatingSystem"]

_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW


class FileSystem(Protocol):
    """Every call used. Each may raise ``OSError``, and the process may end in each."""

    def open(self, path: str, flags: int) -> int:
        """As ``os.open``; new files have mode 0600, links are not followed."""
        ...

    def read(self, fd: int, length: int) -> bytes:
        """As ``os.read``: may give less; empty at the end."""
        ...

    def write(self, fd: int, data: bytes) -> int:
        """As ``os.write``: may take less."""
        ...

    def fsync(self, fd: int) -> None:
        """As ``os.fsync``, for files and folders."""
        ...

    def close(self, fd: int) -> None:
        """As ``os.close``."""
        ...

    def rename(self, source: str, target: str) -> None:
        """As ``os.rename``: replaces ``target`` at once."""
        ...

    def unlink(self, path: str) -> None:
        """As ``os.unlink``."""
        ...

    def lock(self, fd: int) -> None:
        """Lock a file against other processes until it is closed or this one ends.

        Raises:
            BlockingIOError: another process has it.
        """
        ...


class OperatingSystem:
    """The calls themselves."""

    def open(self, path: str, flags: int) -> int:
        """As of ``FileSystem``."""
        return os.open(path, flags | _FLAGS, 0o600)

    def read(self, fd: int, length: int) -> bytes:
        """As of ``FileSystem``."""
        return os.read(fd, length)

    def write(self, fd: int, data: bytes) -> int:
        """As of ``FileSystem``."""
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        """As of ``FileSystem``."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """As of ``FileSystem``."""
        os.close(fd)

    def rename(self, source: str, target: str) -> None:
        """As of ``FileSystem``."""
        Path(source).rename(target)

    def unlink(self, path: str) -> None:
        """As of ``FileSystem``."""
        Path(path).unlink()

    def lock(self, fd: int) -> None:
        """A POSIX record lock: Gramine has them without further settings.

        POSIX says ``EACCES`` or ``EAGAIN`` where it is taken.
        """
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except PermissionError as e:
            raise BlockingIOError(e.errno, e.strerror) from e


OPERATING_SYSTEM: Final = OperatingSystem()
"""The one in use outside tests."""
