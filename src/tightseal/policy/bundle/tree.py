# SPDX-License-Identifier: Apache-2.0
"""A bundle's files as approvers see them while they work: read, not verified.

What a provider accepts is judged by :mod:`tightseal.policy.bundle.verify` alone. This
reads drafts too: roles that are half signed, or that are not there yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from tuf.api.metadata import DelegatedRole, Root, Snapshot, Targets, Timestamp

from tightseal.errors import Code, SettingsError
from tightseal.policy.bundle.archive import (
    metadata_path,
    root_path,
    target_path,
    tenant_of_role,
    tenant_of_target,
)
from tightseal.policy.bundle.metadata import (
    SignedFile,
    read_root,
    read_snapshot,
    read_targets,
    read_timestamp,
)

if TYPE_CHECKING:
    from securesystemslib.signer import Key

__all__ = [
    "ROOT",
    "SNAPSHOT",
    "TARGETS",
    "TIMESTAMP",
    "AnyRole",
    "RoleState",
    "Tree",
    "read_tree",
    "role_state",
    "role_states",
    "short_name",
]

ROOT: Final = "root"
TARGETS: Final = "targets"
SNAPSHOT: Final = "snapshot"
TIMESTAMP: Final = "timestamp"

AnyRole: TypeAlias = (
    SignedFile[Root]
    | SignedFile[Targets]
    | SignedFile[Snapshot]
    | SignedFile[Timestamp]
)
"""Metadata of whichever role."""

_METADATA_FOLDER: Final = "metadata/"
_TARGETS_FOLDER: Final = target_path("")
_SHORT_ID: Final = 16
_NO_NAMES: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Tree:
    """Metadata and documents of a folder or a bundle.

    Attributes:
        roots: every version, from 1 without gaps.
        targets, snapshot, timestamp: ``None`` where nobody has made them yet.
        tenants: metadata of tenants' roles by role name, also of those that are no
            longer delegated.
        documents: content by target path, such as ``policy/base.toml``.
    """

    roots: tuple[SignedFile[Root], ...]
    targets: SignedFile[Targets] | None
    snapshot: SignedFile[Snapshot] | None
    timestamp: SignedFile[Timestamp] | None
    tenants: Mapping[str, SignedFile[Targets]]
    documents: Mapping[str, bytes]

    def delegated(self) -> dict[str, DelegatedRole]:
        """The tenants' roles by name, as the newest targets have them."""
        if self.targets is None or self.targets.signed.delegations is None:
            return {}
        return dict(self.targets.signed.delegations.roles or {})

    def documents_of(self, role: str) -> dict[str, bytes]:
        """The documents that a role signs: ``targets``, or a tenant's."""
        tenant = tenant_of_role(role)
        return {
            path: content
            for path, content in self.documents.items()
            if tenant_of_target(path) == tenant
        }

    def versions(self) -> dict[str, int]:
        """Versions by role; of root, the newest one."""
        found = {ROOT: len(self.roots)}
        for role, file in (
            (TARGETS, self.targets),
            (SNAPSHOT, self.snapshot),
            (TIMESTAMP, self.timestamp),
            *self.tenants.items(),
        ):
            if file is not None:
                found[role] = file.version
        return found


@dataclass(frozen=True, slots=True)
class RoleState:
    """Who has signed a role, by whom it must be signed, and how many are missing.

    Attributes:
        role: such as ``targets``. ``root`` stands twice after a rotation, since the
            approvers of the version before it must sign as well.
        by: whose signatures are counted.
        version: of the metadata.
        expires_at: Unix time of the first second in which it is no longer valid.
        threshold: signatures that are needed.
        signed, unsigned: names of keys.
    """

    role: str
    by: str
    version: int
    expires_at: int
    threshold: int
    signed: tuple[str, ...]
    unsigned: tuple[str, ...]

    @property
    def missing(self) -> int:
        """Signatures still needed."""
        return max(0, self.threshold - len(self.signed))


