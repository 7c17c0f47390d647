# SPDX-License-Identifier: Apache-2.0
import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from journal_worker import NOW, entry_of, redemption_of, response_of

from tightseal.audit import schema, writer
from tightseal.audit.journal import (
    MAX_LISTED,
    MAX_RESPONSE_BYTES,
    FileMode,
    SqliteJournal,
)
from tightseal.errors import Code, EvidenceError, ServiceError, TightsealError
from tightseal.model.ports import JournalEntry, NonceRedemption, Recorder

NONCE = b"n" * 56


@pytest.fixture(params=list(FileMode))
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteJournal]:
    made = SqliteJournal.create(tmp_path / "journal.db", mode=request.param)
    yield made
    made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def ident(n: int) -> bytes:
    return n.to_bytes(16, "big")


def record(
    journal: Recorder, n: int, nonce: bytes | None = None, request: bytes = b"request"
) -> bytes:
    return journal.record(
        entry_of(ident(n)),
        redemption=None if nonce is None else redemption_of(nonce, request),
        response=response_of(ident(n)),
    )


def refused(code: Code) -> "pytest.RaisesExc[TightsealError]":
    return pytest.RaisesExc(TightsealError, check=lambda e: e.code is code)


def seen(journal: SqliteJournal) -> list[bytes]:
    return [r.entry.entry_id for r in journal.entries(limit=MAX_LISTED)]


def test_entry_comes_back_as_it_was_recorded(journal: SqliteJournal) -> None:
    entry = JournalEntry(
        entry_id=os.urandom(16),
        time=NOW,
        granted=False,
        protocol_class="legacy",
        code=Code.TCB_STATUS_NOT_ACCEPTED,
        body={"reasons": [["tcb", "UpToDate", "OutOfDate", False]], "key": None},
    )
    assert journal.record(entry, redemption=None, response=b"") == b""
    (recorded,) = journal.entries()
    assert recorded.entry == entry
    assert recorded.seq == 1


def test_retry_gets_the_kept_response_and_is_counted_once(
    journal: SqliteJournal,
) -> None:
    assert record(journal, 1, NONCE) == response_of(ident(1))
    assert record(journal, 2, NONCE) == response_of(ident(1))
    assert seen(journal) == [ident(1)]


def test_replay_by_another_request_is_refused(journal: SqliteJournal) -> None:
    record(journal, 1, NONCE)
    with refused(Code.NONCE_REPLAYED):
        record(journal, 2, NONCE, b"another request")
    assert seen(journal) == [ident(1)]


def test_kept_response(journal: SqliteJournal) -> None:
    assert journal.kept_response(redemption_of(NONCE, b"request")) is None
    record(journal, 1, NONCE)
    kept = journal.kept_response(redemption_of(NONCE, b"request"))
    assert kept == response_of(ident(1))
    with refused(Code.NONCE_REPLAYED):
        journal.kept_response(redemption_of(NONCE, b"another request"))


def test_other_process_sees_the_kept_response(journal: SqliteJournal) -> None:
    record(journal, 1, NONCE)
    other = SqliteJournal.open(journal._path)
    kept = other.kept_response(redemption_of(NONCE, b"request"))
    assert kept == response_of(ident(1))
    assert record(other, 2, NONCE) == response_of(ident(1))
    other.close()


def test_refusals_burn_no_nonce(journal: SqliteJournal) -> None:
    record(journal, 1)
    assert record(journal, 2, NONCE) == response_of(ident(2))
    assert seen(journal) == [ident(1), ident(2)]


def test_entry_id_twice_fails_alone_and_burns_no_nonce(
    journal: SqliteJournal,
) -> None:
    record(journal, 1)
    with refused(Code.JOURNAL_FAILED):
        record(journal, 1, NONCE)
    assert journal.kept_response(redemption_of(NONCE, b"request")) is None
    record(journal, 2, NONCE)
    assert seen(journal) == [ident(1), ident(2)]


