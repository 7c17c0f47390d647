# SPDX-License-Identifier: Apache-2.0
"""The log over the journal's rows: its head is written in the commit of the entries.

The journal's file is the log: row ``n`` is leaf ``n - 1``. One row holds the head, as a
frontier and as the checkpoint that the log's key signed; another table holds the
hashes of full tiles. All of it lies with the host, so the key signs nothing that it did
not check: a process goes on from the head that it signed or checked itself, and reads
and hashes what other processes added since. A head that went back, or that those rows
do not lead to, is refused for good.

What that cannot see is a file that was put back before the process started, or two
copies of one: witnesses see that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn, TypeAlias

from tightseal.audit.checkpoint import (
    Checkpoint,
    Trust,
    sign_checkpoint,
    verify_checkpoint,
)
from tightseal.audit.entry import entry_bytes
from tightseal.audit.merkle import (
    EMPTY,
    HASH_BYTES,
    MAX_SIZE,
    Frontier,
    Nodes,
    inclusion_proof,
    leaf_hash,
)
from tightseal.audit.note import NoteSigner, SignatureType
from tightseal.audit.proof import LogProof
from tightseal.audit.tiles import TILE_LEVELS, TILE_WIDTH, full_tile_root
from tightseal.errors import Code, ServiceError, TightsealError

__all__ = [
    "CHECKED_AT_START",
    "LOG_ID_BYTES",
    "Grown",
    "Head",
    "Log",
    "LogKey",
    "check_log",
    "log_origin",
    "log_signer",
    "read_head",
    "read_leaves",
    "read_tile_roots",
    "require_checkpoint",
    "root_at",
    "sign_head",
]

LOG_ID_BYTES: Final = 16
"""Length of the random id that a log gets when its file is created."""

CHECKED_AT_START: Final = 1 << 18
"""Most newest entries that are hashed again when a provider starts; about
four seconds' worth."""

_PAGE: Final = 1024
_COLUMNS: Final = "entry_id, time, granted, class, code, body"

LogKey: TypeAlias = Callable[[bytes], bytes]
"""Derives a log's private key, 32 bytes, from its id."""


def log_origin(log_id: bytes) -> str:
    """The name of a log: the first line of its checkpoints, and its key's name."""
    return f"tightseal/v1/log/{log_id.hex()}"


def log_signer(log_id: bytes, key: LogKey) -> NoteSigner:
    """The signer of a log's checkpoints."""
    return NoteSigner(log_origin(log_id), SignatureType.ED25519, key(log_id))


@dataclass(frozen=True, slots=True)
class Head:
    """The head as the file has it.

    Attributes:
        log_id: which log it is.
        frontier: of the tree.
        checkpoint: the signed note; empty before the first entry, and in a log that is
            kept without a key.
    """

    log_id: bytes
    frontier: Frontier
    checkpoint: bytes


@dataclass(frozen=True, slots=True)
class Grown:
    """A head with the subtrees that are known, enough for proofs of the new leaves."""

    head: Head
    nodes: Nodes = field(default_factory=dict)

    def proof(self, index: int) -> LogProof:
        """The proof of a leaf that came with this head, or ``KeyError``."""
        path = inclusion_proof(
            index, self.head.frontier.size, lambda level, at: self.nodes[level, at]
        )
        return LogProof(index, path, self.head.checkpoint)


