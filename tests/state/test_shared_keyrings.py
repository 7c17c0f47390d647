# SPDX-License-Identifier: Apache-2.0
"""Two providers on two machines: a keyring by handoff, state in one PostgreSQL."""

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_postgres import Server

from cli_support import run
from handoff_scene import NEXT_IMAGE, Site, info
from tightseal.guest.released import ReleasedKeys
from tightseal.model.action import Action, ActionKind, KeyringParameters
from tightseal.model.generation import GenerationName
from tightseal.model.keypath import KeyRequest
from tightseal_sim.scene import Provider, Scene

TAKEN_OVER_SECONDS = 20.0
DISK, KEPT = KeyRequest("disk"), KeyRequest("kept")

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path / "scene") as made:
        yield made


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TAKEN_OVER_SECONDS
    while not done():
        assert time.monotonic() < deadline, "not taken over"
        time.sleep(0.2)


def rotation(site: Site, provider: Provider) -> bytes:
    now = int(time.time())
    action = Action(
        kind=ActionKind.ROTATE_KEYRING,
        policy_root=site.approvers.policy_root,
        keyring_id=site.keyring_id(provider),
        action_id=secrets.token_bytes(16),
        issued_at=now,
        expires_at=now + 3600,
        parameters=KeyringParameters(info(provider)["keyring"]["counter"]),
    )
    return site.approvers.action(action)


def join(site: Site, giver: Provider, config: Path) -> None:
    folder = config.parent
    known, invitation = folder / "identity.json", folder / "invitation.json"
    for command in (
        ("identity", "--config", config, "--out", known),
        ("invite", "--from", giver.url, "--joiner", known, "--out", invitation),
    ):
        said = run("provider", *command)
        assert said.status == 0, said.stderr
    site.sign(invitation)
    where = ("--invitation", invitation, "--config", config)
    said = run("provider", "join", "--from", giver.url, *where)
    assert said.status == 0, said.stdout + said.stderr


def test_fleet_rotates_together_and_outlives_its_first_machine(
    stage: Scene, postgres: Server
) -> None:
    site, state = Site(stage), {"engine": "postgres", "url": postgres.new_address()}
    bundle = site.bundle()
    one = site.first(bundle, "one", state=state)
    config = site.configure(
        "two", bundle, machine="machine-b", image=NEXT_IMAGE, state=state
    )
    join(site, one, config)
    two = stage.start(config)

    def keys(provider: Provider, *requests: KeyRequest) -> ReleasedKeys:
        return site.key(provider, "acme", *requests)

    kept = keys(one, KeyRequest("kept", create=True)).get("kept")
    first = keys(two, DISK, KEPT)
    assert first.get("kept") == kept
    assert first.get("disk") == keys(one).get("disk")

    assert one.act(rotation(site, one)).is_success
    until(lambda: info(two)["keyring"]["generation"] == 2)
    old = KeyRequest("disk", generation=GenerationName.PREVIOUS)
    second = keys(two, DISK, old, KEPT)
    assert second.get("disk", generation=GenerationName.PREVIOUS) == first.get("disk")
    assert second.get("kept") == kept
    assert second.get("disk") == keys(one).get("disk") != first.get("disk")

    # Both are asked at the same counter: one rotation is done, the other refused.
    at_once = rotation(site, one), rotation(site, two)
    done = [one.act(at_once[0]).is_success, two.act(at_once[1]).is_success]
    assert done.count(True) == 1
    until(lambda: info(one)["keyring"] == info(two)["keyring"])
    assert info(one)["keyring"]["generation"] == 3

    # The first machine is gone with all that is on it.
    one.process.kill()
    one.process.wait(10)
    assert two.act(rotation(site, two)).is_success
    until(lambda: info(two)["keyring"]["generation"] == 4)
    assert keys(two, KEPT).get("kept") == kept
    two.stop()
    two = stage.start(config)
    assert keys(two, KEPT).get("kept") == kept
    # What the first one's disk has catches up, should it come back.
    again = stage.start(one.config)
    assert info(again)["keyring"]["generation"] == 4
    assert keys(again).get("disk") == keys(two).get("disk")


def test_twin_over_the_same_database_reads_nothing(
    stage: Scene, postgres: Server
) -> None:
    """A keyring of its own opens no store of ours."""
    site, state = Site(stage), {"engine": "postgres", "url": postgres.new_address()}
    bundle = site.bundle()
    site.first(bundle, "one", state=state)
    with pytest.raises(Exception, match="state_tampered"):
        site.first(bundle, "twin", state=state)
