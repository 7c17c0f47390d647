# SPDX-License-Identifier: Apache-2.0
"""Opening: bytes that lay with the host become a keyring, or are refused by name.

1. the form: one version, one encoding, every bound         ``keyring_malformed``
2. a slot that may be used here gives the keyring key       ``slot_unavailable``,
                                                            ``slot_not_allowed``
3. the MAC over header, generations and slots; damaged
   slots are left out where an operator says so             ``keyring_tampered``
4. keyring id, trust domain, policy root, policy version    ``keyring_mismatch``
5. every slot is of a kind that header and trust domain
   allow                                                    ``slot_not_allowed``
6. the counter is not below the one that an anchor has      ``keyring_rolled_back``
7. every living generation opens in its place               ``keyring_tampered``

Until 3 nothing in the file is believed; stored parameters of slots are handed to the
slot's class, which believes of them only what cannot weaken its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring.faults import tampered
from tightseal.keys.keyring.generation import open_root
from tightseal.keys.keyring.opened import Keyring
from tightseal.keys.keyring.probe import SlotProbe, first_opening
from tightseal.keys.keyring.sealed import SealedKeyring, decode_keyring, sealed_by
from tightseal.keys.keyring.slot import Slot
from tightseal.keys.keyring.terms import (
    DamagedSlots,
    Terms,
    UnseenKeyring,
    check_slots,
)
from tightseal.model.keyring import KeyringAnchor
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotKey
from tightseal.model.state import AnchorClass

__all__ = ["OpenedKeyring", "open_keyring", "open_with_key"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedKeyring:
    """A keyring that passed every check, and how it was opened.

    Attributes:
        keyring: the keyring.
        slot: the slot that opened it; ``None`` where the keyring key was at hand.
        rewrap: why that slot should be made anew at once; empty where it need not.
        closed: slots tried before it that did not open, with the reasons.
        damaged: slots that were left out, since they are not as they were written.
        anchor: what would have noticed an older file.
        not_noticed: what would go unnoticed all the same, in words.
    """

    keyring: Keyring
    slot: Slot | None
    rewrap: str
    closed: tuple[SlotProbe, ...]
    damaged: tuple[Slot, ...]
    anchor: AnchorClass
    not_noticed: str


def open_keyring(
    data: bytes,
    *,
    terms: Terms,
    slot_keys: Sequence[SlotKey],
    anchor: KeyringAnchor | None,
    unseen: UnseenKeyring = UnseenKeyring.REFUSE,
    damaged: DamagedSlots = DamagedSlots.REFUSE,
) -> OpenedKeyring:
    """Open a keyring by the first of its slots that opens here.

    Reads the anchor and does not write it: see ``keep_opened``.

    Args:
        data: the file.
        terms: what this provider is, and which slots it may use.
        slot_keys: the ways to a slot's key that it has; several of one class are
            tried in turn. Each hands out a new ``Secret``, which is wiped.
        anchor: what remembers the counter; ``None`` where nothing does.
        unseen: what to do with a keyring that the anchor never saw.
        damaged: what to do with slots that are not as they were written.

    Raises:
        KeyReleaseError: as the list above says.
        ServiceError: ``state_unavailable``, where the anchor cannot be asked.
    """
    sealed = decode_keyring(data)
    found = first_opening(
        sealed.slots, slot_keys, terms=terms, keyring_id=sealed.header.keyring_id
    )
    try:
        intact = _intact(sealed, found.key, damaged)
        keyring = _checked(intact, found.key, terms, anchor, unseen)
    except BaseException:
        found.key.wipe()
        raise
    opened = _opened(keyring, anchor, found.slot, found.rewrap, found.closed)
    return replace(opened, damaged=sealed.damaged)


def open_with_key(
    data: bytes,
    *,
    key: Secret,
    terms: Terms,
    anchor: KeyringAnchor | None,
    unseen: UnseenKeyring = UnseenKeyring.REFUSE,
) -> OpenedKeyring:
    """Open a keyring whose keyring key is at hand: after a change, or a handoff.

    Every check but that a slot opens. ``key`` goes into the result and is not wiped.

    Raises:
        KeyReleaseError: as of ``open_keyring``, except the codes of its step 2.
        ServiceError: ``state_unavailable``, where the anchor cannot be asked.
    """
    sealed = _intact(decode_keyring(data), key, DamagedSlots.REFUSE)
    keyring = _checked(sealed, key, terms, anchor, unseen)
    return _opened(keyring, anchor, None, "", ())


def _intact(sealed: SealedKeyring, key: Secret, damaged: DamagedSlots) -> SealedKeyring:
    """The same without the slots that are damaged, where that is allowed."""
    sealed.check_mac(key)
    odd = sealed.damaged
    if not odd:
        return sealed
    names = ", ".join(str(slot) for slot in odd)
    if damaged is DamagedSlots.REFUSE or len(odd) == len(sealed.slots):
        raise tampered(f"slots that are not as they were written: {names}")
    return sealed_by(
        key,
        header=sealed.header,
        generations=sealed.generations,
        slots=tuple(slot for slot in sealed.slots if slot not in odd),
    )


def _checked(
    sealed: SealedKeyring,
    key: Secret,
    terms: Terms,
    anchor: KeyringAnchor | None,
    unseen: UnseenKeyring,
) -> Keyring:
    terms.check(sealed.header)
    check_slots(sealed.header, sealed.slots)
    if anchor is not None:
        _check_anchor(sealed, anchor, unseen)
    keyring = Keyring(
        header=sealed.header,
        generations=sealed.generations,
        slots=sealed.slots,
        key=key,
    )
    _check_roots(keyring)
    return keyring


def _check_anchor(
    sealed: SealedKeyring, anchor: KeyringAnchor, unseen: UnseenKeyring
) -> None:
    header = sealed.header
    latest = anchor.remembered(header.keyring_id)
    name = f"anchor {anchor.anchor_class.value}"
    if latest is None and unseen is UnseenKeyring.REFUSE:
        detail = f"{name} never saw keyring {header.keyring_id.hex()[:16]}"
        raise KeyReleaseError(Code.KEYRING_ROLLED_BACK, detail)
    if latest is not None and header.counter < latest:
        detail = f"counter {header.counter}, but {name} has seen {latest}"
        raise KeyReleaseError(Code.KEYRING_ROLLED_BACK, detail)


def _check_roots(keyring: Keyring) -> None:
    """A holder of the keyring key could have written what does not open."""
    keyring_id = keyring.header.keyring_id
    for generation in keyring.generations:
        if not generation.living:
            continue
        try:
            root = open_root(generation, key=keyring.key, keyring_id=keyring_id)
        except KeyReleaseError as e:
            raise tampered(f"generation {generation.number}: {e.detail}") from e
        root.wipe()


def _opened(
    keyring: Keyring,
    anchor: KeyringAnchor | None,
    slot: Slot | None,
    rewrap: str,
    closed: tuple[SlotProbe, ...],
) -> OpenedKeyring:
    kind = AnchorClass.NONE if anchor is None else anchor.anchor_class
    return OpenedKeyring(
        keyring=keyring,
        slot=slot,
        rewrap=rewrap,
        closed=closed,
        damaged=(),
        anchor=kind,
        not_noticed=kind.not_noticed,
    )
