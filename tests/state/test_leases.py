# SPDX-License-Identifier: Apache-2.0
"""Limits by the minute over many nodes: never passed, whatever fails."""

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_places import sealer

from tightseal.errors import Code, ServiceError
from tightseal.model.state import Change, StateStore
from tightseal.release.leaserecord import (
    EPOCH_SECONDS,
    SEATS,
    SLICES,
    Allowance,
    LeaseRecord,
    free_share,
    pool_of,
    take_seat,
    take_slice,
)
from tightseal.release.leases import IDLE_EPOCHS, KIND, SEAT_NAME, Leases, Taken
from tightseal.state.memory import MemoryEngine
from tightseal.state.store import SealedStore

BEGIN = 1_790_000_040 // EPOCH_SECONDS * EPOCH_SECONDS
EPOCH = BEGIN // EPOCH_SECONDS


def allowance(limit: int, *who: str, name: str = "tenant_per_minute") -> Allowance:
    return Allowance(name, who or ("acme",), limit)


def new_store() -> SealedStore:
    return SealedStore.new(MemoryEngine(), sealer())


def refused(leases: Leases, wanted: Allowance, *, now: int = BEGIN) -> ServiceError:
    with pytest.raises(ServiceError) as no:
        leases.take((wanted,), now=now)
    return no.value


def spend_all(leases: Leases, wanted: Allowance, *, now: int = BEGIN) -> int:
    """Take until the limit says no; how often it said yes."""
    for times in range(wanted.limit + 1):
        try:
            leases.take((wanted,), now=now)
        except ServiceError as e:
            if e.code is not Code.RATE_LIMITED:
                raise
            return times
    return wanted.limit + 1


class Counted:
    """A store that counts its writes, and fails where the test says so."""

    def __init__(self, store: StateStore, random: Random | None = None) -> None:
        self._store = store
        self._random = random
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def batch(self, changes: Sequence[Change], *, now: int) -> int:
        self.writes += 1
        fate = self._random.random() if self._random else 1.0
        if fate < 0.15:
            raise ServiceError(Code.STATE_UNAVAILABLE, "before")
        version = self._store.batch(changes, now=now)
        if fate < 0.3:
            raise ServiceError(Code.STATE_UNAVAILABLE, "after: nobody knows")
        return version


# -- the arithmetic ----------------------------------------------------------------


@given(limit=st.integers(1, 1_000_000))
def test_shares_and_pool_are_the_limit(limit: int) -> None:
    assert SEATS * free_share(limit) + pool_of(limit) == limit
    assert free_share(limit) >= 0
    assert pool_of(limit) >= 1


@given(limit=st.integers(1, 100_000))
def test_slices_are_the_pool_and_few(limit: int) -> None:
    record, taken, slices = None, 0, 0
    while True:
        record, size = take_slice(record, epoch=EPOCH, limit=limit)
        if not size:
            break
        assert size <= max(1, pool_of(limit) // SLICES)
        taken, slices = taken + size, slices + 1
    assert taken == pool_of(limit)
    assert slices <= 2 * SLICES + SLICES * limit.bit_length()


def test_an_epoch_has_so_many_seats_and_an_older_one_never_comes_back() -> None:
    record = None
    for _ in range(SEATS):
        record, counts = take_seat(record, epoch=EPOCH)
        assert record is not None
        assert counts == EPOCH
    assert take_seat(record, epoch=EPOCH) == (None, EPOCH)
    newer, _ = take_seat(record, epoch=EPOCH + 1)
    assert take_seat(newer, epoch=EPOCH) == (LeaseRecord(EPOCH + 1, 2), EPOCH + 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        LeaseRecord(1, 1).encode() + b"\0",
        LeaseRecord(1, -1).encode(),
        LeaseRecord(1, 2_000_000).encode(),
        LeaseRecord(1 << 60, 1).encode(),
    ],
    ids=["empty", "no_map", "longer", "negative", "too_much", "epoch_beyond_bounds"],
)
def test_a_record_of_another_form_is_tampered_with(data: bytes) -> None:
    with pytest.raises(ServiceError) as no:
        LeaseRecord.decode(data)
    assert no.value.code is Code.STATE_TAMPERED


