# SPDX-License-Identifier: Apache-2.0
"""The tree as tiles: names, contents, and a source of hashes for proofs.

C2SP tlog-tiles: a tile holds up to 256 neighbouring hashes of one level, and a tile
level is eight levels of the tree. An entry bundle holds the entries under a tile of
level 0. The rightmost of each may be partial, and is named by its width.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from tightseal.audit.merkle import HASH_BYTES, MAX_SIZE, node_hash, root_of_row
from tightseal.errors import Code, ServiceError

__all__ = [
    "CHECKPOINT_PATH",
    "ENTRIES",
    "MAX_BUNDLE_BYTES",
    "MAX_ENTRY_BYTES",
    "MAX_TILE_LEVEL",
    "TILE_WIDTH",
    "Tile",
    "TileNodes",
    "TileSource",
    "TileStore",
    "decode_bundle",
    "decode_hashes",
    "encode_bundle",
    "full_tile_root",
    "tiles_of",
]

TILE_LEVELS: Final = 8
TILE_WIDTH: Final = 1 << TILE_LEVELS
"""Levels of the tree in a tile, and most hashes of one."""

MAX_TILE_LEVEL: Final = (MAX_SIZE.bit_length() - 1) // TILE_LEVELS
"""The highest tile level that a tree of ``MAX_SIZE`` has."""

ENTRIES: Final = -1
"""In place of a level: the name is an entry bundle's."""

MAX_ENTRY_BYTES: Final = (1 << 16) - 1
"""Longest entry: its length is written in two bytes."""

MAX_BUNDLE_BYTES: Final = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)
"""Longest entry bundle, in bytes."""

CHECKPOINT_PATH: Final = "checkpoint"
"""Name of the checkpoint beside the tiles."""

CACHED_TILES: Final = 64
"""Most tiles that a ``TileNodes`` keeps, of 8 KiB each."""

