# SPDX-License-Identifier: Apache-2.0
"""Quote bytes to fields. What comes out is unverified.

Layout: Intel SGX ECDSA QuoteLib Reference, appendix A (version 3); Intel TDX DCAP
Quoting Library API, appendix A (versions 4 and 5). Integers are little-endian.

Not checked here: every signature, the certification data, the meaning of any field.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NoReturn

from tightseal.errors import Code, EvidenceError
from tightseal.evidence.intel.layout import BODY_BYTES, SGX_FIELDS, TD_FIELDS, BodyType
from tightseal.model.claims import Tee

__all__ = [
    "ATTESTATION_KEY_ECDSA_P256",
    "MAX_CERTIFICATION_DATA_BYTES",
    "MAX_QE_AUTH_DATA_BYTES",
    "MAX_QUOTE_BYTES",
    "PCK_CHAIN_CERTIFICATION_DATA",
    "QuoteHeader",
    "UnverifiedQuote",
    "parse_quote",
]

MAX_QUOTE_BYTES: Final = 1 << 17
"""Longest quote in bytes, padding included. Real ones are below 8 KiB; the bound leaves
room for the longest QE authentication data that the format allows."""

MAX_QE_AUTH_DATA_BYTES: Final = 0xFFFF
"""Longest QE authentication data: all that its 16-bit length can say is legal."""

MAX_CERTIFICATION_DATA_BYTES: Final = 1 << 15
"""Longest certification data (the PCK chain); real chains are about 3.7 KiB."""

ATTESTATION_KEY_ECDSA_P256: Final = 2
"""The only attestation key type that is supported (ECDSA-256 with P-256)."""

TEE_TYPE_SGX: Final = 0
TEE_TYPE_TDX: Final = 0x81

QE_REPORT_CERTIFICATION_DATA: Final = 6
"""Outer certification data type of versions 4 and 5: a QE report wraps the rest."""

PCK_CHAIN_CERTIFICATION_DATA: Final = 5
"""Innermost certification data type that can be verified: a PCK chain, PEM."""

_HEADER: Final = Struct("<HHIHH16s20s")
_QE_REPORT_BYTES: Final = BODY_BYTES[BodyType.SGX]
_SGX_BODY: Final = BodyType.SGX
_SGX: Final = Tee.SGX
_TDX: Final = Tee.TDX
_VERSION_SGX: Final = 3
_VERSION_TDX: Final = 4
_VERSION_DESCRIBED_BODY: Final = 5
_SIGNATURE_BYTES: Final = 64
_PUBLIC_KEY_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class QuoteHeader:
    """The header's fields as they stand.

    ``user_data`` names the quoting enclave at best; it identifies no platform.
    """

    version: int
    attestation_key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes


@dataclass(frozen=True, slots=True)
class UnverifiedQuote:
    """A quote taken apart; nothing in it may be believed yet.

    Attributes:
        header: the 48-byte header.
        body_type: kind of report.
        body: the report.
        signed_bytes: header, body descriptor where there is one, and body: what the
            attestation key signs.
        signature: raw r and s over ``signed_bytes``, 64 bytes.
        attestation_key: raw x and y of the P-256 key, 64 bytes.
        qe_report: the quoting enclave's SGX report, 384 bytes.
        qe_report_signature: raw r and s by the PCK, 64 bytes.
        qe_auth_data: of any legal length, zero included.
        certification_type: type of the innermost certification data.
        certification_data: the PCK chain where the type is 5; covered by no signature.
        declared_length: bytes that the quote's own lengths account for.
        trailing_zeros: zero bytes after that.
    """

    header: QuoteHeader
    body_type: BodyType
    body: bytes
    signed_bytes: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    certification_type: int
    certification_data: bytes
    declared_length: int
    trailing_zeros: int

    @property
    def tee(self) -> Tee:
        """SGX or TDX."""
        return _SGX if self.body_type is _SGX_BODY else _TDX

    def field(self, name: str) -> bytes:
        """A field of the report by its name in ``layout``, as it stands."""
        fields = SGX_FIELDS if self.body_type is _SGX_BODY else TD_FIELDS
        return self.body[fields[name]]

    def qe_field(self, name: str) -> bytes:
        """A field of the QE report by its name in ``layout``, as it stands."""
        return self.qe_report[SGX_FIELDS[name]]


class _Reader:
    """Reads forward through bytes and refuses to read past their end."""

    __slots__ = ("_at", "_code", "_data", "_where")

    def __init__(self, data: bytes, where: str, code: Code) -> None:
        self._data = data
        self._at = 0
        self._where = where
        self._code = code

    def take(self, size: int, what: str) -> bytes:
        at = self._at
        end = at + size
        if end > len(self._data):
            detail = (
                f"{self._where}: {what} needs {size} bytes at {at}, "
                f"got {len(self._data) - at}"
            )
            raise EvidenceError(self._code, detail)
        self._at = end
        return self._data[at:end]

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    @property
    def at(self) -> int:
        return self._at

    @property
    def left(self) -> int:
        return len(self._data) - self._at


def parse_quote(data: bytes) -> UnverifiedQuote:
    """Take a quote apart.

    Zero bytes after the declared length are counted; real quotes are padded.

    Args:
        data: the quote, versions 3 (SGX), 4 and 5 (TDX).

    Raises:
        EvidenceError: ``evidence_too_large``, ``quote_truncated``,
            ``quote_malformed``, ``quote_trailing_bytes``,
            ``quote_version_unsupported``, ``quote_tee_type_invalid``,
            ``quote_body_type_invalid``, ``attestation_key_type_unsupported`` or
            ``certification_data_unsupported``.
    """
    if len(data) > MAX_QUOTE_BYTES:
        detail = f"quote: {len(data)} bytes, at most {MAX_QUOTE_BYTES}"
        raise EvidenceError(Code.EVIDENCE_TOO_LARGE, detail)
    reader = _Reader(data, "quote", Code.QUOTE_TRUNCATED)
    header = _header(reader)
    body_type = _body_type(reader, header)
    body = reader.take(BODY_BYTES[body_type], "report body")
    signed = data[: reader.at]
    size = reader.number(4, "signature data length")
    section = _Reader(
        reader.take(size, "signature data"), "signature data", Code.QUOTE_MALFORMED
    )
    signature = section.take(_SIGNATURE_BYTES, "quote signature")
    attestation_key = section.take(_PUBLIC_KEY_BYTES, "attestation key")
    if header.version != _VERSION_SGX:
        _enter_qe_report_certification_data(section)
    qe_report = section.take(_QE_REPORT_BYTES, "QE report")
    qe_report_signature = section.take(_SIGNATURE_BYTES, "QE report signature")
    qe_auth_data = section.take(section.number(2, "QE auth length"), "QE auth data")
    certification_type, certification_data = _certification_data(section)
    trailing = data[reader.at :]
    if trailing.count(0) != len(trailing):
        detail = f"quote: non-zero bytes after the declared {reader.at}"
        raise EvidenceError(Code.QUOTE_TRAILING_BYTES, detail)
    return UnverifiedQuote(
        header=header,
        body_type=body_type,
        body=body,
        signed_bytes=signed,
        signature=signature,
        attestation_key=attestation_key,
        qe_report=qe_report,
        qe_report_signature=qe_report_signature,
        qe_auth_data=qe_auth_data,
        certification_type=certification_type,
        certification_data=certification_data,
        declared_length=reader.at,
        trailing_zeros=len(trailing),
    )


def _header(reader: _Reader) -> QuoteHeader:
    """Read the header and refuse what decides the layout and is not supported."""
    raw = reader.take(_HEADER.size, "header")
    header = QuoteHeader(*_HEADER.unpack(raw))
    if not _VERSION_SGX <= header.version <= _VERSION_DESCRIBED_BODY:
        detail = f"quote version: got {header.version}, expected 3, 4 or 5"
        raise EvidenceError(Code.QUOTE_VERSION_UNSUPPORTED, detail)
    if header.attestation_key_type != ATTESTATION_KEY_ECDSA_P256:
        detail = f"attestation key type: got {header.attestation_key_type}, expected 2"
        raise EvidenceError(Code.ATTESTATION_KEY_TYPE_UNSUPPORTED, detail)
    expected = TEE_TYPE_SGX if header.version == _VERSION_SGX else TEE_TYPE_TDX
    if header.tee_type != expected:
        detail = (
            f"TEE type in a version {header.version} quote: "
            f"got {header.tee_type:#x}, expected {expected:#x}"
        )
        raise EvidenceError(Code.QUOTE_TEE_TYPE_INVALID, detail)
    return header


def _body_type(reader: _Reader, header: QuoteHeader) -> BodyType:
    """Kind of report; from version 5 on a descriptor says it, and its size."""
    if header.version == _VERSION_SGX:
        return BodyType.SGX
    if header.version == _VERSION_TDX:
        return BodyType.TD10
    number = reader.number(2, "body type")
    size = reader.number(4, "body size")
    # An SGX body in a TDX quote would be a report of the wrong kind under a TD's name.
    if number not in (BodyType.TD10, BodyType.TD15, BodyType.TD15EX):
        detail = f"body type of a TDX quote: got {number}, expected 2, 3 or 4"
        raise EvidenceError(Code.QUOTE_BODY_TYPE_INVALID, detail)
    body_type = BodyType(number)
    if size != BODY_BYTES[body_type]:
        detail = f"body type {number}: got {size} bytes, not {BODY_BYTES[body_type]}"
        raise EvidenceError(Code.QUOTE_BODY_TYPE_INVALID, detail)
    return body_type


def _enter_qe_report_certification_data(section: _Reader) -> None:
    """Pass the outer certification data's head; its size must be all that is left."""
    kind = section.number(2, "certification data type")
    size = section.number(4, "certification data length")
    if kind != QE_REPORT_CERTIFICATION_DATA:
        detail = f"outer certification data type: got {kind}, expected 6"
        raise EvidenceError(Code.CERTIFICATION_DATA_UNSUPPORTED, detail)
    if size != section.left:
        _malformed(f"certification data: declares {size} bytes, got {section.left}")


def _certification_data(section: _Reader) -> tuple[int, bytes]:
    """Read the innermost certification data, which must end the signature data."""
    kind = section.number(2, "certification data type")
    size = section.number(4, "certification data length")
    if size > MAX_CERTIFICATION_DATA_BYTES:
        _malformed(
            f"certification data: {size} bytes, at most {MAX_CERTIFICATION_DATA_BYTES}"
        )
    data = section.take(size, "certification data")
    if section.left:
        _malformed(f"signature data: {section.left} bytes after its last part")
    return kind, data


def _malformed(detail: str) -> NoReturn:
    raise EvidenceError(Code.QUOTE_MALFORMED, detail)
