# SPDX-License-Identifier: Apache-2.0
"""A keyring on its way to another provider: what crosses, and what becomes of it there.

    payload = ["tightseal-handed-keyring", 1, header, generations, slots]

Deterministic CBOR. The payload is what lies on disk anyway, without a MAC: the giver
signs it. What makes it a keyring is the keyring key, which crosses in an envelope. A
branch has a key of its own and no slots yet.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tightseal.errors import Code, KeyReleaseError, RequestError
from tightseal.keys.chain import tenant_node
from tightseal.keys.keyring import fields
from tightseal.keys.keyring.change import changed
from tightseal.keys.keyring.faults import malformed, mismatch, tampered
from tightseal.keys.keyring.generation import (
    MAX_GENERATIONS,
    Generation,
    open_root,
    seal_root,
)
from tightseal.keys.keyring.header import Branch, Header
from tightseal.keys.keyring.history import check_goes_on
from tightseal.keys.keyring.opened import Keyring
from tightseal.keys.keyring.probe import probe_slots, working
from tightseal.keys.keyring.sealed import MAX_KEYRING_BYTES, decode_keyring
from tightseal.keys.keyring.slot import MAX_SLOTS, Slot
from tightseal.keys.keyring.terms import Terms, check_slots
from tightseal.keys.keyring.wrap import make_slot
from tightseal.model.canonical import decode, encode
from tightseal.model.labels import Label
from tightseal.model.provider import branch_keyring_id
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotKey

__all__ = [
    "Handed",
    "branch_of",
    "decode_handed",
    "hand_over",
    "new_slots",
    "take_over",
]

_MAGIC: Final = "tightseal-handed-keyring"
_VERSION: Final = 1
_MEMBERS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """A keyring without its key, or a branch; nothing in it is proven.

    Attributes:
        header: whose it says it is.
        generations: by number, from 1.
        slots: those that the giver has; none of a branch.
    """

    header: Header
    generations: tuple[Generation, ...]
    slots: tuple[Slot, ...] = field(default=())

    def encode(self) -> bytes:
        """The payload.

        Raises:
            KeyReleaseError: ``keyring_malformed``, where it is too long.
        """
        data = encode(
            [
                _MAGIC,
                _VERSION,
                self.header.as_value(),
                [generation.as_value() for generation in self.generations],
                [slot.as_value() for slot in self.slots],
            ]
        )
        if len(data) > MAX_KEYRING_BYTES:
            raise malformed(f"payload of {len(data)} bytes")
        return data


def hand_over(keyring: Keyring, *, tenant: str | None) -> tuple[Handed, Secret]:
    """What crosses, and the key that opens it, which the caller wipes.

    Args:
        keyring: the giver's.
        tenant: whose branch crosses; ``None`` for the whole keyring.

    Raises:
        KeyReleaseError: ``key_not_in_branch``, where the keyring is a branch itself.
    """
    if tenant is not None:
        return branch_of(keyring, tenant)
    handed = Handed(
        header=keyring.header, generations=keyring.generations, slots=keyring.slots
    )
    return handed, Secret(keyring.key.reveal())


def branch_of(keyring: Keyring, tenant: str) -> tuple[Handed, Secret]:
    """One tenant's branch, under a key of its own.

    The branch's key is derived from the keyring key, so that the same branch handed
    over again opens what its provider keeps. It leads to no other branch.

    Raises:
        KeyReleaseError: ``key_not_in_branch``, where the keyring is a branch itself.
    """
    header = keyring.header
    if header.branch is not None:
        detail = f"this is the branch of {header.branch.tenant}: hand it over whole"
        raise KeyReleaseError(Code.KEY_NOT_IN_BRANCH, detail)
    keyring_id = branch_keyring_id(header.keyring_id, tenant)
    key = keyring.derive(Label.KDF_BRANCH_KEY, tenant)
    try:
        sealed = tuple(
            _in_branch(keyring, generation, key, keyring_id, tenant)
            for generation in keyring.generations
        )
        below = replace(
            header,
            keyring_id=keyring_id,
            branch=Branch(tenant=tenant, parent=header.keyring_id),
        )
        return Handed(header=below, generations=sealed), key
    except BaseException:
        key.wipe()
        raise


def _in_branch(
    keyring: Keyring,
    generation: Generation,
    key: Secret,
    keyring_id: bytes,
    tenant: str,
) -> Generation:
    if not generation.living:
        return generation
    header = keyring.header
    root = open_root(generation, key=keyring.key, keyring_id=header.keyring_id)
    try:
        node = tenant_node(root, trust_domain=header.trust_domain, tenant=tenant)
    finally:
        root.wipe()
    try:
        sealed = seal_root(
            node, key=key, keyring_id=keyring_id, number=generation.number
        )
    finally:
        node.wipe()
    return replace(generation, sealed=sealed)


def decode_handed(data: bytes) -> Handed:
    """Read a payload: one version, one encoding, every bound checked.

    Raises:
        KeyReleaseError: ``keyring_malformed``, with what is wrong.
    """
    try:
        found = decode(data, max_bytes=MAX_KEYRING_BYTES)
    except RequestError as e:
        raise malformed(e.detail) from e
    parts = fields.elements(found, _MEMBERS, "payload")
    if len(parts) != _MEMBERS or parts[0] != _MAGIC:
        raise malformed("not a keyring that was handed over")
    fields.whole(parts[1], _VERSION, _VERSION, "version of the payload")
    generations = fields.elements(parts[3], MAX_GENERATIONS, "generations")
    slots = fields.elements(parts[4], MAX_SLOTS, "slots")
    return Handed(
        header=Header.from_value(parts[2]),
        generations=tuple(Generation.from_value(value) for value in generations),
        slots=tuple(Slot.from_value(value) for value in slots),
    )


def take_over(
    handed: Handed,
    key: Secret,
    *,
    terms: Terms,
    slot_keys: Sequence[SlotKey],
    label: str,
    now: int,
    before: Keyring | None = None,
    ways: Sequence[SlotKey] = (),
    policy_version: int = 0,
) -> Keyring:
    """The keyring at its new provider, with slots of its own; they are the last ones.

    1. keyring id, trust domain, policy root, policy version    ``keyring_mismatch``
    2. the giver's slots are of allowed kinds                   ``slot_not_allowed``
    3. an older copy that lies there is of this keyring and
       key, and no newer                                        ``keyring_exists``
    4. a slot of each way that is handed in, which the header
       allows; at least one; or those of the older copy that
       open here                                                ``slot_unavailable``
    5. every living generation opens in its place               ``keyring_tampered``
    6. none of the older copy is lost, or has another root      ``keyring_rolled_back``

    That the slots open again is for the caller to try, before the file counts.

    Args:
        handed: as the giver signed it.
        key: the keyring key; goes into the result and is not wiped.
        terms: of the new provider, with the keyring id that it expects.
        slot_keys: what makes its slots; each that works becomes one.
        label: of these slots.
        now: Unix seconds.
        before: the older copy, where this provider has one. The result has a higher
            counter, so that no anchor takes it for the older one.
        ways: every way that slots of the older copy may open by; ``slot_keys`` too.
        policy_version: that the giver decided by; the result opens under no older one.

    Raises:
        KeyReleaseError: as the list says; ``keyring_malformed``, where the parts do not
            fit, or there would be too many slots.
    """
    terms.check(handed.header)
    check_slots(handed.header, handed.slots)
    known = {slot.slot_id for slot in handed.slots}
    own = None
    if before is not None:
        _require_older(before, handed, key)
        own = _kept_slots(before, known, (*slot_keys, *ways))
    if own is None:
        own = _own_slots(handed.header, key, slot_keys, label=label)
    if len(handed.slots) + len(own) > MAX_SLOTS:
        room = MAX_SLOTS - len(handed.slots)
        raise malformed(f"room for {room} slots, {len(own)} are needed: remove some")
    keyring = Keyring(
        header=_header(handed, before, policy_version),
        generations=handed.generations,
        slots=(*handed.slots, *own),
        key=key,
    )
    _check_roots(keyring)
    if before is not None:
        check_goes_on(before, keyring)
    as_given = not own and keyring.header == handed.header
    same = before is None or _same(before, keyring)
    behind = before is None or before.header.counter < handed.header.counter
    return keyring if as_given and (same or behind) else changed(keyring, now=now)


def _same(one: Keyring, other: Keyring) -> bool:
    return (one.generations, one.slots) == (other.generations, other.slots)


def _header(handed: Handed, before: Keyring | None, policy_version: int) -> Header:
    """The giver's, and nothing in it goes back behind what this provider had."""
    ours, theirs = None if before is None else before.header, handed.header
    known = (theirs,) if ours is None else (theirs, ours)
    return replace(
        theirs,
        counter=max(header.counter for header in known),
        changed_at=max(header.changed_at for header in known),
        minimum_policy_version=max(
            policy_version, *(header.minimum_policy_version for header in known)
        ),
    )


