# SPDX-License-Identifier: Apache-2.0
"""The work budget: who pays what, who is known, and whom a claim can harm."""

import asyncio
import threading
import time
from contextlib import suppress

import pytest

from tightseal.errors import (
    Code,
    CollateralError,
    EvidenceError,
    PolicyError,
    ServiceError,
)
from tightseal.service.admission import FAILED, Admission, Ticket
from tightseal.service.buckets import Buckets, Standing
from tightseal.service.fairqueue import QUANTUM, Flow
from tightseal.service.listen_settings import HostLimits
from tightseal.service.pool import WorkPool

GOOD, BAD, OTHER = "192.0.2.1", "203.0.113.9", "198.51.100.7"
VICTIM = b"victim's PCK chain"
FORGED = EvidenceError(Code.QUOTE_SIGNATURE_INVALID, "forged")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Door:
    """An admission with a clock in hand, and a log of what it refused."""

    def __init__(self, **limits: float) -> None:
        self.clock = Clock()
        self.heard: list[tuple[str, str]] = []
        self.admission = Admission(
            HostLimits(**limits),  # type: ignore[arg-type]
            on_limit=lambda limit, source, _event: self.heard.append((limit, source)),
            monotonic=self.clock,
        )

    def good(self, source: str = GOOD, claim: bytes = VICTIM) -> Ticket:
        ticket = self.admission.enter(source, claim)
        self.admission.ended(ticket, None, tenant="acme")
        return ticket

    def bad(self, source: str = BAD, claim: bytes = VICTIM) -> Ticket:
        ticket = self.admission.enter(source, claim)
        self.admission.ended(ticket, FORGED)
        return ticket

    def bad_until_refused(self, source: str = BAD, claim: bytes = VICTIM) -> int:
        for times in range(100_000):
            try:
                self.bad(source, claim)
            except ServiceError:
                return times
        raise AssertionError("never refused")


def refused(door: Door, source: str, claim: bytes = VICTIM) -> ServiceError:
    with pytest.raises(ServiceError) as no:
        door.admission.enter(source, claim)
    assert no.value.code is Code.RATE_LIMITED
    return no.value


# -- buckets -----------------------------------------------------------------------


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    buckets = Buckets(rate=2.0, burst=10)
    assert [buckets.take("a", 1, now=0.0) for _ in range(10)] == [0] * 10
    assert buckets.take("a", 1, now=0.0) == 1
    assert buckets.take("b", 1, now=0.0) == 0
    assert buckets.take("a", 1, now=0.5) == 0
    assert buckets.take("a", 1, now=0.5) == 1


def test_a_debt_is_bounded_so_the_wait_is() -> None:
    buckets = Buckets(rate=1.0, burst=10)
    buckets.charge("a", 1e9, now=0.0)
    assert buckets.wait("a", 1, now=0.0) == 11
    assert buckets.wait("a", 1, now=11.0) == 0


def test_giving_back_never_fills_beyond_the_burst() -> None:
    buckets = Buckets(rate=1.0, burst=2)
    buckets.charge("a", -100, now=0.0)
    assert [buckets.take("a", 1, now=0.0) for _ in range(3)] == [0, 0, 1]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    buckets = Buckets(rate=1.0, burst=1)
    buckets.take("a", 1, now=100.0)
    assert buckets.wait("a", 1, now=0.0) == 1


def test_more_than_the_burst_can_be_had_from_a_full_bucket() -> None:
    assert Buckets(rate=1.0, burst=1).take("a", 100, now=0.0) == 0


def test_rate_zero_is_off() -> None:
    buckets = Buckets(rate=0.0, burst=1)
    buckets.charge("a", 1000, now=0.0)
    assert buckets.take("a", 1, now=0.0) == 0
    assert len(buckets) == 0


def test_tables_are_bounded() -> None:
    buckets = Buckets(rate=1.0, burst=1, max_names=10)
    standing = Standing(seconds=10, max_names=10)
    for number in range(100):
        buckets.charge(str(number), 1, now=0.0)
        standing.good(str(number), "c", tenant="t", now=0.0)
    assert len(buckets) == len(standing) == 10
    assert not standing.has("0")
    assert standing.has("99")


def test_standing_ends() -> None:
    standing = Standing(seconds=10)
    standing.good("a", "c", tenant="t", now=0.0)
    assert standing.tenant("a", "c", now=9.9) == "t"
    assert standing.tenant("a", "c", now=10.0) is None
    standing.good("b", "c", tenant="t", now=11.0)
    assert not standing.has("a")


# -- what is paid ------------------------------------------------------------------


def test_a_failure_costs_a_hundred_times_as_much() -> None:
    door = Door(failures_per_second=1, failure_burst=10, known_seconds=0)
    assert door.bad_until_refused() == 10
    door = Door(failures_per_second=1, failure_burst=10, known_seconds=0)
    for _ in range(900):
        door.good()
    assert door.bad_until_refused(GOOD) == 1


