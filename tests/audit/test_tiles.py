# SPDX-License-Identifier: Apache-2.0
import hashlib
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_support import append, opened, published, signer_of

from tightseal.audit.checkpoint import Trust
from tightseal.audit.entry import entry_bytes, parse_entry
from tightseal.audit.journal import SqliteJournal
from tightseal.audit.merkle import (
    EMPTY,
    MAX_SIZE,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_consistency,
)
from tightseal.audit.proof import LogProof, verify_log_proof
from tightseal.audit.publish import publish
from tightseal.audit.tilefiles import FileTileStore, alone_in
from tightseal.audit.tiles import (
    ENTRIES,
    Tile,
    TileNodes,
    decode_bundle,
    decode_hashes,
    encode_bundle,
    tiles_of,
)
from tightseal.audit.verify import (
    find_entry,
    prove_consistency,
    prove_entry,
    read_checkpoint,
    verify_log,
)
from tightseal.errors import Code, ServiceError
from tightseal.model import canonical

SIZE = 700
"""Two full tiles and a partial one."""


def refused(*codes: Code) -> "pytest.RaisesExc[ServiceError]":
    return pytest.RaisesExc(ServiceError, check=lambda e: e.code in codes)


# -- names ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(1, 999), "tile/1/999"),
        (Tile(0, 1234067), "tile/0/x001/x234/067"),
        (Tile(2, 0, 1), "tile/2/000.p/1"),
        (Tile(ENTRIES, 1000, 255), "tile/entries/x001/000.p/255"),
    ],
)
def test_paths_are_those_of_the_specification(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert Tile.parse(path) == tile


@given(st.integers(-1, 5), st.integers(0, MAX_SIZE >> 8), st.integers(1, 256))
def test_every_tile_has_one_path(level: int, index: int, width: int) -> None:
    tile = Tile(level, index, width)
    assert Tile.parse(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/6/000",
        "tile/-1/000",
        "tile/0/001/000",
        "tile/0/x000/000",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p",
        "tile/0/000/",
        "tile/entries/000\n",
        "tile/0/x001/x001/x001/x001/x001/000",
        "../checkpoint",
        "",
    ],
)
def test_other_paths_name_no_tile(path: str) -> None:
    with refused(Code.LOG_MALFORMED):
        Tile.parse(path)


def test_the_tiles_of_seventy_thousand_entries() -> None:
    # The example of the specification.
    tiles = [tile for tile in tiles_of(70_000) if tile.level != ENTRIES]
    partial = [tile for tile in tiles if tile.width < 256]
    assert [t for t in tiles if t.level == 0 and t.width == 256] == [
        Tile(0, n) for n in range(273)
    ]
    assert partial == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]


# -- contents ---------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_a_bundle_gives_back_its_entries(entries: list[bytes]) -> None:
    data = encode_bundle(entries)
    assert list(decode_bundle(data, len(entries))) == entries


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=9), st.data())
def test_a_bundle_of_another_length_is_refused(
    entries: list[bytes], data: st.DataObject
) -> None:
    whole = encode_bundle(entries)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for changed, count in (
        (whole[:cut], len(entries)),
        (whole + b"\0", len(entries)),
        (whole, len(entries) + 1),
        (whole, len(entries) - 1),
    ):
        with refused(Code.LOG_MALFORMED):
            decode_bundle(changed, count)


def test_an_entry_that_no_bundle_holds() -> None:
    encode_bundle([bytes(65_535)])
    with refused(Code.LOG_MALFORMED):
        encode_bundle([bytes(65_536)])


def test_a_tile_has_whole_hashes() -> None:
    assert decode_hashes(bytes(64), 2) == (bytes(32), bytes(32))
    for data, width in ((bytes(63), 2), (bytes(96), 2), (b"", 0)):
        with refused(Code.LOG_MALFORMED):
            decode_hashes(data, width)


# -- publishing -------------------------------------------------------------------


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[FileTileStore, Trust]:
    return published(tmp_path_factory.mktemp("log"), SIZE)


