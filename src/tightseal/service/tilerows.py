# SPDX-License-Identifier: Apache-2.0
"""Tiles as rows of a PostgreSQL database: the logs of many nodes in one table.

The database is as hostile as a folder: a row is believed once it leads to the root that
the log's key signed. So what it can do is to withhold, to show an older state, and to
use up time and memory of whoever reads.

Calls are for one thread at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import asyncpg

from tightseal.audit.log import LOG_ID_BYTES
from tightseal.audit.note import MAX_NOTE_BYTES
from tightseal.audit.tiles import MAX_BUNDLE_BYTES
from tightseal.errors import Code, ServiceError
from tightseal.service.tilesession import TileSession

__all__ = ["MAX_LOGS", "RowTileStore", "StoredLog", "stored_logs"]

MAX_LOGS: Final = 10_000
"""Most logs of one database that are listed."""

ENTRIES_A_PATH: Final = 64
SPARE_PATHS: Final = 65_536
"""Most rows of a log that are listed: one for so many entries, which is twice what a
tree has, and so many besides, for older partial tiles and newer ones."""

MAX_PATH_CHARS: Final = 64
"""Longest path; that of a tile has at most 38 characters."""

WAIT_SECONDS: Final = 60
"""Longest wait for another writer of the same log, in seconds."""

PENDING_ROWS: Final = 256
PENDING_BYTES: Final = 8 << 20
"""Rows, and bytes of them, that are sent in one transaction."""

_PAGE: Final = 1000
_FIND_TABLE: Final = "SELECT to_regclass('tightseal_log_tile') IS NOT NULL"
_LOCK_CREATION: Final = "SELECT pg_advisory_xact_lock(6076831142305329205)"
_TABLE: Final = (
    """CREATE TABLE IF NOT EXISTS tightseal_log_tile (
  log_id bytea NOT NULL,
  path text COLLATE "C" NOT NULL,
  data bytea NOT NULL,
  written timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (log_id, path)
)""",
    """CREATE INDEX IF NOT EXISTS tightseal_log_checkpoint
  ON tightseal_log_tile (log_id) WHERE path = 'checkpoint'""",
)
_READ: Final = """
SELECT substring(data FROM 1 FOR $3) FROM tightseal_log_tile
WHERE log_id = $1 AND path = $2"""
_PATHS: Final = """
SELECT path FROM tightseal_log_tile WHERE log_id = $1 AND path > $2
ORDER BY path LIMIT $3"""
_PUT: Final = """
INSERT INTO tightseal_log_tile (log_id, path, data)
SELECT $1, new.path, new.data FROM unnest($2::text[], $3::bytea[]) AS new (path, data)
ON CONFLICT (log_id, path) DO NOTHING RETURNING path"""
_WRITE: Final = """
INSERT INTO tightseal_log_tile (log_id, path, data) VALUES ($1, $2, $3)
ON CONFLICT (log_id, path) DO UPDATE SET data = excluded.data, written = now()"""
_REMOVE: Final = "DELETE FROM tightseal_log_tile WHERE log_id = $1 AND path = $2"
_LOGS: Final = """
SELECT log_id, substring(data FROM 1 FOR $2), written FROM tightseal_log_tile
WHERE path = 'checkpoint' AND log_id > $1 ORDER BY log_id LIMIT $3"""
_HOLD: Final = "SELECT pg_advisory_lock($1)"
_TRY_HOLD: Final = "SELECT pg_try_advisory_lock($1)"
_LET_GO: Final = "SELECT pg_advisory_unlock($1)"


@dataclass(frozen=True, slots=True)
class StoredLog:
    """A log as the database lists it; nothing of it is checked.

    Attributes:
        log_id: 16 bytes.
        checkpoint: as it stands.
        written: when it was, by the database's clock, in Unix seconds; 0 where that is
            no time.
    """

    log_id: bytes
    checkpoint: bytes
    written: int


class RowTileStore:
    """A ``tiles.TileStore`` over the rows of one log. A context manager.

    Nothing is connected before the first call. The table is made where something is
    put and there is none.

    Args:
        dsn: ``postgresql://user@host/database``; user, password, password file and TLS
            as for the state's database.
        log_id: which log, 16 bytes.
        read_only: whether the session may only read.
        seconds: after which no statement is begun any more.

    Raises:
        ServiceError: ``settings_invalid``, where ``dsn`` is no address.
    """

    def __init__(
        self,
        dsn: str,
        log_id: bytes,
        *,
        read_only: bool = False,
        seconds: float = math.inf,
    ) -> None:
        if len(log_id) != LOG_ID_BYTES:
            detail = f"a log id of {len(log_id)} bytes, expected {LOG_ID_BYTES}"
            raise ServiceError(Code.INTERNAL, detail)
        self._session = TileSession(dsn, read_only=read_only, seconds=seconds)
        self._log_id = log_id
        self._pending: dict[str, bytes] = {}
        self._table = False

    def __str__(self) -> str:
        return f"{self._session.name}, log {self._log_id.hex()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; what was not flushed is not kept."""
        self._pending.clear()
        self._session.close()

    @contextmanager
    def alone(self, *, wait: bool) -> Iterator[None]:
        """As of ``TileStore``: a lock of the session, which ends with it."""
        if not self._hold(wait=wait):
            detail = f"{self}: somebody else writes it"
            raise ServiceError(Code.STATE_CONFLICT, detail)
        self._session.held = True
        try:
            yield
        finally:
            self._session.held = False
            self._pending.clear()
            if self._session.connected:
                with suppress(ServiceError):
                    self._session.run(lambda c: c.fetchval(_LET_GO, self._lock_key))

    def read(self, path: str) -> bytes | None:
        """As of ``TileSource``."""
        if path in self._pending:
            return self._pending[path]

        async def read(connection: asyncpg.Connection[Any]) -> list[Any]:
            try:
                most = MAX_BUNDLE_BYTES + 1
                return list(await connection.fetch(_READ, self._log_id, path, most))
            except asyncpg.UndefinedTableError:
                return []

        rows = self._session.run(read)
        if not rows:
            return None
        (data,) = rows[0]
        if not isinstance(data, bytes) or len(data) > MAX_BUNDLE_BYTES:
            raise self._tampered(f"{path}: no bytes, or over {MAX_BUNDLE_BYTES}")
        return data

    def paths(self, size: int) -> Iterator[str]:
        """As of ``TileSource``."""
        most = size // ENTRIES_A_PATH + SPARE_PATHS
        after, count = "", 0
        while page := self._page(after):
            for path in page:
                if not isinstance(path, str) or not after < path:
                    raise self._tampered("paths are not listed in order")
                count += 1
                if len(path) > MAX_PATH_CHARS or count > most:
                    raise self._tampered(f"over {most} paths, or one too long")
                after = path
                yield path

    def put(self, path: str, data: bytes) -> None:
        """As of ``TileStore``: sent with others; other data is found then."""
        self._pending[path] = data
        held = sum(map(len, self._pending.values()))
        if len(self._pending) >= PENDING_ROWS or held >= PENDING_BYTES:
            self.flush()

    def write(self, path: str, data: bytes) -> None:
        """As of ``TileStore``."""
        self._pending.pop(path, None)
        self._make_table()
        self._session.run(lambda c: c.execute(_WRITE, self._log_id, path, data))

    def flush(self) -> None:
        """As of ``TileStore``: each statement is durable when it is answered."""
        if not self._pending:
            return
        self._make_table()
        names, values = list(self._pending), list(self._pending.values())
        rows = self._session.run(lambda c: c.fetch(_PUT, self._log_id, names, values))
        there = self._pending.keys() - {row[0] for row in rows}
        wanted, self._pending = self._pending, {}
        for path in sorted(there):
            if self.read(path) != wanted[path]:
                raise self._tampered(f"{path} is there already, with other data")

    def remove(self, path: str) -> None:
        """As of ``TileStore``."""
        self._pending.pop(path, None)
        self._session.run(lambda c: c.execute(_REMOVE, self._log_id, path))

    @property
    def _lock_key(self) -> int:
        return int.from_bytes(self._log_id[:8], "big", signed=True)

    def _hold(self, *, wait: bool) -> bool:
        async def hold(connection: asyncpg.Connection[Any]) -> bool:
            if not wait:
                return bool(await connection.fetchval(_TRY_HOLD, self._lock_key))
            try:
                await connection.execute(_HOLD, self._lock_key, timeout=WAIT_SECONDS)
            except TimeoutError:
                # It may have been granted all the same.
                connection.terminate()
                return False
            return True

        return self._session.run(hold)

    def _page(self, after: str) -> list[Any]:
        async def page(connection: asyncpg.Connection[Any]) -> list[Any]:
            try:
                rows = await connection.fetch(_PATHS, self._log_id, after, _PAGE)
            except asyncpg.UndefinedTableError:
                return []
            return [row[0] for row in rows]

        return self._session.run(page)

    def _make_table(self) -> None:
        if not self._table:
            self._session.run(_make_table)
            self._table = True

    def _tampered(self, detail: str) -> ServiceError:
        return ServiceError(Code.LOG_TAMPERED, f"{self}: {detail}")


