# SPDX-License-Identifier: Apache-2.0
"""The log in the journal's file: signed with each commit, refused once changed."""

import os
import random
import shutil
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from journal_worker import entry_of, log_key
from log_support import append, opened, signer_of

from tightseal.audit import log as log_module
from tightseal.audit import schema as schema_module
from tightseal.audit.checkpoint import Trust, verify_checkpoint
from tightseal.audit.journal import FileMode, SqliteJournal
from tightseal.audit.logfile import check_journal, is_signed, rekey
from tightseal.audit.merkle import EMPTY, leaf_hash
from tightseal.errors import Code, ServiceError

SIZE = 600


def refused(code: Code = Code.LOG_TAMPERED) -> "pytest.RaisesExc[ServiceError]":
    return pytest.RaisesExc(ServiceError, check=lambda e: e.code is code)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "journal.db"
    with opened(path) as journal:
        append(journal, SIZE)
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "journal.db"))


def execute(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_every_commit_is_signed(tmp_path: Path) -> None:
    with opened(tmp_path / "journal.db") as journal:
        trust = Trust(signer_of(journal).key)
        for size in range(1, 6):
            append(journal, 1, since=size)
            head = journal.head()
            stated = verify_checkpoint(head.checkpoint, trust).checkpoint
            tree, _ = EMPTY.extended(map(leaf_hash, journal.leaves(0, size)))
            assert (stated.size, stated.root) == (size, tree.root())
            assert head.frontier == tree


def test_two_logs_have_two_names_and_keys(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as one, opened(tmp_path / "b.db") as two:
        assert signer_of(one).key.name != signer_of(two).key.name
        assert signer_of(one).key.public_key != signer_of(two).key.public_key


def test_a_refused_entry_takes_no_place(tmp_path: Path) -> None:
    with opened(tmp_path / "journal.db") as journal:
        append(journal, 3)
        with refused(Code.JOURNAL_FAILED):
            journal.record(entry_of(bytes(16)), redemption=None, response=b"")
        append(journal, 1, since=9)
        assert journal.head().frontier.size == 4
    assert check_journal(tmp_path / "journal.db", log_key).frontier.size == 4


def test_a_whole_log_passes_the_check_at_start(path: Path) -> None:
    assert check_journal(path, log_key).frontier.size == SIZE


FIELDS = {
    "entry_id": "randomblob(16)",
    "time": "time + 1",
    "granted": "1 - granted",
    "class": "'legacy'",
    "code": "'other'",
    "body": "x'a0'",
}
PUT_IN = """INSERT INTO journal
 SELECT seq + 1, randomblob(16), time, granted, class, code,
 body
 FROM journal ORDER BY seq DESC LIMIT 1"""
DEFECTS: dict[str, tuple[str, ...]] = {
    f"{field}_changed": (f"UPDATE journal SET {field} = {value} WHERE seq = {{at}}",)
    for field, value in FIELDS.items()
} | {
    "entry_dropped": ("DELETE FROM journal WHERE seq = {at}",),
    "last_entry_cut": (f"DELETE FROM journal WHERE seq = {SIZE}",),
    "many_cut": ("DELETE FROM journal WHERE seq > {at}",),
    "cut_with_its_size": (
        "DELETE FROM journal WHERE seq > {at}",
        "UPDATE log SET size = {at}",
    ),
    "two_swapped": (
        "UPDATE journal SET seq = -1 WHERE seq = {at}",
        "UPDATE journal SET seq = {at} WHERE seq = {at} - 1",
        "UPDATE journal SET seq = {at} - 1 WHERE seq = -1",
    ),
    "entry_put_in": (PUT_IN,),
    "head_dropped": ("DELETE FROM log",),
    "root_changed": ("UPDATE log SET frontier = zeroblob(length(frontier))",),
    "frontier_cut": ("UPDATE log SET frontier = x''",),
    "size_raised": ("UPDATE log SET size = size + 1",),
    "checkpoint_dropped": ("UPDATE log SET checkpoint = x''",),
    "other_log_id": ("UPDATE log SET log_id = randomblob(16)",),
    "tile_changed": ("UPDATE tile SET hash = zeroblob(32) WHERE place = 1",),
    "tile_dropped": ("DELETE FROM tile WHERE place = 0",),
    "tile_put_in": ("INSERT INTO tile VALUES (2, zeroblob(32))",),
    "emptied": (
        "DELETE FROM journal",
        "DELETE FROM tile",
        "UPDATE log SET size = 0, frontier = x''",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_changed_log_does_not_start(path: Path, defect: str) -> None:
    draw = random.Random(defect)
    for _ in range(5):
        copy = Path(shutil.copy(path, path.with_name("copy.db")))
        at = draw.randrange(2, SIZE)
        execute(copy, *(s.format(at=at) for s in DEFECTS[defect]))
        with refused():
            check_journal(copy, log_key)


SIZES = (0, 1, 255, 256, 257, 300, 511, 512, 513, SIZE)


def test_the_root_at_any_size_is_the_trees(path: Path) -> None:
    with opened(path) as journal:
        append(journal, 300, since=1000)
        hashes = [leaf_hash(leaf) for leaf in journal.leaves(0, SIZE)]
        for size in SIZES:
            assert journal.root_at(size) == EMPTY.extended(hashes[:size])[0].root()
        with refused():
            journal.root_at(SIZE + 301)


@pytest.mark.parametrize("seq", [7, 290, SIZE])
def test_an_entry_changed_behind_a_tile_or_the_head_has_no_root(
    path: Path, seq: int
) -> None:
    with opened(path) as journal:
        execute(path, f"UPDATE journal SET time = 7 WHERE seq = {seq}")
        with refused():
            journal.root_at(seq)


@pytest.mark.parametrize("value", ["'a text'", "x'00'", "7", "NULL"])
def test_a_tile_of_a_type_that_is_never_written_is_refused(
    path: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file says what type a value has, and a large one is not checked by page."""
    monkeypatch.setattr(schema_module, "QUICK_CHECK_MAX_BYTES", 0)
    schema = "SELECT sql FROM sqlite_schema WHERE name = 'tile'"
    with closing(sqlite3.connect(path)) as connection:
        ours = connection.execute(schema).fetchone()[0]
    loose = ours.replace(" STRICT", "").replace(" BLOB NOT NULL", "")

    def set_schema(sql: str) -> tuple[str, ...]:
        quoted = sql.replace("'", "''")
        update = f"UPDATE sqlite_schema SET sql = '{quoted}' WHERE name = 'tile'"
        return "PRAGMA writable_schema = ON", update, "PRAGMA writable_schema = RESET"

    changed = f"UPDATE tile SET hash = {value} WHERE place = 1"
    execute(path, *set_schema(loose))
    execute(path, changed, *set_schema(ours))
    with refused(), opened(path) as journal:
        journal.root_at(SIZE)
    with refused():
        check_journal(path, log_key)


def test_any_byte_of_an_entry_that_is_flipped_is_found(path: Path) -> None:
    draw = random.Random(5)
    for _ in range(60):
        copy = Path(shutil.copy(path, path.with_name("copy.db")))
        connection = sqlite3.connect(copy, isolation_level=None)
        column = draw.choice(["entry_id", "body"])
        at = draw.randrange(1, SIZE + 1)
        (held,) = connection.execute(
            f"SELECT {column} FROM journal WHERE seq = ?", (at,)
        ).fetchone()
        data = bytearray(held)
        # An id counts up from its end, where a flip would meet another one.
        data[draw.randrange(len(data) if column == "body" else 8)] ^= (
            1 << draw.randrange(8)
        )
        connection.execute(
            f"UPDATE journal SET {column} = ? WHERE seq = ?", (bytes(data), at)
        )
        connection.close()
        with refused():
            check_journal(copy, log_key)


def test_another_providers_key_does_not_open_a_log(path: Path) -> None:
    with refused():
        check_journal(path, lambda _log_id: bytes(32))
    with refused():
        SqliteJournal.open(path, log_key=lambda _log_id: bytes(32))


def test_a_signed_log_takes_nothing_without_its_key(path: Path) -> None:
    journal = SqliteJournal.open(path)
    with refused(Code.JOURNAL_FAILED):
        journal.record(entry_of(os.urandom(16)), redemption=None, response=b"")
    assert journal.latest() == SIZE
    journal.close()


def test_older_entries_are_left_to_the_full_check(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "CHECKED_AT_START", 300)
    execute(path, "UPDATE journal SET time = 1 WHERE seq = 10")
    check_journal(path, log_key)
    with refused():
        check_journal(path, log_key, whole=True)
    execute(path, "UPDATE journal SET time = 1 WHERE seq = 400")
    with refused():
        check_journal(path, log_key)


@pytest.mark.parametrize("mode", FileMode)
def test_a_log_is_checked_while_it_grows(tmp_path: Path, mode: FileMode) -> None:
    path = tmp_path / "journal.db"
    SqliteJournal.create(path, mode=mode, log_key=log_key).close()
    ended = threading.Event()
    sizes: list[int] = []

    def check() -> None:
        while not ended.is_set():
            sizes.append(check_journal(path, log_key, whole=True).frontier.size)

    with opened(path) as journal, ThreadPoolExecutor(1) as pool:
        checking = pool.submit(check)
        number = 0
        while number < 900 or (len(set(sizes)) < 3 and not checking.done()):
            append(journal, 3, since=number)
            number += 3
        ended.set()
        checking.result(timeout=60)
    assert sizes == sorted(sizes)


# -- under a running provider -----------------------------------------------------

LIVE: dict[str, Callable[[Path], None]] = {
    "entry_cut": lambda p: execute(p, f"DELETE FROM journal WHERE seq > {SIZE}"),
    "entry_put_in": lambda p: execute(p, *DEFECTS["entry_put_in"]),
    "head_changed": lambda p: execute(p, *DEFECTS["root_changed"]),
    "checkpoint_changed": lambda p: execute(p, *DEFECTS["checkpoint_dropped"]),
    "head_dropped": lambda p: execute(p, *DEFECTS["head_dropped"]),
    "emptied": lambda p: execute(p, *DEFECTS["emptied"]),
}


@pytest.mark.parametrize("defect", LIVE)
def test_a_log_changed_under_a_running_provider_takes_no_entry(
    path: Path, defect: str
) -> None:
    with opened(path) as journal:
        journal.record(entry_of(os.urandom(16)), redemption=None, response=b"")
        LIVE[defect](path)
        journal.require_alive()
        for _ in range(2):
            with refused():
                journal.record(entry_of(os.urandom(16)), redemption=None, response=b"")
        with refused():
            journal.require_alive()


def test_a_log_put_back_under_a_running_provider_is_refused(path: Path) -> None:
    with opened(path) as journal:
        append(journal, 1, since=1000)
        older = sqlite3.connect(path)
        copy = sqlite3.connect(path.with_name("older.db"))
        older.backup(copy)
        append(journal, 1, since=1001)
        copy.backup(older)
        copy.close()
        older.close()
        with refused():
            append(journal, 1, since=1002)


def test_a_log_put_back_between_the_start_and_the_first_entry_is_refused(
    path: Path,
) -> None:
    older = Path(shutil.copy(path, path.with_name("older.db")))
    with opened(path) as journal:
        append(journal, 1, since=1000)
    with opened(path) as journal:
        with (
            closing(sqlite3.connect(older)) as copy,
            closing(sqlite3.connect(path)) as at,
        ):
            copy.backup(at)
        with refused():
            append(journal, 1, since=1001)


def test_a_fork_made_by_a_second_copy_is_refused_where_it_comes_back(
    path: Path,
) -> None:
    """Both heads are signed by the one key, and the later one is not our future."""
    with opened(path) as journal:
        append(journal, 1, since=1000)
        fork = path.with_name("fork.db")
        source, target = sqlite3.connect(path), sqlite3.connect(fork)
        source.backup(target)
        append(journal, 1, since=2000)
        with opened(fork) as other:
            append(other, 5, since=3000)
        target.backup(source)
        source.close()
        target.close()
        with refused():
            append(journal, 1, since=4000)


def test_two_processes_append_to_one_log(path: Path) -> None:
    with opened(path) as one, opened(path) as two:
        for number in range(0, 60, 3):
            append(one, 2, since=1000 + number)
            append(two, 1, since=1002 + number)
    assert check_journal(path, log_key).frontier.size == SIZE + 60


def test_an_unsigned_entry_of_another_process_is_not_followed(path: Path) -> None:
    with opened(path) as journal:
        append(journal, 1, since=1000)
        head = journal.head()
        entry = (os.urandom(16), 5, 1, "v1", "granted", b"\xa0")
        leaf = leaf_hash(log_module.entry_bytes(entry))
        grown, _ = head.frontier.extended([leaf])
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(
            "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?)", (grown.size, *entry)
        )
        connection.execute(
            "UPDATE log SET size = ?, frontier = ?",
            (grown.size, b"".join(grown.hashes)),
        )
        connection.close()
        with refused():
            append(journal, 1, since=1001)


# -- another key ------------------------------------------------------------------


def other_key(log_id: bytes) -> bytes:
    return log_key(b"renewed" + log_id)


def test_a_log_goes_on_under_another_key(path: Path) -> None:
    with opened(path) as journal:
        before = journal.head()
    assert is_signed(path, log_key)
    assert not is_signed(path, other_key)
    rekey(path, before=log_key, after=other_key)
    assert is_signed(path, other_key)
    assert not is_signed(path, log_key)
    after = check_journal(path, other_key, whole=True)
    assert (after.log_id, after.frontier) == (before.log_id, before.frontier)
    journal = SqliteJournal.open(path, log_key=other_key)
    append(journal, 3, since=5000)
    journal.close()
    with refused():
        check_journal(path, log_key)


@pytest.mark.parametrize("defect", ["body_changed", "last_entry_cut", "tile_changed"])
def test_a_changed_log_gets_no_other_key(path: Path, defect: str) -> None:
    execute(path, *(s.format(at=SIZE - 5) for s in DEFECTS[defect]))
    with refused():
        rekey(path, before=log_key, after=other_key)
    assert is_signed(path, log_key)


def test_a_log_without_entries_is_signed_by_nobody(tmp_path: Path) -> None:
    with opened(tmp_path / "journal.db"):
        assert not is_signed(tmp_path / "journal.db")
    check_journal(tmp_path / "journal.db", other_key)
