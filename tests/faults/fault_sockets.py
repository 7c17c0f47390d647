# SPDX-License-Identifier: Apache-2.0
"""A load of prebuilt requests over real sockets, from any loopback addresses.

One thread, one selector, no HTTP library: so that the generator costs as little as may
be on a machine that it shares with the provider. Run as a script it drives a load in a
process of its own: a plan as JSON on standard input, the outcome on standard output.
"""

from __future__ import annotations

import base64
import json
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Lane", "Load", "Outcome", "Started", "http_post", "start"]

TICK = 0.002
BURST_SECONDS = 0.1
MAX_ANSWER = 1 << 20


def http_post(path: str, body: bytes) -> bytes:
    """A request that leaves the connection open."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(slots=True)
class Lane:
    """One connection after another from one address.

    Attributes:
        source: the address it comes from.
        requests: what is sent, in order.
        repeat: begin again after the last one; a good client sends each once.
        again: send the same again after 429 and 503, as our client does.
    """

    source: str
    requests: list[bytes]
    repeat: bool = False
    again: bool = True
    at: int = 0
    connection: socket.socket | None = None
    out: memoryview = field(default_factory=lambda: memoryview(b""))
    got: bytearray = field(default_factory=bytearray)
    busy: bool = False
    sent_at: float = 0.0

    @property
    def done(self) -> bool:
        return self.at >= len(self.requests)


@dataclass(slots=True)
class Outcome:
    """What came of a load.

    Attributes:
        statuses: answers by status.
        codes: refusals by the provider's code.
        errors: connections that broke before the answer.
        seconds: from the first to the last moment.
        sent: requests begun.
        slowest: longest wait for an answer.
        finished: of lanes that had an end, whether all came to it.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    errors: int = 0
    seconds: float = 0.0
    sent: int = 0
    slowest: float = 0.0
    finished: bool = True
    moments: list[float] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def rate(self, begin: float, end: float) -> float:
        """Granted a second between two moments of the monotonic clock."""
        return sum(begin <= at < end for at in self.moments) / (end - begin)

    @property
    def granted(self) -> int:
        return self.statuses[200]


@dataclass(slots=True)
class Load:
    """Lanes against one address.

    Attributes:
        port: on 127.0.0.1.
        lanes: connections.
        rate: most requests begun a second, over all lanes; 0 for no bound.
        keep: keep the bodies of granted answers.
    """

    port: int
    lanes: list[Lane]
    rate: float = 0.0
    keep: bool = False
    outcome: Outcome = field(default_factory=Outcome)
    _selector: selectors.DefaultSelector = field(
        default_factory=selectors.DefaultSelector
    )
    _last: float = 0.0
    _credit: float = 0.0
    _first: int = 0

    def run(self, seconds: float, ended: Callable[[], bool] = lambda: False) -> Outcome:
        """Drive until the time is over, all lanes are at their end, or ``ended``."""
        began = self._last = now = time.monotonic()
        while now - began < seconds and not ended():
            self._feed(now)
            if all(lane.done for lane in self.lanes):
                break
            for key, mask in self._selector.select(TICK):
                self._move(key.data, mask)
            now = time.monotonic()
        self.outcome.seconds = time.monotonic() - began
        self.outcome.finished = all(lane.done for lane in self.lanes)
        for lane in self.lanes:
            self._close(lane)
        self._selector.close()
        return self.outcome

    def _feed(self, now: float) -> None:
        """Begin requests on idle lanes, in turn, as far as the rate allows."""
        count = len(self.lanes)
        allowed = count
        if self.rate:
            # What could not be sent is not made up for: no burst after a stall.
            most = self.rate * BURST_SECONDS
            self._credit = min(most, self._credit + self.rate * (now - self._last))
            self._last = now
            allowed = int(self._credit)
        first = self._first
        for turn in range(count):
            lane = self.lanes[(first + turn) % count]
            if allowed <= 0:
                self._first = (first + turn) % count
                return
            if not lane.busy and not lane.done:
                self._begin(lane, now)
                allowed -= 1
                self._credit -= 1

    def _begin(self, lane: Lane, now: float) -> None:
        if lane.connection is None:
            try:
                self._open(lane)
            except OSError:
                self.outcome.errors += 1
                return
        lane.busy, lane.sent_at = True, now
        lane.out = memoryview(lane.requests[lane.at])
        self.outcome.sent += 1
        self._send(lane)

    def _open(self, lane: Lane) -> None:
        made = socket.socket()
        made.bind((lane.source, 0))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.connect(("127.0.0.1", self.port))
        made.setblocking(False)
        lane.connection = made
        self._selector.register(made, selectors.EVENT_READ, lane)

    def _move(self, lane: Lane, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._send(lane)
        if mask & selectors.EVENT_READ and lane.connection is not None:
            self._receive(lane)

    def _send(self, lane: Lane) -> None:
        if lane.connection is None:
            return
        try:
            sent = lane.connection.send(lane.out)
        except BlockingIOError:
            sent = 0
        except OSError:
            # What the other side said before it closed may still be there to read.
            self._receive(lane)
            return
        lane.out = lane.out[sent:]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if lane.out else 0)
        if self._selector.get_key(lane.connection).events != wanted:
            self._selector.modify(lane.connection, wanted, lane)

    def _receive(self, lane: Lane) -> None:
        assert lane.connection is not None
        try:
            data = lane.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if lane.busy:
                self.outcome.errors += 1
            self._close(lane)
            return
        lane.got += data
        head_end = lane.got.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(lane.got[:head_end]).lower()
        length = _length(head)
        if len(lane.got) < head_end + 4 + length:
            return
        body = bytes(lane.got[head_end + 4 : head_end + 4 + length])
        self._answered(lane, int(head[9:12]), body)
        if b"connection: close" in head:
            self._close(lane)

    def _answered(self, lane: Lane, status: int, body: bytes) -> None:
        outcome = self.outcome
        outcome.statuses[status] += 1
        outcome.slowest = max(outcome.slowest, time.monotonic() - lane.sent_at)
        if status != 200:
            outcome.codes[str(json.loads(body).get("code"))] += 1
        else:
            outcome.moments.append(time.monotonic())
            if self.keep:
                outcome.bodies.append(body)
        lane.busy = False
        lane.got.clear()
        if not (lane.again and status in {429, 503}):
            lane.at += 1
        if lane.repeat and lane.done:
            lane.at = 0

    def _close(self, lane: Lane) -> None:
        if lane.connection is not None:
            self._selector.unregister(lane.connection)
            lane.connection.close()
        lane.connection, lane.busy = None, False
        lane.got.clear()


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        if line.startswith(b"content-length:"):
            length = int(line[15:])
            assert length <= MAX_ANSWER
            return length
    return 0


