# SPDX-License-Identifier: Apache-2.0
"""The joiner dies at every call of its operating system; then it joins after all."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from desk_rig import Asking, Giving, asking, giving, invitation, joined

from handoff_scene import Site
from keyring_disk import PATH, CrashError, Disk, FakeSystem, Fault
from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring import (
    Keyring,
    KeyringFile,
    open_keyring,
    remove_slot,
)
from tightseal_sim.scene import Scene

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


def clock() -> int:
    return int(time.time())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        yield Site(scene)


@pytest.fixture(scope="module")
def bundle(site: Site) -> bytes:
    return site.bundle()


@pytest.fixture(scope="module")
def giver(site: Site, bundle: bytes) -> Iterator[Giving]:
    with giving(site, bundle, "giver", clock=clock) as found:
        yield found


@pytest.fixture(scope="module")
def joiner(site: Site, bundle: bytes) -> Asking:
    return asking(site, bundle, "joiner", clock=clock)


def on(system: FakeSystem, joiner: Asking) -> Asking:
    """The same provider, whose keyring lies on that disk."""
    file = KeyringFile(Path(PATH), system=system)
    return replace(joiner, joiner=replace(joiner.joiner, file=file))


def stored(disk: Disk, joiner: Asking) -> Keyring | None:
    """What the next start finds, by a slot of its own; ``None`` where nothing is."""
    try:
        loaded = KeyringFile(Path(PATH), system=FakeSystem(disk)).load()
    except KeyReleaseError as error:
        if error.code is not Code.KEYRING_MISSING:
            raise
        return None
    ours = joiner.joiner
    return open_keyring(
        loaded.data, terms=ours.terms, slot_keys=ours.slot_keys, anchor=None
    ).keyring


def calls_of_a_join(site: Site, giver: Giving, joiner: Asking) -> int:
    system = FakeSystem()
    invited = invitation(site, giver, joiner.candidate.parts)
    assert not joined(on(system, joiner), giver.direct(), invited).confirmed
    return len(system.calls)


def test_joins_after_a_crash_at_every_call(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    count = calls_of_a_join(site, giver, joiner)
    assert count > 20
    for at in range(count):
        _forget(giver)
        system = FakeSystem(fault=Fault.CRASHES_AFTER, at=at)
        invited = invitation(
            site, giver, joiner.candidate.parts, action_id=secrets.token_bytes(16)
        )
        with pytest.raises(CrashError):
            joined(on(system, joiner), giver.direct(), invited)
        # A crash loses what was not synced; every disk that may be left opens or is
        # empty. One of them goes on to join, with the same invitation.
        disks = list(system.disk.crashed())
        for disk in disks:
            stored(disk, joiner)
        left = disks[at % len(disks)]
        again = joined(on(FakeSystem(left), joiner), giver.direct(), invited)
        assert not again.confirmed
        keyring = stored(left, joiner)
        assert keyring is not None
        assert keyring.root(1) == giver.keeper.keyring.root(1)


def _forget(giver: Giving) -> None:
    """A keyring has room for so many slots; earlier joiners of this test make some."""
    keyring = giver.keeper.keyring
    own = giver.keeper.working
    joined_slots = [s for s in keyring.slots if s.label == "joined"]
    if len(joined_slots) > 40:

        def without(current: Keyring) -> Keyring:
            for slot in joined_slots:
                current = remove_slot(current, slot.slot_id, working=own, now=clock())
            return current

        giver.keeper.change(without)
