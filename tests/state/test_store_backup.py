# SPDX-License-Identifier: Apache-2.0
"""Backups, restoring, checks without the key, and migrations."""

import io
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_places import MemoryPlace, Place, SqlitePlace, sealer

from tightseal.errors import Code, ServiceError
from tightseal.model.canonical import encode
from tightseal.model.state import Create
from tightseal.state import sqlite_schema
from tightseal.state.anchors import MemoryAnchor
from tightseal.state.backup import MAGIC, backup, restore
from tightseal.state.check import UNSEALED_NOTICE, check
from tightseal.state.heads import open_head, read_head
from tightseal.state.migrate import migrate
from tightseal.state.rows import SCHEMA, Changes, HeadRow
from tightseal.state.sqlite import SqliteEngine
from tightseal.state.store import SealedStore

NOW = 1_795_000_000


def filled(place: Place, records: int = 30) -> SealedStore:
    store = place.new()
    store.batch([Create("usage", f"n{i}", b"v") for i in range(records)], now=NOW)
    store.create("grant", "g", b"w", now=NOW, expires_at=NOW + 5)
    return store


def copied(place: Place) -> bytes:
    out = io.BytesIO()
    backup(place.engine(), out)
    return out.getvalue()


@pytest.mark.parametrize("with_key", [True, False])
def test_what_was_backed_up_is_restored(place: Place, with_key: bool) -> None:  # noqa: FBT001
    store = filled(MemoryPlace())
    source = io.BytesIO()
    assert backup(store._engine, source) == 31
    source.seek(0)
    report = restore(place.engine(), source, sealer() if with_key else None)
    assert (report.head is not None) is with_key
    assert [(k.kind, k.records) for k in report.kinds] == [("grant", 1), ("usage", 30)]
    again = place.attach()
    assert again.freshness().head == store.freshness().head
    assert again.scan("usage", now=NOW) == store.scan("usage", now=NOW)
    assert again.create("usage", "new", b"", now=NOW) > 0
    check(place.engine(), sealer())


def test_a_backup_of_each_engine_restores_into_memory(place: Place) -> None:
    filled(place)
    other = MemoryPlace()
    restore(other.engine(), io.BytesIO(copied(place)), sealer())
    assert other.dump() == place.dump()


def test_a_backup_is_of_one_moment_while_others_write(place: Place) -> None:
    store = filled(place)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            store.create("busy", str(number), b"", now=NOW)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = []
        for _ in range(5):
            before = store.freshness().head.counter
            while store.freshness().head.counter == before:
                time.sleep(0.001)
            copies.append(copied(place))
    finally:
        stop.set()
        writer.join()
    counters = []
    for copy in copies:
        report = restore(MemoryPlace().engine(), io.BytesIO(copy), sealer())
        assert report.head is not None
        counters.append(report.head.counter)
    assert counters == sorted(counters)
    assert len(set(counters)) == len(counters)


def test_restoring_over_a_store_is_refused(place: Place) -> None:
    filled(place)
    before = place.dump()
    with pytest.raises(ServiceError) as refused:
        restore(place.engine(), io.BytesIO(copied(place)), sealer())
    assert refused.value.code is Code.STATE_EXISTS
    assert place.dump() == before


def test_nothing_to_back_up_is_missing(place: Place) -> None:
    with pytest.raises(ServiceError) as refused:
        backup(place.engine(), io.BytesIO())
    assert refused.value.code is Code.STATE_MISSING


@pytest.mark.parametrize("with_key", [True, False])
def test_a_cut_backup_restores_nothing(with_key: bool) -> None:  # noqa: FBT001
    source = MemoryPlace()
    filled(source, 3)
    whole = copied(source)
    for length in range(0, len(whole), 7):
        place = MemoryPlace()
        with pytest.raises(ServiceError) as refused:
            restore(
                place.engine(),
                io.BytesIO(whole[:length]),
                sealer() if with_key else None,
            )
        assert refused.value.code is Code.STATE_TAMPERED
        assert place.engine().schema() == 0
    with pytest.raises(ServiceError) as longer:
        restore(MemoryPlace().engine(), io.BytesIO(whole + b"\x00"), sealer())
    assert longer.value.code is Code.STATE_TAMPERED


