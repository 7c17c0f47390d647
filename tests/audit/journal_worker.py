# SPDX-License-Identifier: Apache-2.0
"""What the journal's tests run in processes of their own.

Usage: journal_worker.py record|race|full FILE [NAME]
"""

import hashlib
import os
import resource
import signal
import sys
import threading
from pathlib import Path

from tightseal.audit.journal import SqliteJournal
from tightseal.errors import TightsealError
from tightseal.model.ports import JournalEntry, NonceRedemption

NOW = 1_800_000_000


def log_key(log_id: bytes) -> bytes:
    return hashlib.sha256(b"the provider's secret" + log_id).digest()


def say(word: str) -> None:
    os.write(1, word.encode() + b"\n")


def entry_of(entry_id: bytes) -> JournalEntry:
    return JournalEntry(entry_id, NOW, True, "v1", "granted", {"of": entry_id})


def redemption_of(nonce: bytes, request: bytes) -> NonceRedemption:
    return NonceRedemption(nonce, NOW + 60, hashlib.sha256(request).digest())


def response_of(entry_id: bytes) -> bytes:
    return b"response to " + entry_id


def record_until_killed(journal: SqliteJournal) -> None:
    """Print an entry id once, and only once, its response may leave."""

    def record() -> None:
        while True:
            entry_id = os.urandom(16)
            got = journal.record(
                entry_of(entry_id),
                redemption=redemption_of(entry_id, entry_id),
                response=response_of(entry_id),
            )
            if got == response_of(entry_id):
                say(entry_id.hex())

    for _ in range(8):
        threading.Thread(target=record, daemon=True).start()
    signal.pause()


def race(journal: SqliteJournal, name: str) -> None:
    """For each nonce on stdin: try to redeem it, and print how that ended."""
    say("ready")
    for line in sys.stdin:
        nonce = bytes.fromhex(line)
        try:
            journal.record(
                entry_of(os.urandom(16)),
                redemption=redemption_of(nonce, name.encode()),
                response=name.encode(),
            )
        except TightsealError as e:
            say(e.code.value)
        else:
            say("won")
    journal.close()


def fill_disk(journal: SqliteJournal) -> None:
    """Record under a file size limit until it fails, lift it, record again."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))

    def record() -> str:
        entry_id = os.urandom(16)
        try:
            journal.record(
                entry_of(entry_id),
                redemption=redemption_of(entry_id, entry_id),
                response=bytes(5000),
            )
        except TightsealError as e:
            return e.code.value
        say(entry_id.hex())
        return "recorded"

    for _ in range(200):
        if (outcome := record()) != "recorded":
            break
    say(outcome)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    say(record())
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    say(record())
    journal.close()


if __name__ == "__main__":
    opened = SqliteJournal.open_or_create(Path(sys.argv[2]), log_key=log_key)
    match sys.argv[1]:
        case "record":
            record_until_killed(opened)
        case "race":
            race(opened, sys.argv[3])
        case "full":
            fill_disk(opened)