def _planned(plan: dict[str, Any]) -> Load:
    """The load of a plan."""
    lanes = [
        Lane(
            source=lane["source"],
            requests=[base64.b64decode(request) for request in lane["requests"]],
            repeat=lane["repeat"],
            again=not lane["repeat"],
        )
        for lane in plan["lanes"]
    ]
    return Load(plan["port"], lanes, rate=plan["rate"])


@dataclass
class Started:
    """A load in a process of its own."""

    process: subprocess.Popen[bytes]

    def stop(self) -> Outcome:
        """Let it end now, and say what came of it."""
        out, _ = self.process.communicate(b"\n", timeout=60)
        found = json.loads(out.splitlines()[-1])
        statuses = {int(k): v for k, v in found.pop("statuses").items()}
        codes = found.pop("codes")
        return Outcome(Counter(statuses), Counter(codes), **found)

    def kill(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait(10)


def start(port: int, lanes: list[Lane], *, rate: float, seconds: float) -> Started:
    """Start a load in a process of its own; returns when it has begun."""
    plan = {
        "port": port,
        "rate": rate,
        "seconds": seconds,
        "lanes": [
            {
                "source": lane.source,
                "requests": [base64.b64encode(r).decode() for r in lane.requests],
                "repeat": lane.repeat,
            }
            for lane in lanes
        ],
    }
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(plan).encode() + b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"begun\n"
    return Started(process)


def main() -> None:
    """Read a plan, drive it until told to stop, say what came of it."""
    plan = json.loads(sys.stdin.buffer.readline())
    load = _planned(plan)
    print("begun", flush=True)  # noqa: T201
    stop = selectors.DefaultSelector()
    stop.register(sys.stdin.buffer, selectors.EVENT_READ)
    outcome = load.run(plan["seconds"], lambda: bool(stop.select(0)))
    found = {
        "statuses": outcome.statuses,
        "codes": outcome.codes,
        "errors": outcome.errors,
        "seconds": outcome.seconds,
        "sent": outcome.sent,
        "slowest": outcome.slowest,
        "finished": outcome.finished,
        "moments": outcome.moments,
    }
    print(json.dumps(found), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
