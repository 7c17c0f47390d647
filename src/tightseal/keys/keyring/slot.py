# SPDX-License-Identifier: Apache-2.0
"""Slots as they are stored: the keyring key, wrapped under a key from elsewhere."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tightseal.errors import RequestError
from tightseal.keys.keyring import fields
from tightseal.keys.keyring.faults import malformed
from tightseal.keys.keyring.header import class_of
from tightseal.keys.keyring.seal import SEALED_BYTES
from tightseal.model.canonical import Value, decode, encode, labelled
from tightseal.model.labels import Label
from tightseal.model.slots import FIRST_FACTORS, SlotClass

__all__ = [
    "MAX_FACTORS",
    "MAX_PARAMETERS_BYTES",
    "MAX_PARAMETERS_DEPTH",
    "MAX_SLOTS",
    "SLOT_ID_BYTES",
    "Slot",
    "is_sufficient",
]

MAX_SLOTS: Final = 64
"""Most slots of a keyring."""

MAX_FACTORS: Final = 4
"""Most factors of a slot."""

MAX_PARAMETERS_BYTES: Final = 64 * 1024
"""Longest encoding of a slot's parameters."""

MAX_PARAMETERS_DEPTH: Final = 4
"""Deepest nesting of maps and arrays in parameters, the outermost map counted."""

SLOT_ID_BYTES: Final = 16

_LABEL: Final = re.compile(r"[\x20-\x7e]{0,128}")
_NAMES: Final = frozenset(
    {"slot_id", "class", "label", "factors", "parameters", "wrapped"}
)
_ORDER: Final = tuple(SlotClass)


def is_sufficient(factors: tuple[SlotClass, ...]) -> bool:
    """Whether a first factor is among them."""
    return not FIRST_FACTORS.isdisjoint(factors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One independent way to open the keyring. Construction checks every field.

    Attributes:
        slot_id: 16 random bytes.
        label: for people; printable ASCII, may be empty.
        factors: the classes that make its key together, in the order of ``SlotClass``.
        encoded: the public parameters, as deterministic CBOR of a map.
        wrapped: the keyring key under the slot's key.

    Raises:
        KeyReleaseError: ``keyring_malformed``, naming the field.
    """

    slot_id: bytes
    label: str
    factors: tuple[SlotClass, ...]
    encoded: bytes = field(repr=False)
    wrapped: bytes = field(repr=False)

    def __post_init__(self) -> None:
        fields.octets(self.slot_id, SLOT_ID_BYTES, "slot id")
        fields.text(self.label, _LABEL, "label of a slot")
        fields.octets(self.wrapped, SEALED_BYTES, "wrapped key of a slot")
        if not 1 <= len(self.factors) <= MAX_FACTORS:
            raise malformed(f"slot: {len(self.factors)} factors, at most {MAX_FACTORS}")
        if list(self.factors) != sorted(set(self.factors), key=_ORDER.index):
            raise malformed("slot: factors out of order, or one twice")
        if len(self.encoded) > MAX_PARAMETERS_BYTES:
            detail = f"{len(self.encoded)} bytes, at most {MAX_PARAMETERS_BYTES}"
            raise malformed(f"slot: parameters of {detail}")
        if _depth(self.parameters) > MAX_PARAMETERS_DEPTH:
            raise malformed(f"slot: parameters deeper than {MAX_PARAMETERS_DEPTH}")

    @property
    def slot_class(self) -> SlotClass:
        """The class of its first factor."""
        return self.factors[0]

    @property
    def sufficient(self) -> bool:
        """Whether it has a first factor: something that the host does not have."""
        return is_sufficient(self.factors)

    @property
    def parameters(self) -> Mapping[str, Value]:
        """The class's own public values; a new map each time."""
        try:
            found = decode(self.encoded, max_bytes=MAX_PARAMETERS_BYTES)
        except RequestError as e:
            raise malformed(f"slot: parameters: {e.detail}") from e
        if not isinstance(found, Mapping):
            raise malformed("slot: parameters are no map")
        return found

    def __str__(self) -> str:
        """For people: classes, the start of the id, and the label."""
        names = "+".join(factor.value for factor in self.factors)
        label = f" '{self.label}'" if self.label else ""
        return f"{names} {self.slot_id.hex()[:8]}{label}"

    def as_value(self) -> Value:
        """As it stands in the file."""
        return {
            "slot_id": self.slot_id,
            "class": self.slot_class.value,
            "label": self.label,
            "factors": [factor.value for factor in self.factors],
            "parameters": self.parameters,
            "wrapped": self.wrapped,
        }

    @property
    def digest(self) -> bytes:
        """SHA-256 over all of it, 32 bytes: what the MAC covers of a slot."""
        return hashlib.sha256(labelled(Label.KEYRING_SLOT, self.as_value())).digest()

    @classmethod
    def from_value(cls, value: Value) -> Slot:
        """Read a slot.

        Raises:
            KeyReleaseError: ``keyring_malformed``.
        """
        found: dict[str, Any] = dict(fields.members(value, _NAMES, "slot"))
        first = class_of(found.pop("class"), "slot")
        listed = fields.elements(found.pop("factors"), MAX_FACTORS, "factors")
        factors = tuple(class_of(name, "factors") for name in listed)
        if factors[:1] != (first,):
            raise malformed("slot: its class is not that of its first factor")
        parameters = found.pop("parameters")
        # Construction judges the type of every field.
        return cls(factors=factors, encoded=encode(parameters), **found)


def _depth(value: Value) -> int:
    if isinstance(value, Mapping):
        return 1 + max((_depth(v) for v in value.values()), default=0)
    if isinstance(value, list | tuple):
        return 1 + max((_depth(v) for v in value), default=0)
    return 0
