# SPDX-License-Identifier: Apache-2.0
"""The newest time that others have signed: a floor under the host's clock.

All workers share it: what one of them admitted is in the guard's file, at which the
others look before each verification and every few seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Protocol

from tightseal.collateral.guard import FloorCheck, Marks
from tightseal.errors import Code, ServiceError
from tightseal.model.claims import Vendor
from tightseal.model.collateral import CollateralFacts, CollateralGuard
from tightseal.model.ports import Clock
from tightseal.policy.bundle.verify import MAX_SKEW

__all__ = ["FlooredClock", "RememberingGuard", "WatchedGuard"]


_VENDORS: Final = frozenset({Vendor.INTEL.value, Vendor.AMD.value})


class RememberingGuard(CollateralGuard, FloorCheck, Protocol):
    """A guard that can also judge without remembering, and shows what it remembers."""

    @property
    def marks(self) -> Marks:
        """What has been admitted, by this worker or another."""
        ...


class WatchedGuard:
    """A guard that knows the newest issue date which any worker admitted.

    Args:
        guard: decides and remembers.
        simulated: whether the dates of simulated worlds count. They must not where the
            provider stands on hardware: a host that switches on a world of its own
            would sign any time, and open windows that wait for one.
        on_newer: told of every newer one.
    """

    def __init__(
        self,
        guard: RememberingGuard,
        *,
        simulated: bool = True,
        on_newer: Callable[[int], None] = lambda _issued: None,
    ) -> None:
        self._guard = guard
        self._simulated = simulated
        self._on_newer = on_newer
        self._marks: Marks | None = None
        self._lock = threading.Lock()
        self.newest = 0
        self._take_in()

    def check(self, facts: tuple[CollateralFacts, ...]) -> None:
        """As the guard inside.

        Raises:
            CollateralError: ``collateral_rollback``.
        """
        self._guard.check(facts)
        self._take_in()

    def admit(self, facts: tuple[CollateralFacts, ...], *, now: int) -> None:
        """As the guard inside; verified collateral only, so its date is signed time.

        Raises:
            CollateralError: ``collateral_rollback``.
        """
        self._guard.admit(facts, now=now)
        self._take_in()

    def admitted(self, *, trust_domain: str, kind: str, subject: str) -> bool:
        """As the guard inside.

        Raises:
            CollateralError: ``collateral_guard_broken``.
        """
        return self._guard.admitted(
            trust_domain=trust_domain, kind=kind, subject=subject
        )

    def look(self) -> None:
        """Take in what other workers admitted; cheap where they admitted nothing.

        Raises:
            CollateralError: ``collateral_guard_broken``.
        """
        # Judging no facts refuses nothing, and makes the guard look at its file.
        self.check(())

    def _take_in(self) -> None:
        if self._guard.marks is self._marks:
            return
        with self._lock:
            self._marks = marks = self._guard.marks
            issued = max(
                (
                    mark.issued_at
                    for key, mark in marks.items()
                    if self._simulated or key.trust_domain in _VENDORS
                ),
                default=0,
            )
            if issued > self.newest:
                self.newest = issued
                self._on_newer(issued)


class FlooredClock:
    """The host's clock, refused where it is behind what others have signed.

    Args:
        host: Unix seconds by the host.
        guard: knows the newest date that Intel or AMD signed.
        also: the newest date that others signed, such as the policy's approvers; their
            clocks may be ahead by ``MAX_SKEW`` seconds.
    """

    def __init__(
        self, host: Clock, guard: WatchedGuard, *, also: Clock = lambda: 0
    ) -> None:
        self._host = host
        self._guard = guard
        self._also = also

    def floor(self) -> int:
        """The newest time that others have signed; Unix seconds."""
        return max(self._guard.newest, self._also())

    def __call__(self) -> int:
        """Unix seconds.

        Raises:
            ServiceError: ``clock_behind``: something from the future was signed, so the
                host's clock went back, and what expired would come to life again.
        """
        # A bundle is taken up to MAX_SKEW before its date; held against all of it, the
        # clock would be behind until then, and nothing released.
        now = self._host()
        floor = max(self._guard.newest, self._also() - MAX_SKEW)
        if now < floor:
            detail = f"clock says {now}, collateral or policy was issued at {floor}"
            raise ServiceError(Code.CLOCK_BEHIND, detail)
        return now
