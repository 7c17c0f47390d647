# SPDX-License-Identifier: Apache-2.0
"""A provider whose journal is gone, or is another one, beside the state that it had."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from tightseal.audit.journal import SqliteJournal
from tightseal.model.canonical import Value
from tightseal_sim.approvers import Approvers
from tightseal_sim.scene import Provider, Scene

EMPTY = "version = 1\n"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("lost")) as scene:
        yield scene


class Node:
    """A provider that was used, and stopped."""

    def __init__(self, stage: Scene, name: str) -> None:
        approvers = Approvers()
        self._stage = stage
        self._name = name
        self._root = approvers.policy_root
        self._bundle = approvers.bundle({"d": EMPTY})
        self.journal = self.start().settings.host.journal_path
        self.stop()
        with closing(SqliteJournal.open(self.journal)) as journal:
            self.log_id = journal.head().log_id.hex()

    def start(self, *, ended: tuple[str, ...] = ()) -> Provider:
        state = {"ended_logs": list(ended)}
        self._provider = self._stage.provider(
            self._name,
            policy_root=self._root,
            bundle=self._bundle,
            host={"state": state},
        )
        return self._provider

    def stop(self) -> None:
        self._provider.stop()

    def lose(self) -> None:
        for part in self.journal.parent.glob(f"{self.journal.name}*"):
            part.unlink()

    def begun(self) -> list[Value]:
        with closing(SqliteJournal.open(self.journal)) as journal:
            found = journal.entries()
        return [r.entry.body for r in found if r.entry.code == "begun"]


@pytest.fixture
def node(stage: Scene, request: pytest.FixtureRequest) -> Node:
    return Node(stage, re.sub(r"\W", "-", request.node.name)[:40])


def test_an_empty_journal_of_the_same_provider_is_no_fresh_start(node: Node) -> None:
    node.lose()
    SqliteJournal.create(node.journal).close()
    for _ in range(2):
        with pytest.raises(Exception, match=f"(?s)log_tampered.*{node.log_id}"):
            node.start()


def test_a_journal_of_before_the_log_is_no_fresh_start(node: Node) -> None:
    """The host can write one: it has no signature that could be wrong."""
    node.lose()
    SqliteJournal.create(node.journal).close()
    with closing(sqlite3.connect(node.journal)) as connection, connection:
        connection.executescript(
            "DROP TABLE log; DROP TABLE tile; PRAGMA user_version = 1"
        )
    with pytest.raises(Exception, match=f"(?s)log_tampered.*{node.log_id}"):
        node.start()


def test_a_lost_journal_is_begun_anew_where_the_host_says_which(node: Node) -> None:
    node.lose()
    with pytest.raises(Exception, match="journal_failed"):
        node.start()
    with pytest.raises(Exception, match=f"(?s)log_tampered.*{node.log_id}"):
        node.start(ended=("ab" * 16,))
    node.start(ended=(node.log_id,))
    node.stop()
    (begun,) = node.begun()
    assert isinstance(begun, dict)
    assert begun["log"] != bytes.fromhex(node.log_id)
    assert isinstance(begun["logs"], list)
    ((lost, size, _root, over),) = begun["logs"]
    assert (lost, over) == (bytes.fromhex(node.log_id), True)
    assert size >= 1
    node.start()