def test_conflict_of_one_does_not_fail_the_others(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(journal, 1, NONCE)
    commits: list[int] = []
    commit = writer.GroupWriter._commit

    def counted(self: Any, batch: Any) -> Any:
        commits.append(len(batch))
        return commit(self, batch)

    monkeypatch.setattr(writer.GroupWriter, "_commit", counted)
    with locked(journal._path):
        futures = []
        for n in range(2, 102):
            nonce = NONCE if n % 10 == 0 else NONCE + ident(n)
            futures.append(
                journal.submit(
                    entry_of(ident(1 if n % 10 == 1 else n)),
                    redemption=redemption_of(nonce, ident(n)),
                    response=ident(n),
                )
            )
    for n, future in enumerate(futures, start=2):
        error = future.exception(timeout=10)
        if n % 10 == 0:
            assert isinstance(error, EvidenceError)
            assert error.code is Code.NONCE_REPLAYED
        elif n % 10 == 1:
            assert isinstance(error, ServiceError)
            assert error.code is Code.JOURNAL_FAILED
        else:
            assert error is None
            assert future.result() == ident(n)
    assert len(seen(journal)) == 81
    assert len(commits) <= 2, "what waits is committed together"


def test_one_nonce_many_threads_one_winner(journal: SqliteJournal) -> None:
    def attempt(n: int) -> bytes | None:
        try:
            return record(journal, n, NONCE, ident(n % 4))
        except EvidenceError:
            return None

    with ThreadPoolExecutor(32) as pool:
        outcomes = list(pool.map(attempt, range(128)))
    (winner,) = seen(journal)
    assert {o for o in outcomes if o is not None} == {response_of(winner)}
    assert sum(o is not None for o in outcomes) == 32


def test_many_threads_lose_nothing(journal: SqliteJournal) -> None:
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda n: record(journal, n, NONCE + ident(n)), range(500)))
    assert sorted(seen(journal)) == [ident(n) for n in range(500)]


def test_submit_can_be_awaited(journal: SqliteJournal) -> None:
    async def both() -> list[bytes]:
        futures = [
            journal.submit(entry_of(ident(n)), redemption=None, response=ident(n))
            for n in range(2)
        ]
        return await asyncio.gather(*map(asyncio.wrap_future, futures))

    assert asyncio.run(both()) == [ident(0), ident(1)]


