# SPDX-License-Identifier: Apache-2.0
"""What health looks at, and what the background thread keeps going."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from tightseal.audit.journal import SqliteJournal
from tightseal.collateral.refresh import Refresher
from tightseal.errors import Code, SettingsError, TightsealError
from tightseal.model.node import NodeState
from tightseal.model.ports import Clock
from tightseal.model.state import AnchorClass, StateStore
from tightseal.release.keyring import KeyringKeeper
from tightseal.release.logmark import LogMark
from tightseal.release.policy import PolicyKeeper
from tightseal.release.rewrap import Rewrapper
from tightseal.service.ageing import Ageing
from tightseal.service.bundlefile import BundleFile
from tightseal.service.cover_parts import CoverParts
from tightseal.service.current import CurrentProvider
from tightseal.service.front import Front
from tightseal.service.guarding import FlooredClock, WatchedGuard
from tightseal.service.hardening import may_be_swapped
from tightseal.service.health import REFRESH_SECONDS, Health, Note
from tightseal.service.logs import error_fields
from tightseal.service.membership import Membership
from tightseal.service.metrics import Metrics
from tightseal.service.sampling import Sampler
from tightseal.service.settings import Settings
from tightseal.service.state import probe_journal
from tightseal.service.tiles import TilePublisher

__all__ = ["Background", "PolicyWatch", "make_health", "require_policy"]

PREPARE_AHEAD_SECONDS: Final = 300
"""How long before its epoch the next attested key is made, at most a quarter of it."""

POLICY_SECONDS: Final = 1.0
"""How often the policy that another worker or provider accepted is looked for."""

_SWAP: Final = Note(
    "memory_not_locked",
    None,
    "Keys in use may be written to swap.",
    "Start the provider without a limit on locked memory (ulimit -l, "
    "LimitMEMLOCK=infinity), or without swap.",
)
_ONE_SLOT: Final = Note(
    "keyring_one_slot",
    None,
    "One slot alone opens the keyring: its loss loses all.",
    "Add another slot: tightseal keyring slot add",
)
_REFUSED: Final = "The newest bundle that came was refused; the last good one decides."
_EXPIRED: Final = "A signature of the policy in force has expired."
_ANCHOR: Final = (
    "Give the state an anchor, where releases must not depend on an older state; a "
    "policy can require one."
)
_KEYRING_ANCHOR: Final = (
    "Hold it against a TPM's counter: tightseal keyring anchor init; or accept it."
)
_REWRAP: Final = "Make that slot anew: tightseal keyring slot rewrap"

log = structlog.get_logger("tightseal.background")


def make_health(
    settings: Settings,
    *,
    clock: FlooredClock,
    journal: SqliteJournal,
    store: StateStore | None,
    keeper: PolicyKeeper,
    current: CurrentProvider,
    keyring: KeyringKeeper | None,
    metrics: Metrics,
    nodes: Membership | None = None,
    cover: CoverParts | None = None,
) -> Health:
    """The parts of a worker's provider, and what is worth knowing about them."""

    def probe() -> None:
        journal.require_alive()
        probe_journal(settings.host.journal_path)

    def attested() -> None:
        key = current.built().attested.current(now=clock())
        if keyring is not None:
            keyring.check_domain(str(key.trust_domain))

    def collateral() -> None:
        now = clock()
        built = current.built()
        built.verifier(built.attested.current(now=now).evidence, now=now)

    def policy() -> None:
        require_policy(keeper, now=clock())

    probes: dict[str, Callable[[], object]] = {"clock": clock, "journal": probe}
    if store is not None:
        probes["policy"] = policy
    if keyring is not None:
        probes["keyring"] = keyring.look
    if cover is not None:
        probes["witnesses"] = cover.require
    probes |= {"attested_key": attested, "collateral": collateral}
    return Health(
        probes,
        on_part=lambda name, ok: metrics.ready(name, ok=ok),
        notes=lambda: [
            *_notes(keeper, store, keyring, clock),
            *(nodes.notes() if nodes is not None else ()),
            *(cover.notes() if cover is not None else ()),
        ],
        on_notes=metrics.notes,
    )


