# SPDX-License-Identifier: Apache-2.0
"""Whole providers in this process on a simulated world whose clocks the test holds.

Each node is what ``tightseal serve`` runs in one worker: composed by the product, and
served over HTTP on a port of its own. Its background work is done when the test says.
"""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import faults_path  # noqa: F401  # first: it says where the next two are found
import msgspec
from service_harness import Served, serving
from store_postgres import MissingError, Server, running

from tightseal.audit.journal import RecordedEntry
from tightseal.collateral.pccs import PccsClient
from tightseal.collateral.source import CachedSource
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.guest.challenge import ProviderCollateral
from tightseal.guest.exchange import Exchange, Terms
from tightseal.guest.pins import ProviderPin, RootedIdentity
from tightseal.model.claims import Claims
from tightseal.model.exchange import Kem
from tightseal.model.keypath import IdentityKind, KeyRequest
from tightseal.model.ports import EvidenceSource
from tightseal.model.provider import sidecar_keyring_id
from tightseal.model.secret import Secret
from tightseal.model.wire import CHALLENGE_PATH, KeysResponse, decode_json
from tightseal.policy.document import KeyRules, UsageRules, WorkloadRules
from tightseal.policy.read import parse
from tightseal.policy.start import from_claims, render
from tightseal.service.compose import Composed, compose, prepare
from tightseal.service.probes import Background
from tightseal.service.settings import Settings
from tightseal_sim.approvers import Approvers
from tightseal_sim.door import PROVIDER_ENCLAVE
from tightseal_sim.faults import Faults
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.td import TdImage
from tightseal_sim.pccs import pccs_app
from tightseal_sim.scene import LoopbackServer
from tightseal_sim.sources import WorldSource
from tightseal_sim.world import World

DAY = 86_400
HOUR = 3600
NOON = 1_790_000_000 // DAY * DAY + DAY // 2
"""A noon: an hour either way is the same day, so collateral does not change by it."""

MACHINE = "machine-a"
PURPOSE = "disk"


@dataclass
class TrueTime:
    """What all good clocks show; moved by the test alone."""

    now: int = NOON

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: int) -> None:
        self.now += seconds


@dataclass
class NodeClock:
    """The clock of one host; wrong by ``error`` seconds."""

    true: TrueTime
    error: int = 0

    def __call__(self) -> int:
        return self.true.now + self.error


@dataclass(frozen=True, slots=True)
class Told:
    """What a workload learned: an answer, or a code."""

    code: str
    body: bytes = b""
    retry_after: int = 0

    @property
    def granted(self) -> bool:
        return self.code == "granted"


