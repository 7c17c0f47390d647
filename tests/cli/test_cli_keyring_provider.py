# SPDX-License-Identifier: Apache-2.0
"""``tightseal keyring`` beside a provider that runs: it takes each change over."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli_support import Said, run
from tightseal.errors import ProviderError
from tightseal.guest.client import Client
from tightseal.guest.released import ReleasedKey
from tightseal.model.base64url import decode_base64url
from tightseal.model.generation import Generation, GenerationName
from tightseal.model.keypath import KeyRequest
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Provider, Scene

CURRENT, PREVIOUS = GenerationName.CURRENT, GenerationName.PREVIOUS
TAKEN_OVER_SECONDS = 15.0

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


def started(scene: Scene, name: str, **host: Any) -> Provider:
    host = {"keyring": {"create": True}, **host}
    return scene.provider(name, release={"root": "keyring"}, host=host)


def keyring_id(provider: Provider) -> bytes:
    said = httpx.get(f"{provider.url}/v1/info", trust_env=False).json()
    text = said["identity"]["keyring_id"]
    return decode_base64url(text, field="keyring_id", max_bytes=32)


def client_of(scene: Scene, provider: Provider) -> Client:
    identity = replace(provider.pin.identity, keyring_id=keyring_id(provider))
    pin = replace(provider.pin, identity=identity)
    td = scene.world.intel.platform("machine-a").launch_td(TdImage())
    return scene.client(provider, td, pin=pin)


def disk(
    scene: Scene, provider: Provider, generation: Generation = CURRENT
) -> ReleasedKey:
    """The key of the disk, on a connection of its own: any worker may take it."""
    with client_of(scene, provider) as client:
        keys = client.keys(KeyRequest("disk", generation=generation))
        return keys.key("disk", generation=generation)


def operate(provider: Provider, *arguments: object) -> Said:
    return run("keyring", *arguments, "--config", provider.config, "--json")


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TAKEN_OVER_SECONDS
    while not done():
        assert time.monotonic() < deadline, "not taken over"
        time.sleep(0.2)


def test_rotation_reaches_clients_and_outlives_a_restart(scene: Scene) -> None:
    provider = started(scene, "rotated", workers=2)
    before = disk(scene, provider)
    assert before.generation == 1
    assert operate(provider, "slot", "add", "--class", "sgx").status == 0
    first = operate(provider, "status").document["slots"][0]["id"]
    assert operate(provider, "slot", "remove", first).status == 0
    assert operate(provider, "rotate").document["current"] == 2
    until(lambda: all(disk(scene, provider).generation == 2 for _ in range(4)))
    new, old = disk(scene, provider), disk(scene, provider, PREVIOUS)
    assert old.generation == 1
    assert old.secret == before.secret
    assert new.secret != before.secret
    identity = keyring_id(provider)
    provider.stop()
    again = started(scene, "rotated", workers=2)
    assert keyring_id(again) == identity
    assert disk(scene, again).secret == new.secret
    assert disk(scene, again, PREVIOUS).secret == before.secret
    assert operate(again, "verify").document["in_order"] is True
    again.stop()


def test_destroyed_generation_is_gone_from_a_provider_that_runs(scene: Scene) -> None:
    provider = started(scene, "destroyed")
    assert operate(provider, "rotate").status == 0
    until(lambda: disk(scene, provider).generation == 2)
    assert disk(scene, provider, PREVIOUS).generation == 1
    assert operate(provider, "destroy", 1, "--yes").status == 0

    def refused() -> bool:
        try:
            disk(scene, provider, 1)
        except ProviderError:
            return True
        return False

    until(refused)
    assert disk(scene, provider).generation == 2
    provider.stop()


def test_provider_opens_by_another_slot_after_a_microcode_update(
    scene: Scene,
) -> None:
    provider = started(scene, "updated", platform=platform_of(scene, "machine-u"))
    slots = operate(provider, "slot", "test").document["slots"]
    assert [slot["class"] for slot in slots] == ["gramine", "sgx"]
    identity = keyring_id(provider)
    provider.stop()
    scene.world.intel.platform("machine-u").microcode_update()
    again = started(scene, "updated", platform=platform_of(scene, "machine-u"))
    assert keyring_id(again) == identity
    slots = operate(again, "slot", "test").document["slots"]
    assert [slot["opens"] for slot in slots] == [False, True]
    for slot in slots:
        assert operate(again, "slot", "rewrap", slot["id"]).status == 0
    assert operate(again, "slot", "test").status == 0
    again.wait_ready()
    again.stop()


def platform_of(scene: Scene, machine: str) -> dict[str, str]:
    scene.world.intel.platform(machine)
    return {"kind": "sim", "world": str(scene.folder / "world"), "machine": machine}


def test_provider_starts_on_a_keyring_that_the_command_made(scene: Scene) -> None:
    provider = started(scene, "made")
    first = keyring_id(provider)
    provider.stop()
    shutil.rmtree(Path(provider.settings.host.state_dir))
    made = operate(provider, "init", "--class", "sgx").document
    again = started(scene, "made", keyring={})
    assert keyring_id(again).hex() == made["keyring_id"] != first.hex()
    assert disk(scene, again).generation == 1
    again.stop()
