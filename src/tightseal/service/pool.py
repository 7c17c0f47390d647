# SPDX-License-Identifier: Apache-2.0
"""Threads that verify and release, with a bound on what may wait for them.

What waits is taken in the order of :mod:`tightseal.service.fairqueue`.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from tightseal.errors import Code, EvidenceError, ServiceError
from tightseal.service.fairqueue import QUANTUM, FairQueue, Flow

__all__ = ["ANYBODY", "WorkPool"]

ANYBODY: Final = Flow()
"""Where nobody is told apart."""

MAX_RETRY_SECONDS: Final = 30
"""Longest wait that a full queue asks for."""

_NEWEST: Final = 0.1
"""Weight of the newest call in the mean time of a call."""

_AHEAD: Final = 8
"""An eighth of the queue may be with the threads already, at most one call each: so a
thread has work at hand while the event loop is busy."""

PRESSED_SECONDS: Final = 1.0
"""Known flows that asked this lately are about, though nothing of them waits now."""

MOSTLY: Final = 0.5
"""Above this part of failures among strangers, they are a flood."""

_CROWD: Final = 8
"""An eighth of the queue full of strangers is a crowd."""

_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class _Work:
    call: Callable[[], Any]
    future: asyncio.Future[Any]
    known: bool
    costly: bool


class WorkPool:
    """A bounded thread pool in front of which a bounded number of calls may wait.

    Calls are counted and put in order on the event loop; the loop itself never runs
    one.

    While strangers mostly fail and known flows are about, strangers are paced to what
    is not reserved, and threads stay free for the known. A client that waits for each
    answer before it asks again is never found waiting in a queue: it would else find
    the threads taken every time.

    Args:
        name: of the threads.
        threads: how many run at once; 0 for one a core.
        queue: how many may wait.
        reserved_share: of the work and the queue, for flows that are known.
    """

    def __init__(
        self, name: str, *, threads: int, queue: int, reserved_share: float = 0.8
    ) -> None:
        count = threads or os.cpu_count() or 1
        ahead = min(count, queue // _AHEAD)
        self.name = name
        self._threads = count
        self._at_once = count + ahead
        self._limit = count + queue
        self._handed = 0
        self._mean = 0.0
        self._share = reserved_share
        self._known_at = -math.inf
        self._failing = 0.0
        self._strangers = 0
        self._next_stranger = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._queue: FairQueue[_Work] = FairQueue(
            limit=queue - ahead, reserved_share=reserved_share
        )
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    @property
    def limit(self) -> int:
        """Most calls that may run or wait."""
        return self._limit

    @property
    def in_flight(self) -> int:
        """Calls running or waiting."""
        return self._handed + len(self._queue)

    @property
    def crowded(self) -> bool:
        """Whether many strangers wait while known flows are about.

        Long before it is full: what a full queue refuses comes again at once.
        """
        waiting = self._queue.waiting(known=False)
        return waiting > self._limit // _CROWD and self._known_about()

    def _known_about(self) -> bool:
        now = asyncio.get_running_loop().time()
        return now - self._known_at <= PRESSED_SECONDS

    @property
    def pressed(self) -> bool:
        """Whether strangers mostly fail while known flows are about."""
        return self._failing > MOSTLY and self._known_about()

    def submit(
        self, call: Callable[[], _T], *, flow: Flow = ANYBODY, cost: int = 1
    ) -> asyncio.Future[_T]:
        """Run ``call`` on a thread.

        Args:
            call: what to run.
            flow: whom it is for.
            cost: units of work; see ``fairqueue``.

        Raises:
            ServiceError: ``overloaded``, where too many wait already. A call that waits
                may end with it too, where others have a better claim to its place.
        """
        loop = asyncio.get_running_loop()
        work = _Work(call, loop.create_future(), flow.known, cost >= QUANTUM)
        if flow.known:
            self._known_at = loop.time()
        held = not flow.known and self._strangers_wait(loop.time())
        if self._handed < self._at_once and not self._queue and not held:
            self._hand(work)
            return work.future
        try:
            gone = self._queue.push(work, flow, cost=cost)
        except ServiceError as e:
            e.retry_after = self._retry_after()
            raise
        if gone is not None and not gone.future.done():
            detail = "others have a better claim to this place in the queue"
            error = ServiceError(Code.OVERLOADED, detail)
            error.retry_after = self._retry_after()
            gone.future.set_exception(error)
        self._hand_on(loop)
        return work.future

    def shutdown(self) -> None:
        """Start no more calls; those running end by themselves."""
        if self._timer is not None:
            self._timer.cancel()
        while self._queue:
            self._queue.pop().future.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _hand(self, work: _Work) -> None:
        loop = work.future.get_loop()
        done = loop.run_in_executor(self._executor, work.call)
        self._handed += 1
        self._strangers += not work.known
        done.add_done_callback(partial(self._ended, work, loop.time()))

    def _ended(self, work: _Work, began: float, done: asyncio.Future[Any]) -> None:
        loop = work.future.get_loop()
        now = loop.time()
        self._handed -= 1
        self._mean += (now - began - self._mean) * _NEWEST
        if not work.known:
            self._stranger_ended(work, done, took=now - began, now=now)
        self._hand_on(loop)
        if done.cancelled():
            work.future.cancel()
        elif work.future.done():
            # Whoever waited is gone; an error that nobody takes must not be reported.
            done.exception()
        elif (error := done.exception()) is not None:
            work.future.set_exception(error)
        else:
            work.future.set_result(done.result())

    def _hand_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give threads what waits, as far as it may go now."""
        while self._queue and self._handed < self._at_once:
            paced = self._strangers_wait(loop.time())
            if paced and not self._queue.waiting(known=True):
                self._wake_later(loop)
                return
            waiting = self._queue.pop(known_only=paced)
            if not waiting.future.done():
                self._hand(waiting)

    def _stranger_ended(
        self, work: _Work, done: asyncio.Future[Any], *, took: float, now: float
    ) -> None:
        self._strangers -= 1
        pause = took * self._share / (1 - self._share) / self._threads
        self._next_stranger = now + pause
        if work.costly and not done.cancelled():
            failed = isinstance(done.exception(), EvidenceError)
            self._failing += (failed - self._failing) * _NEWEST

    def _strangers_wait(self, now: float) -> bool:
        """Whether a stranger must leave its thread free."""
        if not self.pressed:
            return False
        return self._strangers > 0 or now < self._next_stranger

    def _wake_later(self, loop: asyncio.AbstractEventLoop) -> None:
        """While one runs, its end wakes the next; else the end of the pause does."""
        if self._strangers or self._timer is not None:
            return

        def wake() -> None:
            self._timer = None
            self._hand_on(loop)

        self._timer = loop.call_at(self._next_stranger, wake)

    def _retry_after(self) -> int:
        """Seconds until what waits now is likely to be done."""
        seconds = math.ceil(self.in_flight * self._mean / self._threads)
        return min(max(1, seconds), MAX_RETRY_SECONDS)
