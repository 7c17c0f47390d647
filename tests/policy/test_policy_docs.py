# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/policy.md are documents that work."""

import re
from pathlib import Path

from msgspec.structs import fields
from policy_support import NOW

from tightseal.model.keypath import KeyType
from tightseal.policy.cases import read_cases
from tightseal.policy.document import (
    ImageRules,
    KeyRules,
    LoggedRules,
    RoleRules,
    UsageRules,
    WorkloadRules,
)
from tightseal.policy.lint import Severity, lint
from tightseal.policy.read import parse

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policy.md"
_PIN, CASES, DOCUMENT = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_document_is_clean() -> None:
    found = lint([parse(DOCUMENT)], now=NOW)
    assert [f for f in found if f.severity is Severity.DANGER] == []


def test_the_document_shows_every_table() -> None:
    document = parse(DOCUMENT).document
    assert document.role
    images = [image for rules in document.workload for image in rules.image]
    keys = [key for rules in document.workload for key in rules.key]
    assert any(image.events for image in images)
    assert any(key.usage and key.usage.windows for key in keys)
    assert {key.type for key in keys} == {KeyType.RAW, KeyType.ED25519}


def test_the_page_names_every_field() -> None:
    text = PAGE.read_text()
    kinds = (WorkloadRules, ImageRules, LoggedRules, KeyRules, UsageRules, RoleRules)
    names = {field.encode_name for kind in kinds for field in fields(kind)}
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()


def test_the_cases_are_read() -> None:
    assert [case.expect for case, _ in read_cases(CASES)] == [
        "granted",
        "image_expired",
    ]
