# SPDX-License-Identifier: Apache-2.0
"""From settings to a provider: every part is built and handed to the next one here.

Also the only place that hands in the real clock.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from tightseal.audit.journal import SqliteJournal
from tightseal.collateral.guardfile import FileGuard
from tightseal.collateral.refresh import Refresher, RefreshSettings
from tightseal.collateral.source import CachedSource
from tightseal.errors import TightsealError
from tightseal.evidence.agreement import Disagreement
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.labels import Label
from tightseal.model.ports import Clock, RootPlatform, Verifier
from tightseal.model.provider import ProviderIdentity, sidecar_keyring_id
from tightseal.model.roots import TrustedRoots
from tightseal.model.secret import Secret
from tightseal.model.settings import ReleaseSettings
from tightseal.platform.attested import AttestedKeys
from tightseal.platform.door import open_platform
from tightseal.release import Provider
from tightseal.service.connections import ByteBudget
from tightseal.service.front import Front
from tightseal.service.guarding import FlooredClock, WatchedGuard
from tightseal.service.health import REFRESH_SECONDS, Health
from tightseal.service.logs import error_fields
from tightseal.service.metrics import Metrics
from tightseal.service.pool import WorkPool
from tightseal.service.settings import Settings
from tightseal.service.sources import Staple, open_source
from tightseal.service.state import (
    guard_path,
    own_secret,
    prepare_state,
    probe_journal,
)
from tightseal.state.nonces import NonceMint

__all__ = ["Composed", "compose", "prepare", "trusted_roots"]

MIN_QUOTE_THREADS: Final = 2
PREPARE_AHEAD_SECONDS: Final = 300
"""How long before its epoch the next attested key is made, at most a quarter of it."""

log = structlog.get_logger("tightseal.compose")


def _host_clock() -> int:
    return int(time.time())


@dataclass(frozen=True, slots=True)
class Composed:
    """A worker's provider.

    Attributes:
        front: what the transports need.
        background: to run on a thread until its event is set.
        close: gives back files and threads.
    """

    front: Front
    background: Callable[[threading.Event], None]
    close: Callable[[], None]


def trusted_roots(settings: ReleaseSettings) -> TrustedRoots:
    """The vendors' roots, and the simulated ones that release settings name.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    roots = VENDOR_ROOTS
    for certificate in settings.simulated_root_certificates():
        roots = with_simulated(roots, certificate)
    return roots


def prepare(settings: Settings) -> None:
    """What must be there before the first worker starts: platform and state.

    Raises:
        TightsealError: the platform or the state folder cannot be used.
    """
    trusted_roots(settings.release)
    platform = _platform(settings)
    platform.own_measurement()
    prepare_state(settings.host, guard_key=_guard_key(platform))


def compose(
    settings: Settings, *, seed: Secret, host_clock: Clock = _host_clock
) -> Composed:
    """Build the provider of one worker; no request has been served yet.

    Args:
        settings: both kinds.
        seed: 32 bytes that all workers of this provider share, drawn at its start.
        host_clock: Unix seconds by the host; replaced in tests.

    Raises:
        TightsealError: platform, state or settings cannot be used. Missing collateral
            is no such error: the worker starts, and readiness says what is missing.
    """
    host, release = settings.host, settings.release
    metrics = Metrics()
    platform = _platform(settings)
    guard = _guard(settings, platform, metrics)
    roots = trusted_roots(release)
    source = open_source(host, roots=roots, guard=guard)
    verifier = EvidenceVerifier(
        roots=roots,
        source=source,
        cache=ResultCache(host.collateral.result_cache),
        mode=release.verifier,
        exceptions=frozenset(release.verifier_exceptions),
        guard=guard,
        on_disagreement=partial(_disagreed, metrics),
    )
    attested = AttestedKeys(
        platform=platform,
        verifier=verifier,
        identity=partial(_identity, release),
        seed=seed,
        life=release.attested_key_life,
        grace=release.nonce_life,
    )
    journal = SqliteJournal.open(host.journal_path)
    clock = FlooredClock(host_clock, guard)
    provider = Provider(
        settings=release,
        authority=release.authority(),
        verifier=verifier,
        platform=platform,
        attested=attested,
        mint=NonceMint(own_secret(seed, Label.KDF_NONCE_MAC), life=release.nonce_life),
        recorder=journal,
        staple=Staple(attested, source),
        stage=metrics.stage,
    )
    front = Front(
        provider=provider,
        clock=clock,
        settings=settings,
        metrics=metrics,
        health=_health(settings, clock, journal, attested, verifier, metrics),
        pool=WorkPool("release", threads=host.threads, queue=host.queue),
        quote_pool=WorkPool(
            "quote",
            threads=max(host.threads or os.cpu_count() or 1, MIN_QUOTE_THREADS),
            queue=host.queue,
        ),
        budget=ByteBudget(host.max_buffered_bytes),
    )
    refresher = None
    if isinstance(source, CachedSource) and not host.collateral.bundle:
        refresher = Refresher(
            source,
            clock=clock,
            settings=RefreshSettings(max_age=host.collateral.max_age_seconds),
        )
    return Composed(
        front=front,
        background=_Background(front, guard, attested, release, refresher),
        close=journal.close,
    )


