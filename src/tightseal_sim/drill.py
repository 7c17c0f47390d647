# SPDX-License-Identifier: Apache-2.0
"""Drills: what hardware and hosts do to keys, tried on the product's own code.

    python -m tightseal_sim.drill docs/drills.md

runs them all and writes the table of the documentation; ``tightseal drill`` prints it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from structlog.testing import capture_logs

from tightseal.errors import Code, SettingsError, TightsealError
from tightseal_sim.drill_anchor import ANCHOR_EVENTS
from tightseal_sim.drill_crash import CRASH_EVENTS
from tightseal_sim.drill_expected import CELLS, Cell
from tightseal_sim.drill_files import FILE_EVENTS
from tightseal_sim.drill_handoff import HANDOFF_EVENTS
from tightseal_sim.drill_hardware import HARDWARE_EVENTS
from tightseal_sim.drill_outcome import Event
from tightseal_sim.drill_providers import PROVIDER_EVENTS
from tightseal_sim.drill_strangers import STRANGER_EVENTS

__all__ = [
    "BEGIN",
    "END",
    "EVENTS",
    "Row",
    "as_json",
    "markdown",
    "rewritten",
    "run",
    "run_cell",
    "text",
]

EVENTS: Final[Mapping[str, Event]] = MappingProxyType(
    {
        **CRASH_EVENTS,
        **HARDWARE_EVENTS,
        **PROVIDER_EVENTS,
        **HANDOFF_EVENTS,
        **FILE_EVENTS,
        **ANCHOR_EVENTS,
        **STRANGER_EVENTS,
    }
)
"""Every event, and what tries it."""

BEGIN: Final = "<!-- drills: tightseal drill --markdown -->"
END: Final = "<!-- end drills -->"
"""Where the table stands in the documentation."""

_COLUMNS: Final = ("event", "shape", "slots", "outcome", "expected outcome")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    Attributes:
        event, shape, slots: what was tried.
        outcome: what was found.
        expected: what has to be found.
        reason: why, in one sentence.
        next_step: for the operator, where something is lost.
    """

    event: str
    shape: str
    slots: str
    outcome: str
    expected: str
    reason: str
    next_step: str

    @property
    def as_expected(self) -> bool:
        """Whether both outcomes are the same."""
        return self.outcome == self.expected

    @property
    def cells(self) -> tuple[str, ...]:
        """The five columns that the table has everywhere."""
        return self.event, self.shape, self.slots, self.outcome, self.expected


def run(
    *, only: str = "", progress: Callable[[str], None] = lambda _: None
) -> tuple[Row, ...]:
    """Run drills.

    Args:
        only: run the events whose name has this text; all by default.
        progress: told what comes next.

    Raises:
        SettingsError: ``settings_invalid``, where no event has this name.
    """
    chosen = [cell for cell in CELLS if only in cell.event]
    if not chosen:
        detail = f"no drill named like {only!r}; there are: {', '.join(EVENTS)}"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    rows = []
    for number, cell in enumerate(chosen, 1):
        place = f"{cell.setup.shape_name} [{cell.setup.slots_name}]"
        progress(f"{number}/{len(chosen)} {cell.event}: {place}")
        rows.append(run_cell(cell))
    return tuple(rows)


def run_cell(cell: Cell) -> Row:
    """Try one event on one setup; what fails where it should not is the outcome."""
    with warnings.catch_warnings(), capture_logs():
        # AMD's VCEKs have serial number 0.
        warnings.filterwarnings("ignore", message="Parsed a serial number which wasn't")
        try:
            outcome = str(EVENTS[cell.event](cell.setup))
        except TightsealError as e:
            outcome = f"failed: {e.code.value}: {e.detail}"
    return Row(
        event=cell.event,
        shape=cell.setup.shape_name,
        slots=cell.setup.slots_name,
        outcome=outcome,
        expected=cell.expected,
        reason=cell.reason,
        next_step=cell.next_step,
    )


def text(rows: Sequence[Row]) -> str:
    """The table for a terminal; a row that is not as expected begins with ``!``."""
    lines = [_COLUMNS, *(row.cells for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(_COLUMNS))]
    marks = [" ", *(" " if row.as_expected else "!" for row in rows)]
    return "".join(
        f"{mark} {'  '.join(map(str.ljust, line, widths)).rstrip()}\n"
        for mark, line in zip(marks, lines, strict=True)
    )


def markdown(rows: Iterable[Row]) -> str:
    """The table for the documentation."""
    head = (*(name.capitalize() for name in _COLUMNS), "Why, and what to do")
    lines = [head, ("---",) * len(head)]
    lines += [(*row.cells, f"{row.reason} {row.next_step}".strip()) for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_json(rows: Iterable[Row]) -> dict[str, object]:
    """One document."""
    listed = [
        {
            "event": row.event,
            "shape": row.shape,
            "slots": row.slots,
            "outcome": row.outcome,
            "expected": row.expected,
            "as_expected": row.as_expected,
            "reason": row.reason,
            "next_step": row.next_step,
        }
        for row in rows
    ]
    return {"as_expected": all(row["as_expected"] for row in listed), "rows": listed}


def rewritten(document: str, table: str) -> str:
    """A document with this table in its place.

    Raises:
        ValueError: it has no such place.
    """
    before, begin, rest = document.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        message = f"no place for the table: {BEGIN} … {END}"
        raise ValueError(message)
    return f"{before}{begin}\n{table}\n{end}{after}"


def main(argv: Sequence[str]) -> int:
    """Run all drills and write the table; 1 where one is not as expected."""
    rows = run(progress=lambda line: print(line, file=sys.stderr))  # noqa: T201
    for name in argv:
        path = Path(name)
        path.write_text(rewritten(path.read_text(), markdown(rows)))
    odd = [row for row in rows if not row.as_expected]
    sys.stdout.write(text(odd or rows))
    return 1 if odd else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
