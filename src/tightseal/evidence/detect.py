# SPDX-License-Identifier: Apache-2.0
"""What kind of evidence some bytes are, and the bytes behind hex or base64.

Detection is no verification and errs on the side of a verifier: evidence with one
damaged header field is still named by what the other fields say, so that it is refused
by a named check and not waved off as unreadable.
"""

from __future__ import annotations

import base64
import binascii
import re
from enum import StrEnum
from typing import Final
from uuid import UUID

from tightseal.errors import Code, EvidenceError
from tightseal.model.claims import Tee

__all__ = [
    "MAX_EVIDENCE_BYTES",
    "MAX_TEXT_BYTES",
    "EvidenceKind",
    "decode_text",
    "detect",
    "named_tee",
]

MAX_EVIDENCE_BYTES: Final = 1 << 20
"""Longest evidence in bytes; real quotes and reports with certificates stay below
20 KiB, and release settings may set a lower limit."""

MAX_TEXT_BYTES: Final = 2 * MAX_EVIDENCE_BYTES + (1 << 16)
"""Longest evidence as text: hex doubles it, and line ends need room."""

INTEL_QE_VENDOR_ID: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
"""``qe_vendor_id`` of Intel's quoting enclaves (quote header, offset 12)."""

SNP_REPORT_BYTES: Final = 1184
"""Size of ATTESTATION_REPORT (SEV-SNP ABI, table "ATTESTATION_REPORT Structure")."""

HCL_MAGIC: Final = b"HCLA"
"""First bytes of the report that Azure's paravisor keeps in the vTPM."""

_GUIDS: Final = (
    UUID("63da758d-e664-4564-adc5-f4b93be8accd"),  # VCEK
    UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1"),  # VLEK
    UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782"),  # ASK
    UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae"),  # ARK
    UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea"),  # CRL
)
CERTIFICATE_GUIDS: Final = frozenset(
    raw for guid in _GUIDS for raw in (guid.bytes, guid.bytes_le)
)
"""GUIDs of the certificate table (GHCB specification, SNP Extended Guest Request), in
both byte orders, since hosts differ."""

_TEE_TYPES: Final = {b"\x00\x00\x00\x00": Tee.SGX, b"\x81\x00\x00\x00": Tee.TDX}
"""``tee_type`` of a quote header (offset 4, little-endian)."""

_ENOUGH: Final = 2
"""Plausible header fields, out of three or four, that name a kind."""

_HEX: Final = re.compile(rb"(?:0[xX])?((?:[0-9A-Fa-f]{2})+)")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]+={0,2}")
_BASE64URL: Final = re.compile(rb"[A-Za-z0-9_-]+={0,2}")


class EvidenceKind(StrEnum):
    """The kinds of evidence that are told apart."""

    QUOTE = "quote"
    """An Intel SGX or TDX quote."""

    SNP_REPORT = "snp_report"
    """A bare AMD SEV-SNP attestation report."""

    SNP_EXTENDED = "snp_extended"
    """A report followed by the certificate table of the extended guest request."""

    HCL = "hcl"
    """The report of Azure's paravisor, which wraps an SNP report."""


def detect(data: bytes) -> EvidenceKind:
    """Name the kind of binary evidence.

    Args:
        data: evidence as bytes.

    Raises:
        EvidenceError: ``evidence_unreadable`` where nothing matches,
            ``evidence_too_large`` above :data:`MAX_EVIDENCE_BYTES`.

    Verifies nothing: every field looked at is attacker-chosen.
    """
    kind = _kind(_bounded(data))
    if kind is None:
        message = (
            f"{len(data)} bytes starting {data[:8].hex() or '(empty)'}: no SGX or TDX "
            "quote, SNP report or Azure HCL report"
        )
        raise EvidenceError(Code.EVIDENCE_UNREADABLE, message)
    return kind


def named_tee(data: bytes, kind: EvidenceKind) -> Tee | None:
    """The TEE that evidence names itself by; nothing about it is verified.

    Args:
        data: binary evidence.
        kind: as ``detect`` says.
    """
    if kind is not EvidenceKind.QUOTE:
        return Tee.SNP
    return _TEE_TYPES.get(data[4:8])


