# SPDX-License-Identifier: Apache-2.0
"""A disk in memory that loses what was not synced, under calls that fail or crash.

What a crash leaves: of every file what was synced, or any part of what was written
after that; of the folder the names as of its last sync, and a beginning of the changes
since. ``Disk.crashed`` gives every such disk.
"""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

FOLDER = "/folder"
PATH = f"{FOLDER}/keyring"


class CrashError(BaseException):
    """The process ended here; nothing after it runs, not even clean-up."""


@dataclass
class Node:
    """A file: what readers see, and what is on disk for certain."""

    seen: bytes = b""
    synced: bytes = b""

    def after_crash(self, torn: float) -> bytes:
        if self.seen == self.synced:
            return self.synced
        if torn == 0:
            return self.synced
        return self.seen[: int(len(self.seen) * torn)]


@dataclass
class Disk:
    """One folder."""

    nodes: dict[int, Node] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    synced: dict[str, int] = field(default_factory=dict)
    since: list[tuple[str, str, int]] = field(default_factory=list)
    made: int = 0

    def link(self, path: str, node: int) -> None:
        self.seen[path] = node
        self.since.append(("link", path, node))

    def unlink(self, path: str) -> int:
        if path not in self.seen:
            raise FileNotFoundError(errno.ENOENT, "No such file")
        node = self.seen.pop(path)
        self.since.append(("unlink", path, node))
        return node

    def rename(self, source: str, target: str) -> None:
        node = self.seen.pop(source, None)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "No such file")
        self.seen[target] = node
        self.since.append((f"rename {source}", target, node))

    def sync_folder(self) -> None:
        self.synced = dict(self.seen)
        self.since = []

    def content(self, path: str) -> bytes | None:
        return self.nodes[self.seen[path]].seen if path in self.seen else None

    def crashed(self) -> Iterator[Disk]:
        """Every disk that a crash may leave."""
        for steps in range(len(self.since) + 1):
            names = dict(self.synced)
            for kind, path, node in self.since[:steps]:
                if kind == "unlink":
                    names.pop(path, None)
                    continue
                if kind.startswith("rename "):
                    names.pop(kind.removeprefix("rename "), None)
                names[path] = node
            for torn in (0.0, 0.5, 1.0):
                nodes = {
                    at: Node(*[node.after_crash(torn)] * 2)
                    for at, node in self.nodes.items()
                }
                yield Disk(nodes, dict(names), dict(names), [], self.made)


class Fault(Enum):
    """What goes wrong at the chosen call."""

    FAILS = "fails without effect"
    FAILS_AFTER = "fails after its effect"
    CRASHES = "crashes before its effect"
    CRASHES_AFTER = "crashes after its effect"

    @property
    def late(self) -> bool:
        return self in (Fault.FAILS_AFTER, Fault.CRASHES_AFTER)


@dataclass
class FakeSystem:
    """Implements ``FileSystem`` over a disk; one call of them all goes wrong.

    Attributes:
        disk: what it works on.
        fault: what goes wrong, at the call ``at``, counted from 0.
        calls: the names of the calls so far.
    """

    disk: Disk = field(default_factory=Disk)
    fault: Fault | None = None
    at: int = -1
    calls: list[str] = field(default_factory=list)
    dead: bool = False
    handles: dict[int, tuple[int | None, int]] = field(default_factory=dict)
    corrupt: str = ""

    def copy(self) -> FakeSystem:
        """A fresh process on a copy of the disk."""
        return FakeSystem(copy.deepcopy(self.disk))

    def _hit(self, name: str, *, late: bool) -> None:
        if not late:
            if self.dead:
                raise CrashError
            self.calls.append(name)
        if self.fault is None or len(self.calls) - 1 != self.at:
            return
        if self.fault.late is not late:
            return
        if self.fault in (Fault.CRASHES, Fault.CRASHES_AFTER):
            self.dead = True
            raise CrashError
        raise OSError(errno.EIO, "Input/output error")

    def open(self, path: str, flags: int) -> int:
        self._hit(f"open {path}", late=False)
        fd = len(self.calls) + 100
        if path == FOLDER:
            self.handles[fd] = (None, 0)
            return self._done(fd, "open")
        if path not in self.disk.seen:
            if not flags & os.O_CREAT:
                self._hit("open", late=True)
                raise FileNotFoundError(errno.ENOENT, "No such file")
            self.disk.made += 1
            self.disk.nodes[self.disk.made] = Node()
            self.disk.link(path, self.disk.made)
        node = self.disk.seen[path]
        if flags & os.O_TRUNC:
            self.disk.nodes[node].seen = b""
        self.handles[fd] = (node, 0)
        return self._done(fd, "open")

    def _done(self, result: int, name: str) -> int:
        self._hit(name, late=True)
        return result

    def read(self, fd: int, length: int) -> bytes:
        self._hit("read", late=False)
        node, at = self.handles[fd]
        assert node is not None
        part = self.disk.nodes[node].seen[at : at + min(length, 600)]
        self.handles[fd] = (node, at + len(part))
        self._hit("read", late=True)
        if self.corrupt and self.disk.seen.get(self.corrupt) == node and part:
            return bytes([part[0] ^ 1]) + part[1:]
        return part

    def write(self, fd: int, data: bytes) -> int:
        self._hit("write", late=False)
        node, _ = self.handles[fd]
        assert node is not None
        part = data[:600]
        self.disk.nodes[node].seen += part
        self._hit("write", late=True)
        return len(part)

    def fsync(self, fd: int) -> None:
        self._hit("fsync", late=False)
        node, _ = self.handles[fd]
        if node is None:
            self.disk.sync_folder()
        else:
            self.disk.nodes[node].synced = self.disk.nodes[node].seen
        self._hit("fsync", late=True)

    def close(self, fd: int) -> None:
        self._hit("close", late=False)
        del self.handles[fd]
        self._hit("close", late=True)

    def rename(self, source: str, target: str) -> None:
        self._hit(f"rename {target}", late=False)
        self.disk.rename(source, target)
        self._hit("rename", late=True)

    def unlink(self, path: str) -> None:
        self._hit(f"unlink {path}", late=False)
        try:
            self.disk.unlink(path)
        finally:
            self._hit("unlink", late=True)

    def lock(self, fd: int) -> None:
        self._hit("lock", late=False)
        assert fd in self.handles
        self._hit("lock", late=True)
