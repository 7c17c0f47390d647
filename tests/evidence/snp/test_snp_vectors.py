# SPDX-License-Identifier: Apache-2.0
"""Real reports and real chains under the pinned ARKs."""

import hashlib
import json
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tightseal.errors import Code, EvidenceError, TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS
from tightseal.evidence.snp.certificate import parse_certificate, signed_by
from tightseal.evidence.snp.query import certificate_query
from tightseal.evidence.snp.report import parse_report
from tightseal.evidence.snp.verifier import CHECKS, verify_report
from tightseal.model.claims import MEASUREMENT_NAMES, Outcome, SnpTcb, Tee, Vendor
from tightseal.model.collateral import SnpCertificates


def entries(vectors: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((vectors / "snp/INDEX.json").read_text())
    return found


def certificates(folder: Path) -> SnpCertificates:
    vlek = (folder / "vlek.der").exists()
    signer, intermediate = ("vlek", "asvk") if vlek else ("vcek", "ask")
    return SnpCertificates(
        (folder / f"{signer}.der").read_bytes(),
        (folder / f"{intermediate}.der").read_bytes(),
        (folder / "ark.der").read_bytes(),
    )


def certified_tcb(entry: dict[str, Any]) -> SnpTcb:
    tcb = entry["vcek_tcb"]
    return SnpTcb(tcb["bl"], tcb["tee"], tcb["snp"], tcb["ucode"], tcb.get("fmc"))


def unix(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def load(vectors: Path, name: str) -> tuple[bytes, SnpCertificates, int]:
    entry = next(e for e in entries(vectors) if e["name"] == name)
    folder = vectors / "snp" / name
    now = unix(entry["vcek_not"][0]) + 86400
    return (folder / "report.bin").read_bytes(), certificates(folder), now


def test_every_real_report_gets_its_verdict(vectors: Path) -> None:
    found = entries(vectors)
    assert len(found) >= 5
    for entry in found:
        report, chain, now = load(vectors, entry["name"])
        expect = entry["expect"]
        if expect["verdict"] == "rejected":
            with pytest.raises(EvidenceError):
                verify_report(report, chain, now=now, roots=VENDOR_ROOTS.amd)
            continue
        claims = verify_report(report, chain, now=now, roots=VENDOR_ROOTS.amd)
        assert claims.debug is expect["debug"]
        assert claims.report_data.hex() == entry["report_data"]
        assert claims.measurements["snp_measurement"].hex() == entry["measurement"]
        assert claims.measurements["reported_tcb"].hex() == entry["reported_tcb"]
        assert claims.snp_tcb == certified_tcb(entry)
        chip = claims.platform.chip_id
        assert chip is None if "VLEK" in entry["note"] else chip is not None
        if chip is not None:
            assert bytes.fromhex(entry["chip_id"]) == chip.ljust(64, b"\0")


def test_claims_are_complete(vectors: Path) -> None:
    report, chain, now = load(vectors, "snp-milan-trustee")
    claims = verify_report(report, chain, now=now, roots=VENDOR_ROOTS.amd)
    assert claims.tee is Tee.SNP
    assert claims.trust_domain.vendor is Vendor.AMD
    assert str(claims.trust_domain) == "amd"
    assert tuple(claims.measurements) == MEASUREMENT_NAMES[Tee.SNP]
    assert claims.single_verifier
    assert claims.tcb is None
    assert claims.report_data_bound
    assert claims.evidence_hash == hashlib.sha256(report).digest()
    assert [c.name for c in claims.checks] == [name for name, _ in CHECKS]
    assert len({name for name, _ in CHECKS}) == len(CHECKS)
    said = " ".join(claims.not_checked)
    assert "no CRL" in said
    assert "TCB status" in said


def test_debug_policy_is_authentic_and_noted(vectors: Path) -> None:
    report, chain, now = load(vectors, "snp-milan-google")
    claims = verify_report(report, chain, now=now, roots=VENDOR_ROOTS.amd)
    assert claims.debug
    assert claims.checks[-1].outcome is Outcome.NOTED


def test_every_flipped_bit_of_a_real_report_is_refused(vectors: Path) -> None:
    report, chain, now = load(vectors, "snp-milan-trustee")
    cache = ResultCache(8)
    for at in range(len(report)):
        changed = bytearray(report)
        changed[at] ^= 1 << at % 8
        with pytest.raises(EvidenceError):
            verify_report(
                bytes(changed), chain, now=now, roots=VENDOR_ROOTS.amd, cache=cache
            )


def test_flipped_bits_of_real_certificates_are_refused(vectors: Path) -> None:
    report, chain, now = load(vectors, "snp-milan-trustee")
    for at in range(0, len(chain.signer), 7):
        changed = bytearray(chain.signer)
        changed[at] ^= 1 << at % 8
        broken = SnpCertificates(bytes(changed), chain.intermediate, chain.root)
        with pytest.raises(EvidenceError):
            verify_report(report, broken, now=now, roots=VENDOR_ROOTS.amd)
    for at in range(0, len(chain.intermediate), 7):
        changed = bytearray(chain.intermediate)
        changed[at] ^= 1 << at % 8
        broken = SnpCertificates(chain.signer, bytes(changed), chain.root)
        with pytest.raises(EvidenceError):
            verify_report(report, broken, now=now, roots=VENDOR_ROOTS.amd)


def test_real_certificate_windows_are_kept_with_a_warm_cache(vectors: Path) -> None:
    entry = next(e for e in entries(vectors) if e["name"] == "snp-vlek-trustee")
    report, chain, _ = load(vectors, "snp-vlek-trustee")
    start, end = (unix(text) for text in entry["vcek_not"])
    cache = ResultCache(8)
    for now in (start, end):
        verify_report(report, chain, now=now, roots=VENDOR_ROOTS.amd, cache=cache)
    late = {start - 1: "certificate_not_yet_valid", end + 1: "certificate_expired"}
    for now, code in late.items():
        with pytest.raises(EvidenceError) as refused:
            verify_report(report, chain, now=now, roots=VENDOR_ROOTS.amd, cache=cache)
        assert refused.value.code == code


def test_milan_certificates_do_not_pass_under_the_other_roots(vectors: Path) -> None:
    report, chain, now = load(vectors, "snp-milan-trustee")
    others = tuple(r for r in VENDOR_ROOTS.amd if r.product != "Milan")
    with pytest.raises(EvidenceError) as refused:
        verify_report(report, chain, now=now, roots=others)
    assert refused.value.code is Code.ROOT_NOT_TRUSTED


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("role", ["ask", "asvk"])
def test_real_intermediates_chain_to_the_pinned_root(
    vectors: Path, product: str, role: str
) -> None:
    root = next(r for r in VENDOR_ROOTS.amd if r.product == product)
    data = (vectors / f"roots/amd/{product.lower()}-{role}.der").read_bytes()
    certificate = parse_certificate(data, what=role)
    assert signed_by(
        root.spki,
        signature=certificate.signature,
        signed_bytes=certificate.signed_bytes,
    )
    assert certificate.authority
    assert certificate.issuer_name == f"ARK-{product}"
    expected = f"SEV-VLEK-{product}" if role == "asvk" else f"SEV-{product}"
    assert certificate.subject_name == expected
    for other in VENDOR_ROOTS.amd:
        if other.product != product:
            assert not signed_by(
                other.spki,
                signature=certificate.signature,
                signed_bytes=certificate.signed_bytes,
            )


@pytest.mark.parametrize("product", ["milan", "genoa", "turin"])
def test_real_roots_are_self_signed_and_pinned(vectors: Path, product: str) -> None:
    data = (vectors / f"roots/amd/{product}-ark.der").read_bytes()
    certificate = parse_certificate(data, what="ARK")
    pinned = [r for r in VENDOR_ROOTS.amd if r.spki == certificate.spki]
    assert [r.product.lower() for r in pinned] == [product]
    assert signed_by(
        certificate.spki,
        signature=certificate.signature,
        signed_bytes=certificate.signed_bytes,
    )


def test_serial_number_zero_raises_no_warning(vectors: Path) -> None:
    report, chain, now = load(vectors, "snp-milan-trustee")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        claims = verify_report(report, chain, now=now, roots=VENDOR_ROOTS.amd)
    assert claims.snp_tcb is not None


def test_a_query_names_what_the_certificate_says(vectors: Path) -> None:
    for entry in entries(vectors):
        report, chain, _ = load(vectors, entry["name"])
        query = certificate_query(parse_report(report))
        if entry["expect"]["verdict"] == "authentic":
            assert query.tcb == certified_tcb(entry)
        assert bytes.fromhex(entry["chip_id"]) == query.chip_id.ljust(64, b"\0")
        issuer = parse_certificate(chain.intermediate, what="ASK").subject_name
        product = issuer.rpartition("-")[2]
        assert query.product == (product if entry["version"] >= 3 else None)
        assert query.vlek == ("VLEK" in entry["note"])


def test_refusals_carry_the_checks_made(vectors: Path) -> None:
    report, chain, now = load(vectors, "snp-neg-vcek-invalid-legacy")
    with pytest.raises(TightsealError) as refused:
        verify_report(report, chain, now=now, roots=VENDOR_ROOTS.amd)
    made = refused.value.checks
    names = [name for name, _ in CHECKS]
    assert [c.name for c in made] == names[: len(made)]  # type: ignore[attr-defined]
    assert made[-1].outcome is Outcome.FAILED  # type: ignore[attr-defined]
    assert made[-1].name == "signer_signature"  # type: ignore[attr-defined]
