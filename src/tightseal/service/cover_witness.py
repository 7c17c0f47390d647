# SPDX-License-Identifier: Apache-2.0
"""Has witnesses cosign the log's head, for answers that wait to be cosigned.

One thread decides, and one for each witness carries. All witnesses are asked at once
for the newest head, which serves everybody who waits; whoever comes meanwhile is served
by the next one. A slow witness is left behind with the head that it has, and counts
for it when it answers. Cosignatures count by key, and only by keys that policy names:
addresses are the host's.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import structlog

from tightseal.audit.checkpoint import Checkpoint
from tightseal.audit.journal import SqliteJournal
from tightseal.audit.log import Head
from tightseal.audit.nodes import JournalNodes, NodeCache
from tightseal.audit.note import NoteKey, parse_note
from tightseal.audit.proof import LogProof
from tightseal.errors import Code, ServiceError, TightsealError
from tightseal.guest.http import Bounds
from tightseal.model.logclass import AuditLogSettings, LogClass, LogCover
from tightseal.service.cover import Waiting, prove_entry
from tightseal.service.cover_head import CosignedHead
from tightseal.service.cover_lane import Lane, LaneAnswer, WitnessState
from tightseal.service.logs import error_fields
from tightseal.service.witness_client import AheadError

__all__ = ["Outcome", "WitnessDesk"]

KEPT_HEADS: Final = 16
"""Most heads of which cosignatures are kept: for slow witnesses, and for retries."""

FAULT_SECONDS: Final = 0.1
"""Until the journal is read again, after it could not be."""

TURN_SECONDS: Final = 0.5
"""How often the deciding thread looks up while somebody waits."""

Outcome: TypeAlias = str
"""``cosigned``, ``ahead``, ``forked`` or ``failed``; for metrics."""

log = structlog.get_logger("tightseal.cover")


_Event: TypeAlias = "Waiting | LaneAnswer | str"
_LOOK: Final = "look"
_END: Final = "end"


class WitnessDesk:
    """Implements ``Desk`` for ``cosigned``.

    Args:
        urls: submission prefixes of the witnesses.
        journal: of this worker.
        rules: the settings in force, for probes.
        seconds: whole time of one request to a witness.
        on_answer: told the outcome of each.
    """

    def __init__(
        self,
        urls: Sequence[str],
        journal: SqliteJournal,
        rules: Callable[[], AuditLogSettings],
        *,
        seconds: float,
        on_answer: Callable[[Outcome], None] = lambda _outcome: None,
    ) -> None:
        bounds = Bounds(
            connect=seconds, read=seconds, write=seconds, total=seconds, attempts=1
        )
        self._journal = journal
        self._rules = rules
        self._on_answer = on_answer
        self._inbox: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._lanes = [Lane(url, bounds, self._inbox.put) for url in urls]
        self._cache = NodeCache()
        self._heads: list[CosignedHead] = []
        self._waiting: list[Waiting] = []
        self._probing = False
        self._fault = ""
        self._not_before = 0.0
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.covered = 0
        """Entries of the largest head that somebody's need was met by."""

    # -- from outside -------------------------------------------------------------

    @property
    def why(self) -> str:
        """As of ``Desk``."""
        bad = [f"{lane.url}: {lane.error}" for lane in self._lanes if lane.error]
        return "; ".join([*([self._fault] if self._fault else []), *bad])

    def put(self, waiting: Waiting) -> None:
        """As of ``Desk``."""
        self._tell(waiting)

    def look(self) -> None:
        """As of ``Desk``."""
        if self._rules().witnesses:
            self._tell(_LOOK)

    def close(self) -> None:
        """As of ``Desk``."""
        self._inbox.put(_END)

    def states(self) -> list[WitnessState]:
        """What is known of each witness."""
        now = time.monotonic()
        return [lane.state(now) for lane in self._lanes]

    def _tell(self, event: _Event) -> None:
        self._inbox.put(event)
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="log-cosign", daemon=True
                    )
                    self._thread.start()

    # -- the deciding thread ------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                events = [self._inbox.get(timeout=self._pause())]
            except queue.Empty:
                events = []
            while not self._inbox.empty():
                events.append(self._inbox.get())
            if _END in events:
                for lane in self._lanes:
                    lane.close()
                return
            try:
                self._turn(events)
            except Exception as e:  # noqa: BLE001  # the thread must outlive one turn
                log.error("cover_failed", **error_fields(e))  # noqa: TRY400

    def _pause(self) -> float | None:
        if not self._waiting:
            return None
        soon = [lane.not_before for lane in self._lanes if not lane.busy]
        now = time.monotonic()
        waits = [at - now for at in (*soon, self._not_before) if at > now]
        return min([*waits, TURN_SECONDS])

    def _turn(self, events: Sequence[_Event]) -> None:
        now = time.monotonic()
        for event in events:
            if isinstance(event, Waiting):
                self._waiting.append(event)
            elif isinstance(event, LaneAnswer):
                self._take(event, now)
            else:
                self._probing = True
        self._settle()
        self._plan(now)

    def _take(self, answer: LaneAnswer, now: float) -> None:
        """What a witness said; only lines of named keys that verify are kept."""
        lane, asked = answer.lane, answer.asked
        lane.busy = False
        error = answer.error
        if isinstance(error, AheadError) and error.latest > lane.ahead:
            lane.ahead = error.latest
            self._on_answer("ahead")
            return
        keys: frozenset[str] = frozenset()
        if error is None:
            keys, error = self._kept(answer)
        if error is None:
            lane.good(asked, keys, now)
            self._on_answer("cosigned")
            return
        forked = error.code is Code.LOG_FORKED
        if forked:
            # A row that was read wrong once makes a wrong proof, which looks the same.
            asked.nodes.forget()
        self._on_answer("forked" if forked else "failed")
        lane.failed(f"{error.code.value}: {error.detail}", now)
        event = "log_forked" if forked else "witness_failed"
        tell = log.error if forked else log.warning
        tell(event, url=lane.url, code=error.code.value, detail=error.detail)

    def _kept(self, answer: LaneAnswer) -> tuple[frozenset[str], TightsealError | None]:
        asked, named = answer.asked, self._named()
        keys = set()
        for line in answer.lines:
            key = named.get((line.name, line.key_id))
            if key is None:
                continue
            try:
                asked.take(line, key)
            except ServiceError as e:
                return frozenset(), e
            keys.add(str(key))
        if not keys:
            detail = "no cosignature by a key that the policy names"
            return frozenset(), ServiceError(Code.LOG_UNDERSIGNED, detail)
        return frozenset(keys), None

    def _named(self) -> dict[tuple[str, bytes], NoteKey]:
        """The keys that count for anybody who waits, or by the rules in force."""
        texts = set(self._rules().witnesses)
        for one in self._waiting:
            texts.update(one.held.need.witnesses)
        keys = map(NoteKey.parse, texts)
        return {(key.name, key.key_id): key for key in keys}

    def _settle(self) -> None:
        """Give answers to those whose entry is in a head that is cosigned enough."""
        for one in self._waiting:
            if not one.done.done():
                self._settle_one(one)
        self._waiting = [one for one in self._waiting if not one.done.done()]

    def _settle_one(self, one: Waiting) -> None:
        held = one.held
        for head in reversed(self._heads):
            if held.index >= head.size:
                return
            verified = head.meets(held.need)
            if verified is None:
                continue
            try:
                if held.promise.key != str(head.key):
                    detail = "log: an entry was promised under another log's key"
                    raise ServiceError(Code.LOG_TAMPERED, detail)
                path = prove_entry(
                    held, size=head.size, root=head.root, nodes=head.nodes
                )
            except TightsealError as e:
                one.fail(e)
                return
            proof = LogProof(held.index, path, verified.note.encode()).encode()
            keys = sorted(str(signed.key) for signed in verified.witnesses)
            cover = LogCover(
                LogClass.COSIGNED, head.size, head.root, witnesses=tuple(keys)
            )
            self.covered = max(self.covered, head.size)
            one.finish(cover, proof)
            return

    def _plan(self, now: float) -> None:
        """Ask every witness that is free for what is still needed of it."""
        for lane in self._lanes:
            if lane.busy or now < max(lane.not_before, self._not_before):
                continue
            try:
                head = self._wanted(lane, now)
            except TightsealError as e:
                self._fault = f"{e.code.value}: {e.detail}"
                self._not_before = now + FAULT_SECONDS
                log.error("log_not_submitted", code=e.code.value, detail=e.detail)  # noqa: TRY400
                break
            if head is not None:
                lane.ask(head, now)
        self._probing = False

    def _wanted(self, lane: Lane, now: float) -> CosignedHead | None:
        newest = self._heads[-1] if self._heads else None
        size = 0 if newest is None else newest.size
        asks = any(one.held.index >= size for one in self._waiting) or (
            bool(self._waiting) and lane.ahead > size
        )
        probes = self._probing and lane.due(now)
        if asks or (probes and (newest is None or lane.ahead > size)):
            newest = self._fresh()
            size = 0 if newest is None else newest.size
        elif not probes and (not self._waiting or lane.signed is newest):
            return None
        if lane.ahead > size:
            # No entry leaves the journal: what the witness saw is of another one.
            error = AheadError(lane.ahead, size)
            lane.ahead = 0
            lane.failed(f"{error.code.value}: {error.detail}", now)
            self._on_answer("forked")
            log.error("log_forked", url=lane.url, detail=error.detail)
            return None
        return newest

    def _fresh(self) -> CosignedHead | None:
        """The newest head, as the file has it; signed by the log's key, whoever did.

        Raises:
            ServiceError: ``log_tampered``, where an entry that waits is not in it;
                ``journal_failed``.
        """
        head = self._journal.proven_head()
        size = head.frontier.size
        least = max((one.held.index + 1 for one in self._waiting), default=0)
        if self._heads:
            least = max(least, self._heads[-1].size)
        if size < least:
            detail = f"log: {size} entries, and {least} were there: it was put back"
            raise ServiceError(Code.LOG_TAMPERED, detail)
        self._fault = ""
        if not size:
            return None
        if not self._heads or self._heads[-1].size != size:
            self._heads.append(self._made(head))
            del self._heads[:-KEPT_HEADS]
        return self._heads[-1]

    def _made(self, head: Head) -> CosignedHead:
        note = parse_note(head.checkpoint)
        stated = Checkpoint.parse(note.text)
        nodes = JournalNodes(self._journal, stated.size, self._cache)
        return CosignedHead(head, note, self._journal.verifier(), nodes)
