# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/policy.md are documents that work."""

import re
from pathlib import Path

from policy_support import NOW

from tightseal.policy.cases import read_cases
from tightseal.policy.lint import Severity, lint
from tightseal.policy.read import parse

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policy.md"
CASES, DOCUMENT = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_document_is_clean() -> None:
    found = lint([parse(DOCUMENT)], now=NOW)
    assert [f for f in found if f.severity is Severity.DANGER] == []


def test_the_cases_are_read() -> None:
    assert [case.expect for case, _ in read_cases(CASES)] == [
        "granted",
        "image_expired",
    ]
