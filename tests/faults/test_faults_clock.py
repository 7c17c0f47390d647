# SPDX-License-Identifier: Apache-2.0
"""Clocks stepped by an hour, either way and back, under a stream of requests."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NoReturn

import pytest
from node_stream import (
    THREADS,
    Outcome,
    Phase,
    counts,
    every_outcome,
    exchange,
    grants,
    log_is_whole,
    no_hour_holds_more,
    no_minute_gives_more,
    no_response_without_its_entry,
    stream,
)
from node_world import (
    DAY,
    HOUR,
    NOON,
    Asking,
    Node,
    Stage,
    a_database,
    a_stage,
    post,
)
from store_postgres import Server

from tightseal.errors import Code
from tightseal.model.wire import KEYS_PATH

MINUTE = 60
STEP_CODES = {
    Code.NONCE_EXPIRED.value,
    Code.CLOCK_BEHIND.value,
    "guest_challenge_invalid",
    "guest_response_invalid",
}
"""What an exchange may end with whose clock was stepped under it."""

AT_MOST = 3 * THREADS
"""Most exchanges of a phase that a step may cost: those under way, and one for each
thread where a nonce of an era before is refused."""


@contextmanager
def policy_of_the_morning(folder: Path, **usage: int) -> Iterator[Stage]:
    """A stage at noon whose policy was signed hours ago: no floor is near."""
    with a_stage(folder / "stage") as stage:
        stage.time.advance(-4 * HOUR)
        bundle = stage.bundle(**usage)
        stage.time.advance(4 * HOUR)
        stage.node("one").start(bundle)
        yield stage


def step(node: Node, error: int) -> "Step":
    return Step(node, error)


class Step:
    """Sets a clock wrong, or right where ``error`` is 0."""

    def __init__(self, node: Node, error: int) -> None:
        self._node, self._error = node, error

    def __call__(self) -> None:
        self._node.clock.error = self._error


def an_hour_either_way(node: Node, many: int) -> list[Phase]:
    return [
        Phase("right", step(node, 0), many),
        Phase("ahead", step(node, HOUR), many),
        Phase("right_after_ahead", step(node, 0), many),
        Phase("behind", step(node, -HOUR), many),
        Phase("right_after_behind", step(node, 0), many),
    ]


def mostly_granted(told: list[Outcome]) -> None:
    found = counts(told)
    others = Counter({code: n for code, n in found.items() if code != "granted"})
    assert set(others) <= STEP_CODES, found
    assert others.total() <= AT_MOST, found
    assert found["granted"] > 0


def test_service_goes_on_at_either_hour_and_after_it(tmp_path: Path) -> None:
    """Ten minutes in each: longer than any nonce is remembered."""
    with policy_of_the_morning(tmp_path, total=10_000) as stage:
        node = stage.nodes["one"]
        told = stream([node], an_hour_either_way(node, 14), every=45)
        for outcomes in told.values():
            mostly_granted(outcomes)
        released = no_response_without_its_entry(every_outcome(told), node)
        assert released >= 70 - 4 * AT_MOST
        assert {len(outcomes) for outcomes in told.values()} == {14}
        node.look()
        assert node.ready() == {}
        size = log_is_whole(node)
        # A start checks the log and its marks, whatever the clock says then.
        for error in (HOUR, -HOUR, 0):
            node.stop()
            node.clock.error = error
            node.start()
            # The first after a clock went back may find its nonce of an era before.
            first, second = exchange(node).code, exchange(node).code
            assert first in ("granted", Code.NONCE_EXPIRED)
            assert second == "granted"
        assert log_is_whole(node) >= size + 3


def test_below_the_newest_signature_nothing_is_released(tmp_path: Path) -> None:
    """The policy was signed now: an hour back is below what its approvers signed."""
    with a_stage(tmp_path / "stage") as stage:
        node = stage.node("one").start(stage.bundle(total=10_000))
        told = stream(
            [node],
            [
                Phase("right", step(node, 0), 10),
                Phase("behind", step(node, -HOUR), 20),
            ],
        )
        assert counts(told["behind"])[Code.CLOCK_BEHIND] >= 20 - THREADS
        late = [exchange(node) for _ in range(3)]
        assert counts(late) == {Code.CLOCK_BEHIND: 3}
        node.look()
        assert node.ready()["clock"] == Code.CLOCK_BEHIND
        assert "clock" in node.remedy("clock").lower()
        node.clock.error = 0
        node.look()
        assert node.ready() == {}
        after = [exchange(node) for _ in range(10)]
        mostly_granted(after)
        no_response_without_its_entry([*every_outcome(told), *late, *after], node)
        log_is_whole(node)


# -- nonces ------------------------------------------------------------------------


def two_questions(node: Node) -> tuple[Asking, bytes, bytes]:
    """Two requests that answer one challenge, and differ."""
    first = Asking(node.stage, node.port, node.clock)
    other = Asking(node.stage, node.port, node.clock, client_nonce=first.client_nonce)
    challenge = first.challenge()
    return first, first.request(challenge), other.request(challenge)


@pytest.mark.parametrize("redeemed_before", [True, False])
@pytest.mark.parametrize("error", [HOUR, -HOUR])
def test_a_nonce_is_redeemed_once_through_a_step(
    tmp_path: Path, error: int, *, redeemed_before: bool
) -> None:
    """Every way round: before the step, in the wrong hour, and after the return."""
    with policy_of_the_morning(tmp_path, total=10_000) as stage:
        node = stage.nodes["one"]
        asking, body, other = two_questions(node)
        answers: list[bytes] = []
        refused: Counter[str] = Counter()

        def send(*bodies: bytes) -> None:
            for sent in bodies:
                told = post(node.port, KEYS_PATH, sent)
                if told.granted:
                    answers.append(told.body)
                    assert sent == body, "another request of the same nonce"
                else:
                    refused[told.code] += 1

        if redeemed_before:
            send(body)
        node.clock.error = error
        send(body, other)
        # Commits in the wrong hour: what expired by that clock is dropped from memory.
        mostly_granted([exchange(node) for _ in range(4)])
        node.clock.error = 0
        # What others ask brings on another era, if anything does.
        mostly_granted([exchange(node) for _ in range(3)])
        send(body, other, body)
        assert len(set(answers)) <= 1
        assert answers or not redeemed_before
        named = [asking.entry_id(answer) for answer in answers]
        entries = Counter(entry.entry.entry_id for entry in grants(node))
        assert all(entries[entry_id] == 1 for entry_id in named)
        assert refused.total() + len(answers) == 5 + redeemed_before
        assert set(refused) <= {
            Code.NONCE_EXPIRED,
            Code.NONCE_REPLAYED,
            Code.CLOCK_BEHIND,
        }
        log_is_whole(node)


def test_a_nonce_of_the_wrong_hour_is_worth_nothing_when_that_hour_comes(
    tmp_path: Path,
) -> None:
    """Redeemed an hour ahead, forgotten there, and shown again when it is that hour."""
    with policy_of_the_morning(tmp_path, total=10_000) as stage:
        node = stage.nodes["one"]
        node.clock.error = HOUR
        begun = stage.time.now
        _, redeemed, other = two_questions(node)
        _, kept_back, _ = two_questions(node)
        assert post(node.port, KEYS_PATH, redeemed).granted
        stage.time.advance(5 * MINUTE)
        # Forgotten: its row is dropped once it is long past.
        mostly_granted([exchange(node) for _ in range(6)])
        node.clock.error = 0
        mostly_granted([exchange(node) for _ in range(6)])
        stage.time.now = begun + HOUR
        codes = Counter(
            post(node.port, KEYS_PATH, body).code
            for body in (redeemed, other, kept_back)
        )
        assert codes == {Code.NONCE_EXPIRED: 3}
        mostly_granted([exchange(node) for _ in range(3)])


# -- limits ------------------------------------------------------------------------


class Clocks:
    """Every reading that a node's clock gave while it was watched."""

    def __init__(self, *nodes: Node) -> None:
        self.shown: set[int] = set()
        for node in nodes:
            self._watch(node)

    def _watch(self, node: Node) -> None:
        inner = node.clock

        class Watched(type(inner)):  # type: ignore[misc]
            def __call__(watched) -> int:
                now = int(super().__call__())
                self.shown.add(now)
                return now

        node.clock = Watched(inner.true, inner.error)


