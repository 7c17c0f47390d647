# SPDX-License-Identifier: Apache-2.0
"""Reading a whole store and holding everything in it against everything else."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code, ServiceError
from tightseal.model.state import AnchorClass, Head
from tightseal.state.authmap import KindMap, build_root
from tightseal.state.faults import tampered
from tightseal.state.heads import open_head
from tightseal.state.rows import SCHEMA, Engine, HeadRow, Row, View, Wanted
from tightseal.state.seal import Sealer, leaf_digest

__all__ = ["UNSEALED_NOTICE", "KindReport", "StateReport", "check", "check_rows"]

UNSEALED_NOTICE: Final = (
    "anything that was changed together with the map above it: the head is sealed, "
    "and only the provider's key opens it"
)
"""What a look without the key cannot notice."""


@dataclass(frozen=True, slots=True)
class KindReport:
    """One kind of records: how many, and how many bytes they take sealed."""

    kind: str
    records: int
    sealed_bytes: int


@dataclass(frozen=True, slots=True)
class StateReport:
    """What a check found in order.

    Attributes:
        store_id: which store.
        schema: of its tables.
        head: the state that was checked; ``None`` without the key.
        kinds: by name.
        not_noticed: what this check cannot notice, in words.
    """

    store_id: bytes
    schema: int
    head: Head | None
    kinds: tuple[KindReport, ...]
    not_noticed: str


def check(engine: Engine, sealer: Sealer | None) -> StateReport:
    """Read every row in one view, and hold it against the maps and the head.

    Takes memory for the rows' digests. Without a sealer only accidents are found.

    Raises:
        ServiceError: ``state_missing``, ``state_tampered``, ``state_unavailable``,
            ``state_schema_unsupported``.
    """
    found = engine.schema()
    if found == 0:
        raise ServiceError(Code.STATE_MISSING, f"{engine.name}: there is no state")
    if found != SCHEMA:
        detail = f"{engine.name}: schema {found}, expected {SCHEMA}"
        raise ServiceError(Code.STATE_SCHEMA_UNSUPPORTED, detail)
    with engine.read() as view:
        head = view.fetch(Wanted()).head
        if head is None:
            raise tampered("the head is missing")
        report, maps = check_rows(head, view.records(), sealer)
        _check_nodes(view, maps)
    return report


def check_rows(
    row: HeadRow, rows: Iterable[Row], sealer: Sealer | None
) -> tuple[StateReport, dict[str, dict[bytes, bytes]]]:
    """Hold rows against a head; also the bodies of the nodes of their maps.

    Raises:
        ServiceError: ``state_tampered``, ``state_schema_unsupported``.
    """
    maps: dict[str, KindMap] = {}
    kinds: dict[str, KindReport] = {}
    for found in _distinct(rows):
        if sealer is not None:
            sealer.open_record(row.store_id, found)
        if found.kind not in maps:
            maps[found.kind] = build_root(found.kind, ())
            kinds[found.kind] = KindReport(found.kind, 0, 0)
        maps[found.kind].put(found.index, leaf_digest(found))
        so_far = kinds[found.kind]
        size = so_far.sealed_bytes + len(found.sealed)
        kinds[found.kind] = KindReport(found.kind, so_far.records + 1, size)
    bodies = {
        kind: {p: b for p, b in built.finish().items() if b is not None}
        for kind, built in maps.items()
    }
    head = None
    if sealer is not None:
        body, head = open_head(row, sealer)
        for kind in maps.keys() | body.kinds.keys():
            root, built = body.kinds.get(kind), maps.get(kind)
            if root is None or built is None or built.root is None:
                raise tampered(f"{kind}: records and head do not agree")
            if not hmac.compare_digest(root.digest, built.root):
                raise tampered(f"{kind}: the records are not those of the head")
    missed = AnchorClass.NONE.not_noticed if sealer is not None else UNSEALED_NOTICE
    ordered = tuple(kinds[kind] for kind in sorted(kinds))
    return StateReport(row.store_id, row.schema, head, ordered, missed), bodies


def _distinct(rows: Iterable[Row]) -> Iterator[Row]:
    seen: set[tuple[str, bytes]] = set()
    for row in rows:
        if (row.kind, row.index) in seen:
            raise tampered(f"{row.kind}: a record is there twice")
        seen.add((row.kind, row.index))
        yield row


def _check_nodes(view: View, maps: dict[str, dict[bytes, bytes]]) -> None:
    left = {(kind, prefix) for kind, bodies in maps.items() for prefix in bodies}
    for kind, prefix, body in view.nodes():
        if maps.get(kind, {}).get(prefix) != body:
            raise tampered(f"{kind}: a node of the map is not what its records make")
        left.discard((kind, prefix))
    if left:
        raise tampered(f"{min(left)[0]}: a node of the map is missing")
