# SPDX-License-Identifier: Apache-2.0
"""Where secrets lie in this process: pages apart from all others.

    locked        not written to swap                      ``MAP_LOCKED``
    undumped      left out of core dumps                   ``MADV_DONTDUMP``
    blank         zeros in a child that ``fork`` made      ``MADV_WIPEONFORK``
    wiped         overwritten when their owner is gone

What a system refuses of this is named by :func:`refused`, and the rest holds. This is
about the copy that a holder keeps. Whoever computes with a key copies it out, to
memory like any other; that is what switching core dumps off and locking the whole
process are for (``tightseal.service.hardening``).
"""

from __future__ import annotations

import mmap
import os
from typing import Final

__all__ = ["CELL_BYTES", "Arena", "arena", "refused"]

CELL_BYTES: Final = 64
"""What most keys fit in; cells of this size share pages."""

CHUNK_BYTES: Final = 16 * 1024
"""Pages that are taken together: 256 cells, and few of what one may lock."""

MAP_LOCKED: Final = 0x2000
"""From ``asm-generic/mman.h``; without it at first, there is nothing to undo."""
MADV_DONTDUMP: Final = 16
MADV_WIPEONFORK: Final = 18
"""From ``asm-generic/mman-common.h``."""

_ADVICE: Final = {"MADV_DONTDUMP": MADV_DONTDUMP, "MADV_WIPEONFORK": MADV_WIPEONFORK}
_PRIVATE: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_ZEROS: Final = bytes(CELL_BYTES)


class Arena:
    """Cells of memory for secrets. Safe for threads and for finalizers.

    There is no lock in it: a finalizer may run in the middle of any call, and would
    wait for itself. What is shared is a list, whose ``pop`` and ``append`` are whole.

    Attributes:
        lost: a child of ``fork`` has these cells from its parent, blank or not.
        refused: each protection that the system refused, and why.
    """

    __slots__ = ("_free", "lost", "refused")

    def __init__(self) -> None:
        self.lost = False
        self.refused: dict[str, str] = {}
        self._free: list[memoryview] = []

    def take(self, size: int) -> memoryview:
        """Blank memory of at least ``size`` bytes, for :meth:`give_back`."""
        if size > CELL_BYTES:
            return self._pages(size)
        while True:
            try:
                return self._free.pop()
            except IndexError:
                chunk = self._pages(CHUNK_BYTES)
                self._free.extend(
                    chunk[start : start + CELL_BYTES]
                    for start in range(0, CHUNK_BYTES, CELL_BYTES)
                )

    def give_back(self, cell: memoryview) -> None:
        """Overwrite a cell; the next secret may have it."""
        if len(cell) == CELL_BYTES:
            cell[:] = _ZEROS
            self._free.append(cell)
        else:
            cell[:] = bytes(len(cell))

    def _pages(self, size: int) -> memoryview:
        try:
            pages = mmap.mmap(-1, size, flags=_PRIVATE | MAP_LOCKED)
        except OSError as e:
            self.refused["MAP_LOCKED"] = e.strerror or str(e)
            pages = mmap.mmap(-1, size, flags=_PRIVATE)
        for name, advice in _ADVICE.items():
            try:
                pages.madvise(advice)
            except OSError as e:
                self.refused[name] = e.strerror or str(e)
        return memoryview(pages)


class _Here:
    """The arena of this process."""

    arena = Arena()


def arena() -> Arena:
    """The arena that new secrets are put into."""
    return _Here.arena


def refused() -> dict[str, str]:
    """What the system refuses to protect secrets with, and why."""
    here = _Here.arena
    # Before the first secret nothing was asked for yet.
    here.give_back(here.take(CELL_BYTES))
    return dict(here.refused)


def _lose() -> None:
    _Here.arena.lost = True
    _Here.arena = Arena()


os.register_at_fork(after_in_child=_lose)
