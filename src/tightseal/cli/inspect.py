# SPDX-License-Identifier: Apache-2.0
"""``tightseal inspect``: what evidence says about itself, unverified."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from tightseal.cli import ui
from tightseal.cli.verify import read_evidence
from tightseal.evidence.detect import decode_text
from tightseal.evidence.inspect import UNVERIFIED, Inspection, Value, inspect_evidence

__all__ = ["inspect"]


def inspect(
    evidence: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    as_json: Annotated[bool, Parameter("--json")] = False,
) -> int:
    """Show the fields of any evidence, verifying nothing.

    Args:
        evidence: File with a quote or report, binary, hex or base64; - for stdin.
        as_json: One JSON document on stdout.
    """
    found = inspect_evidence(decode_text(read_evidence(evidence)))
    if as_json:
        ui.print_json(_document(found))
    else:
        _show(found)
    if found.problem is not None:
        ui.show_error(found.problem)
        return ui.EXIT_NO
    return ui.EXIT_YES


def _document(found: Inspection) -> dict[str, object]:
    problem = found.problem
    return {
        "verified": False,
        "kind": found.kind.value,
        "size": found.size,
        "sections": {section.title: dict(section.fields) for section in found.sections},
        "code": None if problem is None else problem.code.value,
        "detail": None if problem is None else problem.detail,
    }


def _show(found: Inspection) -> None:
    word, _, rest = UNVERIFIED.partition(": ")
    ui.verdict(word, rest, tone="unsure")
    ui.facts([("kind", found.kind.value), ("size", f"{found.size} bytes")])
    for section in found.sections:
        ui.heading(f"{section.title} (unverified)")
        ui.facts((name, _text(value)) for name, value in section.fields)


def _text(value: Value) -> str:
    if value is None:
        return "not said"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
