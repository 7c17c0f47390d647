# SPDX-License-Identifier: Apache-2.0
"""The container file, linted: no container is built here."""

import json
import re
from pathlib import Path

import pytest
from containerfile import Containerfile, parse

from tightseal.service.load import DEFAULT_CONFIG
from tightseal.service.settings import HostSettings, split_address

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "container"
TEXT = (FOLDER / "Containerfile").read_text()
FILE: Containerfile = parse(TEXT)

HOST_OF_A_REGISTRY = re.compile(r"\b[\w-]+(\.[\w-]+)+(:\d+)?/[\w-]+|\blocalhost:\d+/")


def test_a_build_that_names_no_target_is_production() -> None:
    last = list(FILE.stages.values())[-1]
    assert last.name == "provider"
    assert last.base == "runtime"
    assert last.instructions == []


def test_the_simulated_world_is_in_the_image_for_trying_alone() -> None:
    for name in FILE.stages:
        copied = [c for s in FILE.chain(name) for c in s.every("COPY")]
        simulated = any("tightseal-sim" in c for c in copied)
        assert simulated == (name == "try"), name
    for stage in FILE.chain("provider"):
        assert "sim" not in " ".join(stage.every("ENV"))


@pytest.mark.parametrize("name", ["provider", "try"])
def test_it_runs_as_nobody_in_particular(name: str) -> None:
    users = [user for stage in FILE.chain(name) for user in stage.every("USER")]
    assert users[-1] == "10001:10001"
    assert users.count("0:0") == (1 if name == "try" else 0)


def test_what_runs_belongs_to_root_and_cannot_be_changed() -> None:
    for stage in FILE.stages.values():
        for copied in stage.every("COPY"):
            if "--from=" in copied:
                assert "--chown=0:0" in copied
    (made,) = FILE.stages["runtime"].every("RUN")
    assert "-m 0700 -o 10001 -g 10001 /var/lib/tightseal" in made
    assert "/opt" not in made


def test_every_package_is_pinned_by_hash_or_our_own() -> None:
    commands = [run for stage in FILE.stages.values() for run in stage.every("RUN")]
    installs = [c for c in commands if "-m pip " in c]
    assert len(installs) == 4
    for command in installs:
        hashed = "--require-hashes --only-binary :all:" in command
        ours = "--no-deps --no-index" in command
        assert hashed != ours, command
        assert hashed == ("run.txt" in command)
    assert not [c for c in commands if re.search(r"curl|wget|apt|git ", c)]


def test_what_is_copied_is_there() -> None:
    for copied in FILE.stages["build"].every("COPY"):
        *sources, _ = copied.split()
        for source in sources:
            assert (ROOT / source).exists(), source


def test_the_driver_is_pinned_as_it_is_tested() -> None:
    pinned = (FOLDER / "postgres.txt").read_text().split("\n", 1)[1]
    assert pinned.startswith("asyncpg==")
    assert pinned in (ROOT / "requirements" / "dev.txt").read_text()


def test_images_are_named_without_a_registry() -> None:
    assert FILE.arguments == {"BASE": "python:3.11-slim-bookworm"}
    bases = {s.base for s in FILE.stages.values()} - set(FILE.stages)
    assert bases == {"${BASE}"}
    assert not HOST_OF_A_REGISTRY.search(FILE.arguments["BASE"])


def test_the_entry_fits_the_program() -> None:
    runtime = FILE.stages["runtime"]
    (entry,), (command,) = runtime.every("ENTRYPOINT"), runtime.every("CMD")
    started = json.loads(entry) + json.loads(command)
    assert started[:5] == ["python3", "-P", "-s", "-B", "-m"]
    assert started[5:] == ["tightseal", "serve", "--config", str(DEFAULT_CONFIG)]
    (exposed,) = runtime.every("EXPOSE")
    host = HostSettings()
    ports = [
        split_address(address, setting="")[1]
        for address in (host.listen, host.listen_framed)
    ]
    assert [int(port) for port in exposed.split()] == ports


def test_no_secret_and_no_setting_is_built_in() -> None:
    for stage in FILE.stages.values():
        for variables in stage.every("ENV"):
            names = set(re.findall(r"(\w+)=", variables))
            assert names <= {"PYTHONPATH", "PYTHONUNBUFFERED"}
    assert not re.search(r"(?i)password|secret|token|passphrase", TEXT)


@pytest.mark.parametrize(
    "text",
    ["ADD x /y", "FROM python", "HEALTHCHECK NONE", "FROM a AS b\nVOLUME /x", "RUN"],
)
def test_an_instruction_that_is_not_expected_is_found(text: str) -> None:
    with pytest.raises(ValueError, match=r"no instruction|without a name"):
        parse(f"{text}\n" if text != "RUN" else "run x\n")
