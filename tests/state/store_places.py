# SPDX-License-Identifier: Apache-2.0
"""Where a store can lie, as its owner opens it and as the host sees it.

``dump`` and ``load`` are the host's: they read and overwrite the raw rows beneath the
store, whatever the engine, so that one hostile act serves for all of them.
"""

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import asyncpg

from tightseal.model.secret import Secret
from tightseal.state.memory import MemoryEngine, Tables
from tightseal.state.postgres import PostgresEngine
from tightseal.state.rows import Engine, HeadRow, Row
from tightseal.state.seal import Sealer
from tightseal.state.sqlite import SqliteEngine
from tightseal.state.store import SealedStore

DOMAIN = "simulated:0011"
KEY = bytes(range(32))

HEAD = "SELECT store_id, schema, sealed FROM {}head"
RECORD = "SELECT kind, idx, version, expires_at, sealed FROM {}record"
NODE = "SELECT kind, prefix, body FROM {}node"


def sealer(key: bytes = KEY, domain: str = DOMAIN) -> Sealer:
    return Sealer(Secret(key), trust_domain=domain)


class Place(ABC):
    def __init__(self) -> None:
        self._engines: list[Engine] = []

    @abstractmethod
    def _engine(self) -> Engine: ...

    @abstractmethod
    def dump(self) -> Tables: ...

    @abstractmethod
    def load(self, tables: Tables) -> None: ...

    def engine(self) -> Engine:
        """As another process would open it."""
        self._engines.append(self._engine())
        return self._engines[-1]

    def new(self) -> SealedStore:
        return SealedStore.new(self.engine(), sealer())

    def attach(self) -> SealedStore:
        return SealedStore.attach(self.engine(), sealer())

    def close(self) -> None:
        for engine in self._engines:
            engine.close()


class MemoryPlace(Place):
    def __init__(self) -> None:
        super().__init__()
        self._shared = MemoryEngine()

    def _engine(self) -> Engine:
        return self._shared

    def dump(self) -> Tables:
        return self._shared.tables.copy()

    def load(self, tables: Tables) -> None:
        self._shared.tables = tables.copy()


class SqlitePlace(Place):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def _engine(self) -> Engine:
        return SqliteEngine(self.path)

    def dump(self) -> Tables:
        connection = sqlite3.connect(self.path)
        try:
            return tables_of(
                [list(connection.execute(sql.format(""))) for sql in QUERIES]
            )
        finally:
            connection.close()

    def load(self, tables: Tables) -> None:
        connection = sqlite3.connect(self.path)
        try:
            with connection:
                for name in ("head", "record", "node"):
                    connection.execute(f"DELETE FROM {name}")
                for sql, rows in inserts(tables, "", "?"):
                    connection.executemany(sql, rows)
        finally:
            connection.close()


class PostgresPlace(Place):
    def __init__(self, dsn: str) -> None:
        super().__init__()
        self.dsn = dsn

    def _engine(self) -> Engine:
        return PostgresEngine(self.dsn)

    def dump(self) -> Tables:
        async def read() -> Tables:
            connection = await asyncpg.connect(self.dsn)
            try:
                return tables_of(
                    [
                        [tuple(row) for row in await connection.fetch(sql)]
                        for sql in (query.format("tightseal_") for query in QUERIES)
                    ]
                )
            finally:
                await connection.close()

        return asyncio.run(read())

    def load(self, tables: Tables) -> None:
        async def write() -> None:
            connection = await asyncpg.connect(self.dsn)
            try:
                async with connection.transaction():
                    for name in ("head", "record", "node"):
                        await connection.execute(f"DELETE FROM tightseal_{name}")
                    for sql, rows in inserts(tables, "tightseal_", "$"):
                        await connection.executemany(sql, rows)
            finally:
                await connection.close()

        asyncio.run(write())


QUERIES = (HEAD, RECORD, NODE)


def tables_of(rows: list[list[tuple[Any, ...]]]) -> Tables:
    heads, records, nodes = rows
    return Tables(
        HeadRow(*heads[0]) if heads else None,
        {(row[0], row[1]): Row(*row) for row in records},
        {(kind, prefix): body for kind, prefix, body in nodes},
    )


def inserts(
    tables: Tables, before: str, mark: str
) -> list[tuple[str, list[tuple[Any, ...]]]]:
    def marks(count: int) -> str:
        each = ["?" if mark == "?" else f"${i + 1}" for i in range(count)]
        return ", ".join(each)

    head = tables.head
    return [
        (
            f"INSERT INTO {before}head VALUES ({marks(4)})",
            [] if head is None else [(0, head.store_id, head.schema, head.sealed)],
        ),
        (
            f"INSERT INTO {before}record VALUES ({marks(5)})",
            [
                (kind, index, row.version, row.expires_at, row.sealed)
                for (kind, index), row in tables.record.items()
            ],
        ),
        (
            f"INSERT INTO {before}node VALUES ({marks(3)})",
            [(kind, prefix, body) for (kind, prefix), body in tables.node.items()],
        ),
    ]