def files(store: FileTileStore) -> dict[str, bytes]:
    found = {}
    for path in store.paths(0):
        data = store.read(path)
        assert data is not None
        found[path] = data
    return found


def test_a_published_log_verifies(log: tuple[FileTileStore, Trust]) -> None:
    store, trust = log
    seen: list[bytes] = []
    audited = verify_log(store, trust, each=lambda _index, data: seen.append(data))
    assert audited.head.checkpoint.size == SIZE
    assert audited.ahead == ()
    assert audited.files == len(files(store)) - 1
    assert [parse_entry(e).entry_id for e in seen] == [
        n.to_bytes(16, "big") for n in range(SIZE)
    ]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_proofs_from_tiles_are_those_of_the_tree(
    log: tuple[FileTileStore, Trust], data: st.DataObject
) -> None:
    store, trust = log
    size = data.draw(st.integers(1, SIZE))
    index = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(0, size))
    entries: list[bytes] = []
    verify_log(store, trust, each=lambda _index, entry: entries.append(entry))
    tree, found = EMPTY.extended(leaf_hash(e) for e in entries[:size])

    def node(level: int, at: int) -> bytes:
        return found[level, at]

    # Partial tiles of other sizes are gone, so the full tree's stand in for them.
    whole = TileNodes(store, SIZE)
    assert inclusion_proof(index, size, whole) == inclusion_proof(index, size, node)
    proof = consistency_proof(old, size, whole)
    assert proof == consistency_proof(old, size, node)
    before, _ = EMPTY.extended(leaf_hash(e) for e in entries[:old])
    verify_consistency(
        old=old, new=size, old_root=before.root(), new_root=tree.root(), proof=proof
    )


@pytest.mark.parametrize("steps", [(1,), (255, 1), (256, 1), (1, 255, 256, 100)])
def test_publishing_in_steps_gives_the_tiles_of_one_step(
    tmp_path: Path, steps: tuple[int, ...]
) -> None:
    store, once = FileTileStore(tmp_path / "a"), FileTileStore(tmp_path / "b")
    with opened(tmp_path / "journal.db") as journal:
        done = 0
        for step in steps:
            append(journal, step, since=done)
            done += step
            assert publish(journal, store).size == done
            verify_log(store, Trust(signer_of(journal).key))
        publish(journal, once)
    whole = files(once)
    stepped = files(store)
    # Every checkpoint's partial tiles stay until their full one is there.
    left = {path for path in stepped if path not in whole}
    assert all(Tile.parse(path).width < 256 for path in left)
    assert {p: d for p, d in stepped.items() if p not in left} == whole
    full = {Tile.parse(p) for p in whole if p != "checkpoint"}
    assert not [p for p in left if Tile.parse(p).full in full]


def test_nothing_new_changes_nothing(tmp_path: Path) -> None:
    store, _ = published(tmp_path, 300)
    before = {p: (tmp_path / "tiles" / p).stat().st_mtime_ns for p in store.paths(0)}
    with opened(tmp_path / "journal.db") as journal:
        assert publish(journal, store).size == 300
    after = {p: (tmp_path / "tiles" / p).stat().st_mtime_ns for p in store.paths(0)}
    assert after == before


class CrashError(Exception):
    pass


class Crashing(FileTileStore):
    """Ends after so many calls that change something."""

    left = 0

    def _step(self) -> None:
        if self.left <= 0:
            raise CrashError
        self.left -= 1

    def write(self, path: str, data: bytes) -> None:
        self._step()
        super().write(path, data)

    def remove(self, path: str) -> None:
        self._step()
        super().remove(path)


