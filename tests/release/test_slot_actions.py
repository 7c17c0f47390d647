# SPDX-License-Identifier: Apache-2.0
"""Slots of a provider's keyring are changed by signed actions, with what it has."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from release_rig import NOW, provider_enclave
from rooted_rig import Rooted, document_of, rooted

from tightseal.errors import Code, TightsealError
from tightseal.keys.keyring import (
    Keyring,
    KeyringFile,
    Terms,
    keep_new,
    new_keyring,
    open_keyring,
    rewrap_slot,
)
from tightseal.model.action import (
    Action,
    ActionKind,
    KeyringParameters,
    SlotParameters,
)
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.platform.slots.door import platform_slots
from tightseal.platform.slots.passphrase import PassphraseSlot
from tightseal.release.keyring import POLICY_NOT_YET_KNOWN, KeyringKeeper, Ways
from tightseal.service.slotkeys import SlotKeys
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World

ADD, REMOVE, RENEW = (
    ActionKind.ADD_SLOT,
    ActionKind.REMOVE_SLOT,
    ActionKind.RENEW_SLOTS,
)
GRAMINE, SGX = SlotClass.GRAMINE, SlotClass.SGX


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"slots by signed action".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


class Desk:
    """A provider whose operators sign, and the slots that it can make."""

    def __init__(self, found: Rooted, path: Path) -> None:
        self.found = found
        self.path = path
        self.number = 0
        own = dict(platform_slots("sim", found.platform, allow_signer=False))
        secret = b"correct horse battery staple"
        own[SlotClass.PASSPHRASE] = PassphraseSlot(lambda: Secret(secret))
        self.slots = SlotKeys(own)
        self.domain = str(found.world.intel.trusted_root.trust_domain)
        made = new_keyring(
            [own[GRAMINE]],
            labels=["first"],
            trust_domain=self.domain,
            policy_root=found.approvers.policy_root,
            minimum_policy_version=0,
            slot_classes=frozenset(SlotClass),
            now=NOW,
        )
        keep_new(KeyringFile(path), made, anchor=None)
        found.roots = self.keeper = self.another()
        found.slots = lambda: self.slots

    @property
    def ways(self) -> Ways:
        terms = Terms(
            trust_domain=self.domain,
            policy_root=self.found.approvers.policy_root,
            policy_version=POLICY_NOT_YET_KNOWN,
        )
        file = KeyringFile(self.path)
        return Ways(file=file, slot_keys=self.slots.every, terms=terms)

    def another(self) -> KeyringKeeper:
        """As another worker, or the next start."""
        return KeyringKeeper(self.ways)

    def ask(
        self, kind: ActionKind, *, counter: int | None = None, **asked: object
    ) -> bytes:
        self.number += 1
        now = self.keeper.keyring.header.counter if counter is None else counter
        form = SlotParameters if kind in {ADD, REMOVE, RENEW} else KeyringParameters
        action = Action(
            kind=kind,
            policy_root=self.found.approvers.policy_root,
            keyring_id=self.keeper.keyring_id,
            action_id=bytes([self.number]) * 16,
            issued_at=NOW,
            expires_at=NOW + 3600,
            parameters=form(now, **asked),  # type: ignore[arg-type]
        )
        return self.found.approvers.action(action)

    def act(self, kind: ActionKind, **asked: object) -> Keyring:
        self.perform(self.ask(kind, **asked))  # type: ignore[arg-type]
        return self.keeper.keyring

    def perform(self, action: bytes) -> None:
        self.found.provider.act(action, now=NOW)

    def refused(self, action: bytes) -> TightsealError:
        before, entries = self.path.read_bytes(), self.found.journal.latest()
        with pytest.raises(TightsealError) as raised:
            self.perform(action)
        assert self.path.read_bytes() == before
        assert self.found.journal.latest() == entries
        return raised.value

    def opened_by(self, slot_class: SlotClass) -> Keyring:
        opened = open_keyring(
            self.path.read_bytes(),
            terms=self.ways.terms,
            slot_keys=[self.slots.factors[slot_class]],
            anchor=None,
        )
        return opened.keyring


@pytest.fixture
def desk(world: World, td: SimTd, tmp_path: Path) -> Iterator[Desk]:
    with rooted(world, tmp_path) as found:
        made = Desk(found, tmp_path / "keyring.tsk")
        keys = ", ".join(f'"{key.public_key.hex()}"' for key in found.approvers.keys)
        kinds = ", ".join(
            f'"{kind.value}"'
            for kind in (
                *(ADD, REMOVE, RENEW),
                ActionKind.PREPARE_GENERATION,
                ActionKind.RETIRE_GENERATION,
                ActionKind.ROTATE_KEYRING,
                ActionKind.DESTROY_GENERATION,
            )
        )
        role = (
            f'version = 1\n[[role]]\nname = "keepers"\nthreshold = 2\nkeys = [{keys}]\n'
            f"actions = [{kinds}]\n"
        )
        found.publish(document_of(world, td), role)
        yield made


def test_a_slot_is_added_and_opens_by_itself(desk: Desk) -> None:
    after = desk.act(ADD, factors=(SGX,), label="second")
    assert [str(slot.factors[0]) for slot in after.slots] == ["gramine", "sgx"]
    assert after.slots[1].label == "second"
    assert desk.opened_by(SGX).root(1).reveal() == after.root(1).reveal()
    assert desk.another().keyring.header.counter == 2


def test_a_slot_of_two_factors_opens_by_both_alone(desk: Desk) -> None:
    after = desk.act(ADD, factors=(SGX, SlotClass.PASSPHRASE))
    assert after.slots[1].factors == (SGX, SlotClass.PASSPHRASE)
    with pytest.raises(TightsealError) as raised:
        desk.opened_by(SGX)
    assert raised.value.code is Code.SLOT_UNAVAILABLE


def test_a_slot_is_removed_once_another_one_opens(desk: Desk) -> None:
    first = desk.keeper.keyring.slots[0]
    last = desk.refused(desk.ask(REMOVE, slot=first.slot_id))
    assert last.code is Code.SLOT_LAST
    desk.act(ADD, factors=(SGX,))
    after = desk.act(REMOVE, slot=first.slot_id)
    assert [slot.slot_class for slot in after.slots] == [SGX]
    assert desk.opened_by(SGX).header.counter == 3


def test_the_last_slot_that_works_is_kept(desk: Desk) -> None:
    """Another slot is there, and is another machine's: it would open nothing here."""
    desk.act(ADD, factors=(SGX,))
    first, second = desk.keeper.keyring.slots
    other = provider_enclave(desk.found.world, "another")
    away = platform_slots("sim", other, allow_signer=False)
    desk.keeper.change(lambda k: rewrap_slot(k, second.slot_id, away[SGX], now=NOW))
    refused = desk.refused(desk.ask(REMOVE, slot=first.slot_id))
    assert refused.code is Code.SLOT_LAST
    after = desk.act(REMOVE, slot=second.slot_id)
    assert after.slots == (first,)


