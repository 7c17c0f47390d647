# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is: which roles a key has still to sign."""

from __future__ import annotations

from collections.abc import Iterator

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key

from tightseal.policy.bundle.tree import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    AnyRole,
    Tree,
    role_states,
)

__all__ = ["roles_and_keys", "roles_to_sign", "signed_part"]


def roles_and_keys(tree: Tree) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Roles, ids of their keys, and whether they have enough signatures.

    ``root`` stands twice after a rotation: for its own keys and for those before.
    """
    states = iter(role_states(tree))
    newest = tree.roots[-1].signed
    yield ROOT, tuple(newest.roles[ROOT].keyids), not next(states).missing
    if len(tree.roots) > 1:
        before = tree.roots[-2].signed
        yield ROOT, tuple(before.roles[ROOT].keyids), not next(states).missing
    delegated = tree.delegated()
    for state in states:
        keyids = delegated.get(state.role, newest.roles.get(state.role))
        assert keyids is not None
        yield state.role, tuple(keyids.keyids), not state.missing


def roles_to_sign(tree: Tree, key: Key) -> Iterator[str]:
    """The roles that a key has still to sign, each once."""
    seen: set[str] = set()
    for role, ids, complete in roles_and_keys(tree):
        part = signed_part(tree, role)
        if complete or key.keyid not in ids or role in seen:
            continue
        if not _has_signed(part, key):
            seen.add(role)
            yield role


def _has_signed(part: AnyRole, key: Key) -> bool:
    """Whether a good signature of the key is there; a bad one is replaced."""
    signature = part.metadata.signatures.get(key.keyid)
    if signature is None:
        return False
    try:
        key.verify_signature(signature, part.payload)
    except UnverifiedSignatureError:
        return False
    return True


def signed_part(tree: Tree, role: str) -> AnyRole:
    """The metadata of a role that is there; of the root, the newest."""
    part: AnyRole | None
    if role == ROOT:
        part = tree.roots[-1]
    elif role == TARGETS:
        part = tree.targets
    elif role == SNAPSHOT:
        part = tree.snapshot
    elif role == TIMESTAMP:
        part = tree.timestamp
    else:
        part = tree.tenants[role]
    assert part is not None
    return part
