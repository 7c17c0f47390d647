# SPDX-License-Identifier: Apache-2.0
"""Changes of slots as a provider makes them: with what it has, and opened again.

A slot that was made and does not open would count where it is worth nothing. So each
one is opened before the keyring with it is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring import (
    Keyring,
    Slot,
    add_slot,
    probe_slots,
    remove_slot,
    rewrap_slot,
    working,
)
from tightseal.model.action import ActionKind, SlotParameters
from tightseal.model.slots import SlotClass, SlotKey
from tightseal.release.keyring import Change

__all__ = ["SlotWays", "require_opening", "rewrapped", "slot_change", "with_slot"]


class SlotWays(Protocol):
    """The ways to slots' keys that a provider has."""

    @property
    def every(self) -> Sequence[SlotKey]:
        """What may open a slot here."""
        ...

    def choose(self, *classes: SlotClass, signer: bool = False) -> SlotKey:
        """What makes a slot of these classes together.

        Raises:
            KeyReleaseError: ``slot_unavailable``, where there is none here.
        """
        ...

    def of(self, slot: Slot) -> SlotKey:
        """What makes a slot like this one; raises as ``choose``."""
        ...


def slot_change(
    kind: ActionKind, parameters: SlotParameters, ways: SlotWays, *, now: int
) -> Change:
    """What an action does to slots.

    Args:
        kind: ``add-slot``, ``remove-slot`` or ``renew-slots``.
        parameters: that fit the kind.
        ways: of this provider.
        now: Unix seconds.

    Raises:
        KeyReleaseError: when applied: ``slot_unavailable``, where there is no such
            slot, or it cannot be made here; ``slot_not_allowed``; ``slot_last``.
    """

    def change(keyring: Keyring) -> Keyring:
        if kind is ActionKind.ADD_SLOT:
            slot_key = ways.choose(*parameters.factors, signer=parameters.signer)
            return with_slot(keyring, slot_key, label=parameters.label, now=now)
        if kind is ActionKind.REMOVE_SLOT:
            assert parameters.slot is not None, "checked with the form"
            good = working(probe_slots(keyring, ways.every))
            return remove_slot(keyring, parameters.slot, working=good, now=now)
        if parameters.slot is not None:
            slot = keyring.slot(parameters.slot)
            return rewrapped(keyring, slot=slot, slot_key=ways.of(slot), now=now)
        return _all_renewed(keyring, ways, now=now)

    return change


def _all_renewed(keyring: Keyring, ways: SlotWays, *, now: int) -> Keyring:
    """Every slot that opens; the others may be another machine's, and stay."""
    probes = probe_slots(keyring, ways.every)
    opening = [probe.slot for probe in probes if not probe.refusal]
    if not opening:
        detail = "; ".join(f"{probe.slot}: {probe.refusal}" for probe in probes)
        raise KeyReleaseError(Code.SLOT_UNAVAILABLE, f"no slot opens here: {detail}")
    for slot in opening:
        keyring = rewrapped(keyring, slot=slot, slot_key=ways.of(slot), now=now)
    return keyring


def with_slot(keyring: Keyring, slot_key: SlotKey, *, label: str, now: int) -> Keyring:
    """A keyring with one more slot, the last, which was opened again.

    Raises:
        KeyReleaseError: ``slot_unavailable``, ``slot_not_allowed``.
    """
    after = add_slot(keyring, slot_key, label=label, now=now)
    require_opening(after, after.slots[-1], slot_key)
    return after


def rewrapped(keyring: Keyring, *, slot: Slot, slot_key: SlotKey, now: int) -> Keyring:
    """A slot made anew, and opened again.

    Raises:
        KeyReleaseError: ``slot_unavailable``, ``slot_not_allowed``.
    """
    after = rewrap_slot(keyring, slot.slot_id, slot_key, now=now)
    require_opening(after, after.slot(slot.slot_id), slot_key)
    return after


def require_opening(keyring: Keyring, slot: Slot, slot_key: SlotKey) -> None:
    """Refuse a slot that was just made and does not open.

    Raises:
        KeyReleaseError: ``slot_unavailable``, with the reason.
    """
    for probe in probe_slots(keyring, (slot_key,)):
        if probe.slot.slot_id == slot.slot_id and probe.refusal:
            detail = f"{slot}: made, and does not open again: {probe.refusal}"
            raise KeyReleaseError(Code.SLOT_UNAVAILABLE, f"{detail}; nothing was kept")
