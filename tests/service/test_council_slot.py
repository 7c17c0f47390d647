# SPDX-License-Identifier: Apache-2.0
"""A slot of class ``council`` that is handed in: made, opened, combined, kept."""

import hashlib
from collections.abc import Mapping

import pytest

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring import (
    Terms,
    add_slot,
    new_keyring,
    open_keyring,
    probe_slots,
    remove_slot,
    working,
)
from tightseal.model.canonical import Value
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass, SlotKey
from tightseal.platform.slots.derive import Place, sealed, unavailable, unsealed
from tightseal.platform.slots.gramine import GramineSlot
from tightseal.platform.slots.passphrase import PassphraseSlot
from tightseal.service.slotkeys import SlotKeys
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.slots import SimEnclaveKeys
from tightseal_sim.world import World

# A vendor's trust domain: a second factor alone counts for nothing in it.
TERMS = Terms(trust_domain="intel", policy_root=None, policy_version=0)
QUORUM = 2


class Council:
    """People of whom two are enough; all of the secret where they are there."""

    def __init__(self, present: int = QUORUM, secret: bytes = b"shares") -> None:
        self._present = present
        self._secret = secret

    @property
    def slot_class(self) -> SlotClass:
        return SlotClass.COUNCIL

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        place = Place(self.slot_class, keyring_id=keyring_id, slot_id=slot_id)
        return sealed(self._material(), {"threshold": QUORUM}, place)

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        place = Place(self.slot_class, keyring_id=keyring_id, slot_id=slot_id)
        return unsealed(self._material(), parameters, place, causes="other shares")

    def _material(self) -> Secret:
        if self._present < QUORUM:
            why = f"{self._present} shares, {QUORUM} are needed"
            raise unavailable(self.slot_class, why)
        return Secret(hashlib.sha256(self._secret).digest())


def gramine(machine: str = "host") -> SlotKey:
    enclave = World.in_memory(b"\x2b" * 32).intel.platform(machine)
    keys = SimEnclaveKeys(enclave.load_enclave(EnclaveImage(name="provider")))
    return GramineSlot(keys, allow_signer=False)


def passphrase(text: bytes = b"correct horse battery staple") -> SlotKey:
    return PassphraseSlot(lambda: Secret(text))


def keyring_file(*slot_keys: SlotKey) -> bytes:
    return new_keyring(
        slot_keys,
        trust_domain=TERMS.trust_domain,
        policy_root=None,
        minimum_policy_version=0,
        slot_classes=tuple(SlotClass),
        now=1,
    ).seal()


def test_it_opens_a_keyring_whose_machine_is_lost() -> None:
    data = keyring_file(gramine(), Council())
    ours = open_keyring(data, terms=TERMS, slot_keys=[gramine()], anchor=None)
    elsewhere = [gramine("another"), Council()]
    opened = open_keyring(data, terms=TERMS, slot_keys=elsewhere, anchor=None)
    assert opened.slot is not None
    assert opened.slot.slot_class is SlotClass.COUNCIL
    assert opened.keyring.root(1) == ours.keyring.root(1)
    assert [probe.slot.slot_class for probe in opened.closed] == [SlotClass.GRAMINE]


@pytest.mark.parametrize(
    ("council", "words"),
    [(Council(1), "1 shares, 2 are needed"), (Council(2, b"other"), "other shares")],
    ids=["too few", "other shares"],
)
def test_without_its_people_it_stays_closed(council: Council, words: str) -> None:
    with pytest.raises(KeyReleaseError, match=words) as caught:
        open_keyring(
            keyring_file(Council()), terms=TERMS, slot_keys=[council], anchor=None
        )
    assert caught.value.code is Code.SLOT_UNAVAILABLE


def test_beside_a_second_factor_both_are_needed() -> None:
    factors = {SlotClass.COUNCIL: Council(), SlotClass.PASSPHRASE: passphrase()}
    slots = SlotKeys(factors)
    both = slots.choose(SlotClass.COUNCIL, SlotClass.PASSPHRASE)
    data = keyring_file(both)
    opened = open_keyring(data, terms=TERMS, slot_keys=slots.every, anchor=None)
    assert opened.slot is not None
    assert opened.slot.factors == (SlotClass.COUNCIL, SlotClass.PASSPHRASE)
    factors[SlotClass.PASSPHRASE] = passphrase(b"another horse battery")
    with pytest.raises(KeyReleaseError, match="another passphrase"):
        open_keyring(data, terms=TERMS, slot_keys=SlotKeys(factors).every, anchor=None)


def test_it_can_be_the_last_slot_and_is_not_removed_then() -> None:
    slot_keys = [gramine(), Council()]
    data = keyring_file(*slot_keys)
    opened = open_keyring(data, terms=TERMS, slot_keys=slot_keys, anchor=None)
    first, second = opened.keyring.slots
    good = working(probe_slots(opened.keyring, slot_keys))
    left = remove_slot(opened.keyring, first.slot_id, working=good, now=2)
    assert [slot.slot_class for slot in left.slots] == [SlotClass.COUNCIL]
    with pytest.raises(KeyReleaseError, match="no other slot") as caught:
        remove_slot(left, second.slot_id, working=good, now=3)
    assert caught.value.code is Code.SLOT_LAST


def test_one_that_does_not_open_now_holds_no_place() -> None:
    data = keyring_file(gramine(), Council())
    ours = [gramine(), Council(0)]
    opened = open_keyring(data, terms=TERMS, slot_keys=ours, anchor=None)
    good = working(probe_slots(opened.keyring, ours))
    with pytest.raises(KeyReleaseError) as caught:
        remove_slot(
            opened.keyring, opened.keyring.slots[0].slot_id, working=good, now=2
        )
    assert caught.value.code is Code.SLOT_LAST


def test_it_is_added_to_a_keyring_and_left_alone_at_a_start() -> None:
    data = keyring_file(gramine())
    opened = open_keyring(data, terms=TERMS, slot_keys=[gramine()], anchor=None)
    more = add_slot(opened.keyring, Council(), label="five people", now=2)
    assert str(more.slots[1]).startswith("council ")
    slots = SlotKeys({SlotClass.GRAMINE: gramine(), SlotClass.COUNCIL: Council()})
    assert [key.slot_class for key in slots.of_platform] == [SlotClass.GRAMINE]
