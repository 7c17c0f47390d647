# SPDX-License-Identifier: Apache-2.0
"""``tightseal policy init FOLDER | root | tenant``: who approves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tightseal.cli import ui
from tightseal.cli.policy_input import read_bytes, seconds_of
from tightseal.cli.policy_show import last_published, pinned_root
from tightseal.cli.verify import UsageError
from tightseal.errors import Code, SettingsError
from tightseal.policy.bundle.approvers import (
    DEFAULT_DAYS,
    DEFAULT_ROOT_DAYS,
    delegate,
    first_root,
    next_root,
    undelegate,
)
from tightseal.policy.bundle.archive import (
    RELEASE,
    is_target,
    metadata_path,
    root_path,
    target_path,
    tenant_of_target,
)
from tightseal.policy.bundle.content import read_content
from tightseal.policy.bundle.folder import (
    Folder,
    keep_approver,
    read_folder,
    write_files,
)
from tightseal.policy.bundle.signers import approver_key
from tightseal.policy.bundle.tree import TARGETS, read_tree
from tightseal.policy.bundle.verify import policy_root_of
from tightseal.policy.start import first_document

__all__ = ["DEFAULT_ROOT_DAYS", "make_folder", "root", "tenant"]

FIRST_NAME = "policy.toml"
"""Name of the document that a new folder begins with."""

JsonFlag = Annotated[bool, Parameter("--json")]
Moment = Annotated[str | None, Parameter(allow_leading_hyphen=True)]


def make_folder(
    folder: Path,
    approvers: Sequence[Path],
    *,
    threshold: int | None,
    documents: Sequence[Path],
    release: Path | None,
    days: int,
    now: int,
    as_json: bool,
) -> int:
    """Make a folder with documents, approvers and the unsigned root 1.

    Documents that lie in the folder already stay as they are.

    Raises:
        SettingsError: there is a root already, or something cannot be read or written.
        UsageError: nobody is named to approve.
    """
    if not approvers:
        message = "name who approves: --approver NAME.pub, made by policy keygen"
        raise UsageError(message)
    there = read_folder(folder) if folder.is_dir() else Folder(folder, {}, {})
    if root_path(1) in there.files:
        detail = f"{folder}: has its policy root already; change it with policy root"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    first = first_root(
        [approver_key(file) for file in approvers],
        threshold=len(approvers) if threshold is None else threshold,
        now=now,
        days=days,
    )
    tree = read_tree({root_path(1): first})
    new = {**_kept(folder, approvers), **_documents(there, documents, release)}
    # The root comes last: a folder with it is whole.
    write_files(folder, {**new, root_path(1): first})
    pin = policy_root_of(first)
    role = tree.roots[0].signed.roles["root"]
    next_steps = (
        "let every approver sign: tightseal policy sign "
        f"{folder} --key NAME.key; then tightseal policy publish {folder}"
    )
    if as_json:
        ui.print_json(
            {
                "version": 1,
                "policy_root": pin.hex(),
                "approvers": list(role.keyids),
                "threshold": role.threshold,
                "written": sorted([*new, root_path(1)]),
            }
        )
        return ui.EXIT_YES
    ui.verdict("made", str(folder), tone="yes")
    ui.facts(
        [
            ("policy root", pin.hex()),
            ("approvers", f"{role.threshold} of {len(role.keyids)}"),
            *(("document", path) for path in sorted(new) if path.endswith(".toml")),
            ("pin it", f'policy_root = "{pin.hex()}" in the measured [release]'),
            ("next", next_steps),
        ]
    )
    return ui.EXIT_YES


def _documents(
    there: Folder, documents: Sequence[Path], release: Path | None
) -> dict[str, bytes]:
    """The documents that a new folder is given, checked together with its own."""
    new: dict[str, bytes] = {}
    for file in documents:
        target = f"policy/{file.name}"
        if not is_target(target):
            detail = f"{file}: the name must be NAME.toml, in lower case"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        new[target_path(target)] = read_bytes(file)
    if release is not None:
        new[target_path(RELEASE)] = read_bytes(release)
    taken = sorted(new.keys() & there.files.keys())
    if taken:
        detail = f"{there.path / taken[0]}: is there already, and is not overwritten"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    if not (_targets({**there.files, **new}).keys() - {RELEASE}):
        new[target_path(f"policy/{FIRST_NAME}")] = first_document().encode()
    read_content(_targets({**there.files, **new}))
    return new


def _targets(files: Mapping[str, bytes]) -> dict[str, bytes]:
    before = target_path("")
    return {p.removeprefix(before): d for p, d in files.items() if p.startswith(before)}


def root(
    folder: Path,
    /,
    *,
    add_approver: tuple[Path, ...] = (),
    remove_approver: tuple[str, ...] = (),
    threshold: int | None = None,
    expires_days: int | None = None,
    at: Moment = None,
    as_json: JsonFlag = False,
) -> int:
    """Change who approves, or how long the root holds; the policy root stays.

    Makes the next version of the root, which the approvers before and after must sign.
    Without options nothing is changed, and the policy root is printed.

    Args:
        folder: of the approvers.
        add_approver: public half of a new approver; may be given again.
        remove_approver: name, public half or key id of one to remove; may be given
            again.
        threshold: how many of the approvers must sign everything.
        expires_days: days that the new root holds; 1095 where it is changed otherwise.
        at: as of this time, Unix seconds or RFC 3339; now by default.
        as_json: one JSON document on stdout.
    """
    there = read_folder(folder)
    pin = pinned_root(there, None)
    tree = read_tree(there.files)
    changed = bool(add_approver or remove_approver) or threshold or expires_days
    version = tree.roots[-1].version
    if changed:
        path, data = next_root(
            tree,
            add=[approver_key(file) for file in add_approver],
            remove=[_key_id(there, text) for text in remove_approver],
            threshold=threshold,
            now=seconds_of(at),
            days=DEFAULT_ROOT_DAYS if expires_days is None else expires_days,
        )
        files = {path: data, **_kept(folder, add_approver)}
        version = read_tree({**there.files, path: data}).roots[-1].version
        write_files(folder, files)
    if as_json:
        ui.print_json(
            {
                "version": 1,
                "policy_root": pin.hex(),
                "root_version": version,
                "changed": bool(changed),
            }
        )
        return ui.EXIT_YES
    word = "changed" if changed else "unchanged"
    ui.verdict(word, f"root {version}", tone="yes")
    ui.facts([("policy root", pin.hex())])
    if changed:
        ui.facts([("next", f"tightseal policy sign {folder} --key FILE")])
    return ui.EXIT_YES


def tenant(
    folder: Path,
    action: Literal["add", "remove"],
    name: str,
    /,
    *,
    approver: Annotated[tuple[Path, ...], Parameter("--approver")] = (),
    threshold: int | None = None,
    expires_days: int = DEFAULT_DAYS,
    at: Moment = None,
    as_json: JsonFlag = False,
) -> int:
    """Let a tenant's own approvers sign its documents, or no longer.

    They sign what lies in targets/tenants/NAME/ and nothing else. Adding a tenant that
    is there already gives it other approvers. The approvers of the policy sign it.

    Args:
        folder: of the approvers.
        action: add or remove.
        name: of the tenant.
        approver: public half of an approver of the tenant; may be given again.
        threshold: how many of them must sign; all of them by default.
        expires_days: days that the new delegation holds.
        at: as of this time, Unix seconds or RFC 3339; now by default.
        as_json: one JSON document on stdout.
    """
    if tenant_of_target(f"tenants/{name}/x.toml") != name:
        message = f"{name!r} is no name of a tenant: lower case, digits, dots, dashes"
        raise UsageError(message)
    if (action == "add") != bool(approver):
        message = "name approvers with --approver to add, and none to remove"
        raise UsageError(message)
    now = seconds_of(at)
    there = read_folder(folder)
    tree = read_tree(there.files)
    last = last_published(there, now=now)
    floor = 0 if last is None else last.tree.versions()[TARGETS]
    if action == "add":
        data = delegate(
            tree,
            name,
            [approver_key(file) for file in approver],
            threshold=len(approver) if threshold is None else threshold,
            floor=floor,
            now=now,
            days=expires_days,
        )
    else:
        data = undelegate(tree, name, floor=floor, now=now, days=expires_days)
    path = metadata_path(TARGETS)
    read_tree({**there.files, path: data})
    write_files(folder, {path: data, **_kept(folder, approver)})
    if as_json:
        ui.print_json({"version": 1, "tenant": name, "action": action})
        return ui.EXIT_YES
    ui.verdict("added" if action == "add" else "removed", name, tone="yes")
    if action == "add":
        ui.facts([("documents", str(folder / target_path(f"tenants/{name}")))])
    ui.facts([("next", f"tightseal policy sign {folder} --key FILE")])
    return ui.EXIT_YES


# -- what they share --------------------------------------------------------------


def _kept(folder: Path, files: Sequence[Path]) -> dict[str, bytes]:
    return dict(keep_approver(folder, file) for file in files)


def _key_id(folder: Folder, text: str) -> str:
    """The id of a key that is given by name, by file or by id."""
    named = [keyid for keyid, name in folder.names.items() if name == text]
    if len(named) == 1:
        return named[0]
    if Path(text).is_file():
        return approver_key(Path(text)).keyid
    return text