def test_what_waits_is_held_as_failed_so_a_burst_gets_no_further() -> None:
    """All at once, before any of them has failed."""
    door = Door(failures_per_second=1, failure_burst=10)
    for _ in range(10):
        door.admission.enter(BAD, VICTIM)
    assert refused(door, BAD).retry_after == 1


@pytest.mark.parametrize(
    "error",
    [
        None,
        PolicyError(Code.PLATFORM_MISMATCH, "no"),
        CollateralError(Code.COLLATERAL_UNAVAILABLE, "PCCS is down"),
        ServiceError(Code.JOURNAL_FAILED, "disk full"),
        ServiceError(Code.OVERLOADED, "pushed out"),
    ],
    ids=["good", "denied", "no_collateral", "our_fault", "pushed_out"],
)
def test_who_is_not_at_fault_gets_it_back(error: Exception | None) -> None:
    door = Door(failures_per_second=1, failure_burst=2)
    for _ in range(50):
        ticket = door.admission.enter(GOOD, VICTIM)
        door.admission.ended(ticket, error)


def test_inventing_chips_is_paid_for() -> None:
    door = Door(failures_per_second=1, failure_burst=3)
    invented = CollateralError(Code.COLLATERAL_NOT_FOUND, "AMD knows no such chip")
    for number in range(3):
        ticket = door.admission.enter(BAD, bytes([number]))
        door.admission.ended(ticket, invented)
    refused(door, BAD, b"the next")


def test_only_a_release_makes_known() -> None:
    door = Door()
    for error in (PolicyError(Code.PLATFORM_MISMATCH, "no"), FORGED):
        door.admission.ended(door.admission.enter(GOOD, VICTIM), error)
        assert not door.admission.enter(GOOD, VICTIM).known
    door.good()
    ticket = door.admission.enter(GOOD, VICTIM)
    assert ticket.known
    assert ticket.flow.group == "acme"


def test_a_retry_from_the_journal_makes_nobody_known() -> None:
    door = Door()
    door.admission.ended(door.admission.enter(GOOD, b""), None, tenant=None)
    assert not door.admission.enter(GOOD, b"").known


def test_the_door_turns_away_who_owes_and_says_for_how_long() -> None:
    door = Door(failures_per_second=1, failure_burst=5)
    door.bad_until_refused()
    with pytest.raises(ServiceError) as no:
        door.admission.door(BAD)
    assert no.value.retry_after == 1
    assert ("failures_per_second", BAD) in door.heard
    door.admission.door(GOOD)
    door.clock.now += 1
    door.admission.door(BAD)


def test_malformed_requests_are_paid_for_too() -> None:
    door = Door(failures_per_second=1, failure_burst=1)
    for _ in range(10):
        door.admission.door(BAD)
        door.admission.malformed(BAD)
    with pytest.raises(ServiceError):
        door.admission.door(BAD)


def test_requests_of_one_source_are_limited_whatever_they_are() -> None:
    door = Door(requests_per_second=10)
    for _ in range(20):
        door.admission.door(BAD)
    with pytest.raises(ServiceError, match="requests_per_second"):
        door.admission.door(BAD)
    door.admission.door(GOOD)


def test_off_is_off() -> None:
    door = Door(requests_per_second=0, failures_per_second=0, known_seconds=0)
    for _ in range(2000):
        door.admission.door(BAD)
        door.bad()
        assert not door.good().known
    assert door.heard == []


# -- whom a claim can harm ---------------------------------------------------------


def test_claiming_anothers_platform_uses_nothing_of_his() -> None:
    door = Door(failures_per_second=1, failure_burst=50)
    door.good()
    assert door.bad_until_refused(BAD, VICTIM) == 50
    assert not door.bad_until_refused(BAD, VICTIM)
    for _ in range(1000):
        ticket = door.good(GOOD, VICTIM)
        assert ticket.known


def test_claiming_a_known_platform_makes_no_stranger_known() -> None:
    door = Door()
    door.good(GOOD, VICTIM)
    ticket = door.admission.enter(BAD, VICTIM)
    assert not ticket.known
    assert ticket.flow == Flow(False, BAD, VICTIM.hex())


def test_a_flood_behind_the_same_address_does_not_use_up_what_the_known_have() -> None:
    """As behind a proxy, where all have one address; the flood claims other things."""
    door = Door(failures_per_second=1, failure_burst=50)
    door.good(GOOD, VICTIM)
    door.bad_until_refused(GOOD, b"something else")
    door.admission.door(GOOD)
    refused(door, GOOD, b"yet another claim")
    assert door.good(GOOD, VICTIM).known


