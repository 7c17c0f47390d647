# SPDX-License-Identifier: Apache-2.0
"""Each lint: a document that has it, at its place, and the same one without it."""

import pytest
from lint_cases import CASES, CLEAN
from policy_support import NOW

from tightseal.policy.lint import LINTS, Finding, LintId, Severity, lint
from tightseal.policy.read import parse


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
