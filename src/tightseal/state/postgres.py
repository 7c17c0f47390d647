# SPDX-License-Identifier: Apache-2.0
"""The shared engine: PostgreSQL, for several providers over one state.

A write locks the head row first, so writers follow one another across all providers;
a provider that dies loses its lock with its connection. A read is one snapshot. The
database is as hostile as any other engine: what it returns is believed only under the
sealed head.

Calls come from worker threads; asyncpg runs in an event loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import asyncpg

from tightseal.errors import Code, ServiceError, TightsealError
from tightseal.state.faults import tampered, unavailable
from tightseal.state.postgres_sql import (
    DELETE_NODES,
    DELETE_RECORDS,
    EXPIRED,
    FIND_TABLES,
    HEAD,
    KIND_PAGE,
    LOCK_CREATION,
    NODES,
    NODES_PAGE,
    OTHERS,
    PUT_HEAD,
    PUT_NODES,
    PUT_RECORDS,
    RECORDS,
    RECORDS_PAGE,
    STEPS,
    UNHURRIED,
)
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

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy
    from asyncpg.transaction import Transaction

__all__ = ["PostgresEngine"]

MAX_CONNECTIONS: Final = 8
"""Most connections of one provider process."""

CONNECT_SECONDS: Final = 10
COMMAND_SECONDS: Final = 15
"""Longest wait for the database, in seconds: to connect, and for one statement."""

_CALL_SECONDS: Final = 60
_APPLICATION: Final = "tightseal"
_SESSION: Final = {
    "application_name": _APPLICATION,
    "synchronous_commit": "on",
    "lock_timeout": "10000",
    # Frees the head row where a provider's machine is gone without a word.
    "idle_in_transaction_session_timeout": "30000",
    # Every statement finds its rows by primary key. Before the tables are analysed the
    # planner reads them whole instead, and a write would cost what the table holds.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
_FAULTS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # What the driver says where a connection breaks between two of its messages.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    concurrent.futures.CancelledError,
    OverflowError,
)

_T = TypeVar("_T")


class _PostgresView:
    """Implements ``View`` and ``Writer`` inside one transaction, begun when needed."""

    def __init__(self, engine: PostgresEngine, *, writes: bool) -> None:
        self._engine = engine
        self._writes = writes
        self._connection: PoolConnectionProxy[Any] | None = None
        self._transaction: Transaction | None = None

    async def begun(self) -> PoolConnectionProxy[Any]:
        """The connection, inside the transaction."""
        if self._connection is None:
            self._connection = await self._engine.acquire()
            transaction = (
                self._connection.transaction(isolation="read_committed")
                if self._writes
                else self._connection.transaction(
                    isolation="repeatable_read", readonly=True
                )
            )
            await transaction.start()
            self._transaction = transaction
        return self._connection

    async def finish(self, *, commit: bool) -> None:
        """End the transaction and give the connection back."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            if self._transaction is not None:
                ending = self._transaction
                await (ending.commit() if commit else ending.rollback())
        finally:
            await self._engine.release(connection)

    def fetch(self, wanted: Wanted) -> Fetched:
        return self._engine.run(self._fetch(wanted))

    def records(self, kind: str | None = None) -> Iterator[Row]:
        after = ("" if kind is None else kind, b"")
        sql = RECORDS_PAGE if kind is None else KIND_PAGE
        while True:
            page = self._engine.run(self._rows(sql, *after, PAGE_ROWS))
            for found in page:
                row = record_row(*found)
                after = (row.kind, row.index)
                yield row
            if len(page) < PAGE_ROWS:
                return

    def nodes(self) -> Iterator[tuple[str, bytes, bytes]]:
        after = ("", b"")
        while True:
            page = self._engine.run(self._rows(NODES_PAGE, *after, PAGE_ROWS))
            for found in page:
                row = node_row(*found)
                after = (row[0], row[1])
                yield row
            if len(page) < PAGE_ROWS:
                return

    def expired(self, *, now: int, limit: int) -> Sequence[tuple[str, bytes]]:
        rows = self._engine.run(self._rows(EXPIRED, now, limit))
        return [record_key(*row) for row in rows]

    def apply(self, changes: Changes) -> None:
        self._engine.run(self._apply(changes))

    async def _rows(self, sql: str, *values: object) -> list[Any]:
        connection = await self.begun()
        rows: list[Any] = await connection.fetch(sql, *values)
        return rows

    async def _fetch(self, wanted: Wanted) -> Fetched:
        # The head first: in a writer, its lock makes everything after it the newest.
        lock = " FOR UPDATE" if self._writes else ""
        heads = await self._rows(HEAD + lock)
        if len(heads) > 1:
            raise tampered("more than one head")
        records: dict[tuple[str, bytes], Row] = {}
        if wanted.records:
            for found in await self._rows(RECORDS, *_columns(wanted.records)):
                row = record_row(*found)
                records[row.kind, row.index] = row
        nodes: dict[tuple[str, bytes], bytes] = {}
        if wanted.nodes:
            for kind, prefix, body in await self._rows(NODES, *_columns(wanted.nodes)):
                nodes[kind, prefix] = node_body(body)
        return Fetched(head_row(*heads[0]) if heads else None, records, nodes)

    async def _apply(self, changes: Changes) -> None:
        connection = await self.begun()
        head = changes.head
        await connection.execute(PUT_HEAD, head.store_id, head.schema, head.sealed)
        gone = [key for key, row in changes.records.items() if row is None]
        for part in _parts(gone):
            await connection.execute(DELETE_RECORDS, *_columns(part))
        put = [row for row in changes.records.values() if row is not None]
        for rows in _parts(put):
            await connection.execute(
                PUT_RECORDS,
                [row.kind for row in rows],
                [row.index for row in rows],
                [row.version for row in rows],
                [row.expires_at for row in rows],
                [row.sealed for row in rows],
            )
        gone = [key for key, body in changes.nodes.items() if body is None]
        for part in _parts(gone):
            await connection.execute(DELETE_NODES, *_columns(part))
        nodes = [(key, body) for key, body in changes.nodes.items() if body is not None]
        for bodies in _parts(nodes):
            keys = _columns(key for key, _ in bodies)
            await connection.execute(PUT_NODES, *keys, [body for _, body in bodies])


