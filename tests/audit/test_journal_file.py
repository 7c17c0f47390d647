# SPDX-License-Identifier: Apache-2.0
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from journal_worker import NOW, entry_of

from tightseal.audit.journal import FileMode, SqliteJournal
from tightseal.errors import Code, ServiceError
from tightseal.model.ports import NonceRedemption

BOTH = pytest.mark.parametrize("mode", FileMode)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def refused(what: str) -> "pytest.RaisesExc[ServiceError]":
    return pytest.RaisesExc(
        ServiceError, match=what, check=lambda e: e.code is Code.JOURNAL_FAILED
    )


def fill(path: Path, mode: FileMode = FileMode.WAL, count: int = 3) -> None:
    journal = SqliteJournal.create(path, mode=mode)
    for n in range(count):
        entry = entry_of(n.to_bytes(16, "big"))
        journal.record(entry, redemption=None, response=b"")
    journal.close()


def tamper(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_missing_file_is_not_a_fresh_start(path: Path) -> None:
    with refused("missing"):
        SqliteJournal.open(path)
    assert not path.exists()


@BOTH
def test_create_refuses_an_existing_journal(path: Path, mode: FileMode) -> None:
    fill(path, mode)
    with refused("FileExistsError"):
        SqliteJournal.create(path, mode=mode)
    journal = SqliteJournal.open(path)
    assert len(journal.entries()) == 3
    journal.close()


def test_create_needs_its_folder(path: Path) -> None:
    with refused("FileNotFoundError"):
        SqliteJournal.create(path / "journal.db")
    with refused("FileNotFoundError"):
        SqliteJournal.open_or_create(path / "journal.db")


@BOTH
def test_open_or_create_keeps_what_is_there(path: Path, mode: FileMode) -> None:
    for expected in (0, 1, 2):
        journal = SqliteJournal.open_or_create(path, mode=mode)
        assert len(journal.entries()) == expected
        entry = entry_of(expected.to_bytes(16, "big"))
        journal.record(entry, redemption=None, response=b"")
        journal.close()


def test_crash_while_creating_is_finished_by_the_next_start(path: Path) -> None:
    path.touch()
    with refused("not a journal"):
        SqliteJournal.open(path)
    with refused("FileExistsError"):
        SqliteJournal.create(path)
    SqliteJournal.open_or_create(path).close()
    SqliteJournal.open(path).close()


@BOTH
def test_processes_that_start_at_once_share_one_file(
    tmp_path: Path, mode: FileMode
) -> None:
    for round_ in range(10):
        path = tmp_path / f"{round_}.db"

        def start(n: int, path: Path = path) -> None:
            journal = SqliteJournal.open_or_create(path, mode=mode)
            entry = entry_of(n.to_bytes(16, "big"))
            journal.record(entry, redemption=None, response=b"")
            journal.close()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(start, range(4)))
        journal = SqliteJournal.open(path)
        assert len(journal.entries()) == 4
        journal.close()


@BOTH
def test_mode_stays_with_the_file(path: Path, mode: FileMode) -> None:
    fill(path, mode)
    other = FileMode.WAL if mode is FileMode.ROLLBACK else FileMode.ROLLBACK
    journal = SqliteJournal.open_or_create(path, mode=other)
    journal.record(entry_of(bytes(15) + b"\x63"), redemption=None, response=b"")
    assert (path.parent / "journal.db-wal").exists() is (mode is FileMode.WAL)
    journal.close()


FOREIGN = {
    "trigger": ("CREATE TRIGGER t AFTER INSERT ON journal BEGIN SELECT 1; END",),
    "extra table": ("CREATE TABLE extra (a)",),
    "extra index": ("CREATE INDEX by_code ON journal (code)",),
    "view in place of a table": (
        "DROP TABLE redeemed",
        "CREATE VIEW redeemed AS SELECT 1 AS nonce_hash",
    ),
    "table without its key": (
        "DROP TABLE redeemed",
        "CREATE TABLE redeemed (nonce_hash, expires_at, request_hash, response)",
    ),
    "table missing": ("DROP TABLE purged",),
    "later version": ("PRAGMA user_version = 3",),
    "another application": ("PRAGMA application_id = 7",),
}


@pytest.mark.parametrize("defect", FOREIGN)
def test_foreign_schema_is_refused(path: Path, defect: str) -> None:
    fill(path)
    tamper(path, *FOREIGN[defect])
    with refused(r"schema|version|not a journal"):
        SqliteJournal.open(path)
    with refused(r"schema|version|not a journal"):
        SqliteJournal.open_or_create(path)


def test_database_of_another_program_is_refused(path: Path) -> None:
    tamper(path, "CREATE TABLE theirs (a)")
    with refused("not a journal"):
        SqliteJournal.open_or_create(path)


def test_garbage_is_refused(path: Path) -> None:
    content = b"not a database at all" * 100
    path.write_bytes(content)
    with refused("NOTADB"):
        SqliteJournal.open(path)
    with refused("NOTADB"):
        SqliteJournal.open_or_create(path)
    assert path.read_bytes() == content


def test_folder_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    with refused("missing"):
        SqliteJournal.open(path)


@pytest.mark.parametrize("cut", [0.5, 0.9])
def test_truncated_file_is_refused(path: Path, cut: float) -> None:
    fill(path, count=300)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * cut)])
    with refused(r"damaged|CORRUPT"):
        SqliteJournal.open(path)


def test_damaged_page_is_refused(path: Path) -> None:
    fill(path, count=300)
    data = bytearray(path.read_bytes())
    data[5 * 4096 : 5 * 4096 + 64] = b"\xff" * 64
    path.write_bytes(data)
    with refused(r"damaged|CORRUPT"):
        SqliteJournal.open(path)


@pytest.mark.parametrize("body", ["00", "ff", "1817", "a2616101616101", "c24101", ""])
def test_changed_entry_that_is_no_canonical_value_is_reported(
    path: Path, body: str
) -> None:
    fill(path)
    tamper(path, f"UPDATE journal SET body = x'{body}' WHERE seq = 2")
    journal = SqliteJournal.open(path)
    if body == "00":
        assert journal.entries()[1].entry.body == 0
    else:
        with refused("entry 2 is damaged"):
            journal.entries()
    journal.close()


def test_removed_file_takes_no_entry(path: Path) -> None:
    journal = SqliteJournal.create(path)
    journal.record(entry_of(bytes(16)), redemption=None, response=b"")
    path.unlink()
    with refused("recording"):
        journal.record(entry_of(b"\1" * 16), redemption=None, response=b"")
    journal.close()


def test_exchanged_file_takes_no_entry(path: Path) -> None:
    journal = SqliteJournal.create(path)
    fill(path.with_name("other.db"))
    path.with_name("other.db").rename(path)
    with refused("not the file that was opened"):
        journal.record(entry_of(b"\1" * 16), redemption=None, response=b"")
    journal.close()


def test_a_host_that_removes_the_mark_of_purging_stops_no_writer(path: Path) -> None:
    journal = SqliteJournal.create(path)
    tamper(path, "DELETE FROM purged")
    redemption = NonceRedemption(b"n" * 32, NOW + 60, b"h" * 32)
    for number in (1, 2):
        entry = entry_of(number.to_bytes(16, "big"))
        with refused("mark of purging"):
            journal.record(entry, redemption=redemption, response=b"R")
        journal.require_alive()
    entry = entry_of((3).to_bytes(16, "big"))
    assert journal.record(entry, redemption=None, response=b"R") == b"R"
    journal.close()
    with refused("closed"):
        journal.require_alive()
