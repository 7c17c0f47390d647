# SPDX-License-Identifier: Apache-2.0
"""The store: sealed records in authenticated maps under one sealed head.

The head holds, for each kind, the root of the map of its live records, under a counter
that rises with every batch. A record is believed where its row is the one that the map
names, and the map where its nodes lead up to the head. What one record or one head
cannot show is whether the *whole* store was put back: this process remembers the newest
head that it saw, and the anchor remembers across processes and restarts.

Order of a write: ask the anchor, take the engine's write lock, check the head, anchor
it where a crash left that undone, apply, commit, advance the anchor, answer. So the
anchor never names a head that was not committed, is at most one commit behind, and no
answered write is newer than the anchor.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from tightseal.errors import Code, ServiceError, TightsealError
from tightseal.model.state import (
    MAX_BATCH,
    Anchor,
    AnchorClass,
    Change,
    Create,
    Delete,
    Freshness,
    Head,
    Record,
    Replace,
)
from tightseal.state.anchors import NoAnchor
from tightseal.state.authmap import Leaf, build_root
from tightseal.state.faults import rolled_back, tampered
from tightseal.state.heads import HeadBody, head_of, open_head
from tightseal.state.rows import ID_BYTES, SCHEMA, Changes, Engine, HeadRow, Row, Wanted
from tightseal.state.seal import Sealer, check_kind, check_name, leaf_digest
from tightseal.state.work import Key, Work, check_changes, is_expired

__all__ = ["MAX_GROUP", "SealedStore"]

MAX_GROUP: Final = 64
"""Most batches of waiting threads that share one commit."""

_MAX_GROUP_CHANGES: Final = 4 * MAX_BATCH
_OWN_FAULT: Final = frozenset(
    {
        Code.STATE_EXISTS,
        Code.STATE_MISSING,
        Code.STATE_CONFLICT,
        Code.STATE_TOO_LARGE,
    }
)
"""Codes that refuse one batch and leave the others of its commit alone."""

_T = TypeVar("_T")


class _Pending:
    """A batch that waits for its turn, and what became of it."""

    __slots__ = ("changes", "done", "error", "now", "version")

    def __init__(self, changes: tuple[Change, ...], now: int) -> None:
        self.changes = changes
        self.now = now
        self.done = False
        self.version = 0
        self.error: TightsealError | None = None


class SealedStore:
    """Implements ``StateStore`` over any engine. Safe for threads and processes.

    Made by ``new`` once and by ``attach`` from then on; the two never stand in for
    each other.
    """

    def __init__(
        self,
        engine: Engine,
        sealer: Sealer,
        *,
        anchor: Anchor,
        body: HeadBody,
        head: Head,
    ) -> None:
        self._engine = engine
        self._sealer = sealer
        self._anchor = anchor
        self._seen = head
        self._hints = {kind: root.count for kind, root in body.kinds.items()}
        self._seen_lock = threading.Lock()
        self._writing = threading.Lock()
        self._waiting: deque[_Pending] = deque()

    @classmethod
    def new(
        cls, engine: Engine, sealer: Sealer, *, anchor: Anchor | None = None
    ) -> SealedStore:
        """Make a new, empty store where there is none.

        Raises:
            ServiceError: ``state_exists``, where anything is there; else as of
                ``StateStore``.
        """
        anchor = NoAnchor() if anchor is None else anchor
        store_id = secrets.token_bytes(ID_BYTES)
        body = HeadBody(counter=0, schema=SCHEMA, kinds={}, previous=bytes(32))
        sealed = sealer.seal_head(store_id, body.as_value())
        engine.prepare(Changes(HeadRow(store_id, SCHEMA, sealed)))
        head = head_of(body, store_id, sealer)
        anchor.adopt(head)
        return cls(engine, sealer, anchor=anchor, body=body, head=head)

    @classmethod
    def attach(
        cls,
        engine: Engine,
        sealer: Sealer,
        *,
        anchor: Anchor | None = None,
        adopt: bool = False,
        store_id: bytes | None = None,
    ) -> SealedStore:
        """Use a store that is there.

        Args:
            engine: where it lies.
            sealer: of the provider and trust domain that made it.
            anchor: what notices that all of it was put back; none by default, which
                ``freshness`` then says.
            adopt: whether the anchor may begin with what is found, where it never saw
                this store; it then cannot say whether that is the newest.
            store_id: the id expected; any by default, so that another store of the same
                provider goes unnoticed unless the anchor knows this one.

        Raises:
            ServiceError: ``state_missing``; ``state_schema_unsupported``, where it must
                be migrated or is newer; ``state_tampered``; ``state_rolled_back``.
        """
        anchor = NoAnchor() if anchor is None else anchor
        found = engine.schema()
        if found == 0:
            raise ServiceError(Code.STATE_MISSING, f"{engine.name}: there is no state")
        if found != SCHEMA:
            detail = f"{engine.name}: schema {found}, expected {SCHEMA}"
            raise ServiceError(Code.STATE_SCHEMA_UNSUPPORTED, detail)
        with engine.read() as view:
            body, head = open_head(view.fetch(Wanted()).head, sealer)
        if store_id is not None and head.store_id != store_id:
            raise tampered("this is another store than the one expected")
        known = anchor.latest(head.store_id)
        if known is None and anchor.anchor_class is not AnchorClass.NONE and not adopt:
            raise rolled_back("the anchor never saw this store")
        store = cls(engine, sealer, anchor=anchor, body=body, head=head)
        with store._looking() as work:
            if known is None:
                anchor.adopt(work.head)
            else:
                store._settle(work)
        return store

    def create(
        self,
        kind: str,
        name: str,
        value: bytes,
        *,
        now: int,
        expires_at: int | None = None,
    ) -> int:
        """As of ``StateStore``."""
        return self.batch((Create(kind, name, value, expires_at),), now=now)

    def open(self, kind: str, name: str, *, now: int) -> Record:
        """As of ``StateStore``."""
        check_kind(kind)
        check_name(name)
        key = (kind, self._sealer.index(kind, name))
        with self._looking((key,)) as work:
            row = work.live(key)
            if row is None or is_expired(row, now):
                why = "there is none" if row is None else "it expired"
                raise ServiceError(Code.STATE_MISSING, f"{kind} {name!r}: {why}")
            return self._record(work.head.store_id, row)

    def replace(
        self,
        kind: str,
        name: str,
        value: bytes,
        *,
        expected: int,
        now: int,
        expires_at: int | None = None,
    ) -> int:
        """As of ``StateStore``."""
        return self.batch((Replace(kind, name, value, expected, expires_at),), now=now)

    def delete(self, kind: str, name: str, *, expected: int, now: int) -> None:
        """As of ``StateStore``."""
        self.batch((Delete(kind, name, expected),), now=now)

    def batch(self, changes: Sequence[Change], *, now: int) -> int:
        """As of ``StateStore``.

        Threads that wait while another one commits share the next commit.
        """
        mine = _Pending(check_changes(changes), now)
        self._waiting.append(mine)
        with self._writing:
            while not mine.done:
                self._commit(self._group())
        if mine.error is not None:
            raise mine.error
        return mine.version

    def scan(self, kind: str, *, now: int) -> tuple[Record, ...]:
        """As of ``StateStore``. Reads the kind whole and rebuilds its map."""
        check_kind(kind)
        with self._looking() as work:
            held = work.body.kinds.get(kind)
            with_rows = {row.index: row for row in work.rows_of(kind)}
            store_id = work.head.store_id
        built = build_root(
            kind, (Leaf(i, leaf_digest(row)) for i, row in with_rows.items())
        )
        built.finish()
        if built.root != (None if held is None else held.digest):
            raise tampered(f"{kind}: the records are not those of the map")
        live = (r for r in with_rows.values() if not is_expired(r, now))
        records = (self._record(store_id, row) for row in live)
        return tuple(sorted(records, key=lambda record: record.name))

    def purge(self, *, now: int, limit: int = MAX_BATCH) -> int:
        """As of ``StateStore``. What the host hides stays, and stays expired."""
        with self._engine.read() as view:
            due = view.expired(now=now, limit=min(limit, MAX_BATCH))
        if not due:
            return 0

        def drop(work: Work) -> int:
            rows = [(key, work.live(key)) for key in dict.fromkeys(due)]
            gone = [
                key for key, row in rows if row is not None and is_expired(row, now)
            ]
            if gone:
                work.drop(gone)
            return len(gone)

        with self._writing:
            return self._write(due, drop)

    def freshness(self) -> Freshness:
        """As of ``StateStore``."""
        kind = self._anchor.anchor_class
        with self._seen_lock:
            return Freshness(kind, self._seen, kind.not_noticed)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _record(self, store_id: bytes, row: Row) -> Record:
        name, value = self._sealer.open_record(store_id, row)
        return Record(row.kind, name, value, row.version, row.expires_at)

    def _group(self) -> list[_Pending]:
        """The batches of the next commit, oldest first."""
        group: list[_Pending] = []
        size = 0
        while self._waiting and len(group) < MAX_GROUP and size < _MAX_GROUP_CHANGES:
            group.append(self._waiting.popleft())
            size += len(group[-1].changes)
        return group

    def _commit(self, group: Sequence[_Pending]) -> None:
        """Apply batches in one commit; each learns what became of it."""
        keys = [
            (change.kind, self._sealer.index(change.kind, change.name))
            for pending in group
            for change in pending.changes
        ]

        def apply(work: Work) -> None:
            for pending in group:
                try:
                    pending.version = work.apply(pending.changes, now=pending.now)
                except ServiceError as e:
                    if e.code not in _OWN_FAULT:
                        raise
                    pending.error = e

        fault: TightsealError = ServiceError(Code.STATE_UNAVAILABLE, "interrupted")
        try:
            self._write(keys, apply)
        except TightsealError as e:
            fault = e
        else:
            for pending in group:
                pending.done = True
        finally:
            # Whatever ended the commit, nobody may wait for it or take it as done.
            for pending in group:
                if not pending.done:
                    pending.error, pending.done = fault, True

    def _write(self, keys: Iterable[Key], use: Callable[[Work], _T]) -> _T:
        seen = self._floors()
        with self._engine.write() as writer:
            work = Work(writer, self._sealer, keys=keys, hints=self._hints, seen=seen)
            result = use(work)
            if not work.changed:
                body, head = work.body, work.head
            else:
                self._settle(work)
                changes, body, head = work.finish()
                writer.apply(changes)
        self._note(body, head)
        if work.changed:
            self._anchor.advance(head, previous=work.head.digest)
        return result

    def _settle(self, work: Work) -> None:
        """Anchor what is about to be built on: a crash may have come in between."""
        if self._anchor.latest(work.head.store_id) not in (None, work.head):
            self._anchor.advance(work.head, previous=work.body.previous)

    @contextmanager
    def _looking(self, keys: Iterable[Key] = ()) -> Iterator[Work]:
        seen = self._floors()
        with self._engine.read() as view:
            work = Work(view, self._sealer, keys=keys, hints=self._hints, seen=seen)
            self._note(work.body, work.head)
            yield work

    def _floors(self) -> tuple[Head | None, ...]:
        """What the next head must not be older than; asked before it is read."""
        with self._seen_lock:
            seen = self._seen
        return seen, self._anchor.latest(seen.store_id)

    def _note(self, body: HeadBody, head: Head) -> None:
        with self._seen_lock:
            if head.counter > self._seen.counter:
                self._seen = head
                self._hints = {k: root.count for k, root in body.kinds.items()}