def test_records_of_different_subjects_have_different_names() -> None:
    names = {
        allowance(1, "a", "b").record,
        allowance(1, "a/b").record,
        allowance(1, "a", "b", name="workload_per_minute").record,
    }
    assert len(names) == 3
    assert allowance(1).record == allowance(2).record


# -- the law -----------------------------------------------------------------------


@dataclass
class Node:
    """One process: its leases, and a clock of its own."""

    leases: Leases
    drift: int = 0


@dataclass
class Fleet:
    """Nodes over one store; counts what each epoch gave, by the subject."""

    random: Random
    limits: tuple[Allowance, ...]
    now: int = BEGIN
    nodes: list[Node] = field(default_factory=list)
    given: Counter[tuple[int, str]] = field(default_factory=Counter)
    store: SealedStore = field(default_factory=new_store)

    def start(self) -> None:
        faulty = Counted(self.store, self.random)
        self.nodes.append(Node(Leases(faulty)))  # type: ignore[arg-type]

    def act(self) -> None:
        random = self.random
        chance = random.random()
        if not self.nodes or chance < 0.02:
            self.start()
        elif chance < 0.04:
            # Killed: what it held is gone, and nobody is told.
            self.nodes.remove(random.choice(self.nodes))
        elif chance < 0.06:
            random.choice(self.nodes).drift = random.choice([0, 0, -3600, 3600, 61])
        elif chance < 0.09:
            self.now += random.randint(1, EPOCH_SECONDS)
        else:
            self.ask(random.choice(self.nodes))

    def ask(self, node: Node) -> None:
        wanted = self.random.sample(self.limits, self.random.randint(1, 2))
        try:
            taken = node.leases.take(wanted, now=self.now + node.drift)
        except ServiceError as e:
            if e.code not in {Code.RATE_LIMITED, Code.STATE_UNAVAILABLE}:
                raise
            return
        assert taken is not None
        if self.random.random() < 0.05:
            node.leases.give_back(taken)
            return
        for each in wanted:
            self.given[taken.epoch, each.record] += 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 32), limits=st.tuples(*[st.integers(1, 90)] * 3))
def test_no_epoch_gives_more_than_the_limit(
    seed: int, limits: tuple[int, int, int]
) -> None:
    """Nodes come, die, hang in another hour; writes fail, or are done unknown."""
    allowances = tuple(allowance(most, str(n)) for n, most in enumerate(limits))
    fleet = Fleet(Random(seed), allowances)
    for _ in range(600):
        fleet.act()
    most = {each.record: each.limit for each in allowances}
    assert fleet.given
    for (epoch, record), times in fleet.given.items():
        assert times <= most[record], f"epoch {epoch}"


@given(
    seed=st.integers(0, 1 << 32), limit=st.integers(1, 300), nodes=st.integers(1, 20)
)
@settings(max_examples=25, deadline=None)
def test_without_faults_all_of_the_limit_can_be_had(
    seed: int, limit: int, nodes: int
) -> None:
    """All but what nodes hold that nobody asks any more: here all are asked."""
    store = new_store()
    fleet = [Leases(store) for _ in range(nodes)]
    random = Random(seed)
    given_out = 0
    ready = list(fleet)
    while ready:
        node = random.choice(ready)
        try:
            node.take((allowance(limit),), now=BEGIN)
        except ServiceError:
            ready.remove(node)
        else:
            given_out += 1
    unused_seats = max(0, SEATS - nodes) * free_share(limit)
    assert given_out == limit - unused_seats


def test_threads_of_several_nodes_share_one_limit() -> None:
    store = new_store()
    fleet = [Leases(store) for _ in range(3)]
    limit = allowance(200)

    def work(number: int) -> int:
        return spend_all(fleet[number % 3], limit)

    with ThreadPoolExecutor(9) as pool:
        given_out = sum(pool.map(work, range(9)))
    assert limit.limit - SEATS * free_share(200) <= given_out <= limit.limit


