# SPDX-License-Identifier: Apache-2.0
"""``tightseal policy``: write, check, test, compare and explain policy documents."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Annotated, Final, ParamSpec

from cyclopts import App, Parameter

from tightseal.cli import ui
from tightseal.cli.policy_approvers import DEFAULT_ROOT_DAYS, make_folder
from tightseal.cli.policy_bundle import register
from tightseal.cli.policy_input import (
    claims_from,
    events_from,
    read_bytes,
    read_documents,
    seconds_of,
)
from tightseal.cli.policy_show import is_signed_policy, show_signed_policy
from tightseal.cli.policy_text import (
    difference_row,
    explanation_json,
    result_json,
    show_explanation,
    show_finding,
    show_provider,
    show_result,
    show_role,
    show_workload,
)
from tightseal.cli.verify import UsageError
from tightseal.errors import Code, SettingsError
from tightseal.model.keypath import (
    DEFAULT_KEY_BYTES,
    IdentityKind,
    KeyPart,
    KeyRequest,
    ProtocolClass,
)
from tightseal.model.keyuse import KeyUse, Operation
from tightseal.policy import start
from tightseal.policy.cases import CASES_FILE, judge_as, read_cases, run
from tightseal.policy.claimsfile import read_claims
from tightseal.policy.compile import compile_policy
from tightseal.policy.diff import differences, plain, role_name
from tightseal.policy.lint import Severity
from tightseal.policy.lint import lint as lint_documents

__all__ = ["policy_app"]

FIRST_FILE: Final = Path("policy.toml")
JsonFlag = Annotated[bool, Parameter("--json")]
Moment = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
OutFile = Annotated[Path, Parameter(allow_leading_hyphen=True)]
PolicyFiles = Annotated[list[Path], Parameter(name=["--policy", "-p"])]
EventLog = Annotated[Path | None, Parameter(name=["--event-log"])]
EvidenceFile = Annotated[
    str | None, Parameter(name=["--evidence"], allow_leading_hyphen=True)
]
_P = ParamSpec("_P")
_COMMANDS: Final = {"from_evidence": "from-evidence", "judge_cases": "test"}
"""Commands that are called otherwise than their functions."""

policy_app = App(
    name="policy",
    help="Write, check, explain, sign and publish policies.",
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
            name = _COMMANDS.get(command.__name__, command.__name__)
            return ui.usage_error(str(error), f"policy {name} --help")

    return told


@policy_app.command
@_asked
def init(
    folder: Path | None = None,
    /,
    *,
    out: OutFile = FIRST_FILE,
    approver: Annotated[tuple[Path, ...], Parameter("--approver")] = (),
    threshold: int | None = None,
    document: tuple[Path, ...] = (),
    release: Path | None = None,
    expires_days: int = DEFAULT_ROOT_DAYS,
    at: Moment = None,
    as_json: JsonFlag = False,
) -> int:
    """Write a first document; or make a folder for approvers, and its policy root.

    Args:
        folder: of the approvers; without it, one document is written.
        out: the new document; never overwritten. - for stdout.
        approver: public half of who approves; may be given again.
        threshold: how many approvers must sign everything; all of them by default.
        document: to begin with; may be given again. A first document otherwise.
        release: release settings to be signed too: keys of the table release.
        expires_days: days that the root holds.
        at: as of this time, Unix seconds or RFC 3339; now by default.
        as_json: one JSON document on stdout.
    """
    if folder is None:
        if approver or threshold is not None or document or release is not None:
            message = "name the folder too: tightseal policy init FOLDER --approver"
            raise UsageError(message)
        return _written(start.first_document(), out, as_json=as_json)
    return make_folder(
        folder,
        approver,
        threshold=threshold,
        documents=document,
        release=release,
        days=expires_days,
        now=seconds_of(at),
        as_json=as_json,
    )


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
    event_log: EventLog = None,
    tenant: str = "default",
    name: str = "workload",
    identity: IdentityKind = IdentityKind.NAMED,
    label: str = "first",
    purpose: str = "disk",
    out: OutFile = Path("-"),
    as_json: JsonFlag = False,
) -> int:
    """Verify evidence, and write a document that accepts what it shows.

    Args:
        evidence: as for ``tightseal verify``; - for stdin.
        claims: JSON of ``tightseal verify --json``, in place of evidence.
        collateral: as for ``tightseal verify``.
        at: verify as of this time, Unix seconds or RFC 3339; now by default.
        root_ca: root certificate of a simulated world, to be trusted too.
        event_log: the event log beside it; a compose hash in it stands for rtmr3.
        tenant: whose the workload is.
        name: of the workload.
        identity: what its keys belong to.
        label: of the image.
        purpose: of its one key.
        out: the new file; never overwritten. - for stdout.
        as_json: one JSON document on stdout, with the new document in it.
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
        events=events_from(event_log, found),
    )
    compile_policy(read_documents((), texts={"the new document": text}))
    if found.debug:
        ui.note("the evidence is of a debug workload: every provider refuses it")
    return _written(text, out, as_json=as_json)


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
        count = f"dangers {len(dangers)}, pieces of advice {len(found) - len(dangers)}"
        ui.verdict(
            "dangerous" if dangers else "clean",
            count if found else "",
            tone="no" if dangers else "yes",
        )
        for finding in found:
            show_finding(finding)
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
        log_of=lambda name: read_bytes(folder / name),
    )
    failed = [result for result in results if not result.passed]
    if as_json:
        ui.print_json(
            {"passed": not failed, "cases": [result_json(r) for r in results]}
        )
    else:
        ui.verdict(
            "failed" if failed else "passed",
            f"{len(results) - len(failed)} of {len(results)} cases",
            tone="no" if failed else "yes",
        )
        for result in failed:
            show_result(result)
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
        ui.facts([difference_row(difference)])
    return ui.EXIT_NO if found else ui.EXIT_YES


