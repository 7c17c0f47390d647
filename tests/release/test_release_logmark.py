# SPDX-License-Identifier: Apache-2.0
"""A journal that was put back alone does not go by the state."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from release_rig import NOW, log_key

from tightseal.audit.journal import SqliteJournal
from tightseal.errors import Code, ServiceError
from tightseal.model.canonical import encode
from tightseal.model.ports import JournalEntry
from tightseal.model.secret import Secret
from tightseal.release.logmark import LOG_HEAD_KIND, LogMark
from tightseal.state.seal import Sealer
from tightseal.state.sqlite import SqliteEngine
from tightseal.state.store import SealedStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SealedStore]:
    engine = SqliteEngine(tmp_path / "state.sqlite")
    sealer = Sealer(Secret(b"\x55" * 32), trust_domain="simulated")
    made = SealedStore.new(engine, sealer)
    yield made
    made.close()


class Node:
    """One provider's journal, opened anew at each start."""

    def __init__(self, path: Path, store: SealedStore) -> None:
        self.path = path
        self.store = store

    def run(
        self, entries: int, *, after: Callable[[LogMark], None] | None = None
    ) -> None:
        """A life: start, entries, a look, an end."""
        journal = SqliteJournal.open_or_create(self.path, log_key=log_key)
        try:
            mark = LogMark(self.store, journal, lambda: NOW)
            mark.require()
            for _ in range(entries):
                entry = JournalEntry(os.urandom(16), NOW, True, "v1", "granted", {})
                journal.record(entry, redemption=None, response=b"")
            (after or LogMark.look)(mark)
        finally:
            journal.close()

    def marks(self) -> list[bytes]:
        return [r.value for r in self.store.scan(LOG_HEAD_KIND, now=NOW)]


@pytest.fixture
def node(tmp_path: Path, store: SealedStore) -> Node:
    return Node(tmp_path / "journal.sqlite", store)


def refused(code: Code = Code.LOG_TAMPERED) -> "pytest.RaisesExc[ServiceError]":
    return pytest.RaisesExc(ServiceError, check=lambda e: e.code is code)


def snapshot(node: Node, name: str) -> Path:
    kept = node.path.with_name(name)
    source, target = sqlite3.connect(node.path), sqlite3.connect(kept)
    source.backup(target)
    source.close()
    target.close()
    return kept


def put_back(node: Node, kept: Path) -> None:
    for left in node.path.parent.glob(f"{node.path.name}-*"):
        left.unlink()
    shutil.copy(kept, node.path)


def test_a_log_that_grows_is_marked_and_goes_on(node: Node) -> None:
    seen = set()
    for entries in (0, 1, 255, 1, 300, 0):
        node.run(entries)
        seen.update(node.marks())
    assert len(node.marks()) == 1
    assert len(seen) == 4


def test_entries_behind_the_mark_are_no_harm(node: Node) -> None:
    node.run(5)
    node.run(3, after=lambda _mark: None)
    node.run(1)


def test_a_journal_that_was_put_back_is_refused(node: Node) -> None:
    node.run(300)
    kept = snapshot(node, "kept")
    node.run(1)
    put_back(node, kept)
    with refused():
        node.run(0)


def test_a_journal_that_was_put_back_and_went_on_is_refused(
    node: Node, store: SealedStore
) -> None:
    node.run(300)
    kept = snapshot(node, "kept")
    node.run(5)
    put_back(node, kept)
    journal = SqliteJournal.open(node.path, log_key=log_key)
    for _ in range(30):
        entry = JournalEntry(os.urandom(16), NOW, True, "v1", "granted", {})
        journal.record(entry, redemption=None, response=b"")
    journal.close()
    with refused():
        node.run(0)
    assert store.scan(LOG_HEAD_KIND, now=NOW)


def test_another_log_has_a_mark_of_its_own(node: Node, tmp_path: Path) -> None:
    node.run(9)
    Node(tmp_path / "other.sqlite", node.store).run(2)
    assert len(node.marks()) == 2
    node.run(1)


def test_an_older_mark_of_a_slow_worker_does_not_take_the_newer_ones_place(
    node: Node,
) -> None:
    node.run(4)
    first = SqliteJournal.open(node.path, log_key=log_key)
    second = SqliteJournal.open(node.path, log_key=log_key)
    marks = [LogMark(node.store, journal, lambda: NOW) for journal in (first, second)]
    for journal in (first, second):
        entry = JournalEntry(os.urandom(16), NOW, True, "v1", "granted", {})
        journal.record(entry, redemption=None, response=b"")
    marks[1].look()
    newest = node.marks()
    marks[0].look()
    assert node.marks() == newest
    first.close()
    second.close()


@pytest.mark.parametrize("value", [b"\xff", encode([1]), encode(["1", b""])])
def test_a_mark_that_is_none_of_ours(node: Node, value: bytes) -> None:
    node.run(2)
    (record,) = node.store.scan(LOG_HEAD_KIND, now=NOW)
    node.store.replace(
        LOG_HEAD_KIND, record.name, value, expected=record.version, now=NOW
    )
    with refused(Code.STATE_TAMPERED):
        node.run(0)
