# SPDX-License-Identifier: Apache-2.0
from typing import Any

import cbor2
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tightseal.errors import Code, RequestError, ServiceError
from tightseal.model import canonical
from tightseal.model.labels import Label

INTEGERS = st.integers(-(1 << 64), (1 << 64) - 1)
LEAVES = (
    st.none()
    | st.booleans()
    | INTEGERS
    | st.binary(max_size=300)
    | st.text(max_size=80)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(st.text(max_size=30), inner, max_size=6)
    ),
    max_leaves=30,
)


def depth(value: Any) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value
    if isinstance(inner, list):
        return 1 + max(map(depth, inner), default=-1)
    return 0


def exact(value: Any) -> Any:
    """Equality that tells True from 1, as the encoding does."""
    if isinstance(value, dict):
        return {k: exact(v) for k, v in value.items()}
    if isinstance(value, list):
        return [exact(v) for v in value]
    return type(value).__name__, value


@given(VALUES)
def test_decoding_gives_the_value_back(value: Any) -> None:
    assume(depth(value) <= canonical.MAX_DEPTH)
    assert exact(canonical.decode(canonical.encode(value))) == exact(value)


@given(VALUES, VALUES)
@example(1, True)
@example(0, False)
@example("", b"")
@example("a", b"a")
@example([], {})
@example([[1], 2], [[1, 2]])
@example(None, False)
@example(-1, (1 << 64) - 1)
def test_no_two_values_share_an_encoding(one: Any, other: Any) -> None:
    assume(max(depth(one), depth(other)) <= canonical.MAX_DEPTH)
    same = canonical.encode(one) == canonical.encode(other)
    assert same is (exact(one) == exact(other))


@given(VALUES)
def test_encoding_is_what_the_library_calls_canonical(value: Any) -> None:
    assume(depth(value) <= canonical.MAX_DEPTH)
    assert canonical.encode(value) == cbor2.dumps(value, canonical=True)


@given(st.dictionaries(st.text(max_size=12), INTEGERS, min_size=2), st.randoms())
def test_order_of_insertion_does_not_matter(value: dict[str, int], random: Any) -> None:
    keys = list(value)
    random.shuffle(keys)
    shuffled = {k: value[k] for k in keys}
    assert canonical.encode(shuffled) == canonical.encode(value)


@given(st.binary(max_size=64))
def test_whatever_decodes_is_the_encoding_of_its_value(data: bytes) -> None:
    try:
        value = canonical.decode(data)
    except RequestError:
        return
    assert canonical.encode(value) == data
    assert exact(cbor2.loads(data)) == exact(value)


@given(VALUES, st.data())
def test_changed_encoding_is_refused_or_another_value(
    value: Any, data: st.DataObject
) -> None:
    assume(depth(value) <= canonical.MAX_DEPTH)
    encoded = bytearray(canonical.encode(value))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    try:
        changed = canonical.decode(bytes(encoded))
    except RequestError:
        return
    assert exact(changed) != exact(value)
    assert canonical.encode(changed) == encoded


@given(VALUES, st.binary(min_size=1, max_size=4))
def test_trailing_and_missing_bytes_are_refused(value: Any, more: bytes) -> None:
    assume(depth(value) <= canonical.MAX_DEPTH)
    encoded = canonical.encode(value)
    for data in (encoded + more, encoded[:-1]):
        with pytest.raises(RequestError):
            canonical.decode(data)


