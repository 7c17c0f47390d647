# SPDX-License-Identifier: Apache-2.0
"""A disk in memory that loses what was not synced, and a process that dies on it.

What a crash leaves: of every file what was synced, or any part of what was written
after that; of the folder the names as of its last sync, and a beginning of the changes
since. ``DrillDisk.crashed`` gives every such disk.
"""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

__all__ = ["KEYRING", "CrashError", "DrillDisk", "DrillSystem"]

FOLDER: Final = "/drill"
KEYRING: Final = Path(FOLDER) / "keyring"
TORN: Final = (0.0, 0.5, 1.0)
"""How much of what was not synced is there after a crash."""

WRITE_BYTES: Final = 1024
"""A write takes this much at most, so that a file is written in several steps."""


class CrashError(BaseException):
    """The process ended here; nothing after it runs, not even clean-up."""


@dataclass(frozen=True, slots=True)
class _Content:
    """A file: what readers see, and what is on disk for certain."""

    seen: bytes = b""
    synced: bytes = b""

    def after_crash(self, torn: float) -> _Content:
        if self.seen == self.synced or torn == 0:
            return _Content(self.synced, self.synced)
        left = self.seen[: int(len(self.seen) * torn)]
        return _Content(left, left)


@dataclass
class DrillDisk:
    """One folder: files by number, names as seen and as synced."""

    files: dict[int, _Content] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    synced: dict[str, int] = field(default_factory=dict)
    since: list[dict[str, int]] = field(default_factory=list)
    made: int = 0

    def copy(self) -> DrillDisk:
        """A copy of the whole disk: what somebody put aside."""
        return copy.deepcopy(self)

    def read(self, path: Path = KEYRING) -> bytes:
        """What is seen of a file."""
        return self.files[self.seen[str(path)]].seen

    def put(self, data: bytes, path: Path = KEYRING) -> None:
        """Write a file as the host would, safely."""
        self.made += 1
        self.files[self.made] = _Content(data, data)
        self.seen[str(path)] = self.synced[str(path)] = self.made

    def named(self, names: dict[str, int]) -> None:
        """The folder's next state; on disk for certain only when it is synced."""
        self.seen = names
        self.since.append(dict(names))

    def sync_folder(self) -> None:
        """What is seen of the folder is on disk from now on."""
        self.synced, self.since = dict(self.seen), []

    def crashed(self) -> Iterator[DrillDisk]:
        """Every disk that a crash may leave."""
        for names in (self.synced, *self.since):
            for torn in TORN:
                files = {at: file.after_crash(torn) for at, file in self.files.items()}
                yield DrillDisk(files, dict(names), dict(names), [], self.made)


@dataclass
class DrillSystem:
    """Implements ``FileSystem`` over a disk, for one process.

    Attributes:
        disk: what it works on.
        crash_at: the call that it dies in, counted from 0; never by default.
        late: whether it dies after the call took effect, not before.
        meanwhile: what others do before each call.
        calls: how many calls there were.
    """

    disk: DrillDisk
    crash_at: int = -1
    late: bool = False
    meanwhile: Callable[[int], None] | None = None
    calls: int = 0
    _handles: dict[int, tuple[int | None, int]] = field(default_factory=dict)

    def open(self, path: str, flags: int) -> int:
        """As of ``FileSystem``."""
        self._before()
        number: int | None = None
        if path != FOLDER:
            number = self._file(path, flags)
        fd = 100 + self.calls
        self._handles[fd] = (number, 0)
        self._after()
        return fd

    def read(self, fd: int, length: int) -> bytes:
        """As of ``FileSystem``."""
        self._before()
        number, at = self._handles[fd]
        assert number is not None
        part = self.disk.files[number].seen[at : at + length]
        self._handles[fd] = (number, at + len(part))
        self._after()
        return part

    def write(self, fd: int, data: bytes) -> int:
        """As of ``FileSystem``."""
        self._before()
        number, _ = self._handles[fd]
        assert number is not None
        file, part = self.disk.files[number], data[:WRITE_BYTES]
        self.disk.files[number] = replace(file, seen=file.seen + part)
        self._after()
        return len(part)

    def fsync(self, fd: int) -> None:
        """As of ``FileSystem``."""
        self._before()
        number, _ = self._handles[fd]
        if number is None:
            self.disk.sync_folder()
        else:
            file = self.disk.files[number]
            self.disk.files[number] = replace(file, synced=file.seen)
        self._after()

    def close(self, fd: int) -> None:
        """As of ``FileSystem``."""
        self._before()
        del self._handles[fd]
        self._after()

    def rename(self, source: str, target: str) -> None:
        """As of ``FileSystem``."""
        self._before()
        names = dict(self.disk.seen)
        names[target] = self._taken(names, source)
        self.disk.named(names)
        self._after()

    def unlink(self, path: str) -> None:
        """As of ``FileSystem``."""
        self._before()
        names = dict(self.disk.seen)
        self._taken(names, path)
        self.disk.named(names)
        self._after()

    def lock(self, fd: int) -> None:
        """As of ``FileSystem``; processes of a drill take turns."""
        self._before()
        assert fd in self._handles
        self._after()

    def _file(self, path: str, flags: int) -> int:
        disk = self.disk
        if path not in disk.seen:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, "No such file")
            disk.made += 1
            disk.files[disk.made] = _Content()
            disk.named({**disk.seen, path: disk.made})
        number = disk.seen[path]
        if flags & os.O_TRUNC:
            disk.files[number] = replace(disk.files[number], seen=b"")
        return number

    def _taken(self, names: dict[str, int], path: str) -> int:
        if path not in names:
            raise FileNotFoundError(errno.ENOENT, "No such file")
        return names.pop(path)

    def _before(self) -> None:
        number = self.calls
        self.calls += 1
        if self.meanwhile is not None:
            self.meanwhile(number)
        self._die(number, late=False)

    def _after(self) -> None:
        self._die(self.calls - 1, late=True)

    def _die(self, number: int, *, late: bool) -> None:
        # Whoever cleans up after the crash is dead too.
        if number > self.crash_at >= 0 or (
            number == self.crash_at and late is self.late
        ):
            raise CrashError