class Log:
    """The tree of one writer; every call is inside its open transaction.

    Args:
        key: of the log; ``None`` keeps the tree, and signs nothing.
    """

    def __init__(self, key: LogKey | None) -> None:
        self._key = key
        self._signer: NoteSigner | None = None
        self._head: Head | None = None
        self._owed: Head | None = None

    def begin(self, connection: sqlite3.Connection) -> Head:
        """The head to go on from, after what was checked.

        1. The newest entry is the head's last.
        2. The head is the one that this process left, or a later one.
        3. A later one follows from the rows in between. Where it follows from a head
           that is owed, that one is owed no more.
        4. The log's key signed it.

        Raises:
            ServiceError: ``log_tampered``.
            sqlite3.Error: the file cannot be read.
        """
        head = read_head(connection)
        require_last(connection, head)
        before = self._head
        if head == before:
            return head
        if before is not None and not self._settled(connection, head):
            _require_later(connection, before, head)
        self._require_signed(head)
        self._head = head
        return head

    def append(
        self, connection: sqlite3.Connection, head: Head, leaves: Sequence[bytes]
    ) -> Grown:
        """Write the head with more leaves; it counts once ``committed`` has it.

        Raises:
            ServiceError: ``journal_failed``, where the log is full.
            sqlite3.Error: the file cannot be written.
        """
        known = head.frontier.nodes()
        if not leaves:
            return Grown(head, known)
        frontier, made = head.frontier.extended(leaves)
        unsigned = Head(head.log_id, frontier, b"")
        grown = sign_head(connection, unsigned, self._signer)
        connection.executemany(
            "INSERT INTO tile (place, hash) VALUES (?, ?)",
            [(at, root) for (level, at), root in made.items() if level == TILE_LEVELS],
        )
        return Grown(grown, known | made)

    @property
    def signed(self) -> Head | None:
        """The newest head that this process signed, or checked to go on from."""
        return self._head

    @property
    def owes(self) -> bool:
        """Whether a head was signed of which nobody knows that the file has it."""
        return self._owed is not None

    def owe(self, grown: Grown) -> None:
        """The commit begins: the host may get to see the head, even if it fails."""
        self._owed = grown.head

    def committed(self, grown: Grown) -> None:
        """What was appended is durable."""
        self._head = grown.head
        self._owed = None

    def _settled(self, connection: sqlite3.Connection, head: Head) -> bool:
        """Whether the head has what was owed; a commit may fail and be done."""
        if self._owed is None:
            return False
        if head != self._owed:
            try:
                _require_later(connection, self._owed, head)
            except ServiceError:
                return False
        self._owed = None
        return True

    def _require_signed(self, head: Head) -> None:
        if self._key is None:
            if head.checkpoint:
                detail = "the log has a key, and the journal was opened without it"
                raise ServiceError(Code.JOURNAL_FAILED, detail)
            return
        if self._signer is None:
            self._signer = log_signer(head.log_id, self._key)
        require_checkpoint(head, Trust(self._signer.key))


def read_head(connection: sqlite3.Connection) -> Head:
    """The head in the file; its form is checked, and nothing else.

    Raises:
        ServiceError: ``log_tampered``.
        sqlite3.Error: the file cannot be read.
    """
    row = connection.execute(
        "SELECT log_id, size, frontier, checkpoint FROM log"
    ).fetchone()
    if row is None:
        _tampered("its head is gone")
    log_id, size, hashes, checkpoint = row
    # SQLite gives what type the file says, whatever the schema does.
    kinds = tuple(map(type, row))
    if kinds != (bytes, int, bytes, bytes) or not 0 <= size <= MAX_SIZE:
        _tampered("its head is of no form that is written")
    if len(log_id) != LOG_ID_BYTES or len(hashes) != size.bit_count() * HASH_BYTES:
        _tampered(f"a head of {len(hashes)} bytes for {size} entries")
    parts = tuple(
        hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)
    )
    return Head(log_id, Frontier(size, parts), checkpoint)


def sign_head(
    connection: sqlite3.Connection, head: Head, signer: NoteSigner | None
) -> Head:
    """Sign a head and write it; without a signer it is written unsigned.

    The caller checked that it follows from what was signed before.

    Raises:
        sqlite3.Error: the file cannot be written.
    """
    frontier, checkpoint = head.frontier, b""
    if signer is not None:
        stated = Checkpoint(signer.key.name, frontier.size, frontier.root())
        checkpoint = sign_checkpoint(stated, signer).encode()
    connection.execute(
        "UPDATE log SET size = ?, frontier = ?, checkpoint = ?",
        (frontier.size, b"".join(frontier.hashes), checkpoint),
    )
    return Head(head.log_id, frontier, checkpoint)


