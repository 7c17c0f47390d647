# SPDX-License-Identifier: Apache-2.0
"""A log entry: the one encoding of a decision, whose hash is a leaf of the tree.

Deterministic CBOR under its own label: ``[1, entry id, time, granted, protocol class,
code, body]``. The body is the canonical encoding that the journal holds, as a byte
string, so that a leaf is made from a row without decoding it. One that is too long for
an entry bundle is left out, and ``{"bytes", "sha256"}`` stand in its place: the journal
has it, and nobody can put another one there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from tightseal.audit.tiles import MAX_ENTRY_BYTES
from tightseal.errors import Code, RequestError, ServiceError
from tightseal.model import canonical
from tightseal.model.canonical import Value
from tightseal.model.labels import Label

__all__ = ["MAX_LOGGED_BODY_BYTES", "LogEntry", "Row", "entry_bytes", "parse_entry"]

MAX_LOGGED_BODY_BYTES: Final = 60_000
"""Longest body that stands in an entry, in bytes."""

_VERSION: Final = 1
_PARTS: Final = 7

Row: TypeAlias = tuple[bytes, int, int, str, str, bytes]
"""Columns of the journal: entry id, time, granted, protocol class, code, body."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry as it stands in the log.

    Attributes:
        entry_id: 16 bytes; the receipt names it.
        time: Unix seconds.
        granted: whether keys left, or an action was done.
        protocol_class: ``v1``, ``legacy``, or ``action``.
        code: ``granted``, or the stable code of the refusal.
        body: what was decided; ``None`` where it is too long for the log.
        body_hash: SHA-256 of the body's encoding.
    """

    entry_id: bytes
    time: int
    granted: bool
    protocol_class: str
    code: str
    body: Value
    body_hash: bytes


def entry_bytes(row: Row) -> bytes:
    """The entry of a row of the journal; at most ``tiles.MAX_ENTRY_BYTES``."""
    entry_id, time, granted, protocol_class, code, body = row
    held: Value = body
    if len(body) > MAX_LOGGED_BODY_BYTES:
        held = {"bytes": len(body), "sha256": hashlib.sha256(body).digest()}
    parts: list[Value] = [
        _VERSION,
        entry_id,
        time,
        bool(granted),
        protocol_class,
        code,
        held,
    ]
    return canonical.labelled(Label.LOG_ENTRY, parts)


def parse_entry(data: bytes) -> LogEntry:
    """Read an entry; checks its form, not that any log has it.

    Raises:
        ServiceError: ``log_malformed``.
    """
    try:
        found = canonical.decode(data, max_bytes=MAX_ENTRY_BYTES)
        return _entry(found)
    except (RequestError, ValueError, TypeError, KeyError) as e:
        detail = f"no log entry of this version: {e}"
        raise ServiceError(Code.LOG_MALFORMED, detail) from e


def _entry(found: Value) -> LogEntry:
    label, parts = cast("list[Value]", found)
    if label != Label.LOG_ENTRY or not isinstance(parts, list) or len(parts) != _PARTS:
        raise ValueError("label or number of parts")
    version, entry_id, time, granted, protocol_class, code, held = parts
    if version != _VERSION:
        raise ValueError(f"version {version!r}")
    if not isinstance(entry_id, bytes) or not isinstance(granted, bool):
        raise TypeError("entry id or outcome")
    if not isinstance(time, int) or isinstance(time, bool):
        raise TypeError("time")
    if not isinstance(protocol_class, str) or not isinstance(code, str):
        raise TypeError("protocol class or code")
    body, body_hash = _body(held)
    return LogEntry(entry_id, time, granted, protocol_class, code, body, body_hash)


def _body(held: Value) -> tuple[Value, bytes]:
    if isinstance(held, bytes):
        return canonical.decode(held), hashlib.sha256(held).digest()
    if isinstance(held, dict) and isinstance(held["sha256"], bytes):
        return None, held["sha256"]
    raise TypeError("body")
