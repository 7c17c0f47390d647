# SPDX-License-Identifier: Apache-2.0
"""What happens to the providers that slots have their keys from, and to the opt-ins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from tightseal_sim.drill_other import PEER_IMAGE, PEER_MACHINE
from tightseal_sim.drill_outcome import Event, Outcome, Verdict, restarted, tried
from tightseal_sim.drill_site import IMAGE, Setup
from tightseal_sim.drill_stage import Stage

__all__ = ["PROVIDER_EVENTS"]

RELEASE_2: Final = replace(IMAGE, code=b"release 2")
PEER_RELEASE_2: Final = replace(PEER_IMAGE, code=b"release 2")


def _down(setup: Setup) -> Outcome:
    """Nobody can make its slot anew meanwhile."""
    stage = Stage(setup)
    stage.site.others.reachable = False
    outcome, _ = tried(stage)
    return outcome


def _back(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site.others.reachable = False
    outcome, _ = tried(stage)
    if outcome.verdict is not Verdict.LOST:
        return Outcome(Verdict.LEAKED, "a slot opened without its provider")
    stage.site.others.reachable = True
    return restarted(stage)


def _rebuilt(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site.others.image = PEER_RELEASE_2
    outcome, _ = tried(stage)
    return outcome


def _rebuilt_with_pin(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site.others.image = stage.site.others.pinned = PEER_RELEASE_2
    return restarted(stage)


def _peer_microcode(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site.world.intel.platform(PEER_MACHINE).microcode_update()
    return restarted(stage)


def _named_before(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site.others.accepted = (IMAGE, RELEASE_2)
    stage.site.image = RELEASE_2
    return restarted(stage)


def _taken_back(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site.others.accepted = (RELEASE_2,)
    outcome, _ = tried(stage)
    return outcome


def _opt_in_withdrawn(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site.signer_allowed = False
    return restarted(stage)


def _rebuild_without_opt_in(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site.signer_allowed = False
    stage.site.image = RELEASE_2
    return restarted(stage)


PROVIDER_EVENTS: Final[Mapping[str, Event]] = MappingProxyType(
    {
        "rebuild, named in the peer's policy before": _named_before,
        "rebuild, same signer, opt-in withdrawn": _rebuild_without_opt_in,
        "opt-in for the signer withdrawn": _opt_in_withdrawn,
        "other provider down": _down,
        "other provider down and back": _back,
        "other provider rebuilt, pin as before": _rebuilt,
        "other provider rebuilt, pin changed with it": _rebuilt_with_pin,
        "other provider's microcode updated": _peer_microcode,
        "other provider's policy drops our image": _taken_back,
    }
)
"""Events by name."""
