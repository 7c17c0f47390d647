# SPDX-License-Identifier: Apache-2.0
"""A slot at another provider that really runs: made, opened, refused by name."""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from slot_provider_rig import ADD, Place, nobody, pin_of, pin_table

from tightseal_sim.scene import Provider, Scene

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
MACHINE = "machine-a"
BOUND_SECONDS = 20.0


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


@pytest.fixture(scope="module")
def sidecar(scene: Scene) -> Provider:
    """On the same host; its root is the sealing key of its own enclave."""
    return scene.provider("sidecar", release={"tenant": "sidecar"})


@pytest.fixture(scope="module")
def peer(scene: Scene) -> Provider:
    """On another machine, with a keyring; takes evidence of any machine."""
    return scene.provider(
        "peer",
        machine="machine-p",
        release={"root": "keyring", "platform": "any"},
        host={"keyring": {"create": True}},
    )


@pytest.fixture
def place(scene: Scene, tmp_path: Path) -> Place:
    return Place(scene, tmp_path / "own", machine=MACHINE)


def with_slot(place: Place, provider: Provider) -> dict[str, Any]:
    """A keyring with a slot of the machine and one of the other provider."""
    place.configure(url=provider.url, pin=pin_table(pin_of(provider)))
    place.done("init")
    return place.done(*ADD)


def test_peer_opens_what_this_machine_no_longer_does(
    scene: Scene, peer: Provider, tmp_path: Path
) -> None:
    place = Place(scene, tmp_path / "own", machine="machine-u")
    added = with_slot(place, peer)
    assert (added["done"], added["slot"]["class"]) == ("added", "provider")
    before = place.done("status")
    assert before["opened_by"] != added["slot"]["id"]
    place.update_microcode()
    after = place.done("status")
    assert after["opened_by"] == added["slot"]["id"]
    assert after["keyring_id"] == before["keyring_id"]
    assert [slot["opens"] for slot in after["slots"]] == [False, True]
    # The machine is lost, and a copy of the file is on another one.
    place.machine = "machine-v"
    scene.world.intel.platform("machine-v")
    place.configure(url=peer.url, pin=pin_table(pin_of(peer)))
    assert place.done("status")["opened_by"] == added["slot"]["id"]
    closed = next(s for s in after["slots"] if s["opens"] is False)
    place.done("slot", "rewrap", closed["id"])
    assert place.done("verify")["in_order"] is True


def test_provider_starts_through_a_slot_of_the_peer(
    scene: Scene, peer: Provider
) -> None:
    release = {"root": "keyring", "slot_provider": pin_table(pin_of(peer))}
    keyring = {"create": True, "provider": {"url": peer.url}}
    own = scene.provider(
        "own", machine="machine-w", release=release, host={"keyring": keyring}
    )
    made = pin_of(own).identity.keyring_id
    own.stop()
    # Other hardware altogether: only the peer's slot is left.
    again = scene.provider(
        "own", machine="machine-x", release=release, host={"keyring": keyring}
    )
    assert pin_of(again).identity.keyring_id == made
    opened = next(
        line for line in again.log.read_text().splitlines() if "keyring_opened" in line
    )
    assert '"slot":"provider' in opened
    again.stop()


def test_sidecar_opens_on_its_own_host(place: Place, sidecar: Provider) -> None:
    added = with_slot(place, sidecar)
    assert place.done("slot", "test", added["slot"]["id"])["in_order"] is True


def test_sidecar_refuses_another_machine(
    scene: Scene, sidecar: Provider, tmp_path: Path
) -> None:
    place = Place(scene, tmp_path / "own", machine="machine-far")
    place.configure(url=sidecar.url, pin=pin_table(sidecar.pin))
    place.done("init")
    refusal = place.refused(*ADD)
    assert "it refuses us, and its log says why: provider_refused" in refusal
    assert "platform" in refusal


