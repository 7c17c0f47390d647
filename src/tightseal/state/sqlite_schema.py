# SPDX-License-Identifier: Apache-2.0
"""The tables of the SQLite engine, step by step, and what is checked on opening.

The file is hostile input: a trigger added by the host would run inside our
transactions. Opening compares the whole schema, text by text, with what the steps up
to the file's version make, and refuses any other.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from tightseal.durable import pragma
from tightseal.errors import Code, ServiceError
from tightseal.state.faults import tampered
from tightseal.state.rows import SCHEMA

__all__ = ["BUSY_SECONDS", "STEPS", "found_schema", "upgrade"]

BUSY_SECONDS: Final = 10
"""Longest wait for another process that holds the file's lock, in seconds."""

APPLICATION_ID: Final = 0x54535354

STEPS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        "tables",
        (
            """CREATE TABLE head (
  one INTEGER PRIMARY KEY CHECK (one = 0),
  store_id BLOB NOT NULL,
  schema INTEGER NOT NULL,
  sealed BLOB NOT NULL
) STRICT""",
            """CREATE TABLE record (
  kind TEXT NOT NULL,
  idx BLOB NOT NULL,
  version INTEGER NOT NULL,
  expires_at INTEGER,
  sealed BLOB NOT NULL,
  PRIMARY KEY (kind, idx)
) STRICT, WITHOUT ROWID""",
            """CREATE TABLE node (
  kind TEXT NOT NULL,
  prefix BLOB NOT NULL,
  body BLOB NOT NULL,
  PRIMARY KEY (kind, prefix)
) STRICT, WITHOUT ROWID""",
        ),
    ),
    (
        "index of expiry, so that purging reads only what expired",
        (
            """CREATE INDEX record_by_expiry ON record (expires_at)
  WHERE expires_at IS NOT NULL""",
        ),
    ),
)
"""What each schema version adds to the one before; never changed once released."""


def found_schema(connection: sqlite3.Connection) -> int:
    """The version of the tables; 0 where the file is empty.

    Raises:
        ServiceError: ``state_tampered``, where the file is another application's or its
            schema is none that the steps make; ``state_schema_unsupported``, where it
            is newer.
        sqlite3.Error: no database.
    """
    schema = _schema(connection)
    application = pragma(connection, "application_id")
    if not schema and application == 0:
        return 0
    if application != APPLICATION_ID:
        raise tampered("not a state store's file")
    version = pragma(connection, "user_version")
    if not isinstance(version, int) or version > SCHEMA:
        detail = f"schema {version}, at most {SCHEMA}"
        raise ServiceError(Code.STATE_SCHEMA_UNSUPPORTED, detail)
    if version < 1 or schema != _expected(version):
        raise tampered("the tables are none that this program makes")
    return version


def upgrade(
    connection: sqlite3.Connection, *, found: int, to: int = SCHEMA
) -> tuple[str, ...]:
    """Run the steps after ``found``, inside the caller's transaction; their names."""
    for _, statements in STEPS[found:to]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {to}")
    return tuple(name for name, _ in STEPS[found:to])


def _schema(connection: sqlite3.Connection) -> frozenset[tuple[str | None, ...]]:
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema")
    return frozenset(tuple(row) for row in rows)


def _expected(version: int) -> frozenset[tuple[str | None, ...]]:
    connection = sqlite3.connect(":memory:")
    try:
        upgrade(connection, found=0, to=version)
        return _schema(connection)
    finally:
        connection.close()
