# SPDX-License-Identifier: Apache-2.0
"""Files of collateral: what is read, what is refused, what comes back unchanged."""

import json
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest
from collateral_support import Recorded
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tightseal.collateral import bundle
from tightseal.collateral.bundle import (
    FileSource,
    bundle_from_json,
    bundle_to_json,
    intel_from_json,
    intel_to_json,
    snp_from_folder,
)
from tightseal.collateral.parts import assemble, split
from tightseal.errors import Code, CollateralError
from tightseal.model.claims import SnpTcb, Tee

NO_TCB = SnpTcb(0, 0, 0, 0)


def test_every_real_collateral_survives_reading_and_writing(
    vectors: Path, dcap_names: list[str]
) -> None:
    for name in dcap_names:
        text = (vectors / "dcap" / name / "collateral.json").read_bytes()
        collateral = intel_from_json(text)
        written = intel_to_json(collateral)
        assert intel_from_json(written) == collateral, name
        theirs = json.loads(dcap_qvl.QuoteCollateralV3.from_json(written).to_json())
        assert theirs == json.loads(written), name


def test_every_intel_signed_collateral_comes_apart_and_together(
    vectors: Path, dcap_names: list[str]
) -> None:
    genuine = [name for name in dcap_names if not name.startswith("intel-sample")]
    assert len(genuine) > 10
    for name in genuine:
        text = (vectors / "dcap" / name / "collateral.json").read_bytes()
        collateral = intel_from_json(text)
        parts = split(collateral)
        again = assemble(*parts)
        assert again.tcb_info == collateral.tcb_info
        assert again.root_ca_crl == collateral.root_ca_crl
        assert bundle_from_json(bundle_to_json(parts)) == tuple(
            sorted(parts, key=lambda part: str(part.name))
        )


DEFECTS = {
    "not JSON": lambda _: "{",
    "not an object": lambda _: "[]",
    "a member too many": lambda d: json.dumps(d | {"more": ""}),
    "a member missing": lambda d: json.dumps(
        {k: v for k, v in d.items() if k != "pck_crl"}
    ),
    "a member twice": lambda d: json.dumps(d)[:-1] + ',"tcb_info":"x"}',
    "hex of odd length": lambda d: json.dumps(d | {"pck_crl": "abc"}),
    "hex with spaces": lambda d: json.dumps(d | {"pck_crl": "ab cd"}),
    "bytes as numbers": lambda d: json.dumps(d | {"pck_crl": [1, 2]}),
    "text as number": lambda d: json.dumps(d | {"tcb_info": 1}),
    "half a surrogate": lambda d: json.dumps(d | {"tcb_info": "\ud800"}),
    "NaN": lambda d: json.dumps(d)[:-1] + ',"more":NaN}',
    "deep nesting": lambda _: '{"more":' + "[" * 100_000 + "]" * 100_000 + "}",
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_collateral_of_another_form_is_unreadable(vectors: Path, defect: str) -> None:
    text = (vectors / "dcap" / "phala-tdx-v4" / "collateral.json").read_text()
    spoilt = DEFECTS[defect](json.loads(text))
    with pytest.raises(CollateralError) as caught:
        intel_from_json(spoilt)
    assert caught.value.code is Code.COLLATERAL_UNREADABLE


def test_oversized_collateral_is_refused_before_parsing() -> None:
    with pytest.raises(CollateralError) as caught:
        intel_from_json("x" * (bundle.MAX_FILE_BYTES + 1))
    assert caught.value.code is Code.COLLATERAL_TOO_LARGE


def test_snp_folders_of_the_corpus_are_read(vectors: Path) -> None:
    folders = [p for p in (vectors / "snp").iterdir() if p.is_dir()]
    assert len(folders) >= 5
    for folder in folders:
        found = snp_from_folder(folder)
        signer = next(folder.glob("v?ek.der")).read_bytes()
        assert found.signer == signer
        assert found.root == (folder / "ark.der").read_bytes()


def test_snp_folder_of_pem_gives_the_same_der(vectors: Path, tmp_path: Path) -> None:
    source = vectors / "snp" / "snp-milan-trustee"
    for path in source.glob("*.der"):
        certificate = x509.load_der_x509_certificate(path.read_bytes())
        (tmp_path / f"{path.stem}.pem").write_bytes(
            certificate.public_bytes(Encoding.PEM)
        )
    assert snp_from_folder(tmp_path) == snp_from_folder(source)


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({}, Code.COLLATERAL_UNREADABLE),
        ({"vcek.der": "vcek.der"}, Code.COLLATERAL_UNREADABLE),
        (
            {"vcek.der": "vcek.der", "vlek.der": "vcek.der", "ask.der": "ask.der"},
            Code.COLLATERAL_UNREADABLE,
        ),
        ({"vcek.der": None, "ask.der": "ask.der"}, Code.CERTIFICATE_MALFORMED),
        (
            {"vcek.der": "vcek.der", "ask.der": "ask.der", "crl.der": None},
            Code.CRL_MALFORMED,
        ),
    ],
)
def test_incomplete_or_ambiguous_snp_folder(
    vectors: Path, tmp_path: Path, files: dict[str, str | None], code: Code
) -> None:
    source = vectors / "snp" / "snp-milan-trustee"
    for name, origin in files.items():
        data = b"\x30\x00junk" if origin is None else (source / origin).read_bytes()
        (tmp_path / name).write_bytes(data)
    with pytest.raises(CollateralError) as caught:
        snp_from_folder(tmp_path)
    assert caught.value.code is code


