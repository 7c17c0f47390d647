# SPDX-License-Identifier: Apache-2.0
"""Reads a whole published log and checks every byte of it; makes proofs out of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from tightseal.audit.checkpoint import Trust, VerifiedCheckpoint, verify_checkpoint
from tightseal.audit.merkle import (
    HASH_BYTES,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of_row,
    verify_inclusion,
)
from tightseal.audit.proof import LogProof, verify_log_proof
from tightseal.audit.tiles import (
    CHECKPOINT_PATH,
    ENTRIES,
    MAX_TILE_LEVEL,
    TILE_LEVELS,
    TILE_WIDTH,
    Tile,
    TileNodes,
    TileSource,
    decode_bundle,
    encode_bundle,
    full_tile_root,
)
from tightseal.errors import Code, ServiceError

__all__ = [
    "Audited",
    "bundle_entries",
    "find_entry",
    "prove_consistency",
    "prove_entry",
    "read_checkpoint",
    "read_entries",
    "verify_log",
]


@dataclass(frozen=True, slots=True)
class Audited:
    """What a whole reading of a log found.

    Attributes:
        head: the checkpoint, verified.
        files: tiles and bundles that were compared.
        ahead: names of tiles of which this checkpoint covers nothing, or the beginning
            alone: a newer one was being published.
    """

    head: VerifiedCheckpoint
    files: int
    ahead: tuple[str, ...]


def read_checkpoint(store: TileSource, trust: Trust) -> VerifiedCheckpoint:
    """The published checkpoint, verified.

    Raises:
        ServiceError: ``log_missing``; as of ``checkpoint.verify_checkpoint``.
    """
    data = store.read(CHECKPOINT_PATH)
    if data is None:
        raise ServiceError(Code.LOG_MISSING, f"{store}: no {CHECKPOINT_PATH}")
    return verify_checkpoint(data, trust)


def verify_log(
    store: TileSource,
    trust: Trust,
    *,
    each: Callable[[int, bytes], None] | None = None,
) -> Audited:
    """Check a whole log against its checkpoint.

    1. The checkpoint is signed as ``trust`` asks.
    2. Every file or row has the name of a tile or an entry bundle; a server cannot be
       asked for what it has besides.
    3. Every tile and bundle that the tree has is there, of exactly its length.
    4. Every entry hashes to its place in its tile, every full tile to its place in the
       tile above, and all of it to the root.
    5. A tile that is there in several widths agrees with itself.

    Takes memory for one tile a level and the names of all files. It cannot see a log
    that was cut together with its checkpoint: compare the size with what witnesses or
    earlier readers saw.

    Args:
        store: the log.
        trust: whose signatures are needed.
        each: gets index and bytes of every entry, before the root is reached.

    Raises:
        ServiceError: ``log_missing``, ``log_malformed``, ``log_undersigned``,
            ``log_tampered``.
    """
    head = read_checkpoint(store, trust)
    reading = _Reading(store, head.checkpoint.size)
    for place, entries in bundle_entries(store, head.checkpoint.size):
        if each is not None:
            for at, entry in enumerate(entries):
                each(place * TILE_WIDTH + at, entry)
        reading.bundle(place, entries)
    reading.finish(head.checkpoint.root)
    return Audited(head, reading.files, tuple(sorted(reading.ahead)))


def bundle_entries(
    store: TileSource, size: int
) -> Iterator[tuple[int, tuple[bytes, ...]]]:
    """The entries of each bundle of a tree, with its place; nothing is verified.

    Raises:
        ServiceError: ``log_tampered``, where one is missing or not of its form.
    """
    for place in range(-(-size // TILE_WIDTH)):
        width = min(TILE_WIDTH, size - place * TILE_WIDTH)
        yield place, _bundle(store, Tile(ENTRIES, place, width))


def find_entry(store: TileSource, size: int, wanted: Callable[[bytes], bool]) -> int:
    """The index of the first entry that is wanted; reads bundles from the start.

    Raises:
        ServiceError: ``log_missing``, where there is none; ``log_tampered``.
    """
    for place, entries in bundle_entries(store, size):
        for at, entry in enumerate(entries):
            if wanted(entry):
                return place * TILE_WIDTH + at
    raise ServiceError(Code.LOG_MISSING, f"no such entry among {size}")


def prove_entry(store: TileSource, trust: Trust, index: int) -> LogProof:
    """The proof of one entry, with the entry in it; verified before it is given out.

    Raises:
        ServiceError: ``log_missing``, ``log_malformed``, ``log_undersigned``;
            ``log_tampered``, where the tiles do not lead to the root;
            ``log_proof_invalid``, where there is no such entry.
    """
    head = read_checkpoint(store, trust)
    size = head.checkpoint.size
    path = inclusion_proof(index, size, TileNodes(store, size))
    place, at = divmod(index, TILE_WIDTH)
    width = min(TILE_WIDTH, size - place * TILE_WIDTH)
    entry = _bundle(store, Tile(ENTRIES, place, width))[at]
    proof = LogProof(index, path, head.note.encode(), extra=entry)
    try:
        verify_log_proof(proof, leaf=leaf_hash(entry), trust=trust)
    except ServiceError as e:
        raise ServiceError(Code.LOG_TAMPERED, f"log: {e.detail}") from e
    return proof


def prove_consistency(store: TileSource, old: int, new: int) -> tuple[bytes, ...]:
    """The proof that the published tree of ``old`` entries is the beginning of ``new``.

    Raises:
        ServiceError: ``log_proof_invalid``, where ``old`` is larger; ``log_tampered``,
            where a tile is missing or not of its form.
    """
    return consistency_proof(old, new, TileNodes(store, new))


def read_entries(
    store: TileSource, head: VerifiedCheckpoint, start: int, end: int
) -> tuple[bytes, ...]:
    """The entries from leaf ``start`` up to, and without, leaf ``end``, proved.

    One path for each bundle: the siblings on it are all other entries of the bundle.

    Args:
        store: the log.
        head: of ``read_checkpoint``.
        start: the first of them.
        end: the first that is left out; at most the size.

    Raises:
        ServiceError: ``log_tampered``, where tiles are missing or do not lead to the
            root.
    """
    size, root = head.checkpoint.size, head.checkpoint.root
    nodes = TileNodes(store, size)
    found: list[bytes] = []
    for place in range(start // TILE_WIDTH, -(-end // TILE_WIDTH)):
        first = place * TILE_WIDTH
        name = Tile(ENTRIES, place, min(TILE_WIDTH, size - first))
        entries = _bundle(store, name)
        row = [leaf_hash(entry) for entry in entries]
        path = inclusion_proof(first, size, partial(_node_beside, nodes, place, row))
        try:
            verify_inclusion(row[0], index=first, size=size, proof=path, root=root)
        except ServiceError as e:
            _tampered(f"{name.path} does not lead to the root: {e.detail}")
        found += entries[max(0, start - first) : end - first]
    return tuple(found)


def _node_beside(
    nodes: TileNodes, place: int, row: list[bytes], level: int, index: int
) -> bytes:
    """A hash of the tree: inside one bundle out of its entries, else out of tiles."""
    at = (index << level) - place * TILE_WIDTH
    if level < TILE_LEVELS and 0 <= at < TILE_WIDTH:
        return full_tile_root(row[at : at + (1 << level)])
    return nodes(level, index)


class _Reading:
    """Compares files with what the entries say they must be."""

    def __init__(self, store: TileSource, size: int) -> None:
        self._store = store
        self._rows: list[list[bytes]] = [[] for _ in range(MAX_TILE_LEVEL + 1)]
        self._places = [0] * (MAX_TILE_LEVEL + 1)
        self._found: dict[tuple[int, int], list[Tile]] = defaultdict(list)
        self.files = 0
        self.ahead: list[str] = []
        for path in store.paths(size):
            if path == CHECKPOINT_PATH:
                continue
            try:
                tile = Tile.parse(path)
            except ServiceError as e:
                raise ServiceError(Code.LOG_TAMPERED, f"log: {e.detail}") from e
            count = size >> (TILE_LEVELS * max(tile.level, 0))
            if tile.index * TILE_WIDTH >= count:
                self.ahead.append(path)
            else:
                self._found[tile.level, tile.index].append(tile)

    def bundle(self, place: int, entries: tuple[bytes, ...]) -> None:
        """The entries of the next bundle."""
        prefixes = [0]
        whole = encode_bundle(entries)
        for entry in entries:
            prefixes.append(prefixes[-1] + len(encode_bundle([entry])))
        self._compare(ENTRIES, place, whole, prefixes)
        self._rows[0] = [leaf_hash(entry) for entry in entries]
        for level in range(MAX_TILE_LEVEL):
            row = self._rows[level]
            if len(row) < TILE_WIDTH:
                return
            self._tile(level)
            self._rows[level + 1].append(full_tile_root(row))
            self._rows[level] = []
            self._places[level] += 1

    def finish(self, root: bytes) -> None:
        """The partial tiles, and the root."""
        tail: tuple[bytes, ...] = ()
        for level, row in enumerate(self._rows):
            if row:
                self._tile(level)
            if row or tail:
                tail = (root_of_row((*row, *tail)),)
        if root_of_row(tail) != root:
            _tampered(f"entries lead to {root_of_row(tail).hex()}, not {root.hex()}")

    def _tile(self, level: int) -> None:
        row = self._rows[level]
        lengths = [at * HASH_BYTES for at in range(len(row) + 1)]
        self._compare(level, self._places[level], b"".join(row), lengths)

    def _compare(
        self, level: int, place: int, expected: bytes, lengths: list[int]
    ) -> None:
        """Compare every width of one tile with what it must be.

        Args:
            level: tile level, or ``ENTRIES``.
            place: index in the level.
            expected: the tile as this tree has it.
            lengths: bytes by number of hashes or entries, from 0 on.
        """
        width = len(lengths) - 1
        tiles = self._found.pop((level, place), [])
        if not any(tile.width in {width, TILE_WIDTH} for tile in tiles):
            _tampered(f"{Tile(level, place, width).path} is missing")
        for listed in tiles:
            tile, data = self._read(listed)
            known = min(tile.width, width)
            if data[: lengths[known]] != expected[: lengths[known]]:
                _tampered(f"{tile.path} was changed")
            if tile.width > width:
                self.ahead.append(tile.path)
            elif len(data) != lengths[known]:
                _tampered(f"{tile.path} is of {len(data)} bytes")
            self.files += 1

    def _read(self, tile: Tile) -> tuple[Tile, bytes]:
        """A tile; the full one where a partial one was outgrown since it was listed."""
        data = self._store.read(tile.path)
        if data is None and tile.width < TILE_WIDTH:
            tile, data = tile.full, self._store.read(tile.full.path)
        if data is None:
            _tampered(f"{tile.path} is missing")
        return tile, data


def _bundle(store: TileSource, tile: Tile) -> tuple[bytes, ...]:
    """The entries of a bundle; out of the full one, where the partial one is gone."""
    for name in dict.fromkeys((tile, tile.full)):
        data = store.read(name.path)
        if data is not None:
            try:
                return decode_bundle(data, name.width)[: tile.width]
            except ServiceError as e:
                detail = f"log: {name.path}: {e.detail}"
                raise ServiceError(Code.LOG_TAMPERED, detail) from e
    raise ServiceError(Code.LOG_TAMPERED, f"log: {tile.path} is missing")


def _tampered(detail: str) -> NoReturn:
    raise ServiceError(Code.LOG_TAMPERED, f"log: {detail}")
