# SPDX-License-Identifier: Apache-2.0
"""Both verifiers' answers and what comes of them, as one table."""

from dataclasses import dataclass, replace

import msgspec
import pytest

from tightseal.errors import Code, CollateralError, EvidenceError, TightsealError
from tightseal.evidence.agreement import Conflict, Disagreement, agree
from tightseal.evidence.differences import (
    DIFFERENCES,
    Stricter,
    difference_by_error,
    difference_of,
    differences_markdown,
)
from tightseal.evidence.qvl import QvlAnswer, QvlOpinion, QvlRefusal
from tightseal.evidence.qvl_claims import QvlClaims
from tightseal.model.claims import (
    Claims,
    Outcome,
    PlatformIdentity,
    Tcb,
    TcbStatus,
    Tee,
    TrustDomain,
    Vendor,
)
from tightseal.model.verifiers import VerifierException

PPID, FMSPC, HASH = b"\x11" * 16, b"\x22" * 6, b"\x33" * 32
SEPT_SET, SEPT_CLEAR = bytes.fromhex("0000001000000000"), bytes(8)
SEPT = VerifierException.SEPT_VE_ENABLED
AUTH = VerifierException.QE_AUTH_DATA_LENGTH
SEPT_ERROR = "SEPT_VE_DISABLE is not enabled"
AUTH_ERROR = "Invalid QE auth data length"
ADVISORIES = frozenset({"INTEL-SA-00001", "INTEL-SA-00002"})

NATIVE = Claims(
    tee=Tee.TDX,
    trust_domain=TrustDomain(Vendor.INTEL, "00"),
    measurements={"td_attributes": SEPT_SET},
    report_data=bytes(64),
    debug=False,
    platform=PlatformIdentity(ppid=PPID, fmspc=FMSPC),
    tcb=Tcb(TcbStatus.OUT_OF_DATE, ADVISORIES, 17, "2024-03-13T00:00:00Z"),
)
AZURE = replace(NATIVE, measurements={"td_attributes": SEPT_CLEAR})
UNNAMED = replace(NATIVE, platform=PlatformIdentity(fmspc=FMSPC))
SNP_LIKE = replace(NATIVE, tcb=None)
OPINION = QvlOpinion(
    TcbStatus.OUT_OF_DATE,
    ADVISORIES,
    PPID,
    FMSPC,
    msgspec.convert(
        {
            "claims_version": 1,
            "tcb": {"status": "OutOfDate", "advisory_ids": [], "eval_data_number": 1},
            "platform": {
                "tcb_level": {"tcbDate": ""},
                "pck": {
                    "ppid": [],
                    "fmspc": [],
                    "dynamic_platform": "True",
                    "cached_keys": "False",
                    "smt_enabled": "Undefined",
                },
                "root_key_id": [],
            },
            "report": {},
        },
        QvlClaims,
    ),
)


@dataclass(frozen=True)
class Row:
    name: str
    native: Claims | TightsealError
    qvl: QvlAnswer
    exceptions: frozenset[VerifierException] = frozenset()
    code: Code | None = None
    single: bool = False
    heard: Conflict | None = None
    rule: str | None = None


def refused(code: Code, kind: type[TightsealError] = EvidenceError) -> TightsealError:
    return kind(code, "as it came")