def test_the_known_lose_their_standing_by_failing() -> None:
    door = Door(failures_per_second=1, failure_burst=5)
    door.good(BAD, VICTIM)
    reserved = 0
    while door.bad(BAD, VICTIM).known:
        reserved += 1
    assert reserved == 5
    assert not door.admission.enter(BAD, VICTIM).known


def test_turns_cost_as_much_as_a_verification_is_worth() -> None:
    assert FAILED > QUANTUM > 1


# -- the pool ----------------------------------------------------------------------


def test_a_call_that_is_pushed_out_is_told_to_come_back() -> None:
    gate = threading.Event()
    pool = WorkPool("pushed", threads=1, queue=4)

    async def run() -> tuple[list[object], object]:
        flood = Flow(False, BAD)
        busy = pool.submit(lambda: gate.wait(10), flow=flood)
        waiting = [pool.submit(lambda: "flood", flow=flood) for _ in range(4)]
        with pytest.raises(ServiceError) as no:
            pool.submit(lambda: "flood", flow=flood)
        assert no.value.retry_after is not None
        known = pool.submit(lambda: "known", flow=Flow(True, "acme", GOOD))
        other = pool.submit(lambda: "other", flow=Flow(False, OTHER))
        gate.set()
        await busy
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        return ended, [await known, await other]

    ended, good = asyncio.run(run())
    pool.shutdown()
    assert good == ["known", "other"]
    gone = [e for e in ended if isinstance(e, ServiceError)]
    assert [e.code for e in gone] == [Code.OVERLOADED] * 2
    assert all(e.retry_after is not None and e.retry_after >= 1 for e in gone)
    assert ended[:2] == ["flood", "flood"]


def test_a_pool_that_stops_leaves_nobody_waiting() -> None:
    gate = threading.Event()
    pool = WorkPool("stopped", threads=1, queue=16)

    async def run() -> list[object]:
        calls = [pool.submit(lambda: gate.wait(10)) for _ in range(8)]
        assert pool.in_flight == 8
        pool.shutdown()
        gate.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    ended = asyncio.run(run())
    assert ended[0] is True
    assert all(isinstance(e, asyncio.CancelledError) for e in ended[2:])


def test_an_error_of_a_call_reaches_who_asked() -> None:
    pool = WorkPool("failing", threads=1, queue=4)

    def fail() -> None:
        raise FORGED

    async def run() -> None:
        for _ in range(3):
            with pytest.raises(EvidenceError):
                await pool.submit(fail)
        assert pool.in_flight == 0

    asyncio.run(run())
    pool.shutdown()


def test_strangers_that_fail_leave_the_threads_to_a_known_client_that_waits() -> None:
    """It asks for one thing at a time, so nothing of it is in the queue."""
    pool = WorkPool("paced", threads=1, queue=16, reserved_share=0.9)
    ran = {"good": 0, "bad": 0}

    def good() -> None:
        ran["good"] += 1
        time.sleep(0.002)

    def bad() -> None:
        ran["bad"] += 1
        time.sleep(0.002)
        raise FORGED

    async def flood(source: str) -> None:
        while ran["good"] < 150:
            with suppress(EvidenceError, ServiceError):
                await pool.submit(bad, flow=Flow(False, source), cost=QUANTUM)
            await asyncio.sleep(0.001)

    async def run() -> int:
        floods = [asyncio.create_task(flood(f"source {n}")) for n in range(10)]
        while ran["bad"] < 30:  # noqa: ASYNC110  # a thread counts
            await asyncio.sleep(0.001)
        before = ran["bad"]
        while ran["good"] < 150:
            await pool.submit(good, flow=Flow(True, "acme", GOOD), cost=QUANTUM)
        beside = ran["bad"] - before
        await asyncio.gather(*floods)
        return beside

    beside = asyncio.run(run())
    pool.shutdown()
    # A ninth of the good ones by their share; twice that on a slow machine.
    assert 0 < beside <= 2 * 150 / 9


def test_strangers_that_do_not_fail_are_not_held_back() -> None:
    pool = WorkPool("unpaced", threads=1, queue=16, reserved_share=0.9)
    ran: list[str] = []

    async def new_client(source: str) -> None:
        for _ in range(20):
            flow = Flow(False, source)
            await pool.submit(lambda: ran.append("new"), flow=flow, cost=QUANTUM)

    async def run() -> None:
        clients = [asyncio.create_task(new_client(f"{n}")) for n in range(5)]
        while not all(client.done() for client in clients):
            known = Flow(True, "acme", GOOD)
            await pool.submit(lambda: ran.append("known"), flow=known, cost=QUANTUM)

    asyncio.run(run())
    pool.shutdown()
    assert ran.count("new") == 100
    # Work that can be done is done: the new ones were not paced to a ninth.
    assert ran.count("known") < 900