def test_the_limit_of_a_minute_holds_and_lasts_until_the_clock_gets_there(
    tmp_path: Path,
) -> None:
    """An hour ahead takes the minute that is to come; until then nothing else is given.

    So wrong clocks cost service, and never more than the limit is released.
    """
    limit = 8
    with a_stage(tmp_path / "stage") as stage:
        stage.time.advance(-4 * HOUR)
        bundle = stage.bundle(release=f"[limits]\ntenant_per_minute = {limit}\n")
        stage.time.advance(4 * HOUR)
        node = stage.node("one")
        clocks = Clocks(node)
        node.start(bundle)
        told = stream([node], an_hour_either_way(node, 12), every=0)
        found = counts(every_outcome(told))
        released = no_response_without_its_entry(every_outcome(told), node)
        no_minute_gives_more(limit, clocks.shown, node)
        # The last of a phase may find the next act done already.
        assert limit <= counts(told["right"])["granted"] < limit + THREADS
        assert limit < released <= 2 * limit
        assert found[Code.RATE_LIMITED] >= 60 - released - 4 * THREADS
        asking = Asking(stage, node.port, node.clock)
        told_late = post(node.port, KEYS_PATH, asking.request())
        assert told_late.code == Code.RATE_LIMITED
        # The time that it is told to wait is the truth: then it is served.
        stage.time.advance(told_late.retry_after - 1)
        assert exchange(node).code == Code.RATE_LIMITED
        stage.time.advance(1)
        after = [exchange(node) for _ in range(limit)]
        assert counts(after) == {"granted": limit}
        no_response_without_its_entry([*every_outcome(told), *after], node)


