# SPDX-License-Identifier: Apache-2.0
"""A provider under a policy root in this process: approvers, state, journal, guests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from release_rig import (
    DISK,
    NOW,
    log_key,
    provider_enclave,
    root_texts,
    verifier_of,
)

from tightseal.audit.journal import SqliteJournal
from tightseal.guest.challenge import ProviderCollateral
from tightseal.guest.exchange import Exchange, Terms
from tightseal.guest.pins import ProviderPin, RootedIdentity
from tightseal.guest.response import ReleasedKeys
from tightseal.model.exchange import Kem
from tightseal.model.keypath import IdentityKind, KeyRequest
from tightseal.model.ports import EvidenceSource, KeyRoots, RootPlatform
from tightseal.model.provider import ProviderIdentity, sidecar_keyring_id
from tightseal.model.secret import Secret
from tightseal.model.settings import ReleaseSettings
from tightseal.model.state import StateStore
from tightseal.model.wire import ChallengeRequest, decode_json, encode_json
from tightseal.platform.attested import AttestedKeys
from tightseal.policy.document import WorkloadRules
from tightseal.policy.read import parse
from tightseal.policy.start import from_claims, render
from tightseal.release import Provider
from tightseal.release.keyring import KeyringKeeper
from tightseal.release.leases import Leases
from tightseal.release.memory import Memory
from tightseal.release.policy import InForce, PolicyKeeper
from tightseal.release.roots import PlatformRoots
from tightseal.release.slots import SlotWays
from tightseal.state.nonces import NonceMint
from tightseal.state.seal import Sealer
from tightseal.state.sqlite import SqliteEngine
from tightseal.state.store import SealedStore
from tightseal_sim.approvers import Approvers
from tightseal_sim.intel.td import SimTd
from tightseal_sim.world import World

SEED = b"\x07" * 32


def workload_of(world: World, *tds: SimTd, **rules: Any) -> WorkloadRules:
    """A named workload whose images are these TDs, labelled ``image-0`` and so on.

    ``key`` and other members of the document take the place of what evidence gives.
    """
    verify = verifier_of(world)
    images = []
    for number, td in enumerate(tds):
        text = from_claims(
            verify(td.evidence(bytes(64)), now=NOW),
            tenant="acme",
            name="database",
            identity=IdentityKind.NAMED,
            label=f"image-{number}",
            purpose="disk",
        )
        made = parse(text).document.workload[0]
        images.append(made.image[0])
    changed = msgspec.to_builtins(made) | rules
    base = msgspec.convert(changed, WorkloadRules)
    return msgspec.structs.replace(base, image=tuple(images))


def document_of(world: World, *tds: SimTd, **rules: Any) -> str:
    """The document of :func:`workload_of`."""
    return render((workload_of(world, *tds, **rules),))


@dataclass
class Rooted:
    """One provider over a store and a journal; made anew as often as a test likes."""

    world: World
    approvers: Approvers
    journal: SqliteJournal
    store: StateStore
    platform: RootPlatform
    now: int = NOW
    roots: KeyRoots | None = None
    slots: Callable[[], SlotWays] | None = None
    leases: Leases | None = None
    measured: ReleaseSettings = field(init=False)
    keeper: PolicyKeeper = field(init=False)

    def __post_init__(self) -> None:
        self.measured = ReleaseSettings(
            simulated_roots=root_texts(self.world),
            policy_root=self.approvers.policy_root.hex(),
        )
        self.restart()

    def restart(self) -> None:
        """Forget everything that only this process knows."""
        self.keeper = PolicyKeeper(self.measured, store=self.store)
        self.keeper.look(now=self.now)

    def publish(self, *documents: str, **how: Any) -> InForce:
        """Let the approvers sign these documents, and take the bundle."""
        named = {f"d{i}": text for i, text in enumerate(documents)}
        bundle = self.approvers.bundle(named, **{"now": self.now, **how})
        return self.keeper.offer(bundle, now=self.now)

    @property
    def provider(self) -> Provider:
        """The provider of the policy in force."""
        in_force = self.keeper.current()
        verifier = verifier_of(self.world)

        def identity(tee: str, measurement: bytes) -> ProviderIdentity:
            return ProviderIdentity(
                tee=tee,
                measurement=measurement,
                keyring_id=self.keyring_id,
                policy_root=in_force.policy_root,
                settings_digest=in_force.settings_digest,
            )

        settings = in_force.settings
        return Provider(
            in_force=in_force,
            verifier=verifier,
            platform=self.platform,
            roots=self.roots or PlatformRoots(self.platform),
            attested=AttestedKeys(
                platform=self.platform,
                verifier=verifier,
                identity=identity,
                seed=Secret(SEED),
                life=settings.attested_key_life,
                grace=settings.nonce_life,
            ),
            mint=NonceMint(Secret(SEED[::-1] + b"mac"), life=settings.nonce_life),
            recorder=self.journal,
            memory=Memory(self.store, self._keyring, self.slots),
            signed_time=lambda: in_force.issued_at,
            leases=self.leases,
        )

    @property
    def keyring_id(self) -> bytes:
        """Of the roots in use."""
        return self.roots.keyring_id if self.roots else sidecar_keyring_id()

    @property
    def _keyring(self) -> KeyringKeeper | None:
        return self.roots if isinstance(self.roots, KeyringKeeper) else None

    def pin(self) -> ProviderPin:
        """What a guest pins: the policy root, and any settings signed under it."""
        tee, measurement = self.platform.own_measurement()
        domain = str(self.world.intel.trusted_root.trust_domain)
        return ProviderPin(
            identity=RootedIdentity(
                tee=tee,
                measurement=measurement,
                keyring_id=self.keyring_id,
                policy_root=self.approvers.policy_root,
            ),
            trust_domains=frozenset({domain}),
            allow_simulated=True,
        )

    def question(
        self,
        source: EvidenceSource,
        keys: tuple[KeyRequest, ...] = DISK,
        *,
        event_log: bytes | None = None,
    ) -> tuple[Exchange, bytes]:
        """A guest's exchange up to its second request."""
        terms = Terms(
            pin=self.pin(),
            collateral=ProviderCollateral.behind(verifier_of(self.world)),
            kem=Kem.X25519,
        )
        exchange = Exchange(terms, keys, event_log=event_log)
        asked = decode_json(exchange.challenge_request(), ChallengeRequest)
        challenge = encode_json(self.provider.challenge(asked, now=self.now))
        data = exchange.check_challenge(challenge, now=self.now)
        return exchange, exchange.keys_request(source.evidence(data))

    def ask(
        self,
        source: EvidenceSource,
        *keys: KeyRequest,
        event_log: bytes | None = None,
    ) -> ReleasedKeys:
        """The whole exchange."""
        exchange, body = self.question(source, keys or DISK, event_log=event_log)
        answer = self.provider.keys(body, now=self.now)
        return exchange.open_response(answer, now=self.now)

    def key(self, source: EvidenceSource, purpose: str = "disk") -> bytes:
        """One key."""
        return self.ask(source, KeyRequest(purpose)).get(purpose).reveal()


@contextmanager
def rooted(
    world: World, folder: Path, *, approvers: Approvers | None = None
) -> Iterator[Rooted]:
    """A provider whose state lies in ``folder``."""
    journal = SqliteJournal.open_or_create(folder / "journal.sqlite", log_key=log_key)
    engine = SqliteEngine(folder / "state.sqlite")
    sealer = Sealer(Secret(b"\x55" * 32), trust_domain="simulated")
    make = SealedStore.new if engine.schema() == 0 else SealedStore.attach
    store = make(engine, sealer)
    try:
        yield Rooted(
            world=world,
            approvers=approvers or Approvers(now=NOW),
            journal=journal,
            store=store,
            platform=provider_enclave(world),
        )
    finally:
        store.close()
        journal.close()
