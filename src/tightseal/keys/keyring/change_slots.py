# SPDX-License-Identifier: Apache-2.0
"""Changes to slots: a keyring in, the next keyring out. See ``change`` for the rest."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring.change import changed
from tightseal.keys.keyring.faults import malformed, not_allowed, unavailable
from tightseal.keys.keyring.generation import Generation, open_root, seal_root
from tightseal.keys.keyring.opened import Keyring
from tightseal.keys.keyring.seal import KEY_BYTES
from tightseal.keys.keyring.slot import MAX_SLOTS, Slot
from tightseal.keys.keyring.wrap import factors_of, make_slot
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotKey

__all__ = [
    "add_slot",
    "adopt_slots",
    "remove_slot",
    "renew_key",
    "rewrap_slot",
    "without_damaged",
]


def add_slot(
    keyring: Keyring, slot_key: SlotKey, *, label: str = "", now: int
) -> Keyring:
    """Add a slot; it is the last one of the result.

    Raises:
        KeyReleaseError: ``slot_not_allowed``, where the header does not allow its class
            or a second factor would stand alone outside a simulated trust domain;
            ``slot_unavailable``, where it cannot be made here; ``keyring_malformed``,
            where a bound is passed.
    """
    if len(keyring.slots) >= MAX_SLOTS:
        raise malformed(f"a keyring has at most {MAX_SLOTS} slots")
    made = make_slot(slot_key, header=keyring.header, key=keyring.key, label=label)
    return _with_slots(keyring, (*keyring.slots, made), now)


def adopt_slots(keyring: Keyring, slots: Sequence[Slot], *, now: int) -> Keyring:
    """Take in slots that another provider of this keyring made for itself.

    Whether they wrap this keyring's key cannot be seen here: see ``handed.new_slots``.

    Raises:
        KeyReleaseError: ``keyring_malformed``, where there would be too many, or one
            stands twice.
    """
    return _with_slots(keyring, (*keyring.slots, *slots), now)


def remove_slot(
    keyring: Keyring, slot_id: bytes, *, working: Collection[bytes], now: int
) -> Keyring:
    """Remove a slot.

    Does not take back what it opened: whoever has that slot's key and an older copy of
    the file has the keyring key, and with it every later generation. ``renew_key``
    ends that.

    Args:
        keyring: the keyring.
        slot_id: the slot to remove.
        working: ids of the slots that opened just now, as ``probe_slots`` found.
        now: Unix seconds.

    Raises:
        KeyReleaseError: ``slot_last``, where no slot would remain that just opened and
            has a first factor (in a simulated trust domain: that just opened);
            ``slot_unavailable``, where there is no such slot.
    """
    gone = keyring.slot(slot_id)
    left = tuple(slot for slot in keyring.slots if slot is not gone)
    good = [
        slot
        for slot in left
        if slot.slot_id in working and (slot.sufficient or keyring.header.simulated)
    ]
    if not good:
        detail = f"{gone}: no other slot with a first factor opened just now"
        raise KeyReleaseError(Code.SLOT_LAST, f"{detail}; add one and test it")
    return _with_slots(keyring, left, now)


def rewrap_slot(
    keyring: Keyring, slot_id: bytes, slot_key: SlotKey, *, now: int
) -> Keyring:
    """Make a slot anew under the same id, as after a TCB recovery.

    Raises:
        KeyReleaseError: ``slot_unavailable``, where there is no such slot or the class
            cannot make it here; ``slot_not_allowed``, where the key is of other
            classes than the slot.
    """
    old = keyring.slot(slot_id)
    made = _remade(keyring, old, slot_key)
    slots = tuple(made if slot is old else slot for slot in keyring.slots)
    return _with_slots(keyring, slots, now)


def renew_key(
    keyring: Keyring, slot_keys: Mapping[bytes, SlotKey], *, now: int
) -> Keyring:
    """A new keyring key: every root sealed and every slot wrapped anew.

    After it, a slot that was removed opens older copies of the file only. Roots stay
    what they are, so rotate as well where somebody knew them. The old key is not wiped:
    the keyring that was handed in still has it.

    Args:
        keyring: the keyring.
        slot_keys: for every slot, by its id, what makes it anew.
        now: Unix seconds.

    Raises:
        KeyReleaseError: ``slot_unavailable``, where a slot has no entry (remove it
            first, or do this where it can be made) or cannot be made here;
            ``slot_not_allowed``, where a key is of other classes than its slot.
    """
    missing = [slot for slot in keyring.slots if slot.slot_id not in slot_keys]
    if missing:
        names = ", ".join(str(slot) for slot in missing)
        raise unavailable(f"the key of the keyring is renewed in every slot: {names}")
    key = Secret(secrets.token_bytes(KEY_BYTES))
    try:
        sealed = tuple(_resealed(keyring, g, key) for g in keyring.generations)
        fresh = replace(keyring, key=key, generations=sealed)
        slots = tuple(
            _remade(fresh, slot, slot_keys[slot.slot_id]) for slot in keyring.slots
        )
        return _with_slots(fresh, slots, now)
    except BaseException:
        key.wipe()
        raise


def without_damaged(keyring: Keyring, *, now: int) -> Keyring:
    """The keyring as it was opened without its damaged slots, as a change of its own.

    They are left out by ``open_keyring`` (``DamagedSlots.LEAVE_OUT``); saving this
    drops them from the file.
    """
    return changed(keyring, now=now)


def _with_slots(keyring: Keyring, slots: tuple[Slot, ...], now: int) -> Keyring:
    return changed(replace(keyring, slots=slots), now=now)


def _remade(keyring: Keyring, old: Slot, slot_key: SlotKey) -> Slot:
    if factors_of(slot_key) != old.factors:
        names = "+".join(factor.value for factor in factors_of(slot_key))
        raise not_allowed(f"{old}: made anew as {names}; add that as a new slot")
    return make_slot(
        slot_key,
        header=keyring.header,
        key=keyring.key,
        label=old.label,
        slot_id=old.slot_id,
    )


def _resealed(keyring: Keyring, generation: Generation, key: Secret) -> Generation:
    if not generation.living:
        return generation
    keyring_id = keyring.header.keyring_id
    root = open_root(generation, key=keyring.key, keyring_id=keyring_id)
    try:
        sealed = seal_root(
            root, key=key, keyring_id=keyring_id, number=generation.number
        )
    finally:
        root.wipe()
    return replace(generation, sealed=sealed)