@given(st.data())
def test_a_changed_backup_restores_nothing(data: st.DataObject) -> None:
    source = MemoryPlace()
    filled(source, 2)
    changed = bytearray(copied(source))
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    place = MemoryPlace()
    with pytest.raises(ServiceError) as refused:
        restore(place.engine(), io.BytesIO(bytes(changed)), None)
    allowed = {Code.STATE_TAMPERED, Code.STATE_SCHEMA_UNSUPPORTED}
    assert refused.value.code in allowed
    assert place.engine().schema() == 0


@given(st.binary(max_size=200))
def test_what_is_no_backup_is_refused(data: bytes) -> None:
    for text in (data, MAGIC + data):
        with pytest.raises(ServiceError) as refused:
            restore(MemoryPlace().engine(), io.BytesIO(text), None)
        assert refused.value.code in {
            Code.STATE_TAMPERED,
            Code.STATE_SCHEMA_UNSUPPORTED,
        }


def test_a_backup_made_up_by_the_host_is_noticed_with_the_key() -> None:
    """Records left out, with a fresh hash over the rest."""
    source = MemoryPlace()
    filled(source)
    tables = source.dump()
    del tables.record[max(tables.record)]
    source.load(tables)
    forged = copied(source)
    with pytest.raises(ServiceError) as noticed:
        restore(MemoryPlace().engine(), io.BytesIO(forged), sealer())
    assert noticed.value.code is Code.STATE_TAMPERED
    place = MemoryPlace()
    restore(place.engine(), io.BytesIO(forged), None)
    with pytest.raises(ServiceError) as later:
        place.attach().scan("usage", now=NOW)
    assert later.value.code is Code.STATE_TAMPERED


def test_an_older_backup_is_noticed_by_the_anchor_alone(place: Place) -> None:
    anchor = MemoryAnchor()
    source = MemoryPlace()
    store = SealedStore.new(source.engine(), sealer(), anchor=anchor)
    copy = copied(source)
    store.create("usage", "a", b"", now=NOW)
    restore(place.engine(), io.BytesIO(copy), sealer())
    place.attach()
    with pytest.raises(ServiceError) as noticed:
        SealedStore.attach(place.engine(), sealer(), anchor=anchor)
    assert noticed.value.code is Code.STATE_ROLLED_BACK


def test_a_backup_of_another_schema_is_refused(place: Place) -> None:
    out = io.BytesIO()
    out.write(MAGIC)
    frame = encode([SCHEMA + 1, bytes(16), b"sealed"])
    out.write(len(frame).to_bytes(4, "big") + frame)
    source = MemoryPlace()
    filled(source)
    tables = source.dump()
    assert tables.head is not None
    tables.head = replace(tables.head, schema=SCHEMA + 1)
    source.load(tables)
    with pytest.raises(ServiceError) as refused:
        restore(place.engine(), io.BytesIO(copied(source)), None)
    assert refused.value.code is Code.STATE_SCHEMA_UNSUPPORTED


def test_a_check_without_the_key_says_what_it_cannot_notice(place: Place) -> None:
    filled(place)
    report = check(place.engine(), None)
    assert (report.head, report.not_noticed) == (None, UNSEALED_NOTICE)
    verified = check(place.engine(), sealer())
    assert verified.head == place.attach().freshness().head
    assert verified.kinds == report.kinds


def old_file(path: Path) -> SealedStore:
    """A file of schema 1, as a version before the index of expiry made it."""
    memory = MemoryPlace()
    store = filled(memory)
    tables = memory.dump()
    assert tables.head is not None
    body, _ = open_head(tables.head, sealer())
    sealed = sealer().seal_head(
        tables.head.store_id, replace(body, schema=1).as_value()
    )
    tables.head = HeadRow(tables.head.store_id, 1, sealed)
    connection = sqlite3.connect(path, isolation_level=None)
    sqlite_schema.upgrade(connection, found=0, to=1)
    connection.close()
    SqlitePlace(path).load(tables)
    return store