def test_a_crash_at_any_step_is_mended_by_the_next_time(tmp_path: Path) -> None:
    with opened(tmp_path / "journal.db") as journal:
        trust = Trust(signer_of(journal).key)
        append(journal, 200)
        crashed = 0
        for at in range(40):
            folder = tmp_path / f"{at}"
            publish(journal, FileTileStore(folder))
        append(journal, 400, since=200)
        for at in range(40):
            store = Crashing(tmp_path / f"{at}")
            store.left = at
            try:
                publish(journal, store)
            except CrashError:
                crashed += 1
                # What was published is whole still.
                assert verify_log(store, trust).head.checkpoint.size in {200, 600}
            again = FileTileStore(tmp_path / f"{at}")
            assert publish(journal, again).size == 600
            verify_log(again, trust)
        assert 5 < crashed < 40


def test_a_journal_that_was_cut_does_not_take_published_entries_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.db"
    with opened(path) as journal:
        append(journal, 10)
    older = path.read_bytes()
    store = FileTileStore(tmp_path / "tiles")
    with opened(path) as journal:
        append(journal, 10, since=10)
        publish(journal, store)
    for leftover in tmp_path.glob("journal.db-*"):
        leftover.unlink()
    path.write_bytes(older)
    with opened(path) as journal, refused(Code.LOG_TAMPERED):
        publish(journal, store)
    with opened(path) as journal:
        append(journal, 30, since=500)
        # Longer than what was published, with another past.
        with refused(Code.LOG_TAMPERED):
            publish(journal, store)
        append(journal, 300, since=1000)
        with refused(Code.LOG_TAMPERED):
            publish(journal, store)


def test_tiles_of_another_log_are_not_continued(tmp_path: Path) -> None:
    store, _ = published(tmp_path, 5)
    with opened(tmp_path / "other.db") as other:
        append(other, 9)
        with refused(Code.LOG_TAMPERED):
            publish(other, store)


def test_changed_tiles_are_not_continued(tmp_path: Path) -> None:
    store, _ = published(tmp_path, 300)
    tile = tmp_path / "tiles" / "tile/1/000.p/1"
    tile.write_bytes(bytes(32))
    with opened(tmp_path / "journal.db") as journal:
        append(journal, 1, since=300)
        with refused(Code.LOG_TAMPERED):
            publish(journal, store)


def test_a_log_without_entries_or_key_is_not_published(tmp_path: Path) -> None:
    store = FileTileStore(tmp_path / "tiles")
    with opened(tmp_path / "journal.db") as journal, refused(Code.LOG_MISSING):
        publish(journal, store)
    unsigned = SqliteJournal.create(tmp_path / "unsigned.db")
    append(unsigned, 1)
    with refused(Code.LOG_UNDERSIGNED):
        publish(unsigned, store)
    unsigned.close()
    with refused(Code.LOG_MISSING):
        read_checkpoint(store, None)  # type: ignore[arg-type]


# -- proofs -----------------------------------------------------------------------


def test_a_proof_is_whole_in_one_file(log: tuple[FileTileStore, Trust]) -> None:
    store, trust = log
    for index in (0, 255, 256, SIZE - 1):
        proof = LogProof.parse(prove_entry(store, trust, index).encode())
        assert proof.index == index
        assert parse_entry(proof.extra).entry_id == index.to_bytes(16, "big")
        verify_log_proof(proof, leaf=leaf_hash(proof.extra), trust=trust)
        with refused(Code.LOG_PROOF_INVALID):
            verify_log_proof(proof, leaf=leaf_hash(b"other"), trust=trust)
    with refused(Code.LOG_PROOF_INVALID):
        prove_entry(store, trust, SIZE)


def test_an_entry_is_found_by_what_it_says(log: tuple[FileTileStore, Trust]) -> None:
    store, _ = log
    wanted = (600).to_bytes(16, "big")
    assert find_entry(store, SIZE, lambda e: parse_entry(e).entry_id == wanted) == 600
    with refused(Code.LOG_MISSING):
        find_entry(store, SIZE, lambda _entry: False)


def test_consistency_from_tiles(log: tuple[FileTileStore, Trust]) -> None:
    store, trust = log
    head = read_checkpoint(store, trust).checkpoint
    for old in (1, 256, 511, 512, SIZE):
        verify_consistency(
            old=old,
            new=SIZE,
            old_root=_root_at(store, old),
            new_root=head.root,
            proof=prove_consistency(store, old, SIZE),
        )