REFUSED = {
    "nothing": "",
    "trailing byte": "0000",
    "one byte of argument missing": "18",
    "length beyond the end": "5bffffffffffffffff",
    "text beyond the end": "7bffffffffffffffff",
    "array beyond the end": "9b00ffffffffffffff",
    "map beyond the end": "bb7fffffffffffffff",
    "0 in two bytes": "1800",
    "23 in two bytes": "1817",
    "255 in three bytes": "1900ff",
    "65535 in five bytes": "1a0000ffff",
    "2^32 - 1 in nine bytes": "1b00000000ffffffff",
    "-1 in two bytes": "3800",
    "byte length not shortest": "580161",
    "text length not shortest": "780161",
    "array length not shortest": "980100",
    "map length not shortest": "b801616100",
    "indefinite bytes": "5f4161ff",
    "indefinite text": "7f6161ff",
    "indefinite array": "9f01ff",
    "indefinite map": "bf616101ff",
    "break alone": "ff",
    "reserved argument 28": "1c",
    "reserved argument 30": "1e",
    "map key twice": "a2616101616102",
    "map keys out of order": "a2616201616101",
    "longer map key first": "a262616101616201",
    "map key an integer": "a10101",
    "map key bytes": "a1416101",
    "map key null": "a1f600",
    "map value missing": "a16161",
    "text not UTF-8": "62c328",
    "text an encoded surrogate": "63eda080",
    "text overlong": "62c080",
    "half float": "f90000",
    "half NaN": "f97e00",
    "single float": "fa3f800000",
    "double float": "fb3ff0000000000000",
    "infinity": "f97c00",
    "undefined": "f7",
    "simple value 0": "e0",
    "simple value 16": "f0",
    "simple value 32": "f820",
    "false in two bytes": "f814",
    "bignum": "c249010000000000000000",
    "bignum of a small integer": "c24101",
    "negative bignum": "c34101",
    "date": "c11a00000001",
    "date as text": "c074323031332d30332d32315432303a30343a30305a",
    "decimal with a huge exponent": "c4821b7fffffffffffffff01",
    "bigfloat with a huge exponent": "c5821a7fffffff01",
    "rational": "d81e820102",
    "regular expression": "d8236161",
    "shared value": "d81c01",
    "reference to itself": "d81c81d81d00",
    "string reference": "d9010082416141",
    "set": "d9010281 01".replace(" ", ""),
    "self-described CBOR": "d9d9f700",
    "embedded CBOR": "d8184100",
}


@pytest.mark.parametrize("defect", REFUSED)
def test_anything_else_is_refused(defect: str) -> None:
    with pytest.raises(RequestError) as refused:
        canonical.decode(bytes.fromhex(REFUSED[defect]))
    assert refused.value.code is Code.REQUEST_MALFORMED


@pytest.mark.parametrize("opening", ["81", "a16161"])
def test_depth_is_bounded_both_ways(opening: str) -> None:
    deepest = bytes.fromhex(opening) * canonical.MAX_DEPTH + b"\0"
    value: Any = canonical.decode(deepest)
    assert canonical.encode(value) == deepest
    for levels in (canonical.MAX_DEPTH + 1, 1000, 100_000):
        with pytest.raises(RequestError, match="deeper"):
            canonical.decode(bytes.fromhex(opening) * levels + b"\0")
    with pytest.raises(ServiceError, match="deeper"):
        canonical.encode([value])


def test_length_is_bounded() -> None:
    with pytest.raises(RequestError) as refused:
        canonical.decode(bytes(canonical.MAX_ENCODED_BYTES + 1))
    assert refused.value.code is Code.REQUEST_TOO_LARGE
    longest = canonical.encode(bytes(canonical.MAX_ENCODED_BYTES - 5))
    assert len(longest) == canonical.MAX_ENCODED_BYTES
    assert len(canonical.decode(longest)) == canonical.MAX_ENCODED_BYTES - 5  # type: ignore[arg-type]


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


OUTSIDE: dict[str, Any] = {
    "float": 1.0,
    "NaN": float("nan"),
    "set": {1},
    "bytearray": bytearray(b"a"),
    "memoryview": memoryview(b"a"),
    "object": object(),
    "undefined": cbor2.undefined,
    "tag": cbor2.CBORTag(1, 1),
    "integer over 64 bits": 1 << 64,
    "integer under -2^64": -(1 << 64) - 1,
    "map key an integer": {1: 1},
    "map key bytes": {b"a": 1},
    "map key None": {None: 1},
    "lone surrogate": "\ud800",
    "lone surrogate as key": {"\ud800": 1},
    "float inside": [[{"a": 1.5}]],
    "itself": cyclic(),
}


@pytest.mark.parametrize("what", OUTSIDE)
def test_value_outside_the_closed_set_is_a_programming_error(what: str) -> None:
    with pytest.raises(ServiceError) as refused:
        canonical.encode(OUTSIDE[what])
    assert refused.value.code is Code.INTERNAL


def test_known_encodings() -> None:
    assert canonical.encode({"b": 1, "a": [None, True, -1], "": b"\0"}).hex() == (
        "a3" + "60" + "4100" + "6161" + "83f6f520" + "6162" + "01"
    )
    assert canonical.encode(("x",)) == canonical.encode(["x"])
    assert canonical.labelled(Label.NONCE_MAC, 1) == canonical.encode(
        ["tightseal/v1/mac/nonce", 1]
    )
    assert len(canonical.digest(Label.CLAIMS, None)) == 64
    assert canonical.digest(Label.CLAIMS, None) != canonical.digest(
        Label.SETTINGS, None
    )
