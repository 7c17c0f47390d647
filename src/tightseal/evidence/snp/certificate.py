# SPDX-License-Identifier: Apache-2.0
"""X.509 certificates and CRLs as AMD issues them, read strictly.

RFC 5280 with RFC 4055 (RSASSA-PSS). The parameters of the signature algorithm are not
read: every signature is verified with SHA-384 and a salt of 48 bytes, whatever a
certificate says of itself, so that a weaker algorithm cannot be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tightseal.errors import Code, CollateralError, EvidenceError
from tightseal.model import der
from tightseal.model.der import DerError, Reader

__all__ = [
    "MAX_CERTIFICATE_BYTES",
    "MAX_CRL_BYTES",
    "Certificate",
    "Crl",
    "Extension",
    "parse_certificate",
    "parse_crl",
    "signed_by",
]

MAX_CERTIFICATE_BYTES: Final = 8192
"""Largest certificate read; AMD's have about 1400 bytes."""

MAX_CRL_BYTES: Final = 65536
"""Largest CRL read; AMD's have about 1000 bytes."""

_MAX_EXTENSIONS: Final = 32
_MAX_NAME_PARTS: Final = 16
_MIN_RSA_BITS: Final = 2048
_MAX_RSA_BITS: Final = 8192
_V3: Final = 2
_CRL_V2: Final = 1

_RSASSA_PSS: Final = "1.2.840.113549.1.1.10"
_COMMON_NAME: Final = "2.5.4.3"
_KEY_USAGE: Final = "2.5.29.15"
_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_CRL_NUMBER: Final = "2.5.29.20"
_AUTHORITY_KEY_ID: Final = "2.5.29.35"
_UNDERSTOOD: Final = frozenset({_KEY_USAGE, _BASIC_CONSTRAINTS})
_UNDERSTOOD_IN_CRL: Final = frozenset({_CRL_NUMBER, _AUTHORITY_KEY_ID})
_KEY_CERT_SIGN: Final = 0x04
_TEXT_TAGS: Final = frozenset({der.UTF8_STRING, der.PRINTABLE_STRING})


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension: the value is the content of its OCTET STRING."""

    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate as it stands; its signature is not verified by reading it.

    Attributes:
        encoded: the whole certificate, DER.
        signed_bytes: the TBSCertificate that the signature covers.
        signature: the issuer's signature.
        serial: serial number; 0 for VCEKs and VLEKs.
        issuer, subject: the names, DER.
        issuer_name, subject_name: their common names.
        not_before, not_after: Unix seconds, both inclusive.
        spki: SubjectPublicKeyInfo, DER.
        extensions: by dotted object identifier.
    """

    encoded: bytes
    signed_bytes: bytes
    signature: bytes
    serial: int
    issuer: bytes
    issuer_name: str
    not_before: int
    not_after: int
    subject: bytes
    subject_name: str
    spki: bytes
    extensions: Mapping[str, Extension]

    @property
    def authority(self) -> bool:
        """Whether it may sign certificates: CA is true, and key usage says so."""
        constraints = self.extensions.get(_BASIC_CONSTRAINTS)
        usage = self.extensions.get(_KEY_USAGE)
        if constraints is None or usage is None:
            return False
        try:
            return _is_ca(constraints.value) and _may_sign(usage.value)
        except DerError:
            return False


@dataclass(frozen=True, slots=True)
class Crl:
    """A certificate revocation list as it stands; its signature is not verified.

    Attributes:
        encoded: the whole list, DER.
        signed_bytes: the TBSCertList that the signature covers.
        signature: the issuer's signature.
        issuer: the issuer's name, DER.
        this_update, next_update: Unix seconds.
        revoked: serial numbers.
        number: CRL number; 0 where the list has none.
    """

    encoded: bytes
    signed_bytes: bytes
    signature: bytes
    issuer: bytes
    this_update: int
    next_update: int
    revoked: frozenset[int]
    number: int


