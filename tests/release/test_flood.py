# SPDX-License-Identifier: Apache-2.0
"""A flood of invalid quotes at ten times what the provider can verify.

What is counted is verifications: of all that the verifiers did while the good clients
had their keys, how many were theirs. Quotes, verifiers and pipeline are the real ones,
on a simulated world; each request goes the way that the transports take.
"""

import asyncio
import base64
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from release_rig import NOW, Rig, rig, verifier_of

from tightseal.errors import Code, EvidenceError, ServiceError
from tightseal.model.claims import Claims
from tightseal.service.admission import Admission
from tightseal.service.admitted import admitted
from tightseal.service.connections import ByteBudget
from tightseal.service.front import Front
from tightseal.service.health import Health
from tightseal.service.listen_settings import HostLimits
from tightseal.service.metrics import Metrics
from tightseal.service.pool import WorkPool
from tightseal.service.settings import Settings
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World

GOOD_CLIENTS = 6
FLOOD = 10
"""Times as many bad clients as good ones; none of them ever pauses."""

SHARE = 0.8

Sources = Callable[[], str]


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"a flood".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


@pytest.fixture(scope="module")
def elsewhere(world: World) -> SimTd:
    return world.intel.platform("two").launch_td(TdImage())


@dataclass
class Arena:
    """A worker without sockets: good clients, bad ones, and what was verified."""

    rig: Rig
    front: Front
    verified: Counter[str]
    seen: Counter[str] = field(default_factory=Counter)
    ended: bool = False

    async def ask(self, source: str, body: bytes) -> None:
        """As the HTTP transport does."""
        front = self.front
        front.admission.door(source)
        begin = partial(front.provider.begin, body, now=NOW)
        await admitted(front, front.pool, source, begin)

    async def good(self, source: str, bodies: list[bytes]) -> None:
        for body in bodies:
            while True:
                try:
                    await self.ask(source, body)
                except ServiceError as e:
                    self.seen[f"good {e.code.value}"] += 1
                    await asyncio.sleep(0.001)
                else:
                    self.seen["released"] += 1
                    break

    async def bad(self, sources: Sources, body: bytes) -> None:
        while not self.ended:
            try:
                await self.ask(sources(), body)
            except EvidenceError as e:
                self.seen[e.code.value] += 1
            except ServiceError as e:
                self.seen[e.code.value] += 1
            await asyncio.sleep(0)

    async def run(
        self, good: dict[str, list[bytes]], sources: Sources, forged: bytes
    ) -> float:
        """The share of the good clients in what was verified under the flood."""
        await asyncio.gather(*[self.good(s, b[:1]) for s, b in good.items()])
        self.verified.clear()
        self.seen.clear()
        flood = [
            asyncio.create_task(self.bad(sources, forged))
            for _ in range(FLOOD * len(good))
        ]
        await asyncio.gather(*[self.good(s, b[1:]) for s, b in good.items()])
        verified = dict(self.verified)
        self.ended = True
        await asyncio.gather(*flood)
        return verified["good"] / (verified["good"] + verified.get("bad", 0))


@pytest.fixture
def arena(world: World, tmp_path: Path) -> Iterator[Callable[..., Arena]]:
    verify = verifier_of(world)
    verified: Counter[str] = Counter()
    pool = WorkPool("flooded", threads=1, queue=64, reserved_share=0.9)

    def counting(evidence: bytes, *, now: int) -> Claims:
        try:
            claims = verify(evidence, now=now)
        except EvidenceError:
            verified["bad"] += 1
            raise
        verified["good"] += 1
        return claims

    with rig(world, tmp_path, verifier=counting) as found:

        def make(**limits: Any) -> Arena:
            some: Any = found.provider
            front = Front(
                provider=some,
                clock=lambda: NOW,
                settings=Settings(),
                metrics=Metrics(),
                health=Health({}),
                pool=pool,
                quote_pool=pool,
                operator_pool=pool,
                budget=ByteBudget(1 << 20),
                operator_budget=ByteBudget(1 << 20),
                admission=Admission(HostLimits(**limits)),
            )
            return Arena(found, front, verified)

        yield make
        pool.shutdown()


def bodies(arena: Arena, td: SimTd, count: int) -> list[bytes]:
    return [arena.rig.question(td)[1] for _ in range(count)]


def forged(arena: Arena, td: SimTd) -> bytes:
    """The answer to a challenge of ours, with one bit of the quote's signature wrong.

    It passes every cheap check, and claims the platform of the TD that it comes from.
    """
    request = json.loads(bodies(arena, td, 1)[0])
    evidence = bytearray(base64.urlsafe_b64decode(request["evidence"] + "=" * 3))
    signed = 48 + 584
    evidence[signed + 4 + 10] ^= 1
    request["evidence"] = base64.urlsafe_b64encode(evidence).rstrip(b"=").decode()
    return json.dumps(request).encode()


def one_source() -> Sources:
    return lambda: "203.0.113.9"


