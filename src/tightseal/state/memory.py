# SPDX-License-Identifier: Apache-2.0
"""An engine in memory, gone with the process: for tests and for trying things out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from tightseal.errors import Code, ServiceError
from tightseal.state.rows import (
    SCHEMA,
    Changes,
    Fetched,
    HeadRow,
    Row,
    View,
    Wanted,
    Writer,
)

__all__ = ["MemoryEngine", "Tables"]


@dataclass(slots=True)
class Tables:
    """What the other engines keep in tables; also one view of it."""

    head: HeadRow | None = None
    record: dict[tuple[str, bytes], Row] = field(default_factory=dict)
    node: dict[tuple[str, bytes], bytes] = field(default_factory=dict)

    def copy(self) -> Tables:
        """The same rows in tables of their own."""
        return Tables(self.head, dict(self.record), dict(self.node))

    def fetch(self, wanted: Wanted) -> Fetched:
        """As of ``View``."""
        return Fetched(
            head=self.head,
            records={k: self.record[k] for k in wanted.records if k in self.record},
            nodes={k: self.node[k] for k in wanted.nodes if k in self.node},
        )

    def records(self, kind: str | None = None) -> Iterator[Row]:
        """As of ``View``."""
        for key in sorted(self.record):
            if kind is None or key[0] == kind:
                yield self.record[key]

    def nodes(self) -> Iterator[tuple[str, bytes, bytes]]:
        """As of ``View``."""
        for kind, prefix in sorted(self.node):
            yield kind, prefix, self.node[kind, prefix]

    def expired(self, *, now: int, limit: int) -> list[tuple[str, bytes]]:
        """As of ``View``."""
        due = [
            key
            for key, row in sorted(self.record.items())
            if row.expires_at is not None and row.expires_at <= now
        ]
        return due[:limit]

    def apply(self, changes: Changes) -> None:
        """As of ``Writer``."""
        self.head = changes.head
        for key, row in changes.records.items():
            if row is None:
                self.record.pop(key, None)
            else:
                self.record[key] = row
        for key, body in changes.nodes.items():
            if body is None:
                self.node.pop(key, None)
            else:
                self.node[key] = body


class MemoryEngine:
    """Implements ``Engine`` over dictionaries; several stores may share one."""

    name = "memory"

    def __init__(self) -> None:
        self.tables = Tables()
        self._prepared = False
        self._lock = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[View]:
        """As of ``Engine``."""
        with self._lock:
            view = self.tables.copy()
        yield view

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """As of ``Engine``."""
        with self._lock:
            draft = self.tables.copy()
            yield draft
            self.tables = draft

    def rewrite(self) -> AbstractContextManager[Writer]:
        """As of ``Engine``."""
        return self.write()

    def others(self) -> int:
        """As of ``Engine``; a process does not see its own threads."""
        return 0

    def prepare(self, changes: Changes) -> None:
        """As of ``Engine``."""
        with self._lock:
            if self._prepared:
                raise ServiceError(Code.STATE_EXISTS, "memory: there is state already")
            self._prepared = True
            self.tables = Tables()
            self.tables.apply(changes)

    def schema(self) -> int:
        """As of ``Engine``."""
        return SCHEMA if self._prepared else 0

    def migrate(self, rewrite: Callable[[HeadRow], HeadRow]) -> tuple[str, ...]:
        """As of ``Engine``; tables in memory are never old."""
        del rewrite
        return ()

    def close(self) -> None:
        """As of ``Engine``."""
