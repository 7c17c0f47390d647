# SPDX-License-Identifier: Apache-2.0
"""What is each engine's own: plans, malformed rows, connections that fail."""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from store_places import MemoryPlace, PostgresPlace, SqlitePlace, sealer
from store_postgres import Server

from tightseal.errors import Code, ServiceError
from tightseal.model.state import Create
from tightseal.state import postgres_sql as sql
from tightseal.state.heads import read_head
from tightseal.state.migrate import migrate
from tightseal.state.postgres import PostgresEngine
from tightseal.state.rows import (
    COUNTER_MAX,
    MAX_NODE_BYTES,
    MAX_SEALED_BYTES,
    head_row,
    node_body,
    node_row,
    record_key,
    record_row,
)
from tightseal.state.store import SealedStore

NOW = 1_795_000_000
KEY = b"k" * 32

MALFORMED: dict[str, Callable[[], object]] = {
    "head id short": lambda: head_row(bytes(15), 1, b""),
    "head id text": lambda: head_row("0" * 16, 1, b""),
    "head schema text": lambda: head_row(bytes(16), "1", b""),
    "head schema negative": lambda: head_row(bytes(16), -1, b""),
    "head sealed null": lambda: head_row(bytes(16), 1, None),
    "head sealed long": lambda: head_row(bytes(16), 1, bytes(MAX_SEALED_BYTES + 1)),
    "kind bytes": lambda: record_row(b"usage", KEY, 1, None, b""),
    "index short": lambda: record_row("usage", KEY[1:], 1, None, b""),
    "index null": lambda: record_key("usage", None),
    "version real": lambda: record_row("usage", KEY, 1.0, None, b""),
    "version huge": lambda: record_row("usage", KEY, COUNTER_MAX + 1, None, b""),
    "expiry text": lambda: record_row("usage", KEY, 1, "never", b""),
    "expiry negative": lambda: record_row("usage", KEY, 1, -1, b""),
    "sealed text": lambda: record_row("usage", KEY, 1, None, "sealed"),
    "sealed long": lambda: record_row(
        "usage", KEY, 1, None, bytes(MAX_SEALED_BYTES + 1)
    ),
    "node null": lambda: node_body(None),
    "node long": lambda: node_body(bytes(MAX_NODE_BYTES + 1)),
    "node prefix null": lambda: node_row("usage", None, b""),
}


@pytest.mark.parametrize("defect", MALFORMED)
def test_malformed_rows_are_noticed(defect: str) -> None:
    with pytest.raises(ServiceError) as noticed:
        MALFORMED[defect]()
    assert noticed.value.code is Code.STATE_TAMPERED


