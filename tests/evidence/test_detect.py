# SPDX-License-Identifier: Apache-2.0
"""Evidence is named by what it is, also where one field is damaged."""

import base64
import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import Code, EvidenceError
from tightseal.evidence.detect import (
    MAX_EVIDENCE_BYTES,
    EvidenceKind,
    decode_text,
    detect,
)

VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
HEADER = b"\x04\0\x02\0\x81\0\0\0" + bytes(4) + VENDOR + bytes(20)
QUOTE = HEADER + bytes(range(256)) * 4
REPORT = b"\x02\0\0\0" + bytes(0x30) + b"\x01\0\0\0" + bytes(1184 - 0x38)


def test_every_vector_is_detected(vectors: Path) -> None:
    for entry in json.loads((vectors / "dcap" / "INDEX.json").read_text()):
        data = (vectors / "dcap" / entry["name"] / "quote.bin").read_bytes()
        assert detect(data) is EvidenceKind.QUOTE, entry["name"]
    for entry in json.loads((vectors / "snp" / "INDEX.json").read_text()):
        data = (vectors / "snp" / entry["name"] / "report.bin").read_bytes()
        assert detect(data) is EvidenceKind.SNP_REPORT, entry["name"]


def test_a_tampered_header_is_still_a_quote(vectors: Path) -> None:
    for entry in json.loads((vectors / "tampered" / "INDEX.json").read_text()):
        data = (vectors / "tampered" / entry["file"]).read_bytes()
        assert detect(data) is EvidenceKind.QUOTE, entry["file"]


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4, 7, 12, 27])
def test_one_damaged_header_byte_leaves_a_quote(offset: int) -> None:
    damaged = bytearray(QUOTE)
    damaged[offset] ^= 0xFF
    assert detect(bytes(damaged)) is EvidenceKind.QUOTE


@pytest.mark.parametrize("offset", [0, 3, 0x34, 0x37])
def test_one_damaged_field_leaves_a_report(offset: int) -> None:
    damaged = bytearray(REPORT)
    damaged[offset] ^= 0xFF
    assert detect(bytes(damaged)) is EvidenceKind.SNP_REPORT


def test_a_truncated_quote_is_a_quote() -> None:
    assert detect(HEADER) is EvidenceKind.QUOTE


def test_a_guest_cannot_pass_its_report_for_a_quote() -> None:
    # family_id and what follows are the guest owner's; the policy's upper half is not.
    report = bytearray(REPORT)
    report[16:48] = VENDOR * 2
    assert detect(bytes(report)) is EvidenceKind.SNP_REPORT


def test_extended_report_and_hcl() -> None:
    assert detect(REPORT + bytes(24)) is EvidenceKind.SNP_EXTENDED
    assert detect(b"HCLA" + bytes(2000)) is EvidenceKind.HCL


@pytest.mark.parametrize("data", [b"", b"hello", bytes(1184), bytes(48), b"\xff" * 99])
def test_nothing_that_matches(data: bytes) -> None:
    for function in (detect, decode_text):
        with pytest.raises(EvidenceError) as error:
            function(data)
        assert error.value.code is Code.EVIDENCE_UNREADABLE


@pytest.mark.parametrize("function", [detect, decode_text])
def test_too_large(function: object) -> None:
    assert callable(function)
    with pytest.raises(EvidenceError) as error:
        function(QUOTE + bytes(MAX_EVIDENCE_BYTES))
    assert error.value.code is Code.EVIDENCE_TOO_LARGE


def test_too_large_as_text() -> None:
    for text in (
        (QUOTE + bytes(MAX_EVIDENCE_BYTES)).hex().encode(),
        b" " * (3 * MAX_EVIDENCE_BYTES),
    ):
        with pytest.raises(EvidenceError) as error:
            decode_text(text)
        assert error.value.code is Code.EVIDENCE_TOO_LARGE


def wrapped(text: bytes, end: bytes) -> bytes:
    return end.join(text[at : at + 64] for at in range(0, len(text), 64)) + end


READABLE = {
    "binary": QUOTE,
    "hex": QUOTE.hex().encode(),
    "hex_upper": QUOTE.hex().upper().encode(),
    "hex_0x_newline": b"0x" + QUOTE.hex().encode() + b"\n",
    "hex_lines": wrapped(QUOTE.hex().encode(), b"\n"),
    "base64": base64.b64encode(QUOTE),
    "base64_lines": base64.encodebytes(QUOTE),
    "base64_crlf": b"\r\n " + wrapped(base64.b64encode(QUOTE), b" \r\n"),
    "base64_unpadded": base64.b64encode(QUOTE).rstrip(b"="),
    "base64url": base64.urlsafe_b64encode(QUOTE),
    "base64url_unpadded": base64.urlsafe_b64encode(QUOTE).rstrip(b"="),
}


@pytest.mark.parametrize("name", READABLE)
def test_readable_forms(name: str) -> None:
    assert decode_text(READABLE[name]) == QUOTE


BASE64 = base64.b64encode(QUOTE)
assert BASE64.endswith(b"=")
assert b"+" in BASE64
UNREADABLE = {
    "odd_hex": QUOTE.hex().encode()[:-1],
    "hex_space_inside": b"04 " + QUOTE.hex().encode()[2:],
    "base64_space_inside": BASE64[:8] + b" " + BASE64[8:],
    "base64_two_alphabets": BASE64.replace(b"/", b"_") + b"",
    "base64_unused_bits": BASE64.rstrip(b"=")[:-1] + b"/" + b"=" * BASE64.count(b"="),
    "base64_too_much_padding": BASE64 + b"=",
    "base64_twice": BASE64 + BASE64,
    "double_0x": b"0x0x" + QUOTE.hex().encode(),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_forms(name: str) -> None:
    with pytest.raises(EvidenceError) as error:
        decode_text(UNREADABLE[name])
    assert error.value.code is Code.EVIDENCE_UNREADABLE


@given(st.binary(max_size=400))
def test_text_of_a_quote_reads_back(tail: bytes) -> None:
    quote = HEADER + tail
    for text in (
        quote.hex().encode(),
        base64.b64encode(quote),
        base64.urlsafe_b64encode(quote),
    ):
        assert decode_text(text) == quote


@given(st.binary(max_size=2000))
def test_arbitrary_bytes_are_named_or_refused(data: bytes) -> None:
    for function in (detect, decode_text):
        with contextlib.suppress(EvidenceError):
            function(data)