def a_new_source_each_time() -> Sources:
    numbers = itertools.count()
    return lambda: f"2001:db8:{next(numbers):x}/64"


def the_good_ones_source() -> Sources:
    """As where all come through one proxy."""
    return lambda: "192.0.2.1"


FLOODS: dict[str, Callable[[], Sources]] = {
    "one source": one_source,
    "a new source each time": a_new_source_each_time,
}


def flooded(
    arena: Arena, td: SimTd, bad: SimTd, sources: Sources, *, each: int, one: bool
) -> float:
    names = ["192.0.2.1"] * GOOD_CLIENTS if one else []
    names = names or [f"192.0.2.{n}" for n in range(GOOD_CLIENTS)]
    lists = [bodies(arena, td, each + 1) for _ in names]
    if one:
        # One source: the clients share it, so their requests are one client's.
        good = {f"{n}": part for n, part in enumerate(lists)}
        return asyncio.run(_of_one_source(arena, good, sources, forged(arena, bad)))
    good = dict(zip(names, lists, strict=True))
    return asyncio.run(arena.run(good, sources, forged(arena, bad)))


async def _of_one_source(
    arena: Arena, good: dict[str, list[bytes]], sources: Sources, wrong: bytes
) -> float:
    ask = arena.ask

    async def behind_the_proxy(source: str, body: bytes) -> None:
        await ask("192.0.2.1" if source.isdigit() else source, body)

    arena.ask = behind_the_proxy  # type: ignore[method-assign]
    return await arena.run(good, sources, wrong)


@pytest.mark.parametrize("make", FLOODS.values(), ids=FLOODS.keys())
@pytest.mark.parametrize(
    "each", [12, pytest.param(250, marks=pytest.mark.soak)], ids=["short", "long"]
)
def test_good_clients_keep_their_throughput(
    arena: Callable[..., Arena], td: SimTd, make: Callable[[], Sources], each: int
) -> None:
    """At default settings; the flood claims the platform of the good ones."""
    found = arena()
    share = flooded(found, td, td, make(), each=each, one=False)
    assert found.seen["released"] == GOOD_CLIENTS * each
    assert found.verified["bad"] > 0, "there was no flood"
    assert share >= SHARE, dict(found.seen)


def test_good_clients_behind_the_address_of_a_flood_keep_most_of_it(
    arena: Callable[..., Arena], td: SimTd, elsewhere: SimTd
) -> None:
    """As behind one proxy. The cheap checks they share with the flood, not the rest."""
    found = arena(requests_per_second=0)
    share = flooded(found, td, elsewhere, the_good_ones_source(), each=8, one=True)
    assert found.seen["released"] == GOOD_CLIENTS * 8
    assert found.verified["bad"] > 0, "there was no flood"
    assert share >= SHARE / 2, dict(found.seen)


def test_without_standing_and_turns_by_source_the_flood_would_win(
    arena: Callable[..., Arena], td: SimTd
) -> None:
    """Else the tests above would show nothing."""
    found = arena(known_seconds=0, failures_per_second=0)
    share = flooded(found, td, td, a_new_source_each_time(), each=4, one=False)
    assert share < SHARE / 2, share


def test_a_source_that_floods_is_turned_away_at_the_door(
    arena: Callable[..., Arena], td: SimTd
) -> None:
    found = arena(failures_per_second=1, failure_burst=5)
    share = flooded(found, td, td, one_source(), each=10, one=False)
    # One more for each second that the test takes.
    assert found.verified["bad"] <= 5 + 60
    assert found.seen["rate_limited"] > found.verified["bad"]
    assert share >= SHARE


def test_a_new_client_is_served_during_a_flood(
    arena: Callable[..., Arena], td: SimTd
) -> None:
    """Nobody knows it, and the flood comes from one source: they take turns."""
    found = arena(failures_per_second=0)

    async def run() -> int:
        wrong = forged(found, td)
        flood = [asyncio.create_task(found.bad(one_source(), wrong)) for _ in range(60)]
        await found.good("192.0.2.1", bodies(found, td, 1))
        before = found.verified["bad"]
        await found.good("198.51.100.7", bodies(found, td, 1))
        waited = found.verified["bad"] - before
        found.ended = True
        await asyncio.gather(*flood)
        return waited

    # Its two steps wait for a turn each, behind what the thread has already.
    assert asyncio.run(run()) <= 8


def test_evidence_of_another_exchange_costs_no_signature(
    arena: Callable[..., Arena], td: SimTd
) -> None:
    """Genuine or not: by its own word it answers another challenge."""
    found = arena()
    first, second = (json.loads(body) for body in bodies(found, td, 2))
    wrong = json.dumps(first | {"evidence": second["evidence"]}).encode()
    found.verified.clear()
    with pytest.raises(EvidenceError) as no:
        asyncio.run(found.ask("203.0.113.9", wrong))
    assert no.value.code is Code.REPORT_DATA_MISMATCH
    assert not found.verified
