# SPDX-License-Identifier: Apache-2.0
"""A store goes under another key whole or not at all, and nothing in it changes."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_places import KEY, MemoryPlace, Place, PostgresPlace, SqlitePlace, sealer

from tightseal.errors import Code, ServiceError
from tightseal.model.state import Create, Delete, Record, Replace
from tightseal.state.anchors import MemoryAnchor
from tightseal.state.check import check
from tightseal.state.memory import MemoryEngine
from tightseal.state.reseal import opens, reseal
from tightseal.state.rows import PAGE_ROWS, Changes, Engine, Wanted, Writer
from tightseal.state.store import SealedStore

NOW = 1_800_000_000
OTHER = bytes(range(1, 33))
KINDS = ("action", "usage", "wrapped-0")


def everything(store: SealedStore) -> tuple[Record, ...]:
    return tuple(r for kind in KINDS for r in store.scan(kind, now=NOW))


def filled(place: Place, count: int = 40) -> SealedStore:
    store = place.new()
    for kind in KINDS:
        for start in range(0, count, 100):
            names = range(start, min(start + 100, count))
            store.batch([Create(kind, f"n{n}", b"v%d" % n) for n in names], now=NOW)
    store.create("usage", "short", b"lived", now=NOW, expires_at=NOW + 5)
    return store


def moved(place: Place) -> SealedStore:
    return SealedStore.attach(place.engine(), sealer(OTHER))


def move(place: Place, engine: Engine | None = None) -> None:
    engine = place.engine() if engine is None else engine
    reseal(engine, before=sealer(), after=sealer(OTHER))


def test_all_of_it_is_under_the_other_key_and_nothing_changed(place: Place) -> None:
    store = filled(place)
    records, before = everything(store), store.freshness().head
    move(place)
    again = moved(place)
    after = again.freshness().head
    assert everything(again) == records
    assert (after.store_id, after.counter) == (before.store_id, before.counter + 1)
    assert check(place.engine(), sealer(OTHER)).head == after
    assert opens(place.engine(), sealer(OTHER))
    assert not opens(place.engine(), sealer())
    with pytest.raises(ServiceError) as raised:
        place.attach()
    assert raised.value.code is Code.STATE_TAMPERED
    # What the old key wrote stands nowhere any more.
    tables = place.dump()
    assert len(tables.record) == len(records)
    assert len({index for _, index in tables.record}) == len(records)


def test_more_records_than_a_page(place: Place) -> None:
    store = filled(place, 2 * PAGE_ROWS + 7)
    records = everything(store)
    move(place)
    assert everything(moved(place)) == records
    assert check(place.engine(), sealer(OTHER)).head is not None


def test_versions_go_on_after_it(place: Place) -> None:
    store = filled(place)
    held = store.open("usage", "n3", now=NOW)
    move(place)
    again = moved(place)
    newer = again.replace("usage", "n3", b"w", expected=held.version, now=NOW)
    assert newer > again.freshness().head.counter - 1 > held.version
    again.delete("usage", "n3", expected=newer, now=NOW)
    assert again.purge(now=NOW + 5) == 1


def test_empty_store(place: Place) -> None:
    place.new()
    move(place)
    assert everything(moved(place)) == ()


def test_there_and_back_is_the_same_store(place: Place) -> None:
    store = filled(place)
    records = everything(store)
    move(place)
    reseal(place.engine(), before=sealer(OTHER), after=sealer())
    assert everything(place.attach()) == records


def test_a_store_that_is_still_attached_writes_nothing_more(place: Place) -> None:
    store = filled(place)
    move(place)
    for act in (
        lambda: store.create("usage", "late", b"x", now=NOW),
        lambda: store.open("usage", "n1", now=NOW),
    ):
        with pytest.raises(ServiceError) as raised:
            act()
        assert raised.value.code is Code.STATE_TAMPERED
    assert "late" not in {r.name for r in everything(moved(place))}


@pytest.mark.parametrize("defect", ["dropped", "changed", "older", "foreign", "head"])
def test_what_the_host_did_is_refused_and_nothing_moves(
    place: Place, defect: str
) -> None:
    store = filled(place)
    held = store.open("usage", "n3", now=NOW)
    old = place.dump()
    store.replace("usage", "n3", b"new", expected=held.version, now=NOW)
    tables = place.dump()
    key = ("usage", sealer().index("usage", "n3"))
    if defect == "dropped":
        del tables.record[key]
    elif defect == "changed":
        row = tables.record[key]
        tables.record[key] = replace(row, sealed=row.sealed[:-1] + b"\0")
    elif defect == "older":
        tables.record[key] = old.record[key]
    elif defect == "foreign":
        assert tables.head is not None
        sealed = sealer().seal_record(
            tables.head.store_id,
            kind="usage",
            name="planted",
            value=b"",
            version=1,
            expires_at=None,
        )
        tables.record["usage", sealed.index] = sealed
    else:
        tables.head = old.head
    place.load(tables)
    with pytest.raises(ServiceError) as raised:
        move(place)
    assert raised.value.code is Code.STATE_TAMPERED
    assert place.dump() == tables


def test_another_key_than_the_stores_is_refused(place: Place) -> None:
    filled(place)
    there = place.dump()
    with pytest.raises(ServiceError) as raised:
        reseal(place.engine(), before=sealer(OTHER), after=sealer(KEY))
    assert raised.value.code is Code.STATE_TAMPERED
    assert place.dump() == there


def test_no_store_is_missing(place: Place) -> None:
    assert not opens(place.engine(), sealer())
    with pytest.raises(ServiceError) as raised:
        move(place)
    assert raised.value.code is Code.STATE_MISSING


def test_an_anchor_takes_it_as_the_next_state(place: Place) -> None:
    anchor = MemoryAnchor()
    engine = place.engine()
    store = SealedStore.new(engine, sealer(), anchor=anchor)
    store.create("usage", "one", b"1", now=NOW)
    old = place.dump()
    reseal(engine, before=sealer(), after=sealer(OTHER), anchor=anchor)
    SealedStore.attach(engine, sealer(OTHER), anchor=anchor)
    place.load(old)
    with pytest.raises(ServiceError) as raised:
        SealedStore.attach(engine, sealer(), anchor=anchor)
    assert raised.value.code is Code.STATE_ROLLED_BACK
    with pytest.raises(ServiceError) as raised:
        reseal(engine, before=sealer(), after=sealer(OTHER), anchor=anchor)
    assert raised.value.code is Code.STATE_ROLLED_BACK


def test_a_crash_before_the_anchor_was_told_is_made_up_for(place: Place) -> None:
    class Slow(MemoryAnchor):
        def advance(self, *_: object, **__: object) -> None:
            raise ServiceError(Code.STATE_UNAVAILABLE, "gone")

    anchor, engine = Slow(), place.engine()
    SealedStore.new(engine, sealer(), anchor=anchor)
    with pytest.raises(ServiceError):
        reseal(engine, before=sealer(), after=sealer(OTHER), anchor=anchor)
    working = MemoryAnchor()
    working._heads = anchor._heads
    store = SealedStore.attach(engine, sealer(OTHER), anchor=working)
    latest = working.latest(store.freshness().head.store_id)
    assert latest == store.freshness().head


# -- faults ------------------------------------------------------------------------


class DiedError(BaseException):
    """The process ended here."""


class Dying:
    """An engine whose process ends at one call; counts the calls."""

    def __init__(self, inner: Engine, at: int = -1, error: type = DiedError) -> None:
        self.inner = inner
        self.at = at
        self.calls = 0
        self.error = error

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def hit(self) -> None:
        self.calls += 1
        if self.calls - 1 == self.at:
            raise self.error

    @contextmanager
    def rewrite(self) -> Iterator["_DyingWriter"]:
        with self.inner.rewrite() as writer:
            self.hit()
            yield _DyingWriter(writer, self)
            self.hit()
        self.hit()


class _DyingWriter:
    def __init__(self, inner: Writer, engine: Dying) -> None:
        self.inner = inner
        self.engine = engine

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def apply(self, changes: Changes) -> None:
        self.engine.hit()
        self.inner.apply(changes)
        self.engine.hit()


@pytest.mark.parametrize("error", [DiedError, OSError, sqlite3.Error])
def test_a_fault_at_each_write_leaves_the_old_store_or_the_new(
    place: Place, error: type[BaseException]
) -> None:
    records = everything(filled(place))
    begun = place.dump()
    quiet = Dying(place.engine())
    move(place, quiet)  # type: ignore[arg-type]
    total, sides = quiet.calls, set()
    assert total > 10
    for at in range(total):
        place.load(begun)
        with pytest.raises((DiedError, OSError, sqlite3.Error, ServiceError)):
            move(place, Dying(place.engine(), at, error))  # type: ignore[arg-type]
        new = opens(place.engine(), sealer(OTHER))
        assert new is not opens(place.engine(), sealer())
        store = moved(place) if new else place.attach()
        assert everything(store) == records
        assert check(place.engine(), sealer(OTHER) if new else sealer()).head
        sides.add(new)
    assert sides == {False, True}


def test_a_process_that_is_killed_leaves_the_old_store_or_the_new(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A real process and a real file: the log is there for the next one to read."""
    sides = set()
    for at in (0, 3, 8, -2, -1):
        place = SqlitePlace(tmp_path_factory.mktemp("killed") / "state.db")
        records = everything(filled(place, PAGE_ROWS))
        place.close()
        quiet = Dying(MemoryEngine())
        counted = MemoryPlace()
        counted._shared = quiet.inner  # type: ignore[assignment]
        filled(counted, PAGE_ROWS)
        move(counted, quiet)  # type: ignore[arg-type]
        child = os.fork()
        if child == 0:
            try:
                dying = Dying(place._engine(), at % quiet.calls)
                move(place, dying)  # type: ignore[arg-type]
            finally:
                # No clean-up of any library runs, as after a kill.
                os._exit(9)
        os.waitpid(child, 0)
        new = opens(place.engine(), sealer(OTHER))
        assert everything(moved(place) if new else place.attach()) == records
        sides.add(new)
        place.close()
    assert sides == {False, True}


