# SPDX-License-Identifier: Apache-2.0
"""The handoff of a keyring in the HTTP API's JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from tightseal.model.action import ACTION_ID_BYTES, SLOT_ID_BYTES
from tightseal.model.base64url import (
    base64url_chars,
    decode_base64url,
    encode_base64url,
)
from tightseal.model.exchange import Kem
from tightseal.model.handoff import CONFIRM_KEY_BYTES, HandoffBody, HandoffTranscript
from tightseal.model.provider import AttestedKeyBinding, ProviderIdentity
from tightseal.model.wire_binding import ProviderIdentityJson
from tightseal.model.wire_fields import (
    ENTRY_ID_BYTES,
    HASH_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_EVIDENCE_BYTES,
    MAX_RECIPIENT_KEY_BYTES,
    SIGNATURE_BYTES,
    TRANSCRIPT_HASH_BYTES,
    EnvelopeText,
    EvidenceText,
    NonceText,
    RecipientText,
    Seconds,
    ShortText,
    evidence_bytes,
    exactly,
    nonce_bytes,
)
from tightseal.model.wire_operator import MAX_ACTION_BYTES
from tightseal.model.wire_receipt import PolicyJson

__all__ = [
    "CONFIRM_PATH",
    "HANDOFF_PATH",
    "MAX_CONFIRM_BYTES",
    "MAX_HANDED_BYTES",
    "MAX_HANDOFF_REQUEST_BYTES",
    "MAX_HANDOFF_RESPONSE_BYTES",
    "ConfirmRequest",
    "HandoffConfirmed",
    "HandoffRequest",
    "HandoffResponse",
    "ParsedConfirm",
    "ParsedHandoff",
    "ParsedHandoffResponse",
]

HANDOFF_PATH: Final = "/v1/handoff"
"""``POST``: evidence of a provider that was invited."""

CONFIRM_PATH: Final = "/v1/handoff/confirm"
"""``POST``: that it wrote the keyring and opened it again."""

MAX_HANDED_BYTES: Final = 4 << 20
"""Longest keyring that crosses, as ``keys.keyring.MAX_KEYRING_BYTES``."""

MAX_HANDOFF_REQUEST_BYTES: Final = (
    base64url_chars(MAX_EVIDENCE_BYTES) + base64url_chars(MAX_ACTION_BYTES) + 16384
)
MAX_HANDOFF_RESPONSE_BYTES: Final = base64url_chars(MAX_HANDED_BYTES) + 16384
MAX_CONFIRM_BYTES: Final = base64url_chars(MAX_HANDED_BYTES) + 4096
"""Longest bodies."""

MAX_OWN: Final = 16
"""Most slots that a provider makes when it joins."""

_HandedText = Annotated[str, msgspec.Meta(max_length=base64url_chars(MAX_HANDED_BYTES))]
_ActionText = Annotated[str, msgspec.Meta(max_length=base64url_chars(MAX_ACTION_BYTES))]


@dataclass(frozen=True, slots=True)
class ParsedHandoff:
    """A request with bytes; nothing about it has been checked but its form."""

    nonce: bytes
    binding_key_hash: bytes
    joiner: ProviderIdentity
    invitation: bytes
    evidence: bytes
    kem: Kem
    recipient_key: bytes
    confirm_key: bytes
    rehearsal: bool

    def transcript(
        self, binding: AttestedKeyBinding, *, invitation: bytes
    ) -> HandoffTranscript:
        """What the evidence must commit to, under the giver's attested key."""
        return HandoffTranscript(
            binding=binding,
            nonce=self.nonce,
            joiner=self.joiner,
            invitation=invitation,
            kem=self.kem,
            recipient_key=self.recipient_key,
            confirm_key=self.confirm_key,
            rehearsal=self.rehearsal,
        )


class HandoffRequest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """``POST /v1/handoff``: asks a provider for its keyring.

    Attributes:
        version: of the handoff.
        nonce: of the giver's challenge.
        binding_key_hash: SHA-256 of the attested key that signed it.
        joiner: who asks, with the keyring id that it will have.
        invitation: the signed action, as its file stands.
        evidence: of the joiner, over the transcript.
        kem, recipient_key: what receives.
        confirm_key: Ed25519 key that will say how it went.
        rehearsal: whether everything is checked and nothing crosses.
    """

    version: Literal[1]
    nonce: NonceText
    binding_key_hash: ShortText
    joiner: ProviderIdentityJson
    invitation: _ActionText
    evidence: EvidenceText
    kem: Kem
    recipient_key: RecipientText
    confirm_key: ShortText
    rehearsal: bool = False

    @classmethod
    def of(cls, parsed: ParsedHandoff) -> HandoffRequest:
        """Encode a request."""
        return cls(
            version=1,
            nonce=encode_base64url(parsed.nonce),
            binding_key_hash=encode_base64url(parsed.binding_key_hash),
            joiner=ProviderIdentityJson.of(parsed.joiner),
            invitation=encode_base64url(parsed.invitation),
            evidence=encode_base64url(parsed.evidence),
            kem=parsed.kem,
            recipient_key=encode_base64url(parsed.recipient_key),
            confirm_key=encode_base64url(parsed.confirm_key),
            rehearsal=parsed.rehearsal,
        )

    def parsed(self) -> ParsedHandoff:
        """Decode every field; raises ``request_malformed``."""
        return ParsedHandoff(
            nonce=nonce_bytes(self.nonce),
            binding_key_hash=exactly(
                self.binding_key_hash, "binding_key_hash", HASH_BYTES
            ),
            joiner=self.joiner.parsed(),
            invitation=decode_base64url(
                self.invitation,
                field="invitation",
                min_bytes=1,
                max_bytes=MAX_ACTION_BYTES,
            ),
            evidence=evidence_bytes(self.evidence, "evidence"),
            kem=self.kem,
            recipient_key=decode_base64url(
                self.recipient_key,
                field="recipient_key",
                min_bytes=1,
                max_bytes=MAX_RECIPIENT_KEY_BYTES,
            ),
            confirm_key=exactly(self.confirm_key, "confirm_key", CONFIRM_KEY_BYTES),
            rehearsal=self.rehearsal,
        )


