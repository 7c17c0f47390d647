# SPDX-License-Identifier: Apache-2.0
"""Clients of providers that are killed and started again, and what they saw."""

import contextlib
import itertools
import queue
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import usage_worker

WORKER = Path(usage_worker.__file__)
ANSWER_SECONDS = 60
AT_WORK_SECONDS = 5
DIED = "died"
"""The request was in the hands of a provider when that was killed."""

DOWN = "down"
"""The request never reached a provider."""


UNKNOWN = "state_unavailable"
"""The provider does not know whether the request was counted."""

RETRIED = frozenset({DIED, DOWN, UNKNOWN, "overloaded"})
"""Faults after which a client asks again."""


@dataclass
class Operation:
    """One request with all its retries, by one clock for all clients."""

    request: str
    began: float
    ended: float = 0.0
    outcome: str = ""
    """``have``, ``limit``, or ``lost`` where the client gave up."""

    position: int | None = None
    tries: int = 0
    faults: list[str] = field(default_factory=list)


class Provider:
    """A worker process; requests that it leaves unanswered when it dies come back."""

    def __init__(self, place: str, limit: int) -> None:
        self._command = [sys.executable, str(WORKER), place, str(limit)]
        self._lock = threading.Lock()
        self._waiting: dict[str, queue.SimpleQueue[list[str]]] = {}
        self._child: subprocess.Popen[str] | None = None
        self._process: subprocess.Popen[str] | None = None
        """The child, while it takes requests."""

        self._counted: set[str] = set()
        """Requests that were counted, and not answered so far."""

        self._reader: threading.Thread | None = None

    def start(self) -> None:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._child = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        self._reader = threading.Thread(target=self._read, args=(process,))
        self._reader.start()
        with self._lock:
            self._process = process

    def kill_at_work(self) -> None:
        """SIGKILL, as soon as it has counted what it did not answer."""
        until = time.monotonic() + AT_WORK_SECONDS
        while not self._counted and time.monotonic() < until:
            time.sleep(0.0005)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, whether it is there or not."""
        child, self._child = self._child, None
        reader, self._reader = self._reader, None
        if child is None:
            return
        # Before anybody learns of it: its hands are full.
        child.kill()
        with self._lock:
            self._process = None
        child.wait()
        if reader is not None:
            reader.join()
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        assert child.stdout is not None
        child.stdout.close()

    def ask(self, request: str) -> list[str]:
        """The words of its answer; ``died`` or ``down`` where there is none."""
        answer: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        with self._lock:
            if self._process is None:
                return [DOWN]
            self._waiting[request] = answer
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(f"{request}\n")
            except BrokenPipeError:
                self._waiting.pop(request, None)
                return [DIED]
        return answer.get(timeout=ANSWER_SECONDS)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            # A line cut short by the kill never reached its client.
            if not line.endswith("\n"):
                continue
            word, request, *more = line.split()
            if word == "counted":
                self._counted.add(request)
                continue
            self._counted.discard(request)
            self._waiting.pop(request).put([word, *more])
        with self._lock:
            self._process = None
            self._counted = set()
            left, self._waiting = self._waiting, {}
        for answer in left.values():
            answer.put([DIED])


class Clients:
    """Ask two providers until the limit is reached.

    Args:
        providers: to ask; after a fault, the next one.
        many: how many clients, each with one request under way.
        retry: send the same bytes again after a fault; else give up and ask anew.
    """

    def __init__(self, providers: list[Provider], *, many: int, retry: bool) -> None:
        self._providers = providers
        self._retry = retry
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.operations: list[Operation] = []
        self.broken: list[str] = []
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(many)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.join()

    def join(self) -> None:
        """Until every client was refused."""
        for thread in self._threads:
            thread.join()

    def acknowledged(self) -> int:
        with self._lock:
            return sum(done.outcome == "have" for done in self.operations)

    def wait_for(self, acknowledged: int) -> None:
        until = time.monotonic() + ANSWER_SECONDS
        while self.acknowledged() < acknowledged:
            assert not self.broken
            assert time.monotonic() < until, "the clients make no progress"
            time.sleep(0.002)

    def _run(self, client: int) -> None:
        which = itertools.cycle(self._providers)
        for _ in range(client % len(self._providers)):
            next(which)
        for number in itertools.count():
            done = Operation(f"c{client}-{number}", time.monotonic())
            while not done.outcome and not self._stop.is_set():
                self._try(done, next(which))
            done.ended = time.monotonic()
            with self._lock:
                self.operations.append(done)
            if done.outcome == "limit" or self._stop.is_set():
                return

    def _fail(self, fault: str) -> None:
        """Let every client stop: this is no fault of a kill or a restart."""
        self.broken.append(fault)
        self._stop.set()

    def _try(self, done: Operation, provider: Provider) -> None:
        done.tries += 1
        word, *more = provider.ask(done.request)
        if word in {"have", "limit"}:
            done.outcome = word
            if more and more[0] != "-":
                done.position = int(more[0])
            return
        done.faults.append(more[0] if more else word)
        if done.faults[-1] not in RETRIED:
            self._fail(f"{done.request}: {done.faults[-1]}")
        if not self._retry:
            done.outcome = "lost"
        time.sleep(0.01)
