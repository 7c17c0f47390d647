# SPDX-License-Identifier: Apache-2.0
"""Every byte of every tile and entry bundle counts."""

import random
import shutil
from pathlib import Path

import pytest
from log_support import published

from tightseal.audit.checkpoint import Trust
from tightseal.audit.merkle import EMPTY, leaf_hash
from tightseal.audit.tilefiles import FileTileStore
from tightseal.audit.tiles import decode_bundle, decode_hashes, encode_bundle
from tightseal.audit.verify import verify_log
from tightseal.errors import Code, ServiceError

SIZE = 700
"""Two full tiles and a partial one."""


def refused(*codes: Code) -> "pytest.RaisesExc[ServiceError]":
    return pytest.RaisesExc(ServiceError, check=lambda e: e.code in codes)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[FileTileStore, Trust]:
    return published(tmp_path_factory.mktemp("log"), SIZE)


def _pick(folder: Path, draw: random.Random) -> Path:
    return draw.choice(
        [p for p in folder.rglob("*") if p.is_file() and p.name != "checkpoint"]
    )


def change(folder: Path, draw: random.Random) -> None:
    path = _pick(folder, draw)
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def cut(folder: Path, draw: random.Random) -> None:
    path = _pick(folder, draw)
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data))])


def lengthen(folder: Path, draw: random.Random) -> None:
    path = _pick(folder, draw)
    path.write_bytes(path.read_bytes() + draw.randbytes(draw.randrange(1, 40)))


def drop(folder: Path, draw: random.Random) -> None:
    _pick(folder, draw).unlink()


def swap_files(folder: Path, draw: random.Random) -> None:
    paths = sorted((folder / "tile" / draw.choice(["0", "entries"])).glob("*"))
    one, two = draw.sample([p for p in paths if p.is_file()], 2)
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def swap_inside(folder: Path, draw: random.Random) -> None:
    path = draw.choice(
        [p for p in (folder / "tile" / "entries").rglob("*") if p.is_file()]
    )
    width = 256 if path.parent.suffix != ".p" else int(path.name)
    entries = list(decode_bundle(path.read_bytes(), width))
    one, two = draw.sample(range(width), 2)
    entries[one], entries[two] = entries[two], entries[one]
    path.write_bytes(encode_bundle(entries))


def drop_entry(folder: Path, draw: random.Random) -> None:
    path = draw.choice(
        [p for p in (folder / "tile" / "entries").rglob("*") if p.is_file()]
    )
    width = 256 if path.parent.suffix != ".p" else int(path.name)
    entries = list(decode_bundle(path.read_bytes(), width))
    del entries[draw.randrange(width)]
    path.write_bytes(encode_bundle(entries))


def rewrite_consistently(folder: Path, draw: random.Random) -> None:
    """Another entry, and all tiles made to fit: only the checkpoint knows."""
    place = draw.randrange(2)
    path = folder / "tile" / "entries" / f"{place:03d}"
    entries = list(decode_bundle(path.read_bytes(), 256))
    entries[draw.randrange(256)] = b"forged"
    path.write_bytes(encode_bundle(entries))
    hashes = [leaf_hash(e) for e in entries]
    (folder / "tile/0" / f"{place:03d}").write_bytes(b"".join(hashes))
    above = folder / "tile/1/000.p/2"
    roots = list(decode_hashes(above.read_bytes(), 2))
    roots[place] = EMPTY.extended(hashes)[0].root()
    above.write_bytes(b"".join(roots))


def foreign_file(folder: Path, draw: random.Random) -> None:
    (folder / "tile" / "0" / f"{draw.randrange(10**6)}.txt").write_bytes(b"x")


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


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_tampering_is_found(
    log: tuple[FileTileStore, Trust],
    tmp_path: Path,
    kind,  # noqa: ANN001
) -> None:
    store, trust = log
    draw = random.Random(kind.__name__)
    for number in range(40):
        folder = tmp_path / str(number)
        shutil.copytree(str(store), folder)
        kind(folder, draw)
        with refused(Code.LOG_TAMPERED):
            verify_log(FileTileStore(folder), trust)
        shutil.rmtree(folder)


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
