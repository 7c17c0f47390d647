# SPDX-License-Identifier: Apache-2.0
"""A provider that runs: its generation grows old, and its key is renewed between."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli_support import Said, run
from tightseal.guest.client import Client
from tightseal.guest.released import ReleasedKey
from tightseal.model.base64url import decode_base64url
from tightseal.model.generation import Generation, GenerationName
from tightseal.model.keypath import KeyRequest
from tightseal.platform.door import open_platform
from tightseal.service.load import load_settings
from tightseal.service.ownkeyring import write_keyring
from tightseal.service.slotkeys import own_slots
from tightseal.service.state import prepare_folder
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Provider, Scene

CURRENT, PREVIOUS = GenerationName.CURRENT, GenerationName.PREVIOUS
DAY = 86_400
SECONDS = 20.0

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


def started(scene: Scene, name: str, **given: Any) -> Provider:
    release = {"root": "keyring", **given.pop("release", {})}
    host = {"keyring": {"create": True}, **given.pop("host", {})}
    return scene.provider(name, release=release, host=host, **given)


def disk(
    scene: Scene, provider: Provider, generation: Generation = CURRENT
) -> ReleasedKey:
    said = httpx.get(f"{provider.url}/v1/info", trust_env=False).json()
    text = said["identity"]["keyring_id"]
    keyring_id = decode_base64url(text, field="keyring_id", max_bytes=32)
    identity = replace(provider.pin.identity, keyring_id=keyring_id)
    td = scene.world.intel.platform("machine-a").launch_td(TdImage())
    pin = replace(provider.pin, identity=identity)
    with scene.client(provider, td, pin=pin) as client:
        assert isinstance(client, Client)
        keys = client.keys(KeyRequest("disk", generation=generation))
        return keys.key("disk", generation=generation)


def operate(provider: Provider, *arguments: object) -> Said:
    return run("keyring", *arguments, "--config", provider.config, "--json")


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < deadline, "not yet"
        time.sleep(0.2)


def events(provider: Provider, name: str) -> list[dict[str, Any]]:
    lines = map(json.loads, provider.log.read_text().splitlines())
    return [line for line in lines if line["event"] == name]


def made_before(config: Path, *, days: int) -> None:
    """A keyring whose generation began some days ago."""
    settings = load_settings(config)
    prepare_folder(settings.host)
    kind = settings.host.platform
    platform = open_platform(kind.kind.value, kind.options())
    past = int(time.time()) - days * DAY
    slot_key = own_slots(settings, platform).choose()
    write_keyring(settings, slot_key, label="first", now=past).wipe()


def test_workers_rotate_an_old_generation_once(scene: Scene) -> None:
    """Their collateral was signed just now: signed time has reached the age."""
    config = scene.configure(
        "old",
        release={"root": "keyring", "rotate_after_days": 30},
        host={"workers": 2},
    )
    made_before(config, days=40)
    again = scene.start(config)
    until(lambda: disk(scene, again).generation == 2)
    # The other worker follows with its own next look at the file.
    until(lambda: all(disk(scene, again).generation == 2 for _ in range(8)))
    time.sleep(3.0)
    assert disk(scene, again, PREVIOUS).generation == 1
    found = operate(again, "status").document["generations"]
    assert [g["state"] for g in found] == ["retired", "current"]
    assert len(events(again, "keyring_rotated_by_age")) == 1
    tail = run("audit", "tail", "--config", again.config, "--json").document
    granted = [
        entry
        for entry in tail["entries"]
        if entry["protocol_class"] == "age" and entry["granted"]
    ]
    assert 1 <= len(granted) <= 2
    text = httpx.get(f"{again.url}/metrics", trust_env=False).text
    assert "tightseal_keyring_generation 2.0" in text
    again.stop()


def test_a_young_generation_stays(scene: Scene) -> None:
    provider = started(scene, "young", release={"rotate_after_days": 30})
    time.sleep(3.0)
    assert disk(scene, provider).generation == 1
    assert not events(provider, "keyring_rotated_by_age")
    provider.stop()


def test_the_key_is_renewed_while_the_provider_is_stopped(scene: Scene) -> None:
    provider = started(scene, "renewed", host={"workers": 2})
    before = disk(scene, provider).secret
    refused = operate(provider, "renew-key", "--yes")
    assert refused.status == 1
    assert "state_conflict" in refused.stderr
    # Other changes are taken over by the provider that runs.
    assert operate(provider, "rotate").status == 0
    until(lambda: all(disk(scene, provider).generation == 2 for _ in range(4)))
    provider.stop()
    assert operate(provider, "renew-key", "--yes").status == 0
    again = started(scene, "renewed", host={"workers": 2})
    assert disk(scene, again, PREVIOUS).secret == before
    assert operate(again, "verify").document["in_order"] is True
    again.stop()
