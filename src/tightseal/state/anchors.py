# SPDX-License-Identifier: Apache-2.0
"""The two anchors that need nothing outside: none at all, and this process's memory."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from tightseal.model.state import AnchorClass, Head
from tightseal.state.faults import rolled_back

__all__ = ["RECENT_HEADS", "MemoryAnchor", "NoAnchor"]

RECENT_HEADS: Final = 64
"""How many heads an anchor in memory remembers of each store."""


class NoAnchor:
    """Implements ``Anchor`` by remembering nothing; ``freshness`` says so."""

    anchor_class = AnchorClass.NONE

    def latest(self, store_id: bytes) -> Head | None:
        """Always ``None``."""
        del store_id
        return None

    def adopt(self, head: Head) -> None:
        """Forgets the head."""
        del head

    def advance(self, head: Head, *, previous: bytes) -> None:
        """Forgets the head."""
        del head, previous


class MemoryAnchor:
    """Implements ``Anchor`` for stores that are opened several times in one process."""

    anchor_class = AnchorClass.PROCESS

    def __init__(self) -> None:
        self._heads: dict[bytes, deque[Head]] = {}
        self._lock = threading.Lock()

    def latest(self, store_id: bytes) -> Head | None:
        """The newest head taken; ``None`` for a store that it never saw."""
        with self._lock:
            taken = self._heads.get(store_id)
            return None if taken is None else taken[-1]

    def adopt(self, head: Head) -> None:
        """As of ``Anchor``."""
        with self._lock:
            taken = self._heads.setdefault(
                head.store_id, deque([head], maxlen=RECENT_HEADS)
            )
            if taken[-1] != head:
                raise rolled_back("the anchor knows another head of this store")

    def advance(self, head: Head, *, previous: bytes) -> None:
        """As of ``Anchor``."""
        with self._lock:
            taken = self._heads.get(head.store_id)
            if taken is None:
                raise rolled_back("the anchor never saw this store")
            if head in taken:
                return
            latest = taken[-1]
            if latest.digest != previous or head.counter <= latest.counter:
                detail = f"counter {head.counter} does not follow {latest.counter}"
                raise rolled_back(f"{detail}, which the anchor has")
            taken.append(head)
