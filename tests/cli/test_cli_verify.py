# SPDX-License-Identifier: Apache-2.0
"""``tightseal verify``: every vector's verdict at its time, and the whole contract."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from cli_support import Said, run, run_process
from tightseal.evidence.differences import DIFFERENCES
from tightseal.model.claims import MEASUREMENT_NAMES, Tee
from tightseal.model.verifiers import VerifierMode

SNP_TIME = 1_735_689_600
"""2025-01-01: every SNP certificate of the corpus is valid, the VLEK's among them."""

TOP = [
    "verdict",
    "code",
    "detail",
    "tee",
    "trust_domain",
    "single_verifier",
    "tcb",
    "measurements",
    "report_data",
    "platform",
    "debug",
    "certificate",
    "checks",
    "not_checked",
]
TCB = ["status", "advisory_ids", "evaluation_number", "date"]
PLATFORM = ["ppid", "piid", "fmspc", "chip_id"]


def load(path: Path) -> list[dict[str, Any]]:
    loaded = json.loads(path.read_text())
    assert isinstance(loaded, list)
    return loaded


def verify_dcap(folder: Path, *options: object, quote: Path | None = None) -> Said:
    root = folder / "root_ca.der"
    extra = ("--root-ca", root) if root.exists() else ()
    evidence = quote or folder / "quote.bin"
    collateral = ("--collateral", folder / "collateral.json")
    return run("verify", evidence, *collateral, *extra, *options)


def well_formed(document: dict[str, Any]) -> None:
    assert list(document) == TOP
    assert list(document["tcb"]) == TCB
    assert list(document["platform"]) == PLATFORM
    for check in document["checks"]:
        assert list(check) == ["name", "outcome", "spec"]
        assert check["outcome"] in {"passed", "failed", "noted", "skipped"}
    if document["verdict"] == "authentic":
        assert document["code"] is None
        assert document["detail"] is None
        names = MEASUREMENT_NAMES[Tee(document["tee"])]
        assert tuple(document["measurements"]) == names
        assert all(bytes.fromhex(v) for v in document["measurements"].values())
        assert len(bytes.fromhex(document["report_data"])) == 64
    else:
        assert document["code"]
        assert document["tee"] in {None, "tdx", "sgx", "snp"}
        assert document["trust_domain"] is None or document["measurements"]


@pytest.mark.parametrize("mode", list(VerifierMode))
def test_every_dcap_vector_at_its_time(vectors: Path, mode: VerifierMode) -> None:
    judged = 0
    for entry in load(vectors / "dcap" / "INDEX.json"):
        expected = entry.get("verdict")
        if expected is None:
            continue
        judged += 1
        folder = vectors / "dcap" / entry["name"]
        said = verify_dcap(
            folder, "--at", expected["now"], "--verifier", mode.value, "--json"
        )
        document = said.document
        well_formed(document)
        if "error" in expected:
            assert (said.status, document["verdict"]) == (1, "rejected"), entry["name"]
            continue
        assert (said.status, document["verdict"]) == (0, "authentic"), said.stdout
        assert document["tcb"]["status"] == expected["status"]
        assert document["tcb"]["advisory_ids"] == sorted(expected["advisory_ids"])
        assert document["platform"]["ppid"] == entry["ppid"]
        assert document["platform"]["piid"] == entry.get("piid")
        assert document["platform"]["fmspc"] == entry["fmspc"]
        assert document["report_data"] == entry["report_data"]
        assert document["trust_domain"] == "intel"
        assert document["single_verifier"] is (mode is not VerifierMode.BOTH)
        assert document["debug"] is False
    assert judged == 22


def test_every_tampered_vector_is_rejected(vectors: Path) -> None:
    for entry in load(vectors / "tampered" / "INDEX.json"):
        quote = vectors / "tampered" / entry["file"]
        folder = vectors / "dcap" / entry["base"]
        said = verify_dcap(folder, "--at", entry["now"], "--json", quote=quote)
        well_formed(said.document)
        assert (said.status, said.document["verdict"]) == (1, "rejected"), entry["file"]
        if entry["verdict"].startswith("ACCEPT"):
            shown = [d.rule for d in DIFFERENCES if said.document["code"] in d.codes]
            assert shown, entry["file"]


def test_every_snp_vector(vectors: Path) -> None:
    for entry in load(vectors / "snp" / "INDEX.json"):
        folder = vectors / "snp" / entry["name"]
        options = ("--collateral", folder, "--at", SNP_TIME, "--json")
        said = run("verify", folder / "report.bin", *options)
        document = said.document
        well_formed(document)
        expected = entry["expect"]
        assert document["verdict"] == expected["verdict"], entry["name"]
        assert said.status == (0 if expected["verdict"] == "authentic" else 1)
        assert document["debug"] == expected.get("debug")
        if said.status == 0:
            assert document["trust_domain"] == "amd"
            assert document["single_verifier"] is True
            assert document["tcb"] == dict.fromkeys(TCB)
            measurement = document["measurements"]["snp_measurement"]
            assert measurement == entry["measurement"]