def test_provider_that_is_down_costs_no_other_slot_and_no_start(
    place: Place, sidecar: Provider
) -> None:
    with_slot(place, sidecar)
    more = [place.done(*ADD[:-1], f"other {n}") for n in range(3)]
    place.configure(url=nobody(), pin=pin_table(sidecar.pin))
    began = time.monotonic()
    slots = place.slots(status=1)
    assert time.monotonic() - began < BOUND_SECONDS
    assert slots["first"]["opens"] is True
    for label in ("other", "other 2"):
        reason = slots[label]["reason"]
        assert "start it, or mend host.keyring.provider.url" in reason
        assert "provider_unreachable: http://127.0.0.1:" in reason
    first = slots["first"]["id"]
    refusal = place.refused("slot", "remove", first)
    assert "slot_last" in refusal
    assert len(more) == 3


def test_start_by_the_machines_own_slot_waits_for_nobody(
    place: Place, sidecar: Provider
) -> None:
    with_slot(place, sidecar)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0.0)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        place.configure(url=url, pin=pin_table(sidecar.pin))
        assert place.start().keeper is not None
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_start_makes_its_own_slot_anew_and_leaves_the_others(
    scene: Scene, peer: Provider, tmp_path: Path
) -> None:
    place = Place(scene, tmp_path / "own", machine="machine-r")
    place.configure(url=peer.url, pin=pin_table(pin_of(peer)))
    place.done("init", "--class", "sgx")
    place.done(*ADD)
    place.update_microcode()
    before = place.done("status")["slots"]
    assert before[0]["rewrap"]
    keeper = place.start().keeper
    assert keeper is not None
    after = place.done("status")["slots"]
    assert after[0] == before[0] | {"rewrap": ""}
    assert after[1] == before[1]


def test_provider_that_is_down_is_named_where_nothing_else_opens(
    place: Place, sidecar: Provider
) -> None:
    place.configure(url=sidecar.url, pin=pin_table(sidecar.pin))
    made = place.done("init", "--class", "provider")
    assert [slot["class"] for slot in made["slots"]] == ["provider"]
    place.configure(url=nobody(), pin=pin_table(sidecar.pin))
    refusal = place.refused("status")
    assert "none of 1 slots opens here" in refusal
    assert "start it, or mend host.keyring.provider.url" in refusal
    place.configure(url=sidecar.url, pin=pin_table(sidecar.pin))
    assert place.done("status")["verified"] is True


def test_keyring_that_only_providers_open_is_told(
    place: Place, sidecar: Provider
) -> None:
    place.configure(url=sidecar.url, pin=pin_table(sidecar.pin))
    place.done("init", "--class", "provider")
    for command in ("status", "verify"):
        assert place.done(command)["only_through_providers"] is True
        assert "stay closed once both are down" in place.run(command).stderr
    place.done("slot", "add", "--class", "sgx")
    for command in ("status", "verify"):
        assert place.done(command)["only_through_providers"] is False
        assert "both are down" not in place.run(command).stderr


def test_another_provider_at_the_address_is_found_out(
    place: Place, sidecar: Provider, peer: Provider
) -> None:
    with_slot(place, sidecar)
    place.configure(url=peer.url, pin=pin_table(sidecar.pin))
    reason = place.slots(status=1)["other"]["reason"]
    assert "another provider answers there" in reason
    assert "provider_identity_mismatch: keyring_id" in reason


def test_slot_of_another_provider_than_the_pinned_one(
    place: Place, sidecar: Provider, peer: Provider
) -> None:
    with_slot(place, sidecar)
    place.configure(url=peer.url, pin=pin_table(pin_of(peer)))
    reason = place.slots(status=1)["other"]["reason"]
    assert "another provider's: made with keyring" in reason
    assert "release.slot_provider pins keyring" in reason


