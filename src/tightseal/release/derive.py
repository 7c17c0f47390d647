# SPDX-License-Identifier: Apache-2.0
"""The third step: a grant to its keys, derived from the root or unwrapped by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tightseal.envelope.hpke import Recipient
from tightseal.errors import Code, ServiceError
from tightseal.keys.chain import derive
from tightseal.model.exchange import KeyFacts, hpke_info
from tightseal.model.grant import Grant, WrappedUse
from tightseal.model.keypath import KeyPath, KeyRequest
from tightseal.model.ports import KeyRoots
from tightseal.model.secret import Secret
from tightseal.release.memory import Memory
from tightseal.release.use import answer_of
from tightseal.release.wrapped import WrappedKeys

__all__ = ["facts_of", "release_all", "release_one", "seal_all", "wrapped_keys"]


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
        what was asked for, parts of keys or results of uses, which the caller wipes.

    Raises:
        TightsealError: as :func:`release_one`.
    """
    paths: list[KeyPath] = []
    released: list[Secret] = []
    uses = grant.wrapped or (None,) * len(grant.paths)
    try:
        for path, use, asked in zip(grant.paths, uses, requests, strict=True):
            used, secret = release_one(
                path, use, asked, roots=roots, memory=memory, now=now
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
    asked: KeyRequest,
    *,
    roots: KeyRoots,
    memory: Memory | None,
    now: int,
    rewrap: bool = True,
) -> tuple[KeyPath, Secret]:
    """One part of one key, or the result of its use; never makes a key.

    Args:
        path: as granted.
        use: the record, where the key is wrapped.
        asked: the request: which part of the key, or which use.
        roots: what keys come from.
        memory: holds the records.
        now: Unix seconds.
        rewrap: whether a wrapped key is put under the current generation.

    Returns:
        the path with the generation that the key is of, or is wrapped under; the part
        or the result.

    Raises:
        KeyReleaseError: the root cannot be used; what ``use_of`` raises.
        PolicyError: as of ``WrappedKeys.open``.
        ServiceError: the state store failed.
    """
    if use is None:
        key = derive(roots.root(path.generation), path)
        return path, answer_of(key, path, asked)
    keys = wrapped_keys(memory, roots)
    opened = keys.open(path, use.record, now=now, rewrap=rewrap)
    return opened.path, answer_of(opened.key, opened.path, asked)


def wrapped_keys(memory: Memory | None, roots: KeyRoots) -> WrappedKeys:
    """The wrapped keys of a provider.

    Raises:
        ServiceError: ``internal``, where it has no state store.
    """
    if memory is None:
        detail = "the policy has wrapped keys, and there is no state store"
        raise ServiceError(Code.INTERNAL, detail)
    return WrappedKeys(memory.store, roots)


def facts_of(grant: Grant, requests: tuple[KeyRequest, ...]) -> tuple[KeyFacts, ...]:
    """What the envelopes will hold, in the order of the requests."""
    wanted = zip(grant.paths, requests, strict=True)
    return tuple(KeyFacts.of(path, asked) for path, asked in wanted)


def seal_all(
    released: Sequence[Secret], recipient: Recipient, *, transcript_hash: bytes
) -> tuple[bytes, ...]:
    """Seal each key to the recipient; wipe them all, whatever happens."""
    try:
        return tuple(
            recipient.seal(secret, info=hpke_info(transcript_hash, index=index))
            for index, secret in enumerate(released)
        )
    finally:
        for secret in released:
            secret.wipe()