def decode_text(data: bytes) -> bytes:
    """The binary evidence behind ``data``, which may be binary, hex or base64.

    Binary that looks like evidence is taken as it is. Text is read as hex first (an
    optional ``0x``), then as base64 of either alphabet, padded or not. White space is
    allowed around the text and at line ends, nowhere else; unused bits of base64 must
    be zero, so that one text has one meaning.

    Raises:
        EvidenceError: ``evidence_unreadable`` where no reading looks like evidence,
            ``evidence_too_large``.
    """
    _bounded(data, MAX_TEXT_BYTES)
    if _kind(data) is not None:
        return _bounded(data)
    text = b"".join(line.strip(b" \t\r") for line in data.strip().split(b"\n"))
    for decoded in (_from_hex(text), _from_base64(text)):
        if decoded is not None and _kind(decoded) is not None:
            return _bounded(decoded)
    message = (
        f"{len(data)} bytes starting {data[:8].hex() or '(empty)'}: neither evidence "
        "nor the hex or base64 of any"
    )
    raise EvidenceError(Code.EVIDENCE_UNREADABLE, message)


def _bounded(data: bytes, limit: int = MAX_EVIDENCE_BYTES) -> bytes:
    if len(data) > limit:
        message = f"{len(data)} bytes, at most {limit} are read"
        raise EvidenceError(Code.EVIDENCE_TOO_LARGE, message)
    return data


def _kind(data: bytes) -> EvidenceKind | None:
    if data[:4] == HCL_MAGIC:
        return EvidenceKind.HCL
    # Vendor id first: a guest owner picks bytes of an SNP report, but offset 12 to 16
    # of one is the upper half of its policy, which must be zero.
    if _vendor(data) and sum(_quote_fields(data)) >= _ENOUGH:
        return EvidenceKind.QUOTE
    if len(data) == SNP_REPORT_BYTES and any(_snp_fields(data)):
        return EvidenceKind.SNP_REPORT
    if len(data) > SNP_REPORT_BYTES and sum(_snp_fields(data)) >= _ENOUGH:
        return EvidenceKind.SNP_EXTENDED
    if sum(_quote_fields(data)) >= _ENOUGH:
        return EvidenceKind.QUOTE
    return None


def _vendor(data: bytes) -> bool:
    return data[12:28] == INTEL_QE_VENDOR_ID


def _quote_fields(data: bytes) -> tuple[bool, ...]:
    """Which fields of a quote header are plausible (DCAP quote, 48-byte header)."""
    return (
        data[0:2] in {b"\x03\x00", b"\x04\x00", b"\x05\x00"},
        data[2:4] == b"\x02\x00",
        data[4:8] in _TEE_TYPES,
        _vendor(data),
    )


def _snp_fields(data: bytes) -> tuple[bool, ...]:
    """Which fields of an SNP report are plausible: version, algorithm, table."""
    version = int.from_bytes(data[0:4], "little")
    first_guid = data[SNP_REPORT_BYTES : SNP_REPORT_BYTES + 16]
    return (
        version in range(2, 6),
        data[0x34:0x38] == b"\x01\x00\x00\x00",
        first_guid in CERTIFICATE_GUIDS,
    )


def _from_hex(text: bytes) -> bytes | None:
    match = _HEX.fullmatch(text)
    return None if match is None else bytes.fromhex(match[1].decode("ascii"))


def _from_base64(text: bytes) -> bytes | None:
    if _BASE64.fullmatch(text):
        standard = text
    elif _BASE64URL.fullmatch(text):
        standard = text.translate(bytes.maketrans(b"-_", b"+/"))
    else:
        return None
    bare = standard.rstrip(b"=")
    padded = bare + b"=" * (-len(bare) % 4)
    if standard not in {bare, padded}:
        return None
    try:
        decoded = base64.b64decode(padded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded if base64.b64encode(decoded) == padded else None
