# SPDX-License-Identifier: Apache-2.0
"""The PCCS is gone for a day, and then for a month, by a clock that the test holds."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from node_stream import (
    Outcome,
    counts,
    exchange,
    grants,
    log_is_whole,
    no_response_without_its_entry,
)
from node_world import DAY, HOUR, Node, Stage, a_stage
from service_harness import until
from starlette.requests import Request
from starlette.responses import Response

from tightseal.errors import Code
from tightseal.model.ports import EvidenceSource
from tightseal_sim.faults import Fault, Faults
from tightseal_sim.intel.enclave import EnclaveImage

LIFE = 30 * DAY
"""How long this world's collateral lives from its midnight on."""

ISSUED = "tightseal_collateral_issued_seconds"
LOOKED = "tightseal_looked_seconds"

OUTAGES = [
    pytest.param(Fault.SERVER_ERROR, id="answers_500"),
    pytest.param(Fault.HANGING, id="hangs"),
    pytest.param(Fault.OUTAGE, id="answers_503", marks=pytest.mark.soak),
    pytest.param(Fault.GARBAGE, id="answers_garbage", marks=pytest.mark.soak),
    pytest.param(Fault.TRUNCATED, id="breaks_off", marks=pytest.mark.soak),
]


@contextmanager
def a_node(
    folder: Path, *, faults: Faults | None = None, **host: Any
) -> Iterator[tuple[Stage, Node]]:
    with a_stage(folder / "stage", faults=faults or Faults()) as stage:
        node = stage.node("one", **host)
        node.start(bundle(stage))
        yield stage, node


def fail(node: Node, fault: Fault, *, seconds: float = 0.02) -> None:
    """From now on; a fetch is given up soon, since these seconds are real ones."""
    node.patience(seconds)
    node.stage.faults.plan(fault)


def mend(node: Node) -> None:
    node.patience(20)
    node.stage.faults.clear()


def stranger(stage: Stage) -> EvidenceSource:
    """A workload on a machine of a family that the node never saw."""
    other = stage.world.intel.platform("other", ca="processor")
    return other.load_enclave(EnclaveImage(name="stranger"))


def bundle(stage: Stage) -> bytes:
    """Both workloads may have their keys."""
    documents = {
        "known": stage.document(),
        "strange": stage.document(stranger(stage), name="stranger"),
    }
    return stage.approvers.bundle(documents, now=stage.time.now)


class Day:
    """Hours that go by: each has its refresh, its looks, and its requests."""

    def __init__(self, stage: Stage, node: Node) -> None:
        self.stage, self.node = stage, node
        self.known: list[Outcome] = []
        self.strange: list[Outcome] = []
        self.ages: list[int] = []
        self.unready: Counter[str] = Counter()
        self.stranger = stranger(stage)

    def hour(self, *, known: int, strange: int = 0) -> None:
        self.stage.time.advance(HOUR)
        self.node.refresh()
        self.node.look()
        self.known += [exchange(self.node) for _ in range(known)]
        self.strange += [exchange(self.node, self.stranger) for _ in range(strange)]
        self.ages.append(int(self.node.metric(LOOKED) - self.node.metric(ISSUED)))
        self.unready.update(self.node.ready().values())

    def outcomes(self) -> list[Outcome]:
        return [*self.known, *self.strange]


@pytest.mark.parametrize("fault", OUTAGES)
def test_a_day_without_pccs_costs_only_platforms_that_nobody_knows(
    tmp_path: Path, fault: Fault
) -> None:
    with a_node(tmp_path) as (stage, node):
        day = Day(stage, node)
        day.hour(known=2)
        asked = len(stage.faults.paths)
        fail(node, fault)
        for _ in range(24):
            day.hour(known=1, strange=1)
        assert counts(day.known) == {"granted": 26}
        assert counts(day.strange) == {Code.COLLATERAL_UNAVAILABLE: 24}
        assert len(stage.faults.paths) > asked
        # A day is no reason to be unready; the age says it.
        assert day.unready == {}
        assert day.ages == list(range(day.ages[0], day.ages[0] + 25 * HOUR, HOUR))
        mend(node)
        day.hour(known=2, strange=2)
        assert counts(day.strange[-2:]) == {"granted": 2}
        assert counts(day.known[-2:]) == {"granted": 2}
        # What is due once a day is fetched as soon as the PCCS is back.
        assert day.ages[-1] < DAY
        no_response_without_its_entry(day.outcomes(), node)
        log_is_whole(node)