def read_leaves(
    connection: sqlite3.Connection, start: int, end: int, *, marked: str = ""
) -> list[bytes]:
    """The entries from leaf ``start`` up to, and without, leaf ``end``.

    Args:
        connection: to the journal's file.
        start: first leaf.
        end: the one behind the last.
        marked: what the class of each must begin with, as it is read here.

    Raises:
        ServiceError: ``log_tampered``, where one is missing, or not marked so.
        sqlite3.Error: the file cannot be read.
    """
    rows = connection.execute(
        f"SELECT seq, {_COLUMNS} FROM journal"  # noqa: S608 (a constant)
        " WHERE seq > ? AND seq <= ? ORDER BY seq",
        (start, end),
    ).fetchall()
    if [row[0] for row in rows] != list(range(start + 1, end + 1)):
        _tampered(f"entries between {start + 1} and {end} are missing")
    if not all(isinstance(row[4], str) and row[4].startswith(marked) for row in rows):
        _tampered(f"the class of an entry behind {start} was changed")
    try:
        return [entry_bytes(row[1:]) for row in rows]
    except (TypeError, TightsealError) as e:
        detail = f"log: an entry behind {start} is of no form that is written"
        raise ServiceError(Code.LOG_TAMPERED, detail) from e


def read_tile_roots(
    connection: sqlite3.Connection, start: int, end: int
) -> list[bytes]:
    """The roots of full tiles of level 0, from one up to, and without, another.

    Raises:
        ServiceError: ``log_tampered``, where one is missing or no hash.
        sqlite3.Error: the file cannot be read.
    """
    rows = connection.execute(
        "SELECT place, hash FROM tile WHERE place >= ? AND place < ? ORDER BY place",
        (start, end),
    ).fetchall()
    if [row[0] for row in rows] != list(range(start, end)):
        _tampered(f"hashes of tiles between {start} and {end} are missing")
    if any(not isinstance(h, bytes) or len(h) != HASH_BYTES for _, h in rows):
        _tampered("a hash of a tile is none")
    return [row[1] for row in rows]


def require_last(connection: sqlite3.Connection, head: Head) -> None:
    """Check that the newest row is the head's last leaf.

    Raises:
        ServiceError: ``log_tampered``.
    """
    last = connection.execute("SELECT max(seq) FROM journal").fetchone()[0] or 0
    if last != head.frontier.size:
        _tampered(f"the last entry is {last}, the head is of {head.frontier.size}")


def require_checkpoint(head: Head, trust: Trust) -> None:
    """Check that the log's key signed the head.

    Raises:
        ServiceError: ``log_tampered``.
    """
    frontier = head.frontier
    if not frontier.size and not head.checkpoint:
        return
    try:
        stated = verify_checkpoint(head.checkpoint, trust).checkpoint
    except TightsealError as e:
        detail = (
            f"log: changed, or kept under another sealing key or keyring: {e.detail}"
        )
        raise ServiceError(Code.LOG_TAMPERED, detail) from e
    if (stated.size, stated.root) != (frontier.size, frontier.root()):
        _tampered(f"the checkpoint is of {stated.size} entries and another root")


def check_log(
    connection: sqlite3.Connection,
    trust: Trust,
    *,
    whole: bool = False,
    let_go: bool = False,
) -> Head:
    """Check the log before a provider starts to append to it.

    1. The newest entry is the head's last.
    2. The log's key signed the head.
    3. The hashes of full tiles lead to the root.
    4. So do the newest ``CHECKED_AT_START`` entries.

    Older entries are checked where ``whole`` says so, as ``tightseal audit verify``
    does. That a whole older file was put back cannot be seen here.

    Args:
        connection: to the journal's file, in a transaction.
        trust: the log's key.
        whole: hash all entries again.
        let_go: end the transaction before entries are read. They never change, and a
            provider that runs must not wait for them.

    Raises:
        ServiceError: ``log_tampered``.
        sqlite3.Error: the file cannot be read.
    """
    head = read_head(connection)
    require_last(connection, head)
    require_checkpoint(head, trust)
    size = head.frontier.size
    tiles = size // TILE_WIDTH
    first = 0 if whole else max(0, size - CHECKED_AT_START) // TILE_WIDTH
    roots = _tile_roots(connection, tiles)
    if let_go:
        connection.execute("COMMIT")
    for tile in range(first, tiles):
        start = tile * TILE_WIDTH
        leaves = read_leaves(connection, start, start + TILE_WIDTH)
        if full_tile_root([leaf_hash(leaf) for leaf in leaves]) != roots[tile]:
            _tampered(f"entries {start + 1} to {start + TILE_WIDTH} were changed")
    rest = [
        leaf_hash(leaf) for leaf in read_leaves(connection, tiles * TILE_WIDTH, size)
    ]
    if _frontier(roots, rest) != head.frontier:
        _tampered("its entries do not lead to its root")
    return head


