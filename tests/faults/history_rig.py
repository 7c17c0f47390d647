# SPDX-License-Identifier: Apache-2.0
"""Clients of real providers that write down what they asked and what they were told.

Every attempt is an operation on up to three objects: the usage counter of a workload,
the allowance of a minute, and the nonce. What an answer says of each is below in
``_told``; where it says nothing, the operation is one whose outcome nobody knows.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from history_checker import UNKNOWN, Judged, Operation, check
from history_specs import (
    GRANTED,
    LIMITED,
    REFUSED,
    REPLAYED,
    MinuteAllowance,
    Nonce,
    ReadTotal,
    Redeem,
    Release,
    Response,
    UsageCounter,
)
from node_world import PURPOSE, Asking, RefusedError, Told, post

from tightseal.errors import Code, ServiceError, TightsealError
from tightseal.model.ports import EvidenceSource
from tightseal.model.state import Change, StateStore
from tightseal.model.usage import key_record
from tightseal.model.wire import KEYS_PATH
from tightseal.policy.usagerecord import UsageRecord
from tightseal.release.leases import KIND as LIMIT
from tightseal.release.usage import KIND as USAGE

MINUTE_OBJECT = ("minute", "tenant")

BEFORE_THE_COUNT = frozenset(
    {
        Code.RATE_LIMITED,
        Code.NONCE_UNKNOWN,
        Code.CLOCK_BEHIND,
        Code.REPORT_DATA_MISMATCH,
    }
)
"""Refusals that come before anything is counted; their effect is none."""

NOBODY_KNOWS = frozenset({Code.STATE_UNAVAILABLE, Code.JOURNAL_FAILED})
"""Whether it was done is not known, nor when: it may still be under way."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it was sent, perhaps more than once.

    Attributes:
        node: name of the node that minted its nonce, and which start of it.
        nonce, request: names of both.
        workload: whose key it asks for.
        body: the bytes.
    """

    node: str
    nonce: str
    request: str
    workload: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Attempt:
    """One sending of a request."""

    asked: Asked
    began: float
    ended: float | None
    told: Told | None
    home: bool
    times: tuple[int, ...]
    client: str

    def before(self, other: Attempt) -> bool:
        """Whether it was answered before the other was sent."""
        return self.ended is not None and self.ended < other.began

    def known_end(self) -> float | None:
        """When all that it could do was done; ``None`` where nobody knows."""
        told = self.told
        return None if told is None or told.code in NOBODY_KNOWS else self.ended

    def idle_before(self, other: Attempt) -> bool:
        """Whether it was over before, and had no effect."""
        told = self.told
        return self.before(other) and told is not None and told.code in BEFORE_THE_COUNT


@dataclass
class Readings:
    """What the clock of each node said, and since when."""

    said: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    def note(self, node: str, reading: int) -> None:
        self.said.setdefault(node, []).append((time.monotonic(), reading))

    def between(self, node: str, began: float, ended: float | None) -> tuple[int, ...]:
        found = set()
        changes = self.said[node]
        for at, (since, reading) in enumerate(changes):
            until = changes[at + 1][0] if at + 1 < len(changes) else None
            if until is not None and until < began:
                continue
            if ended is None or since <= ended:
                found.add(reading)
        return tuple(sorted(found))


@dataclass
class Recorded:
    """The history so far. Safe for threads."""

    readings: Readings = field(default_factory=Readings)
    attempts: list[Attempt] = field(default_factory=list)
    reads: list[Operation] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def attempt(
        self,
        asked: Asked,
        send: Callable[[], Told],
        *,
        node: str,
        home: bool = True,
        client: str = "",
    ) -> Told | None:
        began = time.monotonic()
        try:
            told = send()
        except OSError:
            told, ended = None, None
        else:
            ended = time.monotonic()
        times = self.readings.between(node, began, ended)
        made = Attempt(asked, began, ended, told, home, times, client)
        with self._lock:
            self.attempts.append(made)
        return told

    def read(self, workload: str, total: Callable[[], int]) -> None:
        began = time.monotonic()
        try:
            found = total()
        except (ServiceError, OSError):
            return
        on = ("usage", workload)
        done = Operation(on, ReadTotal(), began, time.monotonic(), found)
        with self._lock:
            self.reads.append(done)

    def codes(self) -> Counter[str]:
        return Counter("cut" if a.told is None else a.told.code for a in self.attempts)

    def operations(self) -> list[Operation]:
        """Of all objects.

        A request counts once, however often it is sent: so of all its attempts that
        may have counted it the counter sees one operation.
        """
        made = list(self.reads)
        sent: dict[str, list[Attempt]] = defaultdict(list)
        for attempt in self.attempts:
            made.append(_on_nonce(attempt))
            if attempt.home:
                sent[attempt.asked.request].append(attempt)
        for attempts in sent.values():
            # An answer that is kept is given again; nothing is judged or counted.
            judged = [a for a in attempts if not _kept_before(a, attempts)]
            made += _on_counter(judged)
            for attempt in judged:
                others = [o for o in judged if o is not attempt]
                alone = all(o.idle_before(attempt) or attempt.before(o) for o in others)
                made.append(_on_minute(attempt, alone=alone))
        return made


def _kept_before(attempt: Attempt, attempts: Sequence[Attempt]) -> bool:
    return any(o.before(attempt) and _response(o.told) for o in attempts)


def _response(told: Told | None) -> Response | None:
    """What is kept for a nonce: a release, or a denial by its code."""
    if told is None:
        return None
    if told.granted:
        return Response(hashlib.sha256(told.body).hexdigest()[:16])
    if told.code == Code.USAGE_LIMIT_REACHED:
        return Response(told.code)
    return None


def _on_nonce(attempt: Attempt) -> Operation:
    told, ended = attempt.told, attempt.ended
    answer: Any = _response(told)
    if told is None or told.code == Code.JOURNAL_FAILED:
        answer, ended = UNKNOWN, None
    elif told.code == Code.NONCE_REPLAYED:
        answer = REPLAYED
    elif answer is None:
        assert told.code != Code.INTERNAL, told
        answer = REFUSED
    call = Redeem(attempt.asked.request, attempt.home)
    on = ("nonce", attempt.asked.nonce)
    return Operation(on, call, attempt.began, ended, answer, attempt.client)


def _on_counter(attempts: Sequence[Attempt]) -> Iterator[Operation]:
    """The attempts of one request: every refusal, and one count at most."""
    counting: list[Attempt] = []
    for attempt in attempts:
        told = attempt.told
        if told is not None and told.code == Code.USAGE_LIMIT_REACHED:
            yield _release([attempt], attempt.ended, LIMITED)
        elif told is None or told.code not in BEFORE_THE_COUNT:
            counting.append(attempt)
    ends = [a.ended for a in counting if a.told is not None and a.told.granted]
    granted = [end for end in ends if end is not None]
    if granted:
        # By its first answer it was counted, by this attempt or by one before.
        first = min(granted)
        yield _release([a for a in counting if a.began < first], first, GRANTED)
    elif counting:
        known = [a.known_end() for a in counting]
        last = None if None in known else max(end for end in known if end is not None)
        yield _release(counting, last, UNKNOWN)


def _release(
    attempts: Sequence[Attempt], ended: float | None, answer: Any
) -> Operation:
    asked = attempts[0].asked
    times = sorted({at for attempt in attempts for at in attempt.times})
    began = min(attempt.began for attempt in attempts)
    on = ("usage", asked.workload)
    return Operation(
        on, Release(None, tuple(times)), began, ended, answer, asked.request
    )


def _on_minute(attempt: Attempt, *, alone: bool) -> Operation:
    told, ended = attempt.told, attempt.known_end()
    answer: Any = UNKNOWN
    if told is None or ended is None:
        pass
    elif told.granted or told.code == Code.USAGE_LIMIT_REACHED:
        # Sent twice, one of them may have been given the answer that the other made.
        answer = GRANTED if alone else UNKNOWN
    elif told.code in BEFORE_THE_COUNT:
        answer = REFUSED
    call = Release()
    return Operation(MINUTE_OBJECT, call, attempt.began, ended, answer, attempt.client)


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits of a run: of the counter of each workload, and of a minute."""

    usage: dict[str, UsageCounter]
    minute: int | None = None

    def judge(self, recorded: Recorded, *, seed: object) -> Judged:
        """Raises as ``history_checker.check``, with the seed."""
        operations = [self._plain(o) for o in recorded.operations()]
        if self.minute is None:
            operations = [o for o in operations if o.on != MINUTE_OBJECT]
        try:
            return check(operations, self._spec)
        except AssertionError as e:
            e.args = (f"seed {seed}: {e}",)
            raise

    def _plain(self, operation: Operation) -> Operation:
        """Where no hour is limited, times say nothing; so equal calls are equal."""
        kind, name = operation.on  # type: ignore[misc]
        timeless = kind == "usage" and self.usage[name].per_hour is None
        if timeless and isinstance(operation.call, Release):
            return replace(operation, call=Release())
        return operation

    def _spec(self, on: Any) -> Any:
        kind, name = on
        if kind == "nonce":
            return Nonce()
        return (
            MinuteAllowance(self.minute or 0) if kind == "minute" else self.usage[name]
        )


