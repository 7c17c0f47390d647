# SPDX-License-Identifier: Apache-2.0
"""Ten times as many invalid quotes as can be verified, over sockets, from elsewhere.

Good clients are measured on the same connections before the flood and in it, in one
run. All processes of it share the cores of one machine, the flood's too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fault_bodies import challenge_request, forged, keys_requests
from fault_log import read_written
from fault_sockets import Lane, Load, start
from fault_support import Counts, port_of, readiness

from tightseal.model.wire import KeysResponse, decode_json
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene

KNOWN = 8
"""Good clients, each at an address of its own, that never pause."""

FLOODERS = 600
"""Connections of the flood: more requests than the queue holds."""

ADDRESSES = 30
REFUSED = {"quote_signature_invalid", "overloaded", "rate_limited"}
TIMES = 10
SHARE = 0.8
ROUNDS = 3
SETTLE_SECONDS = 1.0
"""Of all that is not measured: until the good ones are connected, and the flood is."""


@dataclass
class Arena:
    """A provider, and what was asked of it."""

    provider: Provider
    td: SimTd
    rounds: int = 0
    spare: float = 1.4
    granted: int = 0
    counts: Counts = field(default_factory=lambda: Counts("a flood of bad quotes"))

    @property
    def port(self) -> int:
        return port_of(self.provider)

    def build(self, count: int) -> list[bytes]:
        return keys_requests(self.port, self.td, count, source="127.1.0.1")

    def warm(self) -> float:
        """Make the good clients known; how many releases a second there are."""
        bodies = self.build(KNOWN * 20)
        done = Load(self.port, self.lanes(bodies)).run(60.0)
        assert done.finished
        self.granted += done.granted
        return done.granted / done.seconds

    def lanes(self, bodies: list[bytes]) -> list[Lane]:
        each = len(bodies) // KNOWN
        return [
            Lane(f"127.1.0.{n + 1}", bodies[n * each : (n + 1) * each])
            for n in range(KNOWN)
        ]

    def measure(self, rate: float, quiet: float, flooded: float) -> float:
        """Throughput in the flood, as a part of what it is before and after."""
        self.rounds += 1
        needed = rate * self.spare * (quiet + flooded + SETTLE_SECONDS)
        bodies = self.build(int(needed))
        newcomers = self.build(2)
        wrong = forged(self.build(1)[0])
        good = start(self.port, self.lanes(bodies), rate=0, seconds=120)
        flood = None
        try:
            time.sleep(0.3)
            first = self.window(quiet)
            flood = start(
                self.port,
                [
                    Lane(f"127.2.0.{n % ADDRESSES + 1}", [wrong], repeat=True)
                    for n in range(FLOODERS)
                ],
                rate=TIMES * rate,
                seconds=120,
            )
            time.sleep(0.5)
            during = self.window(flooded)
            late = self.newcomers(newcomers)
            ready = readiness(self.port)
            bad = flood.stop()
            flood = None
            done = good.stop()
            good = None  # type: ignore[assignment]
        finally:
            for left in (flood, good):
                if left is not None:
                    left.kill()
        assert not done.errors
        self.granted += done.granted + late
        if done.moments[-1] < during[1]:
            # Faster than the first measure said: more requests for the next round.
            self.spare *= 2
            return 0.0
        before, under = done.rate(*first), done.rate(*during)
        ratio = under / before if before else 0.0
        assert ready is not None
        assert ready["ready"]
        assert bad.granted == 0
        assert bad.sent >= FLOODERS, "there was no flood"
        assert set(bad.codes) <= REFUSED, bad.codes
        self.counts.refused = dict(Counter(self.counts.refused) + bad.codes)
        self.counts.connection_errors += bad.errors
        self.counts.requests += bad.sent + done.sent + late
        self.counts.more[f"round_{self.rounds}"] = {
            "good_before": round(before, 1),
            "good_in_flood": round(under, 1),
            "ratio": round(ratio, 3),
            "flood_wanted_per_second": round(TIMES * rate),
            "flood_waiting": FLOODERS,
            "flood_answered": sum(bad.statuses.values()),
            "slowest_good_answer": round(done.slowest, 2),
        }
        return ratio

    def window(self, seconds: float) -> tuple[float, float]:
        begin = time.monotonic()
        time.sleep(seconds)
        return begin, time.monotonic()

    def newcomers(self, bodies: list[bytes]) -> int:
        """Clients that nobody knows, in the middle of it: they get their keys too."""
        lanes = [
            Lane(f"127.3.{self.rounds}.{n + 1}", [challenge_request(), body])
            for n, body in enumerate(bodies)
        ]
        done = Load(self.port, lanes).run(60.0)
        assert done.finished, (done.statuses, done.codes, done.errors)
        assert done.granted == 2 * len(bodies)
        self.counts.more["slowest_newcomer"] = round(done.slowest, 2)
        return len(bodies)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path / "scene") as made:
        yield made


def flooded(
    scene: Scene, folder: Path, *, workers: int, quiet: float, during: float
) -> Counts:
    host: dict[str, Any] = {"workers": workers, "log": {"level": "error"}}
    provider = scene.provider(host=host, release={"nonce_life": 600})
    td = scene.world.intel.platform("machine-a").launch_td(TdImage())
    arena = Arena(provider, td)
    rate = arena.warm()
    best = 0.0
    while arena.rounds < ROUNDS and best < SHARE:
        best = max(best, arena.measure(rate, quiet, during))
    proved = proof_of(arena)
    provider.stop()
    log = read_written(provider.config, folder, proved[0])
    counts = arena.counts
    counts.granted, counts.log_entries = arena.granted + 1, len(log)
    counts.more["best_ratio"] = round(best, 3)
    # One entry for each release, received by a client or not, and none for a bad quote.
    assert all(entry["granted"] for entry in log.entries)
    assert arena.granted + 1 <= len(log) <= arena.granted + 1 + KNOWN * arena.rounds
    assert proved[1] in log.raw_leaves
    assert best >= SHARE, counts.more
    return counts


def proof_of(arena: Arena) -> tuple[str, bytes]:
    """Log key and leaf of one release after all."""
    done = Load(arena.port, [Lane("127.1.0.1", arena.build(1))], keep=True).run(60.0)
    logged = decode_json(done.bodies[0], KeysResponse).parsed().logged
    assert logged is not None
    return logged.key, logged.leaf


def test_good_clients_keep_their_throughput_over_sockets(
    scene: Scene, tmp_path: Path
) -> None:
    flooded(scene, tmp_path, workers=1, quiet=0.7, during=1.2)


@pytest.mark.soak
@pytest.mark.parametrize("workers", [1, 2])
def test_good_clients_keep_their_throughput_for_long(
    scene: Scene, tmp_path: Path, workers: int
) -> None:
    flooded(scene, tmp_path, workers=workers, quiet=5.0, during=20.0).say()
