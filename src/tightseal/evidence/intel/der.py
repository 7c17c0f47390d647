# SPDX-License-Identifier: Apache-2.0
"""A strict reader for the little DER that has no ready-made decoder (X.690 section 10).

Shortest lengths only, minimal integers, booleans 00 or FF. Raises ``ValueError``; the
callers name the fault.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BOOLEAN",
    "ECDSA_WITH_SHA256",
    "ENUMERATED",
    "INTEGER",
    "OBJECT_IDENTIFIER",
    "OCTET_STRING",
    "SEQUENCE",
    "boolean",
    "children",
    "common_name",
    "signed_content",
    "single",
    "unsigned",
    "whole_children",
]

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
SEQUENCE: Final = 0x30

ECDSA_WITH_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
"""The AlgorithmIdentifier ecdsa-with-SHA256, without parameters."""

_COMMON_NAME: Final = bytes.fromhex("550403")
_UTF8_STRING: Final = 0x0C
_PRINTABLE_STRING: Final = 0x13
_LONG_FORM: Final = 0x80
_MAX_LENGTH_BYTES: Final = 3


def children(data: bytes) -> list[tuple[int, bytes]]:
    """Each element of ``data`` in turn, as tag and content.

    Raises:
        ValueError: where a length is not the shortest, or runs past the end.
    """
    found: list[tuple[int, bytes]] = []
    start, size = 0, len(data)
    while start < size:
        at, end = _place(data, start, size)
        found.append((data[start], data[at:end]))
        start = end
    return found


def whole_children(data: bytes) -> list[bytes]:
    """Each element of ``data`` in turn, tag and length included.

    Raises:
        ValueError: as ``children``.
    """
    found: list[bytes] = []
    start, size = 0, len(data)
    while start < size:
        _, end = _place(data, start, size)
        found.append(data[start:end])
        start = end
    return found


def _place(data: bytes, start: int, size: int) -> tuple[int, int]:
    """Where the content of the element at ``start`` begins, and where it ends."""
    at = start + 2
    if at > size:
        message = "DER: element cut short"
        raise ValueError(message)
    length = data[start + 1]
    if length >= _LONG_FORM:
        at, length = _long_length(data, at, length - _LONG_FORM)
    if at + length > size:
        message = "DER: length runs past the end"
        raise ValueError(message)
    return at, at + length


def _long_length(data: bytes, at: int, count: int) -> tuple[int, int]:
    if not 1 <= count <= _MAX_LENGTH_BYTES or at + count > len(data):
        message = "DER: length of unsupported form"
        raise ValueError(message)
    length = int.from_bytes(data[at : at + count], "big")
    if length < _LONG_FORM or length >> 8 * (count - 1) == 0:
        message = "DER: length is not the shortest"
        raise ValueError(message)
    return at + count, length


def single(data: bytes, tag: int) -> bytes:
    """The content of the one element that ``data`` is, of the given tag."""
    elements = children(data)
    if len(elements) != 1 or elements[0][0] != tag:
        message = f"DER: expected exactly one element of tag {tag:#x}"
        raise ValueError(message)
    return elements[0][1]


def unsigned(content: bytes, maximum: int) -> int:
    """The value of an INTEGER or ENUMERATED from 0 to ``maximum``."""
    if not content or (
        len(content) > 1 and content[0] == 0 and content[1] < _LONG_FORM
    ):
        message = "DER: integer is not minimal"
        raise ValueError(message)
    value = int.from_bytes(content, "big", signed=True)
    if not 0 <= value <= maximum:
        message = f"DER: integer {value} outside 0..{maximum}"
        raise ValueError(message)
    return value


def boolean(content: bytes) -> bool:
    """The value of a BOOLEAN."""
    if content not in (b"\x00", b"\xff"):
        message = "DER: boolean is neither 00 nor FF"
        raise ValueError(message)
    return content == b"\xff"


def signed_content(data: bytes) -> tuple[bytes, list[bytes]]:
    """What is signed in a certificate or CRL, whole, and its elements, each whole.

    The algorithm must be ecdsa-with-SHA256 without parameters, inside and outside
    alike. The outer one is covered by no signature, so that any other form would let
    bytes change without a signature noticing (RFC 5280 section 4.1.1.2).

    Raises:
        ValueError: where the algorithm is another, or the form is.
    """
    outer = whole_children(single(data, SEQUENCE))
    if len(outer) != len(("signed", "algorithm", "signature")):
        message = "DER: expected signed content, algorithm and signature"
        raise ValueError(message)
    fields = whole_children(single(outer[0], SEQUENCE))
    inner = next((f for f in fields if f[0] == SEQUENCE), b"")
    if not outer[1] == inner == ECDSA_WITH_SHA256:
        message = "not signed with ECDSA and SHA-256"
        raise ValueError(message)
    return outer[0], fields


def common_name(name: bytes) -> str:
    """The only common name in a Name (RFC 5280 section 4.1.2.4), ASCII."""
    found: list[bytes] = []
    for _, names in children(single(name, SEQUENCE)):
        for _, attribute in children(names):
            oid, value = children(attribute)
            if oid == (OBJECT_IDENTIFIER, _COMMON_NAME):
                if value[0] not in (_UTF8_STRING, _PRINTABLE_STRING):
                    message = "common name of unsupported type"
                    raise ValueError(message)
                found.append(value[1])
    if len(found) != 1:
        message = f"{len(found)} common names, expected 1"
        raise ValueError(message)
    return found[0].decode("ascii")
