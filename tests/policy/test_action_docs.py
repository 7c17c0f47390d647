# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/actions.md and docs/cedar.md are documents that work."""

import re
from pathlib import Path
from typing import Any

import policy_support as support
import pytest

from tightseal.model.action import ActionKind
from tightseal.model.keypath import KeyRequest, ProtocolClass
from tightseal.policy.cedar import CedarRule
from tightseal.policy.compile import load_policy

DOCS = Path(__file__).resolve().parents[2] / "docs"


def example(page: str) -> str:
    [found] = re.findall(r"```toml\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert isinstance(found, str)
    return found


def test_the_role_is_read() -> None:
    [role] = load_policy(example("actions.md")).roles
    assert (str(role), role.threshold, len(role.keys)) == ("acme/operators", 2, 2)
    assert role.actions == {
        ActionKind.ADOPT,
        ActionKind.RELEASE_PLATFORM,
        ActionKind.RESET_USAGE,
    }
    page = (DOCS / "actions.md").read_text()
    assert all(f"| `{kind.value}` |" in page for kind in ActionKind)


def rule() -> CedarRule:
    [workload] = load_policy(example("cedar.md")).workloads
    assert workload.cedar is not None
    return workload.cedar


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({}, True),
        ({"key": KeyRequest("backup")}, True),
        ({"image": "2025-11"}, True),
        ({"image": "2025-11", "key": KeyRequest("backup")}, False),
        ({"workload": "other"}, False),
        (
            {
                "claims": support.td(
                    tcb=support.tcb(advisory_ids=frozenset({"INTEL-SA-00615"}))
                )
            },
            False,
        ),
    ],
    ids=["disk", "backup", "old disk", "old backup", "another", "advisory"],
)
def test_the_cedar_rule_decides_as_it_says(
    changes: dict[str, Any], allowed: object
) -> None:
    question: dict[str, Any] = {
        "claims": support.td(),
        "events": None,
        "tenant": "acme",
        "workload": "database",
        "image": "2026-10",
        "key": KeyRequest("disk"),
        "protocol": ProtocolClass.V1,
        "now": support.NOW,
    }
    assert rule().allows(**question | changes) is allowed
