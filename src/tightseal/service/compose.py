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
from tightseal.model.collateral import CollateralSource
from tightseal.model.labels import Label
from tightseal.model.ports import Clock, JournalEntry, RootPlatform
from tightseal.model.secret import Secret
from tightseal.model.settings import FIRST_START, ReleaseSettings, RootKind
from tightseal.model.state import StateStore
from tightseal.platform.door import open_platform
from tightseal.policy.bundle.archive import MAX_BUNDLE_BYTES
from tightseal.release.answers import Answers
from tightseal.release.hold import Holder
from tightseal.release.keyring import KeyringKeeper, StoreAnchor
from tightseal.release.leases import Leases
from tightseal.release.logmark import LogMark
from tightseal.release.memory import Memory
from tightseal.release.policy import PolicyKeeper
from tightseal.release.sharing import StoreShare
from tightseal.service.admission import Admission
from tightseal.service.ageing import Ageing
from tightseal.service.autojoin import join_first
from tightseal.service.changelog import begin_log, enter_found
from tightseal.service.connections import ByteBudget
from tightseal.service.cover_parts import cover_parts
from tightseal.service.current import CurrentProvider
from tightseal.service.front import Front
from tightseal.service.guarding import FlooredClock, WatchedGuard
from tightseal.service.inuse import use
from tightseal.service.limitlog import limit_heard, source_heard
from tightseal.service.maker import ProviderMaker
from tightseal.service.membership import Membership
from tightseal.service.metrics import Metrics
from tightseal.service.ownlog import own_log
from tightseal.service.pool import WorkPool
from tightseal.service.probes import (
    Background,
    KeyringWatch,
    PolicyWatch,
    make_health,
)
from tightseal.service.renewal import finish_renewal
from tightseal.service.roots import OwnRoots, create_keyring, open_roots, ways_of
from tightseal.service.sampling import Sampler
from tightseal.service.settings import HostSettings, Settings, StateEngine
from tightseal.service.slotkeys import SlotKeys, own_slots
from tightseal.service.slotterms import SlotTerms
from tightseal.service.sources import open_source, trusted_roots
from tightseal.service.state import (
    guard_path,
    log_key,
    open_store,
    own_secret,
    prepare_folder,
    prepare_state,
)
from tightseal.service.tls import open_tls

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
        finish: to call after an orderly end, before ``close``; does not raise.
        close: gives back files and threads.
    """

    front: Front
    background: Callable[[threading.Event], None]
    finish: Callable[[], None]
    close: Callable[[], None]


def prepare(settings: Settings, *, host_clock: Clock = _host_clock) -> None:
    """What must be there before the first worker starts: platform and state.

    Args:
        settings: both kinds.
        host_clock: Unix seconds by the host; replaced in tests.

    Raises:
        TightsealError: the platform or the state folder cannot be used.
    """
    trusted_roots(settings.release)
    platform = _platform(settings)
    platform.own_measurement()
    has_keyring = settings.release.root is RootKind.KEYRING
    if has_keyring and not settings.host.keyring_path.exists():
        _first_keyring(settings, platform, host_clock)
    leave = _use_keyring(settings, platform)
    try:
        _prepare(settings, platform, host_clock)
    finally:
        leave()


def _first_keyring(
    settings: Settings, platform: RootPlatform, host_clock: Clock
) -> None:
    """Take a keyring over, or make one, where settings say so; else it is missing.

    So one measured image can do both: the host, by naming an address, chooses which.
    A keyring of its own making gets a provider no clients, since they pin the id.
    """
    wanted = settings.host.keyring
    if wanted.join.url:
        join_first(settings, platform, clock=host_clock)
    elif wanted.create:
        prepare_folder(settings.host)
        create_keyring(settings, platform, now=host_clock())


def _use_keyring(settings: Settings, platform: RootPlatform) -> Callable[[], None]:
    """Keep the keyring key from being renewed, once a renewal before was ended."""
    folder = settings.host.keyring_path.absolute().parent
    if settings.release.root is RootKind.PLATFORM or not folder.is_dir():
        return lambda: None
    finish_renewal(settings, lambda: ways_of(settings, platform))
    return use(settings.host.keyring_path)


def _prepare(settings: Settings, platform: RootPlatform, host_clock: Clock) -> None:
    policy_root = settings.release.policy_root
    own = open_roots(settings, platform, now=host_clock())
    _require_pinned(settings.release, own)
    fresh = not settings.host.journal_path.exists()
    store_key = _store_key(own, policy_root) if policy_root else None
    prepare_state(
        settings.host,
        guard_key=_guard_key(own),
        store_key=store_key,
        log_key=log_key(own.secret),
        now=host_clock(),
    )
    if store_key is not None:
        begin_log(settings.host, log_key(own.secret), store_key, clock=host_clock)
    if fresh and own.keeper is not None:
        key = log_key(own.secret)
        enter_found(settings.host, own.keeper.keyring, key, now=host_clock())


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
    platform = _platform(settings)
    leave = _use_keyring(settings, platform)
    try:
        return _compose(settings, platform, leave, seed=seed, host_clock=host_clock)
    except BaseException:
        leave()
        raise


def _compose(
    settings: Settings,
    platform: RootPlatform,
    leave: Callable[[], None],
    *,
    seed: Secret,
    host_clock: Clock,
) -> Composed:
    host, release = settings.host, settings.release
    metrics = Metrics()
    own = open_roots(settings, platform)
    _require_pinned(settings.release, own)
    tls = open_tls(host, platform, seed=seed, now=host_clock())
    guard = _guard(settings, own, metrics)
    roots = trusted_roots(release)
    source = open_source(host, roots=roots, guard=guard)
    journal = SqliteJournal.open(host.journal_path, log_key=log_key(own.secret))
    store = None
    if release.policy_root:
        store = open_store(host, _store_key(own, release.policy_root))
        if own.keeper is not None:
            own.keeper.anchor_with(
                StoreAnchor(store, host_clock), StoreShare(store, host_clock)
            )
    mark = LogMark(store, journal, host_clock) if store else None
    if mark is not None:
        mark.require()
    shared = host.state.engine is StateEngine.POSTGRES
    keeper = PolicyKeeper(release, store=store)
    slots = partial(_slots_in_force, settings, platform, keeper)
    clock = FlooredClock(host_clock, guard, also=partial(_signed_by_policy, keeper))
    leases = Leases(store, parts=host.workers, on_event=limit_heard(metrics))
    cover = cover_parts(
        host.witnesses,
        journal,
        store=store,
        mark=mark,
        rules=lambda: keeper.settings().audit_log,
        metrics=metrics,
    )
    maker = ProviderMaker(
        platform=platform,
        own=own,
        roots=roots,
        source=source,
        guard=guard,
        result_cache=ResultCache(host.collateral.result_cache),
        seed=seed,
        journal=journal,
        memory=Memory(store, own.keeper, slots, shared=shared) if store else None,
        signed_time=clock.floor,
        metrics=metrics,
        leases=leases,
        answers=Answers(Holder(own_secret(seed, Label.KDF_HELD_RESPONSE))),
        tls_key_hash=tls.key_hash if tls else None,
    )
    current = CurrentProvider(keeper, maker)
    nodes = _membership(
        settings, own, platform, store, journal, keeper, seed, host_clock
    )
    health = make_health(
        settings,
        clock=clock,
        journal=journal,
        store=store,
        keeper=keeper,
        current=current,
        keyring=own.keeper,
        metrics=metrics,
        nodes=nodes,
        cover=cover,
    )
    outside = own_log(host, journal)
    front = Front(
        provider=current,
        clock=clock,
        settings=settings,
        metrics=metrics,
        health=health,
        pool=WorkPool(
            "release",
            threads=host.threads,
            queue=host.queue,
            reserved_share=host.limits.reserved_share,
        ),
        quote_pool=_quote_pool(host),
        operator_pool=WorkPool("operator", threads=1, queue=OPERATOR_QUEUE),
        budget=ByteBudget(host.max_buffered_bytes),
        operator_budget=ByteBudget(MAX_BUNDLE_BYTES),
        admission=Admission(host.limits, on_limit=source_heard(metrics)),
        leases=leases,
        tls=tls,
        log=outside.served,
        nodes=nodes,
        cover=cover.covers,
    )
    background = Background(
        front,
        guard=guard,
        current=current,
        watch=PolicyWatch.of(keeper, clock=clock, bundle=host.policy_bundle),
        keys=KeyringWatch(own.keeper, store, clock) if own.keeper else None,
        ageing=_ageing(own.keeper, current, clock, store, journal, metrics),
        refresher=_refresher(host, source, clock),
        tiles=outside.tiles,
        mark=mark,
        nodes=nodes,
        cover=cover,
        sampler=Sampler(
            metrics=metrics,
            host_clock=host_clock,
            simulated=settings.simulated,
            journal=journal,
            journal_path=host.journal_path,
            policy=keeper,
            store=store,
            keyring=own.keeper,
            tiles=outside.tiles,
            nodes=nodes,
        ),
    )

    background.take_policy()
    background.renew_certificate()

    def close() -> None:
        outside.close()
        cover.covers.close()
        journal.close()
        if store is not None:
            store.close()
        leave()

    return Composed(
        front=front, background=background, finish=background.finish, close=close
    )


def _membership(
    settings: Settings,
    own: OwnRoots,
    platform: RootPlatform,
    store: StateStore | None,
    journal: SqliteJournal,
    keeper: PolicyKeeper,
    seed: Secret,
    clock: Clock,
) -> Membership | None:
    """This provider among the nodes of its state, where it has one.

    By the host's own clock, whatever its floor: a node whose clock is refused says so.
    """
    if store is None:
        return None
    return Membership(
        store,
        journal=journal,
        log_key=log_key(own.secret),
        run=own_secret(seed, Label.KDF_NODE_RUN).reveal(),
        own=platform.own_measurement(),
        release=settings.release,
        policy=keeper,
        keyring=own.keeper,
        ended=settings.host.state.ended_logs,
        clock=clock,
    )


def _slots_in_force(
    settings: Settings, platform: RootPlatform, keeper: PolicyKeeper
) -> SlotKeys:
    """What a signed action makes slots with: the policy in force pins and allows.

    Not the bundle file that is asked before: a host may have put an older one there.
    """
    terms = SlotTerms(keeper.current().settings)
    return own_slots(settings, platform, terms=terms)


def _ageing(
    keeper: KeyringKeeper | None,
    current: CurrentProvider,
    clock: FlooredClock,
    store: StateStore | None,
    journal: SqliteJournal,
    metrics: Metrics,
) -> Ageing | None:
    if keeper is None:
        return None

    def record(entry: JournalEntry) -> None:
        journal.record(entry, redemption=None, response=b"")

    return Ageing(
        keyring=keeper,
        settings=current.settings,
        signed_time=clock.floor,
        store=store,
        record=record,
        metrics=metrics,
    )


def _signed_by_policy(keeper: PolicyKeeper) -> int:
    try:
        return keeper.current().issued_at
    except ServiceError:
        return 0


def _quote_pool(host: HostSettings) -> WorkPool:
    threads = max(host.threads or os.cpu_count() or 1, MIN_QUOTE_THREADS)
    return WorkPool(
        "quote",
        threads=threads,
        queue=host.queue,
        reserved_share=host.limits.reserved_share,
    )


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