def test_the_file_is_not_held_in_memory(tmp_path: Path) -> None:
    place = SqlitePlace(tmp_path / "state.db")
    filled(place, 10)
    with place.engine().rewrite() as writer:
        connection = writer.connection  # type: ignore[attr-defined]
        assert connection.execute("PRAGMA cache_spill").fetchone()[0] > 0
    with place.engine().write() as writer:
        connection = writer.connection  # type: ignore[attr-defined]
        assert connection.execute("PRAGMA cache_spill").fetchone()[0] == 0


def test_listing_while_writing_gives_each_old_row_once(place: Place) -> None:
    filled(place, PAGE_ROWS + 20)
    with place.engine().rewrite() as writer:
        head = writer.fetch(Wanted()).head
        assert head is not None
        seen = []
        for row in writer.records("usage"):
            if row.version == 0:
                continue
            seen.append(row.index)
            fresh = replace(row, index=os.urandom(32), version=0)
            gone = {(row.kind, row.index): None, (fresh.kind, fresh.index): fresh}
            writer.apply(Changes(head, gone))
    assert len(seen) == len(set(seen)) == PAGE_ROWS + 21


def test_sessions_of_a_database_are_seen(place: Place) -> None:
    if not isinstance(place, PostgresPlace):
        assert place.engine().others() == 0
        return
    looking = place.engine()
    alone = looking.others()
    filled(place)
    assert looking.others() == alone + 1


