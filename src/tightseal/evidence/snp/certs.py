# SPDX-License-Identifier: Apache-2.0
"""VCEK and VLEK certificates: which key, which product, which firmware, which chip.

AMD Publication 57230 (VCEK certificate and KDS interface), certificate extensions under
1.3.6.1.4.1.3704.1. Structure version 0 (Milan, Genoa) has a hardware id of 64 bytes and
spl_4 to spl_7; version 1 (Turin) has 8 bytes, FMC, and spl_5 to spl_7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tightseal.errors import Code, EvidenceError
from tightseal.evidence.snp.certificate import Certificate, parse_certificate
from tightseal.evidence.snp.products import Product, chip_id_bytes, product_of_name
from tightseal.evidence.snp.report import SigningKey
from tightseal.model import der
from tightseal.model.claims import SnpTcb
from tightseal.model.der import DerError, Reader

__all__ = ["Endorsement", "parse_endorsement"]

_ARC: Final = "1.3.6.1.4.1.3704.1"
_STRUCTURE: Final = f"{_ARC}.1"
_PRODUCT: Final = f"{_ARC}.2"
_BOOTLOADER: Final = f"{_ARC}.3.1"
_TEE: Final = f"{_ARC}.3.2"
_SNP: Final = f"{_ARC}.3.3"
_RESERVED: Final = tuple(f"{_ARC}.3.{n}" for n in (4, 5, 6, 7))
_MICROCODE: Final = f"{_ARC}.3.8"
_FMC: Final = f"{_ARC}.3.9"
_HARDWARE_ID: Final = f"{_ARC}.4"
_CSP_ID: Final = f"{_ARC}.5"

_STRUCTURE_WITH_FMC: Final = 1
_MAX_SPL: Final = 255

_SUBJECTS: Final = MappingProxyType(
    {"SEV-VCEK": SigningKey.VCEK, "SEV-VLEK": SigningKey.VLEK}
)


@dataclass(frozen=True, slots=True)
class Endorsement:
    """What a VCEK or VLEK certificate says; true once its chain is verified.

    Attributes:
        certificate: the certificate itself.
        role: VCEK or VLEK, by subject and extensions alike.
        product: the product line.
        product_name: as AMD writes it, such as ``Milan-B0``.
        tcb: the firmware that the key belongs to.
        reserved: spl_4 to spl_7, or on Turin spl_5 to spl_7.
        hardware_id: chip id (64 bytes, 8 on Turin) of a VCEK; ``None`` for a VLEK.
        csp_id: the cloud provider that a VLEK was made for; empty for a VCEK.
    """

    certificate: Certificate
    role: SigningKey
    product: Product
    product_name: str
    tcb: SnpTcb
    reserved: bytes
    hardware_id: bytes | None
    csp_id: str


def parse_endorsement(data: bytes) -> Endorsement:
    """Read a VCEK or VLEK certificate, DER, with every extension of AMD's that counts.

    Does not check: signatures, dates, or that the report belongs to it.

    Raises:
        EvidenceError: ``certificate_malformed``, ``certificate_role_mismatch`` (neither
            VCEK nor VLEK, or a mixture), ``snp_product_unknown`` or
            ``snp_extension_invalid``.
    """
    certificate = parse_certificate(data, what="VCEK or VLEK")
    extensions = {oid: e.value for oid, e in certificate.extensions.items()}
    role = _role(certificate, extensions)
    try:
        name = _text(extensions, _PRODUCT)
        product = product_of_name(name)
        if product is None:
            detail = f"{role.name} certificate: product {name!r}"
            raise EvidenceError(Code.SNP_PRODUCT_UNKNOWN, detail)
        tcb, reserved = _tcb(extensions, product)
        chip = _hardware_id(extensions, product) if role is SigningKey.VCEK else None
        csp = "" if role is SigningKey.VCEK else _text(extensions, _CSP_ID)
    except DerError as e:
        detail = f"{role.name} certificate: {e}"
        raise EvidenceError(Code.SNP_EXTENSION_INVALID, detail) from e
    return Endorsement(certificate, role, product, name, tcb, reserved, chip, csp)


def _role(certificate: Certificate, extensions: Mapping[str, bytes]) -> SigningKey:
    role = _SUBJECTS.get(certificate.subject_name)
    names_chip, names_csp = _HARDWARE_ID in extensions, _CSP_ID in extensions
    expected = (role is SigningKey.VCEK, role is SigningKey.VLEK)
    if role is None or (names_chip, names_csp) != expected or certificate.authority:
        detail = (
            f"signer certificate {certificate.subject_name!r}: hardware id "
            f"{names_chip}, CSP id {names_csp}; expected SEV-VCEK with a hardware id "
            "alone or SEV-VLEK with a CSP id alone"
        )
        raise EvidenceError(Code.CERTIFICATE_ROLE_MISMATCH, detail)
    return role


def _tcb(extensions: Mapping[str, bytes], product: Product) -> tuple[SnpTcb, bytes]:
    structure = _spl(extensions, _STRUCTURE)
    turin = product is Product.TURIN
    if structure != (_STRUCTURE_WITH_FMC if turin else 0):
        raise DerError(f"structure version {structure} for {product}")
    if not turin and _FMC in extensions:
        raise DerError(f"FMC on {product}")
    reserved = _RESERVED[1:] if turin else _RESERVED
    tcb = SnpTcb(
        bootloader=_spl(extensions, _BOOTLOADER),
        tee=_spl(extensions, _TEE),
        snp=_spl(extensions, _SNP),
        microcode=_spl(extensions, _MICROCODE),
        fmc=_spl(extensions, _FMC) if turin else None,
    )
    # A level that a certificate leaves out is zero, and must be zero in the report.
    levels = (_spl(extensions, oid) if oid in extensions else 0 for oid in reserved)
    return tcb, bytes(levels)


def _hardware_id(extensions: Mapping[str, bytes], product: Product) -> bytes:
    """The chip id: bare bytes, as AMD writes it, or an OCTET STRING of them.

    The bare form is recognised by its length, never by a tag: a chip id may begin with
    any byte.
    """
    value = extensions[_HARDWARE_ID]
    length = chip_id_bytes(product)
    if len(value) != length:
        reader = Reader(value)
        value = reader.next(der.OCTET_STRING).content
        reader.end()
    if len(value) != length:
        raise DerError(f"hardware id of {len(value)} bytes, expected {length}")
    return value


def _spl(extensions: Mapping[str, bytes], oid: str) -> int:
    reader = Reader(_required(extensions, oid))
    value = der.integer(reader.next(der.INTEGER).content)
    reader.end()
    if not 0 <= value <= _MAX_SPL:
        raise DerError(f"extension {oid}: {value}, expected 0 to {_MAX_SPL}")
    return value


def _text(extensions: Mapping[str, bytes], oid: str) -> str:
    reader = Reader(_required(extensions, oid))
    value = reader.next(der.IA5_STRING).content
    reader.end()
    if not value or not value.isascii():
        raise DerError(f"extension {oid} is empty or not ASCII")
    return value.decode("ascii")


def _required(extensions: Mapping[str, bytes], oid: str) -> bytes:
    value = extensions.get(oid)
    if value is None:
        raise DerError(f"extension {oid} is missing")
    return value
