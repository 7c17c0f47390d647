# SPDX-License-Identifier: Apache-2.0
"""CRLs of Intel's attestation PKI: signature, issuer, time, revocation.

Rules: RFC 5280 section 5; Intel SGX PCK Certificate and CRL Specification, section
1.4. A CRL without a next update, a CRL number or an authority key identifier is
refused, and so is one with any critical extension: it may be partial or indirect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NoReturn

from cryptography import x509

from tightseal.errors import Code, CollateralError, TightsealError
from tightseal.evidence.intel.certs import X509_ERRORS, Certificate
from tightseal.evidence.intel.signatures import verifies
from tightseal.evidence.intel.signed import signed_content

__all__ = [
    "MAX_CRL_BYTES",
    "Crl",
    "check_crl_time",
    "require_not_revoked",
    "verify_crl",
]

MAX_CRL_BYTES: Final = 1 << 20
"""Longest CRL that is read; Intel's are a few KiB."""

MAX_CRL_NUMBER: Final = (1 << 159) - 1
"""Highest CRL number: 20 octets (RFC 5280 section 5.2.3)."""


@dataclass(frozen=True, slots=True)
class Crl:
    """A CRL whose signature verified.

    Attributes:
        issuer: the issuer's common name, for people.
        this_update, next_update: Unix seconds; current from the first, until before
            the second.
        number: the CRL number.
        revoked: serial numbers.
    """

    issuer: str
    this_update: int
    next_update: int
    number: int
    revoked: frozenset[int]


def verify_crl(data: bytes, issuer: Certificate) -> Crl:
    """Parse a CRL (DER) and verify that ``issuer`` signed it. Time is not judged.

    Raises:
        CollateralError: ``crl_malformed``, ``crl_issuer_mismatch`` or
            ``crl_signature_invalid``.
    """
    if len(data) > MAX_CRL_BYTES:
        detail = f"CRL: {len(data)} bytes, at most {MAX_CRL_BYTES}"
        raise CollateralError(Code.COLLATERAL_TOO_LARGE, detail)
    try:
        signed, fields = signed_content(data)
        parsed = x509.load_der_x509_crl(data)
        number, key_id = _extensions(parsed)
        next_update = parsed.next_update_utc
        if next_update is None:
            _fail("no next update")
        crl = Crl(
            issuer=issuer.common_name,
            this_update=int(parsed.last_update_utc.timestamp()),
            next_update=int(next_update.timestamp()),
            number=number,
            revoked=frozenset(entry.serial_number for entry in parsed),
        )
        name = fields[2]
        signature = parsed.signature
    except X509_ERRORS as e:
        detail = f"CRL: {type(e).__name__}: {e}"
        raise CollateralError(Code.CRL_MALFORMED, detail) from e
    if name != issuer.subject or key_id != issuer.key_id:
        detail = f"CRL: issuer or authority key id is not {issuer.common_name!r}"
        raise CollateralError(Code.CRL_ISSUER_MISMATCH, detail)
    if not verifies(issuer.key, signature, signed):
        detail = f"CRL: signature does not verify under {issuer.common_name!r}"
        raise CollateralError(Code.CRL_SIGNATURE_INVALID, detail)
    return crl


def _extensions(parsed: x509.CertificateRevocationList) -> tuple[int, bytes | None]:
    """CRL number and authority key identifier, both required."""
    extensions = parsed.extensions
    for extension in extensions:
        if extension.critical:
            _fail(f"critical extension {extension.oid.dotted_string}")
    number = extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    authority = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    if not 0 <= number <= MAX_CRL_NUMBER or authority.value.key_identifier is None:
        _fail("CRL number or authority key id is not usable")
    return number, authority.value.key_identifier


def check_crl_time(crl: Crl, *, now: int) -> None:
    """Refuse a CRL that is not current at ``now`` (Unix seconds).

    Raises:
        CollateralError: ``crl_not_yet_valid`` or ``crl_expired``.
    """
    if now < crl.this_update:
        detail = f"CRL of {crl.issuer!r}: issued {crl.this_update}, now {now}"
        raise CollateralError(Code.CRL_NOT_YET_VALID, detail)
    if now >= crl.next_update:
        detail = f"CRL of {crl.issuer!r}: next update {crl.next_update}, now {now}"
        raise CollateralError(Code.CRL_EXPIRED, detail)


def require_not_revoked(
    certificate: Certificate, crl: Crl, *, fault: type[TightsealError]
) -> None:
    """Refuse a certificate that its issuer's CRL names.

    Raises:
        fault: ``certificate_revoked``.
    """
    if certificate.serial in crl.revoked:
        detail = f"{certificate.common_name!r} {certificate.serial:x}: revoked"
        raise fault(Code.CERTIFICATE_REVOKED, detail)


def _fail(text: str) -> NoReturn:
    raise ValueError(text)
