# SPDX-License-Identifier: Apache-2.0
"""Rows of a benchmark: ``name, value, unit, target, met``, for people or as JSON."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One figure. ``met`` is ``None`` where the figure has no target."""

    name: str
    value: float
    unit: str
    target: str = ""
    met: bool | None = None


def at_most(name: str, value: float, unit: str, limit: float) -> Row:
    """A figure that must not be larger than ``limit``."""
    return Row(name, round(value, 4), unit, f"<= {limit}", value <= limit)


def at_least(name: str, value: float, unit: str, limit: float) -> Row:
    """A figure that must not be smaller than ``limit``."""
    return Row(name, round(value, 4), unit, f">= {limit}", value >= limit)


def figure(name: str, value: float, unit: str) -> Row:
    """A figure that is only shown."""
    return Row(name, round(value, 4), unit)


def show(title: str, rows: Sequence[Row], *, as_json: bool) -> int:
    """Print the rows; the exit code is 1 where a target was not met."""
    if as_json:
        json.dump([asdict(row) for row in rows], sys.stdout, indent=1)
        print()
    else:
        table = Table(title=title)
        for column in ("name", "value", "unit", "target", "met"):
            table.add_column(column, justify="right" if column == "value" else "left")
        words = {None: "", True: "yes", False: "NO"}
        for row in rows:
            table.add_row(
                row.name, f"{row.value:g}", row.unit, row.target, words[row.met]
            )
        Console().print(table)
    return 1 if any(row.met is False for row in rows) else 0


def note(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def best_seconds(call: Callable[[], object], *, repeat: int, rounds: int = 5) -> float:
    """Seconds of one call: the best of ``rounds`` means over ``repeat`` calls."""
    best = float("inf")
    for _ in range(rounds):
        start = perf_counter()
        for _ in range(repeat):
            call()
        best = min(best, (perf_counter() - start) / repeat)
    return best
