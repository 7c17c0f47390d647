# SPDX-License-Identifier: Apache-2.0
"""Several processes over one store: raced, killed, and the database restarted."""

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import store_worker
from store_places import sealer
from store_postgres import Server
from store_worker import NOW, engine_of

from tightseal.errors import Code, ServiceError
from tightseal.state.check import StateReport, check
from tightseal.state.store import SealedStore

WORKER = Path(store_worker.__file__)
TIMES = 60


@pytest.fixture(params=["sqlite", "postgres"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a new store that processes can share."""
    if request.param == "sqlite":
        where = str(tmp_path / "state.db")
    else:
        where = request.getfixturevalue("postgres").new_address()
    store = SealedStore.new(engine_of(where), sealer())
    store.create("counter", "shared", b"0", now=NOW)
    store.close()
    return where


def checked(where: str) -> StateReport:
    engine = engine_of(where)
    try:
        return check(engine, sealer())
    finally:
        engine.close()


def start(what: str, where: str, argument: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(WORKER), what, where, str(argument)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_that_count_together_lose_nothing(shared: str) -> None:
    workers = [start("count", shared, TIMES) for _ in range(2)]
    for worker in workers:
        assert worker.stdout is not None
        assert [worker.stdout.readline() for _ in range(2)] == ["ready\n", "held\n"]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    outputs = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert all(worker.returncode == 0 for worker in workers)
    store = SealedStore.attach(engine_of(shared), sealer())
    assert int(store.open("counter", "shared", now=NOW).value) == 2 * TIMES
    lost = sum(int(output[0]) for output in outputs)
    assert store.freshness().head.counter == 2 * TIMES + 1
    assert lost > 0, "the processes never met: the test shows nothing"
    checked(shared)
    store.close()


def test_threads_that_count_together_lose_nothing(shared: str) -> None:
    store = SealedStore.attach(engine_of(shared), sealer())
    failures: list[BaseException] = []

    def add() -> None:
        try:
            done = 0
            while done < 15:
                held = store.open("counter", "shared", now=NOW)
                more = str(int(held.value) + 1).encode()
                try:
                    store.replace(
                        "counter", "shared", more, expected=held.version, now=NOW
                    )
                    done += 1
                except ServiceError as e:
                    if e.code is not Code.STATE_CONFLICT:
                        raise
        except BaseException as e:
            failures.append(e)
            raise

    threads = [threading.Thread(target=add) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert int(store.open("counter", "shared", now=NOW).value) == 6 * 15
    store.close()


def crash_rounds(where: str, *, rounds: int, seed: int) -> None:
    delay = random.Random(seed)
    for round_ in range(rounds):
        prefix = f"r{round_}"
        worker = start("write", where, prefix)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        first = worker.stdout.readline()
        time.sleep(delay.uniform(0.0, 0.15))
        worker.kill()
        # Not communicate(), which passes by what readline() has read ahead.
        rest = worker.stdout.read()
        worker.communicate()
        acknowledged = {line for line in (first + rest).split("\n")[:-1] if line}
        store = SealedStore.attach(engine_of(where), sealer())
        # The database may still be committing what the killed process asked for last;
        # a write waits for that.
        store.create("settled", prefix, b"", now=NOW)
        items = {
            r.name
            for r in store.scan("item", now=NOW)
            if r.name.startswith(f"{prefix}-")
        }
        assert acknowledged <= items, "an acknowledged write is gone"
        assert len(items) - len(acknowledged) <= 1
        # Both halves of a batch are there, or neither.
        assert int(store.open("total", prefix, now=NOW).value) == len(items)
        assert checked(where).head == store.freshness().head
        store.close()


def test_no_acknowledged_write_is_lost_by_a_kill(shared: str) -> None:
    crash_rounds(shared, rounds=5, seed=1)


@pytest.mark.soak
def test_no_acknowledged_write_is_lost_by_many_kills(shared: str) -> None:
    crash_rounds(shared, rounds=100, seed=2)


def test_kill_while_creating_leaves_nothing_or_a_store(tmp_path: Path) -> None:
    code = (
        "import sys; from store_places import *; from pathlib import Path;"
        "SqlitePlace(Path(sys.argv[1])).new()"
    )
    delay = random.Random(3)
    for round_ in range(6):
        path = tmp_path / f"{round_}.db"
        worker = subprocess.Popen([sys.executable, "-c", code, path], cwd=WORKER.parent)
        while not path.exists() and worker.poll() is None:
            time.sleep(0.0005)
        time.sleep(delay.uniform(0.0, 0.02))
        worker.kill()
        worker.wait()
        try:
            SealedStore.attach(engine_of(str(path)), sealer())
        except ServiceError as e:
            if e.code is not Code.STATE_MISSING:
                raise
            SealedStore.new(engine_of(str(path)), sealer())
        checked(str(path))


def test_two_processes_that_create_have_one_winner(postgres: Server) -> None:
    where = postgres.new_address()
    outcomes: list[str] = []

    def make() -> None:
        engine = engine_of(where)
        try:
            SealedStore.new(engine, sealer())
            outcomes.append("made")
        except ServiceError as e:
            outcomes.append(e.code.value)
        finally:
            engine.close()

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made", *["state_exists"] * 3]


def test_a_database_that_restarts_loses_nothing_and_is_used_again(
    own_postgres: Server,
) -> None:
    where = own_postgres.new_address()
    store = SealedStore.new(engine_of(where), sealer())
    acknowledged = []
    refused = 0
    stop = threading.Event()

    def restart() -> None:
        for _ in range(2):
            time.sleep(0.3)
            own_postgres.stop("immediate")
            time.sleep(0.2)
            own_postgres.start()
        time.sleep(0.3)
        stop.set()

    restarter = threading.Thread(target=restart)
    restarter.start()
    number = 0
    while not stop.is_set():
        number += 1
        try:
            store.create("item", str(number), b"", now=NOW)
            acknowledged.append(str(number))
        except ServiceError as e:
            if e.code is not Code.STATE_UNAVAILABLE:
                raise
            refused += 1
            time.sleep(0.02)
    restarter.join()
    assert refused > 0
    found = {r.name for r in store.scan("item", now=NOW)}
    assert set(acknowledged) <= found
    checked(where)
    store.close()
