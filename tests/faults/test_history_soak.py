# SPDX-License-Identifier: Apache-2.0
"""The long form: more faults, and providers as processes that are killed outright."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from faults_path import TESTS
from history_rig import Clients, CutStore, Recorded, Rules, total_of
from history_specs import UsageCounter
from node_world import HOUR, NodeClock, Stage, a_stage
from store_postgres import Server
from test_history import (
    DB,
    WEB,
    Chaos,
    bundle_of,
    database_restarter,
    own_database,
    run_on_postgres,
    show,
    through,
    workloads,
)

from tightseal.model.state import StateStore
from tightseal.service.compose import _platform, _store_key
from tightseal.service.roots import open_roots
from tightseal.service.state import open_store

__all__ = ["own_database", "through"]

pytestmark = pytest.mark.soak

NODE = Path(__file__).with_name("history_node.py")
START_SECONDS = 60.0
RULES = Rules({DB: UsageCounter(total=400), WEB: UsageCounter(total=300, per_hour=90)})


@pytest.mark.parametrize("seed", range(10, 16))
def test_many_faults_in_one_process(
    tmp_path: Path,
    own_database: Server,
    through: Callable[[Any], None],
    seed: int,
) -> None:
    random = Random(f"cuts {seed}")
    through(lambda store: CutStore(store, random, every=20))
    recorded = run_on_postgres(
        tmp_path, own_database, seed, rules=RULES, rounds=120, clients=3, each=4
    )
    judged = RULES.judge(recorded, seed=seed)
    assert judged.operations > 700, show(recorded)


@dataclass
class Process:
    """A node like ``node_world.Node``, in a process of its own."""

    name: str
    stage: Stage
    settings: Any
    clock: NodeClock
    store: StateStore
    starts: int = 0
    address: int | None = None
    child: "subprocess.Popen[str] | None" = None
    reader: threading.Thread | None = None

    @property
    def start_name(self) -> str:
        return f"{self.name}/{self.starts}"

    @property
    def port(self) -> int:
        found = self.address
        if found is None:
            raise ConnectionRefusedError(self.name)
        return found

    @property
    def clock_file(self) -> Path:
        return self.stage.folder / f"clock-{self.name}"

    def show_clock(self) -> None:
        new = self.clock_file.with_suffix(".new")
        new.write_text(str(self.clock()))
        new.replace(self.clock_file)

    def start(self) -> None:
        self.show_clock()
        log = self.stage.folder / f"log-{self.name}-{self.starts}"
        paths = [TESTS / "service", TESTS / "faults", TESTS]
        search = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")])
        config = msgspec.json.encode(self.settings).decode()
        with log.open("w") as sink:
            child = subprocess.Popen(
                [sys.executable, str(NODE), config, str(self.clock_file)],
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                env={**os.environ, "PYTHONPATH": search},
            )
        self.child = child
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("port "):
                self.starts += 1
                self.address = int(line.split()[1])
                self.reader = threading.Thread(target=drain, args=(child,))
                self.reader.start()
                return
        child.wait()
        child.stdout.close()
        self.child = None
        raise ConnectionError(f"{self.name} did not start; see {log}")

    def kill(self) -> None:
        """SIGKILL: at any instruction."""
        self.address = None
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None
        if self.reader is not None:
            self.reader.join()
            self.reader = None


def drain(child: "subprocess.Popen[str]") -> None:
    """Read what it still says, until it is gone."""
    assert child.stdout is not None
    with child.stdout as said:
        for _ in said:
            pass


def until_up(node: Process) -> None:
    """The database may be down while it starts."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            node.start()
        except ConnectionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


@pytest.fixture
def fleet(
    tmp_path: Path,
    own_database: Server,
) -> Iterator[tuple[Stage, list[Process]]]:
    """Two processes over one database, and this process's own look into the state."""
    host = {"state": {"engine": "postgres", "url": own_database.new_address()}}
    with a_stage(tmp_path / "stage") as stage:
        stage.time.advance(-4 * HOUR)
        file = stage.folder / "policy.tsb"
        file.write_bytes(bundle_of(stage, RULES))
        stage.time.advance(4 * HOUR)
        nodes: list[Process] = []
        # The first prepares the store, which then can be looked into.
        first = stage.node("look", **host).start(file.read_bytes())
        settings = first.settings
        own = open_roots(settings, _platform(settings))
        key = _store_key(own, settings.release.policy_root)
        store = open_store(settings.host, key)
        first.stop()
        for name in ("one", "two"):
            given = stage.settings(name, **host, policy_bundle=str(file))
            nodes.append(Process(name, stage, given, NodeClock(stage.time), store))
        try:
            for node in nodes:
                until_up(node)
            yield stage, nodes
        finally:
            for node in nodes:
                node.kill()
            store.close()


@pytest.mark.parametrize("seed", range(20, 23))
def test_killed_processes_are_linearizable(
    fleet: tuple[Stage, list[Process]],
    own_database: Server,
    seed: int,
) -> None:
    """SIGKILL in the middle of releases, the database restarted, clocks stepped."""
    stage, nodes = fleet
    recorded = Recorded()
    for node in nodes:
        recorded.readings.note(node.name, node.clock())
    kills: Counter[str] = Counter()

    def kill(random: Random) -> None:
        node = random.choice(nodes)
        kills[node.name] += 1
        node.kill()
        until_up(node)

    def step(random: Random) -> None:
        node = random.choice(nodes)
        error = random.choice([HOUR, -HOUR, 0])
        recorded.readings.note(node.name, stage.time.now + error)
        node.clock.error = error
        node.show_clock()

    def read(node: Process, workload: str) -> int:
        return total_of(node.store, workload, now=stage.time.now)

    acts = [kill, step, kill, database_restarter(own_database), step]
    chaos = Chaos(seed, recorded, acts, each=4)
    chaos.start()
    asking = Clients(stage, nodes, workloads(stage), recorded, read, seconds=240.0)
    try:
        asking.run(seed, clients=6, rounds=60)
    finally:
        chaos.end()
    for name in workloads(stage):
        recorded.read(name, lambda w=name: read(nodes[0], w))  # type: ignore[misc]
    judged = RULES.judge(recorded, seed=seed)
    found = recorded.codes()
    assert judged.operations > 700, show(recorded)
    assert kills.total() > 2
    assert found["cut"] > 20
    assert found["granted"] > 100, show(recorded)
