# SPDX-License-Identifier: Apache-2.0
"""What the transport needs to know of a certificate: names, dates, key, signature.

AMD gives VCEKs the serial number 0, for which certificate libraries are about to refuse
them, so the outline is read here and the library verifies signatures only. The verifier
reads certificates for itself, whole and strictly; here damage is caught in transport.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tightseal.errors import Code, CollateralError
from tightseal.model import der
from tightseal.model.der import DerError, Reader

__all__ = ["Certificate", "issued_by", "parse_certificate", "public_key"]

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_ECDSA_WITH_SHA256: Final = "1.2.840.10045.4.3.2"
_RSASSA_PSS: Final = "1.2.840.113549.1.1.10"
_V3: Final = 2


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate's outline; nothing about it is verified.

    Attributes:
        issuer, subject: names, DER.
        not_before, not_after: Unix seconds, both inclusive.
        spki: SubjectPublicKeyInfo, DER.
        algorithm: of the signature, dotted.
        signed: the bytes that the signature covers.
        signature: the issuer's.
    """

    issuer: bytes
    subject: bytes
    not_before: int
    not_after: int
    spki: bytes
    algorithm: str
    signed: bytes
    signature: bytes


def parse_certificate(data: bytes) -> Certificate:
    """Read the outline of one DER certificate, version 3 (RFC 5280 section 4.1).

    Raises:
        CollateralError: ``certificate_malformed``.

    Extensions are not read, and the serial number may be any.
    """
    try:
        return _outline(data)
    except DerError as error:
        raise CollateralError(Code.CERTIFICATE_MALFORMED, str(error)) from error


def _outline(data: bytes) -> Certificate:
    outer = Reader(der.single(data, der.SEQUENCE))
    signed = outer.next(der.SEQUENCE)
    algorithm = outer.next(der.SEQUENCE)
    bits = outer.next(der.BIT_STRING).content
    outer.end()
    if not bits or bits[0]:
        raise DerError("signature is not whole octets")
    tbs = Reader(signed.content)
    if der.integer(der.single(tbs.next(der.CONTEXT_0).content, der.INTEGER)) != _V3:
        raise DerError("not version 3")
    der.integer(tbs.next(der.INTEGER).content)
    if tbs.next(der.SEQUENCE).encoded != algorithm.encoded:
        raise DerError("two different signature algorithms")
    issuer = tbs.next(der.SEQUENCE).encoded
    window = tbs.inner(der.SEQUENCE)
    not_before, not_after = der.time_of(window), der.time_of(window)
    window.end()
    subject = tbs.next(der.SEQUENCE).encoded
    spki = tbs.next(der.SEQUENCE).encoded
    if tbs.more:
        der.single(tbs.next(der.CONTEXT_3).content, der.SEQUENCE)
    tbs.end()
    oid = Reader(algorithm.content).next(der.OBJECT_IDENTIFIER).content
    return Certificate(
        issuer=issuer,
        subject=subject,
        not_before=not_before,
        not_after=not_after,
        spki=spki,
        algorithm=der.object_identifier(oid),
        signed=signed.encoded,
        signature=bits[1:],
    )


def public_key(spki: bytes) -> PublicKey | None:
    """The key of a SubjectPublicKeyInfo; ``None`` for one of neither vendor's kind."""
    try:
        key = load_der_public_key(spki)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)):
        return key
    return None


def issued_by(child: Certificate, issuer: Certificate) -> bool:
    """Whether ``issuer`` names and signed ``child``, by Intel's or AMD's algorithm.

    Those are ECDSA with SHA-256, and RSASSA-PSS with SHA-384 and a salt of 48 bytes
    (AMD 57230), whatever parameters a certificate gives. Neither validity, role nor
    root is judged.
    """
    if child.issuer != issuer.subject:
        return False
    key = public_key(issuer.spki)
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            if child.algorithm != _ECDSA_WITH_SHA256:
                return False
            key.verify(child.signature, child.signed, ec.ECDSA(SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            if child.algorithm != _RSASSA_PSS:
                return False
            pss = padding.PSS(padding.MGF1(SHA384()), SHA384.digest_size)
            key.verify(child.signature, child.signed, pss, SHA384())
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
