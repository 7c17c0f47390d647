# SPDX-License-Identifier: Apache-2.0
"""Hosts, networks and old files against handoff, revocation and the shared keyring."""

import hmac
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from desk_rig import (
    Asking,
    Giving,
    asking,
    clock,
    giving,
    invitation,
    joined,
    next_name,
    refusal,
    revoke,
)

from handoff_scene import Site
from tightseal.errors import Code
from tightseal.keys.keyring import (
    Keyring,
    KeyringFile,
    Terms,
    add_slot,
    decode_handed,
    decode_keyring,
    hand_over,
    new_keyring,
    new_slots,
    prepare,
    remove_slot,
    rotate,
    take_over,
)
from tightseal.model.canonical import Value
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.platform.door import open_platform
from tightseal.recovery.join import join
from tightseal.release.keyring import KeyringKeeper, StoreAnchor, Ways
from tightseal.release.sharing import StoreShare
from tightseal.service.retire import retire, successors
from tightseal.service.roots import ways_of
from tightseal.state.memory import MemoryEngine
from tightseal.state.seal import Sealer
from tightseal.state.store import SealedStore
from tightseal_sim.scene import Scene

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

NOW = 1_790_000_000


def ids(keyring: Keyring) -> set[bytes]:
    return {slot.slot_id for slot in keyring.slots}


def rotated(keyring: Keyring) -> Keyring:
    return rotate(keyring, now=clock())


# -- the confirmation ---------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
def test_confirmation_sent_again_after_a_revocation(
    site: Site, giver: Giving, joiner: Asking, *, named: bool
) -> None:
    """Whoever saw it on the way has it, and the keyring key is still the same."""
    action_id = secrets.token_bytes(16)
    direct = giver.direct()
    invited = invitation(site, giver, joiner.candidate.parts, action_id=action_id)
    done = joined(joiner, direct, invited)
    revoke(site, giver, done.slots, action_id if named else None)
    counter = giver.keeper.keyring.header.counter
    again = lambda: giver.provider.confirm_handoff(direct.sent[-1], now=clock())  # noqa: E731
    if named:
        assert refusal(again).code is Code.PROVIDER_REVOKED
    else:
        again()
    assert not ids(giver.keeper.keyring) & set(done.slots)
    assert giver.keeper.keyring.header.counter == counter