class locked:  # noqa: N801 - used as a statement
    """Hold the file's write lock, as a stuck process would."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


def test_overload_is_refused_and_passes(path: Path) -> None:
    journal = SqliteJournal.create(path, max_waiting=4)
    with locked(path):
        futures = [journal.submit(entry_of(ident(0)), redemption=None, response=b"")]
        while not futures[0].running():
            threading.Event().wait(0.001)
        futures += [
            journal.submit(entry_of(ident(n)), redemption=None, response=b"")
            for n in range(1, 5)
        ]
        with refused(Code.OVERLOADED):
            record(journal, 5)
    for future in futures:
        assert future.result(timeout=10) == b""
    record(journal, 6)
    assert seen(journal) == [ident(n) for n in (0, 1, 2, 3, 4, 6)]
    journal.close()


def test_lock_held_too_long_fails_and_recovers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BUSY_SECONDS", 0.05)
    journal = SqliteJournal.create(path)
    with locked(path), refused(Code.JOURNAL_FAILED):
        record(journal, 1, NONCE)
    assert journal.kept_response(redemption_of(NONCE, b"request")) is None
    record(journal, 2, NONCE)
    assert seen(journal) == [ident(2)]
    journal.close()


def test_cancelled_entry_is_not_recorded(path: Path) -> None:
    journal = SqliteJournal.create(path)
    with locked(path):
        first = journal.submit(entry_of(ident(0)), redemption=None, response=b"")
        while not first.running():
            threading.Event().wait(0.001)
        second = journal.submit(entry_of(ident(1)), redemption=None, response=b"")
        assert second.cancel()
    first.result(timeout=10)
    record(journal, 2)
    assert seen(journal) == [ident(0), ident(2)]
    journal.close()


def test_unforeseen_failure_answers_everybody(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError

    journal = SqliteJournal.create(path)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(writer._Step, "enter", broken)
    for n in range(2):
        with refused(Code.JOURNAL_FAILED):
            record(journal, n)
    journal.close()


def expire(n: int, expires_at: int) -> NonceRedemption:
    return NonceRedemption(NONCE + ident(n), expires_at, bytes(32))


def test_expired_nonces_are_purged_a_few_at_a_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PURGE_PER_COMMIT", 3)
    journal = SqliteJournal.create(path)
    for n in range(10):
        journal.record(entry_of(ident(n)), redemption=expire(n, NOW + n), response=b"r")

    def left() -> int:
        connection = sqlite3.connect(path)
        (count,) = connection.execute("SELECT count(*) FROM redeemed").fetchone()
        connection.close()
        return int(count)

    later = NOW + writer.PURGE_MARGIN_SECONDS
    counts = []
    for n in range(10, 15):
        entry = replace(entry_of(ident(n)), time=later + 8)
        journal.record(entry, redemption=None, response=b"")
        counts.append(left())
    assert counts == [7, 4, 2, 2, 2], "only what expired before the margin goes"
    assert journal.kept_response(expire(8, NOW + 8)) == b"r"
    assert len(seen(journal)) == 15, "entries are never dropped"
    journal.close()


def test_clock_set_back_does_not_revive_a_purged_nonce(journal: SqliteJournal) -> None:
    journal.record(entry_of(ident(0)), redemption=expire(0, NOW), response=b"r")
    late = replace(entry_of(ident(1)), time=NOW + writer.PURGE_MARGIN_SECONDS + 1)
    journal.record(late, redemption=None, response=b"")
    assert journal.kept_response(expire(0, NOW)) is None
    with refused(Code.NONCE_EXPIRED):
        journal.record(entry_of(ident(2)), redemption=expire(0, NOW), response=b"x")
    journal.record(entry_of(ident(3)), redemption=expire(3, NOW + 1), response=b"")
    assert seen(journal) == [ident(0), ident(1), ident(3)]


def test_entries_are_read_in_pages(journal: SqliteJournal) -> None:
    for n in range(7):
        record(journal, n)
    pages = []
    after = 0
    while page := journal.entries(after=after, limit=3):
        pages.append([r.entry.entry_id for r in page])
        after = page[-1].seq
    assert pages == [[ident(n) for n in p] for p in ((0, 1, 2), (3, 4, 5), (6,))]
    assert journal.entries(limit=0) == journal.entries(limit=-1) == ()
    assert journal.entries(after=1 << 62) == ()
    with refused(Code.JOURNAL_FAILED):
        journal.entries(after=1 << 70)


def test_files_are_for_the_owner_alone_and_synced(path: Path) -> None:
    os.umask(before := os.umask(0))
    os.umask(0)
    try:
        journal = SqliteJournal.create(path)
        record(journal, 1)
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    finally:
        os.umask(before)
    connection = journal._writer._connection
    assert connection is not None
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    journal.close()


MALFORMED: dict[str, dict[str, Any]] = {
    "entry id short": {"entry_id": bytes(15)},
    "entry id long": {"entry_id": bytes(17)},
    "time negative": {"time": -1},
    "time over the limit": {"time": 1 << 53},
    "class empty": {"protocol_class": ""},
    "class too long": {"protocol_class": "c" * 65},
    "code not ASCII": {"code": "\N{LATIN SMALL LETTER E WITH ACUTE}"},
    "code with surrogate": {"code": "\ud800"},
    "body too long": {"body": bytes((256 << 10) + 1)},
}


@pytest.mark.parametrize("defect", MALFORMED)
def test_malformed_entry_is_refused(path: Path, defect: str) -> None:
    journal = SqliteJournal.create(path)
    with refused(Code.JOURNAL_FAILED):
        journal.record(
            replace(entry_of(ident(1)), **MALFORMED[defect]),
            redemption=None,
            response=b"",
        )
    assert seen(journal) == []
    journal.close()


def test_malformed_redemption_or_response_is_refused(path: Path) -> None:
    journal = SqliteJournal.create(path)
    good = redemption_of(NONCE, b"request")
    for bad in (
        replace(good, nonce=b""),
        replace(good, nonce=bytes(257)),
        replace(good, request_hash=bytes(31)),
        replace(good, expires_at=-1),
        replace(good, expires_at=1 << 63),
    ):
        with refused(Code.JOURNAL_FAILED):
            journal.record(entry_of(ident(1)), redemption=bad, response=b"")
        with refused(Code.JOURNAL_FAILED):
            journal.kept_response(bad)
    with refused(Code.JOURNAL_FAILED):
        journal.record(
            entry_of(ident(1)), redemption=good, response=bytes(MAX_RESPONSE_BYTES + 1)
        )
    journal.close()


def test_body_outside_the_closed_set_is_refused(path: Path) -> None:
    journal = SqliteJournal.create(path)
    entry = replace(entry_of(ident(1)), body=1.5)  # type: ignore[arg-type]
    with refused(Code.INTERNAL):
        journal.record(entry, redemption=None, response=b"")
    journal.close()


def test_closed_journal_takes_nothing(journal: SqliteJournal) -> None:
    record(journal, 1)
    journal.close()
    journal.close()
    with refused(Code.JOURNAL_FAILED):
        record(journal, 2)
    with refused(Code.JOURNAL_FAILED):
        journal.kept_response(redemption_of(NONCE, b"request"))
    again = SqliteJournal.open(journal._path)
    assert seen(again) == [ident(1)]
    again.close()


def test_close_commits_what_waits(path: Path) -> None:
    journal = SqliteJournal.create(path)
    futures = [
        journal.submit(entry_of(ident(n)), redemption=None, response=b"")
        for n in range(600)
    ]
    journal.close()
    assert all(f.result(timeout=0) == b"" for f in futures)
    again = SqliteJournal.open(path)
    assert len(seen(again)) == 600
    again.close()


def test_journal_of_another_process_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = SqliteJournal.create(path)
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        with refused(Code.JOURNAL_FAILED):
            record(journal, 1)
        with refused(Code.JOURNAL_FAILED):
            journal.entries()
    journal.close()


def test_schema_of_the_program_is_what_it_creates(path: Path) -> None:
    SqliteJournal.create(path).close()
    schema.check_file(path)
