# SPDX-License-Identifier: Apache-2.0
"""Certificates of Intel's attestation PKI: strict PEM, roles, links, validity.

Rules: RFC 5280; Intel SGX PCK Certificate and CRL Specification, section 1.3; ECDSA
P-256 with SHA-256 only. A certificate's role is its exact common name together with
the CA flag and key usage: a key of one role never speaks for another.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, NoReturn, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from tightseal.errors import Code, TightsealError
from tightseal.evidence.intel.pck import SGX_EXTENSION_OID
from tightseal.evidence.intel.signatures import verifies
from tightseal.evidence.intel.signed import common_name, signed_content

__all__ = [
    "MAX_CHAIN_BYTES",
    "MAX_CHAIN_CERTIFICATES",
    "X509_ERRORS",
    "Certificate",
    "Role",
    "check_validity",
    "decode_chain",
    "parse_certificate",
    "require_issued_by",
    "require_role",
]

MAX_CHAIN_CERTIFICATES: Final = 3
"""Longest chain: PCK certificate, PCK CA, root. No other path is longer."""

MAX_CHAIN_BYTES: Final = 1 << 15
"""Longest PEM chain that is read."""


_T = TypeVar("_T", bound=x509.ExtensionType)


class Role(Enum):
    """What a certificate is for, by its exact common name."""

    ROOT_CA = "Intel SGX Root CA"
    PLATFORM_CA = "Intel SGX PCK Platform CA"
    PROCESSOR_CA = "Intel SGX PCK Processor CA"
    PCK = "Intel SGX PCK Certificate"
    TCB_SIGNING = "Intel SGX TCB Signing"

    @property
    def is_ca(self) -> bool:
        """Whether the role issues certificates and CRLs."""
        return self in _CA_ROLES


_CA_ROLES: Final = frozenset({Role.ROOT_CA, Role.PLATFORM_CA, Role.PROCESSOR_CA})


def _block(line_end: bytes) -> re.Pattern[bytes]:
    """One PEM block as every encoder writes it: 64 characters a line (RFC 7468)."""
    return re.compile(
        rb"-----BEGIN CERTIFICATE-----%(end)b"
        rb"((?:[A-Za-z0-9+/]{64}%(end)b)*[A-Za-z0-9+/=]{1,64}%(end)b)"
        rb"-----END CERTIFICATE-----(?:%(end)b|\Z)" % {b"end": line_end}
    )


_LF_BLOCK: Final = _block(b"\n")
_CRLF_BLOCK: Final = _block(b"\r\n")
_KNOWN_CRITICAL: Final = frozenset(
    {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE}
)


X509_ERRORS: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.AttributeNotFound,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What parsing a certificate or CRL can raise; the fields are parsed on first use."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """One parsed certificate; its signature is not verified by parsing.

    Attributes:
        der: as it came.
        subject, issuer: names, DER.
        common_name: the subject's only common name.
        serial: serial number.
        not_before, not_after: Unix seconds, both inclusive.
        spki: SubjectPublicKeyInfo, DER.
        key: the P-256 key.
        is_ca: CA flag of BasicConstraints, which must be there.
        path_length: CAs allowed below, or ``None`` for no limit.
        signs_certificates, signs_crls, signs_data: key usage; all ``False`` where the
            extension is absent, ``signs_data`` excepted.
        key_id, issuer_key_id: subject and authority key identifiers, where present.
        sgx_extension: value of Intel's SGX extension, DER, where present.
        signed: the bytes that the issuer signed.
        signature: DER.
    """

    der: bytes
    subject: bytes
    issuer: bytes
    common_name: str
    serial: int
    not_before: int
    not_after: int
    spki: bytes
    key: ec.EllipticCurvePublicKey
    is_ca: bool
    path_length: int | None
    signs_certificates: bool
    signs_crls: bool
    signs_data: bool
    key_id: bytes | None
    issuer_key_id: bytes | None
    sgx_extension: bytes | None
    signed: bytes
    signature: bytes


def decode_chain(pem: bytes, *, fault: type[TightsealError]) -> tuple[bytes, ...]:
    """Decode concatenated PEM certificates strictly, in the order they stand.

    Nothing may stand before, between or after the blocks but one final NUL, which
    Intel's quoting library writes; base64 must be canonical, in lines of 64, with line
    ends of one kind. The chain is covered by no signature: leniency here would be room
    for unsigned bytes, and would let one genuine chain, rewritten again and again, push
    other results out of the cache.

    Raises:
        fault: ``certificate_malformed`` or ``certificate_chain_too_long``.
    """
    if len(pem) > MAX_CHAIN_BYTES:
        detail = f"chain: {len(pem)} bytes, at most {MAX_CHAIN_BYTES}"
        raise fault(Code.CERTIFICATE_CHAIN_TOO_LONG, detail)
    text = pem.removesuffix(b"\0")
    pattern = _CRLF_BLOCK if b"\r" in text else _LF_BLOCK
    ders: list[bytes] = []
    at = 0
    while at < len(text):
        block = pattern.match(text, at)
        if block is None:
            raise fault(Code.CERTIFICATE_MALFORMED, f"chain: no PEM block at byte {at}")
        ders.append(_decode_block(block[1], fault))
        at = block.end()
        if len(ders) > MAX_CHAIN_CERTIFICATES:
            detail = f"chain: more than {MAX_CHAIN_CERTIFICATES} certificates"
            raise fault(Code.CERTIFICATE_CHAIN_TOO_LONG, detail)
    if not ders:
        raise fault(Code.CERTIFICATE_MALFORMED, "chain: no certificate")
    return tuple(ders)


def _decode_block(lines: bytes, fault: type[TightsealError]) -> bytes:
    body = lines.replace(b"\r", b"").replace(b"\n", b"")
    try:
        data = binascii.a2b_base64(body, strict_mode=True)
    except binascii.Error as e:
        raise fault(Code.CERTIFICATE_MALFORMED, "chain: not base64") from e
    if binascii.b2a_base64(data, newline=False) != body:
        raise fault(Code.CERTIFICATE_MALFORMED, "chain: base64 is not canonical")
    return data


def parse_certificate(data: bytes, *, fault: type[TightsealError]) -> Certificate:
    """Parse one certificate of the PKI, DER.

    Raises:
        fault: ``certificate_malformed``, where it is not a version 3 certificate with
            a P-256 key, signed with ECDSA and SHA-256, with BasicConstraints, one
            common name and no critical extension that is unknown.
    """
    try:
        return _certificate(data, x509.load_der_x509_certificate(data))
    except X509_ERRORS as e:
        detail = f"certificate: {type(e).__name__}: {e}"
        raise fault(Code.CERTIFICATE_MALFORMED, detail) from e


_SIGNED_FIELDS: Final = 8
"""Version, serial, algorithm, issuer, validity, subject, key, extensions."""


def _certificate(data: bytes, parsed: x509.Certificate) -> Certificate:
    signed, fields = signed_content(data)
    if len(fields) != _SIGNED_FIELDS:
        _fail(f"got {len(fields)} signed fields, expected {_SIGNED_FIELDS}")
    issuer, subject, spki = fields[3], fields[5], fields[6]
    if parsed.version is not x509.Version.v3:
        _fail(f"got version {parsed.version.name}, expected v3")
    key = parsed.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        _fail("key is not EC P-256")
    extensions = {e.oid: e for e in parsed.extensions}
    for oid, extension in extensions.items():
        if extension.critical and oid not in _KNOWN_CRITICAL:
            _fail(f"unknown critical extension {oid.dotted_string}")
    constraints = _value(
        extensions.get(ExtensionOID.BASIC_CONSTRAINTS), x509.BasicConstraints
    )
    if constraints is None:
        _fail("no BasicConstraints")
    usage = _value(extensions.get(ExtensionOID.KEY_USAGE), x509.KeyUsage)
    key_id = _value(
        extensions.get(ExtensionOID.SUBJECT_KEY_IDENTIFIER), x509.SubjectKeyIdentifier
    )
    issuer_key = _value(
        extensions.get(ExtensionOID.AUTHORITY_KEY_IDENTIFIER),
        x509.AuthorityKeyIdentifier,
    )
    sgx = _value(
        extensions.get(x509.ObjectIdentifier(SGX_EXTENSION_OID)),
        x509.UnrecognizedExtension,
    )
    return Certificate(
        der=data,
        subject=subject,
        issuer=issuer,
        common_name=common_name(subject),
        serial=parsed.serial_number,
        not_before=int(parsed.not_valid_before_utc.timestamp()),
        not_after=int(parsed.not_valid_after_utc.timestamp()),
        spki=spki,
        key=key,
        is_ca=constraints.ca,
        path_length=constraints.path_length,
        signs_certificates=usage is not None and usage.key_cert_sign,
        signs_crls=usage is not None and usage.crl_sign,
        signs_data=usage is None or usage.digital_signature,
        key_id=None if key_id is None else key_id.digest,
        issuer_key_id=None if issuer_key is None else issuer_key.key_identifier,
        sgx_extension=None if sgx is None else sgx.value,
        signed=signed,
        signature=parsed.signature,
    )


def require_role(
    certificate: Certificate, *roles: Role, fault: type[TightsealError]
) -> Role:
    """The certificate's role, where it is one of ``roles``.

    Raises:
        fault: ``certificate_role_mismatch``, where common name, CA flag, key usage or
            the SGX extension belong to another role.
    """
    name = certificate.common_name
    role = next((r for r in roles if r.value == name), None)
    if role is None:
        expected = " or ".join(repr(r.value) for r in roles)
        detail = f"certificate name: got {name!r}, expected {expected}"
        raise fault(Code.CERTIFICATE_ROLE_MISMATCH, detail)
    usage = certificate.signs_certificates and certificate.signs_crls
    fits = (
        certificate.is_ca and usage and certificate.key_id is not None
        if role.is_ca
        else not certificate.is_ca
        and not certificate.signs_certificates
        and certificate.signs_data
    )
    if not fits:
        detail = f"{name!r}: CA flag, key usage or key id do not fit the role"
        raise fault(Code.CERTIFICATE_ROLE_MISMATCH, detail)
    if certificate.sgx_extension is not None and role is not Role.PCK:
        detail = f"{name!r}: carries the SGX extension of a PCK certificate"
        raise fault(Code.CERTIFICATE_ROLE_MISMATCH, detail)
    return role


def require_issued_by(
    child: Certificate,
    issuer: Certificate,
    *,
    cas_below: int,
    fault: type[TightsealError],
) -> None:
    """Refuse a certificate that its issuer did not sign.

    Args:
        child: the certificate.
        issuer: a CA whose role was checked.
        cas_below: CA certificates between ``issuer`` and the end of the chain.
        fault: the family of error to raise.

    Raises:
        fault: ``certificate_chain_invalid``, where name, key identifier, path length
            or signature do not fit.
    """
    if child.issuer != issuer.subject:
        _broken(child, "issuer is not the next certificate's subject", fault)
    if child.issuer_key_id is not None and child.issuer_key_id != issuer.key_id:
        _broken(child, "authority key id is not the issuer's key id", fault)
    if issuer.path_length is not None and issuer.path_length < cas_below:
        _broken(child, f"path length of the issuer is {issuer.path_length}", fault)
    if not verifies(issuer.key, child.signature, child.signed):
        _broken(child, "signature does not verify under the issuer's key", fault)


def check_validity(
    certificate: Certificate, *, now: int, fault: type[TightsealError]
) -> None:
    """Refuse a certificate outside its validity period at ``now`` (Unix seconds).

    Raises:
        fault: ``certificate_not_yet_valid`` or ``certificate_expired``.
    """
    name = certificate.common_name
    if now < certificate.not_before:
        detail = f"{name!r}: valid from {certificate.not_before}, now {now}"
        raise fault(Code.CERTIFICATE_NOT_YET_VALID, detail)
    if now > certificate.not_after:
        detail = f"{name!r}: valid to {certificate.not_after}, now {now}"
        raise fault(Code.CERTIFICATE_EXPIRED, detail)


def _value(
    extension: x509.Extension[x509.ExtensionType] | None, kind: type[_T]
) -> _T | None:
    value = None if extension is None else extension.value
    return value if isinstance(value, kind) else None


def _broken(child: Certificate, why: str, fault: type[TightsealError]) -> NoReturn:
    raise fault(Code.CERTIFICATE_CHAIN_INVALID, f"{child.common_name!r}: {why}")


def _fail(text: str) -> NoReturn:
    raise ValueError(text)
