# SPDX-License-Identifier: Apache-2.0
"""The newest time that others have signed: a floor under the host's clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from tightseal.collateral.guard import FloorCheck
from tightseal.errors import Code, ServiceError
from tightseal.model.collateral import CollateralFacts, CollateralGuard
from tightseal.model.ports import Clock

__all__ = ["FlooredClock", "RememberingGuard", "WatchedGuard"]


class RememberingGuard(CollateralGuard, FloorCheck, Protocol):
    """A guard that can also judge without remembering."""


class WatchedGuard:
    """A guard that notes the newest issue date which it admitted.

    Args:
        guard: decides and remembers.
        newest: issue dates that it remembers from before, Unix seconds.
        on_newer: told of every newer one.
    """

    def __init__(
        self,
        guard: RememberingGuard,
        *,
        newest: Iterable[int] = (),
        on_newer: Callable[[int], None] = lambda _issued: None,
    ) -> None:
        self._guard = guard
        self._on_newer = on_newer
        self.newest = max(newest, default=0)

    def check(self, facts: tuple[CollateralFacts, ...]) -> None:
        """As the guard inside.

        Raises:
            CollateralError: ``collateral_rollback``.
        """
        self._guard.check(facts)

    def admit(self, facts: tuple[CollateralFacts, ...], *, now: int) -> None:
        """As the guard inside; verified collateral only, so its date is signed time.

        Raises:
            CollateralError: ``collateral_rollback``.
        """
        self._guard.admit(facts, now=now)
        issued = max((fact.issued_at for fact in facts), default=0)
        if issued > self.newest:
            self.newest = issued
            self._on_newer(issued)


class FlooredClock:
    """The host's clock, refused where it is behind what others have signed.

    Args:
        host: Unix seconds by the host.
        guard: knows the newest date that Intel or AMD signed.
    """

    def __init__(self, host: Clock, guard: WatchedGuard) -> None:
        self._host = host
        self._guard = guard

    def __call__(self) -> int:
        """Unix seconds.

        Raises:
            ServiceError: ``clock_behind``: collateral from the future was seen, so the
                host's clock went back, and what expired would come to life again.
        """
        now = self._host()
        if now < self._guard.newest:
            detail = f"clock says {now}, collateral was issued at {self._guard.newest}"
            raise ServiceError(Code.CLOCK_BEHIND, detail)
        return now
