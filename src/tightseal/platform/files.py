# SPDX-License-Identifier: Apache-2.0
"""Whole reads and single writes of the pseudo-files that TEEs are spoken to through.

Pseudo-files react to each call: a second ``write`` is a second request, not the rest of
the first. So a write is one call that takes everything or fails, and a read goes on
until its end, within a bound. Retries happen only where repeating cannot do harm.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeAlias, TypeVar

from tightseal.errors import Code, PlatformError

__all__ = [
    "OS_FILES",
    "FileOps",
    "OsFiles",
    "Retry",
    "Sleep",
    "read_whole",
    "write_once",
]

Sleep: TypeAlias = Callable[[float], None]
"""Waits for that many seconds; handed in, so that tests do not wait."""

TRANSIENT: Final = frozenset({errno.EINTR, errno.EAGAIN, errno.EBUSY})
"""Errors after which the same step may be tried again."""

MAX_READ_CALLS: Final = 4096
"""Most ``read`` calls for one file: a file that trickles bytes ends here."""

_T = TypeVar("_T")


class FileOps(Protocol):
    """The file operations used; every one may raise ``OSError``."""

    def open(self, path: str, flags: int) -> int:
        """As ``os.open``."""
        ...

    def read(self, fd: int, length: int) -> bytes:
        """As ``os.read``: may return fewer bytes; empty at the end."""
        ...

    def write(self, fd: int, data: bytes) -> int:
        """As ``os.write``."""
        ...

    def close(self, fd: int) -> None:
        """As ``os.close``."""
        ...

    def mkdir(self, path: str) -> None:
        """As ``os.mkdir``."""
        ...

    def rmdir(self, path: str) -> None:
        """As ``os.rmdir``."""
        ...


class OsFiles:
    """The operating system's own."""

    def open(self, path: str, flags: int) -> int:
        """Open without handing the descriptor to children."""
        return os.open(path, flags | os.O_CLOEXEC)

    def read(self, fd: int, length: int) -> bytes:
        """Read; Python itself repeats this after a signal."""
        return os.read(fd, length)

    def write(self, fd: int, data: bytes) -> int:
        """Write; Python itself repeats this after a signal that came before it."""
        return os.write(fd, data)

    def close(self, fd: int) -> None:
        """Close."""
        os.close(fd)

    def mkdir(self, path: str) -> None:
        """Create a directory that only its owner may use."""
        Path(path).mkdir(0o700)

    def rmdir(self, path: str) -> None:
        """Remove a directory."""
        Path(path).rmdir()


OS_FILES: Final[FileOps] = OsFiles()


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how patiently a step is repeated.

    Attributes:
        attempts: tries in all.
        first_delay: seconds before the second try; doubles from there.
        max_delay: longest wait between two tries, in seconds.
    """

    attempts: int = 8
    first_delay: float = 0.05
    max_delay: float = 2.0

    def run(self, step: Callable[[], _T], *, sleep: Sleep) -> _T:
        """Repeat ``step`` while it fails with a transient error.

        Raises:
            OSError: the last error, transient or not.
        """
        delay = self.first_delay
        for _ in range(self.attempts - 1):
            try:
                return step()
            except OSError as e:
                if e.errno not in TRANSIENT:
                    raise
            sleep(delay)
            delay = min(delay * 2, self.max_delay)
        return step()


def read_whole(ops: FileOps, path: str, *, max_bytes: int) -> bytes:
    """Read a pseudo-file to its end.

    Raises:
        OSError: as the operations do; a caller may repeat the whole read.
        PlatformError: ``platform_failed``, where there are more than ``max_bytes``.
    """
    fd = ops.open(path, os.O_RDONLY)
    try:
        data = bytearray()
        for _ in range(MAX_READ_CALLS):
            part = ops.read(fd, max_bytes + 1 - len(data))
            if not part:
                return bytes(data)
            data += part
            if len(data) > max_bytes:
                break
    finally:
        ops.close(fd)
    detail = f"{path}: more than {max_bytes} bytes, or in more than {MAX_READ_CALLS}"
    raise PlatformError(Code.PLATFORM_FAILED, f"{detail} parts")


def write_once(ops: FileOps, path: str, data: bytes) -> None:
    """Write ``data`` in one call, or fail.

    Raises:
        OSError: as the operations do.
        PlatformError: ``platform_failed``, where the file took only a part.
    """
    fd = ops.open(path, os.O_WRONLY)
    try:
        taken = ops.write(fd, data)
    finally:
        ops.close(fd)
    if taken != len(data):
        detail = f"{path}: took {taken} of {len(data)} bytes"
        raise PlatformError(Code.PLATFORM_FAILED, detail)
