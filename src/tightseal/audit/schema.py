# SPDX-License-Identifier: Apache-2.0
"""The journal's file: its tables, how it is created, and what is checked on opening.

The file lies outside the TEE, so its schema is hostile input: a trigger added by the
host would run inside our transactions. Opening compares the whole schema, text by text,
with the one that this version creates, and refuses any other.
"""

from __future__ import annotations

import sqlite3
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NoReturn

from tightseal.durable import connect, pragma
from tightseal.errors import Code, ServiceError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "BUSY_SECONDS",
    "QUICK_CHECK_MAX_BYTES",
    "FileMode",
    "add_log",
    "check_file",
    "fill_file",
    "is_before_the_log",
    "is_busy",
    "wrapped",
]

BUSY_SECONDS: Final = 5
"""Longest wait for another process that holds the file's lock, in seconds."""

QUICK_CHECK_MAX_BYTES: Final = 64 << 20
"""Largest file that is checked page by page on opening, in bytes."""

_APPLICATION_ID: Final = 0x54534A4C
_BEFORE_THE_LOG: Final = 1
_VERSION: Final = 2
_FILL_ATTEMPTS: Final = 100
_FILL_PAUSE: Final = 0.05

_ENTRY_TABLES: Final = (
    """CREATE TABLE journal (
  seq INTEGER PRIMARY KEY,
  entry_id BLOB NOT NULL UNIQUE,
  time INTEGER NOT NULL,
  granted INTEGER NOT NULL,
  class TEXT NOT NULL,
  code TEXT NOT NULL,
  body BLOB NOT NULL
) STRICT""",
    """CREATE TABLE redeemed (
  nonce_hash BLOB NOT NULL PRIMARY KEY,
  expires_at INTEGER NOT NULL,
  request_hash BLOB NOT NULL,
  response BLOB NOT NULL
) STRICT""",
    "CREATE INDEX redeemed_by_expiry ON redeemed (expires_at)",
    """CREATE TABLE purged (
  only INTEGER PRIMARY KEY CHECK (only = 0),
  through INTEGER NOT NULL
) STRICT""",
    "INSERT INTO purged (only, through) VALUES (0, -1)",
)
"""All of version 1: entries and redeemed nonces, without a log over them."""

_LOG_TABLES: Final = (
    """CREATE TABLE log (
  only INTEGER PRIMARY KEY CHECK (only = 0),
  log_id BLOB NOT NULL,
  size INTEGER NOT NULL,
  frontier BLOB NOT NULL,
  checkpoint BLOB NOT NULL
) STRICT""",
    "INSERT INTO log VALUES (0, randomblob(16), 0, x'', x'')",
    """CREATE TABLE tile (
  place INTEGER PRIMARY KEY,
  hash BLOB NOT NULL
) STRICT""",
)

_TABLES: Final[dict[int, tuple[str, ...]]] = {
    _BEFORE_THE_LOG: _ENTRY_TABLES,
    _VERSION: _ENTRY_TABLES + _LOG_TABLES,
}
"""The tables of each version."""


class FileMode(StrEnum):
    """How the file is made durable; chosen when it is created, and kept in it."""

    WAL = "wal"
    """Write-ahead log: readers never wait. Needs shared memory between processes."""

    ROLLBACK = "rollback"
    """Rollback journal: for platforms without shared file mappings, such as Gramine."""


def wrapped(error: Exception, doing: str) -> ServiceError:
    """The one error for all that can go wrong with the file."""
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    return ServiceError(Code.JOURNAL_FAILED, f"{doing}: {name}: {error}")


def fill_file(path: Path, mode: FileMode) -> None:
    """Give an empty file its tables, in one transaction; leave a filled one alone.

    A crash between creating and filling leaves an empty file, which the next call
    fills; two processes that start at once both succeed.

    Raises:
        sqlite3.Error: the file cannot be written or is no database.
    """
    for attempt in range(_FILL_ATTEMPTS):
        connection: sqlite3.Connection | None = None
        try:
            connection = connect(path, busy_seconds=BUSY_SECONDS)
            _fill(connection, mode)
        except sqlite3.OperationalError as e:
            # Changing the journal mode reports "locked" without waiting.
            if not is_busy(e) or attempt == _FILL_ATTEMPTS - 1:
                raise
            time.sleep(_FILL_PAUSE)
        else:
            return
        finally:
            if connection is not None:
                connection.close()


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process holds the lock, so that trying again may help."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    }


def check_file(path: Path) -> None:
    """Check that the file is a journal of this version, and whole where that is cheap.

    Raises:
        ServiceError: ``journal_failed``: missing, another application's, another
            version's, a changed schema, or damaged pages. Damage inside a well-formed
            page, and a file put back to an older state, are not noticed.
    """
    if not path.is_file():
        _refuse(f"missing: no journal at {path}; create it first")
    try:
        connection = connect(path, busy_seconds=BUSY_SECONDS)
        try:
            _check(connection, path)
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as e:
        raise wrapped(e, f"opening {path}") from e


def is_before_the_log(connection: sqlite3.Connection) -> bool:
    """Whether the file is a journal that has no log yet; nothing else is checked.

    Raises:
        sqlite3.Error: the file cannot be read or is no database.
    """
    return (
        pragma(connection, "application_id") == _APPLICATION_ID
        and pragma(connection, "user_version") == _BEFORE_THE_LOG
    )


def add_log(connection: sqlite3.Connection, path: Path) -> None:
    """Give a journal of before the log an empty one, inside the open transaction.

    Raises:
        ServiceError: ``journal_failed``, where the file is not as that version made
            it, or has damaged pages.
        sqlite3.Error: the file cannot be written.
    """
    _check(connection, path, version=_BEFORE_THE_LOG)
    for statement in _LOG_TABLES:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {_VERSION}")


def _fill(connection: sqlite3.Connection, mode: FileMode) -> None:
    if not _empty(connection):
        return
    if mode is FileMode.WAL:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _empty(connection):
            for statement in _TABLES[_VERSION]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _empty(connection: sqlite3.Connection) -> bool:
    return not _schema(connection) and pragma(connection, "application_id") == 0


def _check(
    connection: sqlite3.Connection, path: Path, *, version: int = _VERSION
) -> None:
    if pragma(connection, "application_id") != _APPLICATION_ID:
        _refuse(f"{path} is not a journal")
    found = pragma(connection, "user_version")
    if found != version:
        _refuse(_other_version(path, found))
    if _schema(connection) != _expected_schema(version):
        _refuse(f"{path} has a schema that no version of this program creates")
    if path.stat().st_size <= QUICK_CHECK_MAX_BYTES:
        damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            _refuse(f"{path} is damaged: {damage}")


def _other_version(path: Path, found: object) -> str:
    said = f"{path} is of version {found}, expected {_VERSION}"
    if found == _BEFORE_THE_LOG:
        return f"{said}: it has no log yet; the provider takes it over when it starts"
    if isinstance(found, int) and found > _VERSION:
        return f"{said}: a later version of the provider made it"
    return said


def _schema(connection: sqlite3.Connection) -> frozenset[tuple[str | None, ...]]:
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema")
    return frozenset(tuple(row) for row in rows)


def _expected_schema(version: int) -> frozenset[tuple[str | None, ...]]:
    connection = sqlite3.connect(":memory:")
    try:
        for statement in _TABLES[version]:
            connection.execute(statement)
        return _schema(connection)
    finally:
        connection.close()


def _refuse(detail: str) -> NoReturn:
    raise ServiceError(Code.JOURNAL_FAILED, detail)
