# SPDX-License-Identifier: Apache-2.0
"""A journal of before the signed log is given one, and its entries are marked.

A file of version 1 has the same entries and redeemed nonces, and no log over them. In
one transaction it gets the log's tables, a leaf for each entry in its old place, one
entry more that says what was taken over, the signed head, and the new version. A crash
at any point leaves the old file or the new one.

Nobody signed those entries when they were made: a hostile host could have changed them,
and can make such a file out of nothing at any time. So the log must not vouch for them.
The class of each is changed to say so, ``unsigned-v1`` for ``v1``: it is part of the
leaf, and every proof of such an entry shows it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tightseal.audit.entry import Row, entry_bytes
from tightseal.audit.log import (
    Head,
    LogKey,
    log_signer,
    read_head,
    read_leaves,
    sign_head,
)
from tightseal.audit.merkle import EMPTY, Frontier, leaf_hash
from tightseal.audit.schema import (
    BUSY_SECONDS,
    add_log,
    is_before_the_log,
    wrapped,
)
from tightseal.audit.tiles import TILE_LEVELS
from tightseal.durable import connect
from tightseal.errors import Code, ServiceError
from tightseal.model import canonical

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LOG_CLASS", "TAKEN_OVER", "UNSIGNED", "TakenOver", "take_over_journal"]

LOG_CLASS: Final = "log"
TAKEN_OVER: Final = "taken-over"
"""Class and code of the entry that ends what was taken over."""

UNSIGNED: Final = "unsigned-"
"""Begins the class of every entry that was taken over."""

_PAGE: Final = 1024

# Bounds of what the older version wrote; what is longer would not fit into a leaf.
_FIRST_ODD: Final = """SELECT min(seq) FROM journal WHERE
seq < 1 OR length(entry_id) <> 16 OR time NOT BETWEEN 0 AND 9007199254740991
OR granted NOT IN (0, 1) OR length(body) > 262144
OR length(CAST(code AS BLOB)) NOT BETWEEN 1 AND 64
OR length(CAST(class AS BLOB)) NOT BETWEEN 1 AND 48"""


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What became a log.

    Attributes:
        entries: how many entries there were.
        root: of the tree over them.
    """

    entries: int
    root: bytes


def take_over_journal(
    path: Path, log_key: LogKey, *, entry_id: bytes, now: int
) -> TakenOver | None:
    """Give a journal of before the log its log; any other journal is left alone.

    Entries keep number, id, time, outcome and body; redeemed nonces stay as they are.

    No older provider may have the file open: what it writes later is not in the log,
    and the log is refused from then on.

    Args:
        path: the journal's file, which must be there.
        log_key: derives the log's key.
        entry_id: 16 random bytes, of the entry that ends what was taken over.
        now: Unix seconds, of that entry.

    Returns:
        what was taken over; ``None`` where the file was of this version already.

    Raises:
        ServiceError: ``journal_failed``, where the file is damaged, or not as the older
            version made it; ``log_tampered``, where an entry is missing in between.
            Then the file is as it was.
    """
    try:
        with closing(connect(path, busy_seconds=BUSY_SECONDS)) as connection:
            if not is_before_the_log(connection):
                return None
            # Every row is written anew, and they need not fit into memory.
            connection.execute("PRAGMA cache_spill = ON")
            connection.execute("BEGIN IMMEDIATE")
            # Again: another process may have done it while this one waited.
            if not is_before_the_log(connection):
                return None
            taken = _take_over(connection, path, log_key, entry_id, now)
            connection.execute("COMMIT")
            return taken
    except (sqlite3.Error, OSError) as e:
        raise wrapped(e, f"taking over {path}") from e


def _take_over(
    connection: sqlite3.Connection,
    path: Path,
    log_key: LogKey,
    entry_id: bytes,
    now: int,
) -> TakenOver:
    add_log(connection, path)
    odd = connection.execute(_FIRST_ODD).fetchone()[0]
    if odd is not None:
        detail = f"{path}: entry {odd} is of no form that is written"
        raise ServiceError(Code.JOURNAL_FAILED, detail)
    connection.execute("UPDATE journal SET class = ? || class", (UNSIGNED,))
    last = connection.execute("SELECT max(seq) FROM journal").fetchone()[0] or 0
    frontier = EMPTY
    for start in range(0, last, _PAGE):
        end = min(start + _PAGE, last)
        # Pages that did not fit into memory lay with the host since they were marked.
        leaves = read_leaves(connection, start, end, marked=UNSIGNED)
        frontier = _grown(connection, frontier, leaves)
    taken = TakenOver(frontier.size, frontier.root())
    body = canonical.encode({"entries": taken.entries, "root": taken.root})
    row: Row = (entry_id, now, 1, LOG_CLASS, TAKEN_OVER, body)
    connection.execute(
        "INSERT INTO journal (seq, entry_id, time, granted, class, code, body)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (taken.entries + 1, *row),
    )
    frontier = _grown(connection, frontier, [entry_bytes(row)])
    log_id = read_head(connection).log_id
    sign_head(connection, Head(log_id, frontier, b""), log_signer(log_id, log_key))
    return taken


def _grown(
    connection: sqlite3.Connection, frontier: Frontier, leaves: list[bytes]
) -> Frontier:
    grown, made = frontier.extended(leaf_hash(leaf) for leaf in leaves)
    connection.executemany(
        "INSERT INTO tile (place, hash) VALUES (?, ?)",
        [(at, root) for (level, at), root in made.items() if level == TILE_LEVELS],
    )
    return grown
