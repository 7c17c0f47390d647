# SPDX-License-Identifier: Apache-2.0
"""What a node says of itself in the state that it shares with others.

Nodes of other versions read these records. So the form is a map of which members may be
added and never change their meaning; whoever does not know a member passes it over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from tightseal.errors import Code, RequestError, ServiceError
from tightseal.model.canonical import Value, decode, encode
from tightseal.model.formats import MAX_FORMAT

__all__ = [
    "MAX_NODE_RECORD_BYTES",
    "NODE_NAME_CHARS",
    "RUN_BYTES",
    "KeyringSeen",
    "NodeRecord",
    "NodeState",
    "decode_node",
    "encode_node",
]

MAX_NODE_RECORD_BYTES: Final = 4096
"""Longest record of a node, members of newer versions among it."""

NODE_NAME_CHARS: Final = 32
"""A node is named by the id of its log, 16 bytes in hex."""

RUN_BYTES: Final = 16

_MAX_TEXT: Final = 256
_MAX_BYTES: Final = 64
_MAX_NUMBER: Final = (1 << 53) - 1


class NodeState(StrEnum):
    """How far a node is, from its start to its end; it never goes back."""

    SERVING = "serving"
    DRAINING = "draining"
    LEFT = "left"

    @property
    def rank(self) -> int:
        """Its place in that order."""
        return list(NodeState).index(self)


@dataclass(frozen=True, slots=True)
class KeyringSeen:
    """Which version of which keyring a node has in use."""

    keyring_id: bytes
    generation: int
    counter: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """One node, as it last said itself.

    Attributes:
        software: version of the program.
        format: newest format of shared records that it understands.
        tee, measurement: what it runs in, and what it measures itself as.
        settings: digest of the release settings in force there, 64 bytes.
        policy: version of the policy in force there; ``None`` before the first.
        keyring: ``None`` where the root of keys is the platform's own.
        log_key: verifier key of its log, as C2SP notes have it.
        log_size: entries of its log when it said this.
        run: 16 bytes that all workers of one start share, and no other start has.
        started: Unix seconds of that start, by its clock.
        seen: Unix seconds when it said this, by its clock.
        state: how far it is.
    """

    software: str
    format: int
    tee: str
    measurement: bytes
    settings: bytes
    policy: int | None
    keyring: KeyringSeen | None
    log_key: str
    log_size: int
    run: bytes = field(repr=False)
    started: int
    seen: int
    state: NodeState


def encode_node(node: NodeRecord) -> bytes:
    """The record's value."""
    kept = node.keyring
    keyring: Value = (
        None if kept is None else [kept.keyring_id, kept.generation, kept.counter]
    )
    return encode(
        {
            "software": node.software,
            "format": node.format,
            "tee": node.tee,
            "measurement": node.measurement,
            "settings": node.settings,
            "policy": node.policy,
            "keyring": keyring,
            "log_key": node.log_key,
            "log_size": node.log_size,
            "run": node.run,
            "started": node.started,
            "seen": node.seen,
            "state": node.state.value,
        }
    )


def decode_node(data: bytes) -> NodeRecord:
    """Read a record; members that are not known are passed over.

    Raises:
        ServiceError: ``state_tampered``.
    """
    if len(data) > MAX_NODE_RECORD_BYTES:
        raise _faulty(f"{len(data)} bytes, at most {MAX_NODE_RECORD_BYTES}")
    try:
        value = decode(data)
    except RequestError as e:
        raise _faulty("not of our encoding") from e
    if not isinstance(value, Mapping):
        raise _faulty("expected a map")
    return NodeRecord(
        software=_text(value, "software"),
        format=_number(value, "format", most=MAX_FORMAT),
        tee=_text(value, "tee"),
        measurement=_bytes(value, "measurement"),
        settings=_bytes(value, "settings"),
        policy=None if value.get("policy") is None else _number(value, "policy"),
        keyring=_keyring(value.get("keyring")),
        log_key=_text(value, "log_key"),
        log_size=_number(value, "log_size"),
        run=_bytes(value, "run"),
        started=_number(value, "started"),
        seen=_number(value, "seen"),
        state=_state(_text(value, "state")),
    )


def _keyring(value: Value) -> KeyringSeen | None:
    match value:
        case None:
            return None
        case [bytes(keyring_id), int(generation), int(counter), *_] if (
            len(keyring_id) <= _MAX_BYTES
        ):
            return KeyringSeen(keyring_id, generation, counter)
    raise _faulty("keyring")


def _state(text: str) -> NodeState:
    try:
        return NodeState(text)
    except ValueError:
        # A newer version may know more of them. Whatever it is, the node is there.
        return NodeState.SERVING


def _number(value: Mapping[str, Value], name: str, *, most: int = _MAX_NUMBER) -> int:
    found = value.get(name)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= most:
        raise _faulty(name)
    return found


def _text(value: Mapping[str, Value], name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str) or len(found) > _MAX_TEXT:
        raise _faulty(name)
    return found


def _bytes(value: Mapping[str, Value], name: str) -> bytes:
    found = value.get(name)
    if not isinstance(found, bytes) or len(found) > _MAX_BYTES:
        raise _faulty(name)
    return found


def _faulty(detail: str) -> ServiceError:
    return ServiceError(Code.STATE_TAMPERED, f"node record: {detail}")
