# SPDX-License-Identifier: Apache-2.0
"""HTTP API v1 on the wire: the JSON that both sides encode and decode.

Bytes travel as base64url without padding. Requests refuse unknown fields, so that a
misspelt one is never silently ignored; responses do not, so that fields can be added.
Structs hold texts; ``parsed`` turns one into a value with bytes, all lengths checked.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec

from tightseal.errors import CODES, Code, RequestError, TightsealError
from tightseal.model.base64url import decode_base64url, encode_base64url
from tightseal.model.exchange import (
    CLIENT_NONCE_BYTES,
    MAX_KEY_REQUESTS,
    ChallengeBody,
    Kem,
    Transcript,
)
from tightseal.model.keypath import (
    DEFAULT_KEY_BYTES,
    MAX_KEY_BYTES,
    MIN_KEY_BYTES,
    KeyRequest,
)
from tightseal.model.provider import AttestedKeyBinding
from tightseal.model.wire_binding import AttestedKeyBindingJson, ProviderIdentityJson
from tightseal.model.wire_collateral import IntelCollateralJson, SnpCertificatesJson
from tightseal.model.wire_fields import (
    ENTRY_ID_BYTES,
    HASH_BYTES,
    MAX_CHALLENGE_REQUEST_BYTES,
    MAX_CHALLENGE_RESPONSE_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_EVENT_LOG_BYTES,
    MAX_EVIDENCE_BYTES,
    MAX_KEYS_REQUEST_BYTES,
    MAX_KEYS_RESPONSE_BYTES,
    MAX_PROBLEM_BYTES,
    MAX_RECIPIENT_KEY_BYTES,
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    TRANSCRIPT_HASH_BYTES,
    BoundedText,
    EnvelopeText,
    EventLogText,
    EvidenceText,
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
    "CHALLENGE_PATH",
    "KEYS_PATH",
    "MAX_CHALLENGE_REQUEST_BYTES",
    "MAX_CHALLENGE_RESPONSE_BYTES",
    "MAX_ENVELOPE_BYTES",
    "MAX_EVENT_LOG_BYTES",
    "MAX_EVIDENCE_BYTES",
    "MAX_KEYS_REQUEST_BYTES",
    "MAX_KEYS_RESPONSE_BYTES",
    "MAX_PROBLEM_BYTES",
    "PROBLEM_CONTENT_TYPE",
    "PROBLEM_TYPE_PREFIX",
    "AttestedKeyBindingJson",
    "ChallengeRequest",
    "ChallengeResponse",
    "InfoResponse",
    "IntelCollateralJson",
    "KeyItem",
    "KeysRequest",
    "KeysResponse",
    "ParsedChallenge",
    "ParsedKeysRequest",
    "ParsedKeysResponse",
    "Problem",
    "Proof",
    "ProviderIdentityJson",
    "ReceiptJson",
    "SnpCertificatesJson",
    "StapledJson",
    "decode_json",
    "encode_json",
]

CHALLENGE_PATH: Final = "/v1/challenge"
KEYS_PATH: Final = "/v1/keys"
PROBLEM_CONTENT_TYPE: Final = "application/problem+json"
PROBLEM_TYPE_PREFIX: Final = "urn:tightseal:error:"

_T = TypeVar("_T", bound=msgspec.Struct)
StapledJson: TypeAlias = IntelCollateralJson | SnpCertificatesJson


class Proof(StrEnum):
    """How a response proves itself."""

    ATTESTED_KEY = "attested_key"
    QUOTE = "quote"


class ChallengeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/challenge``: asks for a signed challenge.

    Attributes:
        version: of the exchange.
        client_nonce: 32 bytes that come back signed.
        collateral: whether to staple the collateral of the provider's evidence.
    """

    version: Literal[1]
    client_nonce: ShortText
    collateral: bool = False

    def parsed(self) -> bytes:
        """The client nonce, 32 bytes.

        Raises:
            RequestError: ``request_malformed``.
        """
        return exactly(self.client_nonce, "client_nonce", CLIENT_NONCE_BYTES)


