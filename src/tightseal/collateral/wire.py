# SPDX-License-Identifier: Apache-2.0
"""The forms in which collateral travels: signed JSON, PEM chains, CRLs, times.

Intel signs the exact text of a JSON value (PCS API v4, "Get TCB Info"), so the text is
cut out of the answer and never parsed and written again.
"""

from __future__ import annotations

import binascii
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from tightseal.collateral.certificate import parse_certificate
from tightseal.errors import Code, CollateralError

__all__ = [
    "MAX_CHAIN_CERTIFICATES",
    "MAX_CHAIN_CHARS",
    "MAX_DOCUMENT_BYTES",
    "PARSER_ERRORS",
    "SIGNATURE_BYTES",
    "SignedText",
    "certificate_chain",
    "certificate_der",
    "crl_der",
    "hex_bytes",
    "json_object",
    "load_crl",
    "parse_time",
    "signed_text",
]

MAX_DOCUMENT_BYTES: Final = 1 << 20
"""Longest single document, in bytes; Intel's longest today is some 20 KiB."""

MAX_CHAIN_CHARS: Final = 16_384
"""Longest PEM chain, in characters."""

MAX_CHAIN_CERTIFICATES: Final = 4
"""Most certificates in a chain."""

SIGNATURE_BYTES: Final = 64
"""Raw r and s of ECDSA P-256."""

PARSER_ERRORS: Final = (
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)
"""What cryptography and json raise on malformed input, some of it only when a field
is first looked at."""

_PEM_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*"
)
_PEM_CRL_START: Final = b"-----BEGIN X509 CRL-----"
_DER_SEQUENCE: Final = 0x30
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


