# SPDX-License-Identifier: Apache-2.0
"""Real providers under load while something is done to them, and what was counted.

The load is workloads of many machines that check everything a workload checks. Two
limits hold while a drill lasts: releases a minute of each platform, and releases of the
purpose ``counted`` in all. Afterwards the log is held against what the clients saw.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec
from fault_log import Seen, WrittenLog, read_written

from tightseal.errors import TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.guest.client import Client
from tightseal.guest.collateral import judge_with, online
from tightseal.guest.exchange import Terms
from tightseal.guest.http import Bounds
from tightseal.model.keypath import IdentityKind, KeyRequest
from tightseal.model.ports import EvidenceSource
from tightseal.policy.document import KeyRules, PlatformRule, UsageRules
from tightseal.policy.read import parse
from tightseal.policy.start import from_claims, render
from tightseal_sim.approvers import Approvers
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene
from tightseal_sim.sources import WorldSource

__all__ = [
    "COUNTED",
    "DISK",
    "MACHINES",
    "MANY",
    "Counts",
    "Drill",
    "Watch",
    "bundle_of",
    "drill",
    "port_of",
    "readiness",
    "resident",
    "until",
]

COUNTED, DISK = "counted", "disk"
MACHINES, MANY = 16, 120
"""Machines of the load, in the short forms and the long; each has its own allowance a
minute."""

GREEDY = "greedy"
"""A machine that always asks for more than its allowance."""

PER_MINUTE = 12
"""Most releases of one platform in a minute."""

WAIT_SECONDS = 90.0
QUICK = Bounds(connect=2.0, read=30.0, attempts=2, first_delay=0.05, max_wait=0.5)
PAGE = resource.getpagesize()
POLL_SECONDS = 0.05
PAUSE_SECONDS = 0.05


def until(condition: Callable[[], bool], what: str | Callable[[], str]) -> None:
    """Wait for something; generous, since others use the same cores."""
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > end:
            late = what if isinstance(what, str) else what()
            message = f"did not happen in time: {late}"
            raise AssertionError(message)
        time.sleep(POLL_SECONDS)


@dataclass
class Counts:
    """What a drill did, and what came of it; printed by the long form."""

    fault: str = ""
    seconds: float = 0.0
    requests: int = 0
    granted: int = 0
    counted_granted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    connection_errors: int = 0
    log_entries: int = 0
    restarts: int = 0
    longest_gap_seconds: float = 0.0
    named_by_readyz: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def say(self) -> None:
        """One line for whoever keeps the figures."""
        print(json.dumps(asdict(self)))  # noqa: T201


@dataclass
class Rotating:
    """Evidence of one machine after another."""

    machines: Iterator[tuple[str, SimTd]]
    platform: str = ""
    sent: bytes = b""
    td: SimTd | None = None

    def turn(self) -> None:
        """The next machine's turn."""
        self.platform, self.td = next(self.machines)
        self.sent = b""

    def evidence(self, report_data: bytes) -> bytes:
        """As of ``EvidenceSource``; remembers what it made."""
        assert self.td is not None
        made = self.td.evidence(report_data)
        self.sent = hashlib.sha256(made).digest()
        return made


