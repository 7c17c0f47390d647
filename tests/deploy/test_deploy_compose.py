# SPDX-License-Identifier: Apache-2.0
"""Three providers in containers, linted: file, settings and image agree.

Not run here. What its providers run with is run without containers, over a real
PostgreSQL, in ``tests/state/test_compose_settings.py``.
"""

import copy
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from containerfile import parse
from yaml_subset import load

from tightseal.service.load import DEFAULT_CONFIG, load_settings
from tightseal.service.settings import Settings, split_address
from tightseal.service.supervisor import STOP_SLACK_SECONDS
from tightseal_sim.world import World

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "compose"
TEXT = (FOLDER / "compose.yaml").read_text()
FILE: dict[str, Any] = load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
PROVIDERS = ["provider-1", "provider-2", "provider-3"]
SHARED = {"world", "keyring"}


def settings() -> Settings:
    return load_settings(FOLDER / "provider.toml")


def mounts(service: str) -> dict[str, str]:
    """What is mounted in a service, by place."""
    pairs = (volume.split(":") for volume in SERVICES[service]["volumes"])
    return {pair[1]: pair[0] for pair in pairs}


def test_there_are_three_providers_a_database_and_a_pccs() -> None:
    assert list(SERVICES) == ["pccs", "postgres", *PROVIDERS]


def test_providers_differ_in_ports_and_own_volumes_alone() -> None:
    def common(name: str) -> dict[str, Any]:
        service = copy.deepcopy(SERVICES[name])
        number = name.removeprefix("provider-")
        assert service.pop("ports") == [f"127.0.0.1:345{number}:3442"]
        del service["depends_on"]
        volumes = [v.replace(f"-{number}:", "-N:") for v in service["volumes"]]
        return {**service, "volumes": volumes}

    assert common("provider-1") == common("provider-2") == common("provider-3")


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_folder_of_the_settings_is_a_volume(name: str) -> None:
    host, found = settings().host, mounts(name)
    number = name.removeprefix("provider-")
    assert found == {
        str(DEFAULT_CONFIG): "./provider.toml",
        host.platform.world: "world",
        str(host.keyring_path.parent): "keyring",
        host.state_dir: f"state-{number}",
        str(host.collateral_dir): f"cache-{number}",
    }
    (config,) = [v for v in SERVICES[name]["volumes"] if v.startswith("./")]
    assert config.endswith(":ro")


def test_every_volume_is_declared_and_used() -> None:
    used = {
        source
        for name in SERVICES
        for source in mounts(name).values()
        if not source.startswith(".")
    }
    assert used == set(FILE["volumes"])
    owners = [set(mounts(name).values()) - {"./provider.toml"} for name in PROVIDERS]
    assert owners[0] & owners[1] == owners[1] & owners[2] == SHARED


def test_volumes_belong_to_whom_the_image_runs_as() -> None:
    image = parse((ROOT / "deploy" / "container" / "Containerfile").read_text())
    build = SERVICES["pccs"]["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).is_file()
    made = " ".join(run for s in image.chain(build["target"]) for run in s.every("RUN"))
    users = [u for s in image.chain(build["target"]) for u in s.every("USER")]
    for name in ("pccs", *PROVIDERS):
        assert SERVICES[name]["user"] == users[-1]
        assert SERVICES[name]["image"] == SERVICES["pccs"]["image"]
        for place in mounts(name):
            if place != str(DEFAULT_CONFIG):
                assert re.search(rf"{place}(\s|$)", made), place


@pytest.mark.parametrize("name", ["pccs", *PROVIDERS])
def test_a_service_of_ours_may_do_nothing_besides(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "environment" not in service
    assert service["pids_limit"] <= 512
    assert re.fullmatch(r"[1-9]\d*[mg]", service["mem_limit"])


@pytest.mark.parametrize("name", PROVIDERS)
def test_ports_and_health_fit_the_settings(name: str) -> None:
    host, service = settings().host, SERVICES[name]
    bound, port = split_address(host.listen, setting="host.listen")
    assert bound == "0.0.0.0"
    (published,) = service["ports"]
    assert published.split(":")[0] == "127.0.0.1"
    assert published.split(":")[2] == str(port)
    assert f"http://127.0.0.1:{port}/healthz" in service["healthcheck"]["test"][-1]
    grace = int(service["stop_grace_period"].removesuffix("s"))
    stopping = host.drain_notice_seconds + host.drain_seconds
    assert grace > stopping + STOP_SLACK_SECONDS
    assert service["ulimits"] == {"memlock": -1, "core": 0}


def test_every_service_says_when_it_is_well() -> None:
    for name, service in SERVICES.items():
        health = service["healthcheck"]
        assert health["test"][0] == "CMD", name
        assert set(health) == {"test", "interval", "timeout", "retries"}


def test_services_start_in_an_order_that_ends() -> None:
    started: set[str] = set()
    waiting = dict(SERVICES)
    while waiting:
        ready = [
            name
            for name, service in waiting.items()
            if set(service.get("depends_on") or ()) <= started
        ]
        assert ready, f"{sorted(waiting)} wait for each other"
        started |= set(ready)
        for name in ready:
            del waiting[name]
    # One makes the keyring; the others find it.
    assert set(SERVICES["provider-1"]["depends_on"]) == {"pccs", "postgres"}
    for name in PROVIDERS[1:]:
        assert SERVICES[name]["depends_on"] == {
            "provider-1": {"condition": "service_healthy"}
        }


def test_the_database_is_the_one_of_the_settings_and_nobody_elses() -> None:
    url = urlsplit(settings().host.state.url)
    database = SERVICES["postgres"]
    environment = database["environment"]
    assert url.hostname == "postgres"
    assert url.username == environment["POSTGRES_USER"]
    assert url.path == f"/{environment['POSTGRES_DB']}"
    assert url.password is None
    assert database["networks"] == ["inside"]
    assert FILE["networks"]["inside"] == {"internal": True}
    assert "ports" not in database


def test_the_pccs_is_the_one_of_the_settings() -> None:
    (address,) = settings().host.collateral.pccs
    command = SERVICES["pccs"]["command"]
    url = urlsplit(address)
    assert url.hostname == "pccs"
    assert command[command.index("--listen") + 1] == f"0.0.0.0:{url.port}"
    assert command[command.index("--world") + 1] == settings().host.platform.world
    assert str(url.port) in SERVICES["pccs"]["healthcheck"]["test"][-1]
    assert "ports" not in SERVICES["pccs"]


def test_the_world_of_the_seed_is_the_one_that_is_trusted() -> None:
    command = SERVICES["pccs"]["command"]
    seed = bytes.fromhex(command[command.index("--seed") + 1])
    (trusted,) = settings().release.simulated_root_certificates()
    assert trusted == World.in_memory(seed).intel.root_certificate


def test_the_policy_root_is_nobodys() -> None:
    """Started as it is, no bundle is ever accepted, and nothing is released."""
    assert settings().release.policy_root == "00" * 32


def test_images_are_named_without_a_registry_and_with_a_version() -> None:
    images = {service["image"] for service in SERVICES.values()}
    assert images == {"tightseal-try", "postgres:16-bookworm"}


def test_no_secret_stands_in_the_files() -> None:
    for path in FOLDER.iterdir():
        assert not re.search(r"(?i)password|passwd|token|private", path.read_text())
    assert set(SERVICES["postgres"]["environment"]) == {
        "POSTGRES_USER",
        "POSTGRES_DB",
        "POSTGRES_HOST_AUTH_METHOD",
    }
