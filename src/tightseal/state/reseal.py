# SPDX-License-Identifier: Apache-2.0
"""A whole store under another key, in one transaction.

Names are indexed under the store's key, so every record lands elsewhere in its map, and
every node, record and the head are written anew. A crash or an error at any point
leaves the store as it was, or as it is to be: the engine's one commit decides.

Every record is opened and held against the old head before anything is kept, as
``state check`` with the key does. What the host hid or put in is ``state_tampered``,
and the store stays as it was.

Memory: digests of the largest kind, twice, about 1 KiB for each of its records; the
rows themselves pass by in pages. Time: one core opens and seals some thousands of
records a second; nobody else writes meanwhile.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from itertools import islice

from tightseal.errors import Code, ServiceError
from tightseal.model.state import Anchor, Head
from tightseal.state.anchors import NoAnchor
from tightseal.state.authmap import KindMap, build_root
from tightseal.state.faults import tampered
from tightseal.state.heads import HeadBody, Root, check_fresh, head_of, open_head
from tightseal.state.rows import (
    PAGE_ROWS,
    SCHEMA,
    Changes,
    Engine,
    HeadRow,
    Row,
    Wanted,
    Writer,
)
from tightseal.state.seal import Sealer, leaf_digest

__all__ = ["opens", "reseal"]


def opens(engine: Engine, sealer: Sealer) -> bool:
    """Whether a store's head is sealed under this key; tells nothing of its records.

    Raises:
        ServiceError: ``state_unavailable``; ``state_schema_unsupported``.
    """
    if engine.schema() == 0:
        return False
    with engine.read() as view:
        row = view.fetch(Wanted()).head
    try:
        open_head(row, sealer)
    except ServiceError as e:
        if e.code is not Code.STATE_TAMPERED:
            raise
        return False
    return True


def reseal(
    engine: Engine, *, before: Sealer, after: Sealer, anchor: Anchor | None = None
) -> Head:
    """Seal all of a store under another key, at once or not at all.

    Store id, names, values, versions and expiry stay. The counter rises by one, so that
    an anchor takes it as the next state of this very store. Stores that are attached
    under the old key fail from then on (``state_tampered``): nobody may use one.

    Args:
        engine: where it lies.
        before: of the key that it is under.
        after: of the key that it is to be under.
        anchor: of the store, as ``SealedStore.attach`` has it.

    Returns:
        the new head.

    Raises:
        ServiceError: ``state_missing``; ``state_schema_unsupported``, where it must be
            migrated first; ``state_tampered``, where a record, map or head is not what
            was written, or is under another key; ``state_rolled_back``, by the anchor;
            ``state_unavailable``: then ``opens`` says under which key it is.
    """
    anchor = NoAnchor() if anchor is None else anchor
    found = engine.schema()
    if found == 0:
        raise ServiceError(Code.STATE_MISSING, f"{engine.name}: there is no state")
    if found != SCHEMA:
        detail = f"{engine.name}: schema {found}, expected {SCHEMA}"
        raise ServiceError(Code.STATE_SCHEMA_UNSUPPORTED, detail)
    with engine.rewrite() as writer:
        row = writer.fetch(Wanted()).head
        body, head = open_head(row, before)
        assert row is not None
        known = anchor.latest(head.store_id)
        check_fresh(head, (known,))
        if known not in (None, head):
            # A crash came between the last commit and its anchor.
            anchor.advance(head, previous=body.previous)
        move = _Move(writer, row, before, after)
        kinds = {kind: move.kind(kind, root) for kind, root in body.kinds.items()}
        moved = HeadBody(body.counter + 1, SCHEMA, kinds, head.digest)
        sealed = after.seal_head(head.store_id, moved.as_value())
        writer.apply(Changes(HeadRow(head.store_id, SCHEMA, sealed)))
    made = head_of(moved, head.store_id, after)
    anchor.advance(made, previous=head.digest)
    return made


class _Move:
    """One kind after the other from key to key, inside one transaction."""

    def __init__(
        self, writer: Writer, row: HeadRow, before: Sealer, after: Sealer
    ) -> None:
        self._writer = writer
        self._row = row
        self._before = before
        self._after = after

    def kind(self, kind: str, root: Root) -> Root:
        """Move a kind; the root of its new map."""
        old, new = build_root(kind, ()), build_root(kind, ())
        count = 0
        rows = self._old_rows(kind, new)
        while page := list(islice(rows, PAGE_ROWS)):
            count += len(page)
            self._page(page, old, new)
        bodies, gone = new.finish(), old.finish()
        if old.root is None or not hmac.compare_digest(old.root, root.digest):
            raise tampered(f"{kind}: the records are not those of the head")
        assert new.root is not None
        nodes: dict[tuple[str, bytes], bytes | None] = {
            (kind, prefix): bodies.get(prefix) for prefix in (*gone, *bodies)
        }
        keys = iter(nodes)
        while part := list(islice(keys, PAGE_ROWS)):
            some = {key: nodes[key] for key in part}
            self._writer.apply(Changes(self._row, nodes=some))
        return Root(new.root, count)

    def _old_rows(self, kind: str, new: KindMap) -> Iterator[Row]:
        """Those of the old key: what was just written may come by as well."""
        for row in self._writer.records(kind):
            if new.find(row.index) is None:
                yield row

    def _page(self, page: list[Row], old: KindMap, new: KindMap) -> None:
        store_id = self._row.store_id
        changes: dict[tuple[str, bytes], Row | None] = {}
        for row in page:
            name, value = self._before.open_record(store_id, row)
            moved = self._after.seal_record(
                store_id,
                kind=row.kind,
                name=name,
                value=value,
                version=row.version,
                expires_at=row.expires_at,
            )
            if old.find(row.index) is not None or new.find(moved.index) is not None:
                raise tampered(f"{row.kind}: a record is there twice")
            old.put(row.index, leaf_digest(row))
            new.put(moved.index, leaf_digest(moved))
            changes[row.kind, row.index] = None
            changes[moved.kind, moved.index] = moved
        self._writer.apply(Changes(self._row, changes))
