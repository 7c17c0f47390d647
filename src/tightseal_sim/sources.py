# SPDX-License-Identifier: Apache-2.0
"""Collateral straight from a simulated world, without a PCCS between."""

from __future__ import annotations

from typing import Final

from tightseal.errors import Code, CollateralError
from tightseal.model.claims import SnpTcb, Tee
from tightseal.model.collateral import IntelCollateral, SnpCertificates
from tightseal_sim.world import World

__all__ = ["WorldSource"]

MAX_KNOWN: Final = 256
"""Answers kept, so that one answer is one object."""


class WorldSource:
    """Implements ``CollateralSource`` over a world; SNP evidence brings its own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._known: dict[tuple[bytes, str, Tee, int], IntelCollateral] = {}

    def intel(self, *, fmspc: bytes, ca: str, tee: Tee, now: int) -> IntelCollateral:
        """The world's collateral as of ``now``; one object per answer."""
        key = (fmspc, ca, tee, now)
        if key not in self._known:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = self._world.intel.collateral(
                fmspc=fmspc, ca=ca, tee=tee, now=now
            )
        return self._known[key]

    def snp(
        self, *, product: str, chip_id: bytes, tcb: SnpTcb, vlek: bool, now: int
    ) -> SnpCertificates:
        """Refused: simulated reports carry their certificates with them."""
        del chip_id, tcb, vlek, now
        detail = f"no certificates in the simulated {product} report"
        raise CollateralError(Code.COLLATERAL_UNAVAILABLE, detail)
