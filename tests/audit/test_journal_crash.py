# SPDX-License-Identifier: Apache-2.0
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import journal_worker
import pytest
from journal_worker import log_key, redemption_of, response_of

from tightseal.audit.journal import MAX_LISTED, SqliteJournal
from tightseal.audit.logfile import check_journal
from tightseal.errors import Code, EvidenceError

WORKER = Path(journal_worker.__file__)


def start(*args: str | Path, stdin: int | None = None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, WORKER, *args], stdin=stdin, stdout=subprocess.PIPE
    )


def recorded(journal: SqliteJournal) -> set[bytes]:
    found: set[bytes] = set()
    after = 0
    while page := journal.entries(after=after, limit=MAX_LISTED):
        found.update(r.entry.entry_id for r in page)
        after = page[-1].seq
    return found


def acknowledged(line: bytes) -> bytes | None:
    text = line.strip()
    return bytes.fromhex(text.decode()) if len(text) == 32 else None


def crash_rounds(path: Path, rounds: int, seed: int) -> None:
    delay = random.Random(seed)
    acked: set[bytes] = set()
    for _ in range(rounds):
        worker = start("record", path)
        assert worker.stdout is not None
        first = acknowledged(worker.stdout.readline())
        time.sleep(delay.uniform(0.0, 0.2))
        worker.kill()
        rest, _ = worker.communicate()
        acked.update(
            a for a in (first, *map(acknowledged, rest.splitlines(keepends=False))) if a
        )
        journal = SqliteJournal.open(path)
        assert acked <= recorded(journal), "an acknowledged entry is gone"
        for entry_id in list(acked)[-50:]:
            kept = journal.kept_response(redemption_of(entry_id, entry_id))
            assert kept == response_of(entry_id)
        journal.close()
        assert check_journal(path, log_key).frontier.size >= len(acked)
    assert len(acked) > rounds


def test_no_acknowledged_entry_is_lost_by_a_kill(tmp_path: Path) -> None:
    crash_rounds(tmp_path / "journal.db", rounds=10, seed=1)


def test_kill_while_creating_leaves_a_file_that_opens(tmp_path: Path) -> None:
    delay = random.Random(3)
    for round_ in range(8):
        path = tmp_path / f"{round_}.db"
        worker = start("record", path)
        while not path.exists():
            time.sleep(0.0002)
        time.sleep(delay.uniform(0.0, 0.02))
        worker.kill()
        out, _ = worker.communicate()
        journal = SqliteJournal.open_or_create(path)
        acked = {a for a in map(acknowledged, out.splitlines()) if a}
        assert acked <= recorded(journal)
        journal.close()
        check_journal(path, log_key)


@pytest.mark.soak
def test_no_acknowledged_entry_is_lost_by_many_kills(tmp_path: Path) -> None:
    crash_rounds(tmp_path / "journal.db", rounds=200, seed=2)


def test_one_nonce_on_two_processes_has_one_winner(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    names = ("one", "two")
    workers = [start("race", path, name, stdin=subprocess.PIPE) for name in names]
    nonces = [os.urandom(56) for _ in range(200)]
    winners = {}
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
    for nonce in nonces:
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(nonce.hex().encode() + b"\n")
            worker.stdin.flush()
        outcomes = [w.stdout.readline().strip() for w in workers if w.stdout]
        assert sorted(outcomes) == [b"nonce_replayed", b"won"]
        winners[nonce] = names[outcomes.index(b"won")]
    for worker in workers:
        worker.communicate()
        assert worker.returncode == 0
    assert check_journal(path, log_key).frontier.size == 200
    journal = SqliteJournal.open(path)
    assert len(recorded(journal)) == 200
    for nonce, winner in winners.items():
        kept = journal.kept_response(redemption_of(nonce, winner.encode()))
        assert kept == winner.encode()
        other = names[1 - names.index(winner)]
        with pytest.raises(EvidenceError) as refused:
            journal.kept_response(redemption_of(nonce, other.encode()))
        assert refused.value.code is Code.NONCE_REPLAYED
    journal.close()


def test_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    worker = start("full", path)
    out, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0
    lines = out.decode().split()
    *acked, first, second, last_id, last = lines
    assert (first, second, last) == ("journal_failed", "journal_failed", "recorded")
    assert len(acked) > 1
    journal = SqliteJournal.open(path)
    assert {bytes.fromhex(a) for a in (*acked, last_id)} <= recorded(journal)
    check_journal(path, log_key)
    journal.close()
