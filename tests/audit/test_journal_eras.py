# SPDX-License-Identifier: Apache-2.0
"""Eras of nonces: a clock that was ahead for a while stops no release afterwards."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from journal_worker import NOW, entry_of

from tightseal.audit import writer
from tightseal.audit.journal import MAX_LISTED, SqliteJournal
from tightseal.errors import Code, TightsealError
from tightseal.model.ports import NonceRedemption


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def ident(n: int) -> bytes:
    return n.to_bytes(16, "big")


def refused(code: Code) -> "pytest.RaisesExc[TightsealError]":
    return pytest.RaisesExc(TightsealError, check=lambda e: e.code is code)


def seen(journal: SqliteJournal) -> list[bytes]:
    return [r.entry.entry_id for r in journal.entries(limit=MAX_LISTED)]


def at(n: int, expires_at: int, era: int = 0) -> NonceRedemption:
    return NonceRedemption(b"n" * 40 + ident(n), expires_at, bytes(32), era)


def test_clock_set_back_below_what_was_purged_begins_another_era(
    path: Path,
) -> None:
    """New nonces are taken at once, and none of an era before ever again."""
    hour = 3600
    journal, other = SqliteJournal.create(path), SqliteJournal.open(path)
    ahead = replace(entry_of(ident(0)), time=NOW + hour)
    journal.record(ahead, redemption=at(0, NOW + hour, 0), response=b"r")
    later = NOW + hour + writer.PURGE_MARGIN_SECONDS + 1
    journal.record(
        replace(entry_of(ident(1)), time=later), redemption=None, response=b""
    )
    assert (journal.nonce_era(), other.nonce_era()) == (0, 0)
    # The clock is right again, and behind the mark.
    with refused(Code.NONCE_EXPIRED):
        journal.record(entry_of(ident(2)), redemption=at(2, NOW + 60, 0), response=b"x")
    assert journal.nonce_era() == 1
    new = at(3, NOW + 60, 1)
    assert journal.record(entry_of(ident(3)), redemption=new, response=b"y") == b"y"
    assert journal.kept_response(new) == b"y"
    for forgotten in (at(0, NOW + hour, 0), at(4, NOW + 60, 0), at(4, NOW + 60, 2)):
        with refused(Code.NONCE_EXPIRED):
            journal.kept_response(forgotten)
        with refused(Code.NONCE_EXPIRED):
            journal.record(entry_of(ident(5)), redemption=forgotten, response=b"x")
    # Another worker learns of it by its next request, or when it is looked at.
    assert other.nonce_era() == 0
    other.require_alive()
    assert other.nonce_era() == 1
    journal.close()
    other.close()
    reopened = SqliteJournal.open(path)
    assert reopened.nonce_era() == 1
    assert seen(reopened) == [ident(0), ident(1), ident(3)]
    reopened.close()


def test_a_slow_request_begins_no_era(path: Path) -> None:
    """It waited so long that others purged past its nonce; no clock went back."""
    journal, margin = SqliteJournal.create(path), writer.PURGE_MARGIN_SECONDS
    journal.record(entry_of(ident(0)), redemption=at(0, NOW), response=b"r")
    late = replace(entry_of(ident(1)), time=NOW + margin + 1)
    journal.record(late, redemption=None, response=b"")
    with refused(Code.NONCE_EXPIRED):
        slow = replace(entry_of(ident(2)), time=NOW + 1)
        journal.record(slow, redemption=at(2, NOW), response=b"x")
    assert journal.nonce_era() == 0
    journal.close()


def test_after_the_last_era_the_mark_stays(path: Path) -> None:
    journal = SqliteJournal.create(path)
    journal.close()
    connection = sqlite3.connect(path)
    with connection:
        mark = writer.MAX_ERA * writer.ERA_STEP + NOW + 100
        connection.execute("UPDATE purged SET through = ?", (mark,))
    connection.close()
    journal = SqliteJournal.open(path)
    last = writer.MAX_ERA
    with refused(Code.NONCE_EXPIRED):
        journal.record(
            entry_of(ident(0)), redemption=at(0, NOW + 60, last), response=b"x"
        )
    assert journal.nonce_era() == last
    newer = at(0, NOW + 101, last)
    assert journal.record(entry_of(ident(0)), redemption=newer, response=b"r") == b"r"
    purging = replace(entry_of(ident(1)), time=writer.ERA_STEP - 1)
    journal.record(purging, redemption=None, response=b"")
    assert journal.nonce_era() == last
    journal.close()
