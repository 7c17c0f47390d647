# SPDX-License-Identifier: Apache-2.0
"""Sign: what the documents say now, as metadata, with one approver's signatures.

Versions only rise. Content that anybody has signed keeps its version, so that the next
approver signs the same bytes; other content gets the next one. What an approver signs
is always made here from the documents: a draft that says anything else, that ends too
late or was issued in the future is replaced, never signed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata

from tightseal.errors import Code, SettingsError
from tightseal.policy.bundle.approvers import MAX_DAYS, metadata_bytes
from tightseal.policy.bundle.archive import (
    metadata_path,
    target_path,
    tenant_of_role,
    tenant_of_target,
    tenant_pattern,
    tenant_role,
)
from tightseal.policy.bundle.draft import Draft, bundle_files, pending
from tightseal.policy.bundle.signers import sign_bytes
from tightseal.policy.bundle.tree import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Tree,
    read_tree,
)
from tightseal.policy.bundle.turns import roles_and_keys, roles_to_sign, signed_part

__all__ = ["Plan", "bundle_files", "pending", "plan_signing", "signed_files"]

_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Plan:
    """What one approver's signatures would be put under.

    Attributes:
        files: all files by path, with the new metadata in them, not yet signed.
        tree: the same, read.
        written: paths that are new or changed.
        roles: the roles that this key will sign, in order; none where nothing is left
            to sign.
    """

    files: Mapping[str, bytes]
    tree: Tree
    written: frozenset[str]
    roles: tuple[str, ...]


def plan_signing(
    files: Mapping[str, bytes],
    key: Key,
    *,
    published: Mapping[str, bytes] | None,
    now: int,
    days: int,
    renew: bool = False,
) -> Plan:
    """Make metadata of what the documents say, and see what a key has to sign.

    Args:
        files: of the folder, by path.
        key: the approver's.
        published: files of the bundle that was published last: versions rise above it.
        now: Unix seconds.
        days: that new metadata holds. What is signed already is made anew where less
            than a third of that is left.
        renew: make everything that is fully signed anew.

    Raises:
        SettingsError: ``settings_invalid``: the key is no approver's;
            ``bundle_malformed``, ``bundle_incomplete``: the files are not what they
            should be; ``bundle_undersigned``: an earlier root was never signed.
    """
    draft = Draft(files, published, now=now, days=days, renew=renew)
    _check_roots(draft.tree)
    _check_tenants(draft.tree)
    draft.targets(TARGETS)
    for role in sorted(draft.tree.delegated()):
        draft.targets(role)
    draft.snapshot()
    draft.timestamp(key)
    tree = draft.tree
    if not any(key.keyid in ids for _, ids, _ in roles_and_keys(tree)):
        detail = f"key {key.keyid}: no approver of this policy, nor of a tenant of it"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    roles = tuple(roles_to_sign(tree, key))
    newest = tree.roots[-1]
    if ROOT in roles and newest.expires > now + MAX_DAYS * _DAY:
        detail = f"{newest.path}: ends more than {MAX_DAYS} days from now"
        raise SettingsError(Code.BUNDLE_MALFORMED, detail)
    return Plan(
        files=draft.files,
        tree=tree,
        written=frozenset(
            path for path, data in draft.files.items() if files.get(path) != data
        ),
        roles=roles,
    )


def signed_files(plan: Plan, signer: Signer) -> dict[str, bytes]:
    """Sign what was planned.

    Args:
        plan: of the same key.
        signer: of the key that the plan was made for.

    Returns:
        the files that are new or changed, by path, in the order to write them in; none
        where the key has nothing to sign.

    Raises:
        SettingsError: ``settings_invalid``, where the signer fails.
    """
    if not plan.roles:
        return {}
    files = dict(plan.files)
    changed = set(plan.written)
    allowed: dict[str, set[str]] = {}
    for role, ids, _ in roles_and_keys(plan.tree):
        allowed.setdefault(role, set()).update(ids)
    for role in plan.roles:
        part = signed_part(plan.tree, role)
        signature = sign_bytes(signer, part.payload)
        metadata: Metadata[Any] = part.metadata
        # Signatures of keys that have left the role go.
        kept = {k: s for k, s in metadata.signatures.items() if k in allowed[role]}
        signatures = {**kept, signature.keyid: signature}
        files[part.path] = metadata_bytes(
            Metadata(metadata.signed, dict(sorted(signatures.items())))
        )
        changed.add(part.path)
    read_tree(files)
    return {path: files[path] for path in _ordered(changed)}


def _ordered(paths: Iterable[str]) -> list[str]:
    """Documents' metadata first, the timestamp last: as a reader needs them."""
    last = [metadata_path(SNAPSHOT), metadata_path(TIMESTAMP)]
    return sorted(paths, key=lambda p: (last.index(p) + 1 if p in last else 0, p))


def _check_roots(tree: Tree) -> None:
    """All roots but the newest are history: providers must be able to follow them."""
    for before, root in zip(tree.roots, tree.roots[1:-1], strict=False):
        root.require_signed(ROOT, before)
        root.require_signed(ROOT, root)
    if len(tree.roots) > 1:
        tree.roots[0].require_signed(ROOT, tree.roots[0])


def _check_tenants(tree: Tree) -> None:
    """Each tenant signs its own folder, and no document waits for nobody."""
    delegated = tree.delegated()
    for name, role in delegated.items():
        tenant = tenant_of_role(name)
        if tenant is None or role.paths != [tenant_pattern(tenant)]:
            detail = (
                f"{metadata_path(TARGETS)}: delegates {role.paths} to {name!r}, which "
                "is no tenant's: somebody changed it; take the file from before"
            )
            raise SettingsError(Code.BUNDLE_MALFORMED, detail)
    for path in tree.documents:
        tenant = tenant_of_target(path)
        if tenant is not None and tenant_role(tenant) not in delegated:
            detail = (
                f"{target_path(path)}: nobody signs for tenant {tenant}: tightseal "
                f"policy tenant FOLDER add {tenant} --approver FILE"
            )
            raise SettingsError(Code.BUNDLE_INCOMPLETE, detail)