def require_policy(keeper: PolicyKeeper, *, now: int) -> None:
    """Whether there is a policy that releases anything.

    Raises:
        ServiceError: ``policy_missing``; ``policy_expired``, where settings say so;
            what else the store raises.
    """
    keeper.look(now=now)
    keeper.current().require_deciding(now=now)


def _notes(
    keeper: PolicyKeeper,
    store: StateStore | None,
    keyring: KeyringKeeper | None,
    clock: Clock,
) -> list[Note]:
    """What keeps no key back, and should be known."""
    stored = store is not None
    notes = [] if keyring is None else _keyring_notes(keyring, stored=stored)
    if may_be_swapped():
        notes.append(_SWAP)
    if (refused := keeper.refused) is not None:
        notes.append(Note.of("bundle_refused", refused, _REFUSED))
    if store is None:
        return notes
    try:
        keeper.current().require_fresh(now=clock())
    except TightsealError as e:
        # Before the first bundle the part says so.
        if e.code is Code.POLICY_EXPIRED:
            notes.append(Note.of("policy_expired", e, _EXPIRED))
    freshness = store.freshness()
    if freshness.anchor in {AnchorClass.NONE, AnchorClass.PROCESS}:
        unnoticed = f"anchor {freshness.anchor.value}: {freshness.not_noticed}"
        notes.append(Note("state_unanchored", None, unnoticed, _ANCHOR))
    return notes


def _keyring_notes(keyring: KeyringKeeper, *, stored: bool) -> list[Note]:
    opened = keyring.opened
    notes = []
    if opened.rewrap:
        text = f"{opened.slot}: {opened.rewrap}"
        notes.append(Note("slot_to_rewrap", None, text, _REWRAP))
    if len(keyring.keyring.slots) == 1:
        notes.append(_ONE_SLOT)
    if opened.anchor is AnchorClass.NONE and not stored:
        text = f"keyring, anchor {opened.anchor.value}: {opened.not_noticed}"
        notes.append(Note("keyring_unanchored", None, text, _KEYRING_ANCHOR))
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
        if self.file is not None and (bundle := self.file.changed()) is not None:
            self._offer(bundle, self.file, now=now)

    def _offer(self, bundle: bytes, file: BundleFile, *, now: int) -> None:
        try:
            self.keeper.offer(bundle, now=now)
        except TightsealError as e:
            if not isinstance(e, SettingsError) or e.code is Code.CLOCK_BEHIND:
                # The store failed, or a clock is a little off: the bundle may be good.
                file.again()
            raise


@dataclass(slots=True)
class KeyringWatch:
    """Takes over a keyring that others changed, and moves wrapped keys along.

    Attributes:
        keyring: in use by this worker.
        store: where wrapped keys lie; ``None`` where there are none.
        clock: Unix seconds.
        moved: the generation that wrapped keys were last moved to.
    """

    keyring: KeyringKeeper
    store: StateStore | None
    clock: Clock
    moved: int = 0
    _moving: threading.Thread | None = None

    def look(self) -> None:
        """One look; raises ``TightsealError`` where file or store fail."""
        self.keyring.look()
        current = self.keyring.generations().current
        busy = self._moving is not None and self._moving.is_alive()
        if self.store is None or busy or current == self.moved:
            return
        # On a thread of its own: many keys take long, and health must be looked at.
        self._moving = threading.Thread(
            target=_survive,
            args=("wrapped_keys_not_moved", partial(self._move, self.store, current)),
            daemon=True,
        )
        self._moving.start()

    def _move(self, store: StateStore, current: int) -> None:
        done = Rewrapper(store, self.keyring).rewrap_all(now=self.clock())
        self.moved = current
        log.info("wrapped_keys_moved", generation=current, moved=done.moved)


