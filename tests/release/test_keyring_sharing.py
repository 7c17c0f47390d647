# SPDX-License-Identifier: Apache-2.0
"""Providers with a file each and one state store between them: one history."""

import hmac
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tightseal.errors import Code, ServiceError, TightsealError
from tightseal.keys.keyring import (
    Keyring,
    KeyringFile,
    Terms,
    keep_new,
    new_keyring,
    rotate,
)
from tightseal.model.canonical import Value
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.release.keyring import KeyringKeeper, StoreAnchor, Ways
from tightseal.release.sharing import CHUNK_BYTES, SharedCopy, StoreShare
from tightseal.state.memory import MemoryEngine
from tightseal.state.seal import Sealer
from tightseal.state.store import SealedStore

NOW = 1_790_000_000
TERMS = Terms(trust_domain="intel", policy_root=b"r" * 32, policy_version=3)


class Both:
    """A slot key that both machines have."""

    slot_class = SlotClass.GRAMINE

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        return {}, self.open({}, keyring_id=keyring_id, slot_id=slot_id)

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        del parameters
        return Secret(hmac.digest(b"s" * 32, keyring_id + slot_id, "sha256"))


class Fleet:
    """Providers over one store, each with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = MemoryEngine()
        SealedStore.new(self.engine, self.sealer())
        first = new_keyring(
            [Both()],
            trust_domain="intel",
            policy_root=b"r" * 32,
            minimum_policy_version=0,
            slot_classes=frozenset(SlotClass),
            now=NOW,
        )
        self.first = first.seal()
        self.keyring_id = first.header.keyring_id

    @staticmethod
    def sealer() -> Sealer:
        return Sealer(Secret(b"k" * 32), trust_domain="intel")

    def store(self) -> SealedStore:
        return SealedStore.attach(self.engine, self.sealer())

    def share(self) -> StoreShare:
        return StoreShare(self.store(), lambda: NOW)

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.tsk"

    def start(self, name: str) -> KeyringKeeper:
        """A provider, or one more worker of it; its file is there or as at first."""
        path = self.path(name)
        if not path.exists():
            path.write_bytes(self.first)
        keeper = KeyringKeeper(
            Ways(file=KeyringFile(path), slot_keys=(Both(),), terms=TERMS)
        )
        store = self.store()
        keeper.anchor_with(
            StoreAnchor(store, lambda: NOW), StoreShare(store, lambda: NOW)
        )
        return keeper


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def rotated(keyring: Keyring) -> Keyring:
    return rotate(keyring, now=NOW)


def roots(keeper: KeyringKeeper) -> list[bytes]:
    numbers = range(1, keeper.generations().current + 1)
    return [keeper.root(number).reveal() for number in numbers]


def refusal(attempt: object) -> Code:
    assert callable(attempt)
    with pytest.raises(TightsealError) as refused:
        attempt()
    return refused.value.code


def test_a_rotation_reaches_the_other_provider(fleet: Fleet) -> None:
    one, other = fleet.start("one"), fleet.start("other")
    one.change(rotated)
    assert other.look()
    assert roots(other) == roots(one)
    assert fleet.path("one").read_bytes() == fleet.path("other").read_bytes()
    assert not other.look()


def test_one_that_was_down_catches_up(fleet: Fleet) -> None:
    one = fleet.start("one")
    fleet.start("other")
    for _ in range(3):
        one.change(rotated)
    assert roots(fleet.start("other")) == roots(one)


def test_two_that_rotate_at_once_do_it_one_after_the_other(fleet: Fleet) -> None:
    keepers = [fleet.start(f"provider-{n}") for n in range(4)]
    start = threading.Barrier(len(keepers))

    def work(keeper: KeyringKeeper) -> None:
        start.wait()
        for _ in range(3):
            keeper.change(rotated)

    threads = [threading.Thread(target=work, args=(k,)) for k in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for keeper in keepers:
        keeper.look()
    assert keepers[0].generations().current == 1 + 3 * len(keepers)
    assert all(roots(k) == roots(keepers[0]) for k in keepers)


def test_an_action_that_named_a_counter_is_not_applied_to_a_later_one(
    fleet: Fleet,
) -> None:
    one, other = fleet.start("one"), fleet.start("other")
    counter = other.keyring.header.counter
    one.change(rotated)
    asked = lambda: other.change(rotated, expected=counter)  # noqa: E731
    assert refusal(asked) is Code.STATE_CONFLICT
    assert other.generations().current == 2


def test_workers_of_one_provider_follow_too(fleet: Fleet) -> None:
    one, worker, other = fleet.start("one"), fleet.start("one"), fleet.start("other")
    other.change(rotated)
    assert one.look()
    assert worker.look()
    assert roots(worker) == roots(one) == roots(other)


def test_crash_between_store_and_file_loses_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = fleet.start("one"), fleet.start("other")
    full = ServiceError(Code.STATE_UNAVAILABLE, "no space left")

    def failing(*_: object, **__: object) -> None:
        raise full

    with monkeypatch.context() as patched:
        patched.setattr("tightseal.release.keyring.keep", failing)
        assert refusal(lambda: one.change(rotated)) is Code.STATE_UNAVAILABLE
    assert one.generations().current == 1
    other.look()
    assert other.generations().current == 2
    assert roots(fleet.start("one")) == roots(other)


def test_file_that_a_command_changed_is_published(fleet: Fleet) -> None:
    one, other = fleet.start("one"), fleet.start("other")
    command = KeyringKeeper(
        Ways(file=KeyringFile(fleet.path("one")), slot_keys=(Both(),), terms=TERMS)
    )
    command.change(rotated)
    assert one.look()
    assert other.look()
    assert roots(other) == roots(command)


def test_older_file_put_back_by_the_host_is_replaced(fleet: Fleet) -> None:
    one = fleet.start("one")
    one.change(rotated)
    fleet.path("one").write_bytes(fleet.first)
    assert roots(fleet.start("one")) == roots(one)
    assert fleet.path("one").read_bytes() != fleet.first


def test_version_that_was_never_published_makes_way(fleet: Fleet) -> None:
    """It has the counter of one that was: only that one is anybody's."""
    one = fleet.start("one")
    stray = (
        KeyringKeeper(
            Ways(file=KeyringFile(fleet.path("two")), slot_keys=(Both(),), terms=TERMS)
        )
        if fleet.path("two").write_bytes(fleet.first)
        else one
    )
    stray.change(rotated)
    one.change(rotated)
    assert roots(fleet.start("two")) == roots(one) != roots(stray)


