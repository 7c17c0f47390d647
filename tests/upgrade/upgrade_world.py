# SPDX-License-Identifier: Apache-2.0
"""Providers and their workload over a folder that another version may have made.

Only what every version has is used here: settings, ``prepare``, ``compose``, and a
guest's exchange. The clock is handed in, so that a folder does not get too old.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.guest.challenge import ProviderCollateral
from tightseal.guest.exchange import Exchange, Terms
from tightseal.guest.pins import ProviderPin, RootedIdentity
from tightseal.model.base64url import decode_base64url
from tightseal.model.exchange import Kem
from tightseal.model.keypath import KeyRequest
from tightseal.model.provider import ProviderIdentity, sidecar_keyring_id
from tightseal.model.secret import Secret
from tightseal.model.wire import ChallengeRequest, decode_json, encode_json
from tightseal.service.compose import compose, prepare
from tightseal.service.load import parse_settings
from tightseal.service.settings import Settings
from tightseal_sim.door import PROVIDER_ENCLAVE
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.pccs import pccs_app
from tightseal_sim.scene import LoopbackServer
from tightseal_sim.sources import WorldSource
from tightseal_sim.world import World

MACHINE = "machine-a"
KERNEL = b"kernel of the workload"
OTHER_KERNEL = b"kernel that no document names"
SIDECAR, SERVICE = "sidecar", "service"
SEED = Secret(b"\x07" * 32)
EXPECTED = "expected.json"
TEMPLATE = "settings.toml.in"
"""A provider's settings, with ``@FOLDER@``, ``@PCCS@`` and ``@STATE@`` in place of
each."""

STATE_SQL = "state.sql"
"""State that lay in PostgreSQL: what its tables were."""


@dataclass
class Running:
    """A provider that runs in this process, with its workload's way to it."""

    place: "Place"
    settings: Settings
    provider: Any
    """``CurrentProvider``: what the transports hand requests to."""

    now: int

    def td(self, kernel: bytes = KERNEL) -> SimTd:
        image = TdImage(kernel=kernel)
        return self.place.world.intel.platform(MACHINE).launch_td(image)

    def pin(self) -> ProviderPin:
        release = self.settings.release
        measurement = EnclaveImage(name=PROVIDER_ENCLAVE).mr_enclave
        identity: ProviderIdentity | RootedIdentity
        if release.policy_root:
            identity = RootedIdentity(
                tee="sgx",
                measurement=measurement,
                keyring_id=self.keyring_id(),
                policy_root=bytes.fromhex(release.policy_root),
            )
        else:
            identity = ProviderIdentity(
                tee="sgx",
                measurement=measurement,
                keyring_id=sidecar_keyring_id(),
                policy_root=None,
                settings_digest=release.digest(),
            )
        domain = str(self.place.world.intel.trusted_root.trust_domain)
        return ProviderPin(
            identity=identity,
            trust_domains=frozenset({domain}),
            allow_simulated=True,
        )

    def keyring_id(self) -> bytes:
        said = self.provider.info(now=self.now).identity.keyring_id
        return decode_base64url(said, field="keyring_id", max_bytes=32)

    def keys(self, *requests: KeyRequest, kernel: bytes = KERNEL) -> list[str]:
        """The whole exchange; the keys in hex, in the order of the requests."""
        roots = with_simulated(VENDOR_ROOTS, self.place.world.intel.root_certificate)
        verifier = EvidenceVerifier(
            roots=roots, source=WorldSource(self.place.world), cache=ResultCache(16)
        )
        terms = Terms(
            pin=self.pin(),
            collateral=ProviderCollateral.behind(verifier),
            kem=Kem.X25519,
        )
        exchange = Exchange(terms, requests)
        asked = decode_json(exchange.challenge_request(), ChallengeRequest)
        challenge = encode_json(self.provider.challenge(asked, now=self.now))
        data = exchange.check_challenge(challenge, now=self.now)
        body = exchange.keys_request(self.td(kernel).evidence(data))
        answer = self.provider.built().provider.keys(body, now=self.now)
        released = exchange.open_response(answer, now=self.now)
        return [
            released.get(one.purpose, one.label, generation=one.generation)
            .reveal()
            .hex()
            for one in requests
        ]


@dataclass
class Place:
    """A folder with a simulated world and the state of two providers."""

    folder: Path
    pccs: str = "http://127.0.0.1:9"
    """Where nobody answers, until ``serving_collateral``."""

    database: str | None = None
    """Address of the state, where it is no file."""

    @property
    def world(self) -> World:
        return World.open(self.folder / "world")

    @property
    def expected(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / EXPECTED).read_text())
        return found

    def state(self, name: str) -> Path:
        return self.folder / name / "state"

    def config(self, name: str) -> Path:
        """The settings that the older version was started with, at this address."""
        text = (self.folder / name / TEMPLATE).read_text()
        text = text.replace("@FOLDER@", str(self.folder)).replace("@PCCS@", self.pccs)
        text = text.replace("@STATE@", self.database or "")
        config = self.folder / name / "tightseal.toml"
        config.write_text(text)
        return config

    def settings(self, name: str) -> Settings:
        return parse_settings(self.config(name).read_text(), environment={})

    @contextmanager
    def serving_collateral(self, now: int) -> Iterator[None]:
        pccs = LoopbackServer(pccs_app(self.world.intel, now=lambda: now))
        pccs.start()
        self.pccs = pccs.url
        try:
            yield
        finally:
            pccs.stop()

    @contextmanager
    def running(
        self, name: str, *, now: int, offline: bool = False
    ) -> Iterator[Running]:
        """Start the provider of ``name`` here, as ``tightseal serve`` does."""
        with nullcontext() if offline else self.serving_collateral(now):
            settings = self.settings(name)
            # The version before the signed log has no clock to hand in here.
            handed = signature(prepare).parameters.keys() & {"host_clock"}
            prepare(settings, **dict.fromkeys(handed, lambda: now))
            composed = compose(settings, seed=SEED, host_clock=lambda: now)
            provider: Any = composed.front.provider
            try:
                # As the background does at once, for the policy that state holds.
                provider._keeper.look(now=now)
                yield Running(self, settings, provider, now)
            finally:
                composed.close()
