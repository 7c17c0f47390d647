# SPDX-License-Identifier: Apache-2.0
"""The lines of the demonstration: each is an expectation that held, or did not."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from rich.console import Console
from rich.markup import escape

from tightseal.errors import Code, TightsealError
from tightseal.guest.response import ReleasedKeys
from tightseal.model.keypath import KeyRequest
from tightseal.model.ports import EvidenceSource
from tightseal_sim.scene import Provider, Scene

__all__ = ["Line", "Report", "fetch", "fingerprint"]

DISK = KeyRequest("disk")


@dataclass(frozen=True, slots=True)
class Line:
    """One expectation, and how it went."""

    text: str
    got: str
    held: bool


class Report:
    """Prints lines as they come, and remembers whether all held."""

    def __init__(self, *, as_json: bool) -> None:
        self.lines: list[Line] = []
        self._as_json = as_json
        self.console = Console(stderr=as_json, highlight=False, soft_wrap=True)

    def heading(self, text: str) -> None:
        """A part of the demonstration begins."""
        self.console.print(f"\n[bold]{escape(text)}[/bold]")

    def say(self, text: str, got: str = "", *, held: bool = True) -> None:
        """One line: what happened, what came out, and whether it was expected."""
        self.lines.append(Line(text, got, held))
        mark = "[green]ok[/green]" if held else "[bold red]NO[/bold red]"
        self.console.print(f"  {mark}  {escape(text):<58} [cyan]{escape(got)}[/cyan]")

    def refused(self, text: str, code: Code, attempt: Callable[[], object]) -> None:
        """An attempt that must end with exactly this code."""
        try:
            attempt()
        except TightsealError as error:
            got = getattr(error, "refusal", None) or error.code
            self.say(text, f"refused: {got}", held=str(got) == code.value)
        else:
            self.say(text, "NOT refused", held=False)

    def finish(self) -> int:
        """Print the result; 0 where every expectation held."""
        held = all(line.held for line in self.lines)
        if self._as_json:
            rows = [
                {"text": line.text, "got": line.got, "held": line.held}
                for line in self.lines
            ]
            json.dump({"held": held, "lines": rows}, sys.stdout, indent=1)
            print()  # noqa: T201
        count = len(self.lines)
        self.console.print(
            f"\n[bold green]All {count} expectations held.[/bold green]\n"
            if held
            else "\n[bold red]Not every expectation held.[/bold red]\n"
        )
        return 0 if held else 1


def fingerprint(keys: ReleasedKeys) -> str:
    """A short name for a key that does not give it away."""
    key = keys.get("disk").reveal()
    return "key " + hashlib.sha256(b"demo fingerprint" + key).hexdigest()[:16]


def fetch(
    stage: Scene,
    provider: Provider,
    source: EvidenceSource,
    transport: httpx.BaseTransport | None = None,
) -> ReleasedKeys:
    """Let a workload fetch its key, over the network."""
    with stage.client(provider, source, transport=transport) as client:
        return client.keys(DISK)
