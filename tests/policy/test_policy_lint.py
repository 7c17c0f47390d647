# SPDX-License-Identifier: Apache-2.0
"""Each lint: a document that has it, at its place, and the same one without it."""

from dataclasses import dataclass

import pytest
from policy_support import NOW, document, value

from tightseal.model.claims import Tee
from tightseal.policy import start
from tightseal.policy.lint import LINTS, Finding, LintId, Severity, lint
from tightseal.policy.read import parse

ANY = 'platform = "any"'
PINNED = 'td_attributes = "0000001000000000"'
OWNER = f'mr_owner = "{value("mr_owner").hex()}"\n{PINNED}'
DEBUG = "0100000000000000"
CLEAN = document(measurements=PINNED)


@dataclass(frozen=True)
class Case:
    """Documents with a finding, its field, and documents without it."""

    bad: str | list[str]
    field: str
    good: str | list[str] = CLEAN


def tdx(**parts: str) -> str:
    parts.setdefault("measurements", PINNED)
    return document(**parts)  # type: ignore[arg-type]


CASES: dict[str, tuple[LintId, Case]] = {
    "named_anywhere": (
        LintId.NAMED_ANYWHERE,
        Case(
            tdx(rules=ANY),
            "workload[0].image[0].measurements",
            tdx(rules=ANY, measurements=OWNER),
        ),
    ),
    "named_anywhere_with_an_unset_owner": (
        LintId.NAMED_ANYWHERE,
        Case(
            tdx(rules=ANY, measurements=f"mr_owner = {{ zero = true }}\n{PINNED}"),
            "workload[0].image[0].measurements",
            tdx(rules=ANY, identity="measured"),
        ),
    ),
    "named_on_a_family_of_platforms": (
        LintId.NAMED_ANYWHERE,
        Case(
            tdx(rules='platform = [{ fmspc = "00a06f050000" }]'),
            "workload[0].image[0].measurements",
            tdx(rules=f'platform = [{{ ppid = "{"ab" * 16}" }}]'),
        ),
    ),
    "rtmr3_left_out": (
        LintId.RTMR3_LEFT_OUT,
        Case(
            document(measurements=PINNED, leave_out=("rtmr3",)),
            "workload[0].image[0].measurements",
            document(measurements=OWNER, leave_out=("rtmr3",)),
        ),
    ),
    **{
        f"code_unpinned_{name}": (
            LintId.CODE_UNPINNED,
            Case(
                document(measurements=PINNED, leave_out=(name,)),
                "workload[0].image[0].measurements",
            ),
        )
        for name in ("mrtd", "rtmr1", "rtmr2")
    },
    "code_unpinned_sgx": (
        LintId.CODE_UNPINNED,
        Case(
            document(
                Tee.SGX,
                leave_out=("mrenclave",),
                measurements="isv_svn = { minimum=1 }",
            ),
            "workload[0].image[0].measurements",
            document(
                Tee.SGX,
                leave_out=("mrenclave",),
                measurements=f'mrsigner = "{value("mrsigner").hex()}"',
            ),
        ),
    ),
    "debug_exact": (
        LintId.DEBUG_SELECTED,
        Case(
            tdx(measurements=f'td_attributes = "{DEBUG}"'),
            "workload[0].image[0].measurements.td_attributes",
        ),
    ),
    "debug_one_of": (
        LintId.DEBUG_SELECTED,
        Case(
            tdx(
                measurements=f'td_attributes = {{ one_of = ["{"00" * 8}", "{DEBUG}"] }}'
            ),
            "workload[0].image[0].measurements.td_attributes",
        ),
    ),
    "debug_mask": (
        LintId.DEBUG_SELECTED,
        Case(
            document(
                Tee.SGX,
                measurements=f'attributes = {{ mask = "{"ff" * 16}", '
                f'expected = "02{"00" * 15}" }}',
            ),
            "workload[0].image[0].measurements.attributes",
            document(Tee.SGX, measurements=f'attributes = "04{"00" * 15}"'),
        ),
    ),
    "debug_snp": (
        LintId.DEBUG_SELECTED,
        Case(
            document(Tee.SNP, measurements='policy = "00000b0000000000"'),
            "workload[0].image[0].measurements.policy",
            document(Tee.SNP, measurements='policy = "0000030000000000"'),
        ),
    ),
    "no_image": (
        LintId.EMPTY_SET,
        Case(start.first_document(), "workload[0]"),
    ),
    "image_without_measurements": (
        LintId.EMPTY_SET,
        Case(
            document(
                leave_out=("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"), measurements=""
            ),
            "workload[0].image[0].measurements",
        ),
    ),
    "expired": (
        LintId.IMAGE_EXPIRED,
        Case(
            tdx(image="until = 2026-01-01T00:00:00Z"),
            "workload[0].image[0].until",
            tdx(image="until = 2027-01-01T00:00:00Z"),
        ),
    ),
    "grace_ended": (
        LintId.GRACE_ENDED,
        Case(
            tdx(
                tcb_rules='grace = { statuses = ["OutOfDate"], '
                "until = 2026-01-01T00:00:00Z }"
            ),
            "workload[0].tcb.grace.until",
            tdx(
                tcb_rules='grace = { statuses = ["OutOfDate"], '
                "until = 2027-01-01T00:00:00Z }"
            ),
        ),
    ),
    "overlap": (
        LintId.WORKLOADS_OVERLAP,
        Case(
            [tdx(name="one"), tdx(name="two")],
            "workload[0]",
            [
                tdx(name="one"),
                tdx(name="two", measurements=f'rtmr3 = "{"ab" * 48}"\n{PINNED}'),
            ],
        ),
    ),
    "overlap_of_different_fields": (
        LintId.WORKLOADS_OVERLAP,
        Case(
            [
                document(name="one", measurements=PINNED, leave_out=("rtmr2",)),
                document(name="two", measurements=OWNER, leave_out=("rtmr3",)),
            ],
            "workload[0]",
            [
                tdx(name="one", image="until = 2026-10-01T00:00:00Z"),
                tdx(name="two", image="from = 2026-10-01T00:00:00Z"),
            ],
        ),
    ),
    "overlap_of_platforms": (
        LintId.WORKLOADS_OVERLAP,
        Case(
            [
                tdx(name="one", rules=f'platform = [{{ ppid = "{"ab" * 16}" }}]'),
                tdx(name="two", rules=f'platform = [{{ piid = "{"cd" * 16}" }}]'),
            ],
            "workload[0]",
            [
                tdx(name="one", rules=f'platform = [{{ ppid = "{"ab" * 16}" }}]'),
                tdx(name="two", rules=f'platform = [{{ ppid = "{"cd" * 16}" }}]'),
            ],
        ),
    ),
    "duplicate_label": (
        LintId.DUPLICATE_LABEL,
        Case(
            tdx(
                more='[[workload.image]]\nlabel = "2026-10"\n'
                f'[workload.image.measurements]\nrtmr3 = "{"ab" * 48}"'
            ),
            "workload[0].image[1].label",
        ),
    ),
    "no_keys": (
        LintId.NO_KEYS,
        Case(tdx().partition("[[workload.key]]")[0], "workload[0]"),
    ),
    "rtmr3_zero": (
        LintId.RTMR3_ZERO,
        Case(
            tdx(measurements=f"rtmr3 = {{ zero = true }}\n{PINNED}"),
            "workload[0].image[0].measurements.rtmr3",
            tdx(measurements=f"rtmr3 = {{ zero = true }}\n{OWNER}"),
        ),
    ),
    "named_legacy": (
        LintId.NAMED_LEGACY,
        Case(
            tdx(key='protocols = ["v1", "legacy"]'),
            "workload[0].key[0].protocols",
            tdx(key='protocols = ["v1", "legacy"]', identity="measured"),
        ),
    ),
    "attributes_unpinned": (
        LintId.ATTRIBUTES_UNPINNED,
        Case(document(), "workload[0].image[0].measurements"),
    ),
    "weak_status": (
        LintId.WEAK_STATUS,
        Case(
            tdx(tcb_rules='statuses = ["UpToDate", "OutOfDate"]'),
            "workload[0].tcb.statuses[1]",
        ),
    ),
    "one_verifier": (
        LintId.ONE_VERIFIER,
        Case(tdx(rules='single_verifier = "accept"'), "workload[0].single_verifier"),
    ),
    "simulated": (
        LintId.SIMULATED,
        Case(
            tdx(rules=f'trust_domain = "simulated:{"bb" * 48}"'),
            "workload[0].trust_domain",
        ),
    ),
}


