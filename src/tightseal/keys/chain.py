# SPDX-License-Identifier: Apache-2.0
"""The labelled chain: root, trust domain, tenant, workload, purpose, label.

One KDF step a level, each under its own label of the registry:

====================  ==========================================================
level                 value that enters
====================  ==========================================================
``KDF_TRUST_DOMAIN``  ``[kdf id, trust domain]``
``KDF_TENANT``        ``tenant``
``KDF_WORKLOAD``      ``[protocol class, generation, workload binding]``
``KDF_PURPOSE``       ``purpose``
``KDF_LABEL``         raw keys: ``[label, length in bytes]``
``KDF_KEY_PAIR``      key pairs, in its place: ``[type, label, length of the seed]``
``KDF_WRAPPED_KEY``   wrapping keys, in its place: ``[type, label, length of the key]``
====================  ==========================================================

The KDF is that of the whole chain. Inner nodes have the size of its hash (32, 48 or 64
bytes); the length asked for is part of the last step, so that a short key is never a
prefix of a longer one. A raw key and the pairs of the same purpose and label stand side
by side, none above another: who holds one can compute none of the others. So do the
keys that wrap: who once got the derived key opens no wrapped one. The formula is frozen
by ``tests/data/key_vectors.json``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.form import check_path
from tightseal.keys.kdf import check_root, node_bytes, step
from tightseal.keys.pairs import private_half, public_half, seed_bytes
from tightseal.model.branch import BranchRoot
from tightseal.model.keypath import Kdf, KeyPart, KeyType
from tightseal.model.labels import Label
from tightseal.model.secret import Secret

if TYPE_CHECKING:
    from tightseal.model.canonical import Value
    from tightseal.model.keypath import KeyPath

__all__ = [
    "BRANCH_KDF",
    "WRAPPING_KEY_BYTES",
    "derive",
    "part_of",
    "released_key",
    "tenant_node",
    "wrapping_key",
]

WRAPPING_KEY_BYTES: Final = 32
"""Length of a key that wraps another one."""

BRANCH_KDF: Final = Kdf.HKDF_SHA256
"""The KDF of chains that a branch can go on with: its nodes are as long as a root."""

_TENANT_LEVELS: Final = 2
"""Levels of the chain down to a tenant's node."""


def released_key(root: Secret, path: KeyPath, part: KeyPart) -> Secret:
    """What leaves for one key request: the key itself, or the public half of a pair.

    Whether that part may leave is not judged here: it comes from a grant.

    Returns:
        ``path.length`` bytes of a raw key; 32 bytes of a private half; 32 or 33 bytes
        of a public half (see :mod:`tightseal.keys.pairs`).

    Raises:
        KeyReleaseError: as :func:`derive`; ``key_path_invalid`` for the public half of
            a raw key.
    """
    return part_of(derive(root, path), path, part)


def part_of(key: Secret, path: KeyPath, part: KeyPart) -> Secret:
    """A part of a key: itself, or the public half of a pair, and then it is wiped.

    Raises:
        KeyReleaseError: ``key_path_invalid`` for the public half of a raw key.
    """
    if part is KeyPart.PRIVATE:
        return key
    try:
        if path.key_type is KeyType.RAW:
            detail = "a raw key has no public half"
            raise KeyReleaseError(Code.KEY_PATH_INVALID, detail)
        return Secret(public_half(key, path.key_type))
    finally:
        key.wipe()


def derive(root: Secret, path: KeyPath) -> Secret:
    """Derive the key of ``path`` from ``root``: ``path.length`` bytes.

    Of a pair that is the private half. The same root and path give the same key in
    every version. Inner nodes are wiped as far as Python allows (see ``Secret``).
    Whether the path may be asked for is not judged here: it comes from a grant.

    Raises:
        KeyReleaseError: ``key_path_invalid``, where a field is malformed;
            ``sealing_key_unavailable``, where the root is short or all zero.
    """
    node = _purpose_node(root, path)
    try:
        return _last_level(node, path)
    finally:
        node.wipe()


