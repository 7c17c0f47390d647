# SPDX-License-Identifier: Apache-2.0
"""Histories of real providers under faults are those of small sequential objects."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import pytest
from history_checker import NotLinearizableError
from history_rig import Clients, CutStore, Recorded, Rules, total_of
from history_specs import UsageCounter
from node_stream import log_is_whole
from node_world import HOUR, Node, Stage, a_database, a_stage
from store_postgres import Server

from tightseal.audit.journal import SqliteJournal
from tightseal.errors import Code
from tightseal.model.ports import EvidenceSource
from tightseal.model.state import Change, Replace, StateStore
from tightseal.service import compose as composing
from tightseal_sim.intel.enclave import EnclaveImage

DB, WEB = "db", "web"


def workloads(stage: Stage) -> dict[str, EvidenceSource]:
    """Two that share a tenant, each with a counter of its own."""
    machine = stage.world.intel.platform("machine-a")
    return {DB: stage.td, WEB: machine.load_enclave(EnclaveImage(name=WEB))}


def bundle_of(stage: Stage, rules: Rules) -> bytes:
    documents = {}
    for name, source in workloads(stage).items():
        rule = rules.usage[name]
        limits = {"total": rule.total, "per_hour": rule.per_hour}
        given = {k: v for k, v in limits.items() if v is not None}
        documents[name] = stage.document(source, name=name, **given)
    release = None
    if rules.minute is not None:
        release = f"[limits]\ntenant_per_minute = {rules.minute}\n"
    return stage.approvers.bundle(documents, release=release, now=stage.time.now)


def read_total(node: Node, workload: str) -> int:
    store = node.background.sampler.store
    assert store is not None
    return total_of(store, workload, now=node.stage.time.now)


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Let every node's store be what a function of the test makes of the real one."""

    def install(wrap: Callable[[StateStore], Any]) -> None:
        real = composing.open_store
        monkeypatch.setattr(composing, "open_store", lambda *a: wrap(real(*a)))

    return install


@pytest.fixture(scope="module")
def own_database(cannot_run: Callable[[str], NoReturn]) -> Iterator[Server]:
    with a_database(cannot_run) as server:
        yield server


class Chaos(threading.Thread):
    """Faults, one after another, while clients are at work."""

    def __init__(
        self,
        seed: int,
        recorded: Recorded,
        acts: Sequence[Callable[[Random], None]],
        *,
        each: int = 1,
    ) -> None:
        super().__init__()
        self._random = Random(f"chaos {seed}")
        self._recorded = recorded
        self._acts = [act for _ in range(each) for act in acts]
        self._random.shuffle(self._acts)
        self._ended = threading.Event()
        self.done = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for number, act in enumerate(self._acts, 1):
                # By progress, not by time: so every fault finds clients at work.
                while len(self._recorded.attempts) < 12 * number:
                    if self._ended.wait(0.002):
                        return
                act(self._random)
                self.done += 1
        except BaseException as e:  # noqa: BLE001  # shown by end()
            self.error = e

    def end(self) -> None:
        self._ended.set()
        self.join()
        if self.error is not None:
            raise self.error


def set_clock(recorded: Recorded, node: Node, error: int) -> None:
    """Both readings count as shown for the moment in which it is stepped."""
    recorded.readings.note(node.name, node.stage.time.now + error)
    node.clock.error = error


def stepper(recorded: Recorded, nodes: Sequence[Node]) -> Callable[[Random], None]:
    def step(random: Random) -> None:
        set_clock(recorded, random.choice(nodes), random.choice([HOUR, -HOUR, 0]))

    return step


def restarter(nodes: Sequence[Node]) -> Callable[[Random], None]:
    def restart(random: Random) -> None:
        node = random.choice(nodes)
        node.stop()
        until_started(node)

    return restart


def until_started(node: Node) -> None:
    """A node that starts while the database is down tries again, as its unit does."""
    end = time.monotonic() + 60
    while True:
        try:
            node.start()
        except Exception:
            node.stop()
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def database_restarter(server: Server) -> Callable[[Random], None]:
    def restart(random: Random) -> None:
        del random
        server.stop("immediate")
        server.start()

    return restart


