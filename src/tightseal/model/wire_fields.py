# SPDX-License-Identifier: Apache-2.0
"""Bounds and field types of the HTTP API's JSON, and the decoders of its texts."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from tightseal.model.base64url import base64url_chars, decode_base64url
from tightseal.model.exchange import MAX_GENERATION, MAX_KEY_REQUESTS
from tightseal.model.keypath import MAX_NAME_CHARS
from tightseal.model.keyuse import MAX_USE_CONTEXT_BYTES, MAX_USE_INPUT_BYTES

MIN_NONCE_BYTES: Final = 16
MAX_NONCE_BYTES: Final = 128
"""Length of the provider's nonce; its form is the provider's own business."""

HASH_BYTES: Final = 32
TRANSCRIPT_HASH_BYTES: Final = 64
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
MIN_PUBLIC_HALF_BYTES: Final = 32
MAX_PUBLIC_HALF_BYTES: Final = 33
"""A public half is raw or a compressed point; its type decides."""

ENTRY_ID_BYTES: Final = 16
SETTINGS_DIGEST_BYTES: Final = 64
MIN_MEASUREMENT_BYTES: Final = 32
MAX_MEASUREMENT_BYTES: Final = 48
MAX_RECIPIENT_KEY_BYTES: Final = 2048
"""Longest recipient key looked at; the KEM decides the exact length later."""

MAX_ENVELOPE_BYTES: Final = 2048
"""ML-KEM-768 + X25519 encapsulation (1120), 64 bytes of key and a tag, with room."""

MAX_EVIDENCE_BYTES: Final = 1 << 20
MAX_EVENT_LOG_BYTES: Final = 1 << 22
"""The most that release settings can allow; their defaults are far lower."""

MAX_UNIX_SECONDS: Final = 253_402_300_799
"""The last second of the year 9999."""

MAX_USES_CHARS: Final = MAX_KEY_REQUESTS * (
    base64url_chars(MAX_USE_INPUT_BYTES + MAX_USE_CONTEXT_BYTES)
    + base64url_chars(MAX_ENVELOPE_BYTES)
)
"""Room for the uses and imports of one request."""

MAX_CHALLENGE_REQUEST_BYTES: Final = 1024
MAX_KEYS_REQUEST_BYTES: Final = (
    base64url_chars(MAX_EVIDENCE_BYTES)
    + base64url_chars(MAX_EVENT_LOG_BYTES)
    + MAX_USES_CHARS
    + 16384
)
MAX_CHALLENGE_RESPONSE_BYTES: Final = 4 << 20
"""Room for stapled collateral, whose CRLs grow over the years."""

MAX_KEYS_RESPONSE_BYTES: Final = 2 << 20
MAX_PUBLIC_KEY_REQUEST_BYTES: Final = 8192
"""Four names, each character of which may be written as an escape of six."""

MAX_PUBLIC_KEY_RESPONSE_BYTES: Final = MAX_CHALLENGE_RESPONSE_BYTES
MAX_POLICY_VERSION: Final = (1 << 53) - 1
"""Beyond this JSON readers of other languages lose whole numbers."""

MAX_PROBLEM_BYTES: Final = 16 * 1024

GenerationNumber = Annotated[int, msgspec.Meta(ge=0, le=MAX_GENERATION)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_UNIX_SECONDS)]


def _base64url(max_bytes: int) -> msgspec.Meta:
    """A text of so many bytes at most.

    The alphabet is told to readers of the OpenAPI document; it is not checked here but
    by ``decode_base64url``, once.
    """
    told = {"contentEncoding": "base64url", "pattern": r"^[A-Za-z0-9_-]*(?!\n)$"}
    return msgspec.Meta(max_length=base64url_chars(max_bytes), extra_json_schema=told)


NonceText = Annotated[str, _base64url(MAX_NONCE_BYTES)]
ShortText = Annotated[str, _base64url(64)]
# The last character of 32 bytes has two bits that are zero.
ClientNonceText = Annotated[
    str,
    msgspec.Meta(
        max_length=base64url_chars(64),
        extra_json_schema={
            "contentEncoding": "base64url",
            "pattern": r"^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048](?!\n)$",
        },
    ),
]
EvidenceText = Annotated[str, _base64url(MAX_EVIDENCE_BYTES)]
EventLogText = Annotated[str, _base64url(MAX_EVENT_LOG_BYTES)]
RecipientText = Annotated[str, _base64url(MAX_RECIPIENT_KEY_BYTES)]
EnvelopeText = Annotated[str, _base64url(MAX_ENVELOPE_BYTES)]
UseInputText = Annotated[str, _base64url(MAX_USE_INPUT_BYTES)]
UseContextText = Annotated[str, _base64url(MAX_USE_CONTEXT_BYTES)]
LogProofText = Annotated[str, msgspec.Meta(max_length=1 << 14)]
BoundedText = Annotated[str, msgspec.Meta(max_length=256)]
# Printable ASCII; the lookahead refuses the newline that "$" lets pass in Python, and
# means the same in the dialect of JSON Schema.
PurposeText = Annotated[
    str, msgspec.Meta(pattern=rf"^[ -~]{{1,{MAX_NAME_CHARS}}}(?!\n)$")
]
LabelText = Annotated[
    str, msgspec.Meta(pattern=rf"^[ -~]{{0,{MAX_NAME_CHARS}}}(?!\n)$")
]


def exactly(text: str, field: str, length: int) -> bytes:
    """Decode a field of exactly ``length`` bytes; raises ``request_malformed``."""
    return decode_base64url(text, field=field, min_bytes=length, max_bytes=length)


def nonce_bytes(text: str) -> bytes:
    """Decode a provider's nonce; raises ``request_malformed``."""
    return decode_base64url(
        text, field="nonce", min_bytes=MIN_NONCE_BYTES, max_bytes=MAX_NONCE_BYTES
    )


def evidence_bytes(text: str, field: str) -> bytes:
    """Decode evidence, at least one byte; raises ``request_malformed``."""
    return decode_base64url(
        text, field=field, min_bytes=1, max_bytes=MAX_EVIDENCE_BYTES
    )
