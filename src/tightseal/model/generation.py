# SPDX-License-Identifier: Apache-2.0
"""Generations: versions of the root, as requests name them and providers have them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

__all__ = [
    "MAX_GENERATION",
    "SIDECAR_GENERATIONS",
    "Generation",
    "GenerationName",
    "Generations",
]

MAX_GENERATION: Final = (1 << 32) - 1
"""Highest version of a root."""


class GenerationName(StrEnum):
    """Which version of the root, in words."""

    CURRENT = "current"
    """The one that new keys come from."""

    PREVIOUS = "previous"
    """The newest that was current before: for data that was not moved yet."""


Generation: TypeAlias = GenerationName | int
"""In words, or by number; a number stays the same root for ever."""


@dataclass(frozen=True, slots=True)
class Generations:
    """The versions of the root that a provider can derive from.

    Attributes:
        current: new keys come from it.
        previous: the one before; ``None`` where there is none, or it was destroyed.
        open: every version that can be derived from, these two among them.
    """

    current: int
    previous: int | None
    open: frozenset[int]

    def number(self, asked: Generation) -> int | None:
        """The number of what was asked for; ``None`` where it cannot be had."""
        if asked is GenerationName.CURRENT:
            return self.current
        if asked is GenerationName.PREVIOUS:
            return self.previous
        return asked if asked in self.open else None

    def __str__(self) -> str:
        """For traces."""
        others = len(self.open) - 1
        return f"current {self.current}" + (f", {others} older" if others else "")


SIDECAR_GENERATIONS: Final = Generations(0, None, frozenset({0}))
"""A platform's own sealing key is one root for ever, by the number 0."""
