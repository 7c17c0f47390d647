# SPDX-License-Identifier: Apache-2.0
"""A running provider publishes its log."""

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tightseal.audit.checkpoint import Trust
from tightseal.audit.journal import SqliteJournal
from tightseal.audit.log import log_signer
from tightseal.audit.tilefiles import FileTileStore, alone_in
from tightseal.audit.verify import verify_log
from tightseal.errors import Code, ServiceError
from tightseal.model.ports import JournalEntry
from tightseal.service.tiles import TilePublisher


def log_key(log_id: bytes) -> bytes:
    return hashlib.sha256(b"of the provider" + log_id).digest()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    made = SqliteJournal.create(tmp_path / "journal.sqlite", log_key=log_key)
    yield made
    made.close()


def record(journal: SqliteJournal, number: int) -> None:
    entry = JournalEntry(
        entry_id=number.to_bytes(16, "big"),
        time=1_800_000_000,
        granted=True,
        protocol_class="v1",
        code="granted",
        body={},
    )
    journal.record(entry, redemption=None, response=b"")


def published(journal: SqliteJournal, folder: Path) -> int:
    trust = Trust(log_signer(journal.head().log_id, log_key).key)
    return verify_log(FileTileStore(folder), trust).head.checkpoint.size


def look(publisher: TilePublisher) -> None:
    publisher.look()
    publisher.wait(30)


def test_tiles_follow_the_journal(journal: SqliteJournal, tmp_path: Path) -> None:
    publisher = TilePublisher(journal, FileTileStore(tmp_path / "tiles"))
    look(publisher)
    assert not (tmp_path / "tiles").exists()
    for number in range(1, 4):
        record(journal, number)
        look(publisher)
        assert published(journal, tmp_path / "tiles") == publisher.done == number


def test_two_workers_publish_one_log(journal: SqliteJournal, tmp_path: Path) -> None:
    workers = [
        TilePublisher(journal, FileTileStore(tmp_path / "tiles")) for _ in range(2)
    ]
    for number in range(1, 10):
        record(journal, number)
        for worker in workers:
            worker.look()
        for worker in workers:
            worker.wait(30)
        for worker in workers:
            look(worker)
        assert published(journal, tmp_path / "tiles") == number


def test_while_another_one_is_at_it_nothing_is_wrong(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    publisher = TilePublisher(journal, FileTileStore(tmp_path / "tiles"))
    record(journal, 1)
    with alone_in(tmp_path / "tiles", wait=False):
        look(publisher)
        look(publisher)
        assert publisher.done == 0
    look(publisher)
    assert published(journal, tmp_path / "tiles") == 1


def test_a_journal_that_was_changed_is_said_and_not_published(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    publisher = TilePublisher(journal, FileTileStore(tmp_path / "tiles"))
    record(journal, 1)
    look(publisher)
    record(journal, 2)
    host = sqlite3.connect(tmp_path / "journal.sqlite")
    with host:
        host.execute("UPDATE journal SET granted = 0 WHERE seq = 1")
    host.close()
    look(publisher)
    with pytest.raises(ServiceError) as refused:
        publisher.look()
    assert refused.value.code is Code.LOG_TAMPERED
    publisher.wait(30)
    assert published(journal, tmp_path / "tiles") == 1
