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

from tightseal.audit.journal import SqliteJournal
from tightseal.collateral.guardfile import FileGuard
from tightseal.collateral.refresh import Refresher, RefreshSettings
from tightseal.collateral.source import CachedSource
from tightseal.errors import Code, ServiceError, SettingsError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.model.collateral import CollateralSource
from tightseal.model.labels import Label
from tightseal.model.ports import Clock, RootPlatform
from tightseal.model.roots import TrustedRoots
from tightseal.model.secret import Secret
from tightseal.model.settings import FIRST_START, ReleaseSettings, RootKind
from tightseal.platform.door import open_platform
from tightseal.policy.bundle.archive import MAX_BUNDLE_BYTES
from tightseal.release.keyring import StoreAnchor
from tightseal.release.memory import Memory
from tightseal.release.policy import PolicyKeeper
from tightseal.service.connections import ByteBudget
from tightseal.service.current import CurrentProvider
from tightseal.service.front import Front
from tightseal.service.guarding import FlooredClock, WatchedGuard
from tightseal.service.maker import ProviderMaker
from tightseal.service.metrics import Metrics
from tightseal.service.pool import WorkPool
from tightseal.service.probes import (
    Background,
    KeyringWatch,
    PolicyWatch,
    make_health,
)
from tightseal.service.roots import OwnRoots, create_keyring, open_roots
from tightseal.service.settings import HostSettings, Settings
from tightseal.service.sources import open_source
from tightseal.service.state import (
    guard_path,
    open_store,
    prepare_folder,
    prepare_state,
)

__all__ = ["Composed", "compose", "prepare", "trusted_roots"]

MIN_QUOTE_THREADS: Final = 2
OPERATOR_QUEUE: Final = 4
"""Most bundles and actions that wait, in all of one worker."""


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
    policy_root = settings.release.policy_root
    platform = _platform(settings)
    platform.own_measurement()
    wanted = settings.release.root is RootKind.KEYRING and settings.host.keyring.create
    if wanted and not settings.host.keyring_path.exists():
        prepare_folder(settings.host)
        create_keyring(settings, platform, now=_host_clock())
    own = open_roots(settings, platform, now=_host_clock())
    _require_pinned(settings.release, own)
    prepare_state(
        settings.host,
        guard_key=_guard_key(own),
        store_key=_store_key(own, policy_root) if policy_root else None,
    )


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
            is no such error, nor is a missing policy: the worker starts, and readiness
            says what is missing.
    """
    host, release = settings.host, settings.release
    metrics = Metrics()
    platform = _platform(settings)
    own = open_roots(settings, platform)
    _require_pinned(settings.release, own)
    guard = _guard(settings, own, metrics)
    roots = trusted_roots(release)
    source = open_source(host, roots=roots, guard=guard)
    journal = SqliteJournal.open(host.journal_path)
    store = None
    if release.policy_root:
        store = open_store(host, _store_key(own, release.policy_root))
        if own.keeper is not None:
            own.keeper.anchor_with(StoreAnchor(store, host_clock))
    keeper = PolicyKeeper(release, store=store)
    clock = FlooredClock(host_clock, guard, also=partial(_signed_by_policy, keeper))
    maker = ProviderMaker(
        platform=platform,
        own=own,
        roots=roots,
        source=source,
        guard=guard,
        result_cache=ResultCache(host.collateral.result_cache),
        seed=seed,
        journal=journal,
        memory=Memory(store, own.keeper) if store else None,
        signed_time=clock.floor,
        metrics=metrics,
    )
    current = CurrentProvider(keeper, maker)
    health = make_health(
        settings,
        clock=clock,
        journal=journal,
        store=store,
        keeper=keeper,
        current=current,
        keyring=own.keeper,
        metrics=metrics,
    )
    front = Front(
        provider=current,
        clock=clock,
        settings=settings,
        metrics=metrics,
        health=health,
        pool=WorkPool("release", threads=host.threads, queue=host.queue),
        quote_pool=_quote_pool(host),
        operator_pool=WorkPool("operator", threads=1, queue=OPERATOR_QUEUE),
        budget=ByteBudget(host.max_buffered_bytes),
        operator_budget=ByteBudget(MAX_BUNDLE_BYTES),
    )
    background = Background(
        front,
        guard=guard,
        current=current,
        watch=PolicyWatch.of(keeper, clock=clock, bundle=host.policy_bundle),
        keys=KeyringWatch(own.keeper, store, clock) if own.keeper else None,
        refresher=_refresher(host, source, clock),
    )

    def close() -> None:
        journal.close()
        if store is not None:
            store.close()

    return Composed(front=front, background=background, close=close)


def _signed_by_policy(keeper: PolicyKeeper) -> int:
    try:
        return keeper.current().issued_at
    except ServiceError:
        return 0


def _quote_pool(host: HostSettings) -> WorkPool:
    threads = max(host.threads or os.cpu_count() or 1, MIN_QUOTE_THREADS)
    return WorkPool("quote", threads=threads, queue=host.queue)


def _refresher(
    host: HostSettings, source: CollateralSource, clock: Clock
) -> Refresher | None:
    if not isinstance(source, CachedSource) or host.collateral.bundle:
        return None
    max_age = host.collateral.max_age_seconds
    return Refresher(source, clock=clock, settings=RefreshSettings(max_age=max_age))


def _platform(settings: Settings) -> RootPlatform:
    kind = settings.host.platform
    return open_platform(kind.kind.value, kind.options())


def _require_pinned(release: ReleaseSettings, own: OwnRoots) -> None:
    """On hardware the host must not choose who decides by coming first.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    if release.policy_root == FIRST_START and not own.key_roots.simulated:
        detail = (
            "policy_root is first-start, which is for simulated worlds, and the keys "
            "here are of hardware; give the root that the approvers made"
        )
        raise SettingsError(Code.SETTINGS_INVALID, detail)


def _guard_key(own: OwnRoots) -> Secret:
    return own.secret(Label.KDF_COLLATERAL_GUARD, None)


def _store_key(own: OwnRoots, policy_root: str) -> Secret:
    """The key of the state under one policy root.

    A host that starts our image under a root of its own on this machine has the same
    sealing key; with another store key it can neither read nor change what is counted.
    """
    return own.secret(Label.KDF_STATE_STORE, policy_root)


def _guard(settings: Settings, own: OwnRoots, metrics: Metrics) -> WatchedGuard:
    guard = FileGuard.open(guard_path(settings.host), key=_guard_key(own))
    return WatchedGuard(
        guard,
        simulated=own.key_roots.simulated,
        on_newer=metrics.collateral_issued,
    )