def test_confirmation_sent_again_after_its_slots_were_removed(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    """Nothing rotated, so the copy in it is not behind."""
    direct = giver.direct()
    done = joined(joiner, direct, invitation(site, giver, joiner.candidate.parts))

    def removed(keyring: Keyring) -> Keyring:
        for slot_id in done.slots:
            working = ids(keyring) - {slot_id}
            keyring = remove_slot(keyring, slot_id, working=working, now=clock())
        return keyring

    counter = giver.keeper.change(removed).header.counter
    giver.provider.confirm_handoff(direct.sent[-1], now=clock())
    assert not ids(giver.keeper.keyring) & set(done.slots)
    assert giver.keeper.keyring.header.counter == counter


def test_one_that_never_confirmed_is_revoked_by_its_invitation(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    """Its slots are unknown here; what it may still say must not bring them in."""
    action_id = secrets.token_bytes(16)
    invited = invitation(site, giver, joiner.candidate.parts, action_id=action_id)
    before = ids(giver.keeper.keyring)

    def late(body: bytes) -> bytes:
        revoke(site, giver, (), action_id)
        return body

    held = giver.direct(on_confirm=late)
    error = refusal(lambda: joined(joiner, held, invited))
    assert error.code is Code.PROVIDER_REVOKED
    assert ids(giver.keeper.keyring) == before
    assert giver.keeper.generations().current == 2
    error = refusal(lambda: joined(joiner, giver.direct(), invited))
    assert error.code is Code.PROVIDER_REVOKED


def test_confirmation_held_back_over_a_rotation(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    """Operators rotated since they thought that it never arrived."""
    invited = invitation(site, giver, joiner.candidate.parts)
    before = ids(giver.keeper.keyring)

    def late(body: bytes) -> bytes:
        giver.keeper.change(rotated)
        return body

    held = giver.direct(on_confirm=late)
    error = refusal(lambda: joined(joiner, held, invited))
    assert error.code is Code.KEYRING_MISMATCH
    assert ids(giver.keeper.keyring) == before
    # The joiner gets what it missed, by the same invitation.
    assert joined(joiner, giver.direct(), invited).generations == 2
    assert ids(giver.keeper.keyring) > before


def test_older_file_put_in_place_before_it_is_confirmed(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    """It opens too, and has a slot that was removed at the giver since."""
    first = invitation(site, giver, joiner.candidate.parts)
    joined(joiner, giver.direct(), first)
    older = joiner.file.read_bytes()
    giver.keeper.change(rotated)

    def swap(step: str, _what: str) -> None:
        if step == "written":
            joiner.file.write_bytes(older)

    again = invitation(site, giver, joiner.candidate.parts)
    counter = giver.keeper.keyring.header.counter
    error = refusal(lambda: join(joiner.joiner, giver.direct(), again, done=swap))
    assert error.code is Code.STATE_CONFLICT
    assert giver.keeper.keyring.header.counter == counter


# -- an older copy at the joiner ----------------------------------------------------


def test_older_copy_does_not_bring_revoked_slots_back(
    site: Site, bundle: bytes, giver: Giving, joiner: Asking
) -> None:
    other = _on_another_machine(site, bundle)
    gone = joined(
        other, giver.direct(), invitation(site, giver, other.candidate.parts)
    ).slots
    joined(joiner, giver.direct(), invitation(site, giver, joiner.candidate.parts))
    revoke(site, giver, gone)
    again = invitation(site, giver, joiner.candidate.parts)
    assert joined(joiner, giver.direct(), again).generations == 2
    assert not ids(giver.keeper.keyring) & set(gone)
    sealed = decode_keyring(joiner.file.read_bytes())
    assert not {slot.slot_id for slot in sealed.slots} & set(gone)


def _on_another_machine(site: Site, bundle: bytes) -> Asking:
    name = f"far-{next_name('')}"
    return asking(site, bundle, name, clock=clock, machine="machine-c")


def test_joined_provider_opens_under_no_older_policy(scene_site: Site) -> None:
    scene_site.bundle()
    newer = scene_site.bundle()
    with giving(scene_site, newer, "newer", clock=clock) as giver:
        asked = asking(scene_site, newer, "fresh", clock=clock)
        invited = invitation(scene_site, giver, asked.candidate.parts)
        joined(asked, giver.direct(), invited)
    keeper = KeyringKeeper(ways_of(asked.candidate.settings, asked.candidate.platform))
    version = asked.candidate.bundle.version
    keeper.check_policy(version)
    error = refusal(lambda: keeper.check_policy(version - 1))
    assert error.code is Code.KEYRING_MISMATCH


@pytest.fixture
def scene_site(tmp_path: Path) -> Iterator[Site]:
    with Scene(tmp_path) as scene:
        yield Site(scene)


# -- retirement ---------------------------------------------------------------------


def test_keyring_that_rotated_since_is_not_retired(
    site: Site, bundle: bytes, joiner: Asking
) -> None:
    """The newest root would be on no machine at all."""
    name = f"giver-{next_name('')}"
    with giving(site, bundle, name, clock=clock) as giver:
        joined(joiner, giver.direct(), invitation(site, giver, joiner.candidate.parts))
        settings = giver.composed.front.settings
        own = giver.keeper.keyring.slots
    kind = settings.host.platform
    platform = open_platform(kind.kind.value, kind.options())
    assert successors(settings, platform, now=clock())
    older = giver.file.read_bytes()
    KeyringKeeper(ways_of(settings, platform)).change(rotated)
    error = refusal(lambda: retire(settings, platform, now=clock()))
    assert error.code is Code.SUCCESSOR_MISSING
    assert giver.file.exists()
    giver.file.write_bytes(older)
    first = {slot.slot_id for slot in own if slot.label == "first"}
    # All that open here, for whoever revokes them.
    assert set(retire(settings, platform, now=clock())) == first
    assert not giver.file.exists()


# -- in one process -----------------------------------------------------------------


class Machine:
    """A slot key that one machine has."""

    slot_class = SlotClass.GRAMINE

    def __init__(self, name: bytes) -> None:
        self.name = name

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        return {}, self.open({}, keyring_id=keyring_id, slot_id=slot_id)

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        del parameters
        key = hmac.digest(b"machine", self.name, "sha256")
        return Secret(hmac.digest(key, keyring_id + slot_id, "sha256"))


ROOT = b"r" * 32
TERMS = Terms(trust_domain="intel", policy_root=ROOT, policy_version=3)
A, B = Machine(b"a"), Machine(b"b")


def whole(*machines: Machine) -> Keyring:
    return new_keyring(
        machines,
        trust_domain="intel",
        policy_root=ROOT,
        minimum_policy_version=0,
        slot_classes=frozenset(SlotClass),
        now=NOW,
    )


def given(keyring: Keyring, before: Keyring | None, tenant: str | None) -> Keyring:
    handed, key = hand_over(keyring, tenant=tenant)
    return take_over(
        decode_handed(handed.encode()),
        key,
        terms=TERMS,
        slot_keys=[B],
        label="joined",
        now=NOW,
        before=before,
    )


@pytest.mark.parametrize("tenant", [None, "acme"], ids=["whole", "branch"])
def test_keyring_taken_again_counts_on_from_the_older_copy(tenant: str | None) -> None:
    """Else anchor and store of this provider go on with the older one."""
    parent = whole(A)
    copy = given(parent, None, tenant)
    for _ in range(4):
        copy = add_slot(copy, B, now=NOW)
    parent = prepare(parent, now=NOW)
    again = given(parent, copy, tenant)
    assert len(again.generations) == 2
    assert again.header.counter > copy.header.counter
    assert ids(again) >= ids(copy)


def test_older_copy_that_no_slot_opens_gets_a_new_one() -> None:
    parent = whole(A)
    copy = given(parent, None, None)
    bare = add_slot(copy, A, now=NOW)
    bare = remove_slot(bare, copy.slots[-1].slot_id, working=ids(bare), now=NOW)
    again = given(parent, bare, None)
    assert ids(again) - ids(parent)
    assert not ids(again) & (ids(bare) - ids(parent))


def test_slots_that_the_joiner_did_not_make_are_not_taken() -> None:
    """Its file may be one from before they were removed."""
    ours = whole(A)
    theirs = add_slot(add_slot(ours, A, label="removed since", now=NOW), B, now=NOW)
    made = theirs.slots[-1]
    assert new_slots(ours, theirs.seal(), made=[made.slot_id]) == (made,)
    error = refusal(lambda: new_slots(ours, theirs.seal(), made=[b"\x01" * 16]))
    assert error.code is Code.KEYRING_MISMATCH
    later = rotate(ours, now=NOW)
    error = refusal(lambda: new_slots(later, theirs.seal(), made=[made.slot_id]))
    assert error.code is Code.KEYRING_MISMATCH


# -- the shared store ---------------------------------------------------------------


class Fleet:
    """Machines over one store, each with a file of its own."""

    def __init__(self, folder: Path, first: Keyring) -> None:
        self.folder, self.first = folder, first.seal()
        self.engine = MemoryEngine()
        SealedStore.new(self.engine, self.sealer())

    @staticmethod
    def sealer() -> Sealer:
        return Sealer(Secret(b"k" * 32), trust_domain="intel")

    def path(self, machine: Machine) -> Path:
        return self.folder / machine.name.decode()

    def alone(self, machine: Machine) -> KeyringKeeper:
        path = self.path(machine)
        if not path.exists():
            path.write_bytes(self.first)
        return KeyringKeeper(
            Ways(file=KeyringFile(path), slot_keys=(machine,), terms=TERMS)
        )

    def start(self, machine: Machine) -> KeyringKeeper:
        keeper, now = self.alone(machine), lambda: NOW
        store = SealedStore.attach(self.engine, self.sealer())
        keeper.anchor_with(StoreAnchor(store, now), StoreShare(store, now))
        return keeper


def without(slot_id: bytes) -> Callable[[Keyring], Keyring]:
    def change(keyring: Keyring) -> Keyring:
        working = ids(keyring) - {slot_id}
        return rotated(remove_slot(keyring, slot_id, working=working, now=NOW))

    return change


def test_revoked_provider_does_not_catch_up_from_its_older_file(tmp_path: Path) -> None:
    """The host needs no memory of it: the genuine image, its old file, the store."""
    first = whole(A, B)
    fleet = Fleet(tmp_path, first)
    stays, goes = fleet.start(A), fleet.start(B)
    stays.change(without(first.slots[1].slot_id))
    assert refusal(goes.look).code is Code.SLOT_UNAVAILABLE
    assert goes.generations().current == 1
    assert refusal(lambda: goes.change(rotated)).code is Code.SLOT_UNAVAILABLE
    assert refusal(lambda: fleet.start(B)).code is Code.SLOT_UNAVAILABLE
    # Nor from the others' file, put beside the process that still runs.
    fleet.path(B).write_bytes(fleet.path(A).read_bytes())
    assert refusal(goes.look).code is Code.SLOT_UNAVAILABLE
    assert goes.generations().current == 1


@pytest.mark.parametrize("turns", [0, 3], ids=["lacks it", "has another"])
def test_copy_from_before_a_rotation_is_not_published(
    tmp_path: Path, turns: int
) -> None:
    """It was made to count on from there, by the genuine image on its own."""
    first = whole(A, B)
    fleet = Fleet(tmp_path, first)
    stays = fleet.start(A)
    stays.change(without(first.slots[1].slot_id))
    fork = fleet.alone(B)
    for _ in range(12):
        fork.change(lambda keyring: add_slot(keyring, B, now=NOW))
    for _ in range(turns):
        fork.change(rotated)
    assert fork.keyring.header.counter > stays.keyring.header.counter
    root = stays.root(2)
    assert refusal(lambda: fleet.start(B)).code is Code.KEYRING_ROLLED_BACK
    # Put in the place of the other one's file, it changes nothing either.
    fleet.path(A).write_bytes(fleet.path(B).read_bytes())
    assert refusal(stays.look).code in {
        Code.KEYRING_ROLLED_BACK,
        Code.SLOT_UNAVAILABLE,
    }
    assert stays.root(2) == root
    assert stays.generations().current == 2
