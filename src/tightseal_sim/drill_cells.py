# SPDX-License-Identifier: Apache-2.0
"""What rows of the drills are made of: outcomes, next steps, setups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tightseal.model.claims import Tee
from tightseal_sim.drill_site import Setup, Shape, Way

__all__ = ["Cell", "cells", "service"]

KEPT: Final = "kept"
ANEW: Final = "kept, slots made anew"
AGED: Final = "kept, re-wrapped"
OTHER: Final = "lost: another key"
CLOSED: Final = "lost: slot_unavailable"
REFUSED: Final = "refused: "

NEXT_SIDECAR: Final = (
    "Nothing brings them back: give every disk a second way in before, or use the "
    "service shape."
)
NEXT_SLOT: Final = (
    "Undo the change, or start where another slot opens; keep a working second slot."
)
NEXT_MICROCODE: Final = (
    "Bring the microcode forward again, or start where another slot opens."
)
NEXT_COPY: Final = "Put a copy of the keyring file back; keep one on another disk."
NEXT_MACHINE: Final = (
    "Keep a slot that is not this machine's: without one the copy opens nowhere."
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table before it was tried.

    Attributes:
        event: name of the event.
        setup: shape and slots.
        expected: the outcome.
        reason: in one sentence.
        next_step: for the operator, where something is lost.
    """

    event: str
    setup: Setup
    expected: str
    reason: str
    next_step: str = ""


def service(*ways: Way, tee: Tee = Tee.SGX) -> Setup:
    """A provider with a keyring of these slots."""
    return Setup(Shape.SERVICE, tee, ways)


_Line = tuple[Setup, str, str, str] | tuple[Setup, str, str]


def cells(event: str, *lines: _Line) -> tuple[Cell, ...]:
    """Rows of one event: setup, outcome, reason, and the next step if any."""
    return tuple(Cell(event, *line) for line in lines)