# -- clients -----------------------------------------------------------------------


@dataclass
class Clients:
    """Random requests to nodes, by several threads.

    Args:
        nodes: by name: anything with a port, a clock and a number of its start.
        workloads: by name: what asks.
        total: reads how many releases of a workload are counted, at a node.
        recorded: where the history goes.
    """

    stage: Any
    nodes: Sequence[Any]
    workloads: dict[str, EvidenceSource]
    recorded: Recorded
    total: Callable[[Any, str], int] | None = None
    seconds: float = 60.0

    def run(self, seed: int, *, clients: int, rounds: int) -> None:
        with ThreadPoolExecutor(clients) as threads:
            asking = [
                threads.submit(self._client, f"c{n}", Random(f"{seed} {n}"), rounds)
                for n in range(clients)
            ]
            for done in asking:
                done.result()

    def _client(self, name: str, random: Random, rounds: int) -> None:
        number, end = 0, time.monotonic() + self.seconds
        while number < rounds:
            assert time.monotonic() < end, "the clients make no progress"
            try:
                self._round(f"{name}-{number}", name, random)
            except (OSError, RefusedError, TightsealError):
                # Down, or its clock was stepped between challenge and check: there is
                # no request, so nothing happened.
                time.sleep(0.02)
            else:
                number += 1

    def _round(self, exchange: str, client: str, random: Random) -> None:
        node = random.choice(self.nodes)
        workload = random.choice(sorted(self.workloads))
        first, *others = self._questions(
            exchange, node, workload, 2 if random.random() < 0.25 else 1
        )
        cut = random.random() < 0.1
        told = self._send(node, first, client, cut=cut)
        if others and random.random() < 0.8:
            self._send(node, others[0], client)
        again = 0.8 if told is None or not told.granted else 0.25
        if random.random() < again:
            self._at_once(node, first, client, 2 if random.random() < 0.3 else 1)
        if random.random() < 0.15:
            self._send(random.choice(self.nodes), first, client)
        if self.total is not None and random.random() < 0.4:
            total, at = self.total, random.choice(self.nodes)
            self.recorded.read(workload, lambda: total(at, workload))

    def _questions(
        self, exchange: str, node: Any, workload: str, many: int
    ) -> list[Asked]:
        """So many requests that answer one challenge."""
        started = node.start_name
        source = self.workloads[workload]
        made: list[Asked] = []
        challenge, nonce = b"", b""
        for number in range(many):
            asking = Asking(
                self.stage, node.port, node.clock, nonce or exchange_nonce(exchange)
            )
            asking.workload = source
            nonce = asking.client_nonce
            challenge = challenge or asking.challenge()
            body = asking.request(challenge)
            name = f"{exchange}/{number}"
            made.append(Asked(started, exchange, name, workload, body))
        return made

    def _send(
        self, node: Any, asked: Asked, client: str, *, cut: bool = False
    ) -> Told | None:
        def send() -> Told:
            if cut:
                send_and_leave(node.port, asked.body)
            return post(node.port, KEYS_PATH, asked.body, seconds=self.seconds)

        home = node.start_name == asked.node
        return self.recorded.attempt(
            asked, send, node=node.name, home=home, client=client
        )

    def _at_once(self, node: Any, asked: Asked, client: str, many: int) -> None:
        with ThreadPoolExecutor(many) as threads:
            for _ in range(many):
                threads.submit(self._send, node, asked, client)


