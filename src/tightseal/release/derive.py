# SPDX-License-Identifier: Apache-2.0
"""The third step: a grant to its keys, derived from the root or unwrapped by it."""

from __future__ import annotations

from dataclasses import replace

from tightseal.errors import Code, ServiceError
from tightseal.keys.chain import part_of, released_key
from tightseal.model.grant import Grant, WrappedUse
from tightseal.model.keypath import KeyPart, KeyPath, KeyRequest
from tightseal.model.ports import KeyRoots
from tightseal.model.secret import Secret
from tightseal.release.memory import Memory
from tightseal.release.wrapped import WrappedKeys

__all__ = ["release_all", "release_one", "wrapped_keys"]


def release_all(
    grant: Grant,
    requests: tuple[KeyRequest, ...],
    *,
    roots: KeyRoots,
    memory: Memory | None,
    now: int,
) -> tuple[Grant, tuple[Secret, ...]]:
    """Each key of a grant; all or none.

    Returns:
        the grant, whose paths say under which generation wrapped keys are now; and the
        parts that were asked for, which the caller wipes.

    Raises:
        TightsealError: as :func:`release_one`.
    """
    paths: list[KeyPath] = []
    released: list[Secret] = []
    uses = grant.wrapped or (None,) * len(grant.paths)
    try:
        for path, use, asked in zip(grant.paths, uses, requests, strict=True):
            used, secret = release_one(
                path, use, asked.part, roots=roots, memory=memory, now=now
            )
            released.append(secret)
            paths.append(used)
    except BaseException:
        for secret in released:
            secret.wipe()
        raise
    return replace(grant, paths=tuple(paths)), tuple(released)


def release_one(
    path: KeyPath,
    use: WrappedUse | None,
    part: KeyPart,
    *,
    roots: KeyRoots,
    memory: Memory | None,
    now: int,
    rewrap: bool = True,
) -> tuple[KeyPath, Secret]:
    """One part of one key; never makes one.

    Args:
        path: as granted.
        use: the record, where the key is wrapped.
        part: the key, or the public half of a pair.
        roots: what keys come from.
        memory: holds the records.
        now: Unix seconds.
        rewrap: whether a wrapped key is put under the current generation.

    Returns:
        the path with the generation that the key is of, or is wrapped under; the part.

    Raises:
        KeyReleaseError: the root cannot be used.
        PolicyError: as of ``WrappedKeys.open``.
        ServiceError: the state store failed.
    """
    if use is None:
        return path, released_key(roots.root(path.generation), path, part)
    keys = wrapped_keys(memory, roots)
    opened = keys.open(path, use.record, now=now, rewrap=rewrap)
    return opened.path, part_of(opened.key, opened.path, part)


def wrapped_keys(memory: Memory | None, roots: KeyRoots) -> WrappedKeys:
    """The wrapped keys of a provider.

    Raises:
        ServiceError: ``internal``, where it has no state store.
    """
    if memory is None:
        detail = "the policy has wrapped keys, and there is no state store"
        raise ServiceError(Code.INTERNAL, detail)
    return WrappedKeys(memory.store, roots)
