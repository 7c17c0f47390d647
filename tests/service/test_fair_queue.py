# SPDX-License-Identifier: Apache-2.0
"""The queue before the threads: turns, shares, and who has to go where it is full."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tightseal.errors import Code, ServiceError
from tightseal.service.fairqueue import MAX_COST, QUANTUM, FairQueue, Flow

KNOWN, STRANGER = Flow(True, "acme", "one"), Flow(False, "192.0.2.1")


def filled(limit: int, *flows: tuple[Flow, int]) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue(limit=limit)
    for flow, times in flows:
        for _ in range(times):
            queue.push(name_of(flow), flow, cost=QUANTUM)
    return queue


def name_of(flow: Flow) -> str:
    return f"{'known' if flow.known else 'stranger'} {flow.group} {flow.member}".strip()


def served(queue: FairQueue[str], times: int) -> Counter[str]:
    return Counter(queue.pop() for _ in range(times))


def test_one_flow_is_served_in_order() -> None:
    queue: FairQueue[int] = FairQueue(limit=10)
    for number in range(10):
        queue.push(number, STRANGER)
    assert [queue.pop() for _ in range(10)] == list(range(10))
    assert len(queue) == 0


def test_one_of_a_small_source_waits_for_one_turn_of_a_large_one() -> None:
    queue = filled(1000, (STRANGER, 500))
    queue.push("small", Flow(False, "192.0.2.2"), cost=QUANTUM)
    assert served(queue, 2)["small"] == 1


def test_a_source_gains_nothing_by_many_claims() -> None:
    """Members take turns inside their group; the group has one turn."""
    flows = [(Flow(False, "many", str(n)), 5) for n in range(100)]
    queue = filled(1000, *flows, (Flow(False, "one", "claim"), 100))
    got = served(queue, 100)
    assert got["stranger one claim"] == pytest.approx(50, abs=1)


def test_tenants_have_equal_turns_whatever_they_send() -> None:
    queue = filled(
        3000,
        (Flow(True, "large", "a"), 900),
        (Flow(True, "large", "b"), 900),
        (Flow(True, "small", "c"), 200),
    )
    got = served(queue, 300)
    assert got["known small c"] == pytest.approx(150, abs=1)
    assert got["known large a"] == pytest.approx(75, abs=1)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.9])
def test_the_known_have_their_share_while_strangers_wait(share: float) -> None:
    queue: FairQueue[bool] = FairQueue(limit=4000, reserved_share=share)
    for number in range(1000):
        queue.push(True, KNOWN, cost=QUANTUM)
        queue.push(False, Flow(False, f"source {number}"), cost=QUANTUM)
    got = Counter(queue.pop() for _ in range(500))
    assert got[True] == pytest.approx(500 * share, abs=2)


def test_strangers_have_everything_where_nobody_else_waits() -> None:
    queue = filled(100, (STRANGER, 50))
    assert served(queue, 50)[name_of(STRANGER)] == 50


@pytest.mark.parametrize("first", [KNOWN, STRANGER])
def test_nobody_saves_up_turns_by_being_idle(first: Flow) -> None:
    second = STRANGER if first is KNOWN else KNOWN
    queue = filled(4000, (first, 1000))
    served(queue, 900)
    for flow in (first, second):
        for _ in range(1000):
            queue.push(name_of(flow), flow, cost=QUANTUM)
    got = served(queue, 100)
    assert got[name_of(KNOWN)] == pytest.approx(80, abs=2)


def test_a_flood_pushes_itself_out() -> None:
    queue = filled(10, (STRANGER, 8), (Flow(False, "192.0.2.2"), 2))
    gone = queue.push("newcomer", Flow(False, "192.0.2.3"))
    assert gone == name_of(STRANGER)
    with pytest.raises(ServiceError) as no:
        queue.push("one more", STRANGER)
    assert no.value.code is Code.OVERLOADED
    assert served(queue, 10)["stranger 192.0.2.2"] == 2


def test_the_newest_goes_and_the_oldest_stays() -> None:
    queue: FairQueue[int] = FairQueue(limit=3)
    for number in range(3):
        queue.push(number, STRANGER)
    assert queue.push(9, Flow(False, "other")) == 2
    assert {queue.pop() for _ in range(3)} == {0, 1, 9}


def test_the_known_find_room_in_a_queue_full_of_strangers() -> None:
    strangers = [(Flow(False, f"source {n}"), 1) for n in range(100)]
    queue = filled(100, *strangers)
    for _ in range(80):
        gone = queue.push("known", KNOWN)
        assert gone is not None
        assert gone.startswith("stranger")
    with pytest.raises(ServiceError):
        queue.push("known", KNOWN)
    assert (queue.waiting(known=True), queue.waiting(known=False)) == (80, 20)


def test_strangers_keep_their_part_of_a_queue_full_of_known() -> None:
    queue = filled(100, (KNOWN, 100))
    for number in range(20):
        gone = queue.push("stranger", Flow(False, f"source {number}"))
        assert gone == name_of(KNOWN)
    with pytest.raises(ServiceError):
        queue.push("stranger", Flow(False, "source 20"))


def test_a_source_with_many_claims_loses_the_newest_of_its_longest() -> None:
    flows = [(Flow(False, "many", str(n)), 1 + n) for n in range(4)]
    queue = filled(10, *flows)
    assert queue.push("new", Flow(False, "other")) == "stranger many 3"


FLOWS = st.builds(
    Flow, st.booleans(), st.sampled_from("abcdef"), st.sampled_from("xyz")
)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), flows=st.lists(FLOWS, min_size=2, unique=True))
def test_who_always_waits_is_never_behind_by_more_than_two_turns(
    seed: int, flows: list[Flow]
) -> None:
    """The bound of deficit round robin, for groups of a class and members of a group:
    two that always have work differ by at most a turn and the largest piece each."""
    random = Random(seed)
    queue: FairQueue[tuple[Flow, int]] = FairQueue(limit=10_000)
    done: Counter[Flow] = Counter()

    def add(flow: Flow) -> None:
        cost = random.randint(1, MAX_COST)
        queue.push((flow, cost), flow, cost=cost)

    for flow in flows:
        add(flow)
        add(flow)
    for _ in range(500):
        flow, cost = queue.pop()
        done[flow] += cost
        add(flow)
    bound = 2 * (QUANTUM + MAX_COST)
    groups: Counter[tuple[bool, str]] = Counter()
    for flow in flows:
        groups[flow.known, flow.group] += done[flow]
    for known in (True, False):
        of_class = [done for (k, _), done in groups.items() if k is known]
        assert max(of_class, default=0) - min(of_class, default=0) <= bound
    for key in groups:
        members = [done[f] for f in flows if (f.known, f.group) == key]
        assert max(members) - min(members) <= bound


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(1, 20),
    steps=st.lists(st.tuples(st.booleans(), FLOWS), max_size=200),
)
def test_nothing_is_lost_and_nothing_comes_twice(
    limit: int, steps: list[tuple[bool, Flow]]
) -> None:
    queue: FairQueue[int] = FairQueue(limit=limit)
    inside: set[int] = set()
    for number, (push, flow) in enumerate(steps):
        if push:
            try:
                gone = queue.push(number, flow, cost=1 + number % MAX_COST)
            except ServiceError:
                assert len(inside) == limit
                continue
            inside.add(number)
            if gone is not None:
                inside.remove(gone)
        elif inside:
            inside.remove(queue.pop())
        assert len(queue) == len(inside) <= limit
    assert {queue.pop() for _ in range(len(queue))} == inside
