# SPDX-License-Identifier: Apache-2.0
"""``tightseal policy keygen | sign | publish | root | tenant``: signed bundles.

Approvers work in one folder, best in git: each signs in turn, and the last one, or
anybody, publishes. See :mod:`tightseal.policy.bundle.folder` for what lies where.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from tightseal.cli import ui
from tightseal.cli.passphrase import asker, new_passphrase
from tightseal.cli.policy_approvers import root, tenant
from tightseal.cli.policy_input import seconds_of
from tightseal.cli.policy_show import (
    changes_title,
    last_published,
    pinned_root,
    show_changes,
    show_roles,
    states_json,
    told,
    waiting_for,
)
from tightseal.cli.policy_text import show_finding
from tightseal.cli.submit import submit
from tightseal.cli.verify import UsageError
from tightseal.errors import Code, ProviderError, SettingsError
from tightseal.model.base64url import encode_base64url
from tightseal.model.tls import TlsTrust
from tightseal.model.wire_operator import POLICY_PATH, PolicyAccepted
from tightseal.policy.bundle.approvers import DEFAULT_DAYS
from tightseal.policy.bundle.archive import pack, tenant_of_target, tenant_role
from tightseal.policy.bundle.author import Plan, plan_signing, signed_files
from tightseal.policy.bundle.content import read_content
from tightseal.policy.bundle.draft import bundle_files, pending
from tightseal.policy.bundle.folder import PUBLISHED, Folder, read_folder, write_files
from tightseal.policy.bundle.signers import (
    approver_key,
    generate_key,
    open_signer,
    write_key_pair,
)
from tightseal.policy.bundle.summary import changes
from tightseal.policy.bundle.tree import (
    TARGETS,
    RoleState,
    Tree,
    read_tree,
    role_states,
)
from tightseal.policy.bundle.verify import (
    ExpiredMetadata,
    VerifiedBundle,
    verify_bundle,
)
from tightseal.policy.diff import Difference
from tightseal.policy.lint import Finding, LintId, Severity, lint, tenants_overlap
from tightseal.policy.read import Parsed

__all__ = ["register"]

BUNDLE_CONTENT_TYPE: Final = "application/octet-stream"

ROOT_NOTICE_DAYS: Final = 90
"""Days before the end of the root from which approvers are reminded."""

_DAY: Final = 86_400

JsonFlag = Annotated[bool, Parameter("--json")]
Moment = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
Approvers = Annotated[tuple[Path, ...], Parameter("--approver")]
PassphraseFile = Annotated[Path | None, Parameter("--passphrase-file")]
PinnedRoot = Annotated[str | None, Parameter("--policy-root")]


def register(
    app: App, asked: Callable[[Callable[..., int]], Callable[..., int]]
) -> None:
    """Add the commands of signed bundles to ``tightseal policy``.

    Args:
        app: of ``tightseal policy``.
        asked: tells a wrong command line as such.
    """
    for command in (keygen, sign, publish, root, tenant):
        app.command(asked(command), name=command.__name__)


def keygen(
    key: Path,
    /,
    *,
    passphrase_file: PassphraseFile = None,
    no_passphrase: bool = False,
    as_json: JsonFlag = False,
) -> int:
    """Make the key of an approver or operator: NAME.key, and NAME.pub to hand out.

    Args:
        key: the new file NAME.key; neither file is ever overwritten.
        passphrase_file: holds the passphrase, alone; the terminal is asked otherwise.
        no_passphrase: leave the key open to whoever reads the file; for development.
        as_json: one JSON document on stdout.
    """
    if no_passphrase and passphrase_file is not None:
        message = "--no-passphrase and --passphrase-file: give one of them"
        raise UsageError(message)
    passphrase = None if no_passphrase else new_passphrase(passphrase_file)
    made = generate_key()
    public = write_key_pair(made, key, passphrase=passphrase)
    keyid = approver_key(public).keyid
    if as_json:
        ui.print_json(
            {
                "version": 1,
                "key": str(key),
                "public": str(public),
                "public_key": made.public_key.hex(),
                "key_id": keyid,
                "encrypted": passphrase is not None,
            }
        )
        return ui.EXIT_YES
    ui.verdict("made", str(key), tone="yes")
    ui.facts(
        [
            ("hand out", str(public)),
            ("public key", made.public_key.hex()),
            ("key id", keyid),
        ]
    )
    if passphrase is None:
        ui.note("whoever reads the file can sign: for development only")
    return ui.EXIT_YES


def sign(
    folder: Path,
    /,
    *,
    key: str,
    public: Path | None = None,
    passphrase_file: PassphraseFile = None,
    policy_root: PinnedRoot = None,
    accept_danger: tuple[LintId, ...] = (),
    expires_days: int = DEFAULT_DAYS,
    renew: bool = False,
    yes: bool = False,
    at: Moment = None,
    as_json: JsonFlag = False,
) -> int:
    """Sign what the documents say now, as one approver: 0 signed, 1 refused.

    Shows first what the signature approves. What others have signed keeps its version
    while the documents stay; what changed gets the next one.

    Args:
        folder: of the approvers.
        key: key file; or hsm:, awskms:, azurekms:, gcpkms:, hv: or tkey: with what
            securesystemslib takes after it.
        public: public half of a key that is no file.
        passphrase_file: holds the passphrase or PIN, alone.
        policy_root: refuse a folder with another policy root than this, 64 hex digits.
        accept_danger: id of a danger that lint finds, to be signed all the same; may be
            given again.
        expires_days: days that new metadata holds.
        renew: make everything that is fully signed anew, though nothing changed.
        yes: do not ask on the terminal.
        at: sign as of this time, Unix seconds or RFC 3339; now by default.
        as_json: one JSON document on stdout.
    """
    now = seconds_of(at)
    there = read_folder(folder)
    pin = pinned_root(there, policy_root)
    signer = open_signer(key, public=public, secret=asker(passphrase_file))
    last = last_published(there, now=now)
    plan = plan_signing(
        there.files,
        signer.public_key,
        published=None if last is None else last.files,
        now=now,
        days=expires_days,
        renew=renew,
    )
    found = changes(None if last is None else last.tree, plan.tree, names=there.names)
    content = read_content(plan.tree.documents)
    dangers = _dangers(plan, content.documents, accept_danger, now=now)
    if dangers:
        return _refuse_danger(dangers, found, pin, as_json=as_json)
    title = changes_title(last)
    ask = bool(plan.roles) and not yes and not as_json and sys.stdin.isatty()
    if ask:
        ui.verdict("to sign", _roles_text(plan), tone="unsure")
        ui.facts([("policy root", pin.hex())])
        show_changes(found, title=title, documents=content.documents)
        if not _confirmed():
            ui.verdict("not signed", str(folder), tone="no")
            return ui.EXIT_NO
    written = signed_files(plan, signer)
    write_files(folder, written)
    files = {**there.files, **written}
    tree = read_tree(files)
    states = role_states(tree, names=there.names)
    waits = waiting_for(tree, states, pending(files), now=now)
    if as_json:
        ui.print_json(
            {
                "version": 1,
                "policy_root": pin.hex(),
                "signed": list(plan.roles),
                "written": list(written),
                "complete": not waits,
                "waiting_for": list(waits),
                "roles": states_json(states),
                "changes": [asdict(difference) for difference in found],
                "dangers": [],
            }
        )
        return ui.EXIT_YES
    if plan.roles:
        ui.verdict("signed", _roles_text(plan), tone="yes")
    else:
        ui.verdict("nothing to sign", "", tone="yes")
    ui.facts([("policy root", pin.hex()), *(("waits for", text) for text in waits)])
    if not waits:
        ui.facts([("next", f"tightseal policy publish {folder}")])
    if not ask:
        show_changes(found, title=title, documents=content.documents)
    show_roles(states)
    _note_root_end(tree, now=now)
    return ui.EXIT_YES


def publish(
    folder: Path,
    /,
    *,
    out: Path | None = None,
    provider: tuple[str, ...] = (),
    tls: TlsTrust = TlsTrust.PUBLIC_CA,
    policy_root: PinnedRoot = None,
    accept_danger: tuple[LintId, ...] = (),
    at: Moment = None,
    as_json: JsonFlag = False,
) -> int:
    """Verify a folder as a provider would, make the bundle, hand it out: 0 done, 1 not.

    Workloads of different tenants that one piece of evidence could fit both are refused
    here too, since no tenant's approvers see the other's documents when they sign.

    Without --out and --provider the bundle is FOLDER/published.tsb, which is written in
    any case: the next signatures are compared with it.

    Args:
        folder: of the approvers.
        out: file to write the bundle to; replaced at once.
        provider: address of a provider to send it to; may be given again.
        tls: how the certificate of an https provider is judged: public-ca, or exchange
            for not at all, since what is sent is signed.
        policy_root: what providers have pinned, 64 hex digits; the folder's by default.
        accept_danger: workloads-overlap publishes such workloads all the same.
        at: verify as of this time, Unix seconds or RFC 3339; now by default.
        as_json: one JSON document on stdout.
    """
    now = seconds_of(at)
    there = read_folder(folder)
    pin = pinned_root(there, policy_root)
    tree = read_tree(there.files)
    states = role_states(tree, names=there.names)
    _require_complete(there, tree, states, now=now)
    last = last_published(there, now=now)
    data = pack(bundle_files(tree, there.files))
    verified = verify_bundle(
        data,
        policy_root=pin,
        marks=None if last is None else last.verified.marks,
        now=now,
        expired=ExpiredMetadata.REFUSE,
    )
    digest = hashlib.sha256(data).digest()
    shared = tenants_overlap(verified.documents)
    if shared and LintId.WORKLOADS_OVERLAP not in accept_danger:
        return _refuse_shared(shared, verified, pin, as_json=as_json)
    if out is not None:
        write_files(out.parent, {out.name: data})
    for address in provider:
        _hand_to(address, data, digest, tls)
    write_files(folder, {PUBLISHED: data})
    places = [str(folder / PUBLISHED), *([str(out)] if out else []), *provider]
    if as_json:
        ui.print_json(
            {
                "version": 1,
                "policy_root": pin.hex(),
                "policy_version": verified.version,
                "digest": digest.hex(),
                "bytes": len(data),
                "issued_at": verified.issued_at,
                "expires_at": verified.expires_at,
                "documents": len(verified.documents),
                "places": places,
                "dangers": [],
            }
        )
        return ui.EXIT_YES
    ui.verdict("published", f"version {verified.version}", tone="yes")
    ui.facts(
        [
            ("policy root", pin.hex()),
            ("digest", digest.hex()),
            ("documents", str(len(verified.documents))),
            ("expires", told(verified.expires_at)),
            *(("place", place) for place in places),
        ]
    )
    return ui.EXIT_YES


def _refuse_shared(
    dangers: Sequence[Finding], verified: VerifiedBundle, pin: bytes, *, as_json: bool
) -> int:
    if as_json:
        ui.print_json(
            {
                "version": 1,
                "policy_root": pin.hex(),
                "policy_version": verified.version,
                "digest": None,
                "bytes": None,
                "issued_at": verified.issued_at,
                "expires_at": verified.expires_at,
                "documents": len(verified.documents),
                "places": [],
                "dangers": [asdict(danger) for danger in dangers],
            }
        )
        return ui.EXIT_NO
    ui.verdict("not published", f"dangers {len(dangers)}", tone="no")
    _show_dangers(dangers)
    return ui.EXIT_NO


# -- what they share --------------------------------------------------------------


def _roles_text(plan: Plan) -> str:
    versions = plan.tree.versions()
    return ", ".join(f"{role} {versions[role]}" for role in plan.roles)


def _confirmed() -> bool:
    """A person at a terminal is asked; a script has decided already."""
    sys.stderr.write("sign? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _note_root_end(tree: Tree, *, now: int) -> None:
    """The one role that is never renewed by signing."""
    newest = tree.roots[-1]
    if newest.expires - now < ROOT_NOTICE_DAYS * _DAY:
        ui.note(
            f"root {newest.version} ends at {told(newest.expires)}: "
            "tightseal policy root FOLDER --expires-days N"
        )


def _dangers(
    plan: Plan, documents: Sequence[Parsed], accepted: Sequence[LintId], *, now: int
) -> list[Finding]:
    """Dangers in the documents that this signature is for."""
    found = lint(documents, now=now)
    mine = set(plan.roles)
    return [
        finding
        for finding in found
        if finding.severity is Severity.DANGER
        and finding.id not in accepted
        and _role_of(finding.document) in mine
    ]


def _role_of(document: str) -> str:
    owner = tenant_of_target(document)
    return TARGETS if owner is None else tenant_role(owner)


def _refuse_danger(
    dangers: Sequence[Finding],
    found: Sequence[Difference],
    pin: bytes,
    *,
    as_json: bool,
) -> int:
    if as_json:
        ui.print_json(
            {
                "version": 1,
                "policy_root": pin.hex(),
                "signed": [],
                "written": [],
                "complete": False,
                "waiting_for": None,
                "roles": None,
                "changes": [asdict(difference) for difference in found],
                "dangers": [asdict(danger) for danger in dangers],
            }
        )
        return ui.EXIT_NO
    ui.verdict("not signed", f"dangers {len(dangers)}", tone="no")
    _show_dangers(dangers)
    return ui.EXIT_NO


def _show_dangers(dangers: Sequence[Finding]) -> None:
    for finding in dangers:
        show_finding(finding)
        ui.facts([("or accept it", f"--accept-danger {finding.id}")])


def _require_complete(
    folder: Folder, tree: Tree, states: Sequence[RoleState], *, now: int
) -> None:
    """Refuse early, in words for those who sign; the verifier judges afterwards."""
    unsigned = pending(folder.files)
    waits = "; ".join(waiting_for(tree, states, unsigned, now=now))
    if not waits:
        return
    if any(state.missing for state in states):
        raise SettingsError(Code.BUNDLE_UNDERSIGNED, waits)
    expired = any(state.expires_at <= now for state in states)
    code = Code.BUNDLE_EXPIRED if expired else Code.BUNDLE_INCOMPLETE
    raise SettingsError(code, waits)


def _hand_to(address: str, data: bytes, digest: bytes, tls: TlsTrust) -> None:
    answer = submit(
        address,
        POLICY_PATH,
        data,
        PolicyAccepted,
        content_type=BUNDLE_CONTENT_TYPE,
        tls=tls,
    )
    if not answer.accepted or answer.digest != encode_base64url(digest):
        detail = f"{address}: took another bundle than the one sent: {answer.digest}"
        raise ProviderError(Code.RESPONSE_INVALID, detail)
