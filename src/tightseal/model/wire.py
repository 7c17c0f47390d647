# SPDX-License-Identifier: Apache-2.0
"""HTTP API v1 on the wire: the JSON that both sides encode and decode.

Bytes travel as base64url without padding. Requests refuse unknown fields, so that a
misspelt one is never silently ignored; responses do not, so that fields can be added.
Structs hold texts; ``parsed`` turns one into a value with bytes, all lengths checked.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from tightseal.errors import CODES, Code, RequestError, TightsealError
from tightseal.model.base64url import decode_base64url, encode_base64url
from tightseal.model.exchange import CLIENT_NONCE_BYTES, ChallengeBody
from tightseal.model.state import AnchorClass
from tightseal.model.wire_binding import AttestedKeyBindingJson, ProviderIdentityJson
from tightseal.model.wire_collateral import (
    IntelCollateralJson,
    SnpCertificatesJson,
    StapledJson,
)
from tightseal.model.wire_fields import (
    MAX_CHALLENGE_REQUEST_BYTES,
    MAX_CHALLENGE_RESPONSE_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_EVENT_LOG_BYTES,
    MAX_EVIDENCE_BYTES,
    MAX_KEYS_REQUEST_BYTES,
    MAX_KEYS_RESPONSE_BYTES,
    MAX_PROBLEM_BYTES,
    MAX_PUBLIC_KEY_REQUEST_BYTES,
    MAX_PUBLIC_KEY_RESPONSE_BYTES,
    MAX_RECIPIENT_KEY_BYTES,
    MAX_USES_CHARS,
    SIGNATURE_BYTES,
    BoundedText,
    ClientNonceText,
    EvidenceText,
    NonceText,
    RecipientText,
    Seconds,
    ShortText,
    evidence_bytes,
    exactly,
    nonce_bytes,
)
from tightseal.model.wire_keyitem import KeyItem, UseJson
from tightseal.model.wire_keys import (
    KeyFactsJson,
    KeysRequest,
    KeysResponse,
    ParsedKeysRequest,
    ParsedKeysResponse,
    Proof,
    ReceiptJson,
)
from tightseal.model.wire_public_key import (
    ParsedPublicKey,
    PublicKeyRequest,
    PublicKeyResponse,
)
from tightseal.model.wire_receipt import LogRulesJson, PolicyJson

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
    "MAX_PUBLIC_KEY_REQUEST_BYTES",
    "MAX_PUBLIC_KEY_RESPONSE_BYTES",
    "MAX_USES_CHARS",
    "PROBLEM_CONTENT_TYPE",
    "PROBLEM_TYPE_PREFIX",
    "PUBLIC_KEY_PATH",
    "AttestedKeyBindingJson",
    "ChallengeRequest",
    "ChallengeResponse",
    "InfoResponse",
    "IntelCollateralJson",
    "KeyFactsJson",
    "KeyItem",
    "KeysRequest",
    "KeysResponse",
    "LogRulesJson",
    "ParsedChallenge",
    "ParsedKeysRequest",
    "ParsedKeysResponse",
    "ParsedPublicKey",
    "PolicyJson",
    "Problem",
    "Proof",
    "ProviderIdentityJson",
    "PublicKeyRequest",
    "PublicKeyResponse",
    "ReceiptJson",
    "SnpCertificatesJson",
    "StapledJson",
    "UseJson",
    "decode_json",
    "encode_json",
]

CHALLENGE_PATH: Final = "/v1/challenge"
KEYS_PATH: Final = "/v1/keys"
PUBLIC_KEY_PATH: Final = "/v1/public-key"
PROBLEM_CONTENT_TYPE: Final = "application/problem+json"
PROBLEM_TYPE_PREFIX: Final = "urn:tightseal:error:"

_T = TypeVar("_T", bound=msgspec.Struct)


class ChallengeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/challenge``: asks for a signed challenge.

    Attributes:
        version: of the exchange.
        client_nonce: 32 bytes that come back signed.
        collateral: whether to staple the collateral of the provider's evidence.
        import_key: whether to give the key that imports are sealed to.
    """

    version: Literal[1]
    client_nonce: ClientNonceText
    collateral: bool = False
    import_key: bool | msgspec.UnsetType = msgspec.UNSET

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
    client_nonce: ClientNonceText
    binding: AttestedKeyBindingJson
    provider_evidence: EvidenceText
    signature: ShortText
    collateral: StapledJson | None
    simulated: bool
    import_key: RecipientText | msgspec.UnsetType = msgspec.UNSET

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
            import_key=msgspec.UNSET
            if body.import_key is None
            else encode_base64url(body.import_key),
        )

    def parsed(self) -> ParsedChallenge:
        """Decode every field; raises ``request_malformed``."""
        key = self.import_key
        evidence = evidence_bytes(self.provider_evidence, "provider_evidence")
        body = ChallengeBody(
            binding=self.binding.parsed(),
            nonce=nonce_bytes(self.nonce),
            client_nonce=exactly(self.client_nonce, "client_nonce", CLIENT_NONCE_BYTES),
            expires_at=self.expires_at,
            provider_evidence_hash=hashlib.sha256(evidence).digest(),
            import_key=None
            if key is msgspec.UNSET
            else decode_base64url(
                key, field="import_key", min_bytes=1, max_bytes=MAX_RECIPIENT_KEY_BYTES
            ),
        )
        return ParsedChallenge(
            body=body,
            signature=exactly(self.signature, "signature", SIGNATURE_BYTES),
            provider_evidence=evidence,
            stapled=self.collateral,
            simulated=self.simulated,
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


class KeyringJson(msgspec.Struct, frozen=True):
    """Which version of a keyring is in use.

    Attributes:
        generation: that new keys come from.
        counter: of the keyring's changes.
    """

    generation: int
    counter: int


class InfoResponse(msgspec.Struct, frozen=True):
    """``GET /v1/info``: what the provider says of itself; unsigned, for people.

    Attributes:
        versions: of the exchange.
        identity: the four parts; a pin never comes from here.
        trust_domain: of the provider's own evidence.
        simulated: whether that is a simulated world.
        kems: what envelopes can be sealed with.
        legacy: whether the framed TCP protocol is served.
        policy: the signed policy in force, or null.
        anchor: what notices that its whole state was put back, or null.
        keyring: the version of the keyring in use; null in the sidecar shape.
        log: what every release needs of the log before it leaves.
    """

    versions: list[int]
    identity: ProviderIdentityJson
    trust_domain: BoundedText
    simulated: bool
    kems: list[str]
    legacy: bool
    policy: PolicyJson | None = None
    anchor: AnchorClass | None = None
    keyring: KeyringJson | None = None
    log: LogRulesJson | None = None


_MAX_BYTES: Final[dict[type[msgspec.Struct], int]] = {
    ChallengeRequest: MAX_CHALLENGE_REQUEST_BYTES,
    ChallengeResponse: MAX_CHALLENGE_RESPONSE_BYTES,
    KeysRequest: MAX_KEYS_REQUEST_BYTES,
    KeysResponse: MAX_KEYS_RESPONSE_BYTES,
    PublicKeyRequest: MAX_PUBLIC_KEY_REQUEST_BYTES,
    PublicKeyResponse: MAX_PUBLIC_KEY_RESPONSE_BYTES,
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