class Held(Faults):
    """A PCCS that answers nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()

    async def answer(
        self, request: Request, good: Callable[[], Awaitable[Response]]
    ) -> Response:
        self.take(request.url.path)
        # On another thread than whoever lets it go.
        await asyncio.to_thread(self.free.wait, 60)
        return await good()


def test_a_pccs_that_hangs_holds_up_nobody_who_is_known(tmp_path: Path) -> None:
    """While more strangers ask at once than the node has threads."""
    pccs = Held()
    with a_node(tmp_path, faults=pccs, threads=4) as (stage, node):
        first = exchange(node)
        assert first.code == "granted"
        strange = stranger(stage)
        pccs.paths.clear()
        pccs.free.clear()
        waiting: list[Outcome] = []
        crowd = [
            threading.Thread(target=lambda: waiting.append(exchange(node, strange)))
            for _ in range(10)
        ]
        for one in crowd:
            one.start()
        until(lambda: bool(pccs.paths), 20)
        known = [exchange(node) for _ in range(6)]
        held = [outcome for outcome in waiting if outcome.code != Code.OVERLOADED]
        pccs.free.set()
        for one in crowd:
            one.join(60)
        assert counts(known) == {"granted": 6}
        assert held == [], "a stranger was answered before the PCCS was"
        found = counts(waiting)
        assert set(found) <= {"granted", Code.OVERLOADED.value}
        assert found["granted"] > 0
        assert found.total() == 10
        no_response_without_its_entry([first, *known, *waiting], node)


def test_collateral_that_is_too_old_is_refused_and_service_comes_back_by_itself(
    tmp_path: Path,
) -> None:
    """A month without PCCS: to the second of its expiry, and not beyond."""
    with a_node(tmp_path) as (stage, node):
        day = Day(stage, node)
        day.hour(known=1)
        fail(node, Fault.SERVER_ERROR)
        expires = int(node.metric(ISSUED)) + LIFE
        renew = PolicyRenewal(stage, node)
        while stage.time.now < expires - 5 * DAY:
            stage.time.advance(5 * DAY - HOUR)
            renew()
            day.hour(known=2)
        stage.time.now = expires - 1
        last = exchange(node)
        assert counts([*day.known, last])["granted"] == len(day.known) + 1
        stage.time.advance(1)
        late = [exchange(node) for _ in range(5)]
        assert counts(late) == {Code.PROVIDER_NOT_READY: 5}
        for _ in range(3):
            day.hour(known=2, strange=1)
        refused = day.known[-6:] + day.strange[-3:]
        assert counts(refused) == {Code.PROVIDER_NOT_READY: 9}
        assert node.ready()["collateral"] == Code.COLLATERAL_UNAVAILABLE
        remedy = node.remedy("collateral")
        assert "PCCS" in remedy or "collateral" in remedy
        assert day.ages[-1] > LIFE
        before = len(grants(node))
        mend(node)
        day.hour(known=3, strange=2)
        assert counts(day.known[-3:] + day.strange[-2:]) == {"granted": 5}
        assert day.ages[-1] < DAY
        assert node.ready() == {}
        assert len(grants(node)) == before + 5
        no_response_without_its_entry([*day.outcomes(), last, *late], node)
        log_is_whole(node)


def test_a_request_alone_brings_service_back(tmp_path: Path) -> None:
    """Without the background's refresh: the first who asks after a pause fetches."""
    with a_node(tmp_path) as (stage, node):
        assert exchange(node).code == "granted"
        fail(node, Fault.OUTAGE)
        stage.time.advance(LIFE)
        PolicyRenewal(stage, node)()
        assert exchange(node).code == Code.PROVIDER_NOT_READY
        mend(node)
        # A failure is believed for some seconds, so that a crowd asks once.
        assert exchange(node).code == Code.PROVIDER_NOT_READY
        assert stage.faults.paths == []
        stage.time.advance(10)
        assert exchange(node).code == "granted"


def test_a_restart_in_the_outage_goes_on_from_the_cache(tmp_path: Path) -> None:
    with a_node(tmp_path) as (stage, node):
        first = exchange(node)
        assert first.code == "granted"
        fail(node, Fault.OUTAGE)
        stage.time.advance(12 * HOUR)
        node.stop()
        node.start()
        told = [exchange(node) for _ in range(5)]
        assert counts(told) == {"granted": 5}
        node.look()
        assert node.ready() == {}
        no_response_without_its_entry([first, *told], node)


class PolicyRenewal:
    """Approvers sign again before their signatures expire; that is another matter."""

    def __init__(self, stage: Stage, node: Node) -> None:
        self._stage, self._node = stage, node

    def __call__(self) -> None:
        renewed = bundle(self._stage)
        self._node.front.provider.publish(renewed, now=self._node.clock())


# -- longer ------------------------------------------------------------------------


@pytest.mark.soak
def test_a_day_of_minutes_under_load(tmp_path: Path) -> None:
    """Each simulated minute has a refresh, and requests by several threads."""
    with a_node(tmp_path) as (stage, node):
        day = Day(stage, node)
        day.hour(known=1)
        fail(node, Fault.SERVER_ERROR)
        told: list[Outcome] = []
        lock = threading.Lock()

        def ask(td: EvidenceSource | None) -> None:
            outcome = exchange(node, td)
            with lock:
                told.append(outcome)

        for minute in range(24 * 60):
            stage.time.advance(60)
            node.refresh()
            if not minute % 5:
                node.look()
            tds: list[EvidenceSource | None] = [None, None, None]
            if not minute % 10:
                tds.append(day.stranger)
            asking = [threading.Thread(target=ask, args=(td,)) for td in tds]
            for one in asking:
                one.start()
            for one in asking:
                one.join()
            assert node.ready() == {}
        found = counts(told)
        assert found == {"granted": 3 * 1440, Code.COLLATERAL_UNAVAILABLE: 144}
        mend(node)
        day.hour(known=3, strange=1)
        assert {o.code for o in day.known} == {"granted"}
        assert day.strange[-1].code == "granted"
        no_response_without_its_entry([*told, *day.outcomes()], node)
        log_is_whole(node)
