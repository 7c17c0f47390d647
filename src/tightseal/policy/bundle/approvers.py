# SPDX-License-Identifier: Apache-2.0
"""Who may sign: versions of the root, and the delegation of a tenant's documents.

All four roles of the root have the same approvers and the same threshold, so that
there is one group of people to know. What is made here is unsigned: see
:mod:`tightseal.policy.bundle.author`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from securesystemslib.signer import Key
from tuf.api.metadata import (
    TOP_LEVEL_ROLE_NAMES,
    DelegatedRole,
    Delegations,
    Metadata,
    Role,
    Root,
    T,
    Targets,
)
from tuf.api.serialization import SerializationError
from tuf.api.serialization.json import JSONSerializer

from tightseal.errors import Code, SettingsError
from tightseal.policy.bundle.archive import (
    MAX_ROOTS,
    root_path,
    tenant_pattern,
    tenant_role,
)
from tightseal.policy.bundle.metadata import SignedFile
from tightseal.policy.bundle.schema import MAX_ROLE_KEYS
from tightseal.policy.bundle.tree import ROOT, Tree, role_states
from tightseal.policy.bundle.verify import MAX_RISE

__all__ = [
    "DEFAULT_DAYS",
    "DEFAULT_ROOT_DAYS",
    "MAX_DAYS",
    "delegate",
    "end_after",
    "first_root",
    "metadata_bytes",
    "next_root",
    "next_version",
    "root_approvers",
    "undelegate",
]

DEFAULT_DAYS: Final = 90
"""Days that signatures over documents hold: how long a host can hold back news."""

DEFAULT_ROOT_DAYS: Final = 1095
"""Days that a root holds."""

MAX_DAYS: Final = 3650
"""Most days that anything is signed for."""

_DAY: Final = 86_400


def end_after(days: int, *, now: int) -> datetime:
    """The moment at which a signature of today ends.

    Raises:
        SettingsError: ``settings_invalid``, outside 1 to ``MAX_DAYS``.
    """
    if not 1 <= days <= MAX_DAYS:
        detail = f"expires after {days} days, expected 1 to {MAX_DAYS}"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return datetime.fromtimestamp(now + days * _DAY, UTC)


def metadata_bytes(metadata: Metadata[Any]) -> bytes:
    """Metadata as lines that diffs can be read of; the signed bytes are others.

    Raises:
        SettingsError: ``bundle_malformed``.
    """
    try:
        return metadata.to_bytes(JSONSerializer(compact=False)) + b"\n"
    except SerializationError as e:
        raise SettingsError(Code.BUNDLE_MALFORMED, f"metadata: {e}") from e


def next_version(current: SignedFile[T] | None, *, floor: int) -> int:
    """The version of new content: what anybody signed or published is never reused.

    Args:
        current: what is there.
        floor: the version that was published last, 0 where none was.

    Raises:
        SettingsError: ``bundle_malformed``, where what is there is further above than
            providers allow: somebody would use all versions up.
    """
    if current is not None and current.version > floor + MAX_RISE:
        detail = (
            f"{current.path}: version {current.version}, and {floor} was published "
            "last: somebody changed it; take the file from before"
        )
        raise SettingsError(Code.BUNDLE_MALFORMED, detail)
    if current is None:
        return floor + 1
    if current.metadata.signatures or current.version <= floor:
        return max(current.version, floor) + 1
    return current.version


# -- the root ------------------------------------------------------------------------


def first_root(
    approvers: Sequence[Key], *, threshold: int, now: int, days: int
) -> bytes:
    """Version 1 of the root, unsigned. The policy root is the hash of its content.

    Args:
        approvers: different keys, at most ``MAX_ROLE_KEYS``.
        threshold: how many of them must sign everything.
        now: Unix seconds.
        days: for which it holds.

    Raises:
        SettingsError: ``settings_invalid``: no such group, or no such time.
    """
    return metadata_bytes(
        Metadata(_root(1, approvers, threshold, end_after(days, now=now)))
    )


def root_approvers(root: Root) -> list[Key]:
    """The approvers of a root, in its order."""
    return [root.keys[keyid] for keyid in root.roles[ROOT].keyids]


def next_root(
    tree: Tree,
    *,
    add: Sequence[Key],
    remove: Sequence[str],
    threshold: int | None,
    now: int,
    days: int,
) -> tuple[str, bytes]:
    """The next version of the root, unsigned; the policy root stays what it is.

    A version that has too few signatures is made anew, and loses those it has.

    Args:
        tree: with the roots so far.
        add: keys to add.
        remove: ids of keys to remove.
        threshold: a new one, or ``None`` for the old.
        now: Unix seconds.
        days: for which it holds.

    Returns:
        path and content.

    Raises:
        SettingsError: ``settings_invalid``: a key is there already or is not there, or
            no such group; ``bundle_undersigned``: root 1 is not signed yet.
    """
    newest = tree.roots[-1]
    signed = not any(s.missing for s in role_states(tree) if s.role == ROOT)
    if newest.version == 1 and not signed:
        detail = (
            "root 1 is not signed yet: let its approvers sign it first, or begin "
            "again in another folder"
        )
        raise SettingsError(Code.BUNDLE_UNDERSIGNED, detail)
    version = newest.version + 1 if signed else newest.version
    if version > MAX_ROOTS:
        detail = f"root {version}: at most {MAX_ROOTS} versions"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    approvers = _changed(root_approvers(newest.signed), add, remove)
    wanted = newest.signed.roles[ROOT].threshold if threshold is None else threshold
    root = _root(version, approvers, wanted, end_after(days, now=now))
    return root_path(version), metadata_bytes(Metadata(root))


def _root(
    version: int, approvers: Sequence[Key], threshold: int, expires: datetime
) -> Root:
    keyids = _group(approvers, threshold)
    return Root(
        version=version,
        expires=expires,
        keys={key.keyid: key for key in approvers},
        roles={role: Role(list(keyids), threshold) for role in TOP_LEVEL_ROLE_NAMES},
        consistent_snapshot=False,
    )


def _changed(
    before: Sequence[Key], add: Sequence[Key], remove: Sequence[str]
) -> list[Key]:
    known = {key.keyid for key in before}
    for key in add:
        if key.keyid in known:
            detail = f"key {key.keyid}: is an approver already"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
    for keyid in remove:
        if keyid not in known:
            detail = f"key {keyid}: is no approver"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
    return [*(key for key in before if key.keyid not in remove), *add]


def _group(approvers: Sequence[Key], threshold: int) -> list[str]:
    """Ids of a group that can reach its threshold, and not by one key alone."""
    keyids = [key.keyid for key in approvers]
    if len(set(keyids)) != len(keyids):
        detail = "an approver is named twice: every one counts once"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    if not 1 <= len(keyids) <= MAX_ROLE_KEYS:
        detail = f"{len(keyids)} approvers, expected 1 to {MAX_ROLE_KEYS}"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    if not 1 <= threshold <= len(keyids):
        detail = f"threshold {threshold}, expected 1 to {len(keyids)}, the approvers"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return keyids


# -- tenants -------------------------------------------------------------------------


def delegate(
    tree: Tree,
    tenant: str,
    approvers: Sequence[Key],
    *,
    threshold: int,
    floor: int,
    now: int,
    days: int,
) -> bytes:
    """Targets that let a tenant's own approvers sign its documents; unsigned.

    A tenant that has approvers already gets these in their place.

    Args:
        tree: the files.
        tenant: whose documents lie below ``targets/tenants/<tenant>/``.
        approvers: different keys.
        threshold: how many of them must sign.
        floor: version of targets that was published last, 0 where none was.
        now: Unix seconds.
        days: for which the targets hold.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    role = DelegatedRole(
        tenant_role(tenant),
        _group(approvers, threshold),
        threshold,
        terminating=True,
        paths=[tenant_pattern(tenant)],
    )
    keys = {key.keyid: key for key in approvers}
    roles = {**tree.delegated(), role.name: role}
    return _delegating(tree, roles, keys, floor=floor, now=now, days=days)


