# SPDX-License-Identifier: Apache-2.0
"""A public half that the provider says to anybody: what its signature covers.

No evidence is asked for and nothing secret leaves. Policy says which purposes of which
named workloads are published.
"""

from __future__ import annotations

from dataclasses import dataclass

from tightseal.model.canonical import labelled
from tightseal.model.exchange import PROTOCOL_VERSION, PolicyInForce
from tightseal.model.keypath import KeyType
from tightseal.model.labels import Label
from tightseal.model.provider import AttestedKeyBinding

__all__ = ["PublicKeyBody", "PublicKeyQuestion"]


@dataclass(frozen=True, slots=True)
class PublicKeyQuestion:
    """Whose public half is asked for.

    Attributes:
        tenant, workload: names in the policy; printable ASCII, 1 to ``MAX_NAME_CHARS``.
        purpose: likewise.
        label: a sub-key; may be empty.
        client_nonce: 32 bytes that come back signed, which makes the answer fresh to
            whoever drew them.
    """

    tenant: str
    workload: str
    purpose: str
    label: str
    client_nonce: bytes


@dataclass(frozen=True, slots=True)
class PublicKeyBody:
    """What the provider signs over a public half.

    Attributes:
        binding: the provider's identity and attested key.
        question: what was asked.
        key_type: which kind of pair.
        generation: version of the root that the pair is derived from.
        public_key: the public half, 32 or 33 bytes.
        trust_domain: as it stands in the key path.
        issued_at: Unix seconds by the provider's clock.
        policy: the signed policy in force; ``None`` where none is signed.
        provider_evidence_hash: SHA-256 of the provider's evidence in the answer.
    """

    binding: AttestedKeyBinding
    question: PublicKeyQuestion
    key_type: KeyType
    generation: int
    public_key: bytes
    trust_domain: str
    issued_at: int
    policy: PolicyInForce | None
    provider_evidence_hash: bytes

    def to_sign(self) -> bytes:
        """The bytes that the attested key signs."""
        asked = self.question
        return labelled(
            Label.SIGN_PUBLIC_KEY,
            [
                PROTOCOL_VERSION,
                self.binding.as_value(),
                asked.client_nonce,
                [asked.tenant, asked.workload, asked.purpose, asked.label],
                [self.key_type.value, self.generation, self.public_key],
                self.trust_domain,
                self.issued_at,
                None if self.policy is None else self.policy.as_value(),
                self.provider_evidence_hash,
            ],
        )