def good(vectors: Path) -> tuple[Path, tuple[object, ...]]:
    folder = vectors / "dcap" / "phala-tdx-v4"
    return folder / "quote.bin", (
        "--collateral",
        folder / "collateral.json",
        "--at",
        1751624191,
    )


def test_text_forms_and_stdin(vectors: Path, tmp_path: Path) -> None:
    quote, options = good(vectors)
    data = quote.read_bytes()
    forms = {
        "hex": data.hex().encode(),
        "hex0x": b"0x" + data.hex().encode() + b"\n",
        "base64": base64.encodebytes(data),
        "base64url": base64.urlsafe_b64encode(data).rstrip(b"="),
    }
    expected = run("verify", quote, *options, "--json")
    assert expected.status == 0
    for name, text in forms.items():
        path = tmp_path / name
        path.write_bytes(text)
        assert run("verify", path, *options, "--json") == expected
    assert run("verify", "-", *options, "--json", stdin=data) == expected
    assert run("verify", "-", *options, "--json", stdin=forms["hex"]) == expected


def test_times(vectors: Path) -> None:
    quote, options = good(vectors)
    at = options[:-1]
    for moment in ("2025-07-04T10:16:31Z", "2025-07-04T12:16:31+02:00"):
        assert run("verify", quote, *at, moment).status == 0
    said = run("verify", quote, *at, 1_800_000_000, "--json")
    assert (said.status, said.document["code"]) == (1, "crl_expired")


@pytest.mark.parametrize(
    ("names", "status", "code"),
    [
        ("UpToDate", 1, "tcb_status_not_accepted"),
        ("UpToDate,OutOfDate", 0, None),
        ("OutOfDate, SWHardeningNeeded", 0, None),
    ],
)
def test_accept_tcb(vectors: Path, names: str, status: int, code: str | None) -> None:
    folder = vectors / "dcap" / "automata-solana-tdx-v4"
    options = ("--at", 1753175614, "--accept-tcb", names)
    said = verify_dcap(folder, *options, "--json")
    assert said.status == status
    assert said.document["code"] == code
    # The claims are shown either way: they are authentic.
    assert said.document["tcb"]["status"] == "OutOfDate"
    assert said.document["measurements"]["mrtd"]
    assert said.document["checks"]
    assert verify_dcap(folder, *options).status == status


def test_azure_needs_its_exception(vectors: Path) -> None:
    folder = vectors / "dcap" / "trustee-az-tdx-v4"
    at = ("--at", 1753175614, "--json")
    for mode in ("both", "native"):
        said = verify_dcap(folder, *at, "--verifier", mode)
        assert (said.status, said.document["code"]) == (1, "sept_ve_enabled")
        excepted = ("--accept-exception", "sept_ve_enabled")
        said = verify_dcap(folder, *at, "--verifier", mode, *excepted)
        assert said.status == 0
        assert said.document["single_verifier"] is True
    other = ("--accept-exception", "qe_auth_data_length")
    assert verify_dcap(folder, *at, *other).status == 1


def test_intel_samples_stand_under_their_own_root_only(vectors: Path) -> None:
    for name in ("intel-sample-sgx-v3", "intel-sample-tdx-v4"):
        folder = vectors / "dcap" / name
        assert (folder / "root_ca.der").is_file()
        assert verify_dcap(folder, "--at", 1628258115).status == 1


def test_a_vendor_root_is_no_simulated_one(vectors: Path) -> None:
    quote, options = good(vectors)
    root = vectors / "roots" / "intel-sgx-root.der"
    said = run("verify", quote, *options, "--root-ca", root, "--json")
    assert (said.status, said.document["code"]) == (2, "settings_invalid")
    assert said.document["verdict"] == "unreadable"


def unreadable(vectors: Path, tmp_path: Path) -> dict[str, tuple[object, ...]]:
    quote, options = good(vectors)
    text = tmp_path / "text"
    text.write_text("this is no evidence")
    broken = tmp_path / "collateral.json"
    broken.write_text("{}")
    report = vectors / "snp" / "snp-milan-trustee" / "report.bin"
    return {
        "evidence_unreadable": (text, *options),
        "no_such_file": (tmp_path / "nowhere", *options),
        "a_folder": (tmp_path, *options),
        "empty_stdin": ("-", *options),
        "collateral_unreadable": (quote, "--collateral", broken),
        "collateral_nowhere": (quote, "--collateral", tmp_path / "nowhere"),
        "collateral_is_a_folder": (quote, "--collateral", tmp_path),
        "snp_collateral_is_a_file": (report, "--collateral", broken),
        "no_collateral_at_all": (quote, "--at", 1751624191),
        "no_certificates_at_all": (report, "--at", SNP_TIME),
        "root_ca_nowhere": (quote, *options, "--root-ca", tmp_path / "nowhere"),
        "root_ca_no_certificate": (quote, *options, "--root-ca", text),
    }


@pytest.fixture
def _no_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIGHTSEAL_CACHE", str(tmp_path / "cache"))
    for name in ("TIGHTSEAL_PCCS", "TIGHTSEAL_KDS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_no_services")