def test_every_slot_that_opens_is_made_anew(desk: Desk) -> None:
    before = desk.act(ADD, factors=(SGX,), label="second")
    after = desk.act(RENEW)
    assert [s.slot_id for s in after.slots] == [s.slot_id for s in before.slots]
    assert [s.label for s in after.slots] == ["first", "second"]
    for old, new in zip(before.slots, after.slots, strict=True):
        assert old.wrapped != new.wrapped
    for name in (GRAMINE, SGX):
        assert desk.opened_by(name).generations == after.generations


def test_one_slot_is_made_anew_and_the_others_stay(desk: Desk) -> None:
    before = desk.act(ADD, factors=(SGX,))
    after = desk.act(RENEW, slot=before.slots[1].slot_id)
    assert after.slots[0] == before.slots[0]
    assert after.slots[1].wrapped != before.slots[1].wrapped


def test_a_slot_that_does_not_open_is_left_alone_unless_it_is_named(
    desk: Desk,
) -> None:
    second = desk.act(ADD, factors=(SGX,)).slots[1]
    other = provider_enclave(desk.found.world, "another")
    away = platform_slots("sim", other, allow_signer=False)[SGX]
    desk.keeper.change(lambda k: rewrap_slot(k, second.slot_id, away, now=NOW))
    before = desk.keeper.keyring.slots[1]
    assert desk.act(RENEW).slots[1] == before
    assert desk.act(RENEW, slot=before.slot_id).slots[1] != before
    assert desk.opened_by(SGX)


