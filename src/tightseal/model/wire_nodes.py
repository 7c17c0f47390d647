# SPDX-License-Identifier: Apache-2.0
"""What a provider says of the nodes over its state: unsigned, for operators."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = [
    "NODES_PATH",
    "KeyringSeenJson",
    "NodeJson",
    "NodesResponse",
]

NODES_PATH: Final = "/v1/nodes"
"""``GET``: answered where ``/metrics`` is."""


class KeyringSeenJson(msgspec.Struct, frozen=True):
    """Which version of a keyring a node has in use.

    Attributes:
        keyring_id: in hex.
        generation: the current one.
        counter: of the keyring's changes.
    """

    keyring_id: str
    generation: int
    counter: int


class NodeJson(msgspec.Struct, frozen=True, kw_only=True):
    """One node.

    Attributes:
        node: the id of its log in hex, which names it.
        standing: ``serving``, ``draining``, ``stale`` or ``left``.
        wrong: what is wrong with it, as the provider that answers sees it.
        silent_seconds: since it last wrote, as that provider saw it.
        software, format: version of its program, and newest format of shared records
            that it understands.
        tee, measurement: what it runs in, and what it measures itself as, in hex.
        settings_digest: of the release settings in force there, in hex.
        policy_version: in force there; null before the first.
        keyring: null where the root of keys is the platform's own.
        log_key: verifier key of its log, as C2SP notes have it.
        log_entries: entries of its log when it last wrote.
        started, seen: Unix seconds by its own clock: of its start, and when it wrote.
    """

    node: str
    standing: str
    wrong: list[str]
    silent_seconds: int
    software: str
    format: int
    tee: str
    measurement: str
    settings_digest: str
    policy_version: int | None
    keyring: KeyringSeenJson | None
    log_key: str
    log_entries: int
    started: int
    seen: int


class NodesResponse(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes over one state.

    Attributes:
        version: of this answer; 1.
        node: name of the one that answers; null where it has no state, or has not
            looked yet.
        format: that the state is of.
        understood: newest format that every node understands which has not left.
        nodes: in the order of names; the one that answers among them.
    """

    version: int = 1
    node: str | None
    format: int
    understood: int
    nodes: list[NodeJson] = []
