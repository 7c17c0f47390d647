# SPDX-License-Identifier: Apache-2.0
"""Threads that verify and release, with a bound on what may wait for them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tightseal.errors import Code, ServiceError

__all__ = ["WorkPool"]

_T = TypeVar("_T")


class WorkPool:
    """A bounded thread pool in front of which a bounded number of calls may wait.

    Calls are counted on the event loop; the loop itself never runs one.

    Args:
        name: of the threads.
        threads: how many run at once; 0 for one a core.
        queue: how many may wait.
    """

    def __init__(self, name: str, *, threads: int, queue: int) -> None:
        count = threads or os.cpu_count() or 1
        self._limit = count + queue
        self._in_flight = 0
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    @property
    def in_flight(self) -> int:
        """Calls running or waiting."""
        return self._in_flight

    def submit(self, call: Callable[[], _T]) -> asyncio.Future[_T]:
        """Run ``call`` on a thread.

        Raises:
            ServiceError: ``overloaded``, where too many wait already.
        """
        if self._in_flight >= self._limit:
            detail = f"{self._in_flight} calls in flight, at most {self._limit}"
            raise ServiceError(Code.OVERLOADED, detail)
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        self._in_flight += 1
        future.add_done_callback(self._done)
        return future

    def shutdown(self) -> None:
        """Start no more calls; those running end by themselves."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _done(self, _future: asyncio.Future[_T]) -> None:
        self._in_flight -= 1
