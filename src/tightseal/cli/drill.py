# SPDX-License-Identifier: Apache-2.0
"""``tightseal drill``: what hardware and hosts do to keys, tried in a simulated world.

The drills belong to the simulated world, which is found as the platforms find it: by
its entry point, and never by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Annotated, Any, Protocol, cast

from cyclopts import Parameter

from tightseal.cli import ui
from tightseal.errors import Code, SettingsError
from tightseal.platform.door import ENTRY_POINT_GROUP

__all__ = ["drill"]


class _Row(Protocol):
    @property
    def as_expected(self) -> bool: ...


class _Drills(Protocol):
    """What the simulated world offers."""

    def run(self, *, only: str, progress: Callable[[str], None]) -> Sequence[_Row]: ...

    def text(self, rows: Sequence[_Row]) -> str: ...

    def markdown(self, rows: Sequence[_Row]) -> str: ...

    def as_json(self, rows: Sequence[_Row]) -> Mapping[str, Any]: ...


def drill(
    *,
    only: Annotated[str, Parameter("--only")] = "",
    as_json: Annotated[bool, Parameter("--json")] = False,
    as_markdown: Annotated[bool, Parameter("--markdown")] = False,
) -> int:
    """Try what hardware and hosts do to keys: 0 all as expected, 1 something is not.

    Runs the product's own code on simulated hardware; touches no provider, key or file.

    Args:
        only: Run the events whose name has this text, such as microcode.
        as_json: One JSON document on stdout.
        as_markdown: The table of the documentation on stdout.
    """
    drills = _drills()
    rows = drills.run(only=only, progress=_progress)
    odd = sum(not row.as_expected for row in rows)
    if as_json:
        ui.print_json(drills.as_json(rows))
    elif as_markdown:
        sys.stdout.write(drills.markdown(rows))
    else:
        word, tone = ("not as expected", "no") if odd else ("as expected", "yes")
        ui.verdict(word, f"{len(rows) - odd} of {len(rows)} drills", tone=tone)
        sys.stdout.write(drills.text(rows))
    return ui.EXIT_NO if odd else ui.EXIT_YES


def _progress(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _drills() -> _Drills:
    found = tuple(entry_points(group=ENTRY_POINT_GROUP, name="sim"))
    if len(found) != 1:
        detail = f"drills: {len(found)} simulated worlds installed, expected 1"
        raise SettingsError(Code.SETTINGS_INVALID, f"{detail} (tightseal[sim])")
    world = found[0].module.partition(".")[0]
    return cast("_Drills", import_module(f"{world}.drill"))