# -- what a lost node costs, and for how long --------------------------------------


@pytest.mark.parametrize("limit", [1, 31, 32, 1000, 100_000])
def test_a_lost_node_takes_a_bounded_part_with_it_and_for_one_epoch(limit: int) -> None:
    store = new_store()
    lost = Leases(store)
    lost.take((allowance(limit),), now=BEGIN)
    bound = free_share(limit) + max(1, pool_of(limit) // SLICES)
    left = spend_all(Leases(store), allowance(limit))
    never_seated = (SEATS - 2) * free_share(limit)
    assert left >= limit - never_seated - bound
    after = BEGIN + EPOCH_SECONDS
    again = spend_all(Leases(store), allowance(limit), now=after)
    assert again == limit - (SEATS - 1) * free_share(limit)


def test_a_node_whose_clock_stands_still_spends_what_it_held_and_no_more() -> None:
    store = new_store()
    late, prompt = Leases(store), Leases(store)
    limit = allowance(320)
    late.take((limit,), now=BEGIN)
    held = free_share(320) - 1
    prompt.take((limit,), now=BEGIN + 10 * EPOCH_SECONDS)
    for _ in range(held):
        taken = late.take((limit,), now=BEGIN)
        assert taken is not None
        assert taken.epoch == EPOCH
    following = late.take((limit,), now=BEGIN)
    assert following is None or following.epoch in {EPOCH, EPOCH + 10}


def test_a_record_that_was_removed_does_not_begin_anew_for_a_late_node() -> None:
    """What the limit gave in an epoch stays given after its record is swept."""
    store = new_store()
    late, sweeper = Leases(store), Leases(store)
    limit = allowance(20)
    assert free_share(20) == 0
    late.take((allowance(20, "other"),), now=BEGIN)
    used = spend_all(sweeper, limit, now=BEGIN)
    assert used == 20
    beyond = BEGIN + (IDLE_EPOCHS + 1) * EPOCH_SECONDS
    sweeper.take((allowance(20, "third"),), now=beyond)
    with pytest.raises(ServiceError, match="state_missing"):
        store.open(KIND, limit.record, now=beyond)
    taken = late.take((limit,), now=BEGIN)
    assert taken is not None
    assert taken.epoch > EPOCH


def test_a_flood_of_subjects_leaves_no_more_records_than_it_is_long() -> None:
    """Anybody with many addresses can ask for many; old ones go as new ones come."""
    store = new_store()
    leases = Leases(store)
    for minute in range(3 * IDLE_EPOCHS):
        for number in range(100):
            subject = f"{minute}/{number}"
            leases.take((allowance(20, subject),), now=BEGIN + minute * EPOCH_SECONDS)
    left = len(store.scan(KIND, now=BEGIN))
    assert left <= (IDLE_EPOCHS + 1) * 100 + 1


def test_of_records_that_go_together_one_that_another_node_used_stays_alone() -> None:
    store = new_store()
    leases, other = Leases(store), Leases(store)
    subjects = [allowance(20, str(number)) for number in range(5)]
    for one in subjects:
        leases.take((one,), now=BEGIN)
    spend_all(other, subjects[2])
    beyond = BEGIN + (IDLE_EPOCHS + 1) * EPOCH_SECONDS
    leases.take((allowance(20, "later"),), now=beyond)
    names = {record.name for record in store.scan(KIND, now=beyond)}
    assert names & {one.record for one in subjects} == {subjects[2].record}


def test_a_record_that_comes_and_goes_while_a_late_node_writes_does_not_either() -> (
    None
):
    """As before, all of it between the late node's look and its write."""
    store = new_store()
    limit = allowance(20)
    beyond = BEGIN + (IDLE_EPOCHS + 1) * EPOCH_SECONDS
    used: list[int] = []

    class Overtaken(Counted):
        def batch(self, changes: Sequence[Change], *, now: int) -> int:
            if any(change.name == limit.record for change in changes) and not used:
                sweeper = Leases(store)
                used.append(spend_all(sweeper, limit))
                sweeper.take((allowance(20, "other"),), now=beyond)
            return super().batch(changes, now=now)

    taken = Leases(Overtaken(store)).take((limit,), now=BEGIN)  # type: ignore[arg-type]
    assert used == [20]
    assert taken is not None
    assert taken.epoch > EPOCH


def test_what_is_given_back_late_is_lost() -> None:
    leases = Leases(new_store())
    limit = allowance(1)
    taken = leases.take((limit,), now=BEGIN)
    assert refused(leases, limit).code is Code.RATE_LIMITED
    leases.give_back(taken)
    taken = leases.take((limit,), now=BEGIN)
    leases.take((limit,), now=BEGIN + EPOCH_SECONDS)
    leases.give_back(taken)
    assert refused(leases, limit, now=BEGIN + EPOCH_SECONDS).code is Code.RATE_LIMITED


def test_a_refusal_says_when_the_minute_is_over() -> None:
    leases = Leases(new_store())
    leases.take((allowance(1),), now=BEGIN + 13)
    error = refused(leases, allowance(1), now=BEGIN + 14)
    assert error.retry_after == EPOCH_SECONDS - 14
    assert "acme" in error.detail
    assert "tenant_per_minute" in error.detail


def test_all_are_taken_or_none() -> None:
    leases = Leases(new_store())
    scarce, plenty = allowance(1, "scarce"), allowance(3, "plenty")
    leases.take((scarce, plenty), now=BEGIN)
    for _ in range(5):
        with pytest.raises(ServiceError):
            leases.take((plenty, scarce), now=BEGIN)
    assert spend_all(leases, plenty) == 2


# -- what it costs -----------------------------------------------------------------


def test_what_is_asked_rarely_costs_one_write_a_minute() -> None:
    """Ten thousand platforms, one release each: a seat serves them all."""
    store = Counted(new_store())
    leases = Leases(store)  # type: ignore[arg-type]
    for number in range(10_000):
        leases.take((allowance(60, str(number)),), now=BEGIN)
    assert store.writes == 1


def test_what_is_asked_often_costs_few_writes() -> None:
    store = Counted(new_store())
    leases = Leases(store)  # type: ignore[arg-type]
    assert spend_all(leases, allowance(10_000)) == 10_000 - 15 * free_share(10_000)
    assert store.writes < 100


def test_a_limit_that_is_used_up_costs_nothing_more() -> None:
    store = Counted(new_store())
    leases = Leases(store)  # type: ignore[arg-type]
    spend_all(leases, allowance(5))
    before = store.writes
    for _ in range(100):
        refused(leases, allowance(5))
    assert store.writes == before


def test_nothing_wanted_asks_nobody() -> None:
    store = Counted(new_store())
    assert Leases(store).take((), now=BEGIN) is None  # type: ignore[arg-type]
    assert store.writes == 0
    with pytest.raises(ServiceError, match="state_missing"):
        store.open(KIND, SEAT_NAME, now=BEGIN)


# -- without a store ---------------------------------------------------------------


def test_without_a_store_workers_divide_the_limit() -> None:
    workers = [Leases(None, parts=3) for _ in range(3)]
    assert [spend_all(worker, allowance(10)) for worker in workers] == [3, 3, 3]
    after = BEGIN + EPOCH_SECONDS
    assert spend_all(workers[0], allowance(10), now=after) == 3


def test_events_say_what_happened() -> None:
    heard: Counter[str] = Counter()
    lock = threading.Lock()

    def hear(which: Allowance, event: str) -> None:
        assert which.limit_name == "tenant_per_minute"
        with lock:
            heard[event] += 1

    leases = Leases(new_store(), on_event=hear)
    spend_all(leases, allowance(3))
    refused(leases, allowance(3))
    assert heard == {"granted": 3, "refused": 2, "leased": 3}


def test_giving_back_what_was_never_taken_gives_nothing() -> None:
    leases = Leases(None)
    leases.give_back(None)
    leases.give_back(Taken(EPOCH, (allowance(1),)))
    assert spend_all(leases, allowance(1)) == 1