_LENGTH_BYTES: Final = 2
_NAME: Final = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<index>(?:x[0-9]{3}/){0,4}[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """The name of a tile or an entry bundle.

    Attributes:
        level: tile level, or ``ENTRIES``.
        index: place in its level.
        width: number of hashes or entries, 1 to 256.
    """

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """The path below the log's prefix."""
        level = "entries" if self.level == ENTRIES else str(self.level)
        rest, last = divmod(self.index, 1000)
        parts = [f"{last:03d}"]
        while rest:
            rest, part = divmod(rest, 1000)
            parts.insert(0, f"x{part:03d}")
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{'/'.join(parts)}{partial}"

    @classmethod
    def parse(cls, path: str) -> Tile:
        """Read a path; every tile has one path only.

        Raises:
            ServiceError: ``log_malformed``.
        """
        found = _NAME.fullmatch(path)
        if found is None:
            _malformed(f"{path!r} names no tile")
        level = ENTRIES if found["level"] == "entries" else int(found["level"])
        index = int(found["index"].replace("x", "").replace("/", ""))
        width = int(found["width"] or TILE_WIDTH)
        tile = cls(level, index, width)
        partial = found["width"] is not None
        if level > MAX_TILE_LEVEL or width > TILE_WIDTH - partial or tile.path != path:
            _malformed(f"{path!r} names no tile")
        return tile

    @property
    def full(self) -> Tile:
        """The full tile of the same place."""
        return Tile(self.level, self.index)


class TileSource(Protocol):
    """Where tiles and the checkpoint are read: files, rows, a server.

    Hostile, like everything outside the TEE: nothing that is read is believed before it
    leads to a signed root.
    """

    def read(self, path: str) -> bytes | None:
        """What lies under a path, or ``None``; never over ``MAX_BUNDLE_BYTES``.

        Raises:
            ServiceError: ``log_tampered``, where it is too long or no plain file;
                ``journal_failed`` or ``log_unreachable``, where it cannot be read.
        """
        ...

    def paths(self, size: int) -> Iterator[str]:
        """Every path under which something lies, in no order.

        Args:
            size: of the tree that is read; a source that cannot list what it has gives
                the paths that this tree must have.

        Raises:
            ServiceError: ``journal_failed`` or ``log_unreachable``; ``log_tampered``,
                where there are more than a log can have.
        """
        ...


class TileStore(TileSource, Protocol):
    """A source that tiles can be published to, by one writer at a time."""

    def alone(self, *, wait: bool) -> AbstractContextManager[None]:
        """Hold the store against other writers of this log.

        Args:
            wait: until another one is done; else that is an error.

        Raises:
            ServiceError: ``state_conflict``, where another one has it;
                ``journal_failed`` or ``log_unreachable``.
        """
        ...

    def put(self, path: str, data: bytes) -> None:
        """Put data where nothing lies, or the very same data.

        A tile has one content for ever: a crash may have left it, and whatever else
        lies there was made from another journal.

        Raises:
            ServiceError: ``log_tampered``, now or by ``flush``, where other data lies
                there; ``journal_failed`` or ``log_unreachable``.
        """
        ...

    def write(self, path: str, data: bytes) -> None:
        """Put data under a path at once, in place of what was there.

        Raises:
            ServiceError: ``journal_failed`` or ``log_unreachable``.
        """
        ...

    def flush(self) -> None:
        """Make durable what was put and written so far.

        Raises:
            ServiceError: ``journal_failed`` or ``log_unreachable``.
        """
        ...

    def remove(self, path: str) -> None:
        """Drop what lies under a path, where there is something.

        Raises:
            ServiceError: ``journal_failed`` or ``log_unreachable``.
        """
        ...


def tiles_of(size: int, *, since: int = 0) -> Iterator[Tile]:
    """The tiles and entry bundles of a tree, each level left to right.

    Args:
        size: of the tree.
        since: leaves out those that a tree of this size had in full already.
    """
    for level in (ENTRIES, *range(MAX_TILE_LEVEL + 1)):
        shift = TILE_LEVELS * max(level, 0)
        count, first = size >> shift, (since >> shift) // TILE_WIDTH
        for index in range(first, -(-count // TILE_WIDTH)):
            yield Tile(level, index, min(TILE_WIDTH, count - index * TILE_WIDTH))


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Entries as a bundle: each behind its length in two bytes, big-endian.

    Raises:
        ServiceError: ``log_malformed``, where an entry is longer than
            ``MAX_ENTRY_BYTES``.
    """
    out = bytearray()
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            _malformed(f"an entry of {len(entry)} bytes, at most {MAX_ENTRY_BYTES}")
        out += len(entry).to_bytes(_LENGTH_BYTES, "big") + entry
    return bytes(out)


def decode_bundle(data: bytes, count: int) -> tuple[bytes, ...]:
    """Exactly ``count`` entries of a bundle.

    Raises:
        ServiceError: ``log_malformed``, where bytes are missing or left over.
    """
    found: list[bytes] = []
    at = 0
    for number in range(count):
        start = at + _LENGTH_BYTES
        end = start + int.from_bytes(data[at:start], "big")
        if start > len(data) or end > len(data):
            _malformed(f"the bundle ends inside entry {number} of {count}")
        found.append(data[start:end])
        at = end
    if at != len(data):
        _malformed(f"the bundle has {len(data) - at} bytes behind entry {count}")
    return tuple(found)


def decode_hashes(data: bytes, width: int) -> tuple[bytes, ...]:
    """Exactly ``width`` hashes of a tile.

    Raises:
        ServiceError: ``log_malformed``.
    """
    if not width or len(data) != width * HASH_BYTES:
        _malformed(f"a tile of {len(data)} bytes, expected {width * HASH_BYTES}")
    return tuple(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))


def full_tile_root(hashes: Sequence[bytes]) -> bytes:
    """The root over a power of two of neighbouring hashes; faster than by splitting."""
    row = list(hashes)
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


class TileNodes:
    """The hashes of a tree out of its tiles: a ``merkle.Node``.

    Nothing is checked but the form: whoever takes a proof from here verifies it against
    a signed root. Not safe for several threads.

    Args:
        store: where the tiles lie.
        size: of the tree; says which tiles there must be.
    """

    def __init__(self, store: TileSource, size: int) -> None:
        self._store = store
        self._size = size
        self._cache: OrderedDict[tuple[int, int], tuple[bytes, ...]] = OrderedDict()

    def __call__(self, level: int, index: int) -> bytes:
        """The hash of a full subtree.

        Raises:
            ServiceError: ``log_tampered``, where its tile is missing, is not of its
                form, or has no such hash.
        """
        tile_level, rest = divmod(level, TILE_LEVELS)
        first = index << rest
        row = self.row(tile_level, first // TILE_WIDTH)
        at = first % TILE_WIDTH
        part = row[at : at + (1 << rest)]
        if len(part) != 1 << rest:
            detail = f"no subtree {index} of level {level} in {self._size} entries"
            raise ServiceError(Code.LOG_TAMPERED, detail)
        return full_tile_root(part)

    def row(self, level: int, index: int) -> tuple[bytes, ...]:
        """The hashes of one tile, as many as this tree has there.

        Raises:
            ServiceError: ``log_tampered``.
        """
        key = level, index
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        count = (self._size >> (TILE_LEVELS * level)) - index * TILE_WIDTH
        if not 0 <= level <= MAX_TILE_LEVEL or count <= 0:
            detail = f"no tile {index} of level {level} in {self._size} entries"
            raise ServiceError(Code.LOG_TAMPERED, detail)
        row = read_row(self._store, Tile(level, index, min(count, TILE_WIDTH)))
        self._cache[key] = row
        if len(self._cache) > CACHED_TILES:
            self._cache.popitem(last=False)
        return row

    def root(self) -> bytes:
        """The root of the tree, as its rightmost tiles say."""
        row: tuple[bytes, ...] = ()
        tail: tuple[bytes, ...] = ()
        for level in range(MAX_TILE_LEVEL + 1):
            count = self._size >> (TILE_LEVELS * level)
            width = count % TILE_WIDTH
            row = self.row(level, count // TILE_WIDTH) if width else ()
            if row or tail:
                tail = (root_of_row((*row, *tail)),)
        return root_of_row(tail)


def read_row(store: TileSource, tile: Tile) -> tuple[bytes, ...]:
    """The hashes of a tile; out of the full one, where the partial one is gone.

    Raises:
        ServiceError: ``log_tampered``.
    """
    for name in dict.fromkeys((tile, tile.full)):
        data = store.read(name.path)
        if data is not None:
            try:
                return decode_hashes(data, name.width)[: tile.width]
            except ServiceError as e:
                detail = f"{name.path}: {e.detail}"
                raise ServiceError(Code.LOG_TAMPERED, detail) from e
    raise ServiceError(Code.LOG_TAMPERED, f"{tile.path} is missing")


def _malformed(detail: str) -> NoReturn:
    raise ServiceError(Code.LOG_MALFORMED, detail)