@dataclass
class Stage:
    """A world, its PCCS, approvers and a workload; nodes stand on it."""

    folder: Path
    time: TrueTime = field(default_factory=TrueTime)
    faults: Faults = field(default_factory=Faults)
    nodes: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.world = World.create(self.folder / "world", seed=b"faults".ljust(32, b"."))
        app = pccs_app(self.world.intel, now=self.time, faults=self.faults)
        self.pccs = LoopbackServer(app)
        self.approvers = Approvers(now=self.time.now)
        self.td = self.world.intel.platform(MACHINE).launch_td(TdImage())
        roots = with_simulated(VENDOR_ROOTS, self.world.intel.root_certificate)
        self.judge = EvidenceVerifier(
            roots=roots, source=WorldSource(self.world), cache=ResultCache(256)
        )

    def terms(self) -> Terms:
        """A workload's; its collateral is its own, whatever happens to the PCCS."""
        identity = RootedIdentity(
            tee="sgx",
            measurement=EnclaveImage(name=PROVIDER_ENCLAVE).mr_enclave,
            keyring_id=sidecar_keyring_id(),
            policy_root=self.approvers.policy_root,
        )
        domain = str(self.world.intel.trusted_root.trust_domain)
        pin = ProviderPin(
            identity=identity, trust_domains=frozenset({domain}), allow_simulated=True
        )
        judge = ProviderCollateral.behind(self._judged_at_true_time)
        return Terms(pin=pin, collateral=judge, kem=Kem.X25519)

    def _judged_at_true_time(self, evidence: bytes, *, now: int) -> Claims:
        del now
        return self.judge(evidence, now=self.time.now)

    def document(
        self, workload: EvidenceSource | None = None, *, name: str = "db", **usage: Any
    ) -> str:
        """A policy: the workload may have ``PURPOSE``, under these usage rules.

        It runs on any machine of the world.
        """
        text = from_claims(
            self.judge((workload or self.td).evidence(bytes(64)), now=self.time.now),
            tenant="acme",
            name=name,
            identity=IdentityKind.NAMED,
            label="image",
            purpose=PURPOSE,
        )
        found = msgspec.to_builtins(parse(text).document.workload[0])
        ruled = msgspec.convert(found | {"platform": "any"}, WorkloadRules)
        rules = None
        if usage:
            rules = msgspec.convert({"without_anchor": "accept"} | usage, UsageRules)
        key = KeyRules(purpose=PURPOSE, usage=rules)
        return render((msgspec.structs.replace(ruled, key=(key,)),))

    def bundle(self, *, release: str | None = None, **usage: Any) -> bytes:
        return self.approvers.bundle(
            {"d": self.document(**usage)}, release=release, now=self.time.now
        )

    def settings(self, name: str, **host: Any) -> Settings:
        root = base64.b64encode(self.world.intel.root_certificate).decode()
        document = {
            "host": {
                "state_dir": str(self.folder / name),
                "platform": {
                    "kind": "sim",
                    "world": str(self.folder / "world"),
                    "machine": MACHINE,
                },
                "collateral": {"pccs": [self.pccs.url]},
                # Clients here fail on purpose, all of them from one address.
                "limits": {"failures_per_second": 0, "requests_per_second": 0},
            }
            | host,
            "release": {
                "simulated_roots": [root],
                "policy_root": self.approvers.policy_root.hex(),
            },
        }
        return msgspec.convert(document, Settings)

    def node(self, name: str = "one", **host: Any) -> Node:
        """A node that was not started yet."""
        settings = self.settings(name, **host)
        self.nodes[name] = Node(name, self, settings, NodeClock(self.time))
        return self.nodes[name]


@contextmanager
def a_database(cannot_run: Callable[[str], NoReturn]) -> Iterator[Server]:
    """A PostgreSQL server, to be restarted too."""
    # Not below pytest's folder: a socket's path is short, and "postgres" must enter.
    with tempfile.TemporaryDirectory(prefix="tightseal-") as folder:
        try:
            with running(Path(folder)) as server:
                yield server
        except MissingError as missing:
            cannot_run(str(missing))


@contextmanager
def a_stage(folder: Path, *, faults: Faults | None = None) -> Iterator[Stage]:
    stage = Stage(folder, faults=faults or Faults())
    stage.pccs.start()
    try:
        yield stage
    finally:
        for node in stage.nodes.values():
            node.stop()
        # What hangs there on purpose is not waited for.
        stage.pccs._server.force_exit = True
        stage.pccs.stop()


