# SPDX-License-Identifier: Apache-2.0
"""``tightseal inspect``: what evidence says about itself, unverified."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from tightseal.cli import ui
from tightseal.cli.presented import presented
from tightseal.evidence.inspect import (
    UNVERIFIED,
    Inspection,
    Section,
    Value,
    inspect_evidence,
)

__all__ = ["inspect"]


def inspect(
    evidence: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    as_json: Annotated[bool, Parameter("--json")] = False,
) -> int:
    """Show the fields of any evidence, verifying nothing.

    Args:
        evidence: File with a quote or report, binary, hex or base64; - for stdin. Or
            a certificate that carries one, PEM or DER, or HOST:PORT that shows it.
        as_json: One JSON document on stdout.
    """
    given = presented(evidence)
    found = inspect_evidence(given.evidence)
    if given.certificate is not None:
        first = Section("certificate", tuple(given.described().items()))
        found = replace(found, sections=(first, *found.sections))
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