QVL_NO, DIFFER = Conflict.QVL_REFUSES, Conflict.CLAIMS_DIFFER
NATIVE_NO, DISAGREE = Conflict.NATIVE_REFUSES, Code.VERIFIERS_DISAGREE
ROWS = [
    Row("both_accept", NATIVE, OPINION),
    Row("both_accept_without_ppid", UNNAMED, replace(OPINION, ppid=bytes(16))),
    Row(
        "status_differs",
        NATIVE,
        replace(OPINION, status=TcbStatus.UP_TO_DATE),
        code=DISAGREE,
        heard=DIFFER,
    ),
    Row(
        "one_advisory_less",
        NATIVE,
        replace(OPINION, advisory_ids=frozenset({"INTEL-SA-00001"})),
        code=DISAGREE,
        heard=DIFFER,
    ),
    Row(
        "ppid_differs",
        NATIVE,
        replace(OPINION, ppid=b"\x12" * 16),
        code=DISAGREE,
        heard=DIFFER,
    ),
    Row("ppid_only_in_qvl", UNNAMED, OPINION, code=DISAGREE, heard=DIFFER),
    Row(
        "fmspc_differs",
        NATIVE,
        replace(OPINION, fmspc=b"\x23" * 6),
        code=DISAGREE,
        heard=DIFFER,
    ),
    Row("no_status", SNP_LIKE, OPINION, code=DISAGREE, heard=DIFFER),
    Row(
        "both_refuse",
        refused(Code.QUOTE_SIGNATURE_INVALID),
        QvlRefusal("ISV enclave report signature is invalid"),
        code=Code.QUOTE_SIGNATURE_INVALID,
    ),
    Row(
        "native_refuses_by_rule",
        refused(Code.PCEID_MISMATCH, CollateralError),
        OPINION,
        code=Code.PCEID_MISMATCH,
        heard=NATIVE_NO,
        rule="pceid",
    ),
    Row(
        "native_refuses_role_of_collateral",
        refused(Code.CERTIFICATE_ROLE_MISMATCH, CollateralError),
        OPINION,
        code=Code.CERTIFICATE_ROLE_MISMATCH,
        heard=NATIVE_NO,
        rule="tcb_signing_role",
    ),
    Row(
        "native_refuses_role_of_evidence",
        refused(Code.CERTIFICATE_ROLE_MISMATCH),
        OPINION,
        code=Code.CERTIFICATE_ROLE_MISMATCH,
        heard=NATIVE_NO,
        rule="pck_certificate_names",
    ),
    Row(
        "native_refuses_without_a_rule",
        refused(Code.QUOTE_SIGNATURE_INVALID),
        OPINION,
        code=Code.QUOTE_SIGNATURE_INVALID,
        heard=NATIVE_NO,
    ),
    Row(
        "qvl_refuses_without_a_rule",
        NATIVE,
        QvlRefusal("No matching TCB level found"),
        frozenset({SEPT, AUTH}),
        code=DISAGREE,
        heard=QVL_NO,
    ),
    Row(
        "auth_length_by_default",
        NATIVE,
        QvlRefusal(AUTH_ERROR),
        code=DISAGREE,
        heard=QVL_NO,
        rule="qe_auth_data_length",
    ),
    Row(
        "auth_length_excepted",
        NATIVE,
        QvlRefusal(AUTH_ERROR),
        frozenset({AUTH}),
        single=True,
    ),
    Row(
        "auth_length_with_the_other_exception",
        NATIVE,
        QvlRefusal(AUTH_ERROR),
        frozenset({SEPT}),
        code=DISAGREE,
        heard=QVL_NO,
        rule="qe_auth_data_length",
    ),
    Row(
        "error_that_only_begins_so",
        NATIVE,
        QvlRefusal(AUTH_ERROR + " and more"),
        frozenset({AUTH}),
        code=DISAGREE,
        heard=QVL_NO,
    ),
    Row(
        "azure_excepted", AZURE, QvlRefusal(SEPT_ERROR), frozenset({SEPT}), single=True
    ),
    Row(
        "azure_by_default",
        refused(Code.SEPT_VE_ENABLED),
        QvlRefusal(SEPT_ERROR),
        code=Code.SEPT_VE_ENABLED,
    ),
    Row(
        "azure_and_another_error",
        AZURE,
        QvlRefusal(AUTH_ERROR),
        frozenset({SEPT, AUTH}),
        code=DISAGREE,
        heard=QVL_NO,
        rule="qe_auth_data_length",
    ),
    Row(
        "azure_accepted_by_qvl",
        AZURE,
        OPINION,
        frozenset({SEPT}),
        code=DISAGREE,
        heard=DIFFER,
    ),
    Row(
        "sept_error_without_need",
        NATIVE,
        QvlRefusal(SEPT_ERROR),
        code=DISAGREE,
        heard=QVL_NO,
        rule="sept_ve_disable",
    ),
    Row(
        "crl_number_has_no_exception",
        NATIVE,
        QvlRefusal("Failed to parse PCK CRL for claims"),
        frozenset({SEPT, AUTH}),
        code=DISAGREE,
        heard=QVL_NO,
        rule="pck_crl_number",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_matrix(row: Row) -> None:
    heard: list[Disagreement] = []

    def ask() -> Claims:
        return agree(
            row.native,
            row.qvl,
            evidence_hash=HASH,
            exceptions=row.exceptions,
            on_disagreement=heard.append,
        )

    if row.code is None:
        claims = ask()
        assert claims.single_verifier is row.single
        assert claims.checks[-1].name == "verifiers_agree"
        expected = Outcome.NOTED if row.single else Outcome.PASSED
        assert claims.checks[-1].outcome is expected
    else:
        with pytest.raises(TightsealError) as error:
            ask()
        assert error.value.code is row.code
        if row.code is DISAGREE:
            assert "native accepts" in error.value.detail
            assert str(row.qvl)[:20] in error.value.detail
            assert (row.rule or "none in the table") in error.value.detail
    if row.heard is None:
        assert heard == []
    else:
        [found] = heard
        assert (found.conflict, found.rule) == (row.heard, row.rule)
        assert found.evidence_hash == HASH
        assert found.qvl == str(row.qvl)


def test_every_exception_has_its_rule() -> None:
    named = [d.exception for d in DIFFERENCES if d.exception is not None]
    assert sorted(named) == sorted(VerifierException)


def test_rules_are_unique_and_found_again() -> None:
    assert len({d.rule for d in DIFFERENCES}) == len(DIFFERENCES)
    for difference in DIFFERENCES:
        if difference.stricter is Stricter.DCAP_QVL:
            assert difference.qvl_error is not None
            assert difference_by_error(difference.qvl_error) is difference
            assert not difference.codes
        else:
            assert difference.qvl_error is None
            family = difference.family
            kind = EvidenceError if family is TightsealError else family
            for code in difference.codes:
                assert difference_of(kind(code, "")) is difference


def test_markdown_has_every_rule() -> None:
    text = differences_markdown()
    lines = text.splitlines()
    assert len(lines) == len(DIFFERENCES) + 2
    assert all(line.count("|") == 6 for line in lines)
    assert all(f"| `{d.rule}` |" in text for d in DIFFERENCES)