@contextmanager
def two_nodes(
    folder: Path, rules: Rules, host: dict[str, Any]
) -> Iterator[tuple[Stage, list[Node]]]:
    with a_stage(folder / "stage") as stage:
        stage.time.advance(-4 * HOUR)
        bundle = bundle_of(stage, rules)
        stage.time.advance(4 * HOUR)
        nodes = [stage.node(name, **host) for name in ("one", "two")]
        nodes[0].start(bundle)
        nodes[1].start()
        yield stage, nodes


def run_on_postgres(
    folder: Path,
    database: Server,
    seed: int,
    *,
    rules: Rules,
    rounds: int,
    clients: int = 6,
    each: int = 1,
) -> Recorded:
    host = {"state": {"engine": "postgres", "url": database.new_address()}}
    with two_nodes(folder, rules, host) as (stage, nodes):
        recorded = Recorded()
        for node in nodes:
            recorded.readings.note(node.name, node.clock())
        acts = [
            stepper(recorded, nodes),
            restarter(nodes),
            database_restarter(database),
            stepper(recorded, nodes),
        ]
        chaos = Chaos(seed, recorded, acts, each=each)
        chaos.start()
        asking = Clients(stage, nodes, workloads(stage), recorded, read_total)
        try:
            asking.run(seed, clients=clients, rounds=rounds)
        finally:
            chaos.end()
        assert chaos.done > 0
        for node in nodes:
            set_clock(recorded, node, 0)
        # What is left is what all of it came to.
        for name in workloads(stage):
            for node in nodes:
                recorded.read(name, lambda n=node, w=name: read_total(n, w))  # type: ignore[misc]
        for node in nodes:
            log_is_whole(node)
        return recorded


RULES = Rules({DB: UsageCounter(total=40), WEB: UsageCounter(per_hour=18)})


def show(recorded: Recorded) -> str:
    return ", ".join(f"{code} {n}" for code, n in sorted(recorded.codes().items()))


@pytest.mark.parametrize("seed", [1])
def test_two_nodes_through_every_fault_are_linearizable(
    tmp_path: Path,
    own_database: Server,
    through: Callable[[Any], None],
    seed: int,
) -> None:
    """Clocks stepped, a node and the database restarted, writes and clients cut off."""
    stores: list[CutStore] = []

    def cut(store: StateStore) -> CutStore:
        stores.append(CutStore(store, Random(f"cuts {seed} {len(stores)}")))
        return stores[-1]

    through(cut)
    recorded = run_on_postgres(
        tmp_path, own_database, seed, rules=RULES, rounds=13, clients=6
    )
    judged = RULES.judge(recorded, seed=seed)
    found = recorded.codes()
    assert judged.operations > 150, show(recorded)
    assert judged.unanswered > 0
    assert {"granted", "cut", Code.STATE_UNAVAILABLE, Code.NONCE_UNKNOWN} <= set(found)
    assert sum(store.cut["after"] for store in stores) > 0


def test_the_allowance_of_a_minute_is_linearizable(
    tmp_path: Path, own_database: Server, through: Callable[[Any], None]
) -> None:
    """Clocks stand still, so all of it is one minute; nodes and database restart."""
    seed = 2
    rules = Rules({DB: UsageCounter(total=1000), WEB: UsageCounter(total=1000)}, 30)
    through(lambda store: CutStore(store, Random(seed)))
    host = {"state": {"engine": "postgres", "url": own_database.new_address()}}
    with two_nodes(tmp_path, rules, host) as (stage, nodes):
        recorded = Recorded()
        for node in nodes:
            recorded.readings.note(node.name, node.clock())
        chaos = Chaos(seed, recorded, [restarter(nodes)])
        chaos.start()
        Clients(stage, nodes, workloads(stage), recorded).run(
            seed, clients=4, rounds=12
        )
        chaos.end()
    rules.judge(recorded, seed=seed)
    found = recorded.codes()
    assert found["granted"] > 10, show(recorded)
    assert found[Code.RATE_LIMITED] > 0, show(recorded)


# -- that it can fail --------------------------------------------------------------


