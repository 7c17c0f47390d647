# SPDX-License-Identifier: Apache-2.0
"""Reads a whole published log and checks every byte of it; makes proofs out of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from tightseal.audit.checkpoint import Trust, VerifiedCheckpoint, verify_checkpoint
from tightseal.audit.merkle import (
    HASH_BYTES,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of_row,
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
    TileStore,
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


def read_checkpoint(store: TileStore, trust: Trust) -> VerifiedCheckpoint:
    """The published checkpoint, verified.

    Raises:
        ServiceError: ``log_missing``; as of ``checkpoint.verify_checkpoint``.
    """
    data = store.read(CHECKPOINT_PATH)
    if data is None:
        raise ServiceError(Code.LOG_MISSING, f"{store}: no {CHECKPOINT_PATH}")
    return verify_checkpoint(data, trust)


def verify_log(
    store: TileStore,
    trust: Trust,
    *,
    each: Callable[[int, bytes], None] | None = None,
) -> Audited:
    """Check a whole log against its checkpoint.

    1. The checkpoint is signed as ``trust`` asks.
    2. Every file has the name of a tile or an entry bundle.
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
    store: TileStore, size: int
) -> Iterator[tuple[int, tuple[bytes, ...]]]:
    """The entries of each bundle of a tree, with its place; nothing is verified.

    Raises:
        ServiceError: ``log_tampered``, where one is missing or not of its form.
    """
    for place in range(-(-size // TILE_WIDTH)):
        width = min(TILE_WIDTH, size - place * TILE_WIDTH)
        yield place, _bundle(store, Tile(ENTRIES, place, width))


def find_entry(store: TileStore, size: int, wanted: Callable[[bytes], bool]) -> int:
    """The index of the first entry that is wanted; reads bundles from the start.

    Raises:
        ServiceError: ``log_missing``, where there is none; ``log_tampered``.
    """
    for place, entries in bundle_entries(store, size):
        for at, entry in enumerate(entries):
            if wanted(entry):
                return place * TILE_WIDTH + at
    raise ServiceError(Code.LOG_MISSING, f"no such entry among {size}")


def prove_entry(store: TileStore, trust: Trust, index: int) -> LogProof:
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


def prove_consistency(store: TileStore, old: int, new: int) -> tuple[bytes, ...]:
    """The proof that the published tree of ``old`` entries is the beginning of ``new``.

    Raises:
        ServiceError: ``log_proof_invalid``, where ``old`` is larger; ``log_tampered``,
            where a tile is missing or not of its form.
    """
    return consistency_proof(old, new, TileNodes(store, new))


class _Reading:
    """Compares files with what the entries say they must be."""

    def __init__(self, store: TileStore, size: int) -> None:
        self._store = store
        self._rows: list[list[bytes]] = [[] for _ in range(MAX_TILE_LEVEL + 1)]
        self._places = [0] * (MAX_TILE_LEVEL + 1)
        self._found: dict[tuple[int, int], list[Tile]] = defaultdict(list)
        self.files = 0
        self.ahead: list[str] = []
        for path in store.paths():
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
        for tile in tiles:
            data = self._store.read(tile.path) or b""
            known = min(tile.width, width)
            if data[: lengths[known]] != expected[: lengths[known]]:
                _tampered(f"{tile.path} was changed")
            if tile.width > width:
                self.ahead.append(tile.path)
            elif len(data) != lengths[known]:
                _tampered(f"{tile.path} is of {len(data)} bytes")
            self.files += 1


def _bundle(store: TileStore, tile: Tile) -> tuple[bytes, ...]:
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