def undelegate(tree: Tree, tenant: str, *, floor: int, now: int, days: int) -> bytes:
    """Targets without a tenant's approvers; unsigned. As :func:`delegate`.

    Raises:
        SettingsError: ``settings_invalid``, where the tenant has none.
    """
    roles = tree.delegated()
    if roles.pop(tenant_role(tenant), None) is None:
        detail = f"tenant {tenant}: has no approvers here"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return _delegating(tree, roles, {}, floor=floor, now=now, days=days)


def _delegating(
    tree: Tree,
    roles: Mapping[str, DelegatedRole],
    new: Mapping[str, Key],
    *,
    floor: int,
    now: int,
    days: int,
) -> bytes:
    before = None if tree.targets is None else tree.targets.signed
    known = dict(new)
    if before is not None and before.delegations is not None:
        known = {**before.delegations.keys, **new}
    used = {keyid for role in roles.values() for keyid in role.keyids}
    targets = Targets(
        version=next_version(tree.targets, floor=floor),
        expires=end_after(days, now=now),
        targets={} if before is None else dict(before.targets),
        delegations=Delegations(
            {keyid: known[keyid] for keyid in sorted(used)},
            {name: roles[name] for name in sorted(roles)},
        )
        if roles
        else None,
    )
    return metadata_bytes(Metadata(targets))