class PostgresEngine:
    """Implements ``Engine`` over a PostgreSQL database.

    Nothing is connected before the first call; a process that forks makes its own.

    Args:
        dsn: ``postgresql://user:password@host/database``; the tables are made in the
            first schema of the search path.

    Raises:
        ServiceError: ``settings_invalid``, where ``dsn`` is no address.
    """

    def __init__(self, dsn: str) -> None:
        try:
            parts = urlsplit(dsn)
            self.name = f"postgresql {parts.hostname or 'local'}{parts.path}"
        except ValueError as e:
            detail = f"state database: not an address: {e}"
            raise ServiceError(Code.SETTINGS_INVALID, detail) from e
        self._dsn = dsn
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pool: asyncpg.Pool[Any] | None = None

    @contextmanager
    def read(self) -> Iterator[View]:
        """As of ``Engine``."""
        with self._view(writes=False) as view:
            yield view

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """As of ``Engine``."""
        with self._view(writes=True) as view:
            yield view

    @contextmanager
    def rewrite(self) -> Iterator[Writer]:
        """As of ``Engine``: the database holds what is not committed yet."""
        with self._view(writes=True) as view:
            self.run(self._unhurried(view))
            yield view

    def others(self) -> int:
        """As of ``Engine``: every session of a provider in this database.

        Also one that uses another schema of it; sessions of other database users may
        not be seen. To be asked before anything else of this object.
        """
        with self._view(writes=False) as view:
            return self.run(self._others(view))

    def prepare(self, changes: Changes) -> None:
        """As of ``Engine``."""
        with self._view(writes=True) as view:
            self.run(self._make_tables(view))
            view.apply(changes)

    def schema(self) -> int:
        """As of ``Engine``."""
        with self._view(writes=False) as view:
            return self.run(self._found_schema(view))

    def migrate(self, rewrite: Callable[[HeadRow], HeadRow]) -> tuple[str, ...]:
        """As of ``Engine``."""
        with self._view(writes=True) as view:
            head = view.fetch(Wanted()).head
            found = self.run(self._found_schema(view))
            if head is None or not 0 < found < SCHEMA:
                return ()
            self.run(self._run_steps(view, found))
            view.apply(Changes(rewrite(head)))
            return tuple(name for name, _ in STEPS[found:SCHEMA])

    def close(self) -> None:
        """As of ``Engine``."""
        with self._lock:
            pool, self._pool = self._pool, None
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        if loop is None or thread is None:
            return
        if pool is not None:
            asyncio.run_coroutine_threadsafe(_shut(pool), loop).result(_CALL_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine in the engine's loop and wait for it.

        Raises:
            ServiceError: ``state_unavailable`` for all that the database says.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._running())
        try:
            return future.result(_CALL_SECONDS)
        except TightsealError:
            raise
        except _FAULTS as e:
            future.cancel()
            raise unavailable(self.name, e) from e

    async def acquire(self) -> PoolConnectionProxy[Any]:
        """A connection of the pool, which is made when first needed."""
        if self._pool is None:
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=0,
                max_size=MAX_CONNECTIONS,
                timeout=CONNECT_SECONDS,
                command_timeout=COMMAND_SECONDS,
                server_settings=_SESSION,
                reset=_keep_session,
            )
        try:
            return await self._pool.acquire(timeout=CONNECT_SECONDS)
        except ValueError as e:
            # What the driver quotes may be part of a password.
            detail = f"{self.name}: the address of the database cannot be read"
            raise ServiceError(Code.SETTINGS_INVALID, detail) from e

    async def release(self, connection: PoolConnectionProxy[Any]) -> None:
        """Give a connection back; a broken one is thrown away."""
        if self._pool is not None:
            await self._pool.release(connection)

    @contextmanager
    def _view(self, *, writes: bool) -> Iterator[_PostgresView]:
        view = _PostgresView(self, writes=writes)
        try:
            yield view
        except BaseException:
            self._abandon(view)
            raise
        self.run(view.finish(commit=True))

    def _abandon(self, view: _PostgresView) -> None:
        """Roll back; that the connection is gone as well adds nothing to the error."""
        try:
            self.run(view.finish(commit=False))
        except ServiceError:
            return

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="tightseal-state", daemon=True
                )
                self._thread.start()
            return self._loop

    async def _unhurried(self, view: _PostgresView) -> None:
        connection = await view.begun()
        await connection.execute(UNHURRIED)

    async def _others(self, view: _PostgresView) -> int:
        connection = await view.begun()
        return int(await connection.fetchval(OTHERS, _APPLICATION))

    async def _found_schema(self, view: _PostgresView) -> int:
        connection = await view.begun()
        if not await connection.fetchval(FIND_TABLES):
            return 0
        row = await connection.fetchrow(HEAD)
        if row is None:
            raise tampered("the head is missing")
        found = head_row(*row).schema
        if found > SCHEMA:
            detail = f"schema {found}, at most {SCHEMA}"
            raise ServiceError(Code.STATE_SCHEMA_UNSUPPORTED, detail)
        return found

    async def _make_tables(self, view: _PostgresView) -> None:
        connection = await view.begun()
        await connection.execute(LOCK_CREATION)
        if await connection.fetchval(FIND_TABLES):
            detail = f"{self.name}: there is state already"
            raise ServiceError(Code.STATE_EXISTS, detail)
        await self._run_steps(view, 0)

    async def _run_steps(self, view: _PostgresView, found: int) -> None:
        connection = await view.begun()
        for _, statements in STEPS[found:SCHEMA]:
            for statement in statements:
                await connection.execute(statement)


async def _shut(pool: asyncpg.Pool[Any]) -> None:
    try:
        await asyncio.wait_for(pool.close(), COMMAND_SECONDS)
    except TimeoutError:
        pool.terminate()


async def _keep_session(connection: object) -> None:
    """Nothing to reset: every transaction was ended, and sets nothing."""


def _parts(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Pieces that one statement takes within its time."""
    for at in range(0, len(items), PAGE_ROWS):
        yield items[at : at + PAGE_ROWS]


def _columns(keys: Iterable[tuple[str, bytes]]) -> tuple[list[str], list[bytes]]:
    pairs = list(keys)
    return [kind for kind, _ in pairs], [key for _, key in pairs]
