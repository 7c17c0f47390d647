# SPDX-License-Identifier: Apache-2.0
"""Laws of keyrings, whatever the changes and whatever the bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keyring_support import (
    NOW,
    POLICY_ROOT,
    TERMS,
    FakeSlot,
    Machine,
    by_each_slot,
    made,
    opened,
    roots,
)

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring import (
    GenerationState,
    Keyring,
    activate,
    add_slot,
    decode_keyring,
    destroy,
    prepare,
    probe_slots,
    remove_slot,
    renew_key,
    retire,
    rewrap_slot,
    rotate,
    set_terms,
    working,
)
from tightseal.keys.keyring.generation import TRANSITIONS
from tightseal.keys.keyring.sealed import encode_keyring
from tightseal.model.slots import FIRST_FACTORS

CLASSES = sorted(FIRST_FACTORS)
NEWER = replace(TERMS, policy_version=100)


@dataclass
class World:
    """A keyring, the slots that should open it, and every root it ever had."""

    keyring: Keyring
    keys: dict[bytes, FakeSlot]
    known: dict[int, bytes] = field(default_factory=dict)

    def own(self, choice: int) -> tuple[bytes, FakeSlot]:
        slot = self.keyring.slots[choice % len(self.keyring.slots)]
        return slot.slot_id, self.keys[slot.slot_id]

    def number(self, choice: int) -> int:
        return 1 + choice % len(self.keyring.generations)


def start() -> World:
    slot = FakeSlot(CLASSES[0])
    keyring = made(slot)
    return World(keyring, {keyring.slots[0].slot_id: slot})


def _add(world: World, choice: int) -> Keyring:
    slot = FakeSlot(CLASSES[choice % len(CLASSES)], Machine())
    keyring = add_slot(world.keyring, slot, now=NOW)
    world.keys[keyring.slots[-1].slot_id] = slot
    return keyring


def _remove(world: World, choice: int) -> Keyring:
    slot_id, _ = world.own(choice)
    good = working(probe_slots(world.keyring, list(world.keys.values())))
    return remove_slot(world.keyring, slot_id, working=good, now=NOW)


def _rewrap(world: World, choice: int) -> Keyring:
    slot_id, key = world.own(choice)
    key.machine = Machine()
    return rewrap_slot(world.keyring, slot_id, key, now=NOW)


CHANGES: Mapping[str, Callable[[World, int], Keyring]] = {
    "rotate": lambda w, c: rotate(w.keyring, now=NOW + c),
    "prepare": lambda w, c: prepare(w.keyring, now=NOW - c),
    "activate": lambda w, c: activate(w.keyring, w.number(c), now=NOW),
    "retire": lambda w, c: retire(w.keyring, w.number(c), now=NOW),
    "destroy": lambda w, c: destroy(w.keyring, w.number(c), now=NOW),
    "add": _add,
    "remove": _remove,
    "rewrap": _rewrap,
    "renew": lambda w, _: renew_key(w.keyring, w.keys, now=NOW),
    "terms": lambda w, c: set_terms(
        w.keyring,
        policy_root=POLICY_ROOT,
        minimum_policy_version=min(c, 3),
        slot_classes=CLASSES,
        now=NOW,
    ),
}
REFUSALS = {
    Code.GENERATION_NOT_ALLOWED,
    Code.SLOT_LAST,
    Code.KEYRING_MISMATCH,
}
STEPS = st.lists(
    st.tuples(st.sampled_from(sorted(CHANGES)), st.integers(0, 40)), max_size=12
)


def check(world: World) -> None:
    keyring = world.keyring
    states = [g.state for g in keyring.generations]
    assert states.count(GenerationState.CURRENT) == 1
    assert [g.number for g in keyring.generations] == [
        n + 1 for n in range(len(states))
    ]
    there = roots(keyring)
    for number, root in world.known.items():
        assert there.get(number, root) == root
    assert len(set(there.values())) == len(there)
    world.known |= there
    destroyed = {g.number for g in keyring.generations if g.destroyed_at is not None}
    assert there.keys() == world.known.keys() - destroyed
    alone = [world.keys[slot.slot_id] for slot in keyring.slots]
    for again in by_each_slot(keyring.seal(), alone):
        assert again == keyring
        assert roots(again) == there


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_any_legal_changes_keep_one_current_and_every_living_root(
    steps: list[tuple[str, int]],
) -> None:
    world = start()
    check(world)
    for name, choice in steps:
        before = world.keyring
        try:
            world.keyring = CHANGES[name](world, choice)
        except KeyReleaseError as e:
            if e.code not in REFUSALS:
                raise
            continue
        assert world.keyring.header.counter == before.header.counter + 1
        assert world.keyring.header.changed_at >= before.header.changed_at
        for old, new in zip(
            before.generations, world.keyring.generations, strict=False
        ):
            assert new.state is old.state or new.state in TRANSITIONS[old.state]
        here = {slot.slot_id for slot in world.keyring.slots}
        world.keys = {i: key for i, key in world.keys.items() if i in here}
        check(world)


@cache
def sample() -> tuple[bytes, tuple[FakeSlot, ...]]:
    gramine, council = FakeSlot(), FakeSlot(CLASSES[0])
    keyring = destroy(rotate(made(gramine, council), now=NOW), 1, now=NOW)
    return prepare(keyring, now=NOW).seal(), (gramine, council)


REFUSED = {
    Code.KEYRING_MALFORMED,
    Code.KEYRING_TAMPERED,
    Code.SLOT_UNAVAILABLE,
}


def refuse(data: bytes, *keys: FakeSlot) -> None:
    with pytest.raises(KeyReleaseError) as caught:
        opened(data, *keys)
    assert caught.value.code in REFUSED


def test_any_flipped_byte_is_refused() -> None:
    data, keys = sample()
    for at in range(len(data)):
        for mask in (0x01, 0x80):
            changed = bytearray(data)
            changed[at] ^= mask
            refuse(bytes(changed), *keys)
            refuse(bytes(changed), keys[0])


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_other_bytes_are_refused(data: st.DataObject) -> None:
    good, keys = sample()
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 40)))
    middle = data.draw(st.binary(max_size=40))
    changed = good[:start] + middle + good[end:]
    if changed == good:
        assert opened(good, *keys).keyring.seal() == good
    else:
        refuse(changed, *keys)


def test_any_truncation_is_refused() -> None:
    data, keys = sample()
    for length in range(len(data)):
        refuse(data[:length], *keys)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_parts_of_different_files_of_one_keyring_do_not_mix(
    data: st.DataObject,
) -> None:
    """Older parts beside newer ones, each of them authentic once."""
    slot = FakeSlot()
    first = made(slot, slot)
    id_1 = first.slots[0].slot_id
    history = [
        first,
        rotate(first, now=NOW),
        rewrap_slot(first, id_1, slot, now=NOW),
        add_slot(first, slot, now=NOW),
        set_terms(
            first,
            policy_root=POLICY_ROOT,
            minimum_policy_version=4,
            slot_classes=CLASSES,
            now=NOW,
        ),
    ]
    sealed = [decode_keyring(keyring.seal()) for keyring in history]
    pick = st.sampled_from(sealed)
    parts = [data.draw(pick) for _ in range(4)]
    mixed = replace(
        parts[0],
        generations=parts[1].generations,
        slots=parts[2].slots,
        mac=parts[3].mac,
    )
    changed = encode_keyring(mixed)
    if mixed in sealed:
        assert opened(changed, slot, terms=NEWER).keyring.seal() == changed
    else:
        with pytest.raises(KeyReleaseError) as caught:
            opened(changed, slot, terms=NEWER)
        assert caught.value.code is Code.KEYRING_TAMPERED
