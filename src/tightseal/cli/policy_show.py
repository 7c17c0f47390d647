# SPDX-License-Identifier: Apache-2.0
"""How bundles and approvers' folders are told: roles, signatures, changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tightseal.cli import ui
from tightseal.cli.policy_text import show_workload
from tightseal.errors import Code, SettingsError, TightsealError
from tightseal.policy.bundle.archive import (
    MAX_BUNDLE_BYTES,
    root_path,
    tenant_of_target,
    tenant_role,
    unpack,
)
from tightseal.policy.bundle.draft import pending
from tightseal.policy.bundle.folder import (
    APPROVERS,
    METADATA,
    Folder,
    read_folder,
    read_published,
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
    policy_root_of,
    verify_bundle,
)
from tightseal.policy.diff import ABSENT, Difference
from tightseal.policy.read import Parsed

__all__ = [
    "Last",
    "changes_title",
    "is_signed_policy",
    "last_published",
    "pinned_root",
    "show_changes",
    "show_roles",
    "show_signed_policy",
    "states_json",
    "told",
    "waiting_for",
]

MAX_SHOWN: Final = 400
"""Most differences that are printed for people; ``--json`` has all."""

MAX_WORKLOADS_SHOWN: Final = 20
"""Most new workloads that are printed whole."""

_BUNDLE_HEAD: Final = b"\xa3\x65files"
"""How every bundle begins: a map of three, whose first key is ``files``."""


def told(moment: int) -> str:
    """A moment as people read it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_signed_policy(path: Path) -> bool:
    """Whether a path is a bundle or a folder of approvers, not a plain document."""
    if path.is_dir():
        return (path / METADATA).is_dir() or (path / APPROVERS).is_dir()
    try:
        with path.open("rb") as file:
            return file.read(len(_BUNDLE_HEAD)) == _BUNDLE_HEAD
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Last:
    """The bundle that was published last from a folder, where it can be relied on.

    Attributes:
        verified: the bundle.
        files: by path.
        tree: the same, read.
    """

    verified: VerifiedBundle
    files: Mapping[str, bytes]
    tree: Tree


def last_published(folder: Folder, *, now: int) -> Last | None:
    """The bundle published last; one that does not verify is told and passed over."""
    data = read_published(folder.path)
    if data is None:
        return None
    try:
        verified = verify_bundle(
            data,
            policy_root=policy_root_of(folder.files[root_path(1)]),
            marks=None,
            now=now,
            expired=ExpiredMetadata.ACCEPT,
        )
    except TightsealError as e:
        ui.note(
            f"the bundle published last is not compared: {e.code.value}: {e.detail}"
        )
        return None
    files = unpack(data)
    return Last(verified, files, read_tree(files))


def pinned_root(folder: Folder, pinned: str | None) -> bytes:
    """The policy root of a folder, 32 bytes.

    Raises:
        SettingsError: ``bundle_root_mismatch``, where it is not the pinned one;
            ``bundle_incomplete``, where there is no root.
    """
    first = folder.files.get(root_path(1))
    if first is None:
        detail = (
            f"{folder.path}: no root yet: tightseal policy init {folder.path} "
            "--approver FILE"
        )
        raise SettingsError(Code.BUNDLE_INCOMPLETE, detail)
    found = policy_root_of(first)
    if pinned is not None and pinned != found.hex():
        detail = f"{folder.path}: policy root {found.hex()}, expected {pinned}"
        raise SettingsError(Code.BUNDLE_ROOT_MISMATCH, detail)
    return found


