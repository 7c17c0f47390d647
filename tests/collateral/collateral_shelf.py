# SPDX-License-Identifier: Apache-2.0
"""A service that gives parts from a shelf, and what asks it."""

import threading
from collections.abc import Callable

from collateral_support import Recorded

from tightseal.collateral.parts import Part, PartName, make_part, split
from tightseal.collateral.pccs import check_fresh
from tightseal.collateral.source import CachedSource
from tightseal.errors import Code, CollateralError


class Shelf:
    """Fetches parts from a shelf; counts, and fails on demand."""

    def __init__(self, *worlds: Recorded) -> None:
        self.parts: dict[PartName, Part] = {}
        self.asked: list[PartName] = []
        self.down = False
        self.gate: threading.Event | None = None
        for world in worlds:
            self.stock(world)

    def stock(self, world: Recorded) -> None:
        self.parts |= {part.name: part for part in split(world.collateral_)}

    def fetch(
        self,
        name: PartName,
        *,
        now: int,
        accept: Callable[[Part], None],
        until: float | None = None,
    ) -> Part:
        del until
        self.asked.append(name)
        if self.gate is not None:
            self.gate.wait(10)
        if self.down:
            raise CollateralError(Code.COLLATERAL_UNAVAILABLE, "down")
        part = self.parts.get(name)
        if part is None:
            raise CollateralError(Code.COLLATERAL_NOT_FOUND, "unknown")
        # A new object, as from the network.
        fresh = make_part(
            name, bytes(part.body), signature=part.signature, chain=part.chain
        )
        check_fresh(fresh, now)
        accept(fresh)
        return fresh


def ask(source: CachedSource, world: Recorded, now: int | None = None) -> object:
    return source.intel(
        fmspc=world.fmspc,
        ca=world.ca,
        tee=world.tee,
        now=world.now if now is None else now,
    )