def execute(dsn: str, *statements: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


HEAD_TWO = (
    "INSERT INTO tightseal_head SELECT 1, store_id, schema, sealed FROM tightseal_head"
)
HEAD_ONE = "ALTER TABLE tightseal_head DROP CONSTRAINT tightseal_head_one_check"


@pytest.mark.parametrize(
    ("statements", "code"),
    [
        (
            ["ALTER TABLE tightseal_record ALTER version TYPE text"],
            Code.STATE_TAMPERED,
        ),
        (
            ["ALTER TABLE tightseal_record ALTER sealed TYPE text USING 'x'"],
            Code.STATE_TAMPERED,
        ),
        (["ALTER TABLE tightseal_node ALTER body TYPE text"], Code.STATE_TAMPERED),
        (
            [
                HEAD_ONE,
                HEAD_TWO,
            ],
            Code.STATE_TAMPERED,
        ),
        (["DROP TABLE tightseal_record"], Code.STATE_UNAVAILABLE),
        (["DROP TABLE tightseal_head"], Code.STATE_MISSING),
    ],
)
def test_tables_that_the_database_changed_give_no_record(
    postgres: Server, statements: list[str], code: Code
) -> None:
    place = PostgresPlace(postgres.new_address())
    place.new().create("usage", "a", b"", now=NOW)
    execute(place.dsn, *statements)
    with pytest.raises(ServiceError) as noticed:
        place.attach().open("usage", "a", now=NOW)
    assert noticed.value.code is code
    place.close()


def test_older_tables_are_migrated_in_one_transaction(postgres: Server) -> None:
    memory = MemoryPlace()
    before = memory.new()
    before.create("usage", "a", b"1", now=NOW, expires_at=NOW + 1)
    tables = memory.dump()
    assert tables.head is not None
    body = replace(read_head(tables.head, sealer()), schema=1)
    sealed = sealer().seal_head(tables.head.store_id, body.as_value())
    tables.head = replace(tables.head, schema=1, sealed=sealed)
    place = PostgresPlace(postgres.new_address())
    execute(place.dsn, *sql.STEPS[0][1])
    place.load(tables)
    with pytest.raises(ServiceError) as old:
        place.attach()
    assert old.value.code is Code.STATE_SCHEMA_UNSUPPORTED
    with pytest.raises(ServiceError) as refused:
        migrate(place.engine(), sealer(b"\x07" * 32))
    assert refused.value.code is Code.STATE_TAMPERED
    assert place.dump() == tables
    assert migrate(place.engine(), sealer()) == (sql.STEPS[1][0],)
    assert migrate(place.engine(), sealer()) == ()
    after = place.attach()
    assert after.freshness().head == before.freshness().head
    assert after.scan("usage", now=NOW) == before.scan("usage", now=NOW)
    assert after.purge(now=NOW + 1) == 1
    place.close()


def test_a_trigger_that_loses_a_write_is_noticed(postgres: Server) -> None:
    place = PostgresPlace(postgres.new_address())
    store = place.new()
    store.create("usage", "a", b"", now=NOW)
    execute(
        place.dsn,
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER lose BEFORE INSERT ON tightseal_record "
        "FOR EACH ROW EXECUTE FUNCTION lose()",
    )
    store.create("usage", "b", b"", now=NOW)
    with pytest.raises(ServiceError) as noticed:
        store.open("usage", "b", now=NOW)
    assert noticed.value.code is Code.STATE_TAMPERED
    place.close()


def test_no_statement_reads_a_table_whole(postgres: Server) -> None:
    """Before it was analysed, too: a write must not cost what the table holds."""
    engine = PostgresEngine(postgres.new_address())
    store = SealedStore.new(engine, sealer())
    for part in range(10):
        names = [f"{part}-{i}" for i in range(200)]
        store.batch([Create("usage", n, b"") for n in names], now=NOW)
    kinds, keys = ["usage"] * 3, [bytes([i]) * 32 for i in range(3)]
    plans = {
        sql.RECORDS: (kinds, keys),
        sql.NODES: (kinds, keys),
        sql.DELETE_RECORDS: (kinds, keys),
        sql.DELETE_NODES: (kinds, keys),
        sql.RECORDS_PAGE: ("usage", keys[0], 10),
        sql.KIND_PAGE: ("usage", keys[0], 10),
        sql.NODES_PAGE: ("usage", keys[0], 10),
        sql.EXPIRED: (NOW, 10),
    }

    async def explain() -> dict[str, str]:
        connection = await engine.acquire()
        try:
            return {
                statement: "\n".join(
                    row[0]
                    for row in await connection.fetch(f"EXPLAIN {statement}", *values)
                )
                for statement, values in plans.items()
            }
        finally:
            await engine.release(connection)

    for statement, plan in engine.run(explain()).items():
        assert "Seq Scan" not in plan, f"{statement}\n{plan}"
    engine.close()


@pytest.mark.parametrize(
    ("dsn", "code"),
    [
        ("postgresql://user@/db?host=/nowhere/at/all", Code.STATE_UNAVAILABLE),
        ("postgresql://user@127.0.0.1:1/db", Code.STATE_UNAVAILABLE),
        ("postgresql://user@127.0.0.1:notaport/db", Code.SETTINGS_INVALID),
        ("postgresql://[::1/db", Code.SETTINGS_INVALID),
    ],
)
def test_a_database_that_cannot_be_reached(dsn: str, code: Code) -> None:
    with pytest.raises(ServiceError) as refused:
        SealedStore.attach(PostgresEngine(dsn), sealer())
    assert refused.value.code is code


def test_a_connection_that_breaks_between_two_messages_is_unavailable() -> None:
    """The driver has an error of its own for it, outside of its other families."""

    async def broken() -> None:
        raise asyncpg.InternalClientError("cannot switch to state 12")

    engine = PostgresEngine("postgresql://user@127.0.0.1:1/db")
    with pytest.raises(ServiceError) as refused:
        engine.run(broken())
    engine.close()
    assert refused.value.code is Code.STATE_UNAVAILABLE


def test_a_password_is_in_no_name_and_no_error(postgres: Server) -> None:
    del postgres
    engine = PostgresEngine("postgresql://user:hunter2secret@127.0.0.1:1/db")
    with pytest.raises(ServiceError) as refused:
        engine.schema()
    assert "hunter2secret" not in engine.name + str(refused.value)
    engine.close()


def test_a_missing_folder_is_unavailable(tmp_path: Path) -> None:
    place = SqlitePlace(tmp_path / "none" / "state.db")
    with pytest.raises(ServiceError) as refused:
        place.new()
    assert refused.value.code is Code.STATE_UNAVAILABLE


def test_a_store_that_is_locked_for_too_long_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tightseal.state.sqlite.BUSY_SECONDS", 0.1)
    place = SqlitePlace(tmp_path / "state.db")
    store = place.new()
    holder = sqlite3.connect(place.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(ServiceError) as refused:
        place.attach().create("usage", "a", b"", now=NOW)
    assert refused.value.code is Code.STATE_UNAVAILABLE
    holder.execute("ROLLBACK")
    holder.close()
    store.create("usage", "a", b"", now=NOW)


def test_a_time_that_no_engine_can_hold_is_an_error_of_ours(tmp_path: Path) -> None:
    store = SqlitePlace(tmp_path / "state.db").new()
    with pytest.raises(ServiceError) as refused:
        store.purge(now=1 << 70)
    assert refused.value.code is Code.STATE_UNAVAILABLE
