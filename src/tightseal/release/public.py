# SPDX-License-Identifier: Apache-2.0
"""The public half of a published key: for anybody, without evidence."""

from __future__ import annotations

import hashlib

from tightseal.errors import Code, ServiceError
from tightseal.model.grant import Grant
from tightseal.model.keypath import KeyPart, KeyPath, KeyRequest
from tightseal.model.ports import KeyRoots
from tightseal.model.public_key import PublicKeyBody, PublicKeyQuestion
from tightseal.model.wire import ParsedPublicKey
from tightseal.platform.attested import AttestedKey
from tightseal.policy.circumstances import Circumstances
from tightseal.policy.published import grant_published
from tightseal.release.actions import adopted_source, apply_source
from tightseal.release.derive import release_one
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
            not there is one; else as of ``grant_published``; ``adoption_missing``;
            ``key_missing``, where a wrapped pair was not created yet.
        ServiceError: ``policy_expired``, where settings say so; the state store failed.
    """
    in_force.require_deciding(now=now)
    path, public = _public_half(
        question, roots=roots, key=key, in_force=in_force, memory=memory, now=now
    )
    body = PublicKeyBody(
        binding=key.binding,
        question=question,
        key_type=path.key_type,
        generation=path.generation,
        public_key=public,
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


def _public_half(
    question: PublicKeyQuestion,
    *,
    roots: KeyRoots,
    key: AttestedKey,
    in_force: InForce,
    memory: Memory | None,
    now: int,
) -> tuple[KeyPath, bytes]:
    """The path of the workload's own key, and the public half that comes of it."""
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
    (use,) = grant.wrapped
    path = _adopted(grant, memory, now=now)
    path, public = release_one(
        path,
        use,
        KeyRequest(path.purpose, path.label, path.length, KeyPart.PUBLIC),
        roots=roots,
        memory=memory,
        now=now,
        rewrap=False,  # Nobody proved anything: a stranger makes us write nothing.
    )
    return path, public.reveal()


def _adopted(grant: Grant, memory: Memory | None, *, now: int) -> KeyPath:
    (path,), (adopted,) = grant.paths, grant.adopted
    if adopted is None:
        return path
    if memory is None:
        raise ServiceError(Code.INTERNAL, "an adopted key without a state store")
    return apply_source(path, adopted_source(memory.store, adopted, now=now))
