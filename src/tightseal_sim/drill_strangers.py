# SPDX-License-Identifier: Apache-2.0
"""Providers that are none of ours: a genuine twin, another world, production."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from tightseal.errors import TightsealError
from tightseal.keys.keyring import decode_keyring
from tightseal.keys.keyring.sealed import encode_keyring
from tightseal.model.claims import Vendor
from tightseal.state.memory import MemoryEngine
from tightseal_sim.drill_files import store_of
from tightseal_sim.drill_outcome import (
    Event,
    Outcome,
    Verdict,
    attack,
    refused,
)
from tightseal_sim.drill_site import Setup, Site
from tightseal_sim.drill_stage import NOW, Stage
from tightseal_sim.world import World

__all__ = ["STRANGER_EVENTS"]

TWIN_ROOT: Final = hashlib.sha256(b"tightseal_sim/v1/drill/twin").digest()
OTHER_SEED: Final = hashlib.sha256(b"tightseal_sim/v1/drill/other-world").digest()
KIND: Final = "drill"


def _twin(setup: Setup) -> Outcome:
    """The genuine provider on the same machine, under a root of the host's own."""
    stage = Stage(setup)
    return attack(stage, site=replace(stage.site, policy_root=TWIN_ROOT))


def _twin_rewrites(setup: Setup) -> Outcome:
    """The twin's host writes the twin's root into the header of our file."""
    stage = Stage(setup)
    sealed = decode_keyring(stage.disk.read())
    header = replace(sealed.header, policy_root=TWIN_ROOT)
    data = encode_keyring(replace(sealed, header=header))
    return attack(stage, site=replace(stage.site, policy_root=TWIN_ROOT), data=data)


def _twin_reads_state(setup: Setup) -> Outcome:
    """The twin is given our state store; keys it has of its own."""
    stage, engine = Stage(setup), MemoryEngine()
    ours = store_of(engine, stage.open(), new=True)
    ours.create(KIND, "record", b"counted", now=NOW)
    twin = Stage(setup, replace(stage.site, policy_root=TWIN_ROOT))
    try:
        store_of(engine, twin.open()).open(KIND, "record", now=NOW)
    except TightsealError as e:
        why = e.code.value
    else:
        return Outcome(Verdict.LEAKED)
    if store_of(engine, stage.open()).open(KIND, "record", now=NOW).value != b"counted":
        return Outcome(Verdict.LOST, "the record")
    return refused(stage, why)


def _other_world(setup: Setup) -> Outcome:
    """A simulated keyring is offered to a provider of another simulated world."""
    stage = Stage(setup)
    other = Site(setup.tee, world=World.in_memory(OTHER_SEED))
    return attack(stage, site=other)


@dataclass
class _ProductionSite(Site):
    """A provider that believes to stand on a vendor's hardware."""

    @property
    def trust_domain(self) -> str:
        """The vendor's."""
        return Vendor.INTEL.value


def _production(setup: Setup) -> Outcome:
    """A simulated keyring is offered to a provider on a vendor's hardware."""
    stage = Stage(setup)
    other = _ProductionSite(setup.tee, world=World.in_memory(OTHER_SEED))
    return attack(stage, site=other)


STRANGER_EVENTS: Final[Mapping[str, Event]] = MappingProxyType(
    {
        "genuine twin under its own policy root": _twin,
        "genuine twin, header rewritten to its root": _twin_rewrites,
        "genuine twin reads the state store": _twin_reads_state,
        "simulated keyring in another world": _other_world,
        "simulated keyring in production": _production,
    }
)
"""Events by name."""