def read_tree(files: Mapping[str, bytes]) -> Tree:
    """Read files by path, as :func:`tightseal.policy.bundle.archive.unpack` gives them.

    Raises:
        SettingsError: ``bundle_malformed``, where metadata is not what its place says;
            ``bundle_incomplete``, where there is no root 1 or a gap after it.
    """
    tenants: dict[str, SignedFile[Targets]] = {}
    for path in sorted(files):
        role = path.removeprefix(_METADATA_FOLDER).removesuffix(".json")
        if tenant_of_role(role) is not None and path == metadata_path(role):
            tenants[role] = read_targets(path, files[path])
    targets, snapshot, timestamp = (
        metadata_path(role) for role in (TARGETS, SNAPSHOT, TIMESTAMP)
    )
    return Tree(
        roots=_roots(files),
        targets=read_targets(targets, files[targets]) if targets in files else None,
        snapshot=read_snapshot(snapshot, files[snapshot])
        if snapshot in files
        else None,
        timestamp=read_timestamp(timestamp, files[timestamp])
        if timestamp in files
        else None,
        tenants=tenants,
        documents={
            path.removeprefix(_TARGETS_FOLDER): files[path]
            for path in sorted(files)
            if path.startswith(_TARGETS_FOLDER)
        },
    )


def _roots(files: Mapping[str, bytes]) -> tuple[SignedFile[Root], ...]:
    found: list[SignedFile[Root]] = []
    while (path := root_path(len(found) + 1)) in files:
        root = read_root(path, files[path])
        if root.version != len(found) + 1:
            detail = f"{path}: is version {root.version}"
            raise SettingsError(Code.BUNDLE_MALFORMED, detail)
        found.append(root)
    if not found:
        detail = f"{path} is missing: tightseal policy init FOLDER --approver FILE"
        raise SettingsError(Code.BUNDLE_INCOMPLETE, detail)
    if len(found) != sum(path.endswith(".root.json") for path in files):
        raise SettingsError(Code.BUNDLE_INCOMPLETE, f"{path} is missing")
    return tuple(found)


# -- who has signed what -------------------------------------------------------------


def short_name(key: Key, names: Mapping[str, str]) -> str:
    """What to call a key: its name where there is one, and the start of its id."""
    short = key.keyid[:_SHORT_ID]
    return f"{names[key.keyid]} ({short})" if key.keyid in names else short


def role_states(
    tree: Tree, *, names: Mapping[str, str] = _NO_NAMES
) -> tuple[RoleState, ...]:
    """Who has signed what: root first, then from documents to timestamp.

    Args:
        tree: the files. A role that nobody has made yet is left out.
        names: what keys are called, by key id.
    """
    newest = tree.roots[-1]
    found = [_state(ROOT, newest, newest, names, by="approvers")]
    if len(tree.roots) > 1:
        before = tree.roots[-2]
        by = f"approvers of root {before.version}"
        found.append(_state(ROOT, newest, before, names, by=by))
    for role, file in _made(tree):
        found.append(role_state(tree, role, file, names=names))
    return tuple(found)


def role_state(
    tree: Tree, role: str, file: AnyRole, *, names: Mapping[str, str] = _NO_NAMES
) -> RoleState:
    """Who has signed one role that is not the root.

    Args:
        tree: says who must.
        role: such as ``targets``.
        file: the role's metadata.
        names: what keys are called, by key id.
    """
    tenant = tenant_of_role(role)
    by = "approvers" if tenant is None else f"approvers of {tenant}"
    delegator = tree.roots[-1] if tenant is None else tree.targets
    assert delegator is not None
    return _state(role, file, delegator, names, by=by)


def _made(tree: Tree) -> Iterator[tuple[str, AnyRole]]:
    if tree.targets is not None:
        yield TARGETS, tree.targets
    for role in sorted(tree.delegated()):
        if role in tree.tenants:
            yield role, tree.tenants[role]
    if tree.snapshot is not None:
        yield SNAPSHOT, tree.snapshot
    if tree.timestamp is not None:
        yield TIMESTAMP, tree.timestamp


def _state(
    role: str,
    file: AnyRole,
    delegator: SignedFile[Root] | SignedFile[Targets],
    names: Mapping[str, str],
    *,
    by: str,
) -> RoleState:
    result = delegator.signed.get_verification_result(
        role, file.payload, file.metadata.signatures
    )
    return RoleState(
        role=role,
        by=by,
        version=file.version,
        expires_at=file.expires,
        threshold=result.threshold,
        signed=_names(result.signed.values(), names),
        unsigned=_names(result.unsigned.values(), names),
    )


def _names(keys: Iterable[Key], names: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted(short_name(key, names) for key in keys))