@pytest.mark.parametrize(
    ("kind", "asked", "code"),
    [
        (ADD, {"factors": (SlotClass.SNP,)}, Code.SLOT_UNAVAILABLE),
        (ADD, {"factors": (SlotClass.COUNCIL,)}, Code.SLOT_UNAVAILABLE),
        (ADD, {"factors": (SGX,), "signer": True}, Code.SLOT_UNAVAILABLE),
        (REMOVE, {"slot": b"x" * 16}, Code.SLOT_UNAVAILABLE),
        (RENEW, {"slot": b"x" * 16}, Code.SLOT_UNAVAILABLE),
        (ADD, {"factors": (SGX,), "counter": 7}, Code.STATE_CONFLICT),
        (ActionKind.RETIRE_GENERATION, {"generation": 1}, Code.GENERATION_NOT_ALLOWED),
        (ActionKind.RETIRE_GENERATION, {"generation": 9}, Code.GENERATION_UNKNOWN),
    ],
    ids=[
        "class_of_another_platform",
        "class_that_is_not_here",
        "signer_that_is_not_allowed",
        "removing_no_slot",
        "renewing_no_slot",
        "another_counter",
        "retiring_the_current_generation",
        "retiring_no_generation",
    ],
)
def test_what_cannot_be_done_is_refused_before_the_journal(
    desk: Desk, kind: ActionKind, asked: dict[str, object], code: Code
) -> None:
    assert desk.refused(desk.ask(kind, **asked)).code is code  # type: ignore[arg-type]


def test_a_slot_change_is_done_once(desk: Desk) -> None:
    asked = desk.ask(ADD, factors=(SGX,))
    desk.perform(asked)
    assert desk.refused(asked).code is Code.ACTION_REPLAYED
    assert len(desk.keeper.keyring.slots) == 2


def test_a_crash_after_the_change_adds_no_second_slot(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiedError(BaseException):
        pass

    def died(*_: object, **__: object) -> int:
        raise DiedError

    asked = desk.ask(ADD, factors=(SGX,))
    with monkeypatch.context() as patch:
        patch.setattr(type(desk.found.store), "batch", died)
        with pytest.raises(DiedError):
            desk.perform(asked)
    assert len(desk.another().keyring.slots) == 2
    assert desk.refused(asked).code is Code.STATE_CONFLICT
    assert len(desk.another().keyring.slots) == 2


def test_a_slot_that_does_not_open_again_is_not_kept(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = type(desk.slots.factors[SGX]).open

    def other(*given: object, **more: object) -> Secret:
        inner(*given, **more)  # type: ignore[arg-type]
        return Secret(b"x" * 32)

    monkeypatch.setattr(type(desk.slots.factors[SGX]), "open", other)
    refused = desk.refused(desk.ask(ADD, factors=(SGX,)))
    assert refused.code is Code.SLOT_UNAVAILABLE
    assert "does not open again" in refused.detail


def test_a_generation_is_prepared_and_withdrawn(desk: Desk) -> None:
    desk.act(ActionKind.PREPARE_GENERATION)
    assert desk.keeper.keyring.current.number == 1
    desk.act(ActionKind.RETIRE_GENERATION, generation=2)
    after = desk.act(ActionKind.ROTATE_KEYRING)
    assert after.current.number == 3


def test_the_journal_has_the_slot_and_who_signed(desk: Desk) -> None:
    desk.act(ADD, factors=(SGX,), label="second")
    entry = desk.found.journal.entries(after=desk.found.journal.latest() - 1)[0].entry
    body = entry.body
    assert isinstance(body, dict)
    action = body["action"]
    assert isinstance(action, dict)
    assert (entry.protocol_class, action["kind"]) == ("action", "add-slot")
    assert action["parameters"] == {
        "counter": 1,
        "slot": None,
        "factors": ["sgx"],
        "label": "second",
        "signer": False,
    }
    signers = body["signers"]
    assert isinstance(signers, list)
    assert len(signers) == 2


def test_a_provider_without_slots_of_its_own_says_so(desk: Desk) -> None:
    desk.found.slots = None
    refused = desk.refused(desk.ask(ADD, factors=(SGX,)))
    assert refused.code is Code.ACTION_NOT_ALLOWED
