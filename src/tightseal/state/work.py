# SPDX-License-Identifier: Apache-2.0
"""One look at a store: rows held against the maps, and changes prepared for a commit.

A ``Work`` lives as long as one view or writer of an engine. It believes a row only
where the map of its kind, opened under the sealed head, names exactly that row.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from tightseal.errors import Code, ServiceError
from tightseal.model.state import (
    MAX_BATCH,
    MAX_VALUE_BYTES,
    Change,
    Create,
    Delete,
    Expect,
    Head,
    Replace,
)
from tightseal.state.authmap import KindMap, depth_hint, prefixes
from tightseal.state.faults import tampered, too_large
from tightseal.state.heads import (
    MAX_KINDS,
    HeadBody,
    Root,
    check_fresh,
    head_of,
    open_head,
)
from tightseal.state.rows import (
    COUNTER_MAX,
    SCHEMA,
    Changes,
    HeadRow,
    Row,
    View,
    Wanted,
)
from tightseal.state.seal import Sealer, check_kind, check_name, leaf_digest

__all__ = ["Key", "Work", "check_changes", "is_expired"]

Key = tuple[str, bytes]
"""Kind and index."""

_MAX_TIME: Final = COUNTER_MAX


def check_changes(changes: Sequence[Change]) -> tuple[Change, ...]:
    """Refuse a batch whose form is wrong, before anything is read or locked.

    Raises:
        ServiceError: ``state_too_large``; ``internal``, where a record is named twice,
            or a kind, name or expiry is none.
    """
    if not 1 <= len(changes) <= MAX_BATCH:
        raise too_large(f"batch of {len(changes)} changes, expected 1 to {MAX_BATCH}")
    named = set()
    for change in changes:
        check_kind(change.kind)
        check_name(change.name)
        named.add((change.kind, change.name))
        if isinstance(change, Create | Replace):
            size, expires_at = len(change.value), change.expires_at
            if size > MAX_VALUE_BYTES:
                detail = f"{change.kind}: value of {size} bytes"
                raise too_large(f"{detail}, at most {MAX_VALUE_BYTES}")
            if expires_at is not None and not 0 <= expires_at <= _MAX_TIME:
                raise ServiceError(Code.INTERNAL, f"no time: {expires_at}")
    if len(named) != len(changes):
        raise ServiceError(Code.INTERNAL, "a batch names a record twice")
    return tuple(changes)


class Work:
    """A view of the store, opened at its head.

    Args:
        view: the engine's view, or writer.
        sealer: opens and seals.
        keys: the records that will be asked for.
        hints: about how many records each kind has.
        seen: heads that this one must not be older than.

    Raises:
        ServiceError: ``state_tampered``, ``state_rolled_back``, ``state_unavailable``.
    """

    def __init__(
        self,
        view: View,
        sealer: Sealer,
        *,
        keys: Iterable[Key] = (),
        hints: Mapping[str, int],
        seen: Sequence[Head | None],
    ) -> None:
        self._view = view
        self._sealer = sealer
        self._keys = tuple(dict.fromkeys(keys))
        nodes = dict.fromkeys(
            (kind, prefix)
            for kind, index in self._keys
            for prefix in prefixes(index, depth_hint(hints.get(kind, 0)))
        )
        fetched = view.fetch(Wanted(records=self._keys, nodes=tuple(nodes)))
        self.body, self.head = open_head(fetched.head, sealer)
        check_fresh(self.head, seen)
        self._rows = dict(fetched.records)
        self._nodes = fetched.nodes
        self._maps: dict[str, KindMap] = {}
        self._counts = {kind: root.count for kind, root in self.body.kinds.items()}
        self._changed: dict[Key, Row | None] = {}
        self._counter = self.body.counter

    @property
    def changed(self) -> bool:
        """Whether a batch was applied that changes anything."""
        return bool(self._changed)

    def live(self, key: Key) -> Row | None:
        """The live row of a key that was asked for, expired or not; else ``None``.

        Raises:
            ServiceError: ``state_tampered``, where row and map do not agree.
        """
        if key in self._changed:
            return self._changed[key]
        kind, index = key
        row, digest = self._rows.get(key), self._map(kind).find(index)
        if row is None and digest is None:
            return None
        if row is None:
            raise tampered(f"{kind}: a live record is missing")
        if digest is None:
            raise tampered(f"{kind}: a record that was never made, or was deleted")
        if (row.kind, row.index) != key or not hmac.compare_digest(
            leaf_digest(row), digest
        ):
            raise tampered(f"{kind}: a record is not the live one")
        return row

    def rows_of(self, kind: str) -> Iterator[Row]:
        """Every stored row of a kind, held against nothing."""
        return self._view.records(kind)

    def apply(self, changes: Sequence[Change], *, now: int) -> int:
        """Judge a batch, then take all of it; its version.

        Raises:
            ServiceError: ``state_exists``, ``state_missing``, ``state_conflict``,
                ``state_too_large``: nothing of the batch was taken. Any other code:
                nothing of this work may be committed.
        """
        keyed = [(c, (c.kind, self._sealer.index(c.kind, c.name))) for c in changes]
        for change, key in keyed:
            _judge(change, self.live(key), now)
        kinds = self._counts.keys() | {c.kind for c in changes}
        if len(kinds) > MAX_KINDS:
            raise too_large(f"{len(kinds)} kinds of records, at most {MAX_KINDS}")
        if all(isinstance(change, Expect) for change in changes):
            return self._counter
        self._counter += 1
        for change, key in keyed:
            self._take(change, key)
        return self._counter

    def drop(self, keys: Iterable[Key]) -> None:
        """Remove live rows whatever they hold, as one step of the counter."""
        self._counter += 1
        for key in keys:
            self._remove(key)

    def finish(self) -> tuple[Changes, HeadBody, Head]:
        """What to commit, and the head that it makes."""
        kinds = dict(self.body.kinds)
        nodes: dict[Key, bytes | None] = {}
        for kind, kind_map in self._maps.items():
            for prefix, node in kind_map.finish().items():
                nodes[kind, prefix] = node
            kinds.pop(kind, None)
            if kind_map.root is not None:
                kinds[kind] = Root(kind_map.root, self._counts[kind])
        body = HeadBody(self._counter, SCHEMA, kinds, self.head.digest)
        store_id = self.head.store_id
        sealed = self._sealer.seal_head(store_id, body.as_value())
        row = HeadRow(store_id, SCHEMA, sealed)
        head = head_of(body, store_id, self._sealer)
        return Changes(row, self._changed, nodes), body, head

    def _take(self, change: Change, key: Key) -> None:
        if isinstance(change, Delete):
            self._remove(key)
        elif not isinstance(change, Expect):
            row = self._sealer.seal_record(
                self.head.store_id,
                kind=change.kind,
                name=change.name,
                value=change.value,
                version=self._counter,
                expires_at=change.expires_at,
            )
            if self.live(key) is None:
                self._counts[row.kind] = self._counts.get(row.kind, 0) + 1
            self._map(row.kind).put(row.index, leaf_digest(row))
            self._changed[key] = row

    def _remove(self, key: Key) -> None:
        self._map(key[0]).remove(key[1])
        self._counts[key[0]] -= 1
        self._changed[key] = None

    def _map(self, kind: str) -> KindMap:
        found = self._maps.get(kind)
        if found is None:
            root = self.body.kinds.get(kind)
            digest = None if root is None else root.digest
            found = KindMap(kind, digest, partial(self._deeper, kind))
            found.prefetched({p: b for (k, p), b in self._nodes.items() if k == kind})
            self._maps[kind] = found
        return found

    def _deeper(self, kind: str, wanted: list[bytes]) -> dict[bytes, bytes]:
        """Nodes below what the hint let fetch at once."""
        keys = [(kind, prefix) for prefix in wanted]
        found = self._view.fetch(Wanted(nodes=keys)).nodes
        return {prefix: body for (_, prefix), body in found.items()}


def is_expired(row: Row, now: int) -> bool:
    """Whether a row counts as missing at ``now``."""
    return row.expires_at is not None and row.expires_at <= now


def _judge(change: Change, row: Row | None, now: int) -> None:
    if row is not None and is_expired(row, now):
        row = None
    what = f"{change.kind} {change.name!r}"
    if isinstance(change, Create):
        if row is not None:
            detail = f"{what}: there is one, version {row.version}"
            raise ServiceError(Code.STATE_EXISTS, detail)
        return
    if isinstance(change, Expect) and change.expected is None:
        if row is not None:
            detail = f"{what}: version {row.version}, expected none"
            raise ServiceError(Code.STATE_CONFLICT, detail)
        return
    if row is None:
        raise ServiceError(Code.STATE_MISSING, f"{what}: there is none")
    if row.version != change.expected:
        detail = f"{what}: version {row.version}, expected {change.expected}"
        raise ServiceError(Code.STATE_CONFLICT, detail)