def test_an_older_store_is_migrated_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    before = old_file(path)
    place = SqlitePlace(path)
    for use in (place.attach, lambda: check(place.engine(), sealer())):
        with pytest.raises(ServiceError) as refused:
            use()
        assert refused.value.code is Code.STATE_SCHEMA_UNSUPPORTED
    steps = migrate(place.engine(), sealer())
    assert steps == (sqlite_schema.STEPS[1][0],)
    anchor = MemoryAnchor()
    anchor.adopt(before.freshness().head)
    after = SealedStore.attach(place.engine(), sealer(), anchor=anchor)
    assert after.scan("usage", now=NOW) == before.scan("usage", now=NOW)
    assert migrate(place.engine(), sealer()) == ()
    check(place.engine(), sealer())


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    old_file(path)
    place = SqlitePlace(path)
    before = place.dump()
    with pytest.raises(ServiceError) as refused:
        migrate(place.engine(), sealer(b"\x07" * 32))
    assert refused.value.code is Code.STATE_TAMPERED
    assert place.dump() == before
    migrate(place.engine(), sealer())
    place.attach()


def test_a_newer_schema_is_refused_by_every_command(place: Place) -> None:
    filled(place)
    tables = place.dump()
    assert tables.head is not None
    body = replace(read_head(tables.head, sealer()), schema=SCHEMA + 1)
    sealed = sealer().seal_head(tables.head.store_id, body.as_value())
    tables.head = HeadRow(tables.head.store_id, SCHEMA + 1, sealed)
    place.load(tables)
    if isinstance(place, SqlitePlace):
        connection = sqlite3.connect(place.path)
        connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
        connection.close()
    for use in (place.attach, lambda: check(place.engine(), sealer())):
        with pytest.raises(ServiceError) as refused:
            use()
        assert refused.value.code is Code.STATE_SCHEMA_UNSUPPORTED
    if not isinstance(place, MemoryPlace):
        with pytest.raises(ServiceError) as kept:
            migrate(place.engine(), sealer())
        assert kept.value.code is Code.STATE_SCHEMA_UNSUPPORTED


def test_nothing_to_migrate_is_missing(place: Place) -> None:
    with pytest.raises(ServiceError) as refused:
        migrate(place.engine(), sealer())
    assert refused.value.code is Code.STATE_MISSING


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON record BEGIN DELETE FROM node; END",
        "CREATE TABLE extra (a)",
        "CREATE VIEW v AS SELECT * FROM record",
        "DROP INDEX record_by_expiry",
        "PRAGMA user_version = 1",
        "PRAGMA user_version = 0",
        "PRAGMA application_id = 7",
    ],
)
def test_tables_that_the_host_changed_are_refused(
    tmp_path: Path, statement: str
) -> None:
    place = SqlitePlace(tmp_path / "state.db")
    filled(place).close()
    connection = sqlite3.connect(place.path)
    connection.execute(statement)
    connection.close()
    with pytest.raises(ServiceError) as refused:
        place.attach()
    assert refused.value.code is Code.STATE_TAMPERED


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database, but long enough to have a header" * 50)
    for use in (SqlitePlace(path).attach, SqlitePlace(path).new):
        with pytest.raises(ServiceError) as refused:
            use()
        assert refused.value.code is Code.STATE_UNAVAILABLE


def test_a_file_without_shared_memory_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    engine = SqliteEngine(path, shared_memory=False)
    store = SealedStore.new(engine, sealer())
    store.create("usage", "a", b"", now=NOW)
    again = SealedStore.attach(SqliteEngine(path), sealer())
    again.create("usage", "b", b"", now=NOW)
    assert [r.name for r in store.scan("usage", now=NOW)] == ["a", "b"]
    assert not path.with_name("state.db-wal").exists()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_memory_engine_prepares_once() -> None:
    engine = MemoryPlace().engine()
    row = HeadRow(bytes(16), SCHEMA, b"")
    engine.prepare(Changes(row))
    with pytest.raises(ServiceError) as refused:
        engine.prepare(Changes(row))
    assert refused.value.code is Code.STATE_EXISTS
