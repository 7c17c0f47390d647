# SPDX-License-Identifier: Apache-2.0
"""From the journal to tiles, for everybody who reads the log.

Tiles are a view: the journal's file is where an entry becomes durable, and the same
entries give the same tiles, byte for byte. So a crash between two tiles is mended by
publishing again. Where the two differ there is one rule: published tiles are never
taken back, and a journal that does not lead to them was cut or changed.
"""

from __future__ import annotations

from typing import NoReturn, Protocol

from tightseal.audit.checkpoint import Checkpoint
from tightseal.audit.log import Head, log_origin
from tightseal.audit.merkle import leaf_hash, root_of_row
from tightseal.audit.note import parse_note
from tightseal.audit.tiles import (
    CHECKPOINT_PATH,
    ENTRIES,
    MAX_TILE_LEVEL,
    TILE_LEVELS,
    TILE_WIDTH,
    Tile,
    TileNodes,
    TileStore,
    encode_bundle,
    full_tile_root,
    tiles_of,
)
from tightseal.errors import Code, ServiceError

__all__ = ["LogSource", "publish"]


class LogSource(Protocol):
    """Where entries come from: a journal."""

    def head(self) -> Head:
        """The head of the log; its signature is not checked."""
        ...

    def leaves(self, start: int, end: int) -> list[bytes]:
        """The entries from leaf ``start`` up to, and without, leaf ``end``.

        Raises:
            ServiceError: ``log_tampered``, where one is missing.
        """
        ...


def publish(source: LogSource, store: TileStore) -> Checkpoint:
    """Bring the tiles up to the journal's head, and then the checkpoint.

    1. The published checkpoint is of this log, and not ahead of it.
    2. The published tiles lead to the published root.
    3. The entries since then lead from there to the journal's root.
    4. Where a tile to be written is there already, as a crash leaves it, it has the
       same bytes.

    The signature is not checked here: whoever reads the tiles has the key, or trusts
    nothing of them. For one caller at a time: ``TileStore.alone``.

    Args:
        source: the journal.
        store: takes the tiles.

    Returns:
        what is published now.

    Raises:
        ServiceError: ``log_missing``, before the first entry; ``log_undersigned``,
            where the log is kept without a key; ``log_tampered``; ``journal_failed``
            or ``log_unreachable``.
    """
    head = source.head()
    size = head.frontier.size
    if not size:
        raise ServiceError(Code.LOG_MISSING, "the log has no entries yet")
    if not head.checkpoint:
        raise ServiceError(Code.LOG_UNDERSIGNED, "the log is kept without a key")
    before = _published(store)
    since = 0 if before is None else _continued(before, head, store)
    if before is not None and since == size:
        return before
    edge = _Edge(store, since)
    for start in range(since - since % TILE_WIDTH, size, TILE_WIDTH):
        entries = source.leaves(start, min(start + TILE_WIDTH, size))
        edge.add(start // TILE_WIDTH, entries)
    if edge.root() != head.frontier.root():
        _tampered("the journal's entries do not lead from the tiles to its root")
    edge.finish()
    store.flush()
    store.write(CHECKPOINT_PATH, head.checkpoint)
    store.flush()
    for tile in _outgrown(since, size):
        store.remove(tile.path)
    return Checkpoint(log_origin(head.log_id), size, head.frontier.root())


def _published(store: TileStore) -> Checkpoint | None:
    data = store.read(CHECKPOINT_PATH)
    return None if data is None else Checkpoint.parse(parse_note(data).text)


def _continued(before: Checkpoint, head: Head, store: TileStore) -> int:
    """The size to go on from."""
    size = head.frontier.size
    if before.origin != log_origin(head.log_id):
        _tampered(f"{store} has tiles of {before.origin}")
    if before.size > size:
        _tampered(f"{before.size} entries are published, the journal has {size}")
    if before.size and TileNodes(store, before.size).root() != before.root:
        _tampered(f"the tiles in {store} do not lead to their checkpoint")
    if before.size == size and before.root != head.frontier.root():
        _tampered(f"two roots for {size} entries: published and in the journal")
    return before.size


class _Edge:
    """The rightmost tile of every level while entries are added."""

    def __init__(self, store: TileStore, since: int) -> None:
        self._store = store
        self._rows: list[list[bytes]] = []
        self._places: list[int] = []
        nodes = TileNodes(store, since)
        # The entries of the last bundle come anew: the published ones must be first.
        place, width = divmod(since, TILE_WIDTH)
        self._begun = nodes.row(0, place) if width else ()
        for level in range(MAX_TILE_LEVEL + 1):
            count = since >> (TILE_LEVELS * level)
            place, width = divmod(count, TILE_WIDTH)
            row = nodes.row(level, place) if level and width else ()
            self._rows.append(list(row))
            self._places.append(place)

    def add(self, place: int, entries: list[bytes]) -> None:
        """Add the entries of one bundle, which is the next one."""
        name = Tile(ENTRIES, place, len(entries))
        hashes = [leaf_hash(entry) for entry in entries]
        if tuple(hashes[: len(self._begun)]) != self._begun:
            _tampered("the journal has other entries than were published")
        self._begun = ()
        self._store.put(name.path, encode_bundle(entries))
        self._rows[0] = hashes
        for level in range(MAX_TILE_LEVEL):
            row = self._rows[level]
            if len(row) < TILE_WIDTH:
                return
            self._write(level)
            self._rows[level + 1].append(full_tile_root(row))
            self._rows[level] = []
            self._places[level] += 1

    def finish(self) -> None:
        """Write the partial tiles."""
        for level, row in enumerate(self._rows):
            if row:
                self._write(level)

    def root(self) -> bytes:
        """The root of the tree so far."""
        tail: tuple[bytes, ...] = ()
        for row in self._rows:
            if row or tail:
                tail = (root_of_row((*row, *tail)),)
        return root_of_row(tail)

    def _write(self, level: int) -> None:
        row = self._rows[level]
        name = Tile(level, self._places[level], len(row))
        self._store.put(name.path, b"".join(row))


def _outgrown(since: int, size: int) -> list[Tile]:
    """Partial tiles of the older tree whose full ones there are now."""
    full = {tile for tile in tiles_of(size, since=since) if tile.width == TILE_WIDTH}
    return [tile for tile in tiles_of(since, since=since) if tile.full in full]


def _tampered(detail: str) -> NoReturn:
    raise ServiceError(Code.LOG_TAMPERED, f"log: {detail}")
