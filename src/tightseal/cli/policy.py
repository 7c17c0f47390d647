# SPDX-License-Identifier: Apache-2.0
"""``tightseal policy``: write, check, test, compare and explain policy documents."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, ParamSpec

from cyclopts import App, Parameter

from tightseal.cli import ui
from tightseal.cli.policy_input import (
    claims_from,
    read_bytes,
    read_documents,
    seconds_of,
)
from tightseal.cli.verify import UsageError
from tightseal.errors import Code, SettingsError
from tightseal.model.keypath import (
    DEFAULT_KEY_BYTES,
    IdentityKind,
    KeyRequest,
    ProtocolClass,
)
from tightseal.policy import start
from tightseal.policy.cases import CASES_FILE, Result, judge_as, read_cases, run
from tightseal.policy.claimsfile import read_claims
from tightseal.policy.compile import compile_policy
from tightseal.policy.diff import Difference, differences, plain
from tightseal.policy.document import WorkloadRules
from tightseal.policy.engine import Explanation
from tightseal.policy.lint import Finding, Severity
from tightseal.policy.lint import lint as lint_documents

__all__ = ["policy_app"]

FIRST_FILE: Final = Path("policy.toml")
JsonFlag = Annotated[bool, Parameter("--json")]
Moment = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
OutFile = Annotated[Path, Parameter(allow_leading_hyphen=True)]
PolicyFiles = Annotated[list[Path], Parameter(name=["--policy", "-p"])]
EvidenceFile = Annotated[
    str | None, Parameter(name=["--evidence"], allow_leading_hyphen=True)
]
_P = ParamSpec("_P")

policy_app = App(
    name="policy",
    help="Write, check, test, compare and explain policy documents.",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)


def _asked(command: Callable[_P, int]) -> Callable[_P, int]:
    """A wrong command line is told as such, with the command's help."""

    @wraps(command)
    def told(*args: _P.args, **kwargs: _P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except UsageError as error:
            return ui.usage_error(str(error), "policy --help")

    return told


@policy_app.command
@_asked
def init(*, out: OutFile = FIRST_FILE) -> int:
    """Write a first document, with every choice and its meaning.

    Args:
        out: the new file; never overwritten. - for stdout.
    """
    return _written(start.first_document(), out)


@policy_app.command(name="from-evidence")
@_asked
def from_evidence(
    evidence: EvidenceFile = None,
    /,
    *,
    claims: Path | None = None,
    collateral: Path | None = None,
    at: Moment = None,
    root_ca: Path | None = None,
    tenant: str = "default",
    name: str = "workload",
    identity: IdentityKind = IdentityKind.NAMED,
    label: str = "first",
    purpose: str = "disk",
    out: OutFile = Path("-"),
) -> int:
    """Verify evidence, and write a document that accepts what it shows.

    Args:
        evidence: as for ``tightseal verify``; - for stdin.
        claims: JSON of ``tightseal verify --json``, in place of evidence.
        collateral: as for ``tightseal verify``.
        at: verify as of this time, Unix seconds or RFC 3339; now by default.
        root_ca: root certificate of a simulated world, to be trusted too.
        tenant: whose the workload is.
        name: of the workload.
        identity: what its keys belong to.
        label: of the image.
        purpose: of its one key.
        out: the new file; never overwritten. - for stdout.
    """
    now = seconds_of(at)
    found = claims_from(evidence, claims, collateral, root_ca, now=now, past=bool(at))
    text = start.from_claims(
        found,
        tenant=tenant,
        name=name,
        identity=identity,
        label=label,
        purpose=purpose,
    )
    compile_policy(read_documents((), texts={"the new document": text}))
    if found.debug:
        ui.note("the evidence is of a debug workload: every provider refuses it")
    return _written(text, out)


@policy_app.command
@_asked
def lint(*policy: Path, at: Moment = None, as_json: JsonFlag = False) -> int:
    """Find what is dangerous: 0 nothing, 1 danger found, 2 a document is malformed.

    Args:
        policy: documents, or folders of them, that make one policy.
        at: judge dates as of this time, Unix seconds or RFC 3339; now by default.
        as_json: one JSON document on stdout.
    """
    found = lint_documents(read_documents(policy), now=seconds_of(at))
    dangers = [finding for finding in found if finding.severity is Severity.DANGER]
    if as_json:
        ui.print_json(
            {"dangerous": bool(dangers), "findings": [asdict(f) for f in found]}
        )
    else:
        count = f"{len(dangers)} dangers, {len(found) - len(dangers)} pieces of advice"
        ui.verdict(
            "dangerous" if dangers else "clean",
            count if found else "",
            tone="no" if dangers else "yes",
        )
        for finding in found:
            _show_finding(finding)
    return ui.EXIT_NO if dangers else ui.EXIT_YES


@policy_app.command(name="test")
@_asked
def judge_cases(
    folder: Path, /, *, policy: PolicyFiles, as_json: JsonFlag = False
) -> int:
    """Judge a folder of claims: 0 all as expected, 1 some not, 2 unreadable.

    The folder holds cases.toml, which names files of claims (the output of ``tightseal
    verify --json``) and the decision that each must get.

    Args:
        folder: with cases.toml and the claims.
        policy: documents, or folders of them, that make one policy.
        as_json: one JSON document on stdout.
    """
    compiled = compile_policy(read_documents(policy))
    file = folder / CASES_FILE
    cases = read_cases(_text(file), name=str(file))
    results = run(
        compiled,
        cases,
        claims_of=lambda name: read_claims(
            read_bytes(folder / name), name=str(folder / name)
        ),
    )
    failed = [result for result in results if not result.passed]
    if as_json:
        ui.print_json(
            {"passed": not failed, "cases": [_result_json(r) for r in results]}
        )
    else:
        ui.verdict(
            "failed" if failed else "passed",
            f"{len(results) - len(failed)} of {len(results)} cases",
            tone="no" if failed else "yes",
        )
        for result in failed:
            _show_result(result)
    return ui.EXIT_NO if failed else ui.EXIT_YES


@policy_app.command
@_asked
def diff(before: Path, after: Path, /, *, as_json: JsonFlag = False) -> int:
    """Compare what two policies say: 0 the same, 1 different, 2 unreadable.

    Args:
        before: a document, or a folder of them.
        after: another.
        as_json: one JSON document on stdout.
    """
    found = differences(read_documents((before,)), read_documents((after,)))
    if as_json:
        ui.print_json({"same": not found, "differences": [asdict(d) for d in found]})
        return ui.EXIT_NO if found else ui.EXIT_YES
    ui.verdict(
        "different" if found else "same",
        f"{len(found)} fields" if found else "",
        tone="unsure" if found else "yes",
    )
    workload = ""
    for difference in found:
        if difference.workload != workload:
            workload = difference.workload
            ui.heading(workload)
        ui.facts([_difference_row(difference)])
    return ui.EXIT_NO if found else ui.EXIT_YES


@policy_app.command
@_asked
def show(*policy: Path, as_json: JsonFlag = False) -> int:
    """Print what documents say together, with every default spelled out.

    Args:
        policy: documents, or folders of them, that make one policy.
        as_json: one JSON document on stdout.
    """
    documents = read_documents(policy)
    compile_policy(documents)
    workloads = sorted(
        (rules for parsed in documents for rules in parsed.document.workload),
        key=lambda rules: (rules.tenant, rules.name),
    )
    if as_json:
        ui.print_json({"version": 1, "workload": [plain(w) for w in workloads]})
        return ui.EXIT_YES
    ui.verdict("usable", f"{len(workloads)} workloads", tone="yes")
    for rules in workloads:
        _show_workload(rules)
    return ui.EXIT_YES


@policy_app.command
@_asked
def explain(
    *,
    policy: PolicyFiles,
    evidence: EvidenceFile = None,
    claims: Path | None = None,
    collateral: Path | None = None,
    at: Moment = None,
    root_ca: Path | None = None,
    purpose: str | None = None,
    label: str = "",
    length: int = DEFAULT_KEY_BYTES,
    protocol: ProtocolClass = ProtocolClass.V1,
    elsewhere: bool = False,
    as_json: JsonFlag = False,
) -> int:
    """Explain a decision rule by rule: 0 granted, 1 denied, 2 could not be read.

    The provider is assumed to stand on the platform of the evidence.

    Args:
        policy: documents, or folders of them, that make one policy.
        evidence: as for ``tightseal verify``; - for stdin.
        claims: JSON of ``tightseal verify --json``, in place of evidence.
        collateral: as for ``tightseal verify``.
        at: decide as of this time, Unix seconds or RFC 3339; now by default.
        root_ca: root certificate of a simulated world, to be trusted too.
        purpose: of a key to ask for; without it, the rules of keys are not judged.
        label: of that key.
        length: of that key, in bytes.
        protocol: the way in.
        elsewhere: assume that the provider stands on another machine.
        as_json: one JSON document on stdout.
    """
    compiled = compile_policy(read_documents(policy))
    now = seconds_of(at)
    found = claims_from(evidence, claims, collateral, root_ca, now=now, past=bool(at))
    told = judge_as(
        found,
        keys=() if purpose is None else (KeyRequest(purpose, label, length),),
        policy=compiled,
        elsewhere=elsewhere,
        protocol=protocol,
        now=now,
    )
    if as_json:
        ui.print_json(_explanation_json(told))
    else:
        _show_explanation(told)
    return ui.EXIT_YES if told.granted else ui.EXIT_NO


# -- how it is shown --------------------------------------------------------------


def _written(text: str, out: Path) -> int:
    if str(out) == "-":
        sys.stdout.write(text)
        return ui.EXIT_YES
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as e:
        detail = f"{out}: {e.strerror}; choose another file with --out"
        raise SettingsError(Code.POLICY_INVALID, detail) from e
    ui.verdict("written", str(out), tone="yes")
    return ui.EXIT_YES


def _text(file: Path) -> str:
    try:
        return read_bytes(file).decode()
    except UnicodeDecodeError as e:
        raise SettingsError(Code.POLICY_INVALID, f"{file}: not UTF-8") from e


def _show_finding(finding: Finding) -> None:
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


def _result_json(result: Result) -> dict[str, Any]:
    return {
        "place": result.place,
        "claims": result.case.claims,
        "passed": result.passed,
        "expected": result.case.expect,
        "decision": _explanation_json(result.explanation),
    }


def _show_result(result: Result) -> None:
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


def _explanation_json(told: Explanation) -> dict[str, Any]:
    return {
        "granted": told.granted,
        "code": None if told.code is None else told.code.value,
        "workload": told.workload,
        "image": told.image,
        "nearest": told.nearest,
        "reasons": [asdict(reason) for reason in told.reasons],
    }


def _show_explanation(told: Explanation) -> None:
    if told.granted:
        ui.verdict("granted", f"{told.workload}, image {told.image}", tone="yes")
    else:
        code = "" if told.code is None else told.code.value
        ui.verdict("denied", code, tone="no")
        ui.heading("why")
        ui.facts(_failed_rows(told))
    ui.heading("rules that hold")
    ui.facts((r.rule, r.got) for r in told.reasons if r.satisfied)


def _difference_row(difference: Difference) -> tuple[str, str]:
    change = f"{difference.before} -> {difference.after}"
    return difference.field or "workload", change


def _show_workload(rules: WorkloadRules) -> None:
    fields = plain(rules)
    ui.heading(f"{rules.tenant}/{rules.name}")
    ui.facts(
        (name, _plain_text(fields[name]))
        for name in ("identity", "tee", "trust_domain", "platform", "binds", "tcb")
        if fields[name] is not None
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
    for key in fields["key"]:
        ui.facts([("key", _plain_text(key))])


def _plain_text(value: Any) -> str:
    if isinstance(value, dict):
        parts = (f"{n} {_plain_text(v)}" for n, v in value.items() if v is not None)
        return "; ".join(parts)
    if isinstance(value, list):
        return ", ".join(_plain_text(item) or "''" for item in value) or "none"
    return str(value)
