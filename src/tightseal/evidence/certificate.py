# SPDX-License-Identifier: Apache-2.0
"""X.509 certificates that carry evidence, read strictly (RFC 5280).

Only what such a certificate is asked for: its key, its validity, its extensions, and
whether it is signed with its own key. Names, key usages and chains mean nothing here:
evidence takes their place.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tightseal.errors import Code, EvidenceError
from tightseal.model import der
from tightseal.model.der import DerError, Reader

__all__ = [
    "MAX_CERTIFICATE_BYTES",
    "Certificate",
    "check_own_signature",
    "looks_like_certificate",
    "pem_to_der",
    "read_certificate",
]

MAX_CERTIFICATE_BYTES: Final = 1 << 17
"""Largest certificate read; one with a quote has about 6 KiB, with two 10 KiB."""

MAX_EXTENSIONS: Final = 32
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192

_V3: Final = 2
_LONG_SEQUENCE: Final = re.compile(rb"\x30[\x81-\x83]", re.DOTALL)
_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----"
)
_PEM_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"

_SHA: Final[Mapping[str, type[hashes.HashAlgorithm]]] = {
    "1.2.840.10045.4.3.2": hashes.SHA256,
    "1.2.840.10045.4.3.3": hashes.SHA384,
    "1.2.840.10045.4.3.4": hashes.SHA512,
    "1.2.840.113549.1.1.11": hashes.SHA256,
    "1.2.840.113549.1.1.12": hashes.SHA384,
    "1.2.840.113549.1.1.13": hashes.SHA512,
}
"""ECDSA (RFC 5758) and PKCS #1 v1.5 (RFC 4055) by their hashes."""

_ED25519: Final = "1.3.101.112"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate as it stands; reading it verifies nothing.

    Attributes:
        encoded: the whole certificate, DER.
        signed_bytes: the TBSCertificate that the signature covers.
        signature: over it.
        algorithm: object identifier of the signature's algorithm.
        not_before, not_after: Unix seconds, both inclusive.
        spki: SubjectPublicKeyInfo, DER.
        extensions: contents of the OCTET STRINGs by dotted object identifier.
    """

    encoded: bytes
    signed_bytes: bytes
    signature: bytes
    algorithm: str
    not_before: int
    not_after: int
    spki: bytes
    extensions: Mapping[str, bytes]

    @property
    def key_hash(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo, 32 bytes."""
        return hashlib.sha256(self.spki).digest()


def looks_like_certificate(data: bytes) -> bool:
    """Whether bytes begin as a certificate does, in PEM or DER; no evidence does."""
    # Quotes hold PEM too, further on.
    return data.lstrip().startswith(_PEM_BEGIN) or bool(_LONG_SEQUENCE.match(data))


def pem_to_der(data: bytes) -> bytes:
    """The first certificate of PEM text, or the bytes themselves where they are none.

    Raises:
        EvidenceError: ``certificate_malformed``.
    """
    text = data.strip()
    if not text.startswith(_PEM_BEGIN):
        return data
    found = _PEM.match(text)
    if found is None:
        raise _malformed("PEM without an end")
    try:
        return b64decode(b"".join(found[1].split()), validate=True)
    except (binascii.Error, ValueError) as e:
        raise _malformed("PEM is not base64") from e


def read_certificate(data: bytes) -> Certificate:
    """Read one DER certificate, version 3, to its last byte.

    Raises:
        EvidenceError: ``certificate_malformed``: not strict DER, an extension twice,
            trailing bytes; ``evidence_too_large``.
    """
    if len(data) > MAX_CERTIFICATE_BYTES:
        detail = f"certificate of {len(data)} bytes, at most {MAX_CERTIFICATE_BYTES}"
        raise EvidenceError(Code.EVIDENCE_TOO_LARGE, detail)
    try:
        return _certificate(data)
    except DerError as e:
        raise _malformed(str(e)) from e