async def _make_table(connection: asyncpg.Connection[Any]) -> None:
    # Asked first: a user without the right to create may use a table that is there.
    if await connection.fetchval(_FIND_TABLE):
        return
    async with connection.transaction():
        await connection.execute(_LOCK_CREATION)
        for statement in _TABLE:
            await connection.execute(statement)


def stored_logs(dsn: str) -> tuple[StoredLog, ...]:
    """Every log of a database that has a checkpoint, by id; nothing is checked.

    Raises:
        ServiceError: ``log_unreachable``; ``log_tampered``, where rows are not of their
            form, or over ``MAX_LOGS``; ``settings_invalid``.
    """
    session = TileSession(dsn, read_only=True)

    def page(after: bytes) -> list[Any]:
        return session.run(partial(_page_of_logs, after=after))

    found: list[StoredLog] = []
    after = b""
    try:
        while rows := page(after):
            for row in rows:
                one = _stored(session.name, tuple(row))
                if one.log_id <= after or len(found) >= MAX_LOGS:
                    detail = f"{session.name}: over {MAX_LOGS} logs, or not in order"
                    raise ServiceError(Code.LOG_TAMPERED, detail)
                after = one.log_id
                found.append(one)
    finally:
        session.close()
    return tuple(found)


async def _page_of_logs(connection: asyncpg.Connection[Any], after: bytes) -> list[Any]:
    try:
        most = MAX_NOTE_BYTES + 1
        return list(await connection.fetch(_LOGS, after, most, _PAGE))
    except asyncpg.UndefinedTableError:
        return []


def _stored(name: str, row: tuple[object, ...]) -> StoredLog:
    log_id, checkpoint, written = row
    if not (
        isinstance(log_id, bytes)
        and len(log_id) == LOG_ID_BYTES
        and isinstance(checkpoint, bytes)
        and isinstance(written, datetime)
    ):
        raise ServiceError(Code.LOG_TAMPERED, f"{name}: a row of another form")
    try:
        seconds = int(written.timestamp())
    except (OverflowError, ValueError):
        seconds = 0
    return StoredLog(log_id, checkpoint, seconds)