@dataclass(frozen=True, slots=True)
class SignedText:
    """A JSON value as it stood in an answer, and the signature over it.

    Attributes:
        text: the exact text of the value, byte for byte as signed.
        signature: raw r and s, 64 bytes.
    """

    text: str
    signature: bytes


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers may take different ones of two equal names; so there are none."""
    members = dict(pairs)
    if len(members) != len(pairs):
        message = "a member is given twice"
        raise ValueError(message)
    return members


def _no_constant(name: str) -> NoReturn:
    message = f"{name} is not JSON"
    raise ValueError(message)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_constant=_no_constant
)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _expect(text: str, at: int, char: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != char:
        message = f"expected {char!r} at offset {at}"
        raise ValueError(message)
    return at + 1


def _members(text: str, name: str) -> dict[str, tuple[object, str]]:
    """Value and exact text of the two members of an answer."""
    found: dict[str, tuple[object, str]] = {}
    at = _expect(text, 0, "{")
    while True:
        key, at = _DECODER.raw_decode(text, _skip(text, at))
        if key not in (name, "signature") or key in found:
            message = f"member {key!r} is unknown or given twice"
            raise ValueError(message)
        start = _skip(text, _expect(text, at, ":"))
        value, at = _DECODER.raw_decode(text, start)
        found[key] = (value, text[start:at])
        at = _skip(text, at)
        if text[at : at + 1] != ",":
            break
        at += 1
    if _skip(text, _expect(text, at, "}")) != len(text):
        message = "bytes after the answer"
        raise ValueError(message)
    if len(found) != len(("value", "signature")):
        message = f"expected members {name} and signature"
        raise ValueError(message)
    return found


def signed_text(body: bytes, *, name: str, code: Code) -> SignedText:
    """Cut the signed value out of ``{"<name>":{...},"signature":"<hex>"}``.

    Source: Intel PCS API v4, "Get TCB Info" and "Get Quoting Enclave Identity".

    Args:
        body: the whole answer.
        name: ``tcbInfo`` or ``enclaveIdentity``.
        code: the code to raise with.

    Raises:
        CollateralError: ``code``, where the answer is not exactly of this form.

    Does not check the signature.
    """
    try:
        found = _members(body.decode("utf-8"), name)
        value, text = found[name]
        signature = found["signature"][0]
        if not isinstance(value, dict) or not isinstance(signature, str):
            message = f"{name} must be an object and signature a string"
            raise ValueError(message)  # noqa: TRY004  # caught three lines below
        raw = bytes.fromhex(signature)
        if len(raw) != SIGNATURE_BYTES or len(signature) != 2 * len(raw):
            message = f"signature must be {2 * SIGNATURE_BYTES} hex digits"
            raise ValueError(message)
    except (ValueError, RecursionError) as error:
        raise CollateralError(code, f"answer with {name}: {error}") from error
    return SignedText(text, raw)


def json_object(text: bytes | str, *, code: Code) -> dict[str, Any]:
    """Parse a JSON object; duplicate names at any depth are refused.

    Raises:
        CollateralError: ``code``.
    """
    try:
        plain = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(
            plain, object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise CollateralError(code, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CollateralError(code, "expected a JSON object")
    return value


def parse_time(text: object, *, code: Code) -> int:
    """Unix seconds of ``YYYY-MM-DDThh:mm:ssZ``, the only form Intel uses.

    Raises:
        CollateralError: ``code``.
    """
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        raise CollateralError(code, f"expected YYYY-MM-DDThh:mm:ssZ, got {text!r}")
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise CollateralError(code, f"no such time: {text}") from error
    return int(moment.timestamp())


def hex_bytes(text: object, *, what: str, code: Code) -> bytes:
    """Strict hex, either case, no spaces.

    Raises:
        CollateralError: ``code``.
    """
    if not isinstance(text, str):
        raise CollateralError(code, f"{what}: expected hex text")
    try:
        return binascii.unhexlify(text)
    except ValueError as error:
        raise CollateralError(code, f"{what}: not hex: {error}") from error


def certificate_der(data: bytes) -> bytes:
    """DER of one certificate given as DER or as one PEM block.

    Raises:
        CollateralError: ``certificate_malformed``.
    """
    if data[:1] == bytes([_DER_SEQUENCE]):
        parse_certificate(data)
        return data
    try:
        text = data.decode("ascii")
    except ValueError as error:
        raise CollateralError(Code.CERTIFICATE_MALFORMED, "neither DER nor PEM") from (
            error
        )
    chain = certificate_chain(text)
    if len(chain) != 1:
        raise CollateralError(
            Code.CERTIFICATE_MALFORMED, f"expected one certificate, got {len(chain)}"
        )
    return chain[0]


def certificate_chain(pem: str) -> tuple[bytes, ...]:
    """DER of each certificate of a PEM chain with nothing between the blocks.

    Raises:
        CollateralError: ``certificate_malformed``, or ``certificate_chain_too_long``.
    """
    if len(pem) > MAX_CHAIN_CHARS:
        raise CollateralError(
            Code.CERTIFICATE_CHAIN_TOO_LONG,
            f"{len(pem)} characters, at most {MAX_CHAIN_CHARS}",
        )
    blocks = _PEM_CERTIFICATE.findall(pem)
    if not blocks or "".join(blocks) != pem.lstrip():
        raise CollateralError(Code.CERTIFICATE_MALFORMED, "not a chain of PEM blocks")
    if len(blocks) > MAX_CHAIN_CERTIFICATES:
        raise CollateralError(
            Code.CERTIFICATE_CHAIN_TOO_LONG,
            f"{len(blocks)} certificates, at most {MAX_CHAIN_CERTIFICATES}",
        )
    return tuple(_pem_body(block) for block in blocks)


def _pem_body(block: str) -> bytes:
    base64 = "".join(block.strip().splitlines()[1:-1])
    try:
        der = binascii.a2b_base64("".join(base64.split()), strict_mode=True)
    except ValueError as error:
        raise CollateralError(Code.CERTIFICATE_MALFORMED, f"PEM: {error}") from error
    parse_certificate(der)
    return der


def load_crl(der: bytes) -> x509.CertificateRevocationList:
    """Parse one DER CRL.

    Raises:
        CollateralError: ``crl_malformed``.
    """
    try:
        return x509.load_der_x509_crl(der)
    except PARSER_ERRORS as error:
        raise CollateralError(Code.CRL_MALFORMED, str(error)) from error


def crl_der(body: bytes) -> bytes:
    """DER of a CRL delivered as DER, as PEM, or as hex of DER.

    Intel's PCS sends DER or PEM as asked; the PCCS answers ``rootcacrl`` in hex.

    Raises:
        CollateralError: ``crl_malformed``.
    """
    if body[:1] == bytes([_DER_SEQUENCE]):
        load_crl(body)
        return body
    try:
        if body.lstrip().startswith(_PEM_CRL_START):
            text = body.decode("ascii").strip().splitlines()
            if text[-1] != "-----END X509 CRL-----":
                message = "PEM without an end"
                raise ValueError(message)
            der = binascii.a2b_base64("".join(text[1:-1]), strict_mode=True)
        else:
            der = binascii.unhexlify(body.strip())
    except ValueError as error:
        raise CollateralError(
            Code.CRL_MALFORMED, f"neither DER, PEM nor hex: {error}"
        ) from error
    load_crl(der)
    return der