def test_what_cannot_be_read(vectors: Path, tmp_path: Path) -> None:
    for name, arguments in unreadable(vectors, tmp_path).items():
        said = run("verify", *arguments)
        assert (said.status, said.stdout) == (2, ""), name
        assert said.stderr.startswith("error: "), name
        assert "  try: " in said.stderr, name
        document = run("verify", *arguments, "--json").document
        well_formed(document)
        assert document["verdict"] == "unreadable", name
        assert document["measurements"] == {}, name


USAGE = {
    "nothing": (),
    "unknown_option": ("QUOTE", "--frobnicate"),
    "option_for_evidence": ("--frobnicate",),
    "two_files": ("QUOTE", "QUOTE"),
    "unknown_verifier": ("QUOTE", "--verifier", "third"),
    "unknown_status": ("QUOTE", "--accept-tcb", "UpToDate,Good"),
    "revoked": ("QUOTE", "--accept-tcb", "Revoked"),
    "empty_statuses": ("QUOTE", "--accept-tcb", ""),
    "unknown_exception": ("QUOTE", "--accept-exception", "everything"),
    "time_in_words": ("QUOTE", "--at", "yesterday"),
    "time_without_zone": ("QUOTE", "--at", "2025-07-04T10:16:31"),
    "time_before_all": ("QUOTE", "--at", "-1"),
    "time_after_all": ("QUOTE", "--at", str(1 << 60)),
    "dcap_qvl_on_snp": ("REPORT", "--verifier", "dcap-qvl"),
    "statuses_on_snp": ("REPORT", "--accept-tcb", "UpToDate"),
}


@pytest.mark.parametrize("name", USAGE)
@pytest.mark.parametrize("json_too", [False, True])
def test_usage_errors(vectors: Path, name: str, *, json_too: bool) -> None:
    quote, _ = good(vectors)
    report = vectors / "snp" / "snp-milan-trustee" / "report.bin"
    files: dict[str, object] = {"QUOTE": quote, "REPORT": report}
    arguments = [files.get(a, a) for a in USAGE[name]]
    said = run("verify", *arguments, *(["--json"] if json_too else []))
    assert (said.status, said.stdout) == (2, ""), name
    assert said.stderr.startswith("error: ")
    assert "tightseal verify --help" in said.stderr


def test_what_people_read(vectors: Path) -> None:
    quote, options = good(vectors)
    said = run("verify", quote, *options)
    first, *rest = said.stdout.splitlines()
    assert first == "authentic  TDX, UpToDate, intel, both verifiers"
    headings = [line for line in rest if line and not line.startswith(" ")]
    assert headings == ["claims", "measurements", "checks", "not checked"]
    rows = dict(line.split(maxsplit=1) for line in rest if line.startswith("  mrtd"))
    assert len(rows["mrtd"]) == 96
    assert said.stderr == ""


def test_a_refusal_names_code_reason_and_the_check(vectors: Path) -> None:
    _, options = good(vectors)
    quote = vectors / "tampered" / "phala-tdx-v4.quote_sig.bin"
    said = run("verify", quote, *options)
    assert said.status == 1
    assert said.stdout.startswith("rejected  quote_signature_invalid: ")
    failed = [line for line in said.stdout.splitlines() if line.startswith("  failed")]
    assert [line.split()[1] for line in failed] == ["quote_signature"]


def test_a_library_disagreement_is_told_on_stderr(
    vectors: Path, tmp_path: Path
) -> None:
    folder = vectors / "dcap" / "phala-tdx-v4"
    other = vectors / "dcap" / "near-mpc-tdx-v4" / "collateral.json"
    collateral = json.loads((folder / "collateral.json").read_text())
    chain = json.loads(other.read_text())["pck_certificate_chain"]
    mixed = tmp_path / "mixed.json"
    mixed.write_text(json.dumps(collateral | {"pck_certificate_chain": chain}))
    options = ("--collateral", mixed, "--at", 1751624191)
    said = run("verify", folder / "quote.bin", *options)
    assert said.stdout.startswith("rejected  embedded_chain_mismatch")
    assert "rule: embedded_chain" in said.stderr


def test_differences_are_printed() -> None:
    said = run("verify", "--differences")
    assert said.status == 0
    assert said.stdout.startswith("| Rule | Stricter |")


def test_as_a_process(vectors: Path) -> None:
    quote, options = good(vectors)
    said = run_process("verify", "-", *options, "--json", stdin=quote.read_bytes())
    assert (said.status, said.stderr) == (0, "")
    assert said.document["verdict"] == "authentic"
    tampered = vectors / "tampered" / "phala-tdx-v4.att_key.bin"
    assert run_process("verify", tampered, *options).status == 1
    said = run_process("verify", "/nowhere", *options)
    assert (said.status, said.stdout) == (2, "")
    report = vectors / "snp" / "snp-milan-trustee"
    snp = ("--collateral", report, "--at", SNP_TIME)
    said = run_process("verify", report / "report.bin", *snp)
    assert (said.status, said.stderr) == (0, "")