def _kept_slots(
    before: Keyring, known: Collection[bytes], ways: Sequence[SlotKey]
) -> tuple[Slot, ...] | None:
    """Slots of the older copy that the giver lacks; ``None`` where none opens here.

    Of a whole keyring only those that open here: any other may be one that was revoked
    at the giver, and must not come back with an older file. A branch has no slots at
    the giver, so there the copy is all that knows of them.
    """
    opening = working(probe_slots(before, ways))
    if not opening:
        return None
    unknown = tuple(slot for slot in before.slots if slot.slot_id not in known)
    if before.header.branch is not None:
        return unknown
    kept = tuple(slot for slot in unknown if slot.slot_id in opening)
    return kept if kept or opening & set(known) else None


def _require_older(before: Keyring, handed: Handed, key: Secret) -> None:
    ours, theirs = before.header, handed.header
    if ours.keyring_id != theirs.keyring_id:
        detail = f"keyring {ours.keyring_id.hex()} lies here already"
        raise KeyReleaseError(Code.KEYRING_EXISTS, detail)
    if before.key != key:
        detail = "the older copy is under another keyring key, which was renewed since"
        raise KeyReleaseError(Code.KEYRING_EXISTS, f"{detail}: move it and its state")
    if len(before.generations) > len(handed.generations):
        detail = f"the copy here has {len(before.generations)} generations, the other"
        raise KeyReleaseError(
            Code.KEYRING_EXISTS, f"{detail} one {len(handed.generations)}"
        )


