# SPDX-License-Identifier: Apache-2.0
"""DER: one form for one meaning, and nothing but DerError."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.model import der
from tightseal.model.der import DerError, Reader
from tightseal_sim.intel import der as writer

BAD_LENGTHS = {
    "tag alone": b"\x30",
    "cut short": b"\x30\x02\x00",
    "no content": b"\x30\x01",
    "indefinite": b"\x30\x80\x00\x00",
    "long form of a short length": b"\x30\x81\x01\x00",
    "two octets for one": b"\x30\x82\x00\x81" + bytes(0x81),
    "four octets": b"\x30\x84\x00\x00\x00\x01\x00",
    "five octets": b"\x30\x85\x00\x00\x00\x00\x01\x00",
    "length cut short": b"\x30\x81",
    "high tag": b"\x3f\x00",
    "high tag of two octets": b"\x1f\x81\x00\x00",
}


@pytest.mark.parametrize("name", BAD_LENGTHS)
def test_tags_and_lengths_have_one_form(name: str) -> None:
    data = BAD_LENGTHS[name]
    with pytest.raises(DerError):
        der.children(data)
    with pytest.raises(DerError):
        der.whole_children(data)
    with pytest.raises(DerError):
        Reader(data).next(data[0])


def test_an_element_of_another_tag_is_refused() -> None:
    for data in (b"", b"\x31\x00"):
        with pytest.raises(DerError):
            Reader(data).next(der.SEQUENCE)
        with pytest.raises(DerError):
            der.single(data, der.SEQUENCE)
    with pytest.raises(DerError):
        der.single(b"\x30\x00\x30\x00", der.SEQUENCE)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65535, 65536])
def test_every_length_is_read_back(size: int) -> None:
    encoded = writer.sequence(bytes(size))
    assert der.single(encoded, der.SEQUENCE) == bytes(size)
    reader = Reader(encoded)
    element = reader.next(der.SEQUENCE)
    assert (element.content, element.encoded) == (bytes(size), encoded)
    reader.end()
    reader = Reader(encoded + encoded)
    reader.next(der.SEQUENCE)
    with pytest.raises(DerError):
        reader.end()


@given(st.lists(st.tuples(st.integers(1, 30), st.binary(max_size=300)), max_size=6))
def test_both_ways_of_reading_agree(elements: list[tuple[int, bytes]]) -> None:
    data = b"".join(writer._tlv(tag, content) for tag, content in elements)
    assert der.children(data) == elements
    assert b"".join(der.whole_children(data)) == data
    reader = Reader(data)
    for tag, content in elements:
        assert reader.peek() == tag
        assert reader.next(tag).content == content
    assert reader.peek() is None
    reader.end()


@given(st.binary(max_size=200))
def test_random_bytes_raise_der_errors_only(data: bytes) -> None:
    def read(reader: Reader) -> Iterator[bytes]:
        while reader.more:
            tag = reader.peek()
            assert tag is not None
            yield reader.next(tag).encoded

    try:
        wholes = der.whole_children(data)
    except DerError:
        with pytest.raises(DerError):
            list(read(Reader(data)))
        return
    assert b"".join(wholes) == data
    assert list(read(Reader(data))) == wholes


@given(st.integers(0, 1 << 70))
def test_integers_are_read_back_and_minimal(value: int) -> None:
    content = Reader(writer.integer(value)).next(der.INTEGER).content
    assert der.integer(content) == der.unsigned(content, 1 << 70) == value
    padded = b"\x00" + content if content[0] < 0x80 else b"\xff" + content
    for read in (der.integer, lambda c: der.unsigned(c, 1 << 80)):
        with pytest.raises(DerError):
            read(padded)


def test_unsigned_integers_are_bounded() -> None:
    assert der.unsigned(b"\0\x80", 255) == 128
    for bad in (b"", b"\0\1", b"\x80", b"\xff\x80", b"\1\0"):
        with pytest.raises(DerError):
            der.unsigned(bad, 255)
    assert der.integer(b"\x80") == -128


def test_booleans_are_all_or_nothing() -> None:
    assert der.boolean(b"\xff") is True
    assert der.boolean(b"\x00") is False
    for bad in (b"", b"\1", b"\xff\xff"):
        with pytest.raises(DerError):
            der.boolean(bad)


@given(st.lists(st.integers(0, 1 << 20), min_size=1, max_size=6))
def test_object_identifiers_are_read_back(arcs: list[int]) -> None:
    dotted = ".".join(map(str, (1, 3, *arcs)))
    content = Reader(writer.oid(dotted)).next(der.OBJECT_IDENTIFIER).content
    if len(content) <= der.MAX_OBJECT_IDENTIFIER_OCTETS:
        assert der.object_identifier(content) == dotted


@pytest.mark.parametrize("content", [b"", b"\x2a\x80\x01", b"\x2a\x86", bytes(33)])
def test_object_identifiers_have_one_form(content: bytes) -> None:
    with pytest.raises(DerError):
        der.object_identifier(content)


@given(st.integers(0, 2493072000))
def test_times_are_read_back(moment: int) -> None:
    text = datetime.fromtimestamp(moment, UTC).strftime("%Y%m%d%H%M%SZ").encode()
    generalized = bytes([der.GENERALIZED_TIME, len(text)]) + text
    assert der.time_of(Reader(generalized)) == moment
    assert der.time_of(Reader(writer.utc_time(moment))) == moment


@pytest.mark.parametrize(
    "text",
    [b"250229000000Z", b"251301000000Z", b"2501010000Z", b"250101000000+0000", b""],
)
def test_times_of_another_form_are_refused(text: bytes) -> None:
    with pytest.raises(DerError):
        der.time_of(Reader(bytes([der.UTC_TIME, len(text)]) + text))
