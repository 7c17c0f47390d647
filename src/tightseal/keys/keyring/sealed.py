# SPDX-License-Identifier: Apache-2.0
"""The keyring as it lies on disk: header, generations, slots and a MAC over them.

    file = ["tightseal-keyring", 1, header, generations, slots, digests, mac]

The MAC covers a digest of each slot in place of the slot, so that a slot which is
damaged can be told by name from everything else, which is still what was written.

Deterministic CBOR throughout, so a keyring has one encoding. Nothing in it is to be
believed before the MAC was checked with the keyring key.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tightseal.errors import RequestError
from tightseal.keys.keyring import fields
from tightseal.keys.keyring.faults import malformed, tampered
from tightseal.keys.keyring.generation import (
    MAX_GENERATIONS,
    Generation,
    GenerationState,
)
from tightseal.keys.keyring.header import Header
from tightseal.keys.keyring.seal import derive
from tightseal.keys.keyring.slot import MAX_SLOTS, Slot
from tightseal.model.canonical import Value, decode, encode, labelled
from tightseal.model.labels import Label
from tightseal.model.secret import Secret

__all__ = [
    "MAC_BYTES",
    "MAX_KEYRING_BYTES",
    "VERSION",
    "SealedKeyring",
    "check_whole",
    "decode_keyring",
    "encode_keyring",
    "sealed_by",
]

MAX_KEYRING_BYTES: Final = 4 << 20
"""Longest keyring file: 10,000 generations, and over 1 MiB for slots."""

MAC_BYTES: Final = 32

VERSION: Final = 1
"""The version of the format that is read and written."""

_MAGIC: Final = "tightseal-keyring"
DIGEST_BYTES: Final = 32

_MEMBERS: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedKeyring:
    """A keyring that was read and has the right form; nothing in it is proven.

    Attributes:
        header: whose it says it is.
        generations: by number, from 1.
        slots: in their order.
        digests: of the slots as they were written, 32 bytes each, in their order.
        mac: HMAC-SHA256 over header, generations and digests, 32 bytes.

    Raises:
        KeyReleaseError: ``keyring_malformed``.
    """

    header: Header
    generations: tuple[Generation, ...]
    slots: tuple[Slot, ...]
    digests: tuple[bytes, ...] = field(repr=False)
    mac: bytes = field(repr=False)

    def __post_init__(self) -> None:
        check_whole(self.header, self.generations, self.slots)
        for digest in self.digests:
            fields.octets(digest, DIGEST_BYTES, "digest of a slot")
        fields.octets(self.mac, MAC_BYTES, "mac")

    def check_mac(self, key: Secret) -> None:
        """Compare the MAC, in constant time. Slots may still be ``damaged``.

        Raises:
            KeyReleaseError: ``keyring_tampered``.
        """
        right = _mac(key, self.header, self.generations, self.digests)
        if not hmac.compare_digest(right, self.mac):
            detail = "header, generations or slots are not as they were written"
            raise tampered(detail)
        if len(self.slots) != len(self.digests):
            detail = f"{len(self.slots)} slots, {len(self.digests)} were written"
            raise tampered(detail)

    @property
    def damaged(self) -> tuple[Slot, ...]:
        """Slots that are not as they were written; believe it after ``check_mac``."""
        both = zip(self.slots, self.digests, strict=True)
        return tuple(slot for slot, digest in both if slot.digest != digest)


def check_whole(
    header: Header, generations: Sequence[Generation], slots: Sequence[Slot]
) -> None:
    """What single parts cannot know of each other.

    Raises:
        KeyReleaseError: ``keyring_malformed``.
    """
    if not 1 <= len(generations) <= MAX_GENERATIONS:
        raise malformed(f"{len(generations)} generations, 1 to {MAX_GENERATIONS}")
    if [g.number for g in generations] != list(range(1, len(generations) + 1)):
        raise malformed("numbers of generations are not 1, 2, 3 and so on")
    states = [g.state for g in generations]
    if states.count(GenerationState.CURRENT) != 1:
        raise malformed("not exactly one current generation")
    if GenerationState.PRE_ACTIVE in states[:-1]:
        raise malformed("a pre-active generation is not the newest")
    if max(g.last_change for g in generations) > header.changed_at:
        raise malformed("a generation changed later than the keyring")
    if not 1 <= len(slots) <= MAX_SLOTS:
        raise malformed(f"{len(slots)} slots, 1 to {MAX_SLOTS}")
    if len({slot.slot_id for slot in slots}) != len(slots):
        raise malformed("a slot id twice")


def encode_keyring(sealed: SealedKeyring) -> bytes:
    """The bytes of the file.

    Raises:
        KeyReleaseError: ``keyring_malformed``, where they are too many.
    """
    body = _body(sealed.header, sealed.generations, sealed.slots)
    data = encode([_MAGIC, VERSION, *body, list(sealed.digests), sealed.mac])
    if len(data) > MAX_KEYRING_BYTES:
        raise malformed(f"keyring of {len(data)} bytes, at most {MAX_KEYRING_BYTES}")
    return data


def decode_keyring(data: bytes) -> SealedKeyring:
    """Read a file: one version, one encoding, every bound checked.

    Says nothing about who wrote it: see ``open_keyring``.

    Raises:
        KeyReleaseError: ``keyring_malformed``, with what is wrong.
    """
    try:
        found = decode(data, max_bytes=MAX_KEYRING_BYTES)
    except RequestError as e:
        raise malformed(e.detail) from e
    parts = fields.elements(found, _MEMBERS, "keyring")
    if len(parts) != _MEMBERS or parts[0] != _MAGIC:
        raise malformed("not a keyring")
    fields.whole(parts[1], VERSION, VERSION, "version of the keyring format")
    generations = fields.elements(parts[3], MAX_GENERATIONS, "generations")
    slots = fields.elements(parts[4], MAX_SLOTS, "slots")
    digests = fields.elements(parts[5], MAX_SLOTS, "digests")
    return SealedKeyring(
        header=Header.from_value(parts[2]),
        generations=tuple(Generation.from_value(value) for value in generations),
        slots=tuple(Slot.from_value(value) for value in slots),
        digests=tuple(fields.octets(d, DIGEST_BYTES, "digest") for d in digests),
        mac=fields.octets(parts[6], MAC_BYTES, "mac"),
    )


def sealed_by(
    key: Secret,
    *,
    header: Header,
    generations: tuple[Generation, ...],
    slots: tuple[Slot, ...],
) -> SealedKeyring:
    """The same parts with the MAC that the keyring key gives them."""
    digests = tuple(slot.digest for slot in slots)
    return SealedKeyring(
        header=header,
        generations=generations,
        slots=slots,
        digests=digests,
        mac=_mac(key, header, generations, digests),
    )


def _body(
    header: Header, generations: Sequence[Generation], slots: Sequence[Slot]
) -> list[Value]:
    return [
        header.as_value(),
        [generation.as_value() for generation in generations],
        [slot.as_value() for slot in slots],
    ]


def _mac(
    key: Secret,
    header: Header,
    generations: Sequence[Generation],
    digests: Sequence[bytes],
) -> bytes:
    living: list[Value] = [generation.as_value() for generation in generations]
    covered = labelled(Label.KEYRING_MAC, [header.as_value(), living, list(digests)])
    own = derive(key, label=Label.KDF_KEYRING_MAC, value=header.keyring_id)
    try:
        return hmac.digest(own.reveal(), covered, "sha256")
    finally:
        own.wipe()
