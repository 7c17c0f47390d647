# SPDX-License-Identifier: Apache-2.0
"""A provider's own keyring: made, with slots that were opened before they count."""

from __future__ import annotations

from functools import partial

import structlog

from tightseal.errors import Code, KeyReleaseError, SettingsError, TightsealError
from tightseal.keys.keyring import (
    Keyring,
    KeyringFile,
    keep_new,
    new_keyring,
    probe_slots,
)
from tightseal.model.ports import RootPlatform
from tightseal.model.slots import FIRST_FACTORS, SlotClass, SlotKey
from tightseal.release.keyring import KeyringKeeper
from tightseal.release.slots import require_opening, rewrapped, with_slot
from tightseal.service.settings import Settings
from tightseal.service.slotkeys import (
    SlotKeys,
    own_slots,
    rewrap_reason,
)
from tightseal.service.slotterms import own_domain

__all__ = [
    "create_keyring",
    "own_domain",
    "renew_slots",
    "rewrapped",
    "root_bytes",
    "with_slot",
    "write_keyring",
]

log = structlog.get_logger("tightseal.keyring")


def create_keyring(settings: Settings, platform: RootPlatform, *, now: int) -> bytes:
    """Make a keyring with a slot of each class that works here; its id, 32 bytes.

    Classes end at different events, so each is worth having from the start.

    Raises:
        KeyReleaseError: ``keyring_exists``; ``slot_unavailable``, where none works.
        ServiceError: the file system failed.
    """
    slots = own_slots(settings, platform)
    first = [c for c in slots.factors if c in FIRST_FACTORS] or list(slots.factors)
    made: Keyring | None = None
    refused = ""
    for name in first:
        try:
            made = _with_slot(
                settings, made, slots.choose(name), label="first", now=now
            )
        except KeyReleaseError as e:
            refused = f"{refused}; {e.detail}" if refused else e.detail
            log.info("slot_not_made", slot_class=name.value, detail=e.detail)
    if made is None:
        raise KeyReleaseError(
            Code.SLOT_UNAVAILABLE, refused or "no class of slots here"
        )
    _keep_new(settings, made)
    keyring_id = made.header.keyring_id
    slot = ", ".join(map(str, made.slots))
    log.warning("keyring_created", keyring_id=keyring_id.hex(), slot=slot)
    made.wipe()
    return keyring_id


def write_keyring(
    settings: Settings, slot_key: SlotKey, *, label: str, now: int
) -> Keyring:
    """Write a new keyring with one slot, which was opened again before.

    Raises:
        KeyReleaseError: ``keyring_exists``; ``slot_unavailable``; ``slot_not_allowed``,
            for a second factor alone outside a simulated world.
        ServiceError: the file system failed.
    """
    keyring = _with_slot(settings, None, slot_key, label=label, now=now)
    _keep_new(settings, keyring)
    return keyring


def _with_slot(
    settings: Settings,
    keyring: Keyring | None,
    slot_key: SlotKey,
    *,
    label: str,
    now: int,
) -> Keyring:
    if keyring is not None:
        return with_slot(keyring, slot_key, label=label, now=now)
    made = new_keyring(
        (slot_key,),
        labels=(label,),
        trust_domain=own_domain(settings),
        policy_root=root_bytes(settings.release.policy_root),
        minimum_policy_version=0,
        slot_classes=frozenset(SlotClass),
        now=now,
    )
    require_opening(made, made.slots[0], slot_key)
    return made


def _keep_new(settings: Settings, keyring: Keyring) -> None:
    try:
        keep_new(KeyringFile(settings.host.keyring_path), keyring, anchor=None)
    except BaseException:
        keyring.wipe()
        raise


def renew_slots(keeper: KeyringKeeper, slots: SlotKeys, *, now: int) -> None:
    """Make slots anew that open here with what goes out of use, such as old microcode.

    Slots that do not open are left alone: they may be another machine's. So are second
    factors: what they are bound to is for an operator to say; and slots of other
    providers and of councils, which a start does not wait for. A failure is logged and
    stops nothing, since the slot still opens.
    """
    own = slots.of_platform
    probes = probe_slots(keeper.keyring, own)
    for slot in (probe.slot for probe in probes if not probe.refusal):
        why = rewrap_reason(slot, own)
        if not why:
            continue
        change = partial(rewrapped, slot=slot, slot_key=slots.of(slot), now=now)
        try:
            keeper.change(change)
        except TightsealError as e:
            code = e.code.value
            log.error("slot_not_renewed", slot=str(slot), code=code, detail=e.detail)  # noqa: TRY400
        else:
            log.warning("slot_renewed", slot=str(slot), reason=why)


def root_bytes(pinned: str) -> bytes | None:
    """The policy root that settings pin, 32 bytes; ``None`` where they pin none.

    Raises:
        SettingsError: ``settings_invalid``, where it is not known yet.
    """
    try:
        return bytes.fromhex(pinned) if pinned else None
    except ValueError as e:
        detail = "release.policy_root first-start: a keyring needs a root that is known"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
