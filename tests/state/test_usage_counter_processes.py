# SPDX-License-Identifier: Apache-2.0
"""Two providers over one store: killed, restarted, and the database restarted."""

import random
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest
from store_places import sealer
from store_postgres import Server
from store_worker import engine_of
from usage_clients import DIED, UNKNOWN, Clients, Operation, Provider
from usage_support import HERE, NOW, demand, kept, tag_of

from tightseal.errors import Code, PolicyError
from tightseal.policy.usagerecord import MAX_TAGS
from tightseal.release.usage import UsageCounter
from tightseal.state.check import check
from tightseal.state.store import SealedStore

CLIENTS = 8


def new_store(where: str) -> str:
    store = SealedStore.new(engine_of(where), sealer())
    store.close()
    return where


def follows_one_order(operations: Sequence[Operation], limit: int) -> None:
    """The history is one of a single counter that stops at its limit.

    Positions are distinct, none is beyond the limit, and whoever asked after another
    one was answered has a later one. A refusal means that enough asked before it ended,
    and nobody who asks after it is granted.
    """
    placed = [done for done in operations if done.position is not None]
    positions = [done.position or 0 for done in placed]
    assert len(set(positions)) == len(positions)
    assert all(1 <= position <= limit for position in positions)
    answered = sorted(placed, key=lambda done: done.ended)
    newest, at = 0, 0
    for done in sorted(placed, key=lambda done: done.began):
        while at < len(answered) and answered[at].ended < done.began:
            newest = max(newest, answered[at].position or 0)
            at += 1
        assert (done.position or 0) > newest, "counted before one that came earlier"
    refusals = [done.ended for done in operations if done.outcome == "limit"]
    if refusals:
        first = min(refusals)
        could = [d for d in operations if d.outcome != "limit" and d.began < first]
        assert len(could) >= limit, "refused before the limit was reached"
        late = [d for d in operations if d.outcome == "have" and d.began > first]
        assert not late, "granted after the limit was reached"


def judge(where: str, clients: Clients, limit: int, *, retry: bool) -> None:
    """Hold what the clients saw against the record that is left."""
    assert not clients.broken
    outcomes = Counter(done.outcome for done in clients.operations)
    faults = Counter(f for done in clients.operations for f in done.faults)
    have = outcomes["have"]
    assert have <= limit
    engine = engine_of(where)
    try:
        store = SealedStore.attach(engine, sealer())
        record = kept(store)
        assert record.total == limit >= have
        with pytest.raises(PolicyError) as no:
            UsageCounter(store).count(
                (demand(total=limit),), platform=HERE, tag=tag_of("late"), now=NOW
            )
        assert no.value.code is Code.USAGE_LIMIT_REACHED
        asked = {tag_of(done.request) for done in clients.operations}
        assert set(record.tags) <= asked
        assert len(record.tags) == MAX_TAGS
        check(engine, sealer())
    finally:
        engine.close()
    follows_one_order(clients.operations, limit)
    assert outcomes["limit"] == CLIENTS
    if retry:
        # Every request was answered in the end, so nothing was counted for nobody.
        assert have == limit
        assert not outcomes["lost"]
        # Counted for a provider that died before it answered: it is the tag that a
        # retry found, so nobody knows the position.
        unanswered = limit - sum(d.position is not None for d in clients.operations)
    else:
        # Counted for nobody: only what was in a provider's hands when something failed.
        unanswered = limit - have
    assert 0 < unanswered <= faults[DIED] + faults[UNKNOWN]


class Chaos:
    """Two providers under load, and what happens to them."""

    def __init__(self, where: str, limit: int, server: Server | None = None) -> None:
        self._server = server
        self.where = new_store(where)
        self.providers = [Provider(where, limit) for _ in range(2)]

    def __enter__(self) -> Self:
        try:
            for provider in self.providers:
                provider.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for provider in self.providers:
            provider.kill()

    def kill(self, which: int) -> None:
        self.providers[which].kill_at_work()
        self.providers[which].start()

    def restart_database(self) -> None:
        assert self._server is not None
        self._server.stop("immediate")
        self._server.start()

    def both(self, which: int) -> None:
        """A provider dies while the database is down."""
        restarting = threading.Thread(target=self.restart_database)
        restarting.start()
        try:
            self.providers[which].kill()
            self.providers[which].start()
        finally:
            restarting.join()


def test_two_providers_never_pass_a_limit_while_killed_and_restarted(
    own_postgres: Server,
) -> None:
    """Clients send the same bytes again: what is counted was released, to the last."""
    limit = 480
    with (
        Chaos(own_postgres.new_address(), limit, own_postgres) as chaos,
        Clients(chaos.providers, many=CLIENTS, retry=True) as clients,
    ):
        clients.wait_for(limit // 6)
        chaos.kill(0)
        clients.wait_for(2 * limit // 6)
        chaos.restart_database()
        clients.wait_for(3 * limit // 6)
        chaos.both(1)
        clients.wait_for(4 * limit // 6)
        chaos.kill(1)
        clients.join()
    judge(chaos.where, clients, limit, retry=True)


def test_what_clients_give_up_is_counted_at_most_once(own_postgres: Server) -> None:
    """Clients ask anew: what was counted for nobody was in a provider's hands."""
    limit = 240
    with (
        Chaos(own_postgres.new_address(), limit, own_postgres) as chaos,
        Clients(chaos.providers, many=CLIENTS, retry=False) as clients,
    ):
        clients.wait_for(limit // 4)
        chaos.kill(0)
        clients.wait_for(limit // 2)
        chaos.both(1)
        clients.wait_for(3 * limit // 4)
        chaos.kill(0)
        clients.join()
    judge(chaos.where, clients, limit, retry=False)


def test_two_processes_over_one_file_never_pass_a_limit(tmp_path: Path) -> None:
    limit = 300
    with (
        Chaos(str(tmp_path / "state.db"), limit) as chaos,
        Clients(chaos.providers, many=CLIENTS, retry=True) as clients,
    ):
        for number in range(1, 4):
            clients.wait_for(number * limit // 4)
            chaos.kill(number % 2)
        clients.join()
    judge(chaos.where, clients, limit, retry=True)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
def test_two_providers_never_pass_a_limit_through_many_failures(
    own_postgres: Server, seed: int
) -> None:
    limit, failures = 4000, 24
    retry = seed % 2 == 0
    chance = random.Random(seed)
    with (
        Chaos(own_postgres.new_address(), limit, own_postgres) as chaos,
        Clients(chaos.providers, many=CLIENTS, retry=retry) as clients,
    ):
        for number in range(1, failures + 1):
            clients.wait_for(number * limit // (failures + 4))
            chance.choice(
                [
                    chaos.restart_database,
                    lambda: chaos.kill(chance.randrange(2)),
                    lambda: chaos.both(chance.randrange(2)),
                ]
            )()
        clients.join()
    judge(chaos.where, clients, limit, retry=retry)
