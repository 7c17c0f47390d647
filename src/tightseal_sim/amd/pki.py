# SPDX-License-Identifier: Apache-2.0
"""Certificates and CRLs as AMD forms them, under roots of our own (AMD 57230).

Written by hand and not with a certificate library, which refuses the serial number 0 of
AMD's VCEKs and every defect that the negative cases need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from tightseal.model.claims import SnpTcb
from tightseal_sim.intel import der

__all__ = [
    "FOREVER",
    "NOT_BEFORE",
    "CertificateFields",
    "CrlFields",
    "EndorsementFields",
    "authority_extensions",
    "endorsement_extensions",
    "issue",
    "issue_crl",
    "name",
]

NOT_BEFORE: Final = 1577836800
"""2020-01-01: when simulated certificates begin."""

FOREVER: Final = 2493072000
"""2049-01-01: when simulated certificates end; AMD's VLEKs live for a year."""

_ARC: Final = "1.3.6.1.4.1.3704.1"
_PSS: Final = "1.2.840.113549.1.1.10"
_MGF1: Final = "1.2.840.113549.1.1.8"
_SHA256: Final = "2.16.840.1.101.3.4.2.1"
_SHA384: Final = "2.16.840.1.101.3.4.2.2"
_NULL: Final = b"\x05\x00"
_TRUE: Final = b"\x01\x01\xff"
_SET: Final = 0x31
_UTF8: Final = 0x0C
_PRINTABLE: Final = 0x13
_IA5: Final = 0x16
_KEY_USAGE_CERT_AND_CRL: Final = b"\x03\x02\x01\x06"


@dataclass(frozen=True, slots=True)
class CertificateFields:
    """What goes into a certificate; times in Unix seconds."""

    subject: bytes
    issuer: bytes
    spki: bytes
    serial: int
    extensions: Sequence[bytes]
    not_before: int = NOT_BEFORE
    not_after: int = FOREVER


@dataclass(frozen=True, slots=True)
class EndorsementFields:
    """AMD's extensions of a VCEK or VLEK; ``None`` leaves an extension out."""

    structure: int
    product_name: str
    tcb: SnpTcb
    hardware_id: bytes | None
    csp_id: str | None


@dataclass(frozen=True, slots=True)
class CrlFields:
    """What goes into a CRL; times in Unix seconds."""

    issuer: bytes
    this_update: int
    next_update: int
    revoked: Sequence[int] = ()
    number: int = 1


def name(common_name: str) -> bytes:
    """A distinguished name with AMD's parts, in AMD's order."""
    parts = (
        ("2.5.4.11", _UTF8, "Engineering"),
        ("2.5.4.6", _PRINTABLE, "US"),
        ("2.5.4.7", _UTF8, "Santa Clara"),
        ("2.5.4.8", _UTF8, "CA"),
        ("2.5.4.10", _UTF8, "Simulated Micro Devices"),
        ("2.5.4.3", _UTF8, common_name),
    )
    return der.sequence(
        *(
            _tlv(_SET, der.sequence(der.oid(oid), _tlv(tag, text.encode())))
            for oid, tag, text in parts
        )
    )


def authority_extensions(path_length: int | None) -> tuple[bytes, ...]:
    """Basic constraints and key usage of a CA, both critical."""
    limit = b"" if path_length is None else der.integer(path_length)
    return (
        _extension("2.5.29.19", der.sequence(_TRUE + limit), critical=True),
        _extension("2.5.29.15", _KEY_USAGE_CERT_AND_CRL, critical=True),
    )


def endorsement_extensions(fields: EndorsementFields) -> tuple[bytes, ...]:
    """AMD's extensions: structure, product, firmware levels, chip or provider."""
    tcb = fields.tcb
    levels = [(1, tcb.bootloader), (2, tcb.tee), (3, tcb.snp), (8, tcb.microcode)]
    levels += [(n, 0) for n in (5, 6, 7)]
    levels += [(4, 0)] if tcb.fmc is None else [(9, tcb.fmc)]
    found = [
        _extension(f"{_ARC}.1", der.integer(fields.structure)),
        _extension(f"{_ARC}.2", _tlv(_IA5, fields.product_name.encode())),
        *(_extension(f"{_ARC}.3.{n}", der.integer(level)) for n, level in levels),
    ]
    if fields.hardware_id is not None:
        # AMD writes the bare bytes, without a tag of their own.
        found.append(_extension(f"{_ARC}.4", fields.hardware_id))
    if fields.csp_id is not None:
        found.append(_extension(f"{_ARC}.5", _tlv(_IA5, fields.csp_id.encode())))
    return tuple(found)


def issue(
    fields: CertificateFields, key: rsa.RSAPrivateKey, *, weak: bool = False
) -> bytes:
    """A certificate, DER, signed with RSA-PSS; ``weak`` takes SHA-256."""
    algorithm = _algorithm(weak=weak)
    tbs = der.sequence(
        der.explicit(0, der.integer(2)),
        der.integer(fields.serial),
        algorithm,
        fields.issuer,
        der.sequence(der.utc_time(fields.not_before), der.utc_time(fields.not_after)),
        fields.subject,
        fields.spki,
        der.explicit(3, der.sequence(*fields.extensions)),
    )
    return der.sequence(tbs, algorithm, der.bit_string(_sign(key, tbs, weak=weak)))


def issue_crl(fields: CrlFields, key: rsa.RSAPrivateKey) -> bytes:
    """A CRL, DER, signed with RSA-PSS and SHA-384."""
    algorithm = _algorithm(weak=False)
    entries = (
        der.sequence(der.integer(serial), der.utc_time(fields.this_update))
        for serial in fields.revoked
    )
    number = _extension("2.5.29.20", der.integer(fields.number))
    tbs = der.sequence(
        der.integer(1),
        algorithm,
        fields.issuer,
        der.utc_time(fields.this_update),
        der.utc_time(fields.next_update),
        *([der.sequence(*entries)] if fields.revoked else []),
        der.explicit(0, der.sequence(number)),
    )
    return der.sequence(tbs, algorithm, der.bit_string(_sign(key, tbs, weak=False)))


def _sign(key: rsa.RSAPrivateKey, data: bytes, *, weak: bool) -> bytes:
    digest = SHA256() if weak else SHA384()
    return key.sign(data, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)


def _algorithm(*, weak: bool) -> bytes:
    digest = der.sequence(der.oid(_SHA256 if weak else _SHA384), _NULL)
    parameters = der.sequence(
        der.explicit(0, digest),
        der.explicit(1, der.sequence(der.oid(_MGF1), digest)),
        der.explicit(2, der.integer(32 if weak else 48)),
    )
    return der.sequence(der.oid(_PSS), parameters)


def _extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    mark = _TRUE if critical else b""
    return der.sequence(der.oid(oid), mark + der.octet_string(value))


def _tlv(tag: int, content: bytes) -> bytes:
    """A short element under a tag that the shared writer does not know."""
    return bytes([tag, len(content)]) + content
