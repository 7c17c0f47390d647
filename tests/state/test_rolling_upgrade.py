# SPDX-License-Identifier: Apache-2.0
"""Three nodes over one PostgreSQL are exchanged for newer ones while workloads ask."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import newer_node
import pytest
from fleet_load import CountedSite, FleetLoad
from store_postgres import Server
from test_shared_keyrings import join

from cli_support import run
from handoff_scene import NEXT_IMAGE
from tightseal.service.supervisor import EXIT_FAILED
from tightseal_sim.scene import Provider, Scene

NAMES = ("one", "two", "three")
NOTICE_SECONDS = 0.5
WAIT_SECONDS = 60.0

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path / "scene") as made:
        yield made


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not done():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)


@dataclass
class Fleet:
    """Nodes of one keyring and one policy over one database."""

    stage: Scene
    address: str
    site: CountedSite = field(init=False)
    bundle: bytes = field(init=False)
    nodes: dict[str, Provider] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.site = CountedSite(self.stage)
        self.bundle = self.site.bundle()
        (self.stage.folder / "keyring").mkdir()

    def start(self, name: str) -> Provider:
        """A node of this version; the first one makes the keyring."""
        path = self.stage.folder / "keyring" / "keyring.tsk"
        config = self.site.configure(
            name,
            self.bundle,
            machine="machine-a",
            keyring={"create": not self.nodes, "path": str(path)},
            state={"engine": "postgres", "url": self.address},
            drain_notice_seconds=NOTICE_SECONDS,
        )
        self.nodes[name] = self.stage.start(config)
        return self.nodes[name]

    def stop(self, name: str) -> None:
        """As an operator does: told to stop, it ends by itself."""
        process = self.nodes[name].process
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0

    def start_newer(self, name: str, *, raise_after: int = 0) -> None:
        """A node of the newer version over the same folder, addresses and database."""
        self._again(name, newer_node.__file__, str(raise_after))

    def start_older(self, name: str) -> None:
        """This version again, over the same folder."""
        self._again(name, "-m", "tightseal")

    def _again(self, name: str, *program: str) -> None:
        node = self.nodes[name]
        with node.log.open("ab") as sink:
            node.process = subprocess.Popen(
                [sys.executable, *program, "serve", "--config", str(node.config)],
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        node.wait_ready()

    def told(self, name: str) -> dict[str, Any]:
        """What ``tightseal nodes`` says, asked at this node."""
        document = run("nodes", self.nodes[name].url, "--json").document
        assert document["version"] == 1
        return document


def standings(told: dict[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in told["nodes"]:
        found[node["standing"]] = found.get(node["standing"], 0) + 1
    return found


def wrong(told: dict[str, Any]) -> list[str]:
    return [one for node in told["nodes"] for one in node["wrong"]]


def entries(node: Provider) -> list[dict[str, Any]]:
    """Every entry of a node's log."""
    said = run("audit", "query", "--config", node.config, "--json", "--count", 1000)
    assert said.status == 0, said.stderr
    found: list[dict[str, Any]] = said.document["entries"]
    assert len(found) < 1000
    return found


def test_nodes_are_exchanged_one_by_one_and_no_workload_notices(
    stage: Scene, postgres: Server
) -> None:
    fleet = Fleet(stage, postgres.new_address())
    for name in NAMES:
        fleet.start(name)
    load = FleetLoad(fleet.site, fleet.nodes)
    with load.running():
        load.wait_ready(*NAMES)
        for number, name in enumerate(NAMES, start=1):
            load.wait_for(5)
            fleet.stop(name)
            fleet.start_newer(name)
            load.wait_ready(*NAMES)
            load.wait_for(3, node=name)
            told = fleet.told(name)
            versions = [node["software"] for node in told["nodes"]]
            assert versions.count(newer_node.VERSION) == number
            if number < len(NAMES):
                assert (told["format"], told["understood"]) == (1, 1)
        until(lambda: {fleet.told(name)["format"] for name in NAMES} == {2})
        load.wait_for(5)
        assert standings(fleet.told("one")) == {"serving": 3}
        told_last = fleet.told("two")["nodes"]
        refuses_to_start(fleet, "older")
    for name in NAMES:
        fleet.stop(name)

    # Nobody had to ask more than twice, and what was refused is the limit alone.
    assert load.failed == []
    assert load.refused["usage_limit_reached"] > 0
    judge(fleet, load, list(NAMES), told=told_last)


def judge(
    fleet: Fleet,
    load: FleetLoad,
    names: list[str],
    *,
    told: list[dict[str, Any]] | None = None,
) -> None:
    """Same keys, the limit held, every answer in the log of its node, logs in order."""
    assert set(load.refused) <= {"usage_limit_reached"}
    assert len({one.key for one in load.answered if one.purpose == "disk"}) == 1
    counted = [one for one in load.answered if one.purpose == "counted"]
    assert len(counted) <= fleet.site.total
    if load.refused:
        # What was counted for nobody had its answer cut off; nothing else is missing.
        assert fleet.site.total - len(counted) <= len(load.retried)
    for name in names:
        logged = entries(fleet.nodes[name])
        found = {entry["entry_id"] for entry in logged}
        assert {one.entry_id for one in load.answered if one.node == name} <= found
        config, size = fleet.nodes[name].config, len(logged)
        key = log_key(fleet, name)
        assert told is None or key in {node["log_key"] for node in told}
        checked = ("--log-key", key, "--min-size", size)
        said = run("audit", "verify", "--config", config, *checked)
        assert said.status == 0, said.stderr


