# SPDX-License-Identifier: Apache-2.0
"""A slot that is not as it was written: named, refused, left out where one says so."""

from dataclasses import replace

import pytest
from keyring_support import TERMS, FakeSlot, made, opened, roots

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring import DamagedSlots, decode_keyring, open_keyring
from tightseal.keys.keyring.sealed import encode_keyring
from tightseal.model.slots import SlotClass


def spliced(data: bytes, **parts: object) -> bytes:
    return encode_keyring(replace(decode_keyring(data), **parts))  # type: ignore[arg-type]


def test_a_damaged_slot_is_named_and_can_be_left_out() -> None:
    slots = FakeSlot(SlotClass.GRAMINE), FakeSlot(SlotClass.COUNCIL)
    keyring = made(*slots)
    data = keyring.seal()
    first, second = decode_keyring(data).slots
    spoiled = replace(first, wrapped=bytes(len(first.wrapped)))
    damaged = spliced(data, slots=(spoiled, second))
    with pytest.raises(KeyReleaseError, match=str(first)) as caught:
        opened(damaged, *slots)
    assert caught.value.code is Code.KEYRING_TAMPERED
    found = open_keyring(
        damaged,
        terms=TERMS,
        slot_keys=slots,
        anchor=None,
        damaged=DamagedSlots.LEAVE_OUT,
    )
    assert found.damaged == (spoiled,)
    assert found.keyring.slots == (second,)
    assert roots(found.keyring) == roots(keyring)
    assert opened(found.keyring.seal(), *slots).damaged == ()


def test_leaving_damaged_slots_out_forgives_nothing_else() -> None:
    slots = FakeSlot(SlotClass.GRAMINE), FakeSlot(SlotClass.COUNCIL)
    data = made(*slots).seal()
    sealed = decode_keyring(data)
    first, second = sealed.slots
    relabelled = replace(first, label="x")
    others: list[dict[str, object]] = [
        {"header": replace(sealed.header, minimum_policy_version=0)},
        {"slots": (relabelled, replace(second, label="y"))},
        {"slots": (first,)},
        {"digests": tuple(reversed(sealed.digests))},
        {"slots": (relabelled, second), "digests": (relabelled.digest, second.digest)},
    ]
    for parts in others:
        with pytest.raises(KeyReleaseError) as caught:
            open_keyring(
                spliced(data, **parts),
                terms=TERMS,
                slot_keys=slots,
                anchor=None,
                damaged=DamagedSlots.LEAVE_OUT,
            )
        assert caught.value.code is Code.KEYRING_TAMPERED
