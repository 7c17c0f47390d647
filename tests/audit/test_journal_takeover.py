# SPDX-License-Identifier: Apache-2.0
"""A journal of before the log is given one: whole, once, whenever it is killed."""

import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import takeover_worker
from journal_worker import NOW, entry_of, log_key, redemption_of, response_of
from takeover_worker import ENTRY_ID

from tightseal.audit import upgrade
from tightseal.audit.entry import parse_entry
from tightseal.audit.journal import FileMode, SqliteJournal
from tightseal.audit.logfile import check_journal
from tightseal.audit.upgrade import TakenOver, take_over_journal
from tightseal.errors import Code, ServiceError

BOTH = pytest.mark.parametrize("mode", FileMode)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def execute(path: Path, *statements: str) -> list[Any]:
    """The rows of the last statement; all of them are committed."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        found: list[Any] = []
        for statement in statements:
            found = connection.execute(statement).fetchall()
        return found


def before_the_log(
    path: Path, count: int, mode: FileMode = FileMode.WAL
) -> list[tuple[Any, ...]]:
    """A journal as it was before the log, and its entries."""
    journal = SqliteJournal.create(path, mode=mode)
    waiting = [
        journal.submit(
            entry_of(number.to_bytes(16, "big")),
            redemption=redemption_of(number.to_bytes(16, "big"), b"request"),
            response=response_of(number.to_bytes(16, "big")),
        )
        for number in range(count)
    ]
    for done in waiting:
        done.result(timeout=30)
    journal.close()
    execute(path, "DROP TABLE log", "DROP TABLE tile", "PRAGMA user_version = 1")
    return entries(path)


def entries(path: Path) -> list[tuple[Any, ...]]:
    return execute(path, "SELECT * FROM journal ORDER BY seq")


def marked(before: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """These entries as they are taken over: their class says that nobody signed."""
    return [(*row[:4], f"unsigned-{row[4]}", *row[5:]) for row in before]


def taken_over(path: Path) -> TakenOver | None:
    return take_over_journal(path, log_key, entry_id=ENTRY_ID, now=NOW)


def refusal(path: Path) -> ServiceError:
    """The refusal, which leaves the file as it was."""
    with pytest.raises(ServiceError) as refused:
        taken_over(path)
    assert execute(path, "PRAGMA user_version") == [(1,)]
    return refused.value


@BOTH
@pytest.mark.parametrize("count", [0, 1, 2, 256, 700])
def test_every_entry_becomes_a_leaf_in_its_place(
    path: Path, count: int, mode: FileMode
) -> None:
    before = before_the_log(path, count, mode)
    taken = taken_over(path)
    assert taken is not None
    assert taken.entries == count
    assert entries(path)[:count] == marked(before)
    head = check_journal(path, log_key, whole=True)
    assert head.frontier.size == count + 1
    journal = SqliteJournal.open(path, log_key=log_key)
    assert journal.root_at(count) == taken.root
    (last,) = journal.entries(after=count)
    assert (last.entry.protocol_class, last.entry.code) == ("log", "taken-over")
    assert last.entry.body == {"entries": count, "root": taken.root}
    for number in range(min(count, 3)):
        nonce = number.to_bytes(16, "big")
        kept = journal.kept_response(redemption_of(nonce, b"request"))
        assert kept == response_of(nonce)
    journal.record(entry_of(os.urandom(16)), redemption=None, response=b"")
    journal.close()
    assert check_journal(path, log_key, whole=True).frontier.size == count + 2


def test_no_leaf_of_it_is_one_that_a_provider_signs_of_its_own(path: Path) -> None:
    """A host can make such a file at any time; nothing in it passes for an entry."""
    journal = SqliteJournal.create(path, log_key=log_key)
    for number in range(5):
        entry = entry_of(number.to_bytes(16, "big"))
        journal.record(entry, redemption=None, response=b"")
    own = journal.leaves(0, 5)
    journal.close()
    execute(path, "DROP TABLE log", "DROP TABLE tile", "PRAGMA user_version = 1")
    taken_over(path)
    journal = SqliteJournal.open(path, log_key=log_key)
    leaves = [parse_entry(leaf) for leaf in journal.leaves(0, 5)]
    journal.close()
    assert {leaf.protocol_class for leaf in leaves} == {"unsigned-v1"}
    assert {parse_entry(leaf).protocol_class for leaf in own} == {"v1"}


@BOTH
def test_an_entry_whose_mark_is_taken_off_meanwhile_is_not_signed(
    path: Path, mode: FileMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit into memory lies with the host until it is read again."""
    before = before_the_log(path, 300, mode)
    read = upgrade.read_leaves

    def read_after_the_host(
        connection: sqlite3.Connection, *span: int, **options: str
    ) -> list[bytes]:
        connection.execute("UPDATE journal SET class = 'v1' WHERE seq = 7")
        return read(connection, *span, **options)

    monkeypatch.setattr(upgrade, "read_leaves", read_after_the_host)
    assert refusal(path).code is Code.LOG_TAMPERED
    assert entries(path) == before