@dataclass(frozen=True, slots=True)
class ParsedHandoffResponse:
    """A response with bytes; nothing about it has been checked but its form."""

    body: HandoffBody
    signature: bytes


class HandoffResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The keyring, sealed to the joiner; in a rehearsal without it."""

    version: Literal[1]
    transcript_hash: ShortText
    envelope: EnvelopeText
    payload: _HandedText
    policy: PolicyJson
    entry_id: ShortText
    issued_at: Seconds
    signature: ShortText

    @classmethod
    def of(cls, body: HandoffBody, *, signature: bytes) -> HandoffResponse:
        """Encode a response."""
        return cls(
            version=1,
            transcript_hash=encode_base64url(body.transcript_hash),
            envelope=encode_base64url(body.envelope),
            payload=encode_base64url(body.payload),
            policy=PolicyJson.of(body.policy),
            entry_id=encode_base64url(body.entry_id),
            issued_at=body.issued_at,
            signature=encode_base64url(signature),
        )

    def parsed(self) -> ParsedHandoffResponse:
        """Decode every field; raises ``request_malformed``."""
        body = HandoffBody(
            transcript_hash=exactly(
                self.transcript_hash, "transcript_hash", TRANSCRIPT_HASH_BYTES
            ),
            envelope=decode_base64url(
                self.envelope,
                field="envelope",
                min_bytes=0,
                max_bytes=MAX_ENVELOPE_BYTES,
            ),
            payload=decode_base64url(
                self.payload, field="payload", min_bytes=0, max_bytes=MAX_HANDED_BYTES
            ),
            policy=self.policy.parsed(),
            entry_id=exactly(self.entry_id, "entry_id", ENTRY_ID_BYTES),
            issued_at=self.issued_at,
        )
        return ParsedHandoffResponse(
            body, exactly(self.signature, "signature", SIGNATURE_BYTES)
        )


@dataclass(frozen=True, slots=True)
class ParsedConfirm:
    """A confirmation with bytes; nothing about it has been checked but its form."""

    invitation: bytes
    transcript_hash: bytes
    keyring: bytes
    slots: tuple[bytes, ...]
    signature: bytes


class ConfirmRequest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """``POST /v1/handoff/confirm``: the joiner's own slot opens what it wrote.

    Attributes:
        version: of the handoff.
        invitation: id of the invitation, 16 bytes.
        transcript_hash: of the handoff.
        keyring: the file that the joiner wrote, so that the giver learns its slots.
        slots: ids of the slots that the joiner made.
        signature: by the confirm key of the handoff.
    """

    version: Literal[1]
    invitation: ShortText
    transcript_hash: ShortText
    keyring: _HandedText
    slots: Annotated[list[ShortText], msgspec.Meta(min_length=1, max_length=MAX_OWN)]
    signature: ShortText

    @classmethod
    def of(cls, parsed: ParsedConfirm) -> ConfirmRequest:
        """Encode a confirmation."""
        return cls(
            version=1,
            invitation=encode_base64url(parsed.invitation),
            transcript_hash=encode_base64url(parsed.transcript_hash),
            keyring=encode_base64url(parsed.keyring),
            slots=[encode_base64url(slot) for slot in parsed.slots],
            signature=encode_base64url(parsed.signature),
        )

    def parsed(self) -> ParsedConfirm:
        """Decode every field; raises ``request_malformed``."""
        return ParsedConfirm(
            invitation=exactly(self.invitation, "invitation", ACTION_ID_BYTES),
            transcript_hash=exactly(
                self.transcript_hash, "transcript_hash", TRANSCRIPT_HASH_BYTES
            ),
            keyring=decode_base64url(
                self.keyring, field="keyring", min_bytes=1, max_bytes=MAX_HANDED_BYTES
            ),
            slots=tuple(exactly(slot, "slots", SLOT_ID_BYTES) for slot in self.slots),
            signature=exactly(self.signature, "signature", SIGNATURE_BYTES),
        )


class HandoffConfirmed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a confirmation.

    Attributes:
        version: of this answer; 1.
        confirmed: always true; a refusal is a problem document.
        counter: of the giver's keyring, which has the joiner's slots now.
    """

    version: int = 1
    confirmed: bool = True
    counter: int