@dataclass
class Node:
    """One provider; started and stopped as often as the test likes."""

    name: str
    stage: Stage
    settings: Settings
    clock: NodeClock
    composed: Composed | None = None
    served: Served | None = None
    starts: int = 0
    _running: ExitStack = field(default_factory=ExitStack)

    @property
    def start_name(self) -> str:
        """Names this start of it: nonces of another are not its own."""
        return f"{self.name}/{self.starts}"

    def start(self, bundle: bytes | None = None) -> Node:
        self.starts += 1
        prepare(self.settings, host_clock=self.clock)
        seed = Secret(secrets.token_bytes(32))
        self.composed = compose(self.settings, seed=seed, host_clock=self.clock)
        self._running.callback(self.composed.close)
        self._by_our_time(self.source)
        self.served = self._running.enter_context(serving(self.composed.front))
        if bundle is not None:
            self.front.provider.publish(bundle, now=self.clock())
        with suppress(Exception):
            # Another node may have published what decides here.
            self.background.watch.look()
        return self

    @property
    def source(self) -> CachedSource:
        assert self.background.refresher is not None
        return self.background.refresher._source

    def _by_our_time(self, source: CachedSource) -> None:
        """What is remembered of failed fetches ages with the days that we make up."""
        for part in (source._refusals, source._budget):
            part._monotonic = self.stage.time
        source._budget._at = self.stage.time()

    def patience(self, seconds: float) -> None:
        """How long a fetch of collateral may take from now on, in real seconds."""
        client = self.source._pccs
        assert isinstance(client, PccsClient)
        client._asker.limits = replace(client._asker.limits, total_seconds=seconds)

    def stop(self) -> None:
        self._running.close()
        self.composed = self.served = None

    @property
    def front(self) -> Any:
        assert self.composed is not None
        return self.composed.front

    @property
    def background(self) -> Background:
        composed = self.composed
        if composed is None:
            raise ConnectionRefusedError(self.name)
        work = composed.background
        assert isinstance(work, Background)
        return work

    @property
    def port(self) -> int:
        served = self.served
        if served is None:
            raise ConnectionRefusedError(self.name)
        return served.http_port

    def look(self) -> None:
        """What the background does every few seconds, once; and the hourly refresh."""
        with suppress(Exception):
            self.background.watch.look()
        self.background.round()

    def refresh(self) -> None:
        """What the background does for collateral every minute, once."""
        assert self.background.refresher is not None
        with suppress(Exception):
            self.background.refresher.step()

    def ready(self) -> dict[str, str]:
        """The parts that are broken, with their codes; as ``/readyz`` says."""
        answer = json.loads(self.get("/readyz"))
        return {p["name"]: p["code"] for p in answer["parts"] if not p["ok"]}

    def remedy(self, part: str) -> str:
        answer = json.loads(self.get("/readyz"))
        (found,) = [p["remedy"] for p in answer["parts"] if p["name"] == part]
        return str(found)

    def metric(self, name: str) -> float:
        for line in self.get("/metrics").decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.rsplit(" ", 1)[1])
        raise LookupError(name)

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def entries(self) -> tuple[RecordedEntry, ...]:
        """Every entry of its journal, oldest first."""
        journal = self.background.sampler.journal
        found: list[RecordedEntry] = []
        while page := journal.entries(after=len(found), limit=1000):
            found.extend(page)
        return tuple(found)


def post(port: int, path: str, body: bytes, *, seconds: float = 30) -> Told:
    """One request; ``OSError`` where no answer came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        content = answer.read()
    except http.client.HTTPException as e:
        raise ConnectionError(str(e)) from e
    finally:
        connection.close()
    if answer.status == 200:
        return Told("granted", content)
    wait = int(answer.headers.get("retry-after") or 0)
    return Told(str(json.loads(content)["code"]), content, wait)


class RefusedError(Exception):
    """A challenge was refused; ``args`` hold what was told."""


@dataclass
class Asking:
    """One exchange of a workload, up to its last request.

    Args:
        stage: where the workload runs.
        port: of the node that is asked for the challenge.
        now: what the workload's own clock says.
        client_nonce: the same for exchanges that are to answer one challenge.
    """

    stage: Stage
    port: int
    now: Callable[[], int]
    client_nonce: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    workload: EvidenceSource | None = None

    def __post_init__(self) -> None:
        self.exchange = Exchange(
            self.stage.terms(),
            (KeyRequest(PURPOSE),),
            entropy=lambda count: self.client_nonce[:count],
        )

    def challenge(self) -> bytes:
        told = post(self.port, CHALLENGE_PATH, self.exchange.challenge_request())
        if not told.granted:
            raise RefusedError(told)
        return told.body

    def request(self, challenge: bytes | None = None) -> bytes:
        """The body of ``POST /v1/keys``."""
        challenge = self.challenge() if challenge is None else challenge
        data = self.exchange.check_challenge(challenge, now=self.now())
        workload = self.workload or self.stage.td
        return self.exchange.keys_request(workload.evidence(data))

    def open(self, body: bytes) -> bytes:
        """The key; every check of the guest is made."""
        return self.exchange.open_response(body, now=self.now()).get(PURPOSE).reveal()

    @staticmethod
    def entry_id(body: bytes) -> bytes:
        return decode_json(body, KeysResponse).parsed().entry_id
