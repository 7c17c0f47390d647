# SPDX-License-Identifier: Apache-2.0
"""Deterministic CBOR: what enters a hash, a signature or a KDF.

RFC 8949 section 4.2.1 (core deterministic encoding): shortest integers, definite
lengths, map keys in bytewise order of their encoding. The values allowed are a small
closed set, so that no two values share an encoding: integers of at most 64 bits,
bytes, text, booleans, null, arrays, and maps with text keys. Floats and tags are
refused.

Decoding is done here and not by the library: its decoder resolves tags (shared
references, bignums, decimal exponents) that let a short input cost unbounded time and
memory before any check of ours could run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

import cbor2

from tightseal.errors import Code, RequestError, ServiceError

if TYPE_CHECKING:
    from tightseal.model.labels import Label

__all__ = [
    "MAX_DEPTH",
    "MAX_ENCODED_BYTES",
    "Value",
    "decode",
    "digest",
    "encode",
    "labelled",
]

Value: TypeAlias = (
    "int | bytes | str | bool | Sequence[Value] | Mapping[str, Value] | None"
)

MAX_DEPTH: Final = 8
"""Deepest nesting of arrays and maps that is encoded or decoded."""

MAX_ENCODED_BYTES: Final = 1 << 20
"""Longest encoding that is decoded, in bytes."""

_INT_MIN: Final = -(1 << 64)
_INT_MAX: Final = (1 << 64) - 1

# Major types and arguments, RFC 8949 section 3.
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _SIMPLE = 0, 1, 2, 3, 4, 5, 7
_ONE_BYTE_ARGUMENT: Final = 24
_EIGHT_BYTE_ARGUMENT: Final = 27
_CONSTANTS: Final[Mapping[int, bool | None]] = MappingProxyType(
    {20: False, 21: True, 22: None}
)


def encode(value: Value) -> bytes:
    """Encode ``value`` deterministically (RFC 8949 section 4.2.1).

    Raises:
        ServiceError: ``internal``, where the value is outside the closed set; a
            programming error, never caused by input that was decoded before.
    """
    try:
        return cbor2.dumps(_ordered(value, 0))
    except (cbor2.CBORError, UnicodeError) as e:
        raise ServiceError(Code.INTERNAL, f"CBOR: {type(e).__name__}") from e


def labelled(label: Label, value: Value) -> bytes:
    """Encode ``[label, value]``: the form that is signed or derived from."""
    return encode([label.value, value])


def digest(label: Label, value: Value) -> bytes:
    """SHA-512 over the labelled encoding; 64 bytes."""
    return hashlib.sha512(labelled(label, value)).digest()


def decode(data: bytes, *, max_bytes: int = MAX_ENCODED_BYTES) -> Value:
    """Decode one deterministic encoding; anything else is refused.

    Args:
        data: the encoding.
        max_bytes: the longest that is looked at.

    Raises:
        RequestError: ``request_too_large`` over ``max_bytes``;
            ``request_malformed``, where ``data`` is not CBOR, not in the closed set, or
            not the deterministic encoding of its value: lengths and integers that are
            not shortest, indefinite lengths, keys out of order or twice, tags, floats,
            other simple values, nesting over ``MAX_DEPTH``, trailing bytes.
    """
    if len(data) > max_bytes:
        detail = f"CBOR: {len(data)} bytes, at most {max_bytes}"
        raise RequestError(Code.REQUEST_TOO_LARGE, detail)
    reader = _Reader(data)
    value = reader.item(0)
    if reader.at != len(data):
        raise reader.refused("trailing bytes")
    return value


class _Reader:
    """Reads items of the closed set, each in its one encoding."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def refused(self, why: str) -> RequestError:
        detail = f"not deterministic CBOR at byte {self.at}: {why}"
        return RequestError(Code.REQUEST_MALFORMED, detail)

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise self.refused("truncated")
        part = self.data[self.at : self.at + count]
        self.at += count
        return part

    def head(self) -> tuple[int, int]:
        """Major type and shortest argument (RFC 8949 section 3)."""
        initial = self.take(1)[0]
        major, info = initial >> 5, initial & 0x1F
        if info < _ONE_BYTE_ARGUMENT:
            return major, info
        if major == _SIMPLE:
            raise self.refused("a float or a simple value outside the closed set")
        if info > _EIGHT_BYTE_ARGUMENT:
            raise self.refused("indefinite length or reserved argument")
        size = 1 << (info - _ONE_BYTE_ARGUMENT)
        argument = int.from_bytes(self.take(size), "big")
        if argument < (_ONE_BYTE_ARGUMENT if size == 1 else 1 << (4 * size)):
            raise self.refused("argument is not the shortest")
        return major, argument

    def item(self, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise self.refused(f"nested deeper than {MAX_DEPTH}")
        major, argument = self.head()
        if major == _UNSIGNED:
            return argument
        if major == _NEGATIVE:
            return -1 - argument
        if major == _BYTES:
            return self.take(argument)
        if major == _TEXT:
            return self.text(argument)
        if major == _ARRAY:
            return [self.item(depth + 1) for _ in range(self.count(argument))]
        if major == _MAP:
            return self.mapping(self.count(argument), depth)
        if major == _SIMPLE and argument in _CONSTANTS:
            return _CONSTANTS[argument]
        raise self.refused("a tag or a value outside the closed set")

    def count(self, argument: int) -> int:
        """Every item takes a byte at least, so a count is bounded by what is left."""
        if argument > len(self.data) - self.at:
            raise self.refused("truncated")
        return argument

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode("utf-8", "strict")
        except UnicodeDecodeError as e:
            raise self.refused("text is not UTF-8") from e

    def mapping(self, count: int, depth: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        before = b""
        for _ in range(count):
            start = self.at
            key = self.item(depth + 1)
            if not isinstance(key, str):
                raise self.refused("map key is not text")
            encoded = self.data[start : self.at]
            if encoded <= before:
                raise self.refused("map key twice or out of order")
            found[key] = self.item(depth + 1)
            before = encoded
        return found


def _rank(key: str) -> tuple[int, bytes]:
    """Sorts text keys as their encodings sort: a longer text has a larger head."""
    text = key.encode("utf-8", "surrogatepass")
    return len(text), text


_PLAIN: Final = frozenset({type(None), bool, bytes, str})
"""Types whose values are in the closed set as they are."""


def _ordered(value: object, depth: int) -> object:
    """Check the closed set and put map keys in the order of their encoding.

    Every release encodes some hundred items, so the usual types are told by identity;
    what is derived from them takes the longer way.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if depth >= MAX_DEPTH and isinstance(value, list | tuple | Mapping) and value:
        raise ServiceError(Code.INTERNAL, f"CBOR nested deeper than {MAX_DEPTH}")
    if isinstance(value, list | tuple):
        below = depth + 1
        return [v if type(v) in _PLAIN else _ordered(v, below) for v in value]
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        return value
    if isinstance(value, int):
        if not _INT_MIN <= value <= _INT_MAX:
            raise ServiceError(Code.INTERNAL, "CBOR integer over 64 bits")
        return int(value)
    if isinstance(value, dict | Mapping):
        if not all(isinstance(k, str) for k in value):
            raise ServiceError(Code.INTERNAL, "CBOR map key that is not text")
        return {str(k): _ordered(value[k], depth + 1) for k in sorted(value, key=_rank)}
    raise ServiceError(Code.INTERNAL, f"CBOR cannot hold {kind.__name__}")
