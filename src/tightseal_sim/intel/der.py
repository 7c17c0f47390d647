# SPDX-License-Identifier: Apache-2.0
"""A DER writer, as small as the PCK extension and a hand-made CRL need (X.690)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

__all__ = [
    "bit_string",
    "boolean",
    "enumerated",
    "explicit",
    "integer",
    "octet_string",
    "oid",
    "sequence",
    "utc_time",
]


_LONG_FORM: Final = 0x80


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < _LONG_FORM:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, _LONG_FORM | len(length)]) + length + content


def sequence(*items: bytes) -> bytes:
    """SEQUENCE of encoded items."""
    return _tlv(0x30, b"".join(items))


def integer(value: int) -> bytes:
    """INTEGER, non-negative."""
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1))


def enumerated(value: int) -> bytes:
    """ENUMERATED, non-negative."""
    return _tlv(0x0A, value.to_bytes(value.bit_length() // 8 + 1))


def boolean(value: bool) -> bytes:  # noqa: FBT001
    """BOOLEAN."""
    return _tlv(0x01, b"\xff" if value else b"\x00")


def octet_string(value: bytes) -> bytes:
    """OCTET STRING."""
    return _tlv(0x04, value)


def bit_string(value: bytes) -> bytes:
    """BIT STRING of whole bytes."""
    return _tlv(0x03, b"\x00" + value)


def explicit(number: int, item: bytes) -> bytes:
    """An item in a constructed context-specific tag."""
    return _tlv(0xA0 | number, item)


def utc_time(moment: int) -> bytes:
    """UTCTime of Unix seconds, for years before 2050."""
    text = datetime.fromtimestamp(moment, UTC).strftime("%y%m%d%H%M%SZ")
    return _tlv(0x17, text.encode())


def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    content = b"".join(_base128(arc) for arc in (first * 40 + second, *rest))
    return _tlv(0x06, content)


def _base128(arc: int) -> bytes:
    groups = [arc & 0x7F]
    while arc := arc >> 7:
        groups.append(arc & 0x7F | 0x80)
    return bytes(reversed(groups))
