# SPDX-License-Identifier: Apache-2.0
"""Wrapping of the keyring key in slots, and getting it back."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from tightseal.errors import ServiceError
from tightseal.keys.keyring.faults import malformed, not_allowed, unavailable
from tightseal.keys.keyring.header import Header
from tightseal.keys.keyring.seal import open_sealed, seal, usable
from tightseal.keys.keyring.slot import SLOT_ID_BYTES, Slot
from tightseal.keys.keyring.terms import factors_refusal
from tightseal.model.canonical import Value, encode, labelled
from tightseal.model.labels import Label
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass, SlotKey

__all__ = ["factors_of", "make_slot", "open_slot"]


def factors_of(key: SlotKey) -> tuple[SlotClass, ...]:
    """The classes that make a key: its own, or those that a combined one names."""
    named: Sequence[str] = getattr(key, "factors", (key.slot_class,))
    return tuple(SlotClass(name) for name in named)


def make_slot(
    slot_key: SlotKey,
    *,
    header: Header,
    key: Secret,
    label: str,
    slot_id: bytes | None = None,
) -> Slot:
    """Wrap the keyring key in a slot, new or anew.

    Args:
        slot_key: where the slot's key comes from.
        header: of the keyring.
        key: the keyring key.
        label: for people.
        slot_id: of a slot that is made anew; a random one by default.

    Raises:
        KeyReleaseError: ``slot_not_allowed``, before anything is made, where header or
            trust domain do not allow it; ``slot_unavailable``, where the class cannot
            make one here; ``keyring_malformed``, where label or parameters pass a
            bound.
    """
    place = secrets.token_bytes(SLOT_ID_BYTES) if slot_id is None else slot_id
    factors = factors_of(slot_key)
    refusal = factors_refusal(
        factors, classes=header.slot_classes, trust_domain=header.trust_domain
    )
    if refusal:
        raise not_allowed(refusal)
    keyring_id = header.keyring_id
    parameters, own = slot_key.create(keyring_id=keyring_id, slot_id=place)
    try:
        encoded = _encoded(parameters)
        data = _place(keyring_id, place, factors, parameters)
        _check_key(own, factors)
        wrapped = seal(key, under=own, use=_use(keyring_id, place), data=data)
    finally:
        own.wipe()
    return Slot(
        slot_id=place, label=label, factors=factors, encoded=encoded, wrapped=wrapped
    )


def open_slot(slot: Slot, slot_key: SlotKey, *, keyring_id: bytes) -> Secret:
    """The keyring key, by one slot.

    Raises:
        KeyReleaseError: ``slot_unavailable``, where the class gives no key here;
            ``keyring_tampered``, where it gives one that does not open the slot.
    """
    parameters = slot.parameters
    own = slot_key.open(parameters, keyring_id=keyring_id, slot_id=slot.slot_id)
    try:
        _check_key(own, slot.factors)
        data = _place(keyring_id, slot.slot_id, slot.factors, parameters)
        use = _use(keyring_id, slot.slot_id)
        return open_sealed(slot.wrapped, under=own, use=use, data=data)
    finally:
        own.wipe()


def _check_key(own: Secret, factors: tuple[SlotClass, ...]) -> None:
    if not usable(own):
        name = "+".join(factor.value for factor in factors)
        raise unavailable(f"{name}: gave {len(own)} bytes or zeros, which is no key")


def _encoded(parameters: Mapping[str, Value]) -> bytes:
    try:
        return encode(parameters)
    except ServiceError as e:
        raise malformed(f"slot: parameters: {e.detail}") from e


def _use(keyring_id: bytes, slot_id: bytes) -> Value:
    return ["slot", keyring_id, slot_id]


def _place(
    keyring_id: bytes,
    slot_id: bytes,
    factors: tuple[SlotClass, ...],
    parameters: Mapping[str, Value],
) -> bytes:
    names: list[Value] = [factor.value for factor in factors]
    value: list[Value] = [keyring_id, slot_id, names[0], parameters, names]
    return labelled(Label.SEAL_SLOT, value)
