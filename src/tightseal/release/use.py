# SPDX-License-Identifier: Apache-2.0
"""Use without export: the private half works here, and only a result leaves.

    the use is granted -> its input fits the key -> counted -> derived -> used -> sealed

A use takes every step that a release takes: the same evidence, nonce, policy, count,
journal and retry. What a key of the chain signs is never what Tightseal signs: the
attested key is drawn apart from the chain, operators and approvers have keys of their
own, and a message under one of Tightseal's labels is refused (``KeyUse.check``).
"""

from __future__ import annotations

from collections.abc import Iterable

from tightseal.envelope.hpke import open_with
from tightseal.errors import KeyReleaseError, PolicyError
from tightseal.keys.chain import part_of
from tightseal.keys.using import agree, check_peer, require_operation, sign
from tightseal.model.grant import Reason
from tightseal.model.keypath import KeyPath, KeyRequest
from tightseal.model.keyuse import KeyUse, Operation, unwrap_info
from tightseal.model.secret import Secret

__all__ = ["answer_of", "require_inputs", "use_of"]


def require_inputs(paths: Iterable[KeyPath], requests: Iterable[KeyRequest]) -> None:
    """Refuse what no key could be used with, before it is counted.

    Checks public keys of peers. Whether an envelope opens shows only with the key.

    Raises:
        PolicyError: ``use_input_invalid``.
    """
    for path, asked in zip(paths, requests, strict=True):
        if asked.use is None or asked.use.operation is not Operation.AGREE:
            continue
        try:
            check_peer(asked.use.data, path.key_type)
        except KeyReleaseError as e:
            raise _refused(e, path) from e


def answer_of(key: Secret, path: KeyPath, asked: KeyRequest) -> Secret:
    """What leaves for a key request: a part of the key, or the result of its use.

    Args:
        key: the whole key; wiped here unless it is what leaves.
        path: of the key.
        asked: the request.

    Raises:
        KeyReleaseError: as of ``part_of`` and :func:`use_of`.
    """
    if asked.use is None:
        return part_of(key, path, asked.part)
    try:
        return use_of(key, path, asked.use)
    finally:
        key.wipe()


def use_of(key: Secret, path: KeyPath, use: KeyUse) -> Secret:
    """The result of a use; 16 to 64 bytes. The key is not wiped here.

    Raises:
        KeyReleaseError: ``key_path_invalid``, where the type of the key cannot do this;
            ``use_input_invalid``, for a peer's public key; ``envelope_invalid``, where
            an envelope does not open.
    """
    if use.operation is Operation.SIGN:
        return Secret(sign(key, path.key_type, use.data))
    if use.operation is Operation.AGREE:
        return agree(key, path.key_type, use.data)
    require_operation(path.key_type, use.operation)
    return open_with(key, use.data, info=unwrap_info(use.context))


def _refused(error: KeyReleaseError, path: KeyPath) -> PolicyError:
    rule, expected = f"input of {path.purpose}", f"a public key of {path.key_type}"
    denial = PolicyError(error.code, f"{rule}: {error.detail}")
    denial.reasons = (Reason(rule, expected, error.detail, satisfied=False),)
    return denial
