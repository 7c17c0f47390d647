# SPDX-License-Identifier: Apache-2.0
"""What lies in an engine: rows as the host sees them, and the engines' interface.

An engine stores and returns; it is not believed. Whatever it returns is of the right
type and size when it comes from here, and nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from tightseal.model.state import MAX_VALUE_BYTES
from tightseal.state.faults import tampered

__all__ = [
    "COUNTER_MAX",
    "ID_BYTES",
    "INDEX_BYTES",
    "MAX_NODE_BYTES",
    "MAX_SEALED_BYTES",
    "PAGE_ROWS",
    "SCHEMA",
    "Changes",
    "Engine",
    "Fetched",
    "HeadRow",
    "Row",
    "View",
    "Wanted",
    "Writer",
    "head_row",
    "node_body",
    "node_row",
    "record_key",
    "record_row",
]

SCHEMA: Final = 2
"""The schema that this version reads and writes."""

ID_BYTES: Final = 16
INDEX_BYTES: Final = 32
COUNTER_MAX: Final = (1 << 63) - 1
"""The largest integer of either engine."""

MAX_SEALED_BYTES: Final = MAX_VALUE_BYTES + 1024
"""A value with its name, salt, nonce and tag."""

MAX_NODE_BYTES: Final = 4 + 16 * 64
"""Sixteen leaves under their bitmaps."""

PAGE_ROWS: Final = 500
"""Rows read at once where all are read."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record as stored; everything in it is authenticated elsewhere."""

    kind: str
    index: bytes
    version: int
    expires_at: int | None
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HeadRow:
    """The one row of a store: its id, its schema, and its sealed head."""

    store_id: bytes
    schema: int
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows to fetch beside the head row, by primary key."""

    records: Sequence[tuple[str, bytes]] = ()
    nodes: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was there; what is missing is left out."""

    head: HeadRow | None
    records: Mapping[tuple[str, bytes], Row]
    nodes: Mapping[tuple[str, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Changes:
    """Rows to write and rows to remove, in one commit."""

    head: HeadRow
    records: Mapping[tuple[str, bytes], Row | None] = field(default_factory=dict)
    nodes: Mapping[tuple[str, bytes], bytes | None] = field(default_factory=dict)


class View(Protocol):
    """One consistent state of the engine."""

    def fetch(self, wanted: Wanted) -> Fetched:
        """The head row, and the rows that are wanted."""
        ...

    def records(self, kind: str | None = None) -> Iterator[Row]:
        """Every record row, or every one of a kind, in the order of keys."""
        ...

    def nodes(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Every node row: kind, prefix, body."""
        ...

    def expired(self, *, now: int, limit: int) -> Sequence[tuple[str, bytes]]:
        """Keys of records that expired at ``now`` or before."""
        ...


class Writer(View, Protocol):
    """The newest state, and nobody else writes until it is left."""

    def apply(self, changes: Changes) -> None:
        """Take changes; they are durable once the writer is left without an error."""
        ...


class Engine(Protocol):
    """Where rows lie. Raises ``state_unavailable`` for all that fails."""

    @property
    def name(self) -> str:
        """For the operator; no password in it."""
        ...

    def read(self) -> AbstractContextManager[View]:
        """A consistent view."""
        ...

    def write(self) -> AbstractContextManager[Writer]:
        """A writer; committed and durable when left, rolled back on an error."""
        ...

    def rewrite(self) -> AbstractContextManager[Writer]:
        """A writer for changes that need not fit into memory before they are kept.

        While it lists records, rows may be written: each row that was there before
        comes by once, and those that were written meanwhile may or may not.
        """
        ...

    def others(self) -> int:
        """How many others are seen to use the same store; 0 says nothing."""
        ...

    def prepare(self, changes: Changes) -> None:
        """Make the tables and the first rows, at once; raises ``state_exists``."""
        ...

    def schema(self) -> int:
        """The schema found; 0 where there is none. Raises ``state_tampered``."""
        ...

    def migrate(self, rewrite: Callable[[HeadRow], HeadRow]) -> tuple[str, ...]:
        """Bring tables and head row to ``SCHEMA`` in one transaction; what was done.

        Args:
            rewrite: the head row for the new tables, from the old one.
        """
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


def head_row(store_id: object, schema: object, sealed: object) -> HeadRow:
    """A head row whose types and sizes are right; raises ``state_tampered``."""
    if not isinstance(store_id, bytes) or len(store_id) != ID_BYTES:
        raise tampered("store id is malformed")
    return HeadRow(store_id, _integer(schema, "schema"), _blob(sealed, "head"))


def record_row(
    kind: object, index: object, version: object, expires_at: object, sealed: object
) -> Row:
    """A record row whose types and sizes are right; raises ``state_tampered``."""
    key = record_key(kind, index)
    return Row(
        kind=key[0],
        index=key[1],
        version=_integer(version, "version"),
        expires_at=None if expires_at is None else _integer(expires_at, "expiry"),
        sealed=_blob(sealed, "record"),
    )


def record_key(kind: object, index: object) -> tuple[str, bytes]:
    """A record's key whose types and size are right; raises ``state_tampered``."""
    if (
        not isinstance(kind, str)
        or not isinstance(index, bytes)
        or len(index) != INDEX_BYTES
    ):
        raise tampered("the key of a record is malformed")
    return kind, index


def node_row(kind: object, prefix: object, body: object) -> tuple[str, bytes, bytes]:
    """A node row whose types and sizes are right; raises ``state_tampered``."""
    if not isinstance(kind, str) or not isinstance(prefix, bytes):
        raise tampered("the key of a node is malformed")
    return kind, prefix, node_body(body)


def node_body(body: object) -> bytes:
    """A node's body whose type and size are right; raises ``state_tampered``."""
    if not isinstance(body, bytes) or len(body) > MAX_NODE_BYTES:
        raise tampered("a node of the map is malformed")
    return body


def _integer(value: object, what: str) -> int:
    if not isinstance(value, int) or not 0 <= value <= COUNTER_MAX:
        raise tampered(f"{what} is malformed")
    return value


def _blob(value: object, what: str) -> bytes:
    if not isinstance(value, bytes) or len(value) > MAX_SEALED_BYTES:
        raise tampered(f"sealed {what} is malformed")
    return value