def parse_certificate(data: bytes, *, what: str) -> Certificate:
    """Read a DER certificate: version 3, RSASSA-PSS, no unknown critical extension.

    Args:
        data: at most ``MAX_CERTIFICATE_BYTES``.
        what: for the error text, such as ``VCEK``.

    Raises:
        EvidenceError: ``certificate_malformed``.
    """
    try:
        if len(data) > MAX_CERTIFICATE_BYTES:
            raise DerError(f"{len(data)} bytes, at most {MAX_CERTIFICATE_BYTES}")
        return _certificate(data)
    except DerError as e:
        raise EvidenceError(
            Code.CERTIFICATE_MALFORMED, f"{what} certificate: {e}"
        ) from e


def parse_crl(data: bytes) -> Crl:
    """Read a DER CRL: version 2, RSASSA-PSS, complete, with a next update.

    A list with an unknown critical extension is refused, and so is a delta or an
    indirect list, which could leave out what is revoked.

    Raises:
        CollateralError: ``crl_malformed``.
    """
    try:
        if len(data) > MAX_CRL_BYTES:
            raise DerError(f"{len(data)} bytes, at most {MAX_CRL_BYTES}")
        return _crl(data)
    except DerError as e:
        raise CollateralError(Code.CRL_MALFORMED, f"AMD CRL: {e}") from e


def signed_by(spki: bytes, *, signature: bytes, signed_bytes: bytes) -> bool:
    """Whether an RSA key made this RSASSA-PSS signature (SHA-384, salt of 48 bytes).

    Keys outside 2048 to 8192 bits, and keys that are not RSA, have made none.
    """
    try:
        key = load_der_public_key(spki)
        if not isinstance(key, rsa.RSAPublicKey):
            return False
        if not _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
            return False
        pss = padding.PSS(padding.MGF1(SHA384()), SHA384.digest_size)
        key.verify(signature, signed_bytes, pss, SHA384())
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def _signed(data: bytes) -> tuple[bytes, Reader, bytes, bytes]:
    """Open SEQUENCE { tbs, algorithm, signature }: tbs, its reader, algorithm, bits."""
    outer = Reader(data)
    sequence = outer.inner(der.SEQUENCE)
    outer.end()
    tbs = sequence.next(der.SEQUENCE)
    algorithm = sequence.next(der.SEQUENCE)
    bits = sequence.next(der.BIT_STRING).content
    sequence.end()
    if (
        der.object_identifier(
            Reader(algorithm.content).next(der.OBJECT_IDENTIFIER).content
        )
        != _RSASSA_PSS
    ):
        raise DerError("signature algorithm is not RSASSA-PSS")
    if not bits or bits[0]:
        raise DerError("signature is not whole octets")
    return tbs.encoded, Reader(tbs.content), algorithm.encoded, bits[1:]


def _certificate(data: bytes) -> Certificate:
    signed_bytes, tbs, algorithm, signature = _signed(data)
    version = tbs.inner(der.CONTEXT_0)
    if der.integer(version.next(der.INTEGER).content) != _V3:
        raise DerError("not version 3")
    version.end()
    serial = der.integer(tbs.next(der.INTEGER).content)
    if tbs.next(der.SEQUENCE).encoded != algorithm:
        raise DerError("two different signature algorithms")
    issuer = tbs.next(der.SEQUENCE)
    window = tbs.inner(der.SEQUENCE)
    not_before, not_after = der.time_of(window), der.time_of(window)
    window.end()
    subject = tbs.next(der.SEQUENCE)
    spki = tbs.next(der.SEQUENCE)
    wrapped = tbs.inner(der.CONTEXT_3)
    extensions = _extensions(wrapped.inner(der.SEQUENCE), _UNDERSTOOD)
    wrapped.end()
    tbs.end()
    return Certificate(
        encoded=data,
        signed_bytes=signed_bytes,
        signature=signature,
        serial=serial,
        issuer=issuer.encoded,
        issuer_name=_common_name(issuer.content),
        not_before=not_before,
        not_after=not_after,
        subject=subject.encoded,
        subject_name=_common_name(subject.content),
        spki=spki.encoded,
        extensions=extensions,
    )


