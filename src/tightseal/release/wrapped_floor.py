# SPDX-License-Identifier: Apache-2.0
"""The lowest generation that keys may still be wrapped under.

Before a generation is destroyed, no provider that shares the store may wrap another
key under it, also one that has not seen the rotation. So every wrap is written together
with what it took the floor to be: where that rose meanwhile, the store refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code, RequestError, ServiceError
from tightseal.model.canonical import decode, encode
from tightseal.model.generation import MAX_GENERATION
from tightseal.model.state import Create, Expect, Replace, StateStore

__all__ = ["FLOOR_KIND", "Floor", "raise_floor", "read_floor"]

FLOOR_KIND: Final = "wrapped-floor"
_NAME: Final = "generation"
_MAX_ATTEMPTS: Final = 64
_LOST_RACE: Final = frozenset({Code.STATE_CONFLICT, Code.STATE_EXISTS})


@dataclass(frozen=True, slots=True)
class Floor:
    """The floor as it was read.

    Attributes:
        lowest: generation that keys may be wrapped under.
        version: of its record; ``None`` where there is none yet.
    """

    lowest: int
    version: int | None

    @property
    def expected(self) -> Expect:
        """What a batch that wraps must hold, so that it fails if the floor rose."""
        return Expect(FLOOR_KIND, _NAME, self.version)

    def require(self, generation: int) -> None:
        """Refuse to wrap under a generation below.

        Raises:
            ServiceError: ``provider_not_ready``.
        """
        if generation < self.lowest:
            detail = (
                f"keyring: its current generation is {generation}, and others that "
                f"share this state wrap under {self.lowest} or newer: load the newer "
                "keyring"
            )
            raise ServiceError(Code.PROVIDER_NOT_READY, detail)


def read_floor(store: StateStore, *, now: int) -> Floor:
    """The floor; 0 where none was ever set.

    Raises:
        ServiceError: ``state_tampered``; what else the store raises.
    """
    try:
        held = store.open(FLOOR_KIND, _NAME, now=now)
    except ServiceError as e:
        if e.code is not Code.STATE_MISSING:
            raise
        return Floor(0, None)
    try:
        lowest = decode(held.value)
    except RequestError as e:
        raise _tampered() from e
    if not isinstance(lowest, int) or isinstance(lowest, bool):
        raise _tampered()
    if not 0 <= lowest <= MAX_GENERATION:
        raise _tampered()
    return Floor(lowest, held.version)


def raise_floor(store: StateStore, lowest: int, *, now: int) -> None:
    """Raise the floor to a generation, if it is not there already; never lower it.

    Raises:
        ServiceError: ``overloaded``; what the store raises.
    """
    for _ in range(_MAX_ATTEMPTS):
        floor = read_floor(store, now=now)
        if floor.lowest >= lowest:
            return
        value = encode(lowest)
        change: Create | Replace = (
            Create(FLOOR_KIND, _NAME, value)
            if floor.version is None
            else Replace(FLOOR_KIND, _NAME, value, floor.version)
        )
        try:
            store.batch([change], now=now)
        except ServiceError as e:
            if e.code not in _LOST_RACE:
                raise
            continue
        return
    raise ServiceError(Code.OVERLOADED, "wrapped keys: the floor kept changing")


def _tampered() -> ServiceError:
    return ServiceError(Code.STATE_TAMPERED, "wrapped keys: the floor is malformed")
