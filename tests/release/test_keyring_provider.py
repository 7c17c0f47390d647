# SPDX-License-Identifier: Apache-2.0
"""A provider over a keyring: rotation by signed action, other workers, going back."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from policy_rig import refusal, role
from release_rig import NOW
from rooted_rig import Rooted, document_of, rooted

from tightseal.errors import Code, KeyReleaseError, ServiceError
from tightseal.keys.keyring import (
    Keyring,
    KeyringFile,
    Terms,
    destroy,
    keep_new,
    new_keyring,
    rotate,
    set_terms,
)
from tightseal.model.action import Action, ActionKind, KeyringParameters
from tightseal.model.generation import GenerationName
from tightseal.model.keypath import KeyRequest
from tightseal.model.slots import SlotClass, SlotKey
from tightseal.platform.slots.door import platform_slots
from tightseal.release.keyring import (
    POLICY_NOT_YET_KNOWN,
    KeyringKeeper,
    StoreAnchor,
    Ways,
)
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World

PREVIOUS = GenerationName.PREVIOUS


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"providers with keyrings".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


def slot_keys(found: Rooted) -> tuple[SlotKey, ...]:
    return tuple(platform_slots("sim", found.platform, allow_signer=False).values())


def ways(found: Rooted, path: Path, *, policy_root: bytes | None = None) -> Ways:
    return Ways(
        file=KeyringFile(path),
        slot_keys=slot_keys(found),
        terms=Terms(
            trust_domain=str(found.world.intel.trusted_root.trust_domain),
            policy_root=policy_root or found.approvers.policy_root,
            policy_version=POLICY_NOT_YET_KNOWN,
        ),
    )


@pytest.fixture
def found(world: World, tmp_path: Path) -> Iterator[Rooted]:
    with rooted(world, tmp_path) as made:
        path = tmp_path / "keyring.tsk"
        keyring = new_keyring(
            slot_keys(made),
            trust_domain=str(world.intel.trusted_root.trust_domain),
            policy_root=made.approvers.policy_root,
            minimum_policy_version=0,
            slot_classes=frozenset(SlotClass),
            now=NOW,
        )
        keep_new(KeyringFile(path), keyring, anchor=None)
        made.roots = KeyringKeeper(ways(made, path))
        yield made


def keeper(found: Rooted) -> KeyringKeeper:
    assert isinstance(found.roots, KeyringKeeper)
    return found.roots


def action(
    found: Rooted, kind: ActionKind, *, number: int = 1, generation: int | None = None
) -> bytes:
    asked = Action(
        kind=kind,
        policy_root=found.approvers.policy_root,
        keyring_id=keeper(found).keyring_id,
        action_id=bytes([number]) * 16,
        issued_at=found.now,
        expires_at=found.now + 3600,
        parameters=KeyringParameters(keeper(found).keyring.header.counter, generation),
    )
    return found.approvers.action(asked)


def disk(found: Rooted, td: SimTd) -> bytes:
    return found.ask(td).get("disk").reveal()


def test_a_rotation_by_action_gives_new_keys_and_keeps_the_old_ones(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td), role(found, "rotate-keyring"))
    first = disk(found, td)
    signed = action(found, ActionKind.ROTATE_KEYRING)
    found.provider.act(signed, now=NOW)
    released = found.ask(
        td, KeyRequest("disk"), KeyRequest("disk", generation=PREVIOUS)
    )
    assert released.key("disk").generation == 2
    assert released.get("disk").reveal() != first
    assert released.get("disk", generation=PREVIOUS).reveal() == first
    error = refusal(lambda: found.provider.act(signed, now=NOW))
    assert error.code is Code.ACTION_REPLAYED
    assert keeper(found).generations().current == 2


def test_a_destroyed_generation_is_gone(found: Rooted, world: World, td: SimTd) -> None:
    roles = role(found, "rotate-keyring", "destroy-generation")
    found.publish(document_of(world, td), roles)
    found.provider.act(action(found, ActionKind.ROTATE_KEYRING), now=NOW)
    destroy_one = action(found, ActionKind.DESTROY_GENERATION, number=2, generation=1)
    found.provider.act(destroy_one, now=NOW)
    error = refusal(lambda: found.ask(td, KeyRequest("disk", generation=1)))
    assert error.code is Code.GENERATION_UNKNOWN
    disk(found, td)


def test_the_current_generation_is_not_destroyed(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td), role(found, "destroy-generation"))
    entries = len(found.journal.entries())
    signed = action(found, ActionKind.DESTROY_GENERATION, generation=1)
    error = refusal(lambda: found.provider.act(signed, now=NOW))
    assert error.code is Code.GENERATION_NOT_ALLOWED
    assert len(found.journal.entries()) == entries, "refused before it was journalled"


def test_an_action_for_an_older_counter_changes_nothing(
    found: Rooted, world: World, td: SimTd
) -> None:
    """What a crash between keyring and replay record leaves is not done twice."""
    found.publish(document_of(world, td), role(found, "rotate-keyring"))
    signed = action(found, ActionKind.ROTATE_KEYRING)
    keeper(found).change(lambda keyring: rotate(keyring, now=NOW))
    error = refusal(lambda: found.provider.act(signed, now=NOW))
    assert isinstance(error, ServiceError)
    assert error.code is Code.STATE_CONFLICT
    assert keeper(found).generations().current == 2


def test_a_tenants_role_leaves_the_keyring_alone(
    found: Rooted, world: World, td: SimTd
) -> None:
    text = role(found, "rotate-keyring").replace(
        'name = "keepers"', 'name = "keepers"\ntenant = "acme"'
    )
    found.publish(document_of(world, td), text)
    signed = action(found, ActionKind.ROTATE_KEYRING)
    error = refusal(lambda: found.provider.act(signed, now=NOW))
    assert error.code is Code.ACTION_NOT_ALLOWED


def test_another_worker_takes_the_newer_keyring_over(
    found: Rooted, tmp_path: Path
) -> None:
    other = KeyringKeeper(ways(found, tmp_path / "keyring.tsk"))
    assert not other.look()
    keeper(found).change(lambda keyring: rotate(keyring, now=NOW))
    assert other.look()
    assert other.generations().current == 2
    assert other.root(2) == keeper(found).root(2)


def test_workers_that_rotate_at_once_lose_no_generation(
    found: Rooted, tmp_path: Path
) -> None:
    workers = [KeyringKeeper(ways(found, tmp_path / "keyring.tsk")) for _ in range(4)]

    def turn(worker: KeyringKeeper) -> int:
        done = 0
        while done < 5:
            try:
                worker.change(lambda keyring: rotate(keyring, now=NOW))
                done += 1
            except ServiceError as e:
                if e.code is not Code.STATE_CONFLICT:
                    raise
        return done

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(turn, workers)) == 20
    keeper(found).look()
    assert keeper(found).generations().open == frozenset(range(1, 22))


def test_an_older_keyring_put_back_is_noticed(found: Rooted, tmp_path: Path) -> None:
    path = tmp_path / "keyring.tsk"
    older = path.read_bytes()
    keeper(found).change(lambda keyring: rotate(keyring, now=NOW))
    path.write_bytes(older)
    assert refusal(keeper(found).look).code is Code.KEYRING_ROLLED_BACK
    assert keeper(found).generations().current == 2


def test_a_keyring_of_another_policy_root_does_not_open(
    found: Rooted, tmp_path: Path
) -> None:
    """A host that starts our image under a root of its own on this machine."""
    theirs = ways(found, tmp_path / "keyring.tsk", policy_root=b"x" * 32)
    error = refusal(lambda: KeyringKeeper(theirs))
    assert isinstance(error, KeyReleaseError)
    assert error.code is Code.KEYRING_MISMATCH


def test_a_keyring_may_ask_for_a_newer_policy(found: Rooted) -> None:
    def change(keyring: Keyring) -> Keyring:
        return set_terms(
            keyring,
            policy_root=keyring.header.policy_root,
            minimum_policy_version=3,
            slot_classes=keyring.header.slot_classes,
            now=NOW,
        )

    keeper(found).change(change)
    error = refusal(lambda: keeper(found).check_policy(2))
    assert error.code is Code.KEYRING_MISMATCH
    keeper(found).check_policy(3)


def test_a_failed_change_leaves_the_keyring_in_use(found: Rooted) -> None:
    before = keeper(found).keyring
    refusal(lambda: keeper(found).change(lambda k: destroy(k, 1, now=NOW)))
    assert keeper(found).keyring is before


def test_a_store_remembers_how_far_a_keyring_has_come(
    found: Rooted, tmp_path: Path
) -> None:
    path = tmp_path / "keyring.tsk"
    anchor = StoreAnchor(found.store, lambda: NOW)
    keeper(found).anchor_with(anchor)
    older = path.read_bytes()
    keeper(found).change(lambda keyring: rotate(keyring, now=NOW))
    counter = keeper(found).keyring.header.counter
    assert anchor.remembered(keeper(found).keyring_id) == counter
    path.write_bytes(older)
    restarted = KeyringKeeper(ways(found, path))
    error = refusal(lambda: restarted.anchor_with(anchor))
    assert error.code is Code.KEYRING_ROLLED_BACK


def test_a_remembered_counter_never_falls(found: Rooted) -> None:
    anchor = StoreAnchor(found.store, lambda: NOW)
    assert anchor.remembered(b"k" * 32) is None
    for counter in (1, 5, 3, 300, 2):
        anchor.remember(b"k" * 32, counter)
    assert anchor.remembered(b"k" * 32) == 300
