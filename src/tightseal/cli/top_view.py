# SPDX-License-Identifier: Apache-2.0
"""How ``tightseal top`` looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tightseal.cli.top_numbers import (
    HALF,
    NEARLY_ALL,
    Numbers,
    merged,
    refusals_of,
    stages_of,
)
from tightseal.cli.top_sample import quantile
from tightseal.cli.ui import printable

__all__ = ["live", "print_once", "view"]

WIDE: Final = 160
"""Columns where stdout is no terminal: nothing is cut."""

MAX_REASONS: Final = 12
NONE: Final = "-"
DAY: Final = 86_400
SECOND: Final = 1.0
KILO: Final = 1000


@contextmanager
def live() -> Iterator[Callable[[Sequence[Numbers]], None]]:
    """The whole terminal, until the block ends."""
    console = Console(highlight=False, markup=False, emoji=False)
    with Live(console=console, screen=True, auto_refresh=False) as shown:
        yield lambda numbers: shown.update(view(numbers), refresh=True)


def print_once(numbers: Sequence[Numbers]) -> None:
    """The same once, on stdout."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=WIDE)
    console.print(view(numbers))


def view(numbers: Sequence[Numbers]) -> Group:
    """Providers, then what they refuse and where time goes, then what to mend."""
    parts: list[RenderableType] = [_providers(numbers)]
    if refusals := refusals_of(numbers):
        parts += [Text(), _refusals(refusals)]
    if stages := stages_of(numbers):
        parts += [Text(), _stages(stages, numbers)]
    if lines := list(_to_mend(numbers)):
        parts += [Text(), *lines]
    return Group(*parts)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _providers(numbers: Sequence[Numbers]) -> Table:
    table = _table(
        *("provider", "state", "releases/s", "requests/s", "p50", "p99", "waiting"),
        *("generation", "policy", "expires", "log", "journal", "commit"),
    )
    for one in numbers:
        latency = one.latency()
        waiting = sum(calls for calls, _ in one.queue().values())
        table.add_row(
            Text(printable(one.now.url)),
            _state(one),
            _rate(one.releases()),
            _rate(one.requests()),
            _seconds(quantile(HALF, latency)),
            _seconds(quantile(NEARLY_ALL, latency)),
            NONE if one.now.error else str(waiting),
            _whole(one.whole("tightseal_keyring_generation")),
            _whole(one.whole("tightseal_policy_version")),
            _left(one.whole("tightseal_policy_expires_seconds")),
            _whole(one.whole("tightseal_log_entries")),
            _bytes(one.whole("tightseal_journal_bytes")),
            _seconds(one.now.value("tightseal_journal_lag_seconds")),
        )
    return table


def _state(one: Numbers) -> Text:
    if one.now.error is not None:
        return Text("unreachable", "bold red")
    simulated = ", simulated" if one.now.value("tightseal_simulated") else ""
    if one.ready:
        return Text(f"ready{simulated}", "yellow" if simulated else "green")
    return Text(f"not ready{simulated}", "bold red")


def _refusals(refusals: dict[str, dict[str, float | None]]) -> Table:
    table = _table("refused", "a second", "since the start")
    for code, counts in list(refusals.items())[:MAX_REASONS]:
        total = counts["total"] or 0
        table.add_row(
            Text(printable(code)), _rate(counts["per_second"]), f"{total:.0f}"
        )
    return table


def _stages(
    stages: dict[str, dict[str, float | None]], numbers: Sequence[Numbers]
) -> Table:
    table = _table("stage", "p50", "p99")
    for stage, times in stages.items():
        name = Text(printable(stage))
        table.add_row(name, _seconds(times["p50"]), _seconds(times["p99"]))
    whole = merged(numbers)
    half, nearly = quantile(HALF, whole), quantile(NEARLY_ALL, whole)
    table.add_row("whole request", _seconds(half), _seconds(nearly))
    return table


def _to_mend(numbers: Sequence[Numbers]) -> Iterator[Text]:
    for one in numbers:
        url = one.now.url
        if one.now.error is not None:
            yield _line(url, "unreachable", one.now.error.detail, "bold red")
        for part in one.broken():
            text = f"{part.what or part.code or ''} {part.remedy or ''}"
            yield _line(url, part.name, text, "bold red")
        for note in one.notes():
            yield _line(url, note.name, f"{note.text} {note.remedy}", "bold yellow")


def _line(url: str, name: str, text: str, style: str) -> Text:
    return Text.assemble(
        f"{printable(url)}  ",
        (printable(name), style),
        f"  {printable(text)}",
        overflow="fold",
    )


def _rate(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"


def _whole(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def _seconds(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.2f} s" if value >= SECOND else f"{value * KILO:.1f} ms"


def _bytes(value: int | None) -> str:
    if value is None:
        return NONE
    size, units = float(value), ["B", "kB", "MB", "GB"]
    while size >= KILO and len(units) > 1:
        size /= KILO
        units.pop(0)
    return f"{size:.1f} {units[0]}"


def _left(expires_at: int | None) -> str:
    """Until then, by this machine's clock; a provider whose policy never expires: -."""
    if not expires_at:
        return NONE
    days = (expires_at - time.time()) / DAY
    return f"{days:.1f} d" if days > 0 else "expired"