class Watch:
    """Asks ``/readyz`` all the time, and remembers what it said."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.last: dict[str, Any] | None = None
        self.troubles: dict[str, str | None] = {}
        """``part: code`` of every part that was said to be broken, with its remedy."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)

    @property
    def ready(self) -> bool:
        return bool(self.last and self.last["ready"])

    def _run(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            self.last = readiness(self._port)
            for part in (self.last or {}).get("parts", []):
                if not part["ok"]:
                    named = f"{part['name']}: {part['code']}"
                    self.troubles[named] = part["remedy"]


def readiness(port: int) -> dict[str, Any] | None:
    """What ``/readyz`` says; ``None`` where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return found


def resident(pid: int) -> int:
    """Bytes of memory of a process and all below it."""
    total, waiting = 0, [pid]
    while waiting:
        here = Path("/proc") / str(waiting.pop())
        total += int((here / "statm").read_text().split()[1]) * PAGE
        for task in (here / "task").iterdir():
            waiting += map(int, (task / "children").read_text().split())
    return total


def port_of(provider: Provider) -> int:
    """Of its HTTP API."""
    return int(provider.url.rsplit(":", 1)[1])


def bundle_of(scene: Scene, approvers: Approvers, td: SimTd, total: int) -> bytes:
    """A policy: ``disk`` for any, ``counted`` a number of times, all by the minute."""
    verify = EvidenceVerifier(
        roots=with_simulated(VENDOR_ROOTS, scene.world.intel.root_certificate),
        source=WorldSource(scene.world),
        cache=ResultCache(64),
    )
    text = from_claims(
        verify(td.evidence(bytes(64)), now=int(time.time())),
        tenant="acme",
        name="database",
        identity=IdentityKind.NAMED,
        label="2026-10",
        purpose=DISK,
    )
    usage = msgspec.convert({"total": total, "without_anchor": "accept"}, UsageRules)
    rules = parse(text).document.workload[0]
    keys = (KeyRules(purpose=DISK), KeyRules(purpose=COUNTED, usage=usage))
    release = f"[limits]\nplatform_per_minute = {PER_MINUTE}\n"
    rules = msgspec.structs.replace(rules, key=keys, platform=PlatformRule.ANY)
    documents = {"d": render((rules,))}
    return approvers.bundle(documents, release=release)


@dataclass
class Drill:
    """A provider with its load.

    Attributes:
        scene: the world.
        provider: as it runs now; its address stays when it is started again.
        total: releases of ``counted`` that the policy allows.
        seen: every answer.
        sent: of all evidence that was ever sent, the machine.
    """

    scene: Scene
    provider: Provider
    total: int
    seen: list[Seen] = field(default_factory=list)
    sent: dict[bytes, str] = field(default_factory=dict)
    errors: int = 0
    restarts: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    faults: list[BaseException] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _tds: dict[str, SimTd] = field(default_factory=dict)

    def td(self, machine: str) -> SimTd:
        """The workload of a machine."""
        with self._lock:
            if machine not in self._tds:
                platform = self.scene.world.intel.platform(machine)
                self._tds[machine] = platform.launch_td(TdImage())
            return self._tds[machine]

    def client(self, source: EvidenceSource) -> Client:
        """A workload's client that checks everything, and does not wait long."""
        roots = with_simulated(VENDOR_ROOTS, self.scene.world.intel.root_certificate)
        collateral = online(pccs=[self.scene.pccs_url], judge=judge_with(roots=roots))
        terms = Terms(pin=self.provider.pin, collateral=collateral)
        return Client(self.provider.url, source=source, terms=terms, bounds=QUICK)

    def granted(self) -> int:
        """Releases that arrived, so far."""
        return sum(answer.outcome == "granted" for answer in list(self.seen))

    def more(self, count: int) -> None:
        """Wait until so many more releases arrived."""
        wanted = self.granted() + count
        try:
            until(lambda: self.granted() >= wanted or bool(self.faults), "releases")
        except AssertionError as late:
            outcomes = Counter(answer.outcome for answer in self.seen)
            raise AssertionError(f"{late}; {outcomes}; {self.errors}") from late
        assert not self.faults, self.faults

    def start_again(self) -> None:
        """As a process manager does: the same settings, and ready in the end."""
        self.provider = self.scene.start(self.provider.config)
        self.restarts += 1

    def ask(self, client: Client, source: Rotating, purpose: str) -> str:
        """One exchange, and what came of it."""
        source.turn()
        entry: dict[str, Any] = {}
        try:
            with client.keys(KeyRequest(purpose)) as keys:
                receipt = keys.receipt
                assert receipt.logged is not None
                outcome = "granted"
                entry = {
                    "entry_id": receipt.entry_id,
                    "leaf": receipt.logged.leaf,
                    "log_key": receipt.logged.key,
                    "proof": receipt.log_proof,
                }
        except TightsealError as error:
            outcome = str(getattr(error, "refusal", None) or error.code)
        at = time.monotonic()
        answer = Seen(at, source.platform, purpose, outcome, source.sent, **entry)
        with self._lock:
            if source.sent:
                self.sent[source.sent] = source.platform
            if outcome == "provider_unreachable":
                self.errors += 1
            else:
                self.seen.append(answer)
        return outcome

    def work(self, machines: list[str], *, counted: bool) -> None:
        """Ask until the drill is over; for a thread."""
        named = itertools.cycle([(name, self.td(name)) for name in machines])
        source = Rotating(named)
        purposes = itertools.cycle([DISK, COUNTED] if counted else [DISK])
        try:
            with self.client(source) as client:
                while not self.over.is_set():
                    if self.ask(client, source, next(purposes)) != "granted":
                        self.over.wait(PAUSE_SECONDS)
        except BaseException as error:
            self.faults.append(error)
            raise

    def use_up(self) -> None:
        """Ask until both limits are told: so both were reached, and not passed."""
        self.ask_until("usage_limit_reached", COUNTED, [f"last-{n}" for n in range(8)])
        self.ask_until("rate_limited", DISK, [GREEDY])

    def ask_until(self, code: str, purpose: str, machines: list[str]) -> None:
        """Ask until that is the answer."""
        source = Rotating(itertools.cycle([(n, self.td(n)) for n in machines]))
        with self.client(source) as client:
            for _ in range(2 * self.total + 4 * PER_MINUTE):
                if self.ask(client, source, purpose) == code:
                    return
        message = f"it was never {code}"
        raise AssertionError(message)

    def judge(self, folder: Path, counts: Counts) -> WrittenLog:
        """Stop, read the log, hold it against what was seen, and count."""
        self.over.set()
        self.provider.stop()
        assert not self.faults, self.faults
        keys = {answer.log_key for answer in self.seen if answer.log_key}
        assert len(keys) == 1, "the log has another key than before"
        log = read_written(self.provider.config, folder, keys.pop())
        log.require(self.seen)
        outcomes = Counter(answer.outcome for answer in self.seen)
        moments = sorted(a.at for a in self.seen if a.outcome == "granted")
        counts.requests = len(self.seen) + self.errors
        counts.granted = outcomes.pop("granted")
        counts.counted_granted = sum(
            a.outcome == "granted" and a.purpose == COUNTED for a in self.seen
        )
        counts.refused = dict(outcomes)
        counts.connection_errors = self.errors
        counts.log_entries = len(log)
        counts.restarts = self.restarts
        counts.seconds = round(moments[-1] - moments[0], 1)
        gaps = (b - a for a, b in itertools.pairwise(moments))
        counts.longest_gap_seconds = round(max(gaps, default=0.0), 2)
        self._no_limit_exceeded(log, counts)
        assert set(counts.refused) <= {
            "rate_limited",
            "usage_limit_reached",
            "overloaded",
            *counts.more.get("expected", ()),
        }, counts.refused
        return log

    def _no_limit_exceeded(self, log: WrittenLog, counts: Counts) -> None:
        assert counts.counted_granted <= log.granted(COUNTED) <= self.total
        by_minute = log.per_minute(self.sent)
        assert sum(by_minute.values()) >= counts.granted
        assert max(by_minute.values()) <= PER_MINUTE
        assert counts.refused.get("rate_limited", 0) > 0, "nobody was ever limited"
        counts.more["most_of_a_platform_in_a_minute"] = max(by_minute.values())


@contextmanager
def drill(
    folder: Path,
    *,
    total: int,
    host: dict[str, Any],
    clients: int = 3,
    machines: int = MACHINES,
) -> Iterator[Drill]:
    """A provider under a signed policy with its load, until the block ends."""
    with Scene(folder / "scene") as scene:
        approvers = Approvers()
        td = scene.world.intel.platform("m-0").launch_td(TdImage())
        provider = scene.provider(
            policy_root=approvers.policy_root,
            bundle=bundle_of(scene, approvers, td, total),
            host=host,
        )
        made = Drill(scene, provider, total)
        ring = [f"m-{number}" for number in range(machines)]
        loads = [
            threading.Thread(
                target=made.work,
                args=(ring[number:] + ring[:number],),
                kwargs={"counted": True},
                daemon=True,
            )
            for number in range(clients)
        ]
        loads.append(
            threading.Thread(
                target=made.work,
                args=([GREEDY],),
                kwargs={"counted": False},
                daemon=True,
            )
        )
        for load in loads:
            load.start()
        try:
            yield made
        finally:
            made.over.set()
            with suppress(RuntimeError):
                for load in loads:
                    load.join(WAIT_SECONDS)
