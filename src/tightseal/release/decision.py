# SPDX-License-Identifier: Apache-2.0
"""The second step: claims to a grant, by the policy in force and what it remembers.

    policy decides -> inputs of uses and imports are judged
                   -> limits by the minute are taken from
                   -> adopted and wrapped keys are found -> usage is counted
                   -> wrapped keys that are asked for are created -> grant

A denial is in the journal before anybody learns of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tightseal.errors import Code, PolicyError, ServiceError
from tightseal.model.claims import Claims
from tightseal.model.grant import Grant
from tightseal.model.keypath import KeyRequest, ProtocolClass
from tightseal.model.ports import KeyRoots, NonceRedemption, Recorder
from tightseal.model.secret import Secret
from tightseal.platform.attested import AttestedKey
from tightseal.policy.circumstances import Circumstances
from tightseal.policy.engine import decide, explain
from tightseal.policy.eventlog import EventFacts
from tightseal.release.actions import adopted_source, apply_source
from tightseal.release.answers import require_log_anchor
from tightseal.release.imports import Imports
from tightseal.release.journal import (
    ENTRY_ID_BYTES,
    Decision,
    keep_denial,
    uses_of,
)
from tightseal.release.leases import Leases
from tightseal.release.limits import denial_limits, release_limits
from tightseal.release.memory import Memory
from tightseal.release.policy import InForce
from tightseal.release.use import require_inputs
from tightseal.release.wrapped import WrappedKeys, wrapped_of

__all__ = ["Asked", "Decider"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for, and how.

    Attributes:
        keys: the key requests, in order.
        protocol_class: the way in.
        tag: SHA-256 of the request, by which a retry is counted once; means nothing
            without a nonce.
        redemption: of the nonce; ``None`` where the protocol has none.
        event_log_hash: SHA-256 of the event log sent along, or ``None``.
        imports: existing keys that are handed over; ``None`` where there are none.
    """

    keys: tuple[KeyRequest, ...]
    protocol_class: ProtocolClass
    tag: bytes
    redemption: NonceRedemption | None = None
    event_log_hash: bytes | None = None
    imports: Imports | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decider:
    """Decides by one policy.

    Attributes:
        in_force: the policy.
        memory: what it counts and finds; ``None`` for the built-in policy.
        recorder: the journal, for denials.
        signed_time: the newest time that others have signed, Unix seconds.
        roots: what keys are derived from.
        entropy: random bytes.
        leases: what this node may still release by the limits of the settings.
    """

    in_force: InForce
    memory: Memory | None
    recorder: Recorder
    signed_time: Callable[[], int]
    roots: KeyRoots
    entropy: Callable[[int], bytes]
    leases: Leases

    def decide(
        self,
        claims: Claims,
        events: EventFacts | None,
        *,
        asked: Asked,
        key: AttestedKey,
        now: int,
    ) -> Grant:
        """Decide, count, and say along which paths the keys are derived.

        Args:
            claims: from verified evidence that answers this exchange.
            events: what the event log proves.
            asked: what is asked for.
            key: the attested key; its quote says where the provider stands.
            now: Unix seconds.

        Raises:
            PolicyError: denied; the denial is in the journal.
            ServiceError: ``policy_expired``, where settings say so; ``rate_limited``;
                journal or state failed.
        """
        self.in_force.require_deciding(now=now)
        limits = self.in_force.settings.limits
        # Taken before anybody decides: a denial is written down, which costs.
        reserved = self.leases.take(denial_limits(limits, claims), now=now)
        try:
            grant = self._by_policy(claims, events, asked=asked, key=key, now=now)
            audit_log = self.in_force.settings.audit_log
            require_log_anchor(audit_log.need(grant.log_class), self.memory)
            imported = _inputs(grant, asked)
            try:
                self.leases.take(release_limits(limits, claims, grant), now=now)
                return self._by_memory(grant, imported, claims, asked=asked, now=now)
            finally:
                for secret in imported:
                    if secret is not None:
                        secret.wipe()
        except PolicyError as denial:
            reserved = None
            said = Decision(
                claims,
                self.in_force,
                asked.protocol_class.value,
                asked.event_log_hash,
                uses_of(asked.keys),
            )
            entry_id = self.entropy(ENTRY_ID_BYTES)
            self.recorder.record(
                said.denied(denial, entry_id=entry_id, now=now),
                redemption=asked.redemption,
                response=keep_denial(denial),
            )
            raise
        finally:
            self.leases.give_back(reserved)

    def _by_policy(
        self,
        claims: Claims,
        events: EventFacts | None,
        *,
        asked: Asked,
        key: AttestedKey,
        now: int,
    ) -> Grant:
        in_force = self.in_force
        circumstances = Circumstances(
            authority=in_force.authority,
            provider_platform=key.platform,
            provider_domain=key.trust_domain,
            protocol_class=asked.protocol_class,
            legacy_derivation=in_force.settings.legacy.derivation,
            generations=self.roots.generations(),
            root_simulated=self.roots.simulated,
            signed_time=self.signed_time(),
        )
        try:
            return decide(
                claims,
                keys=asked.keys,
                policy=in_force.policy,
                circumstances=circumstances,
                now=now,
                events=events,
            )
        except PolicyError as denial:
            # The operator sees every rule, also those after the first no.
            denial.reasons = explain(
                claims,
                keys=asked.keys,
                policy=in_force.policy,
                circumstances=circumstances,
                now=now,
                events=events,
            ).reasons
            raise

    def _by_memory(
        self,
        grant: Grant,
        imported: tuple[Secret | None, ...],
        claims: Claims,
        *,
        asked: Asked,
        now: int,
    ) -> Grant:
        wrapped = wrapped_of(grant, imported)
        if not grant.usage and not any(grant.adopted) and not wrapped:
            return grant
        if self.memory is None:
            detail = "the policy counts, adopts or wraps, and there is no state store"
            raise ServiceError(Code.INTERNAL, detail)
        store = self.memory.store
        keys = WrappedKeys(store, self.roots, entropy=self.entropy)
        try:
            # Found first: what cannot be derived must not count as a release.
            paths = tuple(
                path
                if record is None
                else apply_source(path, adopted_source(store, record, now=now))
                for path, record in zip(grant.paths, grant.adopted, strict=True)
            )
            keys.require(wrapped, tag=asked.tag, now=now)
            # Without a nonce nothing tells a retry from a replay, so each one counts.
            tag = asked.tag if asked.redemption else None
            self.memory.usage.count(
                grant.usage, platform=claims.platform, tag=tag, now=now
            )
            keys.create(wrapped, tag=asked.tag, now=now)
        except PolicyError as denial:
            denial.reasons = (*grant.reasons, *denial.reasons)
            raise
        return replace(grant, paths=paths)


def _inputs(grant: Grant, asked: Asked) -> tuple[Secret | None, ...]:
    """Judge what the requests bring along; the keys that are handed over."""
    try:
        require_inputs(grant.paths, asked.keys)
        return () if asked.imports is None else asked.imports.opened(grant.paths)
    except PolicyError as denial:
        denial.reasons = (*grant.reasons, *denial.reasons)
        raise
