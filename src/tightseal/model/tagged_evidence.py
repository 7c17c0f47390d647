# SPDX-License-Identifier: Apache-2.0
"""Evidence in a certificate, in the CCC's form: what is hashed and how it is encoded.

CCC "Interoperable RA-TLS", X.509 and SGX/TDX formats::

    60000([ h'<quote>', h'<claims-buffer>' ])
    claims-buffer = { "pubkey-hash": h'<hash-entry>', ? "nonce": h'<any length>' }
    hash-entry    = [ hash-alg-id, h'<hash of SubjectPublicKeyInfo DER>' ]

The quote's report data is SHA-256 over the claims buffer, then zeros. Lengths are
definite. The order of claims is the maker's, so the hash is over the bytes as they
came and nothing is encoded again. rats-tls adds claims of its own; they are covered by
the hash and mean nothing here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import cbor2

from tightseal.errors import Code, EvidenceError

__all__ = [
    "EVIDENCE_OID",
    "QUOTE_TAG",
    "KeyClaims",
    "TaggedEvidence",
    "claims_buffer_of",
    "decode_tagged",
    "encode_tagged",
    "report_data_of",
]

EVIDENCE_OID: Final = "2.23.133.5.4.9"
"""``tcg-dice-tagged-evidence``."""

QUOTE_TAG: Final = 60000
"""CBOR tag of an Intel quote with its claims (IANA)."""

REPORT_DATA_BYTES: Final = 64
MAX_CLAIMS: Final = 16
"""Most claims of one buffer; the CCC defines two."""

MAX_CLAIMS_BYTES: Final = 4096
"""Longest claims buffer."""

MAX_NAME_BYTES: Final = 64

_PUBKEY_HASH: Final = "pubkey-hash"
_NONCE: Final = "nonce"
_SHA256: Final = 1
_HASHES: Final = {_SHA256: "sha256", 7: "sha384", 8: "sha512"}
"""IANA "Named Information Hash Algorithm" numbers that every verifier must know."""

_UNSIGNED, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = 0, 2, 3, 4, 5, 6
_ONE_BYTE: Final = 24
_EIGHT_BYTES: Final = 27


@dataclass(frozen=True, slots=True)
class KeyClaims:
    """What the claims buffer says.

    Attributes:
        hash_name: ``sha256``, ``sha384`` or ``sha512``.
        key_hash: of the SubjectPublicKeyInfo, by that hash.
        nonce: ``None`` where there is none.
    """

    hash_name: str
    key_hash: bytes
    nonce: bytes | None = None

    def fit(self, spki: bytes) -> bool:
        """Whether they are about this SubjectPublicKeyInfo (DER)."""
        return hashlib.new(self.hash_name, spki).digest() == self.key_hash


@dataclass(frozen=True, slots=True)
class TaggedEvidence:
    """A quote and the claims buffer that its report data commits to.

    Attributes:
        quote: as it came; nothing about it is verified.
        claims_buffer: as it came, since its bytes are hashed.
        claims: what the buffer says.
    """

    quote: bytes
    claims_buffer: bytes
    claims: KeyClaims

    def report_data(self) -> bytes:
        """The 64 bytes that the quote must carry."""
        return report_data_of(self.claims_buffer)


def claims_buffer_of(spki: bytes) -> bytes:
    """The claims buffer that names a public key, by SHA-256 and without a nonce."""
    entry = cbor2.dumps([_SHA256, hashlib.sha256(spki).digest()])
    return cbor2.dumps({_PUBKEY_HASH: entry})


def report_data_of(claims_buffer: bytes) -> bytes:
    """SHA-256 over a claims buffer and zeros, 64 bytes."""
    return hashlib.sha256(claims_buffer).digest().ljust(REPORT_DATA_BYTES, b"\0")


def encode_tagged(quote: bytes, claims_buffer: bytes) -> bytes:
    """The content of the extension, for a quote over ``report_data_of`` the buffer."""
    return cbor2.dumps(cbor2.CBORTag(QUOTE_TAG, [quote, claims_buffer]))


def decode_tagged(data: bytes) -> TaggedEvidence:
    """Read the content of the extension strictly; verifies nothing.

    The caller bounds ``data``: nothing here takes more memory than it has.

    Raises:
        EvidenceError: ``certificate_malformed``: another tag or shape, lengths that are
            indefinite or not the shortest, a claim twice or none of the key's hash, a
            hash of the wrong length, trailing bytes; ``evidence_kind_unsupported``, for
            a hash that is none of the three.
    """
    outer = _Items(data)
    tag = outer.head(_TAG)
    if tag != QUOTE_TAG:
        raise _malformed(f"CBOR tag {tag}, expected {QUOTE_TAG}")
    outer.count(_ARRAY, exactly=2)
    quote, buffer = outer.octets(), outer.octets()
    outer.end()
    if len(buffer) > MAX_CLAIMS_BYTES:
        raise _malformed(f"claims of {len(buffer)} bytes, at most {MAX_CLAIMS_BYTES}")
    return TaggedEvidence(quote, buffer, _claims(buffer))


def _claims(buffer: bytes) -> KeyClaims:
    items = _Items(buffer)
    count = items.head(_MAP)
    if count > MAX_CLAIMS:
        raise _malformed(f"{count} claims, at most {MAX_CLAIMS}")
    claims: dict[str, bytes] = {}
    for _ in range(count):
        name = items.text()
        if name in claims:
            raise _malformed(f"the claim {name!r} twice")
        claims[name] = items.octets()
    items.end()
    if _PUBKEY_HASH not in claims:
        raise _malformed(f"no claim {_PUBKEY_HASH!r}")
    name, value = _hash_entry(claims[_PUBKEY_HASH])
    return KeyClaims(name, value, claims.get(_NONCE))


def _hash_entry(entry: bytes) -> tuple[str, bytes]:
    items = _Items(entry)
    items.count(_ARRAY, exactly=2)
    number, value = items.head(_UNSIGNED), items.octets()
    items.end()
    name = _HASHES.get(number)
    if name is None:
        detail = f"certificate: {_PUBKEY_HASH} by algorithm {number}, known: 1, 7, 8"
        raise EvidenceError(Code.EVIDENCE_KIND_UNSUPPORTED, detail)
    size = hashlib.new(name).digest_size
    if len(value) != size:
        raise _malformed(f"{_PUBKEY_HASH} of {len(value)} bytes, {name} has {size}")
    return name, value


class _Items:
    """Reads one CBOR item after another (RFC 8949 section 3); every length is known."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def head(self, major: int) -> int:
        """The argument of the next item, which must be of this major type."""
        initial = self._take(1)[0]
        if initial >> 5 != major:
            raise _malformed(f"CBOR major type {initial >> 5}, expected {major}")
        argument = initial & 0x1F
        if argument < _ONE_BYTE:
            return argument
        if argument > _EIGHT_BYTES:
            raise _malformed("CBOR length is indefinite or reserved")
        size = 1 << (argument - _ONE_BYTE)
        value = int.from_bytes(self._take(size), "big")
        if value < (_ONE_BYTE if size == 1 else 1 << (4 * size)):
            raise _malformed("CBOR length is not the shortest")
        return value

    def count(self, major: int, *, exactly: int) -> None:
        found = self.head(major)
        if found != exactly:
            raise _malformed(f"{found} entries, expected {exactly}")

    def octets(self) -> bytes:
        return self._take(self.head(_BYTES))

    def text(self) -> str:
        length = self.head(_TEXT)
        if length > MAX_NAME_BYTES:
            raise _malformed(f"a claim's name of {length} bytes")
        try:
            return self._take(length).decode("ascii")
        except UnicodeDecodeError as e:
            raise _malformed("a claim's name is not ASCII") from e

    def end(self) -> None:
        left = len(self._data) - self._at
        if left:
            raise _malformed(f"{left} bytes after the last CBOR item")

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise _malformed("CBOR is cut short")
        part = self._data[self._at : self._at + count]
        self._at += count
        return part


def _malformed(why: str) -> EvidenceError:
    return EvidenceError(Code.CERTIFICATE_MALFORMED, f"tagged evidence: {why}")
