# SPDX-License-Identifier: Apache-2.0
"""One platform's limit over three nodes, each a process, over one PostgreSQL."""

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import lease_worker
import pytest
from store_places import sealer
from store_postgres import Server

from tightseal.errors import Code, ServiceError
from tightseal.release.leaserecord import (
    EPOCH_SECONDS,
    SLICES,
    Allowance,
    free_share,
    pool_of,
)
from tightseal.release.leases import Leases
from tightseal.state.postgres import PostgresEngine
from tightseal.state.store import SealedStore

EPOCH = 29_833_334
LIMIT = 600
NODES = 3
WAIT_SECONDS = 120


@dataclass
class Spender:
    """A node that spends; what it said is counted as it comes."""

    place: str
    epoch: int
    limit: int = LIMIT
    units: int = 0
    dry: bool = False
    enough: threading.Event = field(default_factory=threading.Event)
    wanted: int = 1 << 30

    def __post_init__(self) -> None:
        command = [sys.executable, lease_worker.__file__]
        self.process = subprocess.Popen(
            [*command, self.place, str(self.limit), str(self.epoch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            # What is cut off was not said: the unit is counted as spent all the same.
            self.units += line.startswith("u")
            self.dry |= line == "dry\n"
            if self.dry or self.units >= self.wanted:
                self.enough.set()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def kill_after(self, units: int) -> None:
        self.wanted = units
        if self.units < units:
            assert self.enough.wait(WAIT_SECONDS)
        self.process.kill()

    def join(self) -> int:
        self.process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        assert not self._reader.is_alive()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        return self.units


@contextmanager
def spenders(place: str, epoch: int, count: int) -> Iterator[list[Spender]]:
    made: list[Spender] = []
    try:
        made += [Spender(place, epoch) for _ in range(count)]
        yield made
    finally:
        for one in made:
            one.process.kill()
            one.join()


def new_place(server: Server) -> str:
    place = server.new_address()
    SealedStore.new(PostgresEngine(place), sealer()).close()
    return place


def nothing_left(place: str, epoch: int) -> None:
    store = SealedStore.attach(PostgresEngine(place), sealer())
    try:
        wanted = Allowance("platform_per_minute", ("intel", "a" * 32), LIMIT)
        leases = Leases(store)
        for _ in range(free_share(LIMIT)):
            leases.take((wanted,), now=epoch * EPOCH_SECONDS)
        with pytest.raises(ServiceError) as no:
            leases.take((wanted,), now=epoch * EPOCH_SECONDS)
        assert no.value.code is Code.RATE_LIMITED
    finally:
        store.close()


def most_lost(killed: int) -> int:
    """What nodes that were killed may have held, or had just been told of."""
    slice_ = max(1, pool_of(LIMIT) // SLICES)
    return killed * (free_share(LIMIT) + slice_ + 1)


def test_three_nodes_spend_a_limit_and_no_more_though_one_is_killed(
    postgres: Server,
) -> None:
    place = new_place(postgres)
    with spenders(place, EPOCH, NODES) as nodes:
        for node in nodes:
            node.go()
        nodes[0].kill_after(10)
        spent = [node.join() for node in nodes]
        assert all(node.dry for node in nodes[1:])
    assert sum(spent) <= LIMIT
    # Seats that nobody took hold their free share; the rest was spent, or died.
    taken = NODES * free_share(LIMIT) + pool_of(LIMIT)
    assert sum(spent) >= taken - most_lost(1)
    nothing_left(place, EPOCH)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(6))
def test_nodes_come_and_die_for_many_minutes_and_no_limit_is_passed(
    postgres: Server, seed: int
) -> None:
    place, chance = new_place(postgres), random.Random(seed)
    for epoch in range(EPOCH, EPOCH + 5):
        with spenders(place, epoch, NODES) as nodes:
            for node in nodes:
                node.go()
            killed = chance.randrange(1, NODES)
            for node in nodes[:killed]:
                node.kill_after(chance.randrange(1, LIMIT // NODES))
            with spenders(place, epoch, 1) as (late,):
                late.go()
                spent = [node.join() for node in (*nodes, late)]
        assert sum(spent) <= LIMIT
        taken = (NODES + 1) * free_share(LIMIT) + pool_of(LIMIT)
        assert sum(spent) >= taken - most_lost(killed)