names = st.text("ab1", min_size=1, max_size=4)
steps = st.lists(
    st.tuples(st.sampled_from(KINDS), names, st.binary(max_size=20)), max_size=30
)


@given(steps, st.data())
@settings(max_examples=60, deadline=None)
def test_law_no_history_is_changed_by_it(
    history: list[tuple[str, str, bytes]], data: st.DataObject
) -> None:
    place = MemoryPlace()
    store = place.new()
    place.attach()
    for kind, name, value in history:
        _step(store, kind, name, value)
    records = everything(store)
    move(place)
    again = moved(place)
    assert everything(again) == records
    for record in records:
        found = again.open(record.kind, record.name, now=NOW)
        assert found == record
        if data.draw(st.booleans()):
            change: Replace | Delete = Delete(
                record.kind, record.name, expected=record.version
            )
            again.batch([change], now=NOW)
    assert check(place.engine(), sealer(OTHER)).head is not None


def _step(store: SealedStore, kind: str, name: str, value: bytes) -> None:
    try:
        version = store.open(kind, name, now=NOW).version
    except ServiceError:
        store.create(kind, name, value, now=NOW)
        return
    if value:
        store.replace(kind, name, value, expected=version, now=NOW)
    else:
        store.delete(kind, name, expected=version, now=NOW)