def test_the_hour_of_a_usage_rule_is_filled_once(tmp_path: Path) -> None:
    limit = 10
    with policy_of_the_morning(tmp_path, per_hour=limit) as stage:
        node = stage.nodes["one"]
        told = stream([node], an_hour_either_way(node, 8), every=1)
        no_response_without_its_entry(every_outcome(told), node)
        no_hour_holds_more(limit, [e.entry.time for e in grants(node)])
        # The hour that was borrowed is used up, and the rule waits for its end.
        assert exchange(node).code == Code.USAGE_LIMIT_REACHED
        last = max(e.entry.time for e in grants(node))
        stage.time.now = last + HOUR
        after = [exchange(node) for _ in range(3)]
        assert counts(after) == {"granted": 3}
        log_is_whole(node)


# -- collateral --------------------------------------------------------------------


def test_a_clock_set_back_brings_no_older_collateral_to_life(tmp_path: Path) -> None:
    """Below the day of the newest that was seen, whatever a cache or PCCS still has."""
    with a_stage(tmp_path / "stage") as stage:
        stage.time.advance(-4 * HOUR)
        bundle = stage.bundle(total=10_000)
        stage.time.advance(4 * HOUR)
        node = stage.node("one").start(bundle)
        assert exchange(node).code == "granted"
        stage.time.advance(2 * DAY)
        node.refresh()
        assert exchange(node).code == "granted"
        newest = node.metric("tightseal_collateral_issued_seconds")
        assert newest == NOON + 2 * DAY - DAY // 2
        told: list[Outcome] = []
        for error in (-13 * HOUR, -DAY, -2 * DAY):
            node.clock.error = error
            node.look()
            told += [exchange(node) for _ in range(5)]
            assert node.ready()["clock"] == Code.CLOCK_BEHIND
            assert node.metric("tightseal_collateral_issued_seconds") == newest
        assert counts(told) == {Code.CLOCK_BEHIND: 15}
        node.clock.error = 0
        node.look()
        assert node.ready() == {}
        assert exchange(node).code == "granted"


