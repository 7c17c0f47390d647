# SPDX-License-Identifier: Apache-2.0
"""Two real providers over one PostgreSQL: one policy, one count, through failures."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec
import pytest
from store_postgres import Server

from tightseal.errors import Code, TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.keypath import IdentityKind, KeyRequest
from tightseal.policy.document import KeyRules, UsageRules
from tightseal.policy.read import parse
from tightseal.policy.start import from_claims, render
from tightseal_sim.approvers import Approvers
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene
from tightseal_sim.sources import WorldSource

MACHINE = "machine-a"
LIMIT = 40
WORKERS = 4
SECONDS = 60.0
NAMES = ("one", "two")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path / "scene") as made:
        yield made


def document(stage: Scene, td: SimTd, total: int) -> str:
    verify = EvidenceVerifier(
        roots=with_simulated(VENDOR_ROOTS, stage.world.intel.root_certificate),
        source=WorldSource(stage.world),
        cache=ResultCache(64),
    )
    text = from_claims(
        verify(td.evidence(bytes(64)), now=int(time.time())),
        tenant="acme",
        name="database",
        identity=IdentityKind.NAMED,
        label="2026-10",
        purpose="disk",
    )
    usage = msgspec.convert({"total": total, "without_anchor": "accept"}, UsageRules)
    rules = parse(text).document.workload[0]
    key = KeyRules(purpose="disk", usage=usage)
    return render((msgspec.structs.replace(rules, key=(key,)),))


@dataclass
class Fleet:
    """Two providers on one machine over one database, started as often as it takes."""

    stage: Scene
    address: str
    approvers: Approvers = field(default_factory=Approvers)
    providers: dict[str, Provider] = field(default_factory=dict)

    def start(self, name: str, bundle: bytes | None = None) -> Provider:
        self.providers[name] = self.stage.provider(
            name,
            machine=MACHINE,
            policy_root=self.approvers.policy_root,
            bundle=bundle,
            host={"state": {"engine": "postgres", "url": self.address}},
        )
        return self.providers[name]

    def kill(self, name: str) -> None:
        self.providers[name].process.kill()
        self.providers[name].process.wait(10)


@dataclass
class Load:
    """Workloads that ask until the limit is told."""

    fleet: Fleet
    td: SimTd
    keys: list[bytes] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    faults: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def ask(self, number: int) -> None:
        turn = number
        until = time.monotonic() + SECONDS
        while not self.over.is_set() and time.monotonic() < until:
            turn += 1
            provider = self.fleet.providers[NAMES[turn % 2]]
            try:
                with self.fleet.stage.client(provider, self.td) as client:
                    key = client.keys(KeyRequest("disk")).get("disk").reveal()
            except TightsealError as error:
                code = str(getattr(error, "refusal", None) or error.code)
                if code == Code.USAGE_LIMIT_REACHED.value:
                    self.refused.append(code)
                    return
                self.faults += 1
                time.sleep(0.05)
            else:
                self.keys.append(key)


def test_a_limit_holds_over_two_providers_that_die_and_a_database_that_restarts(
    stage: Scene, own_postgres: Server
) -> None:
    td = stage.world.intel.platform(MACHINE).launch_td(TdImage())
    fleet = Fleet(stage, own_postgres.new_address())
    bundle = fleet.approvers.bundle({"d": document(stage, td, LIMIT)})
    fleet.start("one", bundle)
    fleet.start("two", bundle)
    load = Load(fleet, td)
    threads = [threading.Thread(target=load.ask, args=(n,)) for n in range(WORKERS)]
    for thread in threads:
        thread.start()
    try:
        wait_for(load, LIMIT // 5)
        fleet.kill("one")
        wait_for(load, 2 * LIMIT // 5)
        fleet.start("one")
        own_postgres.stop("immediate")
        own_postgres.start()
        wait_for(load, 3 * LIMIT // 5)
        fleet.kill("two")
        fleet.start("two")
        for thread in threads:
            thread.join(SECONDS)
    finally:
        load.over.set()
    assert len(load.refused) == WORKERS, "every workload was told of the limit"
    assert len(set(load.keys)) == 1
    # What was counted and did not reach its workload went down with a provider.
    assert LIMIT - load.faults <= len(load.keys) <= LIMIT
    assert load.faults > 0


def wait_for(load: Load, keys: int) -> None:
    until = time.monotonic() + SECONDS
    while len(load.keys) < keys and time.monotonic() < until:
        time.sleep(0.02)
    assert len(load.keys) >= keys


def test_what_one_provider_accepted_decides_at_the_other(
    stage: Scene, own_postgres: Server
) -> None:
    td = stage.world.intel.platform(MACHINE).launch_td(TdImage())
    fleet = Fleet(stage, own_postgres.new_address())
    older = fleet.approvers.bundle({"d": document(stage, td, 1)})
    one, two = fleet.start("one", older), fleet.start("two")
    newer = fleet.approvers.bundle({"d": document(stage, td, 1000)})
    assert one.publish(newer).json()["policy_version"] == 2
    until = time.monotonic() + 10
    version = 0
    while version != 2 and time.monotonic() < until:
        with suppress(httpx.HTTPError):
            told = httpx.get(f"{two.url}/v1/info", trust_env=False).json()
            version = (told.get("policy") or {}).get("version", 0)
        time.sleep(0.05)
    assert version == 2
    answer = two.publish(older)
    assert (answer.status_code, answer.json()["code"]) == (409, "bundle_rolled_back")
    fleet.kill("two")
    # The older bundle in its file is refused again; the newer one comes from the store.
    two = fleet.start("two", older)
    told = httpx.get(f"{two.url}/v1/info", trust_env=False).json()
    assert told["policy"]["version"] == 2
    assert told["anchor"] == "none"
    notes = httpx.get(f"{two.url}/readyz", trust_env=False).json()["notes"]
    assert {"bundle_refused", "state_unanchored"} <= {note["name"] for note in notes}
