# SPDX-License-Identifier: Apache-2.0
"""Fetches parts again before they expire, and daily, so that revocations arrive.

A CRL lives 30 days, but a platform revoked today is on the next one: waiting for expiry
would keep it welcome for weeks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tightseal.collateral.cache import Record
from tightseal.collateral.parts import PartKind, PartName
from tightseal.collateral.source import CachedSource
from tightseal.errors import CollateralError
from tightseal.model.log import Log

__all__ = ["RefreshSettings", "Refreshed", "Refresher", "due_at"]

log = Log("tightseal.collateral")

_LASTING: Final = frozenset({PartKind.SNP_SIGNER, PartKind.SNP_CHAIN})
"""Certificates do not change within their life, so age alone is no reason."""


@dataclass(frozen=True, slots=True)
class RefreshSettings:
    """When to fetch again; host settings, in seconds.

    Attributes:
        max_age: oldest that documents and CRLs get without being confirmed.
        margin: how long before expiry to begin, at most; never more than a fifth of
            a part's life, so that short lives do not mean constant fetching.
        retry, retry_max: pause after a failure, doubled up to the maximum.
        interval: pause between two looks.
    """

    max_age: int = 86_400
    margin: int = 5 * 86_400
    retry: int = 60
    retry_max: int = 3600
    interval: float = 60.0


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a step did for one part: ``error`` is ``None`` where it was fetched."""

    name: PartName
    error: CollateralError | None = None


def due_at(record: Record, settings: RefreshSettings) -> int:
    """When to fetch a record's part again, Unix seconds."""
    part = record.part
    life = max(0, part.expires_at - part.issued_at)
    before_expiry = part.expires_at - min(settings.margin, life // 5)
    if part.name.kind in _LASTING:
        return before_expiry
    return min(before_expiry, record.fetched_at + settings.max_age)


class Refresher:
    """Looks through the cache and renews what is due.

    Args:
        source: whose parts to renew.
        clock: Unix seconds.
        settings: when.
    """

    def __init__(
        self,
        source: CachedSource,
        *,
        clock: Callable[[], int],
        settings: RefreshSettings | None = None,
    ) -> None:
        self._source = source
        self._clock = clock
        self._settings = settings or RefreshSettings()
        self._failed: dict[PartName, tuple[int, int]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def step(self) -> tuple[Refreshed, ...]:
        """Renew every part that is due now; failures wait longer each time.

        A failure leaves the record as it is: it is served while it is valid.
        """
        now = self._clock()
        done: list[Refreshed] = []
        records = self._source.cache.records()
        known = {record.part.name for record in records}
        self._failed = {n: f for n, f in self._failed.items() if n in known}
        for record in records:
            if self._stop.is_set():
                break
            if self._is_due(record, now):
                done.append(self._renew(record.part.name, now))
        return tuple(done)

    def _is_due(self, record: Record, now: int) -> bool:
        # A record from the future is one from a clock that was set back since.
        if due_at(record, self._settings) > now >= record.fetched_at:
            return False
        _, not_before = self._failed.get(record.part.name, (0, now))
        return now >= not_before

    def _renew(self, name: PartName, now: int) -> Refreshed:
        try:
            self._source.renew(name, now=now)
        except CollateralError as error:
            count, _ = self._failed.get(name, (0, 0))
            pause = min(
                self._settings.retry << min(count, 16), self._settings.retry_max
            )
            self._failed[name] = (count + 1, now + pause)
            return Refreshed(name, error)
        self._failed.pop(name, None)
        return Refreshed(name)

    def start(self) -> None:
        """Look every ``interval`` seconds in a thread, until ``stop``."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(
                target=self._run, name="collateral-refresh", daemon=True
            )
            self._thread.start()

    def stop(self, wait_seconds: float = 30.0) -> None:
        """Ask the thread to end, and wait for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(wait_seconds)
            self._thread = None

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.step()
            except Exception as error:  # noqa: BLE001
                # The thread must outlive whatever one round meets.
                name = type(error).__name__
                log.error("collateral_refresh_broke", error=name)  # noqa: TRY400
            self._stop.wait(self._settings.interval)