def test_another_keyring_is_not_taken(fleet: Fleet) -> None:
    other = new_keyring(
        [Both()],
        trust_domain="intel",
        policy_root=b"r" * 32,
        minimum_policy_version=0,
        slot_classes=frozenset(SlotClass),
        now=NOW,
    )
    path = fleet.path("stranger")
    keep_new(KeyringFile(path), other, anchor=None)
    stranger = fleet.start("stranger")
    one = fleet.start("one")
    one.change(rotated)
    assert not stranger.look()
    assert stranger.generations().current == 1


def test_copy_of_another_form_is_told(fleet: Fleet) -> None:
    one = fleet.start("one")
    store = fleet.store()
    name = fleet.keyring_id.hex()
    held = store.open("keyring-copy", name, now=NOW)
    store.replace("keyring-copy", name, b"\x01", expected=held.version, now=NOW)
    assert refusal(one.look) is Code.STATE_TAMPERED


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3 * CHUNK_BYTES))
def test_long_copies_come_back_whole(size: int) -> None:
    engine = MemoryEngine()
    sealer = Fleet.sealer()
    SealedStore.new(engine, sealer)
    share = StoreShare(SealedStore.attach(engine, sealer), lambda: NOW)
    data = (size.to_bytes(8, "big") * (size // 8 + 1))[:size]
    assert share.newest(b"i" * 32) is None
    assert share.publish(b"i" * 32, data, 1, after=None)
    assert not share.publish(b"i" * 32, data + b"x", 2, after=None)
    found = share.fetch(b"i" * 32)
    assert found == (SharedCopy.of(data, 1), data)
    assert share.publish(b"i" * 32, b"next", 2, after=found[0])
    again = share.fetch(b"i" * 32)
    assert again is not None
    assert again[1] == b"next"
    kept = SealedStore.attach(engine, sealer).scan("keyring-part", now=NOW)
    assert len(kept) == 1
