# SPDX-License-Identifier: Apache-2.0
"""Every defect of the negative checklist, on demand and by name.

Rows 1 to 97 of the checklist of what a verifier must reject, the positive controls, and
further cases. Each says what our own verifier, dcap-qvl, and both together must answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tightseal_sim.defects.attributes import enclave_attributes, td_attributes
from tightseal_sim.defects.bench import Bench
from tightseal_sim.defects.case import Case, Expect
from tightseal_sim.defects.certificates import (
    chains,
    crls,
    pck_certificates,
    vendor_root,
)
from tightseal_sim.defects.collateral import (
    roles,
    rollback,
    signatures,
    types,
    windows,
)
from tightseal_sim.defects.controls import controls, statuses
from tightseal_sim.defects.levels import levels, malformed, modules, qe_content
from tightseal_sim.defects.quotes import flips, headers, signers, structure
from tightseal_sim.world import World

__all__ = ["CHECKLIST_ROWS", "Case", "Expect", "intel_cases"]

CHECKLIST_ROWS: Final = 97
"""Rows of the checklist; every one has at least one case."""

_GROUPS: Final[tuple[Callable[[Bench], Iterator[Case]], ...]] = (
    controls,
    statuses,
    headers,
    flips,
    structure,
    signers,
    windows,
    signatures,
    roles,
    types,
    rollback,
    levels,
    malformed,
    modules,
    qe_content,
    crls,
    pck_certificates,
    chains,
    td_attributes,
    enclave_attributes,
    vendor_root,
)

_DEFAULT_SEED: Final = b"tightseal_sim.defects".ljust(32, b"\0")


def intel_cases(now: int, *, world: World | None = None) -> list[Case]:
    """Every case as of ``now``.

    Args:
        now: Unix seconds, from 2021 to 2048, since the simulated certificates are valid
            from 2020 to 2049; evidence and collateral are made for this time.
        world: whose root the cases stand under; a fixed one by default. The world
            itself stays as it is: the cases are made in its pristine twin.
    """
    bench = Bench(world or World.in_memory(_DEFAULT_SEED), now)
    return [case for group in _GROUPS for case in group(bench)]