# -- two nodes over one database ---------------------------------------------------


@pytest.fixture(scope="module")
def database(cannot_run: Callable[[str], NoReturn]) -> Iterator[Server]:
    with a_database(cannot_run) as server:
        yield server


@contextmanager
def a_pair(
    folder: Path, database: Server, *, release: str | None = None, **usage: int
) -> Iterator[tuple[Stage, Node, Node]]:
    with a_stage(folder / "stage") as stage:
        stage.time.advance(-4 * HOUR)
        bundle = stage.bundle(release=release, **usage)
        stage.time.advance(4 * HOUR)
        address = database.new_address()
        host = {"state": {"engine": "postgres", "url": address}}
        good = stage.node("good", **host).start(bundle)
        wrong = stage.node("wrong", **host).start()
        yield stage, good, wrong


def test_a_node_with_a_wrong_clock_stops_no_other(
    tmp_path: Path, database: Server
) -> None:
    with a_pair(tmp_path, database, total=10_000) as (_, good, wrong):
        nodes = (good, wrong)
        told = stream(nodes, an_hour_either_way(wrong, 10), every=40)
        outcomes = every_outcome(told)
        by_node = {
            node.name: [o for o in outcomes if o.node == node.name] for node in nodes
        }
        assert counts(by_node["good"]) == {"granted": 25}
        mostly_granted(by_node["wrong"])
        assert no_response_without_its_entry(outcomes, good, wrong) >= 50 - AT_MOST
        for node in nodes:
            log_is_whole(node)
            node.look()
            assert node.ready() == {}


def test_limits_hold_over_two_nodes_of_which_one_is_wrong(
    tmp_path: Path, database: Server
) -> None:
    limit, per_hour = 5, 16
    release = f"[limits]\ntenant_per_minute = {limit}\n"
    pair = a_pair(tmp_path, database, release=release, per_hour=per_hour)
    with pair as (stage, good, wrong):
        nodes = (good, wrong)
        good.stop()
        wrong.stop()
        clocks = Clocks(*nodes)
        for node in nodes:
            node.start()
        told = stream(nodes, an_hour_either_way(wrong, 8), every=4)
        outcomes = every_outcome(told)
        released = no_response_without_its_entry(outcomes, *nodes)
        no_minute_gives_more(limit, clocks.shown, *nodes)
        # One order of all releases is not to be had from two logs; the count is.
        assert limit < released <= 2 * per_hour
        assert counts(outcomes)[Code.RATE_LIMITED] > 0
        stage.time.now = max(clocks.shown) + HOUR
        for node in nodes:
            assert exchange(node).code == "granted"


# -- longer ------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_many_steps_of_either_way(tmp_path: Path, database: Server, seed: int) -> None:
    """Both clocks are stepped, at any time; a node is restarted now and then."""
    random = Random(seed)
    limit = 40
    release = f"[limits]\ntenant_per_minute = {limit}\n"
    with a_pair(tmp_path, database, release=release, total=3000) as (stage, *nodes):
        clocks = Clocks(*nodes)
        for node in nodes:
            node.stop()
            node.start()
        phases = []
        for number in range(60):
            node = random.choice(nodes)
            error = random.choice([0, 0, HOUR, -HOUR, random.randint(-HOUR, HOUR)])
            phases.append(Phase(f"{number}", step(node, error), random.randint(20, 80)))
        told = stream(nodes, phases, every=3)
        outcomes = every_outcome(told)
        found = counts(outcomes)
        allowed = STEP_CODES | {"granted", Code.OVERLOADED}
        allowed |= {Code.RATE_LIMITED, Code.USAGE_LIMIT_REACHED}
        assert set(found) <= allowed, (seed, found)
        released = no_response_without_its_entry(outcomes, *nodes)
        assert 0 < released <= 3000
        no_minute_gives_more(limit, clocks.shown, *nodes)
        for node in nodes:
            log_is_whole(node)
            node.clock.error = 0
        stage.time.now = max(clocks.shown) + MINUTE
        for node in nodes:
            mostly_granted([exchange(node) for _ in range(5)])
