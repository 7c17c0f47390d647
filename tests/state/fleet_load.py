# SPDX-License-Identifier: Apache-2.0
"""Workloads that ask a fleet for keys as behind a balancer, and keep what they saw.

The balancer asks readiness and nothing else. A workload takes a node that was ready;
where nobody answers there, it asks another one, once.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import httpx

from handoff_scene import Site, keyring_id
from tightseal.errors import TightsealError
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.guest.client import Client
from tightseal.guest.collateral import judge_with, online
from tightseal.guest.exchange import Terms
from tightseal.guest.http import Bounds, RefusedError
from tightseal.guest.pins import ProviderPin, RootedIdentity
from tightseal.model.exchange import Kem
from tightseal.model.keypath import KeyRequest
from tightseal_sim.scene import Provider

TENANT = "acme"
ASKED = ("disk", "disk", "counted")
BALANCER_SECONDS = 0.1
PAUSE_SECONDS = 0.1
TRIES = 2
END_SECONDS = 60.0


class CountedSite(Site):
    """A site whose workloads have one purpose more: it is released so many times."""

    total = 30

    def _workload(self, tenant: str) -> list[str]:
        return [
            *super()._workload(tenant),
            '[[workload.key]]\npurpose = "counted"\n[workload.key.usage]',
            f'total = {self.total}\nwithout_anchor = "accept"\n',
        ]


@dataclass(frozen=True)
class Answered:
    """One release as its workload saw it."""

    purpose: str
    key: str
    entry_id: str
    node: str
    tries: int


@dataclass
class FleetLoad:
    """Some workloads over the nodes of a fleet, which may be exchanged meanwhile."""

    site: Site
    nodes: Mapping[str, Provider]
    many: int = 2
    answered: list[Answered] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    _ready: frozenset[str] = frozenset()
    _over: threading.Event = field(default_factory=threading.Event)
    _keyring: bytes = b""

    @contextmanager
    def running(self) -> Iterator["FleetLoad"]:
        """Ask until the block ends; then everybody's last answer has come."""
        self._keyring = keyring_id(next(iter(self.nodes.values())))
        threads = [threading.Thread(target=self._balance)]
        threads += [
            threading.Thread(target=self._ask, args=(n,)) for n in range(self.many)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join(END_SECONDS)
        assert not any(thread.is_alive() for thread in threads)

    def wait_for(self, more: int, *, node: str | None = None) -> None:
        """Until so many more releases were answered, by a node where one is named."""

        def count() -> int:
            return sum(node in {None, one.node} for one in list(self.answered))

        wanted = count() + more
        self._wait(lambda: count() >= wanted)

    def wait_ready(self, *names: str) -> None:
        """Until the balancer sends to exactly these."""
        self._wait(lambda: self._ready == set(names))

    def _wait(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + END_SECONDS
        while not done():
            assert time.monotonic() < until, (self.failed, self.refused, self._ready)
            time.sleep(0.02)

    def _balance(self) -> None:
        with httpx.Client(trust_env=False, timeout=5) as http:
            while not self._over.wait(BALANCER_SECONDS):
                ready = set()
                for name, node in list(self.nodes.items()):
                    with suppress(httpx.HTTPError):
                        if http.get(f"{node.url}/readyz").is_success:
                            ready.add(name)
                self._ready = frozenset(ready)

    def _ask(self, number: int) -> None:
        chance, turn = random.Random(number), number
        clients: dict[str, Client] = {}
        try:
            while not self._over.wait(PAUSE_SECONDS):
                turn += 1
                names = sorted(self._ready)
                # A node may have come since.
                for name in names:
                    if name not in clients:
                        clients[name] = self._client(self.nodes[name])
                if names:
                    chance.shuffle(names)
                    self._release(clients, ASKED[turn % len(ASKED)], names)
        finally:
            for client in clients.values():
                client.close()

    def _release(
        self, clients: Mapping[str, Client], purpose: str, names: list[str]
    ) -> None:
        faults = []
        for tries, name in enumerate(names[:TRIES], start=1):
            try:
                keys = clients[name].keys(KeyRequest(purpose))
            except RefusedError as e:
                self.refused[str(e.refusal)] += 1
                return
            except TightsealError as e:
                faults.append(f"{name}: {e.code.value}: {e.detail}")
            else:
                self.retried += faults
                self.answered.append(
                    Answered(
                        purpose=purpose,
                        key=keys.get(purpose).reveal().hex(),
                        entry_id=keys.receipt.entry_id.hex(),
                        node=name,
                        tries=tries,
                    )
                )
                return
        self.failed += faults

    def _client(self, node: Provider) -> Client:
        scene = self.site.scene
        roots = with_simulated(VENDOR_ROOTS, scene.world.intel.root_certificate)
        terms = Terms(
            pin=self._pin(node),
            collateral=online(pccs=[scene.pccs_url], judge=judge_with(roots=roots)),
            kem=Kem.X25519,
        )
        td = self.site.td(TENANT)
        return Client(node.url, source=td, terms=terms, bounds=Bounds(attempts=1))

    def _pin(self, node: Provider) -> ProviderPin:
        """Its own image, and the one keyring."""
        identity = node.pin.identity
        assert isinstance(identity, RootedIdentity)
        known = replace(identity, keyring_id=self._keyring)
        return replace(node.pin, identity=known)
