# SPDX-License-Identifier: Apache-2.0
"""A provider in this process on a simulated world, with every part within reach."""

import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from nacl.public import PrivateKey

from tightseal.audit.journal import SqliteJournal
from tightseal.envelope.sealed_box import open_legacy
from tightseal.errors import TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.guest.challenge import ProviderCollateral
from tightseal.guest.exchange import Exchange, Terms
from tightseal.guest.pins import ProviderPin
from tightseal.model.exchange import Kem
from tightseal.model.keypath import KeyRequest
from tightseal.model.ports import EvidenceSource, RootPlatform, Verifier
from tightseal.model.provider import ProviderIdentity, sidecar_keyring_id
from tightseal.model.secret import Secret
from tightseal.model.settings import ReleaseSettings
from tightseal.model.wire import ChallengeRequest, decode_json, encode_json
from tightseal.platform.attested import AttestedKeys
from tightseal.release import InForce, Provider
from tightseal.release.roots import PlatformRoots
from tightseal.state.nonces import NonceMint
from tightseal_sim.door import PROVIDER_ENCLAVE
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.sources import WorldSource
from tightseal_sim.world import World

NOW = 1_790_000_000
DISK = (KeyRequest("disk"),)


class Wrapped:
    """A platform some parts of which the host plays itself."""

    def __init__(self, inner: RootPlatform, **parts: Any) -> None:
        self._inner = inner
        self._parts = parts

    @property
    def name(self) -> str:
        return str(self._parts.get("name", self._inner.name))

    def evidence(self, report_data: bytes) -> bytes:
        made: Callable[[bytes], bytes] = self._parts.get(
            "evidence", self._inner.evidence
        )
        return made(report_data)

    def own_measurement(self) -> tuple[str, bytes]:
        return self._inner.own_measurement()

    def sealing_key(self) -> Secret:
        made: Callable[[], Secret] = self._parts.get(
            "sealing_key", self._inner.sealing_key
        )
        return made()


def verifier_of(*worlds: World) -> Verifier:
    """Accepts evidence of these worlds; collateral of the first that has it."""
    roots = VENDOR_ROOTS
    for world in worlds:
        roots = with_simulated(roots, world.intel.root_certificate)
    return EvidenceVerifier(
        roots=roots, source=WorldSource(worlds[0]), cache=ResultCache(512)
    )


def refusal(error: type[TightsealError], attempt: Any) -> TightsealError:
    with pytest.raises(error) as refused:
        attempt()
    return refused.value


def log_key(log_id: bytes) -> bytes:
    """The provider's log key, as its own secrets would give it."""
    return hashlib.sha256(b"of the provider" + log_id).digest()


def root_texts(*worlds: World) -> tuple[str, ...]:
    return tuple(
        base64.b64encode(world.intel.root_certificate).decode() for world in worlds
    )


def provider_enclave(world: World, machine: str = "one") -> RootPlatform:
    return world.intel.platform(machine).load_enclave(
        EnclaveImage(name=PROVIDER_ENCLAVE)
    )


@dataclass
class Rig:
    """One provider, its journal, and a guest's way through the exchange."""

    world: World
    journal: SqliteJournal
    settings: ReleaseSettings
    platform: RootPlatform
    seed: bytes = b"\x07" * 32
    verifier: Verifier | None = None
    attested: AttestedKeys = field(init=False)
    provider: Provider = field(init=False)

    def __post_init__(self) -> None:
        verifier = self.verifier or verifier_of(self.world)
        self.attested = AttestedKeys(
            platform=self.platform,
            verifier=verifier,
            identity=self.identity,
            seed=Secret(self.seed),
            life=self.settings.attested_key_life,
            grace=self.settings.nonce_life,
        )
        self.provider = Provider(
            in_force=InForce.builtin(self.settings),
            verifier=verifier,
            platform=self.platform,
            roots=PlatformRoots(self.platform),
            attested=self.attested,
            mint=NonceMint(
                Secret(self.seed[::-1] + b"mac"), life=self.settings.nonce_life
            ),
            recorder=self.journal,
        )

    def identity(self, tee: str, measurement: bytes) -> ProviderIdentity:
        return ProviderIdentity(
            tee=tee,
            measurement=measurement,
            keyring_id=sidecar_keyring_id(),
            policy_root=None,
            settings_digest=self.settings.digest(),
        )

    def pin(self) -> ProviderPin:
        domain = str(self.world.intel.trusted_root.trust_domain)
        return ProviderPin(
            identity=self.identity(*self.platform.own_measurement()),
            trust_domains=frozenset({domain}),
            allow_simulated=True,
        )

    def exchange(self, keys: tuple[KeyRequest, ...] = DISK) -> Exchange:
        terms = Terms(
            pin=self.pin(),
            collateral=ProviderCollateral.behind(verifier_of(self.world)),
            kem=Kem.X25519,
        )
        return Exchange(terms, keys)

    def challenge(self, exchange: Exchange, now: int = NOW) -> bytes:
        asked = decode_json(exchange.challenge_request(), ChallengeRequest)
        return encode_json(self.provider.challenge(asked, now=now))

    def question(
        self,
        source: EvidenceSource,
        keys: tuple[KeyRequest, ...] = DISK,
        now: int = NOW,
    ) -> tuple[Exchange, bytes]:
        """A guest's exchange up to its second request."""
        exchange = self.exchange(keys)
        data = exchange.check_challenge(self.challenge(exchange, now), now=now)
        return exchange, exchange.keys_request(source.evidence(data))

    def key(self, source: EvidenceSource, now: int = NOW) -> bytes:
        exchange, body = self.question(source, now=now)
        answer = self.provider.keys(body, now=now)
        return exchange.open_response(answer, now=now).get("disk").reveal()

    def legacy_key(self, source: EvidenceSource, now: int = NOW) -> bytes:
        recipient = PrivateKey.generate()
        data = bytes(recipient.public_key).ljust(64, b"\0")
        answer = self.provider.legacy(source.evidence(data), now=now)
        private = Secret(bytes(recipient))
        return open_legacy(answer.encrypted_key, private_key=private).reveal()


@contextmanager
def rig(
    world: World,
    folder: Path,
    *,
    platform: RootPlatform | None = None,
    verifier: Verifier | None = None,
    seed: bytes = b"\x07" * 32,
    **release: Any,
) -> Iterator[Rig]:
    """A provider with a journal in ``folder``, opened again where there is one."""
    release.setdefault("simulated_roots", root_texts(world))
    journal = SqliteJournal.open_or_create(folder / "journal.sqlite", log_key=log_key)
    try:
        yield Rig(
            world=world,
            journal=journal,
            settings=ReleaseSettings(**release),
            platform=platform or provider_enclave(world),
            seed=seed,
            verifier=verifier,
        )
    finally:
        journal.close()