def show_signed_policy(path: Path, *, now: int, as_json: bool) -> int:
    """Print a bundle or a folder: 0 a provider would take it, 1 it would not.

    Raises:
        SettingsError: it cannot be read.
    """
    if path.is_dir():
        folder = read_folder(path)
        last = None
        files, names = folder.files, folder.names
        unsigned = pending(files)
    else:
        files, names, last, unsigned = _bundle(path), {}, None, ()
        folder = None
    tree = read_tree(files)
    states = role_states(tree, names=names)
    if folder is not None:
        last = last_published(folder, now=now)
    root = policy_root_of(files[root_path(1)])
    waits = waiting_for(tree, states, unsigned, now=now)
    found = changes(None if last is None else last.tree, tree, names=names)
    if folder is None:
        found = ()
    if as_json:
        ui.print_json(
            {
                "version": 1,
                "policy_root": root.hex(),
                "complete": not waits,
                "waiting_for": list(waits),
                "roles": states_json(states),
                "documents": sorted(tree.documents),
                "published": None if last is None else last.verified.version,
                "changes": [asdict(d) for d in found],
            }
        )
        return ui.EXIT_NO if waits else ui.EXIT_YES
    version = "" if tree.timestamp is None else f"version {tree.timestamp.version}"
    ui.verdict(
        "incomplete" if waits else "complete", version, tone="no" if waits else "yes"
    )
    ui.facts([("policy root", root.hex()), *(("waits for", text) for text in waits)])
    show_roles(states)
    ui.heading("documents")
    waiting = {state.role for state in states if state.missing}
    ui.facts((_mark(path, unsigned, waiting), path) for path in sorted(tree.documents))
    if found:
        show_changes(found, title=changes_title(last))
    return ui.EXIT_NO if waits else ui.EXIT_YES


def changes_title(last: Last | None) -> str:
    """What stands over changes, and behind ``no`` where there are none."""
    if last is None:
        return "changes from an empty policy: nothing was published before"
    return f"changes since version {last.verified.version} was published"


def _mark(path: str, unsigned: Iterable[str], waiting: Iterable[str]) -> str:
    if path in unsigned:
        return "not signed"
    owner = tenant_of_target(path)
    role = TARGETS if owner is None else tenant_role(owner)
    return "waits" if role in waiting else "signed"


def _bundle(path: Path) -> dict[str, bytes]:
    with path.open("rb") as file:
        return unpack(file.read(MAX_BUNDLE_BYTES + 1))


def waiting_for(
    tree: Tree, states: Sequence[RoleState], unsigned: Sequence[str], *, now: int
) -> tuple[str, ...]:
    """What is still missing before a provider would take it, in words."""
    found = [f"{path}: sign it" for path in unsigned]
    made = {state.role for state in states}
    wanted = ("targets", *tree.delegated(), "snapshot", "timestamp")
    found += [f"{role}: sign it" for role in wanted if role not in made]
    for state in states:
        if state.missing:
            people = ", ".join(state.unsigned)
            found.append(
                f"{state.role} {state.version}: {state.missing} more of the "
                f"{state.by}: {people}"
            )
        elif state.expires_at <= now:
            found.append(f"{state.role} {state.version}: expired, sign it anew")
    return tuple(dict.fromkeys(found))


def show_roles(states: Sequence[RoleState]) -> None:
    """Who has signed what, and until when it holds."""
    ui.heading("signatures")
    for state in states:
        have = ", ".join(state.signed) or "nobody"
        by = "" if state.by == "approvers" else f" of the {state.by}"
        text = (
            f"{len(state.signed)} of {state.threshold}{by} ({have}); "
            f"until {told(state.expires_at)}"
        )
        ui.facts([(f"{state.role} {state.version}", text)])


def states_json(states: Sequence[RoleState]) -> list[dict[str, Any]]:
    """Roles as JSON."""
    return [{**asdict(state), "missing": state.missing} for state in states]


def show_changes(
    found: Sequence[Difference], *, title: str, documents: Sequence[Parsed] = ()
) -> None:
    """Differences, by what they are about; workloads that are new, whole.

    Args:
        found: the differences.
        title: over them.
        documents: where new workloads are looked up; none are shown without.
    """
    ui.heading(title if found else f"no {title}")
    for difference in found[:MAX_SHOWN]:
        subject = f"{difference.workload} {difference.field}".strip()
        ui.facts([(subject, f"{difference.before} -> {difference.after}")])
    if len(found) > MAX_SHOWN:
        ui.facts([("and more", f"{len(found) - MAX_SHOWN}; --json has all")])
    new = {d.workload for d in found if not d.field and d.before == ABSENT}
    workloads = [
        rules
        for parsed in documents
        for rules in parsed.document.workload
        if f"{rules.tenant}/{rules.name}" in new
    ]
    for rules in workloads[:MAX_WORKLOADS_SHOWN]:
        show_workload(rules)
