# SPDX-License-Identifier: Apache-2.0
"""The embedded engine: one SQLite file, shared by threads and processes of one host.

Write-ahead log and full sync: a commit that returned survives the loss of power as far
as the disk keeps what it acknowledged. Platforms without shared file mappings (Gramine)
take the rollback journal instead.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tightseal.durable import connect, create_file
from tightseal.errors import Code, ServiceError
from tightseal.state.faults import tampered, unavailable
from tightseal.state.rows import (
    PAGE_ROWS,
    SCHEMA,
    Changes,
    Fetched,
    HeadRow,
    Row,
    View,
    Wanted,
    Writer,
    head_row,
    node_body,
    node_row,
    record_key,
    record_row,
)
from tightseal.state.sqlite_schema import BUSY_SECONDS, found_schema, upgrade

__all__ = ["SqliteEngine"]

_IDLE_READERS: Final = 8
_RECORD: Final = "SELECT kind, idx, version, expires_at, sealed FROM record"
_ALL_PAGE: Final = f"{_RECORD} WHERE (kind, idx) > (?, ?) ORDER BY kind, idx LIMIT ?"
_PAGE: Final = f"{_RECORD} WHERE kind = ? AND idx > ? ORDER BY idx LIMIT ?"
_NODE: Final = "SELECT body FROM node WHERE kind = ? AND prefix = ?"


class _SqliteView:
    """Implements ``View`` and ``Writer`` inside one transaction."""

    __slots__ = ("connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def fetch(self, wanted: Wanted) -> Fetched:
        execute = self.connection.execute
        heads = execute("SELECT store_id, schema, sealed FROM head").fetchmany(2)
        if len(heads) > 1:
            raise tampered("more than one head")
        records: dict[tuple[str, bytes], Row] = {}
        for key in wanted.records:
            row = execute(f"{_RECORD} WHERE kind = ? AND idx = ?", key).fetchone()
            if row is not None:
                records[key] = record_row(*row)
        nodes: dict[tuple[str, bytes], bytes] = {}
        for key in wanted.nodes:
            row = execute(_NODE, key).fetchone()
            if row is not None:
                nodes[key] = node_body(row[0])
        return Fetched(head_row(*heads[0]) if heads else None, records, nodes)

    def records(self, kind: str | None = None) -> Iterator[Row]:
        # In pages by key: what a cursor sees of rows written meanwhile is not defined.
        sql, after = (_ALL_PAGE, ("", b"")) if kind is None else (_PAGE, (kind, b""))
        while True:
            page = self.connection.execute(sql, (*after, PAGE_ROWS)).fetchall()
            for found in page:
                row = record_row(*found)
                after = (row.kind, row.index)
                yield row
            if len(page) < PAGE_ROWS:
                return

    def nodes(self) -> Iterator[tuple[str, bytes, bytes]]:
        cursor = self.connection.execute(
            "SELECT kind, prefix, body FROM node ORDER BY kind, prefix"
        )
        while page := cursor.fetchmany(PAGE_ROWS):
            for row in page:
                yield node_row(*row)

    def expired(self, *, now: int, limit: int) -> Sequence[tuple[str, bytes]]:
        rows = self.connection.execute(
            "SELECT kind, idx FROM record "
            "WHERE expires_at IS NOT NULL AND expires_at <= ? LIMIT ?",
            (now, limit),
        )
        return [record_key(*row) for row in rows]

    def apply(self, changes: Changes) -> None:
        many, head = self.connection.executemany, changes.head
        many(
            "INSERT OR REPLACE INTO head (one, store_id, schema, sealed) "
            "VALUES (0, ?, ?, ?)",
            [(head.store_id, head.schema, head.sealed)],
        )
        gone = [key for key, row in changes.records.items() if row is None]
        many("DELETE FROM record WHERE kind = ? AND idx = ?", gone)
        many(
            "INSERT OR REPLACE INTO record (kind, idx, version, expires_at, sealed) "
            "VALUES (?, ?, ?, ?, ?)",
            [
                (row.kind, row.index, row.version, row.expires_at, row.sealed)
                for row in changes.records.values()
                if row is not None
            ],
        )
        gone = [key for key, body in changes.nodes.items() if body is None]
        many("DELETE FROM node WHERE kind = ? AND prefix = ?", gone)
        many(
            "INSERT OR REPLACE INTO node (kind, prefix, body) VALUES (?, ?, ?)",
            [(*key, body) for key, body in changes.nodes.items() if body is not None],
        )


class SqliteEngine:
    """Implements ``Engine`` over a file.

    Args:
        path: the file; its folder must be there.
        shared_memory: whether the platform can share file mappings between processes,
            which a write-ahead log needs; said when the file is made, and kept in it.
    """

    def __init__(self, path: Path, *, shared_memory: bool = True) -> None:
        self.name = f"sqlite {path}"
        self._path = path.absolute()
        self._shared_memory = shared_memory
        self._idle: deque[sqlite3.Connection] = deque()
        self._writing = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[View]:
        """As of ``Engine``."""
        with self._transaction("BEGIN") as view:
            yield view

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """As of ``Engine``."""
        with self._writing, self._transaction("BEGIN IMMEDIATE") as view:
            yield view

    @contextmanager
    def rewrite(self) -> Iterator[Writer]:
        """As of ``Engine``: pages leave memory before the commit, to the log."""
        with self._writing, self._transaction("BEGIN IMMEDIATE") as view:
            view.connection.execute("PRAGMA cache_spill = ON")
            try:
                yield view
            finally:
                with suppress(sqlite3.Error):
                    view.connection.execute("PRAGMA cache_spill = OFF")

    def others(self) -> int:
        """As of ``Engine``; a file does not say who has it open."""
        return 0

    def prepare(self, changes: Changes) -> None:
        """As of ``Engine``."""
        try:
            create_file(self._path, exclusive=False)
            connection = connect(self._path, busy_seconds=BUSY_SECONDS)
            try:
                if found_schema(connection) != 0:
                    self._refuse_existing()
                if self._shared_memory:
                    connection.execute("PRAGMA journal_mode = WAL")
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as e:
            raise unavailable(f"creating {self._path}", e) from e
        with self._transaction("BEGIN IMMEDIATE") as view:
            # Asked again under the lock: another process may have come first.
            if found_schema(view.connection) != 0:
                self._refuse_existing()
            upgrade(view.connection, found=0)
            view.apply(changes)

    def schema(self) -> int:
        """As of ``Engine``."""
        if not self._path.exists():
            return 0
        with self._transaction("BEGIN") as view:
            return found_schema(view.connection)

    def migrate(self, rewrite: Callable[[HeadRow], HeadRow]) -> tuple[str, ...]:
        """As of ``Engine``."""
        with self._writing, self._transaction("BEGIN IMMEDIATE") as view:
            found = found_schema(view.connection)
            if not 0 < found < SCHEMA:
                return ()
            done = upgrade(view.connection, found=found)
            head = view.fetch(Wanted()).head
            if head is None:
                raise tampered("the head is missing")
            view.apply(Changes(rewrite(head)))
            return done

    def close(self) -> None:
        """As of ``Engine``."""
        while self._idle:
            self._idle.pop().close()

    def _refuse_existing(self) -> None:
        raise ServiceError(Code.STATE_EXISTS, f"{self._path}: there is state already")

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[_SqliteView]:
        try:
            with self._connection() as connection:
                connection.execute(begin)
                try:
                    yield _SqliteView(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
        except (sqlite3.Error, OSError, OverflowError) as e:
            raise unavailable(self.name, e) from e

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else uses, closed where something went wrong."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = connect(self._path, busy_seconds=BUSY_SECONDS)
        try:
            yield connection
        except ServiceError:
            self._keep(connection)
            raise
        except BaseException:
            connection.close()
            raise
        self._keep(connection)

    def _keep(self, connection: sqlite3.Connection) -> None:
        if len(self._idle) < _IDLE_READERS:
            self._idle.append(connection)
        else:
            connection.close()