class DropsWrites:
    """Says that it wrote, and did not: one of so many writes of a kind."""

    def __init__(self, store: StateStore, kind: str, *, every: int = 5) -> None:
        self._store, self._kind, self._every = store, kind, every
        self._writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def batch(self, changes: Sequence[Change], *, now: int) -> int:
        if any(c.kind == self._kind and isinstance(c, Replace) for c in changes):
            self._writes += 1
            if not self._writes % self._every:
                return self._store.freshness().head.counter
        return self._store.batch(changes, now=now)


class ComparesNothing:
    """Writes over whatever came in between: a compare-and-set without the compare."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def open(self, kind: str, name: str, *, now: int) -> Any:
        found = self._store.open(kind, name, now=now)
        # So that another one comes in between.
        time.sleep(0.01)
        return found

    def batch(self, changes: Sequence[Change], *, now: int) -> int:
        with self._lock:
            blind = [self._newest(change, now) for change in changes]
            return self._store.batch(blind, now=now)

    def _newest(self, change: Change, now: int) -> Change:
        if not isinstance(change, Replace) or change.kind != "usage":
            return change
        version = self._store.open(change.kind, change.name, now=now).version
        return Replace(change.kind, change.name, change.value, version)


def run_alone(
    folder: Path, rules: Rules, *, seed: int = 3, rounds: int = 7
) -> Recorded:
    """One provider over SQLite, without any fault but the one that is put in."""
    with a_stage(folder / "stage") as stage:
        node = stage.node("one").start(bundle_of(stage, rules))
        recorded = Recorded()
        recorded.readings.note(node.name, node.clock())
        asking = Clients(stage, [node], workloads(stage), recorded, read_total)
        asking.run(seed, clients=4, rounds=rounds)
        for name in workloads(stage):
            recorded.read(name, lambda w=name: read_total(node, w))  # type: ignore[misc]
        return recorded


ROOMY = Rules({DB: UsageCounter(total=1000), WEB: UsageCounter(total=1000)})


def test_without_a_defect_the_same_run_is_linearizable(tmp_path: Path) -> None:
    recorded = run_alone(tmp_path, ROOMY)
    ROOMY.judge(recorded, seed=3)
    assert recorded.codes()["granted"] > 20


def test_a_store_that_drops_a_write_is_caught(
    tmp_path: Path, through: Callable[[Any], None]
) -> None:
    through(lambda store: DropsWrites(store, "usage"))
    recorded = run_alone(tmp_path, ROOMY)
    with pytest.raises(NotLinearizableError, match=r"seed 3: .*usage"):
        ROOMY.judge(recorded, seed=3)


def test_a_store_that_compares_nothing_is_caught(
    tmp_path: Path,
    through: Callable[[Any], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Threads of one process queue before the store; two that do not would race."""
    monkeypatch.setattr("tightseal.release.usage.UsageCounter._alone", _not_alone)
    through(ComparesNothing)
    recorded = run_alone(tmp_path, ROOMY)
    with pytest.raises(NotLinearizableError, match="usage"):
        ROOMY.judge(recorded, seed=3)


@contextmanager
def _not_alone(_self: object, _demands: object) -> Iterator[None]:
    yield


def test_a_store_that_forgets_what_it_leased_is_caught(
    tmp_path: Path, through: Callable[[Any], None]
) -> None:
    """Every slice is the first: the pool never ends."""
    rules = Rules(ROOMY.usage, minute=12)
    through(lambda store: DropsWrites(store, "limit", every=2))
    recorded = run_alone(tmp_path, rules, rounds=9)
    with pytest.raises(NotLinearizableError, match="minute"):
        rules.judge(recorded, seed=3)


def test_a_journal_that_forgets_redemptions_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = SqliteJournal.submit

    def forgetful(self: SqliteJournal, entry: Any, **how: Any) -> Future[bytes]:
        return submit(self, entry, **(how | {"redemption": None}))

    monkeypatch.setattr(SqliteJournal, "submit", forgetful)
    recorded = run_alone(tmp_path, ROOMY)
    with pytest.raises(NotLinearizableError, match="nonce"):
        ROOMY.judge(recorded, seed=3)