@pytest.mark.parametrize("part", ["measurement", "settings_digest"])
def test_pin_of_another_image_or_of_other_settings(
    place: Place, sidecar: Provider, part: str
) -> None:
    pin = pin_table(sidecar.pin)
    place.configure(url=sidecar.url, pin={**pin, part: "ab" * (len(pin[part]) // 2)})
    place.done("init")
    assert f"provider_identity_mismatch: {part}" in place.refused(*ADD)


def test_simulated_provider_of_another_world(place: Place, sidecar: Provider) -> None:
    pin = pin_table(sidecar.pin)
    other = {**pin, "trust_domains": ["simulated:" + "ab" * 48]}
    place.configure(url=sidecar.url, pin=other)
    place.done("init")
    assert "no slot crosses trust domains" in place.refused(*ADD)


def test_what_is_missing_is_named(place: Place, sidecar: Provider) -> None:
    place.configure()
    place.done("init")
    told = place.run(*ADD)
    assert told.status == 2
    assert "pin one in release.slot_provider" in told.stderr
    assert "host.keyring.provider.url" in told.stderr
    place.configure(url=sidecar.url)
    assert "release.slot_provider pins nobody" in place.refused(*ADD)
    place.configure(pin=pin_table(sidecar.pin))
    assert "host.keyring.provider.url" in place.refused(*ADD)
    place.configure(url="ftp://here", pin=pin_table(sidecar.pin))
    assert "provider address" in place.run("status").stderr


@pytest.mark.parametrize(
    "missing", ["measurement", "keyring_id", "trust_domains", "settings_digest"]
)
def test_half_a_pin_is_refused(place: Place, sidecar: Provider, missing: str) -> None:
    pin = pin_table(sidecar.pin)
    del pin[missing]
    place.configure(url=sidecar.url, pin=pin)
    said = place.run("status")
    assert said.status == 2
    assert "slot_provider lacks" in said.stderr
    assert missing in said.stderr


def test_beside_a_passphrase_both_are_needed(place: Place, sidecar: Provider) -> None:
    place.configure(url=sidecar.url, pin=pin_table(sidecar.pin))
    files = ("--passphrase-file", place.secret)
    place.done("init")
    made = place.done(*ADD, "--with", "passphrase", *files)
    assert made["slot"]["factors"] == ["provider", "passphrase"]
    assert place.slots(*files)["other"]["opens"] is True
    assert place.slots(status=1)["other"]["opens"] is False
    place.secret.write_text("another passphrase of some length")
    assert "another passphrase" in place.slots(*files, status=1)["other"]["reason"]


def test_rotation_at_the_peer_costs_nothing_and_is_told(
    scene: Scene, place: Place
) -> None:
    rotated = scene.provider(
        "rotated",
        release={"root": "keyring", "platform": "any"},
        host={"keyring": {"create": True}},
    )
    with_slot(place, rotated)
    assert place.slots()["other"]["rewrap"] == ""
    there = Place(scene, place.folder / "there", machine=MACHINE)
    there.config = rotated.config
    there.done("rotate")
    deadline = time.monotonic() + BOUND_SECONDS
    while not (why := place.slots()["other"]["rewrap"]):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    assert "made with generation 1 of the other provider, now it is at 2" in why
    place.done("slot", "rewrap", place.slots()["other"]["id"])
    assert place.slots()["other"] | {"rewrap": ""} == place.slots()["other"]
    there.done("destroy", 1, "--yes")
    assert place.slots()["other"]["opens"] is True
    rotated.stop()


def test_pin_with_a_policy_root_that_the_other_does_not_have(
    place: Place, sidecar: Provider
) -> None:
    pin = pin_table(sidecar.pin) | {"policy_root": "cd" * 32}
    place.configure(url=sidecar.url, pin=pin)
    place.done("init")
    assert "provider_identity_mismatch: policy_root" in place.refused(*ADD)


def test_replaced_pin_needs_the_whole_identity(place: Place, sidecar: Provider) -> None:
    identity = replace(sidecar.pin.identity, keyring_id=b"\x07" * 32)
    pin = replace(sidecar.pin, identity=identity)
    place.configure(url=sidecar.url, pin=pin_table(pin))
    place.done("init")
    assert "provider_identity_mismatch: keyring_id" in place.refused(*ADD)
