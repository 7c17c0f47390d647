# SPDX-License-Identifier: Apache-2.0
"""Asking for keys and getting them, in the HTTP API's JSON."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from tightseal.model.base64url import decode_base64url, encode_base64url
from tightseal.model.exchange import (
    MAX_KEY_REQUESTS,
    Kem,
    KeyFacts,
    PolicyInForce,
    Transcript,
    response_body,
)
from tightseal.model.generation import GenerationName
from tightseal.model.keypath import (
    DEFAULT_KEY_BYTES,
    MAX_KEY_BYTES,
    MIN_KEY_BYTES,
    KeyPart,
    KeyRequest,
    KeyType,
)
from tightseal.model.provider import AttestedKeyBinding
from tightseal.model.state import AnchorClass
from tightseal.model.wire_fields import (
    ENTRY_ID_BYTES,
    HASH_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_EVENT_LOG_BYTES,
    MAX_POLICY_VERSION,
    MAX_RECIPIENT_KEY_BYTES,
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    TRANSCRIPT_HASH_BYTES,
    BoundedText,
    EnvelopeText,
    EventLogText,
    EvidenceText,
    GenerationNumber,
    LabelText,
    NonceText,
    PurposeText,
    RecipientText,
    Seconds,
    ShortText,
    evidence_bytes,
    exactly,
    nonce_bytes,
)

__all__ = [
    "KeyFactsJson",
    "KeyItem",
    "KeysRequest",
    "KeysResponse",
    "ParsedKeysRequest",
    "ParsedKeysResponse",
    "PolicyJson",
    "Proof",
    "ReceiptJson",
]


class Proof(StrEnum):
    """How a response proves itself."""

    ATTESTED_KEY = "attested_key"
    QUOTE = "quote"


class KeyItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key that is asked for.

    Attributes:
        purpose, label: printable ASCII.
        length: bytes; 32 for the purpose of a pair, whichever part is asked for.
        part: the key itself, or the public half of a pair.
        generation: ``current``, ``previous``, or a number.
        create: make a wrapped key that must not be there yet.
    """

    purpose: PurposeText
    label: LabelText = ""
    length: Annotated[int, msgspec.Meta(ge=MIN_KEY_BYTES, le=MAX_KEY_BYTES)] = (
        DEFAULT_KEY_BYTES
    )
    part: KeyPart = KeyPart.PRIVATE
    generation: GenerationName | GenerationNumber = GenerationName.CURRENT
    create: bool = False

    @classmethod
    def of(cls, request: KeyRequest) -> KeyItem:
        """Encode a key request."""
        return cls(
            purpose=request.purpose,
            label=request.label,
            length=request.length,
            part=request.part,
            generation=request.generation,
            create=request.create,
        )

    def parsed(self) -> KeyRequest:
        """The key request."""
        return KeyRequest(
            purpose=self.purpose,
            label=self.label,
            length=self.length,
            part=self.part,
            generation=self.generation,
            create=self.create,
        )


_Keys = Annotated[
    list[KeyItem], msgspec.Meta(min_length=1, max_length=MAX_KEY_REQUESTS)
]


@dataclass(frozen=True, slots=True)
class ParsedKeysRequest:
    """A keys request with bytes.

    Attributes:
        nonce: the provider's nonce.
        binding_key_hash: SHA-256 of the attested key that signed the challenge.
        kem, recipient_key: the envelope's recipient.
        keys: the key requests, in order.
        event_log: the event log, or ``None``.
        evidence: the workload's evidence.
        proof: how the response shall prove itself.
    """

    nonce: bytes
    binding_key_hash: bytes
    kem: Kem
    recipient_key: bytes
    keys: tuple[KeyRequest, ...]
    event_log: bytes | None
    evidence: bytes
    proof: Proof

    def transcript(self, binding: AttestedKeyBinding) -> Transcript:
        """The transcript of this request under the binding of its challenge."""
        log = self.event_log
        return Transcript(
            binding=binding,
            nonce=self.nonce,
            kem=self.kem,
            recipient_key=self.recipient_key,
            keys=self.keys,
            event_log_hash=None if log is None else hashlib.sha256(log).digest(),
        )


class KeysRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/keys``: evidence that answers a challenge, and the keys wanted."""

    version: Literal[1]
    nonce: NonceText
    binding_key_hash: ShortText
    kem: Kem
    recipient_key: RecipientText
    keys: _Keys
    evidence: EvidenceText
    event_log: EventLogText | None = None
    proof: Proof = Proof.ATTESTED_KEY

    @classmethod
    def of(cls, parsed: ParsedKeysRequest) -> KeysRequest:
        """Encode a request."""
        log = parsed.event_log
        return cls(
            version=1,
            nonce=encode_base64url(parsed.nonce),
            binding_key_hash=encode_base64url(parsed.binding_key_hash),
            kem=parsed.kem,
            recipient_key=encode_base64url(parsed.recipient_key),
            keys=[KeyItem.of(k) for k in parsed.keys],
            evidence=encode_base64url(parsed.evidence),
            event_log=None if log is None else encode_base64url(log),
            proof=parsed.proof,
        )

    def parsed(self) -> ParsedKeysRequest:
        """Decode every field; raises ``request_malformed``."""
        log = self.event_log
        return ParsedKeysRequest(
            nonce=nonce_bytes(self.nonce),
            binding_key_hash=exactly(
                self.binding_key_hash, "binding_key_hash", HASH_BYTES
            ),
            kem=self.kem,
            recipient_key=decode_base64url(
                self.recipient_key,
                field="recipient_key",
                min_bytes=1,
                max_bytes=MAX_RECIPIENT_KEY_BYTES,
            ),
            keys=tuple(k.parsed() for k in self.keys),
            event_log=None
            if log is None
            else decode_base64url(
                log, field="event_log", max_bytes=MAX_EVENT_LOG_BYTES
            ),
            evidence=evidence_bytes(self.evidence, "evidence"),
            proof=self.proof,
        )


class KeyFactsJson(msgspec.Struct, frozen=True):
    """What an envelope holds.

    Attributes:
        type: raw bytes, or which kind of pair.
        part: as it was asked for.
        generation: version of the root.
    """

    type: KeyType
    part: KeyPart
    generation: GenerationNumber

    @classmethod
    def of(cls, facts: KeyFacts) -> KeyFactsJson:
        """Encode the facts of a key."""
        return cls(facts.key_type, facts.part, facts.generation)

    def parsed(self) -> KeyFacts:
        """The facts of a key."""
        return KeyFacts(self.type, self.part, self.generation)


class PolicyJson(msgspec.Struct, frozen=True):
    """``PolicyInForce`` on the wire."""

    version: Annotated[int, msgspec.Meta(ge=0, le=MAX_POLICY_VERSION)]
    digest: ShortText

    @classmethod
    def of(cls, policy: PolicyInForce) -> PolicyJson:
        """Encode version and digest."""
        return cls(policy.version, encode_base64url(policy.digest))

    def parsed(self) -> PolicyInForce:
        """Decode both; raises ``request_malformed``."""
        return PolicyInForce(
            self.version, exactly(self.digest, "policy digest", HASH_BYTES)
        )


class ReceiptJson(msgspec.Struct, frozen=True):
    """What proves a release.

    Attributes:
        transcript_hash: ``Transcript.hash_with``, 64 bytes.
        entry_id: names the journal entry, 16 bytes.
        issued_at: Unix seconds by the provider's clock.
        signature: by the attested key over ``exchange.response_body``.
        public_key: the attested key that signed, 32 bytes.
        single_verifier, trust_domain: what the provider says of the workload's
            evidence.
        policy: the signed policy in force, or null.
        anchor: what notices that the provider's whole state was put back, or null.
        quote: the provider's evidence over ``exchange.quote_proof_report_data``,
            where it was asked for.
    """

    transcript_hash: ShortText
    entry_id: ShortText
    issued_at: Seconds
    signature: ShortText
    public_key: ShortText
    single_verifier: bool
    trust_domain: BoundedText
    policy: PolicyJson | None
    anchor: AnchorClass | None
    quote: EvidenceText | None


_Envelopes = Annotated[
    list[EnvelopeText], msgspec.Meta(min_length=1, max_length=MAX_KEY_REQUESTS)
]
_Facts = Annotated[
    list[KeyFactsJson], msgspec.Meta(min_length=1, max_length=MAX_KEY_REQUESTS)
]


@dataclass(frozen=True, slots=True)
class ParsedKeysResponse:
    """A keys response with bytes; nothing about it has been checked but its form."""

    envelopes: tuple[bytes, ...]
    keys: tuple[KeyFacts, ...]
    transcript_hash: bytes
    entry_id: bytes
    issued_at: int
    signature: bytes
    public_key: bytes
    single_verifier: bool
    trust_domain: str
    policy: PolicyInForce | None
    anchor: AnchorClass | None
    quote: bytes | None

    def signed_body(self) -> bytes:
        """The bytes that the signature must cover."""
        return response_body(
            transcript_hash=self.transcript_hash,
            envelopes=self.envelopes,
            keys=self.keys,
            entry_id=self.entry_id,
            issued_at=self.issued_at,
            single_verifier=self.single_verifier,
            trust_domain=self.trust_domain,
            policy=self.policy,
            anchor=self.anchor,
        )


class KeysResponse(msgspec.Struct, frozen=True):
    """The envelopes, in the order of the key requests, and the receipt.

    Attributes:
        version: of the exchange.
        envelopes: the sealed keys.
        keys: what each envelope holds.
        receipt: what proves the release; its signature covers all of it.
    """

    version: Literal[1]
    envelopes: _Envelopes
    keys: _Facts
    receipt: ReceiptJson

    @classmethod
    def of(cls, parsed: ParsedKeysResponse) -> KeysResponse:
        """Encode a response."""
        policy, quote = parsed.policy, parsed.quote
        return cls(
            version=1,
            envelopes=[encode_base64url(e) for e in parsed.envelopes],
            keys=[KeyFactsJson.of(k) for k in parsed.keys],
            receipt=ReceiptJson(
                transcript_hash=encode_base64url(parsed.transcript_hash),
                entry_id=encode_base64url(parsed.entry_id),
                issued_at=parsed.issued_at,
                signature=encode_base64url(parsed.signature),
                public_key=encode_base64url(parsed.public_key),
                single_verifier=parsed.single_verifier,
                trust_domain=parsed.trust_domain,
                policy=None if policy is None else PolicyJson.of(policy),
                anchor=parsed.anchor,
                quote=None if quote is None else encode_base64url(quote),
            ),
        )

    def parsed(self) -> ParsedKeysResponse:
        """Decode every field; raises ``request_malformed``."""
        receipt = self.receipt
        policy, quote = receipt.policy, receipt.quote
        return ParsedKeysResponse(
            envelopes=tuple(
                decode_base64url(
                    e, field="envelope", min_bytes=1, max_bytes=MAX_ENVELOPE_BYTES
                )
                for e in self.envelopes
            ),
            keys=tuple(k.parsed() for k in self.keys),
            transcript_hash=exactly(
                receipt.transcript_hash, "transcript_hash", TRANSCRIPT_HASH_BYTES
            ),
            entry_id=exactly(receipt.entry_id, "entry_id", ENTRY_ID_BYTES),
            issued_at=receipt.issued_at,
            signature=exactly(receipt.signature, "signature", SIGNATURE_BYTES),
            public_key=exactly(receipt.public_key, "public_key", PUBLIC_KEY_BYTES),
            single_verifier=receipt.single_verifier,
            trust_domain=receipt.trust_domain,
            policy=None if policy is None else policy.parsed(),
            anchor=receipt.anchor,
            quote=None if quote is None else evidence_bytes(quote, "quote"),
        )