def root_at(connection: sqlite3.Connection, size: int, *, head: Head) -> bytes:
    """The root that a log had at a size, as what leads to its head says.

    All is read once: the host may show another file at each reading.

    Args:
        connection: to the journal's file.
        size: at most the head's.
        head: that the log has, or had.

    Raises:
        ServiceError: ``log_tampered``, where rows are missing, or do not lead there.
        sqlite3.Error: the file cannot be read.
    """
    tiles, width = divmod(head.frontier.size, TILE_WIDTH)
    roots = _tile_roots(connection, tiles, more=True)
    last = _leaf_hashes(connection, tiles, width)
    place, rest = divmod(size, TILE_WIDTH)
    if size > head.frontier.size or _frontier(roots, last) != head.frontier:
        _tampered(f"its entries do not lead to the head of {head.frontier.size}")
    if place < tiles and rest:
        last = _leaf_hashes(connection, place, TILE_WIDTH)
        if full_tile_root(last) != roots[place]:
            _tampered(f"entries behind {place * TILE_WIDTH} were changed")
    return _frontier(roots[:place], last[:rest]).root()


def _leaf_hashes(connection: sqlite3.Connection, tile: int, width: int) -> list[bytes]:
    start = tile * TILE_WIDTH
    return [leaf_hash(e) for e in read_leaves(connection, start, start + width)]


def _tile_roots(
    connection: sqlite3.Connection, count: int, *, more: bool = False
) -> list[bytes]:
    """The roots of all full tiles of level 0, or of the first ones of ``more``."""
    rows = connection.execute(
        "SELECT place, hash FROM tile WHERE place < ? ORDER BY place",
        (count if more else MAX_SIZE,),
    ).fetchall()
    if [row[0] for row in rows] != list(range(count)):
        _tampered(f"{len(rows)} hashes of tiles, expected {count}")
    # SQLite gives what type the file says, whatever the schema does.
    if any(not isinstance(h, bytes) or len(h) != HASH_BYTES for _, h in rows):
        _tampered("a hash of a tile is none")
    return [row[1] for row in rows]


def _frontier(tiles: Sequence[bytes], rest: Sequence[bytes]) -> Frontier:
    above, _ = EMPTY.extended(tiles)
    below, _ = EMPTY.extended(rest)
    size = len(tiles) * TILE_WIDTH + len(rest)
    return Frontier(size, above.hashes + below.hashes)


def _require_later(connection: sqlite3.Connection, before: Head, head: Head) -> None:
    """Other processes may have appended; nobody may have changed."""
    old, new = before.frontier, head.frontier
    if head.log_id != before.log_id or new.size <= old.size:
        _tampered(f"it went from {old.size} entries to another head of {new.size}")
    frontier = old
    for start in range(old.size, new.size, _PAGE):
        leaves = read_leaves(connection, start, min(start + _PAGE, new.size))
        frontier, _ = frontier.extended(leaf_hash(leaf) for leaf in leaves)
    if frontier != new:
        _tampered(f"entries behind {old.size} do not lead to the head of {new.size}")


def _tampered(detail: str) -> NoReturn:
    raise ServiceError(Code.LOG_TAMPERED, f"log: {detail}")
