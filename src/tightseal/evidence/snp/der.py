# SPDX-License-Identifier: Apache-2.0
"""A strict reader of DER (ITU-T X.690): the part that AMD's certificates need.

AMD gives VCEKs and VLEKs the serial number 0, and certificate libraries are about to
refuse such certificates. Reading them here keeps the verifier independent of that, and
leaves the library what it must not be replaced in: the cryptography.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

__all__ = ["DerError", "Element", "Reader", "read_integer", "read_oid", "read_time"]

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OID: Final = 0x06
UTF8_STRING: Final = 0x0C
PRINTABLE_STRING: Final = 0x13
IA5_STRING: Final = 0x16
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31
CONTEXT_0: Final = 0xA0
CONTEXT_3: Final = 0xA3

_HIGH_TAG: Final = 0x1F
_LONG_FORM: Final = 0x80
_MAX_LENGTH_OCTETS: Final = 4
_MAX_OID_OCTETS: Final = 32
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
            DerError: another tag, or a length that is not minimal or leads outside.
        """
        data, start = self._data, self._at
        if len(data) - start < 2:  # noqa: PLR2004
            raise DerError("element is cut short")
        if data[start] != tag or tag & _HIGH_TAG == _HIGH_TAG:
            raise DerError(f"tag {data[start]:#04x}, expected {tag:#04x}")
        length, at = self._length(start + 1)
        if length > len(data) - at:
            raise DerError("element leads outside")
        self._at = at + length
        return Element(tag, data[at : self._at], data[start : self._at])

    def inner(self, tag: int) -> Reader:
        """A reader over the content of the next element."""
        return Reader(self.next(tag).content)

    def end(self) -> None:
        """Refuse anything left over.

        Raises:
            DerError: there is more.
        """
        if self.more:
            raise DerError("bytes after the last element")

    def _length(self, at: int) -> tuple[int, int]:
        data = self._data
        first = data[at]
        if first < _LONG_FORM:
            return first, at + 1
        count = first - _LONG_FORM
        octets = data[at + 1 : at + 1 + count]
        if not 0 < count <= _MAX_LENGTH_OCTETS or len(octets) != count:
            raise DerError("length is indefinite, too long or cut short")
        length = int.from_bytes(octets)
        if octets[0] == 0 or length < _LONG_FORM:
            raise DerError("length is not minimal")
        return length, at + 1 + count


def read_integer(content: bytes) -> int:
    """The value of an INTEGER's content; two's complement, minimal.

    Raises:
        DerError: empty or not minimal.
    """
    if not content:
        raise DerError("empty integer")
    if len(content) > 1 and content[0] == (0xFF if content[1] & _LONG_FORM else 0):
        raise DerError("integer is not minimal")
    return int.from_bytes(content, signed=True)


def read_oid(content: bytes) -> str:
    """The dotted form of an OBJECT IDENTIFIER's content.

    Raises:
        DerError: empty, too long, cut short or padded.
    """
    if not content or len(content) > _MAX_OID_OCTETS or content[-1] & _LONG_FORM:
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


def read_time(reader: Reader) -> int:
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
