# SPDX-License-Identifier: Apache-2.0
"""The one strict reader of DER (ITU-T X.690, section 10).

Tags of one octet, lengths in their shortest form, minimal integers, booleans 00 or FF.
It reads what a certificate library has no decoder for, and AMD's VCEKs and VLEKs, whose
serial number 0 certificate libraries are about to refuse. The cryptography stays with
the library. Two ways to read: ``children`` takes a whole content apart at once;
``Reader`` asks for one expected element after another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

__all__ = [
    "DerError",
    "Element",
    "Reader",
    "boolean",
    "children",
    "integer",
    "object_identifier",
    "single",
    "time_of",
    "unsigned",
    "whole_children",
]

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
UTF8_STRING: Final = 0x0C
PRINTABLE_STRING: Final = 0x13
IA5_STRING: Final = 0x16
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31
CONTEXT_0: Final = 0xA0
CONTEXT_3: Final = 0xA3

MAX_LENGTH_OCTETS: Final = 3
"""Most octets of a long length: elements of less than 16 MiB."""

MAX_OBJECT_IDENTIFIER_OCTETS: Final = 32
"""Longest content of an object identifier."""

_HIGH_TAG: Final = 0x1F
_LONG_FORM: Final = 0x80
_UTC_PIVOT: Final = 50

_TIME: Final = {
    UTC_TIME: re.compile(rb"(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})Z"),
    GENERALIZED_TIME: re.compile(rb"(\d{4})(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})Z"),
}


class DerError(ValueError):
    """The bytes are not strict DER, or not the structure that was asked for."""


@dataclass(frozen=True, slots=True)
class Element:
    """One tag-length-value.

    Attributes:
        tag: the identifier octet.
        content: the value.
        encoded: tag, length and value, as they stand.
    """

    tag: int
    content: bytes
    encoded: bytes


class Reader:
    """Reads elements one after another; ``end`` refuses what is left over."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def peek(self) -> int | None:
        """The next identifier octet, or ``None`` at the end."""
        return self._data[self._at] if self.more else None

    def next(self, tag: int) -> Element:
        """The next element, which must have this tag.

        Raises:
            DerError: the end, another tag, or as ``children``.
        """
        data, start = self._data, self._at
        at, end = _place(data, start, len(data))
        if data[start] != tag:
            raise DerError(f"tag {data[start]:#04x}, expected {tag:#04x}")
        self._at = end
        return Element(tag, data[at:end], data[start:end])

    def inner(self, tag: int) -> Reader:
        """A reader over the content of the next element; raises as ``next``."""
        return Reader(self.next(tag).content)

    def end(self) -> None:
        """Refuse anything left over.

        Raises:
            DerError: there is more.
        """
        if self.more:
            raise DerError("bytes after the last element")


def children(data: bytes) -> list[tuple[int, bytes]]:
    """Each element of ``data`` in turn, as tag and content.

    Raises:
        DerError: where a tag has more octets than one, or a length is indefinite, not
            the shortest, or leads outside.
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
        DerError: as ``children``.
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
        raise DerError("element is cut short")
    if data[start] & _HIGH_TAG == _HIGH_TAG:
        raise DerError(f"tag {data[start]:#04x} of several octets")
    length = data[start + 1]
    if length < _LONG_FORM:
        end = at + length
    else:
        at, end = _long_length(data, at, length - _LONG_FORM)
    if end > size:
        raise DerError("element leads outside")
    return at, end


def _long_length(data: bytes, at: int, count: int) -> tuple[int, int]:
    """Where the content of an element of 128 octets or more begins and ends."""
    if not 1 <= count <= MAX_LENGTH_OCTETS or at + count > len(data):
        raise DerError("length is indefinite, too long or cut short")
    length = int.from_bytes(data[at : at + count], "big")
    if length < _LONG_FORM or length >> 8 * (count - 1) == 0:
        raise DerError("length is not the shortest")
    return at + count, at + count + length


def single(data: bytes, tag: int) -> bytes:
    """The content of the one element that ``data`` is, of the given tag.

    Raises:
        DerError: none, several, another tag, or as ``children``.
    """
    at, end = _place(data, 0, len(data))
    if end != len(data) or data[0] != tag:
        raise DerError(f"expected exactly one element of tag {tag:#04x}")
    return data[at:end]


def integer(content: bytes) -> int:
    """The value of an INTEGER's content; two's complement, minimal.

    Raises:
        DerError: empty or not minimal.
    """
    if not content or (
        len(content) > 1 and content[0] == (0xFF if content[1] & _LONG_FORM else 0)
    ):
        raise DerError("integer is empty or not minimal")
    return int.from_bytes(content, "big", signed=True)


def unsigned(content: bytes, maximum: int) -> int:
    """The value of an INTEGER or ENUMERATED from 0 to ``maximum``.

    Raises:
        DerError: outside of that, empty or not minimal.
    """
    value = integer(content)
    if not 0 <= value <= maximum:
        raise DerError(f"integer {value} outside 0..{maximum}")
    return value


def boolean(content: bytes) -> bool:
    """The value of a BOOLEAN's content.

    Raises:
        DerError: neither 00 nor FF.
    """
    if content not in (b"\x00", b"\xff"):
        raise DerError("boolean is neither 00 nor FF")
    return content == b"\xff"


def object_identifier(content: bytes) -> str:
    """The dotted form of an OBJECT IDENTIFIER's content.

    Raises:
        DerError: empty, too long, cut short or padded.
    """
    long = len(content) > MAX_OBJECT_IDENTIFIER_OCTETS
    if not content or long or content[-1] & _LONG_FORM:
        raise DerError("object identifier is empty, too long or cut short")
    arcs: list[int] = []
    value = 0
    fresh = True
    for octet in content:
        if fresh and octet == _LONG_FORM:
            raise DerError("object identifier is padded")
        value = value << 7 | octet & ~_LONG_FORM
        fresh = not octet & _LONG_FORM
        if fresh:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(a) for a in (first, arcs[0] - 40 * first, *arcs[1:]))


def time_of(reader: Reader) -> int:
    """The next time as Unix seconds (UTCTime or GeneralizedTime, RFC 5280, 4.1.2.5).

    Raises:
        DerError: another form, or no such date.
    """
    tag = reader.peek()
    if tag not in _TIME:
        raise DerError("no time")
    found = _TIME[tag].fullmatch(reader.next(tag).content)
    if found is None:
        raise DerError("time is not in UTC with seconds")
    year, month, day, hour, minute, second = (int(part) for part in found.groups())
    if tag == UTC_TIME:
        year += 1900 if year >= _UTC_PIVOT else 2000
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as e:
        raise DerError("no such date") from e
    return int(moment.timestamp())
