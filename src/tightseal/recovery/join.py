# SPDX-License-Identifier: Apache-2.0
"""The side that takes: a provider that was invited gets the keyring of another one.

    invitation -> challenge -> giver proves itself -> our evidence -> response -> open
    -> own slots -> file -> opened again from disk -> confirmed

What is written down is worth trust only if the giver is: whoever hands over a keyring
of his own making knows every key that comes from it. So the giver's four parts come
from an invitation that enough operators signed under the policy root that we pin, and
the policy has to name it as well.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Final

from tightseal.errors import Code, KeyReleaseError, ProviderError, ServiceError
from tightseal.keys.keyring import (
    Keyring,
    Loaded,
    Terms,
    decode_handed,
    keep,
    keep_new,
    open_keyring,
    probe_slots,
    take_over,
    working,
)
from tightseal.model.handoff import HandoffBody
from tightseal.model.secret import Secret
from tightseal.recovery.joiner import (
    Invited,
    Joiner,
    read_invitation,
    require_counter,
)
from tightseal.recovery.meeting import Giver, Meeting, Step

__all__ = ["STEPS", "Joined", "join", "rehearse"]

LABEL: Final = "joined"
"""Of the slots that a provider makes when it joins."""

STEPS: Final = (
    "invitation",
    "giver",
    "evidence",
    "handoff",
    "slots",
    "written",
    "reopened",
    "confirmed",
)
"""The steps in their order; each is told when it is done."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A keyring that lies here, and was opened from disk by a slot of its own.

    Attributes:
        keyring_id: 32 bytes.
        generation: the current one.
        generations: how many there are, destroyed ones too.
        counter: of the keyring.
        slots: ids of our slots.
        tenant: whose branch it is; ``None`` for the whole.
        confirmed: whether the giver knows; else why it could not be told.
    """

    keyring_id: bytes
    generation: int
    generations: int
    counter: int
    slots: tuple[bytes, ...]
    tenant: str | None
    confirmed: str


def rehearse(joiner: Joiner, giver: Giver, invitation: bytes, *, done: Step) -> None:
    """Do everything but hand over: both sides prove themselves, a slot is tried.

    Writes nothing, and leaves the invitation as it is.

    Raises:
        TightsealError: as :func:`join`.
    """
    invited = read_invitation(joiner, invitation)
    done("invitation", f"for {invited.joiner.measurement.hex()[:16]}…")
    meeting = Meeting(joiner, giver, invited, rehearsal=True)
    meeting.meet(done)
    meeting.ask(done)
    _try_slots(joiner, invited)
    done("slots", "made, and opened again")


def join(joiner: Joiner, giver: Giver, invitation: bytes, *, done: Step) -> Joined:
    """Take a keyring over, and prove that it opens here.

    May be called again with the same invitation, on the same machine, until it was
    confirmed: what lies here already is kept.

    Args:
        joiner: what we are.
        giver: the other provider.
        invitation: file of the signed action.
        done: is told of each of ``STEPS``.

    Raises:
        RequestError: the invitation is malformed, expired, not for this policy root, or
            not signed by a role of the policy.
        PolicyError: ``peer_identity_mismatch``, where it is for another provider than
            us; ``provider_not_allowed``, where the policy does not name the giver.
        ProviderError: the giver is not the one that was named (codes of a guest), or
            what it sent is not what was agreed: ``handoff_invalid``.
        PlatformError: we can make no evidence.
        KeyReleaseError: the keyring does not fit this provider, or no slot works here.
        ServiceError: the file system failed.
    """
    invited = read_invitation(joiner, invitation)
    done("invitation", f"for {invited.joiner.measurement.hex()[:16]}…")
    meeting = Meeting(joiner, giver, invited, rehearsal=False)
    meeting.meet(done)
    body = meeting.ask(done)
    key = meeting.open(body)
    try:
        return _keep(joiner, invited, meeting, body, key, done)
    finally:
        key.wipe()


def _keep(
    joiner: Joiner,
    invited: Invited,
    meeting: Meeting,
    body: HandoffBody,
    key: Secret,
    done: Step,
) -> Joined:
    """Own slots, file, and opened again from disk; then the giver is told."""
    terms = replace(joiner.terms, keyring_id=invited.joiner.keyring_id)
    handed_over = decode_handed(body.payload)
    require_counter(handed_over.header.counter, invited.invite)
    before = _older_copy(joiner, terms)
    keyring = take_over(
        handed_over,
        key,
        terms=terms,
        slot_keys=joiner.own,
        label=LABEL,
        now=joiner.clock(),
        before=None if before is None else before[1],
        ways=joiner.slot_keys,
        policy_version=body.policy.version,
    )
    good = working(probe_slots(keyring, joiner.slot_keys))
    handed = {slot.slot_id for slot in handed_over.slots}
    made = tuple(s.slot_id for s in keyring.slots if s.slot_id not in handed)
    own = tuple(slot for slot in made if slot in good)
    if not own and before is not None:
        # Those of an earlier handoff, which the giver has.
        own = tuple(sorted(good))
    if not own:
        detail = "no slot that was made here opens again"
        raise KeyReleaseError(Code.SLOT_UNAVAILABLE, detail)
    done("slots", f"{len(own)} open here")
    if before is None:
        saved = keep_new(joiner.file, keyring, anchor=None)
    else:
        saved = keep(joiner.file, keyring, replaces=before[0], anchor=None)
    done("written", f"counter {keyring.header.counter}")
    loaded = joiner.file.load()
    if loaded.digest != saved.digest:
        # An older file of ours opens too, and would bring back what was removed.
        detail = "the file is not the one that was just written"
        raise ServiceError(Code.STATE_CONFLICT, detail)
    opened = open_keyring(
        loaded.data, terms=terms, slot_keys=joiner.slot_keys, anchor=None
    )
    opened.keyring.wipe()
    done("reopened", f"from disk, by slot {opened.slot}")
    confirmed = _confirm(meeting, loaded.data, own)
    done("confirmed", confirmed or "the giver knows")
    return Joined(
        keyring_id=keyring.header.keyring_id,
        generation=keyring.current.number,
        generations=len(keyring.generations),
        counter=keyring.header.counter,
        slots=own,
        tenant=invited.invite.tenant,
        confirmed=confirmed,
    )


def _confirm(meeting: Meeting, data: bytes, own: tuple[bytes, ...]) -> str:
    """Why the giver could not be told; empty where it was. The keyring is here."""
    try:
        meeting.confirm(data, own)
    except ProviderError as e:
        return f"{e.code.value}: {e.detail}"
    return ""


def _older_copy(joiner: Joiner, terms: Terms) -> tuple[Loaded, Keyring] | None:
    """What lies here of an earlier handoff; opened by our own slots.

    Raises:
        KeyReleaseError: it is another keyring, or does not open here.
    """
    try:
        loaded = joiner.file.load()
    except KeyReleaseError as e:
        if e.code is not Code.KEYRING_MISSING:
            raise
        return None
    opened = open_keyring(
        loaded.data, terms=terms, slot_keys=joiner.slot_keys, anchor=None
    )
    return loaded, opened.keyring


def _try_slots(joiner: Joiner, invited: Invited) -> None:
    """That a slot can be made here, and opens again; the key belongs to nothing."""
    keyring_id = invited.joiner.keyring_id
    slot_id = hashlib.sha256(invited.hash).digest()[:16]
    refused = "no class of slots works here"
    for slot_key in joiner.own:
        try:
            parameters, made = slot_key.create(keyring_id=keyring_id, slot_id=slot_id)
            again = slot_key.open(parameters, keyring_id=keyring_id, slot_id=slot_id)
        except KeyReleaseError as e:
            refused = e.detail
            continue
        same = made == again
        made.wipe()
        again.wipe()
        if same:
            return
        refused = f"{slot_key.slot_class.value}: another key when opened again"
    raise KeyReleaseError(Code.SLOT_UNAVAILABLE, refused)