@dataclass(frozen=True, slots=True)
class ParsedChallenge:
    """A challenge with bytes; nothing about it has been checked but its form.

    Attributes:
        body: what the signature must cover.
        signature: Ed25519, 64 bytes.
        provider_evidence: the provider's quote or report.
        stapled: collateral that the provider sent along, unverified.
        simulated: what the provider says of itself; unsigned, a hint only.
    """

    body: ChallengeBody
    signature: bytes
    provider_evidence: bytes
    stapled: StapledJson | None
    simulated: bool


class ChallengeResponse(msgspec.Struct, frozen=True):
    """The signed challenge."""

    version: Literal[1]
    nonce: NonceText
    expires_at: Seconds
    client_nonce: ShortText
    binding: AttestedKeyBindingJson
    provider_evidence: EvidenceText
    signature: ShortText
    collateral: StapledJson | None
    simulated: bool

    @classmethod
    def of(cls, parsed: ParsedChallenge) -> ChallengeResponse:
        """Encode a challenge."""
        body = parsed.body
        return cls(
            version=1,
            nonce=encode_base64url(body.nonce),
            expires_at=body.expires_at,
            client_nonce=encode_base64url(body.client_nonce),
            binding=AttestedKeyBindingJson.of(body.binding),
            provider_evidence=encode_base64url(parsed.provider_evidence),
            signature=encode_base64url(parsed.signature),
            collateral=parsed.stapled,
            simulated=parsed.simulated,
        )

    def parsed(self) -> ParsedChallenge:
        """Decode every field; raises ``request_malformed``."""
        evidence = evidence_bytes(self.provider_evidence, "provider_evidence")
        body = ChallengeBody(
            binding=self.binding.parsed(),
            nonce=nonce_bytes(self.nonce),
            client_nonce=exactly(self.client_nonce, "client_nonce", CLIENT_NONCE_BYTES),
            expires_at=self.expires_at,
            provider_evidence_hash=hashlib.sha256(evidence).digest(),
        )
        return ParsedChallenge(
            body=body,
            signature=exactly(self.signature, "signature", SIGNATURE_BYTES),
            provider_evidence=evidence,
            stapled=self.collateral,
            simulated=self.simulated,
        )


class KeyItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key that is asked for."""

    purpose: PurposeText
    label: LabelText = ""
    length: Annotated[int, msgspec.Meta(ge=MIN_KEY_BYTES, le=MAX_KEY_BYTES)] = (
        DEFAULT_KEY_BYTES
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
            keys=[KeyItem(k.purpose, k.label, k.length) for k in parsed.keys],
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
            keys=tuple(KeyRequest(k.purpose, k.label, k.length) for k in self.keys),
            event_log=None
            if log is None
            else decode_base64url(
                log, field="event_log", max_bytes=MAX_EVENT_LOG_BYTES
            ),
            evidence=evidence_bytes(self.evidence, "evidence"),
            proof=self.proof,
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
    quote: EvidenceText | None


_Envelopes = Annotated[
    list[EnvelopeText], msgspec.Meta(min_length=1, max_length=MAX_KEY_REQUESTS)
]


@dataclass(frozen=True, slots=True)
class ParsedKeysResponse:
    """A keys response with bytes; nothing about it has been checked but its form."""

    envelopes: tuple[bytes, ...]
    transcript_hash: bytes
    entry_id: bytes
    issued_at: int
    signature: bytes
    public_key: bytes
    single_verifier: bool
    trust_domain: str
    quote: bytes | None


class KeysResponse(msgspec.Struct, frozen=True):
    """The envelopes, in the order of the key requests, and the receipt."""

    version: Literal[1]
    envelopes: _Envelopes
    receipt: ReceiptJson

    @classmethod
    def of(cls, parsed: ParsedKeysResponse) -> KeysResponse:
        """Encode a response."""
        quote = parsed.quote
        return cls(
            version=1,
            envelopes=[encode_base64url(e) for e in parsed.envelopes],
            receipt=ReceiptJson(
                transcript_hash=encode_base64url(parsed.transcript_hash),
                entry_id=encode_base64url(parsed.entry_id),
                issued_at=parsed.issued_at,
                signature=encode_base64url(parsed.signature),
                public_key=encode_base64url(parsed.public_key),
                single_verifier=parsed.single_verifier,
                trust_domain=parsed.trust_domain,
                quote=None if quote is None else encode_base64url(quote),
            ),
        )

    def parsed(self) -> ParsedKeysResponse:
        """Decode every field; raises ``request_malformed``."""
        receipt = self.receipt
        quote = receipt.quote
        return ParsedKeysResponse(
            envelopes=tuple(
                decode_base64url(
                    e, field="envelope", min_bytes=1, max_bytes=MAX_ENVELOPE_BYTES
                )
                for e in self.envelopes
            ),
            transcript_hash=exactly(
                receipt.transcript_hash, "transcript_hash", TRANSCRIPT_HASH_BYTES
            ),
            entry_id=exactly(receipt.entry_id, "entry_id", ENTRY_ID_BYTES),
            issued_at=receipt.issued_at,
            signature=exactly(receipt.signature, "signature", SIGNATURE_BYTES),
            public_key=exactly(receipt.public_key, "public_key", PUBLIC_KEY_BYTES),
            single_verifier=receipt.single_verifier,
            trust_domain=receipt.trust_domain,
            quote=None if quote is None else evidence_bytes(quote, "quote"),
        )


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A problem document (RFC 9457) with a stable code.

    Attributes:
        type: ``urn:tightseal:error:<code>``.
        title: the code's public sentence; never the operator's detail.
        status: HTTP status.
        code: the stable code.
        instance: names this occurrence in the provider's log.
    """

    type: BoundedText
    title: BoundedText
    status: Annotated[int, msgspec.Meta(ge=400, le=599)]
    code: BoundedText
    instance: BoundedText | None = None

    @classmethod
    def of(
        cls, error: TightsealError | Code, *, instance: str | None = None
    ) -> Problem:
        """The document that an untrusted caller may see of an error."""
        code = error if isinstance(error, Code) else error.code
        info = CODES[code]
        return cls(
            type=PROBLEM_TYPE_PREFIX + code.value,
            title=info.public,
            status=info.status,
            code=code.value,
            instance=instance,
        )


class InfoResponse(msgspec.Struct, frozen=True):
    """``GET /v1/info``: what the provider says of itself; unsigned, for people.

    Attributes:
        versions: of the exchange.
        identity: the four parts; a pin never comes from here.
        trust_domain: of the provider's own evidence.
        simulated: whether that is a simulated world.
        kems: what envelopes can be sealed with.
        legacy: whether the framed TCP protocol is served.
    """

    versions: list[int]
    identity: ProviderIdentityJson
    trust_domain: BoundedText
    simulated: bool
    kems: list[str]
    legacy: bool


_MAX_BYTES: Final[dict[type[msgspec.Struct], int]] = {
    ChallengeRequest: MAX_CHALLENGE_REQUEST_BYTES,
    ChallengeResponse: MAX_CHALLENGE_RESPONSE_BYTES,
    KeysRequest: MAX_KEYS_REQUEST_BYTES,
    KeysResponse: MAX_KEYS_RESPONSE_BYTES,
}


def encode_json(value: msgspec.Struct) -> bytes:
    """Encode a struct of this module; the same struct always gives the same bytes."""
    return msgspec.json.encode(value)


def decode_json(body: bytes, kind: type[_T], *, max_bytes: int | None = None) -> _T:
    """Decode a body strictly: exact types, no unknown fields where ``kind`` says so.

    Args:
        body: the JSON text.
        kind: a struct of this module.
        max_bytes: longest body; by default the bound of ``kind``.

    Raises:
        RequestError: ``request_too_large`` or ``request_malformed``.
    """
    limit = _MAX_BYTES.get(kind, MAX_PROBLEM_BYTES) if max_bytes is None else max_bytes
    if len(body) > limit:
        detail = f"{kind.__name__}: {len(body)} bytes, at most {limit}"
        raise RequestError(Code.REQUEST_TOO_LARGE, detail)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as e:
        detail = f"{kind.__name__}: {e}"
        raise RequestError(Code.REQUEST_MALFORMED, detail) from e
