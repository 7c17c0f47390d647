# SPDX-License-Identifier: Apache-2.0
"""The hashes of a tree out of the journal's rows, for proofs made long after a commit.

Nothing is checked: rows and roots of tiles lie with the host. Whoever makes a proof
from here verifies it against a root that was signed inside the TEE.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final, Protocol

from tightseal.audit.merkle import leaf_hash
from tightseal.audit.tiles import TILE_LEVELS, TILE_WIDTH, full_tile_root
from tightseal.errors import Code, ServiceError

__all__ = ["JournalNodes", "NodeCache", "NodeSource"]

CACHED_NODES: Final = 4096
"""Most hashes of subtrees over whole tiles that are kept; each is 32 bytes."""


class NodeSource(Protocol):
    """The journal, as far as proofs need it."""

    def leaves(self, start: int, end: int) -> list[bytes]:
        """The log's entries from leaf ``start`` up to, and without, leaf ``end``."""
        ...

    def tile_roots(self, start: int, end: int) -> list[bytes]:
        """The roots of full tiles of level 0, from one up to, and without, another."""
        ...


class NodeCache:
    """Hashes over whole tiles, which no longer change as the log grows. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def get(self, node: tuple[int, int]) -> bytes | None:
        """A hash that was kept."""
        with self._lock:
            return self._found.get(node)

    def keep(self, node: tuple[int, int], value: bytes) -> None:
        """Keep a hash; the oldest one goes."""
        with self._lock:
            self._found[node] = value
            if len(self._found) > CACHED_NODES:
                self._found.popitem(last=False)

    def clear(self) -> None:
        """Forget every hash."""
        with self._lock:
            self._found.clear()


class JournalNodes:
    """The tree of the journal's first ``size`` entries: a ``merkle.Node``.

    Safe for threads.

    Args:
        source: the journal.
        size: of the tree.
        cache: over whole tiles; may be shared by trees of one log.
    """

    def __init__(self, source: NodeSource, size: int, cache: NodeCache) -> None:
        self._source = source
        self._size = size
        self._cache = cache
        self._lock = threading.Lock()
        self._rows: dict[int, list[bytes]] = {}
        self._below: dict[tuple[int, int], bytes] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """The hash of a full subtree.

        Raises:
            ServiceError: ``log_tampered``, where rows are missing; ``journal_failed``.
        """
        if level >= TILE_LEVELS:
            return self._above_tiles(level, index)
        with self._lock:
            node = level, index
            if node not in self._below:
                self._below[node] = self._within_tile(level, index)
            return self._below[node]

    def forget(self) -> None:
        """Read everything anew: a row that was wrong once must not stay so."""
        with self._lock:
            self._rows.clear()
            self._below.clear()
        self._cache.clear()

    def _above_tiles(self, level: int, index: int) -> bytes:
        value = self._cache.get((level, index))
        if value is None:
            count = 1 << level - TILE_LEVELS
            roots = self._source.tile_roots(index * count, (index + 1) * count)
            value = full_tile_root(roots)
            self._cache.keep((level, index), value)
        return value

    def _within_tile(self, level: int, index: int) -> bytes:
        place, at = divmod(index << level, TILE_WIDTH)
        if place not in self._rows:
            start = place * TILE_WIDTH
            entries = self._source.leaves(start, min(start + TILE_WIDTH, self._size))
            self._rows[place] = [leaf_hash(entry) for entry in entries]
        part = self._rows[place][at : at + (1 << level)]
        if len(part) != 1 << level:
            detail = f"no subtree {index} of level {level} in {self._size} entries"
            raise ServiceError(Code.LOG_TAMPERED, f"log: {detail}")
        return full_tile_root(part)