def findings(text: str | list[str]) -> tuple[Finding, ...]:
    texts = [text] if isinstance(text, str) else text
    documents = [parse(t, name=f"{i}.toml") for i, t in enumerate(texts)]
    return lint(documents, now=NOW)


@pytest.mark.parametrize("name", CASES)
def test_found_at_its_place(name: str) -> None:
    lint_id, case = CASES[name]
    found = [f for f in findings(case.bad) if f.id is lint_id]
    assert found, [f.id for f in findings(case.bad)]
    assert case.field in {f.field for f in found}
    for finding in found:
        assert finding.position is not None
        assert finding.message
        assert finding.hint == LINTS[lint_id].hint
        assert finding.severity is LINTS[lint_id].severity


@pytest.mark.parametrize("name", CASES)
def test_not_found_where_it_is_not(name: str) -> None:
    lint_id, case = CASES[name]
    assert lint_id not in {f.id for f in findings(case.good)}


def test_every_lint_has_a_case() -> None:
    assert {lint_id for lint_id, _ in CASES.values()} == set(LintId) == set(LINTS)


def test_a_clean_document_has_no_findings() -> None:
    assert findings(CLEAN) == ()


def test_what_gives_keys_away_is_a_danger() -> None:
    dangers = {i for i, lint in LINTS.items() if lint.severity is Severity.DANGER}
    assert dangers >= {
        LintId.NAMED_ANYWHERE,
        LintId.RTMR3_LEFT_OUT,
        LintId.DEBUG_SELECTED,
        LintId.EMPTY_SET,
        LintId.IMAGE_EXPIRED,
        LintId.WORKLOADS_OVERLAP,
        LintId.DUPLICATE_LABEL,
    }