def test_a_journal_of_this_version_is_left_alone(path: Path) -> None:
    SqliteJournal.create(path, log_key=log_key).close()
    before = path.read_bytes()
    assert taken_over(path) is None
    assert path.read_bytes() == before


def test_it_is_taken_over_once_by_starts_at_the_same_time(path: Path) -> None:
    before_the_log(path, 300)
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(taken_over, [path] * 4))
    assert sum(found is not None for found in taken) == 1
    assert check_journal(path, log_key, whole=True).frontier.size == 301


def test_a_kill_before_any_statement_leaves_the_old_file_or_the_new_one(
    path: Path,
) -> None:
    before = before_the_log(path, 300)
    done = subprocess.run(
        [sys.executable, takeover_worker.__file__, path],
        capture_output=True,
        check=True,
        timeout=120,
    )
    points = int(done.stdout)
    assert points > 10
    for at in range(points):
        copy = path.with_name(f"{path.name}.{at}")
        assert execute(copy, "PRAGMA user_version") == [(1,)]
        assert entries(copy) == before
        assert taken_over(copy) == TakenOver(300, _root(path, points))
        assert entries(copy)[:300] == marked(before)
        assert check_journal(copy, log_key, whole=True).frontier.size == 301


def _root(path: Path, points: int) -> bytes:
    """Of the copy whose process was not killed."""
    journal = SqliteJournal.open(path.with_name(f"{path.name}.{points}"))
    root = journal.root_at(300)
    journal.close()
    return root


DEFECTS = {
    "entry missing": ("DELETE FROM journal WHERE seq = 2", Code.LOG_TAMPERED),
    "first entry missing": ("DELETE FROM journal WHERE seq = 1", Code.LOG_TAMPERED),
    "trigger": (
        "CREATE TRIGGER t AFTER INSERT ON journal BEGIN SELECT 1; END",
        Code.JOURNAL_FAILED,
    ),
    "extra table": ("CREATE TABLE extra (a)", Code.JOURNAL_FAILED),
    "a log already": ("CREATE TABLE log (a)", Code.JOURNAL_FAILED),
    "table missing": ("DROP TABLE purged", Code.JOURNAL_FAILED),
    "class too long": (
        "UPDATE journal SET class = hex(zeroblob(40000)) WHERE seq = 3",
        Code.JOURNAL_FAILED,
    ),
    "no code": ("UPDATE journal SET code = '' WHERE seq = 3", Code.JOURNAL_FAILED),
    "entry id of 15 bytes": (
        "UPDATE journal SET entry_id = zeroblob(15) WHERE seq = 3",
        Code.JOURNAL_FAILED,
    ),
    "body too long": (
        "UPDATE journal SET body = zeroblob(262145) WHERE seq = 3",
        Code.JOURNAL_FAILED,
    ),
    "number below the first": (
        "UPDATE journal SET seq = 0 WHERE seq = 1",
        Code.JOURNAL_FAILED,
    ),
    "negative time": (
        "UPDATE journal SET time = -1 WHERE seq = 3",
        Code.JOURNAL_FAILED,
    ),
    "outcome of neither": (
        "UPDATE journal SET granted = 2 WHERE seq = 3",
        Code.JOURNAL_FAILED,
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_journal_that_the_older_version_did_not_write_is_refused(
    path: Path, defect: str
) -> None:
    before_the_log(path, 4)
    statement, code = DEFECTS[defect]
    execute(path, statement)
    left = entries(path)
    assert refusal(path).code is code
    assert entries(path) == left


def test_a_damaged_journal_is_refused(path: Path) -> None:
    before_the_log(path, 300, FileMode.ROLLBACK)
    data = bytearray(path.read_bytes())
    data[5 * 4096 : 5 * 4096 + 64] = b"\xff" * 64
    path.write_bytes(data)
    assert refusal(path).code is Code.JOURNAL_FAILED


def test_another_program_and_another_version_are_left_to_the_check(path: Path) -> None:
    for statement in ("PRAGMA application_id = 7", "PRAGMA user_version = 3"):
        before_the_log(path, 1)
        execute(path, statement)
        assert taken_over(path) is None
        with pytest.raises(ServiceError) as refused:
            check_journal(path, log_key)
        assert refused.value.code is Code.JOURNAL_FAILED
        path.unlink()


def test_a_later_version_says_so(path: Path) -> None:
    SqliteJournal.create(path).close()
    execute(path, "PRAGMA user_version = 3")
    with pytest.raises(ServiceError, match="a later version of the provider made it"):
        SqliteJournal.open(path)