def _root_at(store: FileTileStore, size: int) -> bytes:
    entries: list[bytes] = []
    for path in sorted(p for p in store.paths(0) if "entries" in p):
        data = store.read(path)
        assert data is not None
        entries += decode_bundle(data, Tile.parse(path).width)
    return EMPTY.extended(leaf_hash(e) for e in entries[:size])[0].root()


PROOF_DEFECTS = {
    "another_version": lambda d: d.replace(b"@v1", b"@v2", 1),
    "no_index": lambda d: d.replace(b"index ", b"place ", 1),
    "index_with_a_zero_before": lambda d: d.replace(b"index ", b"index 0", 1),
    "no_checkpoint": lambda d: d.partition(b"\n\n")[0],
    "hash_that_is_short": lambda d: d.replace(b"\n\n", b"\nAAAA\n\n", 1),
    "too_many_hashes": lambda d: d.replace(
        b"\n\n", b"\n" + b"\n".join([b"A" * 43 + b"="] * 64) + b"\n\n", 1
    ),
    "extra_that_is_no_base64": lambda d: d.replace(b"extra ", b"extra !", 1),
    "not_ascii": lambda d: b"\xff" + d,
    "too_long": lambda d: d + bytes(1 << 20),
}


@pytest.mark.parametrize("defect", PROOF_DEFECTS)
def test_malformed_proof(log: tuple[FileTileStore, Trust], defect: str) -> None:
    data = prove_entry(*log, 300).encode()
    with refused(Code.LOG_MALFORMED):
        LogProof.parse(PROOF_DEFECTS[defect](data))


# -- entries ----------------------------------------------------------------------


def test_a_body_too_long_for_the_log_is_named_by_its_hash() -> None:
    for length in (10, 59_000, 200_000):
        body = canonical.encode({"detail": "x" * length})
        data = entry_bytes((bytes(16), 5, 1, "v1", "granted", body))
        assert len(data) <= 65_535
        found = parse_entry(data)
        assert found.body_hash == hashlib.sha256(body).digest()
        assert (found.body is None) is (length > 60_000)


@settings(max_examples=300)
@given(st.binary(max_size=80))
def test_what_is_no_entry_is_refused(data: bytes) -> None:
    with refused(Code.LOG_MALFORMED):
        parse_entry(data)


def test_sqlite_says_one_row_for_each_leaf(tmp_path: Path) -> None:
    with opened(tmp_path / "journal.db") as journal:
        append(journal, 600)
        assert journal.head().frontier.size == 600
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        assert connection.execute("SELECT count(*) FROM tile").fetchone()[0] == 2
        assert connection.execute("SELECT max(seq) FROM journal").fetchone()[0] == 600
    connection.close()


# -- one writer at a time ---------------------------------------------------------


def test_a_folder_is_held_against_threads_and_processes(tmp_path: Path) -> None:
    folder = tmp_path / "tiles"
    code = (
        "import sys; from pathlib import Path;"
        "from tightseal.audit.tilefiles import alone_in;"
        "alone_in(Path(sys.argv[1]), wait=False).__enter__()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with alone_in(folder, wait=False):
        with refused(Code.STATE_CONFLICT), alone_in(folder, wait=False):
            pass
        other = subprocess.run(command, capture_output=True, check=False)
        assert b"state_conflict" in other.stderr
        waiting = threading.Thread(target=lambda: entered.append(hold(folder)))
        entered: list[bool] = []
        waiting.start()
        waiting.join(0.2)
        assert entered == []
    waiting.join(10)
    assert entered == [True]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def hold(folder: Path) -> bool:
    with alone_in(folder, wait=True):
        return True


def test_what_fails_inside_is_not_taken_for_the_lock(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), alone_in(tmp_path, wait=False):
        raise PermissionError
    with alone_in(tmp_path, wait=False):
        pass
