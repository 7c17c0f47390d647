# SPDX-License-Identifier: Apache-2.0
"""Who is connected, and who goes first when it gets full."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import Code, ServiceError
from tightseal.service.connections import (
    ByteBudget,
    ConnectionTable,
    Phase,
    peer_of,
)


@dataclass(eq=False)
class Scripted:
    peer: str = "a"
    deadline: float = 10.0
    phase: Phase = Phase.WAITING
    evicted: bool = field(default=False)
    expired: bool = field(default=False)

    def expire(self) -> None:
        self.expired = True

    def evict(self) -> None:
        self.evicted = True


def test_oldest_waiting_goes_before_oldest_reading() -> None:
    table = ConnectionTable(max_total=3, max_per_peer=3)
    reading, waiting, young = Scripted(), Scripted(), Scripted()
    for connection in (reading, waiting, young):
        assert table.admit(connection)
    table.move(reading, Phase.READING, deadline=9)
    assert table.admit(Scripted())
    assert (reading.evicted, waiting.evicted, young.evicted) == (False, True, False)
    assert table.admit(Scripted())
    assert young.evicted
    assert not reading.evicted


def test_strangers_go_before_those_whom_somebody_knows() -> None:
    table = ConnectionTable(
        max_total=3, max_per_peer=3, known=lambda source: source == "friend"
    )
    friend, reading, stranger = Scripted("friend"), Scripted("x"), Scripted("y")
    for connection in (friend, reading, stranger):
        table.admit(connection)
    table.move(reading, Phase.READING, deadline=9)
    gone = []
    for _ in range(3):
        before = [c.evicted for c in (friend, reading, stranger)]
        newcomer = Scripted("friend")
        assert table.admit(newcomer)
        after = [c.evicted for c in (friend, reading, stranger)]
        gone += [n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a < b]
    assert gone == [2, 1, 0]


def test_served_connections_stay_and_newcomers_are_refused() -> None:
    closed: list[str] = []
    table = ConnectionTable(max_total=2, max_per_peer=2, on_closed=closed.append)
    served = [Scripted(), Scripted()]
    for connection in served:
        table.admit(connection)
        table.move(connection, Phase.SERVING, deadline=9)
    assert not table.admit(Scripted())
    assert closed == ["full"]
    assert not any(c.evicted for c in served)


def test_a_greedy_peer_loses_its_own_connections() -> None:
    table = ConnectionTable(max_total=100, max_per_peer=2)
    quiet = Scripted(peer="quiet")
    table.admit(quiet)
    greedy = [Scripted(peer="greedy") for _ in range(50)]
    for connection in greedy:
        assert table.admit(connection)
    assert not quiet.evicted
    assert [c.evicted for c in greedy] == [True] * 48 + [False] * 2
    assert len(table) == 3


def test_a_connection_that_answered_is_younger_than_one_that_waits() -> None:
    table = ConnectionTable(max_total=2, max_per_peer=2)
    first, second = Scripted(), Scripted()
    table.admit(first)
    table.admit(second)
    table.move(first, Phase.SERVING, deadline=1)
    table.move(first, Phase.WAITING, deadline=1)
    table.admit(Scripted())
    assert second.evicted
    assert not first.evicted


def test_sweep_calls_whom_the_deadline_passed() -> None:
    table = ConnectionTable(max_total=5, max_per_peer=5)
    late, early = Scripted(deadline=5), Scripted(deadline=15)
    table.admit(late)
    table.admit(early)
    table.sweep(10.0)
    assert late.expired
    assert not early.expired


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "move", "drop"]),
        st.integers(0, 30),
        st.sampled_from(list(Phase)),
    ),
    max_size=200,
)


@given(STEPS)
def test_bounds_hold_whatever_happens(
    steps: list[tuple[str, int, Phase]],
) -> None:
    table = ConnectionTable(max_total=6, max_per_peer=3)
    every = [Scripted(peer=str(n % 4)) for n in range(31)]
    inside: set[int] = set()
    for what, number, phase in steps:
        connection = every[number]
        if what == "admit" and number not in inside:
            connection.evicted = False
            if table.admit(connection):
                inside.add(number)
        elif what == "move":
            table.move(connection, phase, deadline=1)
        elif what == "drop":
            table.drop(connection)
            inside.discard(number)
        inside = {n for n in inside if not every[n].evicted}
        assert len(table) == len(inside) <= 6
        assert set(map(id, table)) == {id(every[n]) for n in inside}
        for peer in range(4):
            assert sum(every[n].peer == str(peer) for n in inside) <= 3


def test_budget_refuses_and_recovers() -> None:
    budget = ByteBudget(10)
    budget.take(7)
    with pytest.raises(ServiceError) as refused:
        budget.take(4)
    assert refused.value.code is Code.OVERLOADED
    assert budget.held == 7
    budget.give_back(7)
    budget.take(10)


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("2001:db8::1", 5, 0, 0), "20010db800000000/64"),
        (("2001:db8::ffff:1", 5, 0, 0), "20010db800000000/64"),
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
        (("fe80::1%eth0", 5, 0, 2), "fe80000000000000/64"),
        (("not:an:address", 5), "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_peers_are_counted_by_address_or_site(address: object, peer: str) -> None:
    assert peer_of(address) == peer