def exchange_nonce(exchange: str) -> bytes:
    return hashlib.sha256(
        exchange.encode() + str(time.monotonic_ns()).encode()
    ).digest()


def send_and_leave(port: int, body: bytes) -> None:
    """Send a whole request, and be gone before its answer.

    Raises:
        OSError: always: nobody knows what came of it.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        head = f"POST {KEYS_PATH} HTTP/1.1\r\nhost: t\r\ncontent-length: {len(body)}"
        connection.sendall(f"{head}\r\n\r\n".encode() + body)
    raise ConnectionAbortedError


# -- stores to which something happens ---------------------------------------------


class CutStore:
    """A store whose writes of counters fail, before they are done or after.

    Args:
        store: the real one.
        random: when.
        every: of so many writes one fails each way.
    """

    def __init__(self, store: StateStore, random: Random, *, every: int = 12) -> None:
        self._store = store
        self._random = random
        self._every = every
        self._fates: list[str] = []
        self.cut: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def batch(self, changes: Sequence[Change], *, now: int) -> int:
        fate = ""
        if any(change.kind in (USAGE, LIMIT) for change in changes):
            fate = self._fate()
        if fate == "before":
            self.cut[fate] += 1
            raise ServiceError(Code.STATE_UNAVAILABLE, "cut before the commit")
        version = self._store.batch(changes, now=now)
        if fate == "after":
            self.cut[fate] += 1
            raise ServiceError(Code.STATE_UNAVAILABLE, "cut after the commit")
        return version

    def _fate(self) -> str:
        try:
            return self._fates.pop()
        except IndexError:
            fates = ["before", "after", *[""] * (self._every - 2)]
            self._random.shuffle(fates)
            self._fates = fates
            return ""


def total_of(store: StateStore, workload: str, *, now: int) -> int:
    """How many releases of a workload are counted."""
    record = key_record(tenant="acme", workload=workload, purpose=PURPOSE)
    try:
        return UsageRecord.decode(store.open(USAGE, record, now=now).value).total
    except ServiceError as e:
        if e.code is not Code.STATE_MISSING:
            raise
        return 0