def _platform(settings: Settings) -> RootPlatform:
    kind = settings.host.platform
    return open_platform(kind.kind.value, kind.options())


def _guard_key(platform: RootPlatform) -> Secret:
    return own_secret(platform.sealing_key(), Label.KDF_COLLATERAL_GUARD)


def _guard(
    settings: Settings, platform: RootPlatform, metrics: Metrics
) -> WatchedGuard:
    guard = FileGuard.open(guard_path(settings.host), key=_guard_key(platform))
    return WatchedGuard(guard, on_newer=metrics.collateral_issued)


def _identity(
    release: ReleaseSettings, tee: str, measurement: bytes
) -> ProviderIdentity:
    return ProviderIdentity(
        tee=tee,
        measurement=measurement,
        keyring_id=sidecar_keyring_id(),
        policy_root=None,
        settings_digest=release.digest(),
    )


def _disagreed(metrics: Metrics, found: Disagreement) -> None:
    metrics.disagreement(found.rule or "unexplained")
    log.warning(
        "verifiers_disagree",
        conflict=found.conflict,
        rule=found.rule,
        native=found.native,
        qvl=found.qvl,
        evidence_hash=found.evidence_hash.hex(),
    )


def _health(
    settings: Settings,
    clock: FlooredClock,
    journal: SqliteJournal,
    attested: AttestedKeys,
    verifier: Verifier,
    metrics: Metrics,
) -> Health:
    def probe() -> None:
        journal.require_alive()
        probe_journal(settings.host.journal_path)

    def collateral() -> None:
        now = clock()
        verifier(attested.current(now=now).evidence, now=now)

    return Health(
        {
            "clock": clock,
            "journal": probe,
            "attested_key": lambda: attested.current(now=clock()),
            "collateral": collateral,
        },
        on_part=lambda name, ok: metrics.ready(name, ok=ok),
    )


@dataclass(frozen=True, slots=True)
class _Background:
    """Keeps the clock's floor, readiness, the next attested key and collateral new."""

    front: Front
    guard: WatchedGuard
    attested: AttestedKeys
    release: ReleaseSettings
    refresher: Refresher | None

    def __call__(self, ended: threading.Event) -> None:
        """Work until the event is set."""
        if self.refresher is not None:
            self.refresher.start()
        while True:
            self.round()
            if ended.wait(REFRESH_SECONDS):
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
        life = self.release.attested_key_life
        if life - now % life <= min(PREPARE_AHEAD_SECONDS, life // 4):
            self.attested.prepare_next(now=now)


def _survive(event: str, step: Callable[[], None]) -> None:
    try:
        step()
    except TightsealError as e:
        log.error(event, code=e.code.value, detail=e.detail)  # noqa: TRY400
    except Exception as e:  # noqa: BLE001  # the thread must outlive one round
        log.error(event, **error_fields(e))  # noqa: TRY400
