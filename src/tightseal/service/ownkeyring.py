# SPDX-License-Identifier: Apache-2.0
"""A provider's own keyring: made, with slots that were opened before they count."""

from __future__ import annotations

from functools import partial
from typing import Final

import structlog

from tightseal.errors import Code, KeyReleaseError, SettingsError, TightsealError
from tightseal.evidence.roots import simulated_root
from tightseal.keys.keyring import (
    Keyring,
    KeyringFile,
    Slot,
    add_slot,
    keep_new,
    new_keyring,
    probe_slots,
    rewrap_slot,
)
from tightseal.model.claims import Vendor
from tightseal.model.ports import RootPlatform
from tightseal.model.slots import FIRST_FACTORS, SlotClass, SlotKey
from tightseal.release.keyring import KeyringKeeper
from tightseal.service.settings import PlatformKind, Settings, SimulatedTee
from tightseal.service.slotkeys import (
    SlotKeys,
    own_slots,
    require_opening,
    rewrap_reason,
)

__all__ = [
    "create_keyring",
    "own_domain",
    "renew_slots",
    "rewrapped",
    "root_bytes",
    "with_slot",
    "write_keyring",
]

_FIRST_ALONE: Final = frozenset((name,) for name in FIRST_FACTORS)

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


def with_slot(keyring: Keyring, slot_key: SlotKey, *, label: str, now: int) -> Keyring:
    """A keyring with one more slot, the last, which was opened again.

    Raises:
        KeyReleaseError: ``slot_unavailable``, ``slot_not_allowed``.
    """
    after = add_slot(keyring, slot_key, label=label, now=now)
    require_opening(after, after.slots[-1], slot_key)
    return after


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
    factors: what they are bound to is for an operator to say. A failure is logged and
    stops nothing, since the slot still opens.
    """
    probes = probe_slots(keeper.keyring, slots.every)
    for slot in (probe.slot for probe in probes if not probe.refusal):
        why = rewrap_reason(slot, slots.every) if slot.factors in _FIRST_ALONE else ""
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


def rewrapped(keyring: Keyring, *, slot: Slot, slot_key: SlotKey, now: int) -> Keyring:
    """A slot made anew, and opened again.

    Raises:
        KeyReleaseError: ``slot_unavailable``, ``slot_not_allowed``.
    """
    after = rewrap_slot(keyring, slot.slot_id, slot_key, now=now)
    require_opening(after, after.slot(slot.slot_id), slot_key)
    return after


def own_domain(settings: Settings) -> str:
    """The trust domain of the platform that settings name, as text.

    What the provider's own quote then says has to be the same; see
    ``KeyringKeeper.check_domain``.

    Raises:
        SettingsError: ``settings_invalid``, where no simulated root fits.
    """
    platform = settings.host.platform
    if platform.kind is PlatformKind.GRAMINE:
        return Vendor.INTEL.value
    if platform.kind is PlatformKind.SEV_GUEST:
        return Vendor.AMD.value
    for certificate in settings.release.simulated_root_certificates():
        roots = simulated_root(certificate)
        found = roots.intel if platform.tee is SimulatedTee.SGX else roots.amd
        for root in found:
            return str(root.trust_domain)
    detail = f"release.simulated_roots: none is of a simulated {platform.tee.value}"
    raise SettingsError(Code.SETTINGS_INVALID, detail)


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
