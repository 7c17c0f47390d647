# SPDX-License-Identifier: Apache-2.0
"""What the state remembers of its logs: a journal that was put back, or exchanged.

The journal is a file beside the provider, and the state may be a database elsewhere.
Before a provider goes on with a log, the state has to know it; every few seconds the
state takes the newest head that this provider signed; and at the next start the journal
must still lead through it.

A state that one provider has for itself knows one log at a time. Another one in its
place, such as an empty journal that the host made, is refused until the host says by
name which log is over. In a state that nodes share, a log that it does not know is a
new node's. Either way the new log begins with an entry of what the state knew of every
log then, so that nobody ends one unseen.

It cannot see a journal that was put back together with the state, nor the entries of
the last few seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from tightseal.audit.log import Head
from tightseal.audit.upgrade import LOG_CLASS
from tightseal.errors import Code, RequestError, ServiceError
from tightseal.model.canonical import Value, decode, encode
from tightseal.model.ports import Clock, JournalEntry
from tightseal.model.state import Change, Create, Record, Replace, StateStore

__all__ = ["LOG_BEGUN", "LOG_HEAD_KIND", "LogMark", "MarkedLog"]

LOG_HEAD_KIND: Final = "log-head"
"""Kind of the records, named by log id in hex."""

LOG_BEGUN: Final = "begun"
"""Code of the entry that says what the state knew of its logs."""

MAX_LISTED: Final = 512
"""Most logs in that entry, which gives the number of all of them."""

_LOST_RACE: Final = frozenset({Code.STATE_EXISTS, Code.STATE_CONFLICT})
_TRIES: Final = 16


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

    def condemn(self, error: ServiceError) -> None:
        """Take no entry any more."""
        ...

    def record(
        self, entry: JournalEntry, *, redemption: None, response: bytes
    ) -> bytes:
        """Append an entry; it is durable on return."""
        ...


@dataclass(frozen=True, slots=True)
class _Mark:
    """How far the state saw a log; ``over`` where it was said to have ended."""

    size: int
    root: bytes
    over: bool
    version: int

    def encode(self) -> bytes:
        """As stored: the third item only where it says something."""
        return encode([self.size, self.root, *([True] if self.over else [])])


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
        self._through = 0, b""

    def begin(self, *, alone: bool, ended: frozenset[bytes], entry_id: bytes) -> None:
        """Make the log known to the state, where it is not, before it is gone on with.

        The entry comes first: what a crash leaves is begun again.

        Args:
            alone: whether the state belongs to this provider only, and so to one log.
            ended: ids of logs that are over.
            entry_id: 16 random bytes, of the entry that says what the state knew.

        Raises:
            ServiceError: ``log_tampered``, where another log is in this one's place, or
                this one was said to be over; what store and journal raise.
        """
        log_id = self._head().log_id
        if log_id in ended:
            raise _over(log_id)
        known = self._known()
        over = {log for log in ended if log in known and not known[log].over}
        if log_id not in known and alone:
            _require_none_left(log_id, known, over)
        if log_id in known:
            # First: an entry in a journal that was put back would be a second tree.
            self.require()
            if not over:
                return
        self._journal.record(
            self._begun(log_id, known, over, entry_id), redemption=None, response=b""
        )
        for _ in range(_TRIES):
            try:
                self._store.batch(self._changes(over), now=self._clock())
            except ServiceError as e:
                # A node that is still there looked at its log meanwhile.
                if e.code not in _LOST_RACE:
                    raise
            else:
                return
        detail = "log: the marks of other logs changed again and again"
        raise ServiceError(Code.STATE_CONFLICT, detail)

    def require(self) -> None:
        """Check that the journal leads through what the state remembers of it.

        Raises:
            ServiceError: ``log_tampered``; what the store raises.
        """
        head = self._head()
        mark = self._mark(head)
        if mark is None:
            detail = f"log {head.log_id.hex()} is not known to the state"
            raise ServiceError(Code.LOG_TAMPERED, f"{detail}: it was exchanged")
        if mark.over:
            raise _over(head.log_id)
        if head.frontier.size < mark.size:
            detail = f"{head.frontier.size} entries, and the state saw {mark.size}"
            raise ServiceError(Code.LOG_TAMPERED, f"log: {detail}: it was put back")
        self._require_through(mark)
        self._marked = mark.size

    def look(self) -> None:
        """Remember the newest head, where there is one since the last look.

        Where the state knows better, the journal takes no entry from then on.

        Raises:
            ServiceError: ``log_tampered``, where the log was said to be over, or what
                another process had the state take is no beginning of it; what the
                store raises.
        """
        try:
            self._look()
        except ServiceError as e:
            if e.code is Code.LOG_TAMPERED:
                self._journal.condemn(e)
            raise

    def _look(self) -> None:
        head = self._journal.signed_head()
        if head is None or head.frontier.size <= self._marked:
            return
        mark = self._mark(head)
        if mark is not None and mark.over:
            raise _over(head.log_id)
        try:
            if changes := _raised(head, mark):
                if mark is not None:
                    self._require_through(mark)
                self._store.batch(changes, now=self._clock())
                self._through = head.frontier.size, head.frontier.root()
        except ServiceError as e:
            # Another worker of this provider marked meanwhile; the next look goes on.
            if e.code not in _LOST_RACE:
                raise
        else:
            self._marked = head.frontier.size

    def _require_through(self, mark: _Mark) -> None:
        """Check that our entries lead through a mark.

        The host can give each process another copy of the journal, and one key signs
        both: so what another process marked must be our past, or ours is no log.
        """
        if (mark.size, mark.root) == self._through:
            return
        if self._journal.root_at(mark.size) != mark.root:
            detail = f"other entries up to {mark.size} than the state saw"
            raise ServiceError(Code.LOG_TAMPERED, f"log: {detail}")
        self._through = mark.size, mark.root

    def taken(self) -> tuple[int, bytes]:
        """Size and root of the newest head of this log that the state has taken.

        Raises:
            ServiceError: ``log_tampered``, where the state does not know the log, or
                knows that it is over; what the store raises.
        """
        head = self._head()
        mark = self._mark(head)
        if mark is None or mark.over:
            raise _over(head.log_id)
        return mark.size, mark.root

    def _begun(
        self,
        log_id: bytes,
        known: Mapping[bytes, _Mark],
        over: set[bytes],
        entry_id: bytes,
    ) -> JournalEntry:
        logs: list[Value] = [
            [log, mark.size, mark.root, mark.over or log in over]
            for log, mark in sorted(known.items())
        ]
        body: Value = {"log": log_id, "known": len(logs), "logs": logs[:MAX_LISTED]}
        return JournalEntry(
            entry_id=entry_id,
            time=self._clock(),
            granted=True,
            protocol_class=LOG_CLASS,
            code=LOG_BEGUN,
            body=body,
        )

    def _changes(self, over: set[bytes]) -> list[Change]:
        known = self._known()
        head = self._head()
        return [
            *_raised(head, known.get(head.log_id)),
            *(
                _replace(log, _Mark(mark.size, mark.root, True, mark.version))
                for log in sorted(over)
                if (mark := known.get(log)) is not None
            ),
        ]

    def _known(self) -> dict[bytes, _Mark]:
        found = self._store.scan(LOG_HEAD_KIND, now=self._clock())
        return {_log_id(record): _mark(record) for record in found}

    def _head(self) -> Head:
        """What this process goes on from: a host may show each reader another file."""
        return self._journal.signed_head() or self._journal.head()

    def _mark(self, head: Head) -> _Mark | None:
        try:
            name = head.log_id.hex()
            return _mark(self._store.open(LOG_HEAD_KIND, name, now=self._clock()))
        except ServiceError as e:
            if e.code is not Code.STATE_MISSING:
                raise
            return None


def _require_none_left(
    log_id: bytes, known: Mapping[bytes, _Mark], over: set[bytes]
) -> None:
    left = {k: m for k, m in known.items() if not m.over and k not in over}
    if left:
        logs = ", ".join(f"{k.hex()} ({m.size} entries)" for k, m in left.items())
        detail = f"log: the journal is of {log_id.hex()}, and the state has {logs}"
        hint = "put its journal back, or name it in host.state.ended_logs if it is lost"
        raise ServiceError(Code.LOG_TAMPERED, f"{detail}: {hint}")


def _raised(head: Head, mark: _Mark | None) -> list[Change]:
    size = head.frontier.size
    if mark is None:
        made = _Mark(size, head.frontier.root(), over=False, version=0)
        return [Create(LOG_HEAD_KIND, head.log_id.hex(), made.encode())]
    if mark.size >= size:
        return []
    raised = _Mark(size, head.frontier.root(), mark.over, mark.version)
    return [_replace(head.log_id, raised)]


def _replace(log_id: bytes, mark: _Mark) -> Replace:
    return Replace(LOG_HEAD_KIND, log_id.hex(), mark.encode(), expected=mark.version)


def _log_id(record: Record) -> bytes:
    try:
        return bytes.fromhex(record.name)
    except ValueError as e:
        raise _tampered() from e


def _mark(record: Record) -> _Mark:
    try:
        match decode(record.value):
            case [int(size), bytes(root)]:
                return _Mark(size, root, over=False, version=record.version)
            case [int(size), bytes(root), True]:
                return _Mark(size, root, over=True, version=record.version)
    except RequestError as e:
        raise _tampered() from e
    raise _tampered()


def _over(log_id: bytes) -> ServiceError:
    detail = f"log {log_id.hex()} was said to be over by host.state.ended_logs"
    return ServiceError(Code.LOG_TAMPERED, f"{detail}: begin a new journal")


def _tampered() -> ServiceError:
    return ServiceError(Code.STATE_TAMPERED, "log head: not a record of ours")
