# SPDX-License-Identifier: Apache-2.0
"""What the state remembers of the log: a journal that was put back alone is refused.

The journal is a file beside the provider, and the state may be a database elsewhere.
Every few seconds the state takes the newest head that this provider signed; at the next
start the journal must still lead through it. It cannot see a journal that was put back
together with the state, nor the entries of the last few seconds.
"""

from __future__ import annotations

from typing import Final, Protocol

from tightseal.audit.log import Head
from tightseal.errors import Code, RequestError, ServiceError
from tightseal.model.canonical import decode, encode
from tightseal.model.ports import Clock
from tightseal.model.state import Record, StateStore

__all__ = ["LOG_HEAD_KIND", "LogMark", "MarkedLog"]

LOG_HEAD_KIND: Final = "log-head"
"""Kind of the records, named by log id in hex."""

_LOST_RACE: Final = frozenset({Code.STATE_EXISTS, Code.STATE_CONFLICT})


class MarkedLog(Protocol):
    """The journal, as far as marks need it."""

    def head(self) -> Head:
        """The head in the file."""
        ...

    def signed_head(self) -> Head | None:
        """The newest head that this process signed or checked."""
        ...

    def root_at(self, size: int) -> bytes:
        """The root that the log had at a size, as its rows say now."""
        ...


class LogMark:
    """The mark of one journal in one state store. Safe for several processes.

    Args:
        store: remembers.
        journal: whose log it is.
        clock: Unix seconds.
    """

    def __init__(self, store: StateStore, journal: MarkedLog, clock: Clock) -> None:
        self._store = store
        self._journal = journal
        self._clock = clock
        self._marked = 0

    def require(self) -> None:
        """Check that the journal leads through what the state remembers of it.

        Raises:
            ServiceError: ``log_tampered``; what the store raises.
        """
        head = self._journal.head()
        record = self._record(head)
        if record is None:
            return
        size, root = _mark(record)
        if head.frontier.size < size:
            detail = f"{head.frontier.size} entries, and the state saw {size}"
            raise ServiceError(Code.LOG_TAMPERED, f"log: {detail}: it was put back")
        if self._journal.root_at(size) != root:
            detail = f"other entries up to {size} than the state saw"
            raise ServiceError(Code.LOG_TAMPERED, f"log: {detail}")
        self._marked = size

    def look(self) -> None:
        """Remember the newest head, where there is one since the last look.

        Raises:
            ServiceError: what the store raises.
        """
        head = self._journal.signed_head()
        if head is None or head.frontier.size <= self._marked:
            return
        size = head.frontier.size
        value = encode([size, head.frontier.root()])
        record = self._record(head)
        name, now = head.log_id.hex(), self._clock()
        try:
            if record is None:
                self._store.create(LOG_HEAD_KIND, name, value, now=now)
            elif _mark(record)[0] < size:
                self._store.replace(
                    LOG_HEAD_KIND, name, value, expected=record.version, now=now
                )
        except ServiceError as e:
            # Another worker of this provider marked meanwhile; the next look goes on.
            if e.code not in _LOST_RACE:
                raise
        else:
            self._marked = size

    def _record(self, head: Head) -> Record | None:
        try:
            name = head.log_id.hex()
            return self._store.open(LOG_HEAD_KIND, name, now=self._clock())
        except ServiceError as e:
            if e.code is not Code.STATE_MISSING:
                raise
            return None


def _mark(record: Record) -> tuple[int, bytes]:
    try:
        match decode(record.value):
            case [int(size), bytes(root)]:
                return size, root
    except RequestError as e:
        raise _tampered() from e
    raise _tampered()


def _tampered() -> ServiceError:
    return ServiceError(Code.STATE_TAMPERED, "log head: not a record of ours")
