# SPDX-License-Identifier: Apache-2.0
"""Public halves for anybody, in the HTTP API's JSON."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import msgspec

from tightseal.model.base64url import decode_base64url, encode_base64url
from tightseal.model.exchange import CLIENT_NONCE_BYTES
from tightseal.model.keypath import KeyType
from tightseal.model.public_key import PublicKeyBody, PublicKeyQuestion
from tightseal.model.wire_binding import AttestedKeyBindingJson
from tightseal.model.wire_collateral import StapledJson
from tightseal.model.wire_fields import (
    MAX_PUBLIC_HALF_BYTES,
    MIN_PUBLIC_HALF_BYTES,
    SIGNATURE_BYTES,
    BoundedText,
    ClientNonceText,
    EvidenceText,
    GenerationNumber,
    LabelText,
    PurposeText,
    Seconds,
    ShortText,
    evidence_bytes,
    exactly,
)
from tightseal.model.wire_receipt import PolicyJson

__all__ = ["ParsedPublicKey", "PublicKeyRequest", "PublicKeyResponse"]


class PublicKeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/public-key``: asks for a public half, without evidence.

    Attributes:
        version: of the exchange.
        tenant, workload, purpose, label: whose; names in the policy.
        client_nonce: 32 bytes that come back signed.
        collateral: whether to staple the collateral of the provider's evidence.
    """

    version: Literal[1]
    tenant: PurposeText
    workload: PurposeText
    purpose: PurposeText
    client_nonce: ClientNonceText
    label: LabelText = ""
    collateral: bool = False

    @classmethod
    def of(cls, question: PublicKeyQuestion, *, collateral: bool) -> PublicKeyRequest:
        """Encode a question."""
        return cls(
            version=1,
            tenant=question.tenant,
            workload=question.workload,
            purpose=question.purpose,
            client_nonce=encode_base64url(question.client_nonce),
            label=question.label,
            collateral=collateral,
        )

    def parsed(self) -> PublicKeyQuestion:
        """The question; raises ``request_malformed``."""
        return PublicKeyQuestion(
            tenant=self.tenant,
            workload=self.workload,
            purpose=self.purpose,
            label=self.label,
            client_nonce=_client_nonce(self.client_nonce),
        )


@dataclass(frozen=True, slots=True)
class ParsedPublicKey:
    """An answer with bytes; nothing about it has been checked but its form.

    Attributes:
        body: what the signature must cover.
        signature: Ed25519, 64 bytes.
        provider_evidence: the provider's quote or report over ``body.binding``.
        stapled: collateral that the provider sent along, unverified.
        simulated: what the provider says of itself; unsigned, a hint only.
    """

    body: PublicKeyBody
    signature: bytes
    provider_evidence: bytes
    stapled: StapledJson | None
    simulated: bool


class PublicKeyResponse(msgspec.Struct, frozen=True):
    """A public half, and all that is needed to judge whose it is.

    The question comes back, so that a kept answer says by itself what it answers.
    """

    version: Literal[1]
    tenant: PurposeText
    workload: PurposeText
    purpose: PurposeText
    label: LabelText
    client_nonce: ClientNonceText
    type: KeyType
    generation: GenerationNumber
    public_key: ShortText
    trust_domain: BoundedText
    issued_at: Seconds
    policy: PolicyJson | None
    binding: AttestedKeyBindingJson
    provider_evidence: EvidenceText
    signature: ShortText
    collateral: StapledJson | None
    simulated: bool

    @classmethod
    def of(cls, parsed: ParsedPublicKey) -> PublicKeyResponse:
        """Encode an answer."""
        body, asked = parsed.body, parsed.body.question
        return cls(
            version=1,
            tenant=asked.tenant,
            workload=asked.workload,
            purpose=asked.purpose,
            label=asked.label,
            client_nonce=encode_base64url(asked.client_nonce),
            type=body.key_type,
            generation=body.generation,
            public_key=encode_base64url(body.public_key),
            trust_domain=body.trust_domain,
            issued_at=body.issued_at,
            policy=None if body.policy is None else PolicyJson.of(body.policy),
            binding=AttestedKeyBindingJson.of(body.binding),
            provider_evidence=encode_base64url(parsed.provider_evidence),
            signature=encode_base64url(parsed.signature),
            collateral=parsed.stapled,
            simulated=parsed.simulated,
        )

    def parsed(self) -> ParsedPublicKey:
        """Decode every field; raises ``request_malformed``."""
        evidence = evidence_bytes(self.provider_evidence, "provider_evidence")
        body = PublicKeyBody(
            binding=self.binding.parsed(),
            question=PublicKeyQuestion(
                tenant=self.tenant,
                workload=self.workload,
                purpose=self.purpose,
                label=self.label,
                client_nonce=_client_nonce(self.client_nonce),
            ),
            key_type=self.type,
            generation=self.generation,
            public_key=decode_base64url(
                self.public_key,
                field="public_key",
                min_bytes=MIN_PUBLIC_HALF_BYTES,
                max_bytes=MAX_PUBLIC_HALF_BYTES,
            ),
            trust_domain=self.trust_domain,
            issued_at=self.issued_at,
            policy=None if self.policy is None else self.policy.parsed(),
            provider_evidence_hash=hashlib.sha256(evidence).digest(),
        )
        return ParsedPublicKey(
            body=body,
            signature=exactly(self.signature, "signature", SIGNATURE_BYTES),
            provider_evidence=evidence,
            stapled=self.collateral,
            simulated=self.simulated,
        )


def _client_nonce(text: str) -> bytes:
    return exactly(text, "client_nonce", CLIENT_NONCE_BYTES)
