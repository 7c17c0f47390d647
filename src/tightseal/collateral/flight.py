# SPDX-License-Identifier: Apache-2.0
"""What keeps a crowd from becoming a flood: one fetch a part, a budget, a memory of no.

What is asked for is read from evidence that nobody verified yet, so whoever sends
evidence chooses it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from tightseal.errors import Code, CollateralError

__all__ = ["MAX_REFUSALS", "Budget", "Refusals", "SingleFlight"]

T = TypeVar("T")

MAX_REFUSALS: Final = 1024
"""Most failures remembered."""


class _Flight(Generic[T]):
    """One call under way, and what came of it."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.value: T | None = None
        self.error: CollateralError | None = None


class SingleFlight(Generic[T]):
    """Calls for one key that come while one is under way share its outcome."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, _Flight[T]] = {}

    def do(self, key: Hashable, call: Callable[[], T], *, wait_seconds: float) -> T:
        """The outcome of ``call``, or of the call for ``key`` under way.

        Raises:
            CollateralError: what ``call`` raised; ``collateral_unavailable`` where
                another's call does not end within ``wait_seconds``.
        """
        with self._lock:
            flight = self._flights.get(key)
            first = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
        if first:
            return self._fly(key, flight, call)
        if not flight.done.wait(wait_seconds):
            raise CollateralError(
                Code.COLLATERAL_UNAVAILABLE, f"{key}: another fetch did not end in time"
            )
        if flight.error is not None:
            raise CollateralError(flight.error.code, flight.error.detail)
        if flight.value is None:
            raise CollateralError(
                Code.COLLATERAL_UNAVAILABLE, f"{key}: another fetch broke off"
            )
        return flight.value

    def _fly(self, key: Hashable, flight: _Flight[T], call: Callable[[], T]) -> T:
        try:
            flight.value = call()
        except CollateralError as error:
            flight.error = error
            raise
        else:
            return flight.value
        finally:
            with self._lock:
                self._flights.pop(key, None)
            flight.done.set()


class Budget:
    """A token bucket: at most ``burst`` at once, and ``per_second`` in the long run."""

    def __init__(
        self, *, burst: int, per_second: float, monotonic: Callable[[], float]
    ) -> None:
        self._burst = burst
        self._per_second = per_second
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._left = float(burst)
        self._at = monotonic()

    def take(self, what: str) -> None:
        """Spend one.

        Raises:
            CollateralError: ``collateral_unavailable``, where nothing is left.
        """
        with self._lock:
            now = self._monotonic()
            gained = max(0.0, now - self._at) * self._per_second
            self._left = min(float(self._burst), self._left + gained)
            self._at = now
            if self._left < 1:
                raise CollateralError(
                    Code.COLLATERAL_UNAVAILABLE,
                    f"{what}: too many unknown platforms were asked for just now",
                )
            self._left -= 1


class Refusals:
    """Remembers for a short time what could not be had, and why. Bounded."""

    def __init__(
        self,
        *,
        not_found_seconds: float,
        failed_seconds: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._not_found_seconds = not_found_seconds
        self._failed_seconds = failed_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._refused: OrderedDict[Hashable, tuple[float, CollateralError]] = (
            OrderedDict()
        )

    def check(self, key: Hashable) -> None:
        """Raise again what was raised for ``key`` a moment ago.

        Raises:
            CollateralError: the remembered one.
        """
        with self._lock:
            entry = self._refused.get(key)
            if entry is None:
                return
            until, error = entry
            if self._monotonic() >= until:
                del self._refused[key]
                return
        raise CollateralError(error.code, error.detail)

    def add(self, key: Hashable, error: CollateralError) -> None:
        """Remember ``error`` for ``key``."""
        seconds = self._failed_seconds
        if error.code is Code.COLLATERAL_NOT_FOUND:
            seconds = self._not_found_seconds
        with self._lock:
            self._refused[key] = (self._monotonic() + seconds, error)
            self._refused.move_to_end(key)
            while len(self._refused) > MAX_REFUSALS:
                self._refused.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        """Forget what was remembered for ``key``."""
        with self._lock:
            self._refused.pop(key, None)
