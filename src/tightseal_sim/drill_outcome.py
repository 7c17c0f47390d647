# SPDX-License-Identifier: Apache-2.0
"""What an event did to keys, as it was found by trying."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tightseal.errors import TightsealError
from tightseal.model.keyring import KeyringAnchor
from tightseal.model.secret import Secret
from tightseal_sim.drill_disk import DrillDisk
from tightseal_sim.drill_site import Setup, Site
from tightseal_sim.drill_stage import Opened, Stage

__all__ = ["ANOTHER_KEY", "Event", "Outcome", "Verdict", "all_alike", "attack"]

ANOTHER_KEY: Final = "another key"


class Verdict(StrEnum):
    """What became of the keys."""

    KEPT = "kept"
    """Every key is derived again, byte for byte."""

    REWRAPPED = "kept, re-wrapped"
    """The same; the provider made aged slots anew by itself, and they open again."""

    ANEW = "kept, slots made anew"
    """The same; an operator made closed slots anew, and they open again."""

    OLDER = "older, unnoticed"
    """The provider starts without its newest generation, and does not know."""

    REFUSED = "refused"
    """An attempt failed by name, and the provider itself has its keys as before."""

    LOST = "lost"
    """With what is left the keys cannot be had."""

    LEAKED = "leaked"
    """Somebody else has the keys."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found.

    Attributes:
        verdict: in one word.
        why: the stable code of the error, or what is different.
    """

    verdict: Verdict
    why: str = ""

    def __str__(self) -> str:
        """As the table has it."""
        return f"{self.verdict}: {self.why}" if self.why else self.verdict.value


Event = Callable[[Setup], Outcome]
"""Builds a provider, does something to it, and looks at its keys."""


def found(keys: Mapping[int, Secret], before: Mapping[int, Secret]) -> Outcome:
    """Compare keys with those before, byte for byte."""
    same = all(before.get(number) == key for number, key in keys.items())
    if not same or not keys:
        return Outcome(Verdict.LOST, ANOTHER_KEY)
    gone = sorted(before.keys() - keys.keys())
    if gone:
        numbers = ", ".join(str(number) for number in gone)
        return Outcome(Verdict.OLDER, f"generation {numbers} is gone")
    return Outcome(Verdict.KEPT)


def tried(
    stage: Stage,
    *,
    site: Site | None = None,
    disk: DrillDisk | None = None,
    anchor: KeyringAnchor | None = None,
) -> tuple[Outcome, Opened | None]:
    """Start a provider, and say what it has of the keys."""
    try:
        opened = stage.open(site=site, disk=disk, anchor=anchor)
    except TightsealError as e:
        return Outcome(Verdict.LOST, e.code.value), None
    return found(opened.keys, stage.before), opened


def restarted(stage: Stage) -> Outcome:
    """Start the provider again; slots are made anew where that is due."""
    outcome, opened = tried(stage)
    if opened is None or outcome.verdict is not Verdict.KEPT or opened.keeper is None:
        return outcome
    renewed, mended = stage.renew(opened.keeper), stage.mend(opened.keeper)
    if not renewed and not mended:
        return outcome
    outcome, opened = tried(stage)
    if opened is None or outcome.verdict is not Verdict.KEPT:
        return outcome
    assert opened.keeper is not None
    found_again = opened.keeper.opened
    if found_again.closed or found_again.rewrap:
        why = found_again.rewrap or str(found_again.closed[0].slot)
        return Outcome(Verdict.KEPT, f"still closed or aged: {why}")
    return Outcome(Verdict.ANEW if mended else Verdict.REWRAPPED)


def attack(
    stage: Stage, *, site: Site | None = None, data: bytes | None = None
) -> Outcome:
    """Somebody starts a provider here or elsewhere, on this file or a changed one.

    Then the genuine one starts again, with its own file.
    """
    disk = stage.disk.copy()
    if data is not None:
        disk.put(data)
    outcome, _ = tried(stage, site=site, disk=disk)
    if outcome.verdict is not Verdict.LOST:
        return Outcome(Verdict.LEAKED)
    return refused(stage, outcome.why)


def refused(stage: Stage, why: str) -> Outcome:
    """``refused``, where the genuine provider has what it had."""
    after, _ = tried(stage)
    return after if after.verdict is not Verdict.KEPT else Outcome(Verdict.REFUSED, why)


def all_alike(outcomes: Iterable[Outcome]) -> Outcome:
    """The one outcome of several tries; where they differ, all of them."""
    distinct = sorted(set(outcomes), key=str)
    if len(distinct) == 1:
        return distinct[0]
    return Outcome(Verdict.LOST, " and ".join(f"({one})" for one in distinct))
