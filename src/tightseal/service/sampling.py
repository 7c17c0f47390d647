# SPDX-License-Identifier: Apache-2.0
"""Reads off the provider's parts what changes without a request: for ``/metrics``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tightseal.audit.journal import SqliteJournal
from tightseal.errors import Code, ServiceError
from tightseal.keys.keyring import OpenedKeyring, Slot
from tightseal.model.ports import Clock
from tightseal.model.state import StateStore
from tightseal.release.keyring import KeyringKeeper
from tightseal.release.policy import PolicyKeeper
from tightseal.service.membership import Membership
from tightseal.service.metricinfo import SlotCondition
from tightseal.service.metrics import Metrics
from tightseal.service.tiles import TilePublisher

__all__ = ["Sampler", "slot_conditions"]

_BESIDE = ("", "-wal")
"""What SQLite keeps a journal's entries in: the file, and what is not merged yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Looks at the parts for the gauges; called by the background thread.

    Attributes:
        metrics: of this worker.
        host_clock: Unix seconds by the host: a sample is dated even where the clock is
            behind, since that is when it is needed.
        simulated: whether simulated roots are accepted.
        journal, journal_path: the journal, and its file.
        policy: knows the policy in force.
        store: the state; ``None`` where there is none.
        keyring: ``None`` where the root is the platform's own.
        tiles: publishes the log; ``None`` where nobody does.
        nodes: those over the same state; ``None`` where there is no state.
    """

    metrics: Metrics
    host_clock: Clock
    simulated: bool
    journal: SqliteJournal
    journal_path: Path
    policy: PolicyKeeper
    store: StateStore | None
    keyring: KeyringKeeper | None
    tiles: TilePublisher | None
    nodes: Membership | None = None

    def look(self) -> None:
        """One look; raises ``TightsealError`` or ``OSError`` where a part fails."""
        self.metrics.looked(self.host_clock(), simulated=self.simulated)
        self._look_at_policy()
        if self.keyring is not None:
            keyring, opened = self.keyring.keyring, self.keyring.opened
            conditions = slot_conditions(keyring.slots, opened)
            self.metrics.keyring(keyring.header.counter, conditions)
        if self.store is not None:
            self.metrics.anchor(self.store.freshness().anchor)
        if self.nodes is not None and (seen := self.nodes.last()) is not None:
            self.metrics.nodes(seen.count(), seen.silent())
        self._look_at_journal()

    def _look_at_policy(self) -> None:
        try:
            in_force = self.policy.current()
        except ServiceError as e:
            if e.code is not Code.POLICY_MISSING:
                raise
            self.metrics.policy(None, None)
        else:
            self.metrics.policy(in_force.version, in_force.expires_at)

    def _look_at_journal(self) -> None:
        size = 0
        for ending in _BESIDE:
            with suppress(FileNotFoundError):
                size += Path(f"{self.journal_path}{ending}").stat().st_size
        room = os.statvfs(self.journal_path.parent)
        self.metrics.journal(
            entries=self.journal.head().frontier.size,
            published=0 if self.tiles is None else self.tiles.done,
            waiting=self.journal.waiting,
            size=size,
            free=room.f_bavail * room.f_frsize,
        )


def slot_conditions(
    slots: Sequence[Slot], opened: OpenedKeyring
) -> Counter[SlotCondition]:
    """How many slots are in each condition, as far as opening the keyring told.

    Args:
        slots: of the version in use.
        opened: how the keyring was opened when the provider started; slots that were
            damaged then are no longer among those in use.
    """
    known = {probe.slot.slot_id: SlotCondition.CLOSED for probe in opened.closed}
    if opened.slot is not None:
        known[opened.slot.slot_id] = SlotCondition.OPENED
    found = Counter(known.get(s.slot_id, SlotCondition.UNTRIED) for s in slots)
    found[SlotCondition.DAMAGED] = len(opened.damaged)
    return found
