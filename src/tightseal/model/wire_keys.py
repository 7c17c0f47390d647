# SPDX-License-Identifier: Apache-2.0
"""Asking for keys and getting them, in the HTTP API's JSON."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from tightseal.errors import Code, RequestError
from tightseal.model.base64url import decode_base64url, encode_base64url
from tightseal.model.exchange import (
    MAX_KEY_REQUESTS,
    Kem,
    KeyFacts,
    LogPromise,
    PolicyInForce,
    Transcript,
    response_body,
)
from tightseal.model.keypath import (
    KeyPart,
    KeyRequest,
    KeyType,
)
from tightseal.model.keyuse import (
    Operation,
)
from tightseal.model.logclass import SignedCover
from tightseal.model.provider import AttestedKeyBinding
from tightseal.model.state import AnchorClass
from tightseal.model.wire_fields import (
    ENTRY_ID_BYTES,
    HASH_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_EVENT_LOG_BYTES,
    MAX_RECIPIENT_KEY_BYTES,
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    TRANSCRIPT_HASH_BYTES,
    BoundedText,
    EnvelopeText,
    EventLogText,
    EvidenceText,
    GenerationNumber,
    NonceText,
    RecipientText,
    Seconds,
    ShortText,
    evidence_bytes,
    exactly,
    nonce_bytes,
)
from tightseal.model.wire_keyitem import KeyItem
from tightseal.model.wire_receipt import PolicyJson, ReceiptLogJson

__all__ = [
    "KeyFactsJson",
    "KeysRequest",
    "KeysResponse",
    "ParsedKeysRequest",
    "ParsedKeysResponse",
    "Proof",
    "ReceiptJson",
]


class Proof(StrEnum):
    """How a response proves itself."""

    ATTESTED_KEY = "attested_key"
    QUOTE = "quote"


_Imports = Annotated[
    list[EnvelopeText | None], msgspec.Meta(min_length=1, max_length=MAX_KEY_REQUESTS)
]
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
        imports: for each key request the envelope of the key that it imports, or
            ``None``; empty where none does.
    """

    nonce: bytes
    binding_key_hash: bytes
    kem: Kem
    recipient_key: bytes
    keys: tuple[KeyRequest, ...]
    event_log: bytes | None
    evidence: bytes
    proof: Proof
    imports: tuple[bytes | None, ...] = ()

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
    imports: _Imports | msgspec.UnsetType = msgspec.UNSET

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
            imports=[
                None if sealed is None else encode_base64url(sealed)
                for sealed in parsed.imports
            ]
            or msgspec.UNSET,
        )

    def parsed(self) -> ParsedKeysRequest:
        """Decode every field; raises ``request_malformed``."""
        log, keys = self.event_log, tuple(k.parsed() for k in self.keys)
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
            keys=keys,
            event_log=None
            if log is None
            else decode_base64url(
                log, field="event_log", max_bytes=MAX_EVENT_LOG_BYTES
            ),
            evidence=evidence_bytes(self.evidence, "evidence"),
            proof=self.proof,
            imports=self._imports(keys),
        )

    def _imports(self, keys: tuple[KeyRequest, ...]) -> tuple[bytes | None, ...]:
        """The sealed imports: one where a key request has its commitment, no other."""
        sealed = [] if self.imports is msgspec.UNSET else self.imports
        here = [text is not None for text in sealed] or [False] * len(keys)
        if here != [key.imported is not None for key in keys]:
            detail = (
                "imports and the commitments of the key requests do not go together"
            )
            raise RequestError(Code.REQUEST_MALFORMED, detail)
        return tuple(
            None
            if text is None
            else decode_base64url(
                text, field="imports", min_bytes=1, max_bytes=MAX_ENVELOPE_BYTES
            )
            for text in sealed
        )


class KeyFactsJson(msgspec.Struct, frozen=True):
    """What an envelope holds.

    Attributes:
        type: raw bytes, or which kind of pair.
        part: as it was asked for.
        generation: version of the root.
        use: the operation whose result it is; left out for a key.
    """

    type: KeyType
    part: KeyPart
    generation: GenerationNumber
    use: Operation | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def of(cls, facts: KeyFacts) -> KeyFactsJson:
        """Encode the facts of a key."""
        use = msgspec.UNSET if facts.use is None else facts.use
        return cls(facts.key_type, facts.part, facts.generation, use)

    def parsed(self) -> KeyFacts:
        """The facts of a key."""
        use = None if self.use is msgspec.UNSET else self.use
        return KeyFacts(self.type, self.part, self.generation, use)


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
        log: the log that has the entry, and the proof; null where the provider keeps
            none.
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
    log: ReceiptLogJson | None = None


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
    logged: LogPromise | None = None
    log_proof: bytes = b""
    log_cover: SignedCover | None = None

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
            logged=self.logged,
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
        policy, quote, logged = parsed.policy, parsed.quote, parsed.logged
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
                log=None
                if logged is None
                else ReceiptLogJson.of(logged, parsed.log_proof, parsed.log_cover),
            ),
        )

    def parsed(self) -> ParsedKeysResponse:
        """Decode every field; raises ``request_malformed``."""
        receipt = self.receipt
        policy, quote, log = receipt.policy, receipt.quote, receipt.log
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
            logged=None if log is None else log.promise(),
            log_proof=b"" if log is None else log.proof.encode(),
            log_cover=None if log is None else log.covered(),
        )
