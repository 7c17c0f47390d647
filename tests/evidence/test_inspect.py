# SPDX-License-Identifier: Apache-2.0
"""Everything readable is shown, whatever is wrong with the rest."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import Code, EvidenceError
from tightseal.evidence.detect import EvidenceKind
from tightseal.evidence.inspect import Inspection, inspect_evidence


def fields(found: Inspection, title: str) -> dict[str, object]:
    return {n: v for s in found.sections if s.title == title for n, v in s.fields}


def test_every_quote_shows_what_the_index_says(vectors: Path) -> None:
    for entry in json.loads((vectors / "dcap" / "INDEX.json").read_text()):
        data = (vectors / "dcap" / entry["name"] / "quote.bin").read_bytes()
        found = inspect_evidence(data)
        assert found.kind is EvidenceKind.QUOTE
        header = fields(found, "header")
        assert header["version"] == entry["version"]
        assert header["user_data"] == entry["user_data"]
        report = fields(found, "report")
        if report:
            assert report["report_data"] == entry["report_data"]
            assert report.get("mrtd") == entry.get("mrtd")
        else:
            assert found.problem is not None
            assert found.problem.code is Code.QUOTE_TRAILING_BYTES
        certificate = fields(found, "certificate in the quote")
        if certificate:
            assert certificate == {"fmspc": entry["fmspc"], "ca": entry["ca"]}


def test_every_snp_report_shows_what_the_index_says(vectors: Path) -> None:
    for entry in json.loads((vectors / "snp" / "INDEX.json").read_text()):
        data = (vectors / "snp" / entry["name"] / "report.bin").read_bytes()
        found = inspect_evidence(data)
        assert found.problem is None
        report = fields(found, "report")
        assert report["version"] == entry["version"]
        assert report["snp_measurement"] == entry["measurement"]
        assert report["policy"] == entry["policy"]
        assert report["debug"] == entry["debug_allowed"]
        assert report["chip_id"] == entry["chip_id"]
        key = fields(found, "certificates that it needs")["signing_key"]
        assert key == ("vlek" if entry["name"].startswith("snp-vlek") else "vcek")


def test_a_quote_of_an_unknown_version_shows_its_header(vectors: Path) -> None:
    data = (vectors / "tampered" / "phala-sgx-v3.version.bin").read_bytes()
    found = inspect_evidence(data)
    assert [s.title for s in found.sections] == ["header"]
    assert fields(found, "header")["version"] == 2
    assert found.problem is not None
    assert found.problem.code is Code.QUOTE_VERSION_UNSUPPORTED


def test_what_is_no_evidence_is_refused() -> None:
    with pytest.raises(EvidenceError) as error:
        inspect_evidence(b"not evidence")
    assert error.value.code is Code.EVIDENCE_UNREADABLE


@given(st.binary(max_size=3000), st.sampled_from(["quote", "snp", "hcl"]))
def test_no_exception_outside_the_tree(tail: bytes, kind: str) -> None:
    vendor = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
    heads = {
        "quote": b"\x03\0\x02\0" + bytes(8) + vendor + bytes(20),
        "snp": b"\x03\0\0\0" + bytes(0x30) + b"\x01\0\0\0",
        "hcl": b"HCLA",
    }
    with contextlib.suppress(EvidenceError):
        inspect_evidence(heads[kind] + tail)
