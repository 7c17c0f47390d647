# SPDX-License-Identifier: Apache-2.0
"""Every byte of every tile and entry bundle counts."""

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from log_support import published

from tightseal.audit.checkpoint import Trust
from tightseal.audit.merkle import EMPTY, leaf_hash
from tightseal.audit.tilefiles import FileTileStore
from tightseal.audit.tiles import decode_bundle, decode_hashes, encode_bundle
from tightseal.audit.verify import verify_log
from tightseal.errors import Code, ServiceError
from tile_places import (
    FolderPlace,
    Place,
    RowsPlace,
    Server,
    files_in,
    server_place,
)

Files = dict[str, bytes]

SIZE = 700
"""Two full tiles and a partial one."""


def refused(*codes: Code) -> "pytest.RaisesExc[ServiceError]":
    return pytest.RaisesExc(ServiceError, check=lambda e: e.code in codes)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[FileTileStore, Trust]:
    return published(tmp_path_factory.mktemp("log"), SIZE)


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, postgres: Server
) -> Iterator[list[Place]]:
    """One of each kind; rows beside those of another log."""
    address = postgres.new_address()
    RowsPlace(address)
    with server_place() as server:
        folder = tmp_path_factory.mktemp("copies")
        yield [FolderPlace(folder), RowsPlace(address), server]


def _pick(files: Files, draw: random.Random) -> str:
    return draw.choice(sorted(set(files) - {"checkpoint"}))


def _bundles(files: Files) -> list[str]:
    return sorted(path for path in files if path.startswith("tile/entries/"))


def _width(path: str) -> int:
    return int(path.rpartition("/")[2]) if ".p/" in path else 256


def change(files: Files, draw: random.Random) -> None:
    path = _pick(files, draw)
    data = bytearray(files[path])
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    files[path] = bytes(data)


def cut(files: Files, draw: random.Random) -> None:
    path = _pick(files, draw)
    files[path] = files[path][: draw.randrange(len(files[path]))]


def lengthen(files: Files, draw: random.Random) -> None:
    files[_pick(files, draw)] += draw.randbytes(draw.randrange(1, 40))


def drop(files: Files, draw: random.Random) -> None:
    del files[_pick(files, draw)]


def swap_files(files: Files, draw: random.Random) -> None:
    level = draw.choice(["tile/0/", "tile/entries/"])
    one, two = draw.sample(sorted(p for p in files if p.startswith(level)), 2)
    files[one], files[two] = files[two], files[one]


def swap_inside(files: Files, draw: random.Random) -> None:
    path = draw.choice(_bundles(files))
    entries = list(decode_bundle(files[path], _width(path)))
    one, two = draw.sample(range(len(entries)), 2)
    entries[one], entries[two] = entries[two], entries[one]
    files[path] = encode_bundle(entries)


def drop_entry(files: Files, draw: random.Random) -> None:
    path = draw.choice(_bundles(files))
    entries = list(decode_bundle(files[path], _width(path)))
    del entries[draw.randrange(len(entries))]
    files[path] = encode_bundle(entries)


def rewrite_consistently(files: Files, draw: random.Random) -> None:
    """Another entry, and all tiles made to fit: only the checkpoint knows."""
    place = draw.randrange(2)
    bundle = f"tile/entries/{place:03d}"
    entries = list(decode_bundle(files[bundle], 256))
    entries[draw.randrange(256)] = b"forged"
    files[bundle] = encode_bundle(entries)
    hashes = [leaf_hash(e) for e in entries]
    files[f"tile/0/{place:03d}"] = b"".join(hashes)
    roots = list(decode_hashes(files["tile/1/000.p/2"], 2))
    roots[place] = EMPTY.extended(hashes)[0].root()
    files["tile/1/000.p/2"] = b"".join(roots)


def foreign_file(files: Files, draw: random.Random) -> None:
    files[f"tile/0/{draw.randrange(10**6)}.txt"] = b"x"


KINDS = (
    change,
    cut,
    lengthen,
    drop,
    swap_files,
    swap_inside,
    drop_entry,
    rewrite_consistently,
    foreign_file,
)


def _tamper(
    log: tuple[FileTileStore, Trust],
    places: Sequence[Place],
    kind: Callable[[Files, random.Random], None],
    times: int,
) -> None:
    store, trust = log
    whole = files_in(Path(str(store)))
    draw = random.Random(kind.__name__)
    for number in range(times):
        files = dict(whole)
        kind(files, draw)
        # Folders are quick; the others take their turns.
        for place in places if number % 4 == 0 else places[:1]:
            place.fill(files)
            with place.source() as source:
                # A server cannot be asked for what no tree has.
                if kind is foreign_file and not place.lists:
                    verify_log(source, trust)
                    continue
                with refused(Code.LOG_TAMPERED):
                    verify_log(source, trust)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_tampering_is_found(
    log: tuple[FileTileStore, Trust],
    places: list[Place],
    kind: Callable[[Files, random.Random], None],
) -> None:
    _tamper(log, places, kind, 32)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_tampering_is_found_at_many_places(
    log: tuple[FileTileStore, Trust],
    places: list[Place],
    kind: Callable[[Files, random.Random], None],
) -> None:
    _tamper(log, places, kind, 1000)


def test_what_was_not_changed_is_whole_in_every_place(
    log: tuple[FileTileStore, Trust], places: list[Place]
) -> None:
    store, trust = log
    for place in places:
        place.fill(files_in(Path(str(store))))
        with place.source() as source:
            audited = verify_log(source, trust)
        assert (audited.head.checkpoint.size, audited.ahead) == (SIZE, ())
        assert audited.files == 7


def test_a_file_that_a_crash_left_is_no_part_of_the_log(
    log: tuple[FileTileStore, Trust], tmp_path: Path
) -> None:
    store, trust = log
    shutil.copytree(str(store), tmp_path / "copy")
    (tmp_path / "copy" / "tile" / "0" / ".000.0123456789abcdef").write_bytes(b"half")
    verify_log(FileTileStore(tmp_path / "copy"), trust)


def test_a_link_in_place_of_a_tile_is_refused(
    log: tuple[FileTileStore, Trust], tmp_path: Path
) -> None:
    store, trust = log
    shutil.copytree(str(store), tmp_path / "copy")
    tile = tmp_path / "copy" / "tile/0/000"
    tile.rename(tmp_path / "elsewhere")
    tile.symlink_to(tmp_path / "elsewhere")
    with refused(Code.JOURNAL_FAILED):
        verify_log(FileTileStore(tmp_path / "copy"), trust)