def _own_slots(
    header: Header, key: Secret, slot_keys: Sequence[SlotKey], *, label: str
) -> tuple[Slot, ...]:
    made: list[Slot] = []
    refused: KeyReleaseError | None = None
    for slot_key in slot_keys:
        try:
            made.append(make_slot(slot_key, header=header, key=key, label=label))
        except KeyReleaseError as e:
            refused = e
    if made:
        return tuple(made)
    detail = refused.detail if refused else "no class of slots works here"
    raise KeyReleaseError(Code.SLOT_UNAVAILABLE, detail)


def _check_roots(keyring: Keyring) -> None:
    for generation in keyring.generations:
        if generation.living:
            open_root(
                generation, key=keyring.key, keyring_id=keyring.header.keyring_id
            ).wipe()


def new_slots(
    keyring: Keyring, data: bytes, *, made: Collection[bytes]
) -> tuple[Slot, ...]:
    """The slots that another provider made in its copy, and this one lacks.

    The copy's MAC shows that a holder of the keyring key wrote it, and not when: it may
    have slots that were removed here since. So nothing is taken over from it but what
    its provider says that it made, and nothing at all from one that is behind.

    Args:
        keyring: ours.
        data: the file of the other one.
        made: ids of the slots that its provider made.

    Raises:
        KeyReleaseError: ``keyring_malformed``, ``keyring_tampered``;
            ``keyring_mismatch``, where it is another keyring; ``slot_not_allowed``.
    """
    sealed = decode_keyring(data)
    sealed.check_mac(keyring.key)
    if sealed.damaged:
        raise tampered("a slot of the copy is not as it was written")
    ours, theirs = keyring.header, sealed.header
    if (ours.keyring_id, ours.trust_domain) != (theirs.keyring_id, theirs.trust_domain):
        raise mismatch(f"the copy is of keyring {theirs.keyring_id.hex()}")
    if len(sealed.generations) != len(keyring.generations):
        detail = f"the copy has {len(sealed.generations)} generations, here are"
        raise mismatch(f"{detail} {len(keyring.generations)}: join again")
    check_slots(ours, sealed.slots)
    if not set(made) <= {slot.slot_id for slot in sealed.slots}:
        raise mismatch("the copy lacks slots that are said to be in it")
    known = {slot.slot_id for slot in keyring.slots}
    return tuple(
        slot
        for slot in sealed.slots
        if slot.slot_id in made and slot.slot_id not in known
    )
