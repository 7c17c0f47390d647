# SPDX-License-Identifier: Apache-2.0
"""What deploy/compose starts, without its containers: three providers and a PCCS."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from store_postgres import Server

from handoff_scene import Site
from tightseal.audit.checkpoint import Trust
from tightseal.audit.note import NoteKey
from tightseal.audit.verify import verify_log
from tightseal.model.keypath import KeyRequest
from tightseal.service.tileplaces import listed_logs, reading
from tightseal_sim.approvers import Approvers
from tightseal_sim.pccs_server import main as pccs_server
from tightseal_sim.scene import Provider, Scene, free_port

COMPOSE = Path(__file__).resolve().parents[2] / "deploy" / "compose"
SEED = "5e" * 32
NOBODY = "00" * 32
START_SECONDS = 20.0
PUBLISH_SECONDS = 60.0
DATABASE = "postgresql://tightseal@postgres/tightseal"

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture
def pccs(tmp_path: Path) -> Iterator[str]:
    """The simulated PCCS as compose.yaml starts it; makes the world."""
    assert SEED in (COMPOSE / "compose.yaml").read_text()
    address = f"127.0.0.1:{free_port()}"
    command = ["-P", "-s", "-B", "-m", "tightseal_sim.pccs_server"]
    command += ["--world", str(tmp_path / "scene" / "world"), "--seed", SEED]
    with subprocess.Popen([sys.executable, *command, "--listen", address]) as process:
        url = f"http://{address}"
        until_ok(f"{url}/sgx/certification/v4/rootcacrl")
        yield url
        process.terminate()
        process.wait(10)


def until_ok(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx.get(url, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, url
        time.sleep(0.1)


def settings_of(number: int, changes: dict[str, str], folder: Path) -> Path:
    """The settings of compose, with what the containers would put in their place."""
    text = (COMPOSE / "provider.toml").read_text()
    own = folder / f"provider-{number}"
    own.mkdir()
    changes = {
        **changes,
        'listen = "0.0.0.0:3442"': f'listen = "127.0.0.1:{free_port()}"',
        '"0.0.0.0:3443"': f'"127.0.0.1:{free_port()}"',
        '"/var/lib/tightseal"': f'"{own / "state"}"',
        '"/var/cache/tightseal"': f'"{own / "cache"}"',
    }
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    config = own / "tightseal.toml"
    config.write_text(text)
    return config


def test_three_providers_of_one_keyring_give_the_same_keys(
    tmp_path: Path, pccs: str, postgres: Server
) -> None:
    approvers = Approvers(2, threshold=2)
    (tmp_path / "keyring").mkdir()
    changes = {
        "/srv/world": str(tmp_path / "scene" / "world"),
        "/var/lib/tightseal-keyring": str(tmp_path / "keyring"),
        DATABASE: postgres.new_address(),
        "http://pccs:8081": pccs,
        NOBODY: approvers.policy_root.hex(),
    }
    with Scene(tmp_path / "scene") as scene:
        site = Site(scene, approvers)
        providers: list[Provider] = []
        for number in (1, 2, 3):
            config = settings_of(number, changes, tmp_path)
            providers.append(scene.start(config, wait_for="/healthz"))
        assert providers[0].publish(site.bundle()).is_success
        for provider in providers:
            until_ok(f"{provider.url}/readyz")
        first, second, third = providers
        made = site.key(first, "acme", KeyRequest("kept", create=True)).get("kept")
        keys = [site.key(provider, "acme").get("disk") for provider in providers]
        assert keys[0] == keys[1] == keys[2]
        for provider in (second, third):
            assert site.key(provider, "acme", KeyRequest("kept")).get("kept") == made
        logs_are_in_the_database(changes[DATABASE], providers)


def logs_are_in_the_database(database: str, providers: list[Provider]) -> None:
    """The log of each, as rows, which it serves; each reads the same both ways."""
    keys = [NoteKey.parse(logged(p, "log_checked", "log_verifier")) for p in providers]
    deadline = time.monotonic() + PUBLISH_SECONDS
    while len(listed := listed_logs(database)) < len(keys):
        assert time.monotonic() < deadline, listed
        time.sleep(0.2)
    assert {log.origin for log in listed} == {key.name for key in keys}
    for key, provider in zip(keys, providers, strict=True):
        with reading(database, key.name) as rows:
            audited = verify_log(rows, Trust(key))
        url = f"{provider.url}/{key.name.removeprefix('tightseal/')}"
        with reading(url, key.name) as served:
            head = verify_log(served, Trust(key)).head
        assert head.checkpoint.size >= audited.head.checkpoint.size >= 1


def logged(provider: Provider, event: str, field: str) -> str:
    """What a line of the provider's log says."""
    for line in provider.log.read_text().splitlines():
        if line.startswith("{") and json.loads(line).get("event") == event:
            return str(json.loads(line)[field])
    raise AssertionError(event)


def test_as_the_file_stands_no_bundle_is_accepted(
    tmp_path: Path, pccs: str, postgres: Server
) -> None:
    (tmp_path / "keyring").mkdir()
    changes = {
        "/srv/world": str(tmp_path / "scene" / "world"),
        "/var/lib/tightseal-keyring": str(tmp_path / "keyring"),
        DATABASE: postgres.new_address(),
        "http://pccs:8081": pccs,
    }
    with Scene(tmp_path / "scene") as scene:
        config = settings_of(1, changes, tmp_path)
        provider = scene.start(config, wait_for="/healthz")
        answer = provider.publish(Site(scene).bundle())
        assert answer.json()["code"] == "bundle_root_mismatch"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--listen", "nowhere", "--seed", SEED],
        ["--listen", "127.0.0.1:0", "--seed", "5e"],
        ["--listen", "127.0.0.1:0", "--seed", "no hex"],
    ],
    ids=["address", "short seed", "no seed"],
)
def test_a_pccs_that_cannot_be_made_says_why(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pccs_server(["--world", str(tmp_path / "world"), *arguments]) == 2
    assert "settings_invalid" in capsys.readouterr().err
