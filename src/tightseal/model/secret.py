# SPDX-License-Identifier: Apache-2.0
"""A holder for key bytes that keeps them out of logs, reprs and pickles."""

from __future__ import annotations

import hmac
from typing import NoReturn

from tightseal.model import memory

__all__ = ["Secret"]


class Secret:
    """Key bytes that do not show themselves.

    They lie apart from other memory: locked, left out of core dumps, blank in a forked
    child, as far as the system allows (:mod:`tightseal.model.memory`). They are
    overwritten by ``wipe``, and when nobody holds this object any more. Python cannot
    promise more: copies made by ``reveal``, by libraries, or by the interpreter stay
    until memory is reused.

    A secret does not cross a ``fork``: in the child it raises ``RuntimeError`` instead
    of passing for zeros. Processes that need one are started anew and told.
    """

    __slots__ = ("_arena", "_cell", "_data")

    def __init__(self, data: bytes | bytearray) -> None:
        self._arena = memory.arena()
        self._cell = self._arena.take(len(data))
        self._data = self._cell[: len(data)]
        self._data[:] = data

    def __del__(self) -> None:
        # A constructor that failed has left no cell.
        cell = getattr(self, "_cell", None)
        if cell is not None:
            self._arena.give_back(cell)

    def reveal(self) -> bytes:
        """The bytes themselves; name it where it is really needed."""
        return bytes(self._held())

    def wipe(self) -> None:
        """Overwrite this object's copy with zeros."""
        self._data[:] = bytes(len(self._data))

    def _held(self) -> memoryview:
        if self._arena.lost:
            message = "a secret does not cross a fork"
            raise RuntimeError(message)
        return self._data

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        """Compare in constant time, and only with another secret."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._held(), other._held())

    # A secret in a set or dictionary would be found by a hash that is not keyed.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<secret of {len(self._data)} bytes>"

    def __reduce__(self) -> NoReturn:
        message = "a secret does not leave the process"
        raise TypeError(message)