@dataclass(frozen=True, slots=True)
class Background:
    """Keeps the clock's floor, policy, readiness, keys and collateral new."""

    front: Front
    guard: WatchedGuard
    current: CurrentProvider
    watch: PolicyWatch
    keys: KeyringWatch | None
    ageing: Ageing | None
    refresher: Refresher | None
    sampler: Sampler
    tiles: TilePublisher | None = None
    mark: LogMark | None = None
    nodes: Membership | None = None
    cover: CoverParts | None = None

    def __call__(self, ended: threading.Event) -> None:
        """Work until the event is set."""
        if self.refresher is not None:
            self.refresher.start()
        due = time.monotonic()
        while True:
            _survive("policy_not_taken", self.watch.look)
            if self.keys is not None:
                _survive("keyring_not_taken", self.keys.look)
            if self.ageing is not None:
                _survive("keyring_not_rotated", self.ageing.look)
            if self.nodes is not None and self.front.health.draining:
                self._say(NodeState.DRAINING)
            # By time, not by turns: a look may wait long for a database.
            if time.monotonic() >= due:
                due = time.monotonic() + REFRESH_SECONDS
                self.round()
            if ended.wait(POLICY_SECONDS):
                break
        if self.refresher is not None:
            self.refresher.stop(wait_seconds=0)

    def round(self) -> None:
        """What is done every few seconds; nothing of it may end the thread."""
        _survive("guard_not_read", self.guard.look)
        if self.cover is not None:
            _survive("witnesses_not_asked", self.cover.look)
        _survive("health_not_looked_at", self.front.health.look)
        _survive("metrics_not_sampled", self.sampler.look)
        if self.mark is not None:
            _survive("log_head_not_kept", self.mark.look)
        self._say(NodeState.SERVING, again=True)
        if self.tiles is not None:
            _survive("log_not_published", self.tiles.look)
        _survive("next_attested_key_failed", self._prepare_next)
        self.renew_certificate()

    def finish(self) -> None:
        """The last words of an orderly end: the log is published, marked, and over."""
        if self.tiles is not None:
            _survive("log_not_published", self.tiles.look)
        if self.mark is not None:
            _survive("log_head_not_kept", self.mark.look)
        self._say(NodeState.LEFT)

    def _say(self, state: NodeState, *, again: bool = False) -> None:
        """Tell other nodes how far this one is, where they do not know yet."""
        nodes = self.nodes
        if nodes is not None and (again or nodes.state.rank < state.rank):
            _survive("node_not_told", partial(nodes.look, state))

    def take_policy(self) -> None:
        """Take what the store has before the first request; no failure goes out.

        A worker that was started again would else refuse who comes before the first
        look.
        """
        watch = self.watch
        _survive("policy_not_taken", lambda: watch.keeper.look(now=watch.clock()))

    def renew_certificate(self) -> None:
        """Look whether the certificate of the TLS key is due; no failure goes out."""
        _survive("certificate_not_renewed", self._renew_certificate)

    def _renew_certificate(self) -> None:
        if (tls := self.front.tls) is not None:
            life = self.current.settings().attested_key_life
            tls.look(now=self.front.clock(), life=life)

    def _prepare_next(self) -> None:
        now = self.front.clock()
        built = self.current.built()
        life = built.in_force.settings.attested_key_life
        if life - now % life <= min(PREPARE_AHEAD_SECONDS, life // 4):
            built.attested.prepare_next(now=now)


def _survive(event: str, step: Callable[[], object]) -> None:
    try:
        step()
    except TightsealError as e:
        log.error(event, code=e.code.value, detail=e.detail)  # noqa: TRY400
    except Exception as e:  # noqa: BLE001  # the thread must outlive one round
        log.error(event, **error_fields(e))  # noqa: TRY400
