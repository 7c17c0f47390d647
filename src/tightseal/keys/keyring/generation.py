# SPDX-License-Identifier: Apache-2.0
"""Generations: the roots, sealed, with their state and dates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from tightseal.keys.keyring import fields
from tightseal.keys.keyring.faults import malformed
from tightseal.keys.keyring.seal import SEALED_BYTES, open_sealed, seal
from tightseal.model.canonical import Value, labelled
from tightseal.model.labels import Label
from tightseal.model.secret import Secret

__all__ = [
    "MAX_GENERATIONS",
    "TRANSITIONS",
    "Generation",
    "GenerationState",
    "open_root",
    "seal_root",
]

MAX_GENERATIONS: Final = 10_000
"""Most generations that a keyring ever has: numbers are not used again."""


class GenerationState(StrEnum):
    """What a generation may be used for."""

    PRE_ACTIVE = "pre-active"
    """Made ahead of time; nothing is derived from it yet."""

    CURRENT = "current"
    """New keys come from it; exactly one."""

    RETIRED = "retired"
    """Still opens old data."""

    DESTROYED = "destroyed"
    """Its bytes are gone from the keyring."""


_PRE, _CURRENT, _RETIRED, _DESTROYED = GenerationState

TRANSITIONS: Final[Mapping[GenerationState, frozenset[GenerationState]]] = (
    MappingProxyType(
        {
            _PRE: frozenset({_CURRENT, _RETIRED, _DESTROYED}),
            _CURRENT: frozenset({_RETIRED}),
            _RETIRED: frozenset({_DESTROYED}),
            _DESTROYED: frozenset(),
        }
    )
)
"""Which state may follow which. The current one retires only by being followed."""

_NAMES: Final = frozenset(
    {
        "number",
        "state",
        "created_at",
        "activated_at",
        "retired_at",
        "destroyed_at",
        "sealed",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A root and its life. Construction checks that state, dates and bytes agree.

    Attributes:
        number: from 1, without gaps, never used again.
        state: what it may be used for.
        created_at, activated_at, retired_at, destroyed_at: Unix seconds, ``None``
            where it did not happen.
        sealed: the 32-byte root under the keyring key; ``None`` once destroyed.

    Raises:
        KeyReleaseError: ``keyring_malformed``, naming number and field.
    """

    number: int
    state: GenerationState
    created_at: int
    activated_at: int | None = None
    retired_at: int | None = None
    destroyed_at: int | None = None
    sealed: bytes | None = field(repr=False)

    def __post_init__(self) -> None:
        fields.whole(self.number, 1, MAX_GENERATIONS, "number of a generation")
        what = f"generation {self.number}"
        fields.instant(self.created_at, f"{what}: created_at")
        fields.maybe_instant(self.activated_at, f"{what}: activated_at")
        fields.maybe_instant(self.retired_at, f"{what}: retired_at")
        fields.maybe_instant(self.destroyed_at, f"{what}: destroyed_at")
        if self.sealed is not None:
            fields.octets(self.sealed, SEALED_BYTES, f"{what}: sealed")
        if not _agrees(self):
            raise malformed(f"{what}: dates or bytes do not fit {self.state.value}")
        dates = self._dates()
        if dates != sorted(dates):
            raise malformed(f"{what}: dates out of order")

    @property
    def last_change(self) -> int:
        """The latest of its dates."""
        return self._dates()[-1]

    @property
    def living(self) -> bool:
        """Whether its root is still there."""
        return self.sealed is not None

    def _dates(self) -> list[int]:
        all_dates = (
            self.created_at,
            self.activated_at,
            self.retired_at,
            self.destroyed_at,
        )
        return [date for date in all_dates if date is not None]

    def as_value(self) -> Value:
        """As it stands in the file."""
        return {
            "number": self.number,
            "state": self.state.value,
            "created_at": self.created_at,
            "activated_at": self.activated_at,
            "retired_at": self.retired_at,
            "destroyed_at": self.destroyed_at,
            "sealed": self.sealed,
        }

    @classmethod
    def from_value(cls, value: Value) -> Generation:
        """Read a generation.

        Raises:
            KeyReleaseError: ``keyring_malformed``.
        """
        found: dict[str, Any] = dict(fields.members(value, _NAMES, "generation"))
        try:
            state = GenerationState(found.pop("state"))
        except ValueError as e:
            raise malformed("generation: unknown state") from e
        # Construction judges the type of every field.
        return cls(state=state, **found)


def _agrees(generation: Generation) -> bool:
    """Whether each date and the bytes are there exactly where the state says so."""
    activated = generation.activated_at is not None
    retired = generation.retired_at is not None
    destroyed = generation.destroyed_at is not None
    if generation.living == destroyed:
        return False
    match generation.state:
        case GenerationState.PRE_ACTIVE:
            return not (activated or retired or destroyed)
        case GenerationState.CURRENT:
            return activated and not (retired or destroyed)
        case GenerationState.RETIRED:
            return retired and not destroyed
        case GenerationState.DESTROYED:
            # One that was in use retired first.
            return destroyed and (retired or not activated)


def seal_root(root: Secret, *, key: Secret, keyring_id: bytes, number: int) -> bytes:
    """Seal a root under the keyring key, for this keyring and number."""
    use = _use(keyring_id)
    return seal(root, under=key, use=use, data=_place(keyring_id, number))


def open_root(generation: Generation, *, key: Secret, keyring_id: bytes) -> Secret:
    """The root of a living generation; 32 bytes.

    Raises:
        KeyReleaseError: ``keyring_tampered``, where it does not open in this place.
    """
    assert generation.sealed is not None
    data = _place(keyring_id, generation.number)
    return open_sealed(generation.sealed, under=key, use=_use(keyring_id), data=data)


def _use(keyring_id: bytes) -> Value:
    return ["generation", keyring_id]


def _place(keyring_id: bytes, number: int) -> bytes:
    return labelled(Label.SEAL_GENERATION, [keyring_id, number])
