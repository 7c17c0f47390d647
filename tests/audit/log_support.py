# SPDX-License-Identifier: Apache-2.0
"""A signed log in a real journal, published as files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from journal_worker import entry_of, log_key

from tightseal.audit.checkpoint import Trust
from tightseal.audit.journal import SqliteJournal
from tightseal.audit.log import log_signer
from tightseal.audit.note import NoteSigner
from tightseal.audit.publish import publish
from tightseal.audit.tilefiles import FileTileStore


def append(journal: SqliteJournal, count: int, *, since: int = 0) -> None:
    waiting = []
    for number in range(since, since + count):
        entry = entry_of(number.to_bytes(16, "big"))
        waiting.append(journal.submit(entry, redemption=None, response=b""))
        if len(waiting) >= 512:
            for done in waiting:
                done.result(timeout=30)
            waiting.clear()
    for done in waiting:
        done.result(timeout=30)


@contextmanager
def opened(path: Path) -> Iterator[SqliteJournal]:
    journal = SqliteJournal.open_or_create(path, log_key=log_key)
    try:
        yield journal
    finally:
        journal.close()


def signer_of(journal: SqliteJournal) -> NoteSigner:
    return log_signer(journal.head().log_id, log_key)


def published(folder: Path, count: int) -> tuple[FileTileStore, Trust]:
    """A log of ``count`` entries as files in ``folder/tiles``."""
    store = FileTileStore(folder / "tiles")
    with opened(folder / "journal.db") as journal:
        append(journal, count)
        publish(journal, store)
        return store, Trust(signer_of(journal).key)
