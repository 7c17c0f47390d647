# SPDX-License-Identifier: Apache-2.0
"""The public half of a published key: for anybody, without evidence."""

from __future__ import annotations

import hashlib

from tightseal.errors import Code, ServiceError
from tightseal.keys.chain import released_key
from tightseal.model.keypath import KeyPart, KeyPath
from tightseal.model.ports import KeyRoots
from tightseal.model.public_key import PublicKeyBody, PublicKeyQuestion
from tightseal.model.wire import ParsedPublicKey
from tightseal.platform.attested import AttestedKey
from tightseal.policy.circumstances import Circumstances
from tightseal.policy.published import grant_published
from tightseal.release.actions import adopted_source, apply_source
from tightseal.release.memory import Memory
from tightseal.release.policy import InForce

__all__ = ["answer_public_key"]


def answer_public_key(
    question: PublicKeyQuestion,
    *,
    roots: KeyRoots,
    key: AttestedKey,
    in_force: InForce,
    memory: Memory | None,
    now: int,
) -> ParsedPublicKey:
    """Sign the public half of a published key; without stapled collateral.

    Raises:
        PolicyError: ``purpose_not_allowed``, where no such key is published, whether or
            not there is one; else as of ``grant_published``; ``adoption_missing``.
        ServiceError: the state store failed.
    """
    path = _path(
        question, roots=roots, key=key, in_force=in_force, memory=memory, now=now
    )
    body = PublicKeyBody(
        binding=key.binding,
        question=question,
        key_type=path.key_type,
        generation=path.generation,
        public_key=_public_bytes(roots, path),
        trust_domain=path.trust_domain,
        issued_at=now,
        policy=in_force.said(),
        provider_evidence_hash=hashlib.sha256(key.evidence).digest(),
    )
    return ParsedPublicKey(
        body=body,
        signature=key.sign(body.to_sign()),
        provider_evidence=key.evidence,
        stapled=None,
        simulated=key.trust_domain.simulated,
    )


def _public_bytes(roots: KeyRoots, path: KeyPath) -> bytes:
    return released_key(roots.root(path.generation), path, KeyPart.PUBLIC).reveal()


def _path(
    question: PublicKeyQuestion,
    *,
    roots: KeyRoots,
    key: AttestedKey,
    in_force: InForce,
    memory: Memory | None,
    now: int,
) -> KeyPath:
    """The path of the workload's own key."""
    grant = grant_published(
        in_force.policy,
        tenant=question.tenant,
        workload=question.workload,
        purpose=question.purpose,
        label=question.label,
        circumstances=Circumstances(
            authority=in_force.authority,
            provider_platform=key.platform,
            provider_domain=key.trust_domain,
            generations=roots.generations(),
        ),
        now=now,
    )
    (path,), (adopted,) = grant.paths, grant.adopted
    if adopted is None:
        return path
    if memory is None:
        raise ServiceError(Code.INTERNAL, "an adopted key without a state store")
    return apply_source(path, adopted_source(memory.store, adopted, now=now))
