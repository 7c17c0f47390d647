# SPDX-License-Identifier: Apache-2.0
"""The tables and statements of the PostgreSQL engine."""

from __future__ import annotations

from typing import Final

__all__ = [
    "DELETE_NODES",
    "DELETE_RECORDS",
    "EXPIRED",
    "FIND_TABLES",
    "HEAD",
    "KIND_PAGE",
    "LOCK_CREATION",
    "NODES",
    "NODES_PAGE",
    "OTHERS",
    "PUT_HEAD",
    "PUT_NODES",
    "PUT_RECORDS",
    "RECORDS",
    "RECORDS_PAGE",
    "STEPS",
    "UNHURRIED",
]

STEPS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (
        "tables",
        (
            """CREATE TABLE tightseal_head (
  one smallint PRIMARY KEY CHECK (one = 0),
  store_id bytea NOT NULL,
  schema bigint NOT NULL,
  sealed bytea NOT NULL
)""",
            """CREATE TABLE tightseal_record (
  kind text COLLATE "C" NOT NULL,
  idx bytea NOT NULL,
  version bigint NOT NULL,
  expires_at bigint,
  sealed bytea NOT NULL,
  PRIMARY KEY (kind, idx)
)""",
            """CREATE TABLE tightseal_node (
  kind text COLLATE "C" NOT NULL,
  prefix bytea NOT NULL,
  body bytea NOT NULL,
  PRIMARY KEY (kind, prefix)
)""",
        ),
    ),
    (
        "index of expiry, so that purging reads only what expired",
        (
            """CREATE INDEX tightseal_record_by_expiry ON tightseal_record (expires_at)
  WHERE expires_at IS NOT NULL""",
        ),
    ),
)
"""What each schema version adds to the one before; never changed once released."""

FIND_TABLES: Final = "SELECT to_regclass('tightseal_head') IS NOT NULL"

OTHERS: Final = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
AND application_name = $1 AND pid <> pg_backend_pid()"""

UNHURRIED: Final = "SET LOCAL idle_in_transaction_session_timeout = '10min'"
"""Between two statements of a rewrite, a large map is hashed."""

LOCK_CREATION: Final = "SELECT pg_advisory_xact_lock(6076831142305329204)"
"""Two providers that start at once must not both make the tables."""

HEAD: Final = "SELECT store_id, schema, sealed FROM tightseal_head"

RECORDS: Final = """
SELECT kind, idx, version, expires_at, sealed FROM tightseal_record
JOIN unnest($1::text[], $2::bytea[]) AS wanted (kind, idx) USING (kind, idx)"""

RECORDS_PAGE: Final = """
SELECT kind, idx, version, expires_at, sealed FROM tightseal_record
WHERE (kind, idx) > ($1::text COLLATE "C", $2::bytea)
ORDER BY kind, idx LIMIT $3"""

KIND_PAGE: Final = """
SELECT kind, idx, version, expires_at, sealed FROM tightseal_record
WHERE kind = $1 AND idx > $2
ORDER BY kind, idx LIMIT $3"""

NODES: Final = """
SELECT kind, prefix, body FROM tightseal_node
JOIN unnest($1::text[], $2::bytea[]) AS wanted (kind, prefix) USING (kind, prefix)"""

NODES_PAGE: Final = """
SELECT kind, prefix, body FROM tightseal_node
WHERE (kind, prefix) > ($1::text COLLATE "C", $2::bytea)
ORDER BY kind, prefix LIMIT $3"""

EXPIRED: Final = """
SELECT kind, idx FROM tightseal_record
WHERE expires_at IS NOT NULL AND expires_at <= $1 LIMIT $2"""

PUT_HEAD: Final = """
INSERT INTO tightseal_head (one, store_id, schema, sealed) VALUES (0, $1, $2, $3)
ON CONFLICT (one) DO UPDATE SET store_id = excluded.store_id,
  schema = excluded.schema, sealed = excluded.sealed"""

PUT_RECORDS: Final = """
INSERT INTO tightseal_record (kind, idx, version, expires_at, sealed)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bytea[])
ON CONFLICT (kind, idx) DO UPDATE SET version = excluded.version,
  expires_at = excluded.expires_at, sealed = excluded.sealed"""

PUT_NODES: Final = """
INSERT INTO tightseal_node (kind, prefix, body)
SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[])
ON CONFLICT (kind, prefix) DO UPDATE SET body = excluded.body"""

DELETE_RECORDS: Final = """
DELETE FROM tightseal_record
WHERE (kind, idx) IN (SELECT * FROM unnest($1::text[], $2::bytea[]))"""

DELETE_NODES: Final = """
DELETE FROM tightseal_node
WHERE (kind, prefix) IN (SELECT * FROM unnest($1::text[], $2::bytea[]))"""
