# SPDX-License-Identifier: Apache-2.0
"""A journal that was put back or exchanged does not go by the state."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
from release_rig import NOW, log_key

from tightseal.audit.journal import SqliteJournal
from tightseal.errors import Code, ServiceError
from tightseal.model.canonical import Value, decode, encode
from tightseal.model.ports import JournalEntry
from tightseal.model.secret import Secret
from tightseal.model.state import Change
from tightseal.release.logmark import LOG_BEGUN, LOG_HEAD_KIND, LogMark
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
        self,
        entries: int,
        *,
        after: Callable[[LogMark], None] | None = None,
        alone: bool = True,
        ended: Collection[str] = (),
    ) -> None:
        """A life: start, entries, a look, an end."""
        journal = SqliteJournal.open_or_create(self.path, log_key=log_key)
        try:
            mark = LogMark(self.store, journal, lambda: NOW)
            over = frozenset(map(bytes.fromhex, ended))
            mark.begin(alone=alone, ended=over, entry_id=os.urandom(16))
            mark.require()
            for _ in range(entries):
                entry = JournalEntry(os.urandom(16), NOW, True, "v1", "granted", {})
                journal.record(entry, redemption=None, response=b"")
            (after or LogMark.look)(mark)
        finally:
            journal.close()

    def marks(self) -> dict[str, list[Value]]:
        """What the state knows, by log id in hex."""
        found = self.store.scan(LOG_HEAD_KIND, now=NOW)
        return {
            record.name: cast("list[Value]", decode(record.value)) for record in found
        }

    def log_id(self) -> str:
        with closing(SqliteJournal.open(self.path, log_key=log_key)) as journal:
            return journal.head().log_id.hex()

    def begun(self) -> list[Value]:
        """What entries of the log say of how it began."""
        with closing(SqliteJournal.open(self.path, log_key=log_key)) as journal:
            found = journal.entries(limit=1000)
        return [r.entry.body for r in found if r.entry.code == LOG_BEGUN]

    def exchange(self) -> None:
        """What a host can always do: an empty journal in the place of this one."""
        for left in self.path.parent.glob(f"{self.path.name}*"):
            left.unlink()


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
    seen = []
    for entries in (0, 1, 255, 1, 300, 0):
        node.run(entries)
        ((size, _root),) = node.marks().values()
        seen.append(size)
    assert seen == [1, 2, 257, 258, 558, 558]
    assert node.begun() == [
        {"log": bytes.fromhex(node.log_id()), "known": 0, "logs": []}
    ]


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


@pytest.mark.parametrize("shown", ["at opening", "at the first entry", "at both"])
def test_a_host_that_shows_each_reader_another_journal_is_refused(
    node: Node, shown: str
) -> None:
    node.run(300)
    older = snapshot(node, "older")
    node.run(5)
    newer = snapshot(node, "newer")

    def show(kept: Path) -> None:
        source, target = sqlite3.connect(kept), sqlite3.connect(node.path)
        with closing(source), closing(target):
            source.backup(target)

    show(newer if shown == "at the first entry" else older)
    journal = SqliteJournal.open(node.path, log_key=log_key)
    with closing(journal), refused():
        show(newer)
        LogMark(node.store, journal, lambda: NOW).require()
        show(newer if shown == "at opening" else older)
        entry = JournalEntry(os.urandom(16), NOW, True, "v1", "granted", {})
        journal.record(entry, redemption=None, response=b"")


def test_two_copies_that_run_at_once_are_not_both_marked(node: Node) -> None:
    """A host can give each worker a file of its own; one state takes one tree."""
    node.run(300)
    copy = Node(snapshot(node, "copy"), node.store)
    node.run(5)
    kept = node.marks()

    def record(journal: SqliteJournal) -> None:
        entry = JournalEntry(os.urandom(16), NOW, True, "v1", "granted", {})
        journal.record(entry, redemption=None, response=b"")

    with closing(SqliteJournal.open(copy.path, log_key=log_key)) as journal:
        for _ in range(30):
            record(journal)
        with refused():
            LogMark(node.store, journal, lambda: NOW).look()
    assert node.marks() == kept


def test_workers_of_one_journal_mark_in_turn(node: Node) -> None:
    node.run(0)
    with (
        closing(SqliteJournal.open(node.path, log_key=log_key)) as one,
        closing(SqliteJournal.open(node.path, log_key=log_key)) as two,
    ):
        marks = [LogMark(node.store, journal, lambda: NOW) for journal in (one, two)]
        for turn in range(6):
            for _ in range(turn * 60):
                entry = JournalEntry(os.urandom(16), NOW, True, "v1", "granted", {})
                (one, two)[turn % 2].record(entry, redemption=None, response=b"")
            marks[turn % 2].look()
        ((size, _root),) = node.marks().values()
        assert size == 1 + 60 * sum(range(6))


def test_an_empty_journal_in_the_place_of_one_is_refused(node: Node) -> None:
    node.run(9)
    before = node.marks()
    node.exchange()
    for _ in range(2):
        with pytest.raises(ServiceError, match=r"\(10 entries\)") as told:
            node.run(3)
    assert told.value.code is Code.LOG_TAMPERED
    assert "host.state.ended_logs" in told.value.detail
    assert node.marks() == before


def test_a_journal_of_another_state_is_refused(node: Node, tmp_path: Path) -> None:
    node.run(9)
    engine = SqliteEngine(tmp_path / "another.sqlite")
    sealer = Sealer(Secret(b"\x56" * 32), trust_domain="simulated")
    with closing(SealedStore.new(engine, sealer)) as another:
        Node(tmp_path / "another-journal.sqlite", another).run(4)
    with refused():
        Node(tmp_path / "another-journal.sqlite", node.store).run(0)


def test_a_log_that_the_host_names_as_lost_is_ended_in_the_new_ones_first_entry(
    node: Node,
) -> None:
    node.run(9)
    lost, (size, root) = node.log_id(), node.marks()[node.log_id()]
    node.exchange()
    for _ in range(2):
        node.run(2, ended=[lost])
    node.run(1)
    assert node.marks()[lost] == [size, root, True]
    assert len(node.marks()) == 2
    own = bytes.fromhex(node.log_id())
    ended: Value = [bytes.fromhex(lost), size, root, True]
    assert node.begun() == [{"log": own, "known": 1, "logs": [ended]}]


def test_naming_a_lost_log_lets_no_journal_be_put_back(
    node: Node, tmp_path: Path
) -> None:
    other = Node(tmp_path / "other.sqlite", node.store)
    other.run(2, alone=False)
    node.run(9, alone=False)
    kept = snapshot(node, "kept")
    node.run(5, alone=False)
    before = node.marks()
    put_back(node, kept)
    size = len(node.begun())
    with refused():
        node.run(0, alone=False, ended=[other.log_id()])
    assert node.marks() == before
    assert len(node.begun()) == size


def test_a_log_that_ended_is_not_begun_again(node: Node) -> None:
    node.run(9)
    lost, kept = node.log_id(), snapshot(node, "kept")
    node.exchange()
    node.run(2, ended=[lost])
    put_back(node, kept)
    for ended in ([], [lost]):
        with refused():
            node.run(1, ended=ended)


def test_naming_one_lost_log_lets_no_other_be_exchanged(node: Node) -> None:
    node.run(9)
    lost = node.log_id()
    node.exchange()
    node.run(2, ended=[lost])
    node.exchange()
    with refused():
        node.run(0, ended=[lost])


def test_nodes_that_share_a_state_have_a_mark_each_and_say_what_was_there(
    node: Node, tmp_path: Path
) -> None:
    node.run(9, alone=False)
    other = Node(tmp_path / "other.sqlite", node.store)
    other.run(2, alone=False)
    node.run(1, alone=False)
    assert {size for size, _ in node.marks().values()} == {11, 3}
    first = bytes.fromhex(node.log_id())
    (begun,) = other.begun()
    assert isinstance(begun, dict)
    assert begun["known"] == 1
    ((log, size, _root, over),) = cast("list[list[Value]]", begun["logs"])
    assert (log, size, over) == (first, 10, False)


def test_a_node_whose_log_was_said_to_be_over_marks_it_no_more(
    node: Node, tmp_path: Path
) -> None:
    node.run(9, alone=False)
    gone = node.log_id()

    def ended_meanwhile(mark: LogMark) -> None:
        other = Node(tmp_path / "other.sqlite", node.store)
        other.run(0, alone=False, ended=[gone])
        mark.look()

    with refused():
        node.run(3, alone=False, after=ended_meanwhile)
    assert node.marks()[gone][2] is True


def test_a_journal_that_the_state_knows_better_takes_no_entry_any_more(
    node: Node, tmp_path: Path
) -> None:
    node.run(9, alone=False)
    gone = node.log_id()

    def goes_on(mark: LogMark) -> None:
        Node(tmp_path / "other.sqlite", node.store).run(0, alone=False, ended=[gone])
        with refused():
            mark.look()
        journal = cast("SqliteJournal", mark._journal)
        with refused():
            journal.require_alive()
        entry = JournalEntry(os.urandom(16), NOW, True, "v1", "granted", {})
        with refused():
            journal.record(entry, redemption=None, response=b"")

    node.run(3, alone=False, after=goes_on)


def test_what_a_crash_leaves_between_entry_and_mark_is_begun_again(node: Node) -> None:
    node.run(9)
    lost = node.log_id()
    node.exchange()

    class Failing(LogMark):
        def _changes(self, over: set[bytes]) -> list[Change]:
            del over
            raise ServiceError(Code.STATE_UNAVAILABLE, "gone")

    journal = SqliteJournal.open_or_create(node.path, log_key=log_key)
    with closing(journal), refused(Code.STATE_UNAVAILABLE):
        Failing(node.store, journal, lambda: NOW).begin(
            alone=True, ended=frozenset([bytes.fromhex(lost)]), entry_id=os.urandom(16)
        )
    with refused():
        node.run(0)
    node.run(0, ended=[lost])
    assert len(node.begun()) == 2


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


@pytest.mark.parametrize(
    "value",
    [
        b"\xff",
        *(encode(v) for v in ([1], ["1", b""], [1, b"", False], [1, b"", True, 1])),
    ],
)
def test_a_mark_that_is_none_of_ours(node: Node, value: bytes) -> None:
    node.run(2)
    (record,) = node.store.scan(LOG_HEAD_KIND, now=NOW)
    node.store.replace(
        LOG_HEAD_KIND, record.name, value, expected=record.version, now=NOW
    )
    with refused(Code.STATE_TAMPERED):
        node.run(0)
