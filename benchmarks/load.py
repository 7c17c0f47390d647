# SPDX-License-Identifier: Apache-2.0
"""Verified, logged releases under load: the most, the latency below it, and memory.

    python benchmarks/load.py [--json] [--memory-requests N]

Starts its own servers, in a simulated world, with both verifiers and the signed log on.
Challenges and evidence are prebuilt, untimed; wrk replays the bodies, each once. First
as fast as it goes, best of three; then at 60 % of that, by the wall clock, best of
three. For memory a provider answers N requests in a row, and its processes are looked
at in between. The load generator runs on the same cores as the providers.

Three nodes have one PostgreSQL for policy and counts, a log each, and a wrk each; its
rows are shown without a target.
"""

import argparse
import json
import math
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from own_postgres import postgres
from rows import Row, at_least, at_most, figure, note, show

from release import HERE, NONCE_LIFE, ROUNDS, Load, best, prebuild, wrk_path
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.keypath import IdentityKind
from tightseal.policy.start import from_claims
from tightseal_sim.approvers import Approvers
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene
from tightseal_sim.sources import WorldSource

WANTED_RATE = 500
WANTED_P50_MS = 20.0
SHARE = 0.6
CLIENTS = 16
SECONDS = 4
NODES = 3
MEMORY_REQUESTS = 200_000
CHUNK = 5_000
WARM_UP = 20_000
"""Requests before memory is looked at: caches fill, and the allocator settles."""

GROWTH = 1.1
"""The most by which memory may be larger after all of them."""


@dataclass(frozen=True)
class Node:
    """A provider, and where bodies for it lie."""

    provider: Provider
    td: SimTd
    bodies: Path

    def prebuild(self, count: int) -> None:
        """Write that many bodies, each of which can be sent once."""
        prebuild(self.provider, self.td, self.bodies, count)

    def run(self, *, rate: float | None = None, seconds: int = SECONDS) -> Load | None:
        """One run of wrk; ``None`` where there were too few bodies."""
        script = "replay.lua" if rate is None else "paced.lua"
        command = [wrk_path(), "-t2", f"-c{CLIENTS}", f"-d{seconds}s"]
        command += ["--timeout", "20s", "-s", str(HERE / script), self.provider.url]
        command += ["--", str(self.bodies), "2"]
        command += [] if rate is None else [f"{rate:.3f}"]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        line = next(x for x in result.stdout.splitlines() if x.startswith("{"))
        got: dict[str, Any] = json.loads(line)
        if got["refused"] or got["errors"]:
            raise SystemExit(f"not every request was answered with keys: {got}")
        if got["short"]:
            return None
        return Load(
            got["answered"] / got["seconds"], got["p50_us"] / 1e3, got["p99_us"] / 1e3
        )


@contextmanager
def one_node(folder: Path) -> Iterator[Node]:
    """A provider with two workers over SQLite."""
    with Scene(folder) as stage:
        provider = stage.provider(
            host={"workers": 2, "log": {"level": "warning"}},
            release={"nonce_life": NONCE_LIFE},
        )
        td = stage.world.intel.platform("machine-a").launch_td(TdImage())
        yield Node(provider, td, folder / "bodies")


@contextmanager
def fleet(folder: Path, address: str) -> Iterator[list[Node]]:
    """Three providers of one policy root over one PostgreSQL."""
    with Scene(folder) as stage:
        td = stage.world.intel.platform("machine-a").launch_td(TdImage())
        approvers = Approvers()
        bundle = approvers.bundle(
            {"fleet": document(stage, td)}, release=f"nonce_life = {NONCE_LIFE}\n"
        )
        nodes = []
        for number in range(NODES):
            provider = stage.provider(
                f"node-{number}",
                policy_root=approvers.policy_root,
                bundle=bundle,
                host={
                    "log": {"level": "warning"},
                    "state": {"engine": "postgres", "url": address},
                },
            )
            nodes.append(Node(provider, td, folder / f"bodies-{number}"))
        yield nodes


def document(stage: Scene, td: SimTd) -> str:
    """A policy that gives this TD its disk's key."""
    verify = EvidenceVerifier(
        roots=with_simulated(VENDOR_ROOTS, stage.world.intel.root_certificate),
        source=WorldSource(stage.world),
        cache=ResultCache(64),
    )
    return from_claims(
        verify(td.evidence(bytes(64)), now=int(time.time())),
        tenant="acme",
        name="database",
        identity=IdentityKind.NAMED,
        label="image",
        purpose="disk",
    )


def fastest(nodes: list[Node], *, count: int) -> tuple[list[Load], int]:
    """Rounds of all nodes at once, as fast as they go; and bodies that were enough."""
    loads: list[Load] = []
    while len(loads) < ROUNDS:
        note(f"as fast as it goes, round {len(loads) + 1} of {ROUNDS}")
        every = together(nodes, count=count)
        if every is None:
            count *= 2
        else:
            loads.append(every)
    return loads, count


