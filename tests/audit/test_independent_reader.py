# SPDX-License-Identifier: Apache-2.0
"""What we write is what C2SP says: a reader that knows nothing else agrees."""

import ast
import random
import shutil
from pathlib import Path

import c2sp_reader
import pytest
from c2sp_reader import (
    BadLogError,
    at_address,
    in_folder,
    read_checkpoint,
    read_log,
    read_proof,
)
from cryptography.exceptions import InvalidSignature
from log_support import append, opened, signer_of

from tightseal.audit.checkpoint import Trust
from tightseal.audit.note import Note, NoteSigner, SignatureType, parse_note
from tightseal.audit.publish import publish
from tightseal.audit.tilefiles import FileTileStore
from tightseal.audit.verify import prove_entry
from tightseal.service.tilerows import RowTileStore
from tile_places import RowsPlace, Server, files_in, server_place

WITNESS = NoteSigner("witness.example/w", SignatureType.COSIGNATURE, b"\7" * 32)
SIZES = (1, 2, 255, 256, 257, 700)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, Trust]]:
    """One log as it was published at several sizes, each cosigned."""
    folder = tmp_path_factory.mktemp("logs")
    found = {}
    with opened(folder / "journal.db") as journal:
        trust = Trust(signer_of(journal).key, (WITNESS.key,), 1)
        done = 0
        for size in SIZES:
            append(journal, size - done, since=done)
            done = size
            tiles = folder / str(size)
            store = FileTileStore(tiles)
            publish(journal, store)
            note = parse_note((tiles / "checkpoint").read_bytes())
            line = WITNESS.sign(note.text, now=1_800_000_000)
            signed = Note(note.text, (*note.signatures, line))
            store.write("checkpoint", signed.encode())
            found[size] = tiles, trust
    return found


def test_it_shares_nothing_with_the_product() -> None:
    source = Path(c2sp_reader.__file__).read_text(encoding="utf-8")
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    assert not [name for name in names if name.startswith("tightseal")]


@pytest.mark.parametrize("size", SIZES)
def test_it_reads_checkpoints_tiles_and_bundles(
    logs: dict[int, tuple[Path, Trust]], size: int
) -> None:
    folder, trust = logs[size]
    entries = read_log(in_folder(folder), str(trust.log), [str(WITNESS.key)])
    assert len(entries) == size
    assert len(set(entries)) == size


def test_it_reads_the_same_from_rows_and_over_http(
    logs: dict[int, tuple[Path, Trust]], postgres: Server
) -> None:
    rows = RowsPlace(postgres.new_address())
    with server_place() as server:
        for size in SIZES:
            folder, trust = logs[size]
            keys = str(trust.log), [str(WITNESS.key)]
            entries = read_log(in_folder(folder), *keys)
            rows.fill(files_in(folder))
            server.fill(files_in(folder))
            assert read_log(rows.get, *keys) == entries
            assert read_log(at_address(server.url), *keys) == entries
        server.fill({**files_in(folder), "tile/0/001": bytes(8192)})
        with pytest.raises(BadLogError):
            read_log(at_address(server.url), *keys)


def test_it_reads_what_was_published_to_rows(tmp_path: Path, postgres: Server) -> None:
    place = RowsPlace(postgres.new_address())
    with opened(tmp_path / "journal.db") as journal:
        log = str(signer_of(journal).key)
        done = 0
        for size in (1, 256, 300, 700):
            append(journal, size - done, since=done)
            done = size
            place.log_id = journal.head().log_id
            with RowTileStore(place.dsn, place.log_id) as store, store.alone(wait=True):
                publish(journal, store)
            entries = read_log(place.get, log)
            assert entries == list(journal.leaves(0, size))


@pytest.mark.parametrize("size", SIZES)
def test_it_checks_proofs(logs: dict[int, tuple[Path, Trust]], size: int) -> None:
    folder, trust = logs[size]
    keys = str(trust.log), [str(WITNESS.key)]
    entries = read_log(in_folder(folder), *keys)
    for index in {0, 1, 254, 255, 256, size // 2, size - 1}:
        if index < size:
            proof = prove_entry(FileTileStore(folder), trust, index).encode()
            assert read_proof(proof, entries[index], *keys) == index
            with pytest.raises(BadLogError):
                read_proof(proof, entries[index] + b"x", *keys)


def test_it_finds_what_was_changed(
    logs: dict[int, tuple[Path, Trust]], tmp_path: Path
) -> None:
    """The reader itself can fail, or its agreement would say nothing."""
    folder, trust = logs[257]
    draw = random.Random(1)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    for number in range(40):
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        path = copy / draw.choice(files)
        data = bytearray(path.read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        with pytest.raises((BadLogError, InvalidSignature, ValueError)):
            read_log(in_folder(copy), str(trust.log), [str(WITNESS.key)])


def test_it_wants_the_witness_that_was_asked_for(
    logs: dict[int, tuple[Path, Trust]],
) -> None:
    folder, trust = logs[2]
    other = NoteSigner("other.example", SignatureType.COSIGNATURE, b"\3" * 32)
    note = (folder / "checkpoint").read_bytes()
    read_checkpoint(note, str(trust.log), [str(WITNESS.key)])
    with pytest.raises(BadLogError):
        read_checkpoint(note, str(trust.log), [str(other.key)])
