# SPDX-License-Identifier: Apache-2.0
"""What goes into a provider's journal outside of requests.

Changes of a keyring before they are made, and how a log began.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial

from tightseal.audit.journal import ENTRY_ID_BYTES, SqliteJournal
from tightseal.audit.log import LogKey
from tightseal.errors import TightsealError
from tightseal.keys.keyring import Keyring
from tightseal.model.canonical import Value
from tightseal.model.ports import Clock, JournalEntry
from tightseal.model.secret import Secret
from tightseal.release.changes import ChangeBy, KeyringChange
from tightseal.release.logmark import LogMark
from tightseal.service.settings import HostSettings, StateEngine
from tightseal.service.state import open_store

__all__ = ["Record", "begin_log", "enter_found", "journalled", "recorded"]

Record = Callable[[JournalEntry], None]
"""Takes an entry; returns once it is durable, or raises."""


@contextmanager
def journalled(host: HostSettings, log_key: LogKey) -> Iterator[Record | None]:
    """The journal of a provider, for a command; ``None`` where there is none yet.

    A journal is made with the rest of the state at the first start. Made earlier it
    would stand alone, which a start takes for state of which a part was lost.

    Args:
        host: where it lies.
        log_key: derives the log's key.

    Raises:
        ServiceError: ``journal_failed``, where it cannot be used.
    """
    if not host.journal_path.exists():
        yield None
        return
    with closing(SqliteJournal.open(host.journal_path, log_key=log_key)) as journal:
        yield partial(_record, journal)


def begin_log(
    host: HostSettings, log_key: LogKey, store_key: Secret, *, clock: Clock
) -> None:
    """Have the state know the log, before any worker goes on with it.

    Args:
        host: where journal and state lie, and which logs are over.
        log_key: derives the log's key.
        store_key: of the state store.
        clock: Unix seconds.

    Raises:
        ServiceError: ``log_tampered``, where another log has taken the place of the one
            that the state knows; as of journal and store.
    """
    alone = host.state.engine is StateEngine.SQLITE
    ended = frozenset(map(bytes.fromhex, host.state.ended_logs))
    entry_id = secrets.token_bytes(ENTRY_ID_BYTES)
    with (
        closing(SqliteJournal.open(host.journal_path, log_key=log_key)) as journal,
        closing(open_store(host, store_key)) as store,
    ):
        mark = LogMark(store, journal, clock)
        mark.begin(alone=alone, ended=ended, entry_id=entry_id)


def enter_found(
    host: HostSettings, keyring: Keyring, log_key: LogKey, *, now: int
) -> None:
    """Enter the keyring that a provider finds at its first start.

    What made it (a command, the provider itself, a handoff) had no journal yet.

    Raises:
        ServiceError: ``journal_failed``.
    """
    slots: list[Value] = [
        [slot.slot_id, [factor.value for factor in slot.factors], slot.label]
        for slot in keyring.slots
    ]
    told: dict[str, Value] = {"current": keyring.current.number, "slots": slots}
    change = KeyringChange("find-keyring", ChangeBy.START, keyring.header, told)
    with journalled(host, log_key) as record:
        assert record is not None, "the first start has made it"
        record(change.entry(entry_id=secrets.token_bytes(ENTRY_ID_BYTES), now=now))


@contextmanager
def recorded(change: KeyringChange, record: Record, *, now: int) -> Iterator[None]:
    """Enter a change before it is made, and once more where it fails after all.

    Raises:
        ServiceError: ``journal_failed``, ``overloaded``: then nothing may be changed.
    """
    record(change.entry(entry_id=secrets.token_bytes(ENTRY_ID_BYTES), now=now))
    try:
        yield
    except TightsealError as e:
        again = secrets.token_bytes(ENTRY_ID_BYTES)
        with suppress(TightsealError):
            record(change.entry(entry_id=again, now=now, refusal=e.code))
        raise


def _record(journal: SqliteJournal, entry: JournalEntry) -> None:
    journal.record(entry, redemption=None, response=b"")