def _crl(data: bytes) -> Crl:
    signed_bytes, tbs, algorithm, signature = _signed(data)
    if der.integer(tbs.next(der.INTEGER).content) != _CRL_V2:
        raise DerError("not version 2")
    if tbs.next(der.SEQUENCE).encoded != algorithm:
        raise DerError("two different signature algorithms")
    issuer = tbs.next(der.SEQUENCE)
    this_update, next_update = der.time_of(tbs), der.time_of(tbs)
    revoked: set[int] = set()
    if tbs.peek() == der.SEQUENCE:
        entries = tbs.inner(der.SEQUENCE)
        while entries.more:
            entry = entries.inner(der.SEQUENCE)
            revoked.add(der.integer(entry.next(der.INTEGER).content))
            der.time_of(entry)
            if entry.more:
                _extensions(entry.inner(der.SEQUENCE), frozenset())
            entry.end()
    number = 0
    if tbs.more:
        wrapped = tbs.inner(der.CONTEXT_0)
        extensions = _extensions(wrapped.inner(der.SEQUENCE), _UNDERSTOOD_IN_CRL)
        wrapped.end()
        tbs.end()
        number = _crl_number(extensions)
    return Crl(
        encoded=data,
        signed_bytes=signed_bytes,
        signature=signature,
        issuer=issuer.encoded,
        this_update=this_update,
        next_update=next_update,
        revoked=frozenset(revoked),
        number=number,
    )


def _crl_number(extensions: Mapping[str, Extension]) -> int:
    found = extensions.get(_CRL_NUMBER)
    if found is None:
        return 0
    reader = Reader(found.value)
    number = der.integer(reader.next(der.INTEGER).content)
    reader.end()
    if number < 0:
        raise DerError("negative CRL number")
    return number


def _extensions(reader: Reader, understood: frozenset[str]) -> dict[str, Extension]:
    found: dict[str, Extension] = {}
    while reader.more:
        extension = reader.inner(der.SEQUENCE)
        oid = der.object_identifier(extension.next(der.OBJECT_IDENTIFIER).content)
        critical = False
        if extension.peek() == der.BOOLEAN:
            critical = der.boolean(extension.next(der.BOOLEAN).content)
            if not critical:
                raise DerError(f"extension {oid}: criticality is not DER")
        value = extension.next(der.OCTET_STRING).content
        extension.end()
        if oid in found or len(found) == _MAX_EXTENSIONS:
            raise DerError(f"extension {oid} is repeated, or there are too many")
        if critical and oid not in understood:
            raise DerError(f"critical extension {oid} is not understood")
        found[oid] = Extension(critical, value)
    return found


def _common_name(content: bytes) -> str:
    """The only common name of a Name; empty where it has none."""
    reader = Reader(content)
    names: list[str] = []
    for _ in range(_MAX_NAME_PARTS):
        if not reader.more:
            break
        part = reader.inner(der.SET)
        pair = part.inner(der.SEQUENCE)
        part.end()
        oid = der.object_identifier(pair.next(der.OBJECT_IDENTIFIER).content)
        tag = pair.peek()
        if oid != _COMMON_NAME:
            continue
        if tag not in _TEXT_TAGS:
            raise DerError("common name is not text")
        text = pair.next(tag).content
        pair.end()
        if not text.isascii():
            raise DerError("common name is not ASCII")
        names.append(text.decode("ascii"))
    reader.end()
    if len(names) > 1:
        raise DerError("more than one common name")
    return names[0] if names else ""


def _is_ca(value: bytes) -> bool:
    outer = Reader(value)
    constraints = outer.inner(der.SEQUENCE)
    outer.end()
    if constraints.peek() != der.BOOLEAN:
        return False
    return der.boolean(constraints.next(der.BOOLEAN).content)


def _may_sign(value: bytes) -> bool:
    reader = Reader(value)
    bits = reader.next(der.BIT_STRING).content
    reader.end()
    return len(bits) > 1 and bool(bits[1] & _KEY_CERT_SIGN)
