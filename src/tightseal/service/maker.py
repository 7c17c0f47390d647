# SPDX-License-Identifier: Apache-2.0
"""From a policy in force to the provider that decides by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from tightseal.audit.journal import SqliteJournal
from tightseal.evidence.agreement import Disagreement
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.collateral import CollateralSource
from tightseal.model.labels import Label
from tightseal.model.ports import KeyRoots, RootPlatform, Verifier
from tightseal.model.provider import ProviderIdentity
from tightseal.model.roots import TrustedRoots
from tightseal.model.secret import Secret
from tightseal.platform.attested import AttestedKeys
from tightseal.recovery.desk import HandoffDesk
from tightseal.release import Provider
from tightseal.release.answers import Answers
from tightseal.release.handoffs import Handoffs
from tightseal.release.leases import Leases
from tightseal.release.memory import Memory
from tightseal.release.policy import InForce
from tightseal.service.current import Built
from tightseal.service.guarding import WatchedGuard
from tightseal.service.metricinfo import UNEXPLAINED
from tightseal.service.metrics import Metrics
from tightseal.service.roots import OwnRoots
from tightseal.service.sources import Staple
from tightseal.service.state import own_secret
from tightseal.state.nonces import NonceMint

__all__ = ["ProviderMaker"]

log = structlog.get_logger("tightseal.compose")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderMaker:
    """Everything that stays the same whatever policy comes into force."""

    platform: RootPlatform
    own: OwnRoots
    roots: TrustedRoots
    source: CollateralSource
    guard: WatchedGuard
    result_cache: ResultCache
    seed: Secret
    journal: SqliteJournal
    memory: Memory | None
    signed_time: Callable[[], int]
    metrics: Metrics
    tls_key_hash: bytes | None = None
    leases: Leases
    answers: Answers

    def __call__(self, in_force: InForce, before: Built | None) -> Built:
        """The provider of a policy; parts that would be the same are taken over.

        Raises:
            KeyReleaseError: ``keyring_mismatch``, where the keyring asks for a newer
                policy.
        """
        if self.own.keeper is not None:
            self.own.keeper.check_policy(in_force.version)
        if before is not None and before.serves(in_force):
            verifier, attested = before.verifier, before.attested
        else:
            verifier = self._verifier(in_force)
            attested = self._attested(in_force, verifier)
        mint = self._mint(in_force)
        provider = Provider(
            in_force=in_force,
            verifier=verifier,
            platform=self.platform,
            roots=self.own.key_roots,
            attested=attested,
            mint=mint,
            recorder=self.journal,
            memory=self.memory,
            signed_time=self.signed_time,
            staple=Staple(attested, self.source),
            stage=self.metrics.stage,
            leases=self.leases,
            answers=self.answers,
        )
        if in_force.version is not None:
            log.info(
                "policy_in_force",
                version=in_force.version,
                digest=(in_force.digest or b"").hex(),
                settings_digest=in_force.settings_digest.hex(),
                expires_at=in_force.expires_at,
            )
        desk = self._desk(in_force, verifier, attested, mint)
        return Built(in_force, provider, verifier, attested, desk)

    def _desk(
        self,
        in_force: InForce,
        verifier: Verifier,
        attested: AttestedKeys,
        mint: NonceMint,
    ) -> HandoffDesk | None:
        keeper, memory = self.own.keeper, self.memory
        if keeper is None or memory is None:
            return None
        return HandoffDesk(
            in_force=in_force,
            verifier=verifier,
            attested=attested,
            mint=mint,
            recorder=self.journal,
            keeper=keeper,
            handoffs=Handoffs(memory.store),
            answers=self.answers,
        )

    def _verifier(self, in_force: InForce) -> EvidenceVerifier:
        return EvidenceVerifier(
            roots=self.roots,
            source=self.source,
            cache=self.result_cache,
            mode=in_force.settings.verifier,
            exceptions=frozenset(in_force.settings.verifier_exceptions),
            guard=self.guard,
            on_disagreement=partial(_disagreed, self.metrics),
        )

    def _attested(self, in_force: InForce, verifier: EvidenceVerifier) -> AttestedKeys:
        return AttestedKeys(
            platform=self.platform,
            verifier=verifier,
            identity=partial(_identity, in_force, self.own.key_roots),
            seed=self.seed,
            life=in_force.settings.attested_key_life,
            grace=in_force.settings.nonce_life,
            tls_key_hash=self.tls_key_hash,
        )

    def _mint(self, in_force: InForce) -> NonceMint:
        return NonceMint(
            own_secret(self.seed, Label.KDF_NONCE_MAC),
            life=in_force.settings.nonce_life,
        )


def _identity(
    in_force: InForce, roots: KeyRoots, tee: str, measurement: bytes
) -> ProviderIdentity:
    return ProviderIdentity(
        tee=tee,
        measurement=measurement,
        keyring_id=roots.keyring_id,
        policy_root=in_force.policy_root,
        settings_digest=in_force.settings_digest,
    )


def _disagreed(metrics: Metrics, found: Disagreement) -> None:
    metrics.disagreement(found.rule or UNEXPLAINED)
    log.warning(
        "verifiers_disagree",
        conflict=found.conflict,
        rule=found.rule,
        native=found.native,
        qvl=found.qvl,
        evidence_hash=found.evidence_hash.hex(),
    )
