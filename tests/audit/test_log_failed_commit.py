# SPDX-License-Identifier: Apache-2.0
"""A commit that fails after the head was signed: what the host saw is in the log."""

import hashlib
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from journal_worker import entry_of, log_key
from log_support import append, opened, signer_of

from tightseal.audit import writer
from tightseal.audit.checkpoint import Trust
from tightseal.audit.journal import SqliteJournal
from tightseal.audit.logfile import check_journal
from tightseal.audit.merkle import leaf_hash
from tightseal.audit.proof import LogProof, verify_log_proof
from tightseal.errors import Code, ServiceError
from tightseal.model.ports import NonceRedemption

BEFORE = 5


@dataclass
class Disk:
    """Fails commits from a number on, before or after they are durable."""

    failing: int = 0
    done_all_the_same: bool = False
    proofs: list[bytes] = field(default_factory=list)

    def patiently(self, connection: sqlite3.Connection, statement: str) -> None:
        if statement != "COMMIT" or not self.failing:
            connection.execute(statement)
            return
        self.failing -= 1
        if self.done_all_the_same:
            connection.execute(statement)
        raise sqlite3.OperationalError("disk I/O error")

    def respond(self, proof: bytes) -> bytes:
        """What the host can read in the frames of a commit that fails."""
        self.proofs.append(proof)
        return b"response " + proof


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk()
    monkeypatch.setattr(writer, "_patiently", found.patiently)
    return found


def nonce(number: int) -> NonceRedemption:
    request = hashlib.sha256(b"%d" % number).digest()
    return NonceRedemption(
        nonce=b"nonce-%d" % number, expires_at=1 << 40, request_hash=request
    )


def refused_release(journal: SqliteJournal, disk: Disk, entry_id: bytes) -> bytes:
    """The proof in the response of a release whose commit failed."""
    disk.failing = max(disk.failing, 1)
    with pytest.raises(ServiceError) as told:
        journal.record(entry_of(entry_id), redemption=nonce(1), response=disk.respond)
    assert told.value.code is Code.JOURNAL_FAILED
    return disk.proofs[-1]


def require_one_tree(journal: SqliteJournal, entry_id: bytes, proof: bytes) -> None:
    """The log has the entry, and the tree that was signed for it is its beginning."""
    row = next(r for r in journal.entries(limit=1000) if r.entry.entry_id == entry_id)
    assert [r.entry.entry_id for r in journal.entries(limit=1000)].count(entry_id) == 1
    leaf = journal.leaves(row.seq - 1, row.seq)[0]
    trust = Trust(signer_of(journal).key)
    seen = verify_log_proof(LogProof.parse(proof), leaf=leaf_hash(leaf), trust=trust)
    assert journal.root_at(seen.checkpoint.size) == seen.checkpoint.root


@pytest.mark.parametrize("failures", [1, 3])
def test_a_response_that_a_failed_commit_showed_has_its_entry(
    tmp_path: Path, disk: Disk, failures: int
) -> None:
    path, entry_id = tmp_path / "journal.db", os.urandom(16)
    with opened(path) as journal:
        append(journal, BEFORE)
        disk.failing = failures
        proof = refused_release(journal, disk, entry_id)
        for number in range(100, 99 + failures):
            with pytest.raises(ServiceError):
                append(journal, 1, since=number)
        append(journal, 3, since=200)
        require_one_tree(journal, entry_id, proof)
        assert journal.head().frontier.size == BEFORE + 4
    check_journal(path, log_key, whole=True)


def test_a_commit_that_failed_and_was_done_is_not_entered_twice(
    tmp_path: Path, disk: Disk
) -> None:
    entry_id = os.urandom(16)
    with opened(tmp_path / "journal.db") as journal:
        append(journal, BEFORE)
        disk.done_all_the_same = True
        proof = refused_release(journal, disk, entry_id)
        append(journal, 3, since=200)
        require_one_tree(journal, entry_id, proof)
        assert journal.head().frontier.size == BEFORE + 4


def test_the_retry_of_a_request_whose_commit_failed_is_one_entry(
    tmp_path: Path, disk: Disk
) -> None:
    first = os.urandom(16)
    with opened(tmp_path / "journal.db") as journal:
        append(journal, BEFORE)
        proof = refused_release(journal, disk, first)
        again = journal.record(
            entry_of(os.urandom(16)), redemption=nonce(1), response=b"other"
        )
        assert again == b"response " + proof
        assert journal.head().frontier.size == BEFORE + 1


def test_closing_enters_what_a_failed_commit_showed(tmp_path: Path, disk: Disk) -> None:
    path, entry_id = tmp_path / "journal.db", os.urandom(16)
    with opened(path) as journal:
        append(journal, BEFORE)
        proof = refused_release(journal, disk, entry_id)
    with opened(path) as journal:
        require_one_tree(journal, entry_id, proof)


def answered_by_another(path: Path) -> None:
    with opened(path) as other:
        other.record(
            entry_of(os.urandom(16)), redemption=nonce(1), response=b"the other's"
        )


def append_by_another(path: Path) -> None:
    with opened(path) as other:
        append(other, 2, since=900)


@pytest.mark.parametrize(
    ("meanwhile", "kept"),
    [(append_by_another, b"response "), (answered_by_another, b"the other's")],
)
def test_the_entry_is_there_where_another_process_went_on_first(
    tmp_path: Path, disk: Disk, meanwhile: Callable[[Path], None], kept: bytes
) -> None:
    path, entry_id = tmp_path / "journal.db", os.urandom(16)
    with opened(path) as journal:
        append(journal, BEFORE)
        refused_release(journal, disk, entry_id)
        meanwhile(path)
        append(journal, 1, since=200)
        found = [r.entry.entry_id for r in journal.entries(limit=1000)]
        assert found.count(entry_id) == 1
        assert (journal.kept_response(nonce(1)) or b"").startswith(kept)
    check_journal(path, log_key, whole=True)


def test_an_entry_that_the_host_put_in_the_place_of_an_owed_one_is_refused(
    tmp_path: Path, disk: Disk
) -> None:
    path, entry_id = tmp_path / "journal.db", os.urandom(16)
    with opened(path) as journal:
        append(journal, BEFORE)
        refused_release(journal, disk, entry_id)
        row = (entry_id, 5, 1, "v1", "granted", b"\xa0")
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(
            "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?)", (BEFORE + 1, *row)
        )
        connection.close()
        with pytest.raises(ServiceError) as told:
            append(journal, 1, since=200)
        assert told.value.code is Code.LOG_TAMPERED