def log_key(fleet: Fleet, name: str) -> str:
    """The verifier key of a node's log, as each of its starts said it."""
    lines = fleet.nodes[name].log.read_bytes().splitlines()
    told = [json.loads(line) for line in lines if b'"log_checked"' in line]
    (key,) = {line["log_verifier"] for line in told}
    return str(key)


def refuses_to_start(fleet: Fleet, name: str) -> None:
    """A node of the older version finds a state that newer ones have raised."""
    config = fleet.site.configure(
        name,
        fleet.bundle,
        machine="machine-a",
        keyring={"path": str(fleet.stage.folder / "keyring" / "keyring.tsk")},
        state={"engine": "postgres", "url": fleet.address},
    )
    command = [sys.executable, "-m", "tightseal", "serve", "--config", str(config)]
    said = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert said.returncode == EXIT_FAILED
    last = json.loads(said.stderr.decode().splitlines()[-1])
    assert (last["event"], last["code"]) == ("cannot_serve", "state_schema_unsupported")
    assert "state of format 2, this version understands 1" in last["detail"]
    assert "run their version here too" in last["detail"]


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2))
def test_nodes_go_forward_and_back_and_die_and_the_state_is_not_raised(
    stage: Scene, own_postgres: Server, seed: int
) -> None:
    """For a day the older version can be put back, whatever happens meanwhile."""
    chance = random.Random(seed)
    fleet = Fleet(stage, own_postgres.new_address())
    for name in NAMES:
        fleet.start(name)
    load = FleetLoad(fleet.site, fleet.nodes)
    with load.running():
        for newer in (True, False, True):
            killed = chance.choice(NAMES)
            for name in chance.sample(NAMES, len(NAMES)):
                load.wait_ready(*NAMES)
                load.wait_for(5)
                if name == killed:
                    fleet.nodes[name].process.kill()
                    fleet.nodes[name].process.wait(10)
                else:
                    fleet.stop(name)
                if newer:
                    fleet.start_newer(name, raise_after=86_400)
                else:
                    fleet.start_older(name)
        load.wait_ready(*NAMES)
        until(lambda: fleet.told("one")["understood"] == 2)
        assert {fleet.told(name)["format"] for name in NAMES} == {1}
        for name in NAMES:
            fleet.stop(name)
            fleet.start_older(name)
            load.wait_ready(*NAMES)
            load.wait_for(3, node=name)
    for name in NAMES:
        fleet.stop(name)
    assert load.failed == []
    judge(fleet, load, list(NAMES))


@pytest.mark.soak
def test_a_node_moves_to_another_machine_and_measurement_under_load(
    stage: Scene, postgres: Server
) -> None:
    """The new one joins by handoff, then the old one drains and is gone."""
    fleet = Fleet(stage, postgres.new_address())
    one = fleet.start("one")
    load = FleetLoad(fleet.site, fleet.nodes)
    with load.running():
        load.wait_for(5)
        config = fleet.site.configure(
            "two",
            fleet.bundle,
            machine="machine-b",
            image=NEXT_IMAGE,
            state={"engine": "postgres", "url": fleet.address},
        )
        join(fleet.site, one, config)
        fleet.nodes["two"] = stage.start(config)
        load.wait_ready("one", "two")
        load.wait_for(3, node="two")
        until(lambda: not wrong(fleet.told("two")))
        told = fleet.told("two")
        assert len({node["measurement"] for node in told["nodes"]}) == 2
        fleet.stop("one")
        load.wait_ready("two")
        load.wait_for(10)
        until(lambda: standings(fleet.told("two")) == {"serving": 1, "left": 1})
    fleet.stop("two")
    assert load.failed == []
    judge(fleet, load, ["one", "two"])


@pytest.mark.soak
def test_a_node_that_is_killed_is_named_by_the_others_until_it_is_told_gone(
    stage: Scene, postgres: Server
) -> None:
    fleet = Fleet(stage, postgres.new_address())
    fleet.start("one")
    two = fleet.start("two")
    until(lambda: standings(fleet.told("one")) == {"serving": 2})
    (gone,) = [n for n in fleet.told("two")["nodes"] if n["node"] == own(fleet, "two")]
    two.process.kill()
    two.process.wait(10)
    fleet.stop("one")
    config = fleet.nodes["one"].config
    text = config.read_text()
    assert text.count(f'"{fleet.address}"') == 1
    named = f', ended_logs = ["{gone["node"]}"]'
    config.write_text(text.replace(f'"{fleet.address}"', f'"{fleet.address}"{named}'))
    fleet.nodes["one"] = stage.start(config)
    until(lambda: standings(fleet.told("one")) == {"serving": 1})
    # It was said to be over, so it does not come back as if nothing were.
    config = fleet.nodes["two"].config
    command = [sys.executable, "-m", "tightseal", "serve", "--config", str(config)]
    said = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert said.returncode == EXIT_FAILED
    assert b"log_tampered" in said.stderr


def own(fleet: Fleet, name: str) -> str:
    found: str = httpx.get(f"{fleet.nodes[name].url}/v1/nodes", trust_env=False).json()[
        "node"
    ]
    return found
