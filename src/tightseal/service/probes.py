# SPDX-License-Identifier: Apache-2.0
"""What health looks at, and what the background thread keeps going."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from tightseal.audit.journal import SqliteJournal
from tightseal.collateral.refresh import Refresher
from tightseal.errors import TightsealError
from tightseal.model.ports import Clock
from tightseal.model.state import AnchorClass, StateStore
from tightseal.release.policy import PolicyKeeper
from tightseal.service.bundlefile import BundleFile
from tightseal.service.current import CurrentProvider
from tightseal.service.front import Front
from tightseal.service.guarding import FlooredClock, WatchedGuard
from tightseal.service.health import REFRESH_SECONDS, Health, Note
from tightseal.service.logs import error_fields
from tightseal.service.metrics import Metrics
from tightseal.service.settings import Settings
from tightseal.service.state import probe_journal

__all__ = ["Background", "PolicyWatch", "make_health"]

PREPARE_AHEAD_SECONDS: Final = 300
"""How long before its epoch the next attested key is made, at most a quarter of it."""

POLICY_SECONDS: Final = 1.0
"""How often the policy that another worker or provider accepted is looked for."""

log = structlog.get_logger("tightseal.background")


def make_health(
    settings: Settings,
    *,
    clock: FlooredClock,
    journal: SqliteJournal,
    store: StateStore | None,
    keeper: PolicyKeeper,
    current: CurrentProvider,
    metrics: Metrics,
) -> Health:
    """The parts of a worker's provider, and what is worth knowing about them."""

    def probe() -> None:
        journal.require_alive()
        probe_journal(settings.host.journal_path)

    def attested() -> None:
        current.built().attested.current(now=clock())

    def collateral() -> None:
        now = clock()
        built = current.built()
        built.verifier(built.attested.current(now=now).evidence, now=now)

    def policy() -> None:
        keeper.look(now=clock())
        keeper.current()

    probes: dict[str, Callable[[], object]] = {"clock": clock, "journal": probe}
    if store is not None:
        probes["policy"] = policy
    probes |= {"attested_key": attested, "collateral": collateral}
    return Health(
        probes,
        on_part=lambda name, ok: metrics.ready(name, ok=ok),
        notes=lambda: _notes(keeper, store, clock),
    )


def _notes(keeper: PolicyKeeper, store: StateStore | None, clock: Clock) -> list[Note]:
    """What keeps no key back, and should be known."""
    notes: list[Note] = []
    if (refused := keeper.refused) is not None:
        notes.append(Note.of("bundle_refused", refused))
    if store is None:
        return notes
    try:
        keeper.current().require_fresh(now=clock())
    except TightsealError as e:
        notes.append(Note.of("policy_expired", e))
    freshness = store.freshness()
    if freshness.anchor in {AnchorClass.NONE, AnchorClass.PROCESS}:
        unnoticed = f"anchor {freshness.anchor.value}: {freshness.not_noticed}"
        notes.append(Note("state_unanchored", None, unnoticed))
    return notes


@dataclass(frozen=True, slots=True)
class PolicyWatch:
    """Takes over what others accepted, and what lies in the bundle's file."""

    keeper: PolicyKeeper
    clock: Clock
    file: BundleFile | None

    @classmethod
    def of(cls, keeper: PolicyKeeper, *, clock: Clock, bundle: str) -> PolicyWatch:
        """Watch the store, and a file where one is named."""
        return cls(keeper, clock, BundleFile(Path(bundle)) if bundle else None)

    def look(self) -> None:
        """One look; raises ``TightsealError`` where a bundle was refused."""
        now = self.clock()
        self.keeper.look(now=now)
        bundle = None if self.file is None else self.file.changed()
        if bundle is not None:
            self.keeper.offer(bundle, now=now)


@dataclass(frozen=True, slots=True)
class Background:
    """Keeps the clock's floor, policy, readiness, keys and collateral new."""

    front: Front
    guard: WatchedGuard
    current: CurrentProvider
    watch: PolicyWatch
    refresher: Refresher | None

    def __call__(self, ended: threading.Event) -> None:
        """Work until the event is set."""
        if self.refresher is not None:
            self.refresher.start()
        looks = max(1, round(REFRESH_SECONDS / POLICY_SECONDS))
        turn = 0
        while True:
            _survive("policy_not_taken", self.watch.look)
            if turn % looks == 0:
                self.round()
            turn += 1
            if ended.wait(POLICY_SECONDS):
                break
        if self.refresher is not None:
            self.refresher.stop(wait_seconds=0)

    def round(self) -> None:
        """What is done every few seconds; nothing of it may end the thread."""
        _survive("guard_not_read", self.guard.look)
        self.front.health.look()
        _survive("next_attested_key_failed", self._prepare_next)

    def _prepare_next(self) -> None:
        now = self.front.clock()
        built = self.current.built()
        life = built.in_force.settings.attested_key_life
        if life - now % life <= min(PREPARE_AHEAD_SECONDS, life // 4):
            built.attested.prepare_next(now=now)


def _survive(event: str, step: Callable[[], None]) -> None:
    try:
        step()
    except TightsealError as e:
        log.error(event, code=e.code.value, detail=e.detail)  # noqa: TRY400
    except Exception as e:  # noqa: BLE001  # the thread must outlive one round
        log.error(event, **error_fields(e))  # noqa: TRY400
