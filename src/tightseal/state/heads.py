# SPDX-License-Identifier: Apache-2.0
"""The head of a store: what its maps' roots are, and when that was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code, ServiceError
from tightseal.model.canonical import Value
from tightseal.model.formats import require_understood
from tightseal.model.state import Head
from tightseal.state.faults import rolled_back, tampered
from tightseal.state.rows import COUNTER_MAX, SCHEMA, HeadRow
from tightseal.state.seal import Sealer

__all__ = [
    "MAX_KINDS",
    "HeadBody",
    "Root",
    "check_fresh",
    "head_of",
    "open_head",
    "read_head",
]

MAX_KINDS: Final = 64
"""Most kinds of records in one store; the head lists them all."""

_HASH_BYTES: Final = 32
_MEMBERS: Final = frozenset({"counter", "schema", "kinds", "previous"})


@dataclass(frozen=True, slots=True)
class Root:
    """The map of one kind: its root hash, and how many records it holds."""

    digest: bytes
    count: int


@dataclass(frozen=True, slots=True)
class HeadBody:
    """What is sealed as the head.

    Attributes:
        counter: rises with every batch.
        schema: of the tables, so that the host cannot name another.
        kinds: roots of the kinds that have records.
        previous: digest of the head that this one came after, zeros for the first;
            two stores that parted can never meet again in one digest.
    """

    counter: int
    schema: int
    kinds: Mapping[str, Root]
    previous: bytes

    def as_value(self) -> dict[str, Value]:
        """The head as a canonical value."""
        kinds: dict[str, Value] = {
            kind: [root.digest, root.count] for kind, root in self.kinds.items()
        }
        return {
            "counter": self.counter,
            "schema": self.schema,
            "kinds": kinds,
            "previous": self.previous,
        }


def head_of(body: HeadBody, store_id: bytes, sealer: Sealer) -> Head:
    """The short form that anchors take."""
    # Without the schema: migrating changes the tables and nothing that is remembered.
    committed = {k: v for k, v in body.as_value().items() if k != "schema"}
    return Head(store_id, body.counter, sealer.head_digest(store_id, committed))


def open_head(row: HeadRow | None, sealer: Sealer) -> tuple[HeadBody, Head]:
    """Open the head row of a store.

    Raises:
        ServiceError: ``state_tampered``, where it is missing or not the provider's;
            ``state_schema_unsupported``, where the tables were made by another version,
            or newer nodes raised the state to a format that this one does not know.
    """
    if row is None:
        raise tampered("the head is missing")
    body = read_head(row, sealer)
    if body.schema != row.schema:
        raise tampered(f"schema {row.schema} in the tables, {body.schema} in the head")
    if body.schema != SCHEMA:
        detail = f"schema {body.schema}, expected {SCHEMA}"
        raise ServiceError(Code.STATE_SCHEMA_UNSUPPORTED, detail)
    require_understood(body.kinds)
    return body, head_of(body, row.store_id, sealer)


def read_head(row: HeadRow, sealer: Sealer) -> HeadBody:
    """What is sealed in a head row of any schema; raises ``state_tampered``."""
    return _parse(sealer.open_head(row.store_id, row.sealed))


def check_fresh(head: Head, seen: Iterable[Head | None]) -> None:
    """Refuse a head that is older than, or parted from, one that was seen.

    A newer head is taken to descend from what was seen: only the provider can have
    sealed it, and each of its processes passes through this check before it writes.

    Raises:
        ServiceError: ``state_rolled_back``; ``state_tampered`` for another store.
    """
    for floor in seen:
        if floor is None:
            continue
        if head.store_id != floor.store_id:
            raise tampered("this is another store than before")
        if head.counter < floor.counter:
            detail = f"counter {head.counter}, after {floor.counter} was seen"
            raise rolled_back(detail)
        if head.counter == floor.counter and head.digest != floor.digest:
            raise rolled_back(f"another head with counter {head.counter} was seen")


def _parse(value: Value) -> HeadBody:
    if not isinstance(value, dict) or set(value) != _MEMBERS:
        raise tampered("head: sealed content is malformed")
    counter, schema = value["counter"], value["schema"]
    kinds, previous = value["kinds"], value["previous"]
    if (
        not _counts(counter)
        or not _counts(schema)
        or not isinstance(kinds, dict)
        or not isinstance(previous, bytes)
    ):
        raise tampered("head: sealed content is malformed")
    roots = {kind: _root(root) for kind, root in kinds.items()}
    return HeadBody(int(counter), int(schema), roots, previous)


def _counts(value: Value) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    return 0 <= value <= COUNTER_MAX


def _root(value: Value) -> Root:
    if isinstance(value, list):
        digest, count = value
        if isinstance(digest, bytes) and isinstance(count, int):
            return Root(digest, count)
    raise tampered("head: sealed content is malformed")
