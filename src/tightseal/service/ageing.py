# SPDX-License-Identifier: Apache-2.0
"""Keeps the current generation young, where release settings say for how long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from tightseal.errors import Code, TightsealError
from tightseal.model.ports import Clock
from tightseal.model.settings import ReleaseSettings
from tightseal.model.state import StateStore
from tightseal.release.actions import Log
from tightseal.release.ageing import due, rotate_by_age
from tightseal.release.handoffs import Handoffs
from tightseal.release.keyring import KeyringKeeper
from tightseal.service.metrics import Metrics

__all__ = ["Ageing"]

RETRY_SECONDS: Final = 60.0
"""Shortest time between two tries that failed, in seconds."""

BLOCKED_SECONDS: Final = 3600.0
"""The same where another provider has the keyring too."""

log = structlog.get_logger("tightseal.keyring")


@dataclass(slots=True)
class Ageing:
    """Rotates a keyring by its age.

    Attributes:
        keyring: in use by this worker.
        settings: the release settings in force.
        signed_time: the newest time that others have signed, Unix seconds.
        store: where handoffs are remembered; ``None`` where there is none.
        record: the journal.
        metrics: of this worker.
        monotonic: seconds, between tries; replaced in tests.
    """

    keyring: KeyringKeeper
    settings: Callable[[], ReleaseSettings]
    signed_time: Clock
    store: StateStore | None
    record: Log
    metrics: Metrics
    monotonic: Callable[[], float] = time.monotonic
    _not_before: float = float("-inf")

    def look(self) -> None:
        """One look; raises ``TightsealError`` where a rotation was due and failed."""
        keyring = self.keyring.keyring
        self.metrics.generation(keyring.current.number, keyring.current.activated_at)
        days, signed_time = self.settings().rotate_after_days, self.signed_time()
        if not due(keyring, days=days, signed_time=signed_time):
            return
        now = self.monotonic()
        if now < self._not_before:
            return
        self._not_before = now + RETRY_SECONDS
        if why := self._blocked(signed_time):
            self._not_before = now + BLOCKED_SECONDS
            log.warning("keyring_not_rotated_by_age", reason=why, days=days)
            return
        try:
            after = rotate_by_age(
                self.keyring, days=days, signed_time=signed_time, log=self.record
            )
        except TightsealError as e:
            if e.code is not Code.STATE_CONFLICT:
                raise
            # Another worker came first; the next look takes its version over.
            log.info("keyring_rotated_by_another", detail=e.detail)
            return
        if after is not None:
            log.warning(
                "keyring_rotated_by_age",
                generation=after.current.number,
                counter=after.header.counter,
                days=days,
                signed_time=signed_time,
            )

    def _blocked(self, now: int) -> str:
        """Why this provider leaves it alone; empty where it does not."""
        if self.store is None:
            return ""
        slot = self.keyring.opened.slot
        own = None if slot is None else slot.slot_id
        if not Handoffs(self.store).joined_elsewhere(own, now=now):
            return ""
        return (
            "the keyring was handed over to another provider: rotate by signed action "
            "and hand it over again, revoke that provider, or retire this one"
        )