def paced(nodes: list[Node], rate: float, *, count: int) -> list[Load]:
    """Rounds at a rate for all nodes together."""
    loads: list[Load] = []
    for number in range(ROUNDS):
        note(f"at {rate:.0f} a second, round {number + 1} of {ROUNDS}")
        load = together(nodes, count=count, rate=rate / len(nodes))
        if load is None:
            raise SystemExit("too few bodies for a paced run")
        loads.append(load)
    return loads


def together(
    nodes: list[Node], *, count: int, rate: float | None = None
) -> Load | None:
    """All nodes at once: rates add up, latencies are the worst node's."""
    for node in nodes:
        node.prebuild(count)
    with ThreadPoolExecutor(len(nodes)) as pool:
        loads = list(pool.map(lambda node: node.run(rate=rate), nodes))
    good = [load for load in loads if load is not None]
    if len(good) < len(nodes):
        return None
    return Load(
        sum(load.rate for load in good),
        max(load.p50 for load in good),
        max(load.p99 for load in good),
    )


def memory(node: Node, requests: int, *, rate: float) -> tuple[list[Row], float]:
    """Resident memory of all its processes, MiB, along the way."""
    samples: list[tuple[int, float]] = []
    sent = 0
    while sent < requests:
        node.prebuild(CHUNK)
        sent += replayed(node, seconds=math.ceil(1.5 * CHUNK / rate) + 1)
        samples.append((sent, resident(node.provider.process.pid)))
        note(f"{sent} of {requests} requests: {samples[-1][1]:.1f} MiB")
    warm = next((mib for count, mib in samples if count >= WARM_UP), samples[0][1])
    rows = [
        figure(f"memory after {count} requests", mib, "MiB")
        for count, mib in samples[:: max(1, len(samples) // 8)]
    ]
    return rows, samples[-1][1] / warm


def replayed(node: Node, *, seconds: int) -> int:
    """Send every body once, or as many as go in that time; how many answers."""
    command = [wrk_path(), "-t2", f"-c{CLIENTS}", f"-d{seconds}s", "--timeout", "20s"]
    command += ["-s", str(HERE / "exhaust.lua"), node.provider.url]
    command += ["--", str(node.bodies), "2"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    line = next(x for x in result.stdout.splitlines() if x.startswith("{"))
    got: dict[str, Any] = json.loads(line)
    if got["refused"] or got["errors"] or not got["answered"]:
        raise SystemExit(f"not every request was answered with keys: {got}")
    return int(got["answered"])


def resident(pid: int) -> float:
    """MiB of a process and all below it."""
    kib, waiting = 0, [pid]
    while waiting:
        here = Path("/proc") / str(waiting.pop())
        for line in (here / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                kib += int(line.split()[1])
        for task in (here / "task").iterdir():
            waiting += map(int, (task / "children").read_text().split())
    return kib / 1024


def rows_of(name: str, most: Load, easy: Load, *, judged: bool) -> list[Row]:
    """The figures of one set-up."""
    share = f"{SHARE:.0%} of the most"
    rate, p50 = f"{name}: releases", f"{name}: p50 at {share}"
    return [
        at_least(rate, most.rate, "1/s", WANTED_RATE)
        if judged
        else figure(rate, most.rate, "1/s"),
        at_most(p50, easy.p50, "ms", WANTED_P50_MS)
        if judged
        else figure(p50, easy.p50, "ms"),
        figure(f"{name}: p99 at {share}", easy.p99, "ms"),
        figure(f"{name}: p99 at the most", most.p99, "ms"),
    ]


def measured(nodes: list[Node], name: str, *, judged: bool) -> list[Row]:
    """The most, and the latency at a share of it."""
    loads, count = fastest(nodes, count=WANTED_RATE * SECONDS * 3 // 2)
    most = best(loads)
    return rows_of(
        name,
        most,
        best(paced(nodes, most.rate * SHARE, count=count)),
        judged=judged,
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-requests", type=int, default=MEMORY_REQUESTS)
    arguments = parser.parse_args()
    wrk_path()
    with tempfile.TemporaryDirectory() as name:
        with one_node(Path(name) / "one") as node:
            rows = measured([node], "SQLite, 2 workers", judged=True)
            if arguments.memory_requests:
                count, rate = arguments.memory_requests, rows[0].value
                sampled, growth = memory(node, count, rate=rate)
                row = f"memory after {count} requests / after {WARM_UP}"
                rows += [*sampled, at_most(row, growth, "ratio", GROWTH)]
        with (
            postgres() as server,
            fleet(Path(name) / "fleet", server.new_address("load")) as nodes,
        ):
            rows += measured(nodes, f"{NODES} nodes, PostgreSQL", judged=False)
    return show("load", rows, as_json=arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
