# SPDX-License-Identifier: Apache-2.0
"""How findings, decisions and workloads are told."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from tightseal.cli import ui
from tightseal.policy.cases import Result
from tightseal.policy.diff import Difference, plain, role_name
from tightseal.policy.document import ProviderRules, RoleRules, WorkloadRules
from tightseal.policy.engine import Explanation
from tightseal.policy.lint import Finding

__all__ = [
    "difference_row",
    "explanation_json",
    "result_json",
    "show_explanation",
    "show_finding",
    "show_provider",
    "show_result",
    "show_role",
    "show_workload",
]

_SHOWN: Final = (
    "identity",
    "tee",
    "trust_domain",
    "platform",
    "binds",
    "tcb",
    "cedar",
)
"""Fields of a workload, in the order in which they are shown."""


def show_finding(finding: Finding) -> None:
    """One finding of lint: where, what, and what to do."""
    at = finding.position
    where = "" if at is None else f":{at.line}:{at.column}"
    ui.heading(f"{finding.document}{where}: {finding.severity}: {finding.id}")
    ui.facts(
        [
            ("field", finding.field),
            ("found", finding.message),
            ("try", finding.hint),
        ]
    )


def result_json(result: Result) -> dict[str, Any]:
    """A judged case as JSON."""
    return {
        "place": result.place,
        "claims": result.case.claims,
        "passed": result.passed,
        "expected": result.case.expect,
        "decision": explanation_json(result.explanation),
    }


def show_result(result: Result) -> None:
    """A case that was judged otherwise than expected."""
    wanted = [result.case.expect]
    if result.case.workload is not None:
        wanted.append(f"as {result.case.workload}")
    if result.case.image is not None:
        wanted.append(f"image {result.case.image}")
    ui.heading(f"{result.place}: {result.case.claims}")
    ui.facts([("expected", ", ".join(wanted)), ("got", result.got)])
    ui.facts(_failed_rows(result.explanation))


def _failed_rows(told: Explanation) -> list[tuple[str, str]]:
    rows = [("nearest", told.nearest)] if told.nearest else []
    rows += [
        (reason.rule, f"expected {reason.expected}; got {reason.got}")
        for reason in told.reasons
        if not reason.satisfied
    ]
    return rows


def explanation_json(told: Explanation) -> dict[str, Any]:
    """A decision as JSON."""
    return {
        "granted": told.granted,
        "code": None if told.code is None else told.code.value,
        "workload": told.workload,
        "image": told.image,
        "nearest": told.nearest,
        "reasons": [asdict(reason) for reason in told.reasons],
    }


def show_explanation(told: Explanation) -> None:
    """A decision, rule by rule."""
    if told.granted:
        ui.verdict("granted", f"{told.workload}, image {told.image}", tone="yes")
    else:
        code = "" if told.code is None else told.code.value
        ui.verdict("denied", code, tone="no")
        ui.heading("why")
        ui.facts(_failed_rows(told))
    ui.heading("rules that hold")
    ui.facts((r.rule, r.got) for r in told.reasons if r.satisfied)


def difference_row(difference: Difference) -> tuple[str, str]:
    """A difference within a workload or a role."""
    change = f"{difference.before} -> {difference.after}"
    whole = "role" if difference.workload.startswith("role ") else "workload"
    return difference.field or whole, change


def show_workload(rules: WorkloadRules) -> None:
    """A workload with its defaults."""
    fields = plain(rules)
    ui.heading(f"{rules.tenant}/{rules.name}")
    ui.facts(
        (name, _plain_text(fields[name])) for name in _SHOWN if fields[name] is not None
    )
    for image in fields["image"]:
        ui.facts([("image", image["label"])])
        ui.facts(
            (f"  {name}", image[name])
            for name in ("from", "until")
            if image[name] is not None
        )
        ui.facts(
            (f"  {name}", _plain_text(value))
            for name, value in image["measurements"].items()
        )
        ui.facts(
            (f"  event {name}", _plain_text(value))
            for name, value in image["events"].items()
        )
        ui.facts(
            (f"  {event['about']} in {event['register']}", _plain_text(event["digest"]))
            for event in image["logged"]
        )
    for key in fields["key"]:
        ui.facts([("key", _plain_text(key))])


def show_role(rules: RoleRules) -> None:
    """Who may ask a running provider for what."""
    ui.heading(role_name(rules))
    ui.facts(
        (name, _plain_text(value))
        for name, value in plain(rules).items()
        if name not in {"name", "tenant"}
    )


def show_provider(rules: ProviderRules) -> None:
    """Another provider that may be handed the keyring."""
    ui.heading(f"provider {rules.name}")
    ui.facts(
        (name, _plain_text(value))
        for name, value in plain(rules).items()
        if name != "name" and value is not None
    )


def _plain_text(value: Any) -> str:
    if isinstance(value, dict):
        parts = (f"{n} {_plain_text(v)}" for n, v in value.items() if v is not None)
        return "; ".join(parts)
    if isinstance(value, list):
        return ", ".join(_plain_text(item) or "''" for item in value) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
