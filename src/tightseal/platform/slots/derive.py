# SPDX-License-Identifier: Apache-2.0
"""From what a slot's source gives to the slot's key, and the check that it is the one.

The source's own key never leaves: Gramine's key may serve encrypted mounts too, and a
key of the SNP firmware belongs to the whole VM. HKDF-SHA256 over it, with keyring,
slot, class and every stored parameter in ``info``, gives 48 bytes: the slot's key and a
check value. So a changed parameter is another key, and it is seen here, by name, and
not as an AEAD failure that could mean anything.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tightseal.errors import Code, KeyReleaseError, ServiceError
from tightseal.model.canonical import Value, labelled
from tightseal.model.labels import Label
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass

__all__ = [
    "CHECK",
    "CHECK_BYTES",
    "KEYRING_ID_BYTES",
    "KEY_BYTES",
    "SLOT_ID_BYTES",
    "Place",
    "sealed",
    "short",
    "unavailable",
    "unsealed",
]

KEY_BYTES: Final = 32
"""Length of a slot's key."""

CHECK_BYTES: Final = 16
"""Length of the check value that lies beside the parameters."""

KEYRING_ID_BYTES: Final = 32
SLOT_ID_BYTES: Final = 16
MIN_MATERIAL_BYTES: Final = 16
"""Shortest source: SGX gives 128 bits."""

MAX_SHOWN_BYTES: Final = 16
CHECK: Final = "check"
"""Name of the check value among the parameters."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key belongs.

    Attributes:
        slot_class: class of the slot, or of the factor.
        keyring_id: 32 bytes.
        slot_id: 16 bytes.

    Raises:
        ServiceError: ``internal``, where an id has another length.
    """

    slot_class: SlotClass
    keyring_id: bytes = field(kw_only=True)
    slot_id: bytes = field(kw_only=True)

    def __post_init__(self) -> None:
        """The keyring makes both, so another length is a bug."""
        lengths = len(self.keyring_id), len(self.slot_id)
        if lengths != (KEYRING_ID_BYTES, SLOT_ID_BYTES):
            detail = f"keyring id and slot id of {lengths} bytes, expected 32 and 16"
            raise ServiceError(Code.INTERNAL, detail)


def sealed(
    material: Secret, public: Mapping[str, Value], place: Place
) -> tuple[dict[str, Value], Secret]:
    """A new slot's parameters, with the check value, and its key.

    Wipes ``material``.

    Raises:
        KeyReleaseError: ``slot_unavailable``, where the source gave no key.
    """
    key, check = _derived(material, public, place)
    return {**public, CHECK: check}, key


def unsealed(
    material: Secret, parameters: Mapping[str, Value], place: Place, *, causes: str
) -> Secret:
    """The key of a stored slot.

    Wipes ``material``. The check value lies with the host too: that it fits says that
    the source gives the same key as before, and nothing about who wrote the slot.

    Args:
        material: what the source gives now.
        parameters: as stored, with the check value.
        place: where the key belongs.
        causes: what to look at where the source gives another key.

    Raises:
        KeyReleaseError: ``slot_unavailable``, where it is another key.
    """
    stored = parameters.get(CHECK)
    if not isinstance(stored, bytes) or len(stored) != CHECK_BYTES:
        raise unavailable(place.slot_class, f"{CHECK} is not {CHECK_BYTES} bytes")
    public = {name: value for name, value in parameters.items() if name != CHECK}
    key, check = _derived(material, public, place)
    if not hmac.compare_digest(check, stored):
        raise unavailable(place.slot_class, f"the key is another one: {causes}")
    return key


def unavailable(slot_class: SlotClass, why: str) -> KeyReleaseError:
    """``slot_unavailable``, with the slot's class."""
    return KeyReleaseError(Code.SLOT_UNAVAILABLE, f"slot {slot_class.value}: {why}")


def short(value: bytes) -> str:
    """Hex for messages: whole up to 16 bytes, the first 8 of longer values."""
    return value.hex() if len(value) <= MAX_SHOWN_BYTES else f"{value[:8].hex()}…"


def _derived(
    material: Secret, public: Mapping[str, Value], place: Place
) -> tuple[Secret, bytes]:
    if len(material) < MIN_MATERIAL_BYTES or material == Secret(bytes(len(material))):
        raise unavailable(place.slot_class, "the source gave no key")
    info = labelled(
        Label.KDF_SLOT,
        [place.keyring_id, place.slot_id, place.slot_class.value, public],
    )
    kdf = HKDF(hashes.SHA256(), length=KEY_BYTES + CHECK_BYTES, salt=None, info=info)
    both = kdf.derive(material.reveal())
    material.wipe()
    return Secret(both[:KEY_BYTES]), both[KEY_BYTES:]