def _certificate(data: bytes) -> Certificate:
    outer = Reader(data)
    whole = outer.inner(der.SEQUENCE)
    outer.end()
    signed = whole.next(der.SEQUENCE)
    algorithm_bytes = whole.next(der.SEQUENCE).encoded
    algorithm = _algorithm(algorithm_bytes)
    signature = _bits(whole.next(der.BIT_STRING).content)
    whole.end()
    tbs = Reader(signed.content)
    if der.unsigned(tbs.inner(der.CONTEXT_0).next(der.INTEGER).content, _V3) != _V3:
        raise DerError("not version 3")
    tbs.next(der.INTEGER)
    if tbs.next(der.SEQUENCE).encoded != algorithm_bytes:
        raise DerError("two signature algorithms")
    tbs.next(der.SEQUENCE)
    validity = tbs.inner(der.SEQUENCE)
    not_before, not_after = der.time_of(validity), der.time_of(validity)
    validity.end()
    tbs.next(der.SEQUENCE)
    spki = tbs.next(der.SEQUENCE).encoded
    extensions = _extensions(tbs)
    tbs.end()
    return Certificate(
        encoded=data,
        signed_bytes=signed.encoded,
        signature=signature,
        algorithm=algorithm,
        not_before=not_before,
        not_after=not_after,
        spki=spki,
        extensions=extensions,
    )


def _algorithm(encoded: bytes) -> str:
    # The parameters are not read: Gramine writes NULL where RFC 5758 wants none.
    inner = Reader(encoded).inner(der.SEQUENCE)
    return der.object_identifier(inner.next(der.OBJECT_IDENTIFIER).content)


def _bits(content: bytes) -> bytes:
    if content[:1] != b"\0":
        raise DerError("bit string is not of whole bytes")
    return content[1:]


def _extensions(tbs: Reader) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    if not tbs.more:
        return found
    outer = tbs.inner(der.CONTEXT_3)
    rows = outer.inner(der.SEQUENCE)
    outer.end()
    while rows.more:
        row = rows.inner(der.SEQUENCE)
        name = der.object_identifier(row.next(der.OBJECT_IDENTIFIER).content)
        if row.peek() == der.BOOLEAN:
            der.boolean(row.next(der.BOOLEAN).content)
        value = row.next(der.OCTET_STRING).content
        row.end()
        if name in found:
            raise DerError(f"extension {name} twice")
        if len(found) == MAX_EXTENSIONS:
            raise DerError(f"more than {MAX_EXTENSIONS} extensions")
        found[name] = value
    return found


def check_own_signature(certificate: Certificate) -> None:
    """Check that the certificate is signed with the key that it names.

    ECDSA over P-256, P-384 or P-521, RSA of 2048 to 8192 bits with PKCS #1 v1.5,
    Ed25519; with SHA-2.

    Raises:
        EvidenceError: ``certificate_chain_invalid``, where it is not;
            ``certificate_malformed``, for a key or algorithm that is none of these.
    """
    try:
        key = load_der_public_key(certificate.spki)
        _verify(key, certificate)
    except InvalidSignature as e:
        detail = "certificate: not signed with its own key"
        raise EvidenceError(Code.CERTIFICATE_CHAIN_INVALID, detail) from e
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise _malformed(f"public key: {type(e).__name__}: {e}") from e


def _verify(key: object, certificate: Certificate) -> None:
    signature, signed = certificate.signature, certificate.signed_bytes
    sha = _SHA.get(certificate.algorithm)
    ecdsa = certificate.algorithm.startswith("1.2.840.10045.")
    if isinstance(key, ed25519.Ed25519PublicKey) and certificate.algorithm == _ED25519:
        key.verify(signature, signed)
    elif isinstance(key, ec.EllipticCurvePublicKey) and sha and ecdsa:
        if not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1):
            raise _malformed(f"key on the curve {key.curve.name}")
        key.verify(signature, signed, ec.ECDSA(sha()))
    elif isinstance(key, rsa.RSAPublicKey) and sha and not ecdsa:
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            raise _malformed(f"RSA key of {key.key_size} bits")
        key.verify(signature, signed, padding.PKCS1v15(), sha())
    else:
        raise _malformed(f"signature algorithm {certificate.algorithm} for this key")


def _malformed(why: str) -> EvidenceError:
    return EvidenceError(Code.CERTIFICATE_MALFORMED, f"certificate: {why}")