@policy_app.command
@_asked
def show(*policy: Path, as_json: JsonFlag = False) -> int:
    """Print what documents say together, or what a bundle or its folder holds.

    Of documents, every default is spelled out. Of a bundle, or of the folder that
    approvers work in: the policy root, who has signed which role, what is missing, and
    when it expires; 0 where a provider would take it, 1 where not.

    Args:
        policy: documents, or folders of them, that make one policy; or one bundle, or
            one folder of approvers.
        as_json: one JSON document on stdout.
    """
    if len(policy) == 1 and is_signed_policy(policy[0]):
        return show_signed_policy(policy[0], now=seconds_of(None), as_json=as_json)
    documents = read_documents(policy)
    compile_policy(documents)
    workloads = sorted(
        (rules for parsed in documents for rules in parsed.document.workload),
        key=lambda rules: (rules.tenant, rules.name),
    )
    roles = sorted(
        (role for parsed in documents for role in parsed.document.role), key=role_name
    )
    providers = sorted(
        (rules for parsed in documents for rules in parsed.document.provider),
        key=lambda rules: rules.name,
    )
    if as_json:
        told = {"workload": [plain(w) for w in workloads]}
        told |= {"role": [plain(r) for r in roles]}
        told |= {"provider": [plain(p) for p in providers]}
        ui.print_json({"version": 1, **told})
        return ui.EXIT_YES
    ui.verdict("usable", f"{len(workloads)} workloads, {len(roles)} roles", tone="yes")
    for rules in workloads:
        show_workload(rules)
    for role in roles:
        show_role(role)
    for provider in providers:
        show_provider(provider)
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
    event_log: EventLog = None,
    purpose: str | None = None,
    label: str = "",
    length: int = DEFAULT_KEY_BYTES,
    part: KeyPart = KeyPart.PRIVATE,
    use: Operation | None = None,
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
        event_log: the event log that is sent beside the evidence.
        purpose: of a key to ask for; without it, the rules of keys are not judged.
        label: of that key.
        length: of that key, in bytes.
        part: of that key: the key itself, or the public half of a pair.
        use: ask for this use of that key in place of its release.
        protocol: the way in.
        elsewhere: assume that the provider stands on another machine.
        as_json: one JSON document on stdout.
    """
    compiled = compile_policy(read_documents(policy))
    now = seconds_of(at)
    found = claims_from(evidence, claims, collateral, root_ca, now=now, past=bool(at))
    asked: tuple[KeyRequest, ...] = ()
    if purpose is not None:
        wanted = None if use is None else KeyUse(use)
        asked = (KeyRequest(purpose, label, length, part, use=wanted),)
    told = judge_as(
        found,
        keys=asked,
        policy=compiled,
        elsewhere=elsewhere,
        protocol=protocol,
        now=now,
        events=events_from(event_log, found),
    )
    if as_json:
        ui.print_json(explanation_json(told))
    else:
        show_explanation(told)
    return ui.EXIT_YES if told.granted else ui.EXIT_NO


register(policy_app, _asked)


# -- what they share --------------------------------------------------------------


def _written(text: str, out: Path, *, as_json: bool) -> int:
    to_file = str(out) != "-"
    if to_file:
        try:
            with out.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as e:
            detail = f"{out}: {e.strerror}; choose another file with --out"
            raise SettingsError(Code.POLICY_INVALID, detail) from e
    if as_json:
        place = str(out) if to_file else None
        ui.print_json({"version": 1, "written": place, "document": text})
    elif to_file:
        ui.verdict("written", str(out), tone="yes")
    else:
        sys.stdout.write(text)
    return ui.EXIT_YES


def _text(file: Path) -> str:
    try:
        return read_bytes(file).decode()
    except UnicodeDecodeError as e:
        raise SettingsError(Code.POLICY_INVALID, f"{file}: not UTF-8") from e
