# SPDX-License-Identifier: Apache-2.0
"""Results of signature verification, reused by content.

What is kept depends on the content and the root key alone, never on time: validity
windows, revocation and the guard against going back are judged again on every call.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TypeAlias

__all__ = ["CacheKey", "ResultCache"]

CacheKey: TypeAlias = tuple[str, str, bytes]
"""Role, root key id, digest of the content: equal keys mean an equal verification."""


class ResultCache:
    """A bounded, thread-safe store of verified values; the least used goes first.

    Only results that verified are put, so whoever presents bad evidence cannot fill
    it. The lock guards the table alone and is never held while a signature is
    verified: two threads that miss at once both verify, and both get the same value.

    Args:
        max_entries: most values kept; at least 1.
    """

    __slots__ = ("_entries", "_lock", "_max_entries")

    def __init__(self, max_entries: int) -> None:
        if max_entries < 1:
            message = "a result cache keeps at least one entry"
            raise ValueError(message)
        self._max_entries = max_entries
        self._entries: OrderedDict[CacheKey, object] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: CacheKey) -> object | None:
        """The value kept under ``key``, or ``None``."""
        with self._lock:
            value = self._entries.get(key)
            if value is not None:
                self._entries.move_to_end(key)
            return value

    def put(self, key: CacheKey, value: object) -> None:
        """Keep ``value``, and drop the least recently used beyond the bound."""
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget every result."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)