def wrapping_key(root: Secret, path: KeyPath) -> Secret:
    """The key that wraps the random key of ``path``: 32 bytes, for one AEAD alone.

    Raises:
        KeyReleaseError: as :func:`derive`.
    """
    node = _purpose_node(root, path)
    value: list[Value] = [path.key_type.value, path.label, path.length]
    try:
        return step(
            path.kdf,
            parent=node,
            label=Label.KDF_WRAPPED_KEY,
            value=value,
            length=WRAPPING_KEY_BYTES,
        )
    finally:
        node.wipe()


def tenant_node(root: Secret, *, trust_domain: str, tenant: str) -> BranchRoot:
    """What a provider of one tenant gets in place of the root; 32 bytes.

    Raises:
        KeyReleaseError: ``sealing_key_unavailable``, where the root is none;
            ``key_not_in_branch``, where it is another tenant's node itself.
    """
    check_root(root)
    if isinstance(root, BranchRoot):
        _check_branch(root, trust_domain=trust_domain, tenant=tenant, kdf=BRANCH_KDF)
        return BranchRoot(root.reveal(), trust_domain=trust_domain, tenant=tenant)
    levels = _tenant_levels(BRANCH_KDF, trust_domain, tenant)
    node = _walk(root, levels, BRANCH_KDF)
    try:
        return BranchRoot(node.reveal(), trust_domain=trust_domain, tenant=tenant)
    finally:
        node.wipe()


def _purpose_node(root: Secret, path: KeyPath) -> Secret:
    """The last node that keys of one purpose share; the caller wipes it."""
    check_path(path)
    check_root(root)
    levels = _inner_levels(path)
    if isinstance(root, BranchRoot):
        _check_branch(
            root, trust_domain=path.trust_domain, tenant=path.tenant, kdf=path.kdf
        )
        levels = levels[_TENANT_LEVELS:]
    return _walk(root, levels, path.kdf)


def _walk(root: Secret, levels: tuple[tuple[Label, Value], ...], kdf: Kdf) -> Secret:
    node = root
    for label, value in levels:
        child = step(kdf, parent=node, label=label, value=value, length=node_bytes(kdf))
        if node is not root:
            node.wipe()
        node = child
    return node


def _check_branch(
    root: BranchRoot, *, trust_domain: str, tenant: str, kdf: Kdf
) -> None:
    """Below another node the same steps would lead to keys that nobody else has."""
    if (root.trust_domain, root.tenant, BRANCH_KDF) != (trust_domain, tenant, kdf):
        ours = f"{BRANCH_KDF.value} of {root.tenant} in {root.trust_domain}"
        detail = f"the branch has {ours}, got {kdf.value} of {tenant} in {trust_domain}"
        raise KeyReleaseError(Code.KEY_NOT_IN_BRANCH, detail)


def _last_level(purpose: Secret, path: KeyPath) -> Secret:
    if path.key_type is KeyType.RAW:
        raw: list[Value] = [path.label, path.length]
        return step(
            path.kdf,
            parent=purpose,
            label=Label.KDF_LABEL,
            value=raw,
            length=path.length,
        )
    size = seed_bytes(path.key_type)
    pair: list[Value] = [path.key_type.value, path.label, size]
    seed = step(
        path.kdf, parent=purpose, label=Label.KDF_KEY_PAIR, value=pair, length=size
    )
    try:
        return private_half(seed, path.key_type)
    finally:
        seed.wipe()


def _inner_levels(path: KeyPath) -> tuple[tuple[Label, Value], ...]:
    workload: list[Value] = [
        path.protocol_class.value,
        path.generation,
        path.workload.as_value(),
    ]
    return (
        *_tenant_levels(path.kdf, path.trust_domain, path.tenant),
        (Label.KDF_WORKLOAD, workload),
        (Label.KDF_PURPOSE, path.purpose),
    )


def _tenant_levels(
    kdf: Kdf, trust_domain: str, tenant: str
) -> tuple[tuple[Label, Value], ...]:
    return (
        (Label.KDF_TRUST_DOMAIN, [kdf.value, trust_domain]),
        (Label.KDF_TENANT, tenant),
    )
