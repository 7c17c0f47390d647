# SPDX-License-Identifier: Apache-2.0
"""Every real quote and every tampered one gives its expected verdict, by name."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from intel_support import collateral_of, dcap_index, quote_of

from tightseal.errors import Code, TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.intel.quote import parse_quote
from tightseal.evidence.intel.unverified import collateral_query
from tightseal.evidence.intel.verifier import CHECKS, NOT_CHECKED, verify_quote
from tightseal.evidence.roots import VENDOR_ROOTS, simulated_root
from tightseal.model.claims import MEASUREMENT_NAMES, Claims, Outcome, Tee
from tightseal.model.verifiers import VerifierException

INTEL = VENDOR_ROOTS.intel

REFUSED = {
    "phala-tdx-v4-outdated": Code.TCB_LEVEL_UNKNOWN,
    "phala-tdx-v4-tappd": Code.TCB_LEVEL_UNKNOWN,
    "phala-tdx-quote-hex": Code.TCB_LEVEL_UNKNOWN,
    "automata-alibaba-tdx-v5": Code.TD_SERVICE_TD,
    "google-tdx-v4-spr-e4": Code.QUOTE_TRAILING_BYTES,
    "intel-sample-sgx-v3": Code.CERTIFICATION_DATA_UNSUPPORTED,
    "intel-sample-tdx-v4": Code.CERTIFICATE_MALFORMED,
    "trustee-occlum-sgx-v3": Code.DEBUG_ENABLED,
    "trustee-tdx-v4": Code.DEBUG_ENABLED,
    "trustee-az-tdx-v4": Code.SEPT_VE_ENABLED,
    "entropy-tdx-v4-2": Code.TCB_LEVEL_UNKNOWN,
    "moemahhouk-tdx-v4": Code.TCB_LEVEL_UNKNOWN,
    "dstack-tdx-lite": Code.CERTIFICATE_NOT_YET_VALID,
    "dstack-ratls-tdx": Code.TCB_LEVEL_UNKNOWN,
}
"""The code of every real quote that is refused at its time."""

TAMPERED = {
    "version": {
        "phala-sgx-v3": Code.QUOTE_VERSION_UNSUPPORTED,
        "phala-tdx-v5-td15ex": Code.QUOTE_TRUNCATED,
        "near-mpc-tdx-v4": Code.QUOTE_BODY_TYPE_INVALID,
    },
    "att_key_type": Code.ATTESTATION_KEY_TYPE_UNSUPPORTED,
    "tee_type": Code.QUOTE_TEE_TYPE_INVALID,
    "qe_vendor": Code.QE_VENDOR_UNKNOWN,
    "user_data": Code.QUOTE_SIGNATURE_INVALID,
    "body_first": Code.QUOTE_SIGNATURE_INVALID,
    "body_last": Code.QUOTE_SIGNATURE_INVALID,
    "quote_sig": Code.QUOTE_SIGNATURE_INVALID,
    "att_key": Code.QE_REPORT_DATA_MISMATCH,
    "qe_report": Code.QE_REPORT_SIGNATURE_INVALID,
    "qe_report_sig": Code.QE_REPORT_SIGNATURE_INVALID,
    "qe_auth": Code.QE_REPORT_DATA_MISMATCH,
    "cert_type": Code.CERTIFICATION_DATA_UNSUPPORTED,
    "pck_pem": {
        "phala-tdx-v4": Code.CERTIFICATE_CHAIN_INVALID,
        "google-tdx-v5": Code.CERTIFICATE_CHAIN_INVALID,
        # its collateral has the chain, with which the embedded one is compared first
        "phala-tdx-v5-td15ex": Code.EMBEDDED_CHAIN_MISMATCH,
    },
}
"""Field of the flipped bit to code, or to the code by the quote that was flipped."""


def refusal(call: Callable[..., Claims], *args: Any, **named: Any) -> Code:
    with pytest.raises(TightsealError) as e:
        call(*args, **named)
    last = e.value.checks[-1]
    assert last.outcome is Outcome.FAILED  # type: ignore[attr-defined]
    assert len(e.value.checks) <= len(CHECKS)
    return e.value.code


def test_every_real_quote_gives_its_verdict(vectors: Path) -> None:
    accepted = 0
    for entry in dcap_index(vectors):
        if "verdict" not in entry:
            continue
        name, verdict = entry["name"], entry["verdict"]
        quote, collateral = quote_of(vectors, name), collateral_of(vectors, name)

        def verify(
            quote: bytes = quote,
            collateral: Any = collateral,
            now: int = verdict["now"],
        ) -> Claims:
            return verify_quote(quote, collateral, now=now, roots=INTEL)

        if "error" in verdict:
            assert refusal(verify) is REFUSED[name], name
            continue
        claims = verify()
        assert name not in REFUSED
        assert claims.tcb is not None
        assert claims.tcb.status.value == verdict["status"], name
        assert claims.tcb.advisory_ids == set(verdict["advisory_ids"]), name
        shown = parse_quote(quote)
        declared = quote[: shown.declared_length]
        assert claims.evidence_hash == hashlib.sha256(declared).digest()
        compare_with_index(claims, entry)
        accepted += 1
    assert accepted == 8


def compare_with_index(claims: Claims, entry: dict[str, Any]) -> None:
    assert claims.tcb is not None
    assert claims.platform.ppid is not None
    assert claims.platform.ppid.hex() == entry["ppid"]
    assert claims.platform.fmspc is not None
    assert claims.platform.fmspc.hex() == entry["fmspc"]
    piid = claims.platform.piid
    assert (piid.hex() if piid else None) == entry.get("piid")
    assert claims.report_data.hex() == entry["report_data"]
    assert claims.tee.value == entry["tee"].lower()
    assert str(claims.trust_domain) == "intel"
    assert tuple(claims.measurements) == MEASUREMENT_NAMES[claims.tee]
    assert claims.not_checked == NOT_CHECKED[claims.tee]
    assert claims.debug is False
    assert claims.single_verifier is False
    if "mrtd" in entry:
        assert claims.measurements["mrtd"].hex() == entry["mrtd"]
    if "eval_num" in entry:
        assert claims.tcb.evaluation_number == entry["eval_num"]


REPORT_NAMES = {
    Tee.TDX: {
        "mr_td": "mrtd",
        "rt_mr0": "rtmr0",
        "rt_mr1": "rtmr1",
        "rt_mr2": "rtmr2",
        "rt_mr3": "rtmr3",
        "mr_config_id": "mr_config_id",
        "mr_owner": "mr_owner",
        "mr_owner_config": "mr_owner_config",
        "mr_seam": "mr_seam",
        "mr_signer_seam": "mr_signer_seam",
        "mr_service_td": "mr_service_td",
        "td_attributes": "td_attributes",
        "xfam": "xfam",
        "tee_tcb_svn": "tee_tcb_svn",
    },
    Tee.SGX: {
        "mr_enclave": "mrenclave",
        "mr_signer": "mrsigner",
        "attributes": "attributes",
        "cpu_svn": "cpu_svn",
    },
}
FLAGS = {"True": True, "False": False, "Undefined": None, True: True, False: False}


def test_claims_equal_those_of_the_other_verifier(vectors: Path) -> None:
    compared = 0
    for entry in dcap_index(vectors):
        name = entry["name"]
        path = vectors / "dcap" / name / "claims.json"
        if not path.is_file():
            continue
        claims = verify_quote(
            quote_of(vectors, name),
            collateral_of(vectors, name),
            now=entry["verdict"]["now"],
            roots=INTEL,
        )
        compare_claims(claims, json.loads(path.read_text()))
        compared += 1
    assert compared == 5


def compare_claims(claims: Claims, other: dict[str, Any]) -> None:
    platform, tcb = other["platform"], claims.tcb
    assert tcb is not None
    assert tcb.status.value == other["tcb"]["status"]
    assert tcb.advisory_ids == set(other["tcb"]["advisory_ids"])
    assert tcb.evaluation_number == other["tcb"]["eval_data_number"]
    assert tcb.date == platform["tcb_level"]["tcbDate"]
    pck = platform["pck"]
    assert claims.platform.ppid == bytes(pck["ppid"])
    assert claims.platform.fmspc == bytes(pck["fmspc"])
    flags = (tcb.dynamic_platform, tcb.cached_keys, tcb.smt_enabled)
    names = ("dynamic_platform", "cached_keys", "smt_enabled")
    assert flags == tuple(FLAGS[pck[n]] for n in names)
    root = bytes(platform["root_key_id"]).hex()
    assert claims.trust_domain.root_key_id == root
    ((_, report),) = other["report"].items()
    fields = dict(report)
    while isinstance(fields.get("base"), dict):
        fields |= fields.pop("base")
    matched = 0
    for theirs, ours in REPORT_NAMES[claims.tee].items():
        shown = fields.get(theirs)
        if shown is not None:
            assert claims.measurements[ours].hex() == shown, theirs
            matched += 1
    assert matched >= len(REPORT_NAMES[claims.tee]) - 1
    assert claims.report_data.hex() == fields["report_data"]


def test_every_tampered_quote_is_refused_by_name(vectors: Path) -> None:
    index = json.loads((vectors / "tampered" / "INDEX.json").read_text())
    assert len(index) == 46
    for entry in index:
        base, field = entry["base"], entry["file"].split(".")[1]
        expected = TAMPERED[field]
        code = expected[base] if isinstance(expected, dict) else expected
        cache = ResultCache(64)
        collateral = collateral_of(vectors, base)

        def verify(
            quote: bytes,
            collateral: Any = collateral,
            now: int = entry["now"],
            cache: ResultCache = cache,
        ) -> Claims:
            return verify_quote(quote, collateral, now=now, roots=INTEL, cache=cache)

        bad = (vectors / "tampered" / entry["file"]).read_bytes()
        assert refusal(verify, bad) is code, entry["file"]
        verify(quote_of(vectors, base))
        assert refusal(verify, bad) is code, entry["file"]


def test_warm_and_cold_claims_are_equal(vectors: Path) -> None:
    cache = ResultCache(256)
    for entry in dcap_index(vectors):
        if "status" not in entry.get("verdict", {}):
            continue
        name, now = entry["name"], entry["verdict"]["now"]
        quote, collateral = quote_of(vectors, name), collateral_of(vectors, name)
        cold = verify_quote(quote, collateral, now=now, roots=INTEL)
        for _ in range(2):
            warm = verify_quote(quote, collateral, now=now, roots=INTEL, cache=cache)
            assert warm == cold


def test_padding_is_noted(vectors: Path) -> None:
    quote = quote_of(vectors, "phala-tdx-v4")
    collateral = collateral_of(vectors, "phala-tdx-v4")
    shown = parse_quote(quote)
    assert shown.trailing_zeros == 70
    hashes = set()
    for data, outcome in (
        (quote, Outcome.NOTED),
        (quote[: shown.declared_length], Outcome.PASSED),
    ):
        claims = verify_quote(data, collateral, now=1751624191, roots=INTEL)
        noted = next(c for c in claims.checks if c.name == "quote_padding")
        assert noted.outcome is outcome
        hashes.add(claims.evidence_hash)
    assert len(hashes) == 1


def test_the_azure_exception_is_noted_and_nothing_else_changes(vectors: Path) -> None:
    name = "trustee-az-tdx-v4"
    claims = verify_quote(
        quote_of(vectors, name),
        collateral_of(vectors, name),
        now=1753175614,
        roots=INTEL,
        exceptions=frozenset({VerifierException.SEPT_VE_ENABLED}),
    )
    assert [c.name for c in claims.checks if c.outcome is Outcome.NOTED] == [
        "quote_padding",
        "td_sept_ve",
    ]
    other = frozenset({VerifierException.QE_AUTH_DATA_LENGTH})
    code = refusal(
        verify_quote,
        quote_of(vectors, name),
        collateral_of(vectors, name),
        now=1753175614,
        roots=INTEL,
        exceptions=other,
    )
    assert code is Code.SEPT_VE_ENABLED


def test_real_quotes_are_refused_without_their_root(vectors: Path) -> None:
    entry = next(e for e in dcap_index(vectors) if e["name"] == "near-mpc-tdx-v4")
    test_root = vectors / "dcap" / "intel-sample-sgx-v3" / "root_ca.der"
    quote = quote_of(vectors, entry["name"])
    collateral = collateral_of(vectors, entry["name"])
    for roots in ((), simulated_root(test_root.read_bytes()).intel):
        code = refusal(
            verify_quote, quote, collateral, now=entry["verdict"]["now"], roots=roots
        )
        assert code is Code.ROOT_NOT_TRUSTED


def test_the_query_names_what_the_certificate_says(vectors: Path) -> None:
    asked = 0
    for entry in dcap_index(vectors):
        name = entry["name"]
        if name.startswith("intel-sample") or name == "google-tdx-v4-spr-e4":
            continue
        query = collateral_query(parse_quote(quote_of(vectors, name)))
        assert query.fmspc.hex() == entry["fmspc"]
        assert query.ca == entry["ca"]
        assert query.tee.value == entry["tee"].lower()
        asked += 1
    assert asked == 23


def test_the_checks_are_a_numbered_list_that_can_be_printed() -> None:
    assert [rule.number for rule in CHECKS] == list(range(1, len(CHECKS) + 1))
    assert len({rule.name for rule in CHECKS}) == len(CHECKS)
    for rule in CHECKS:
        assert rule.spec
        assert rule.rule.endswith(".")
        assert rule.rule != rule.name