def test_file_source_gives_the_same_object_each_time(vectors: Path) -> None:
    path = vectors / "dcap" / "phala-tdx-v4" / "collateral.json"
    source = FileSource(path)
    one = source.intel(fmspc=bytes(6), ca="platform", tee=Tee.TDX, now=0)
    assert one is source.intel(fmspc=bytes(6), ca="platform", tee=Tee.TDX, now=1)
    folder = FileSource(vectors / "snp" / "snp-milan-google")
    two = folder.snp(product="Milan", chip_id=b"", tcb=NO_TCB, vlek=False, now=0)
    assert two is folder.snp(
        product="Milan", chip_id=b"", tcb=NO_TCB, vlek=False, now=1
    )


@pytest.mark.parametrize("path", ["missing.json", "."])
def test_file_source_without_a_file(tmp_path: Path, path: str) -> None:
    source = FileSource(tmp_path / path)
    with pytest.raises(CollateralError) as caught:
        source.intel(fmspc=bytes(6), ca="platform", tee=Tee.TDX, now=0)
    assert caught.value.code is Code.COLLATERAL_UNREADABLE
    with pytest.raises(CollateralError) as caught:
        source.snp(product="Milan", chip_id=b"", tcb=NO_TCB, vlek=False, now=0)
    assert caught.value.code is Code.COLLATERAL_UNREADABLE


def _set(part: dict[str, Any], **fields: object) -> dict[str, Any]:
    return part | fields


BUNDLE_DEFECTS = {
    "another format": lambda b: b | {"format": "other"},
    "another version": lambda b: b | {"version": 2},
    "parts no list": lambda b: b | {"parts": {}},
    "a part no object": lambda b: b | {"parts": ["x"]},
    "unknown kind": lambda b: b | {"parts": [_set(b["parts"][0], kind="key")]},
    "subject with a path": lambda b: (
        b | {"parts": [_set(b["parts"][0], subject="../../etc")]}
    ),
    "body not hex": lambda b: b | {"parts": [_set(b["parts"][0], body="zz")]},
}


@pytest.mark.parametrize("defect", BUNDLE_DEFECTS)
def test_bundle_of_another_form_is_unreadable(october: Recorded, defect: str) -> None:
    good = json.loads(bundle_to_json(split(october.collateral_)))
    with pytest.raises(CollateralError) as caught:
        bundle_from_json(json.dumps(BUNDLE_DEFECTS[defect](good)))
    assert caught.value.code is Code.COLLATERAL_UNREADABLE


def test_bundle_with_a_changed_document_is_refused(october: Recorded) -> None:
    fields = json.loads(bundle_to_json(split(october.collateral_)))
    codes = {}
    for part in fields["parts"]:
        body = bytearray.fromhex(part["body"])
        body[-20] ^= 1
        if part["kind"] in ("tcb_info", "qe_identity"):
            body = bytearray.fromhex(part["body"]).replace(b"2026-", b"2027-")
        spoilt = fields | {"parts": [part | {"body": body.hex()}]}
        if part["kind"] == "root_crl":
            continue  # its signer comes with the other parts: the source checks it
        with pytest.raises(CollateralError) as caught:
            bundle_from_json(json.dumps(spoilt))
        codes[part["kind"]] = caught.value.code
    assert codes == {
        "pck_crl": Code.CRL_SIGNATURE_INVALID,
        "qe_identity": Code.QE_IDENTITY_SIGNATURE_INVALID,
        "tcb_info": Code.TCB_INFO_SIGNATURE_INVALID,
    }


def test_reading_is_bounded_by_the_file_not_by_its_claim(tmp_path: Path) -> None:
    big = tmp_path / "big.json"
    with big.open("wb") as file:
        file.truncate(bundle.MAX_FILE_BYTES + 1)
    with pytest.raises(CollateralError) as caught:
        bundle.read_bounded(big, bundle.MAX_FILE_BYTES)
    assert caught.value.code is Code.COLLATERAL_TOO_LARGE
