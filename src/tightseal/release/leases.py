# SPDX-License-Identifier: Apache-2.0
"""Limits by the minute that hold over any number of nodes, without a write a request.

A node spends what it holds: its free share and slices of the pool, see
:mod:`tightseal.release.leaserecord`. It asks the store where it holds too little, by
compare-and-set. So a limit is never passed, whatever nodes, clocks and database do:

* A part is noted as handed out before anybody may spend it. Where nobody knows whether
  a write was done, its part is lost.
* A part can be spent in its own epoch alone. A node whose clock stands still keeps at
  most what it held; what a dead node held is gone with the minute.
* Epochs only rise. A record is made only under the newest epoch that the seats know, so
  that one which was removed does not begin anew for a node that is late.

A clock that runs ahead takes the epochs of minutes to come, and the limit of one minute
must then do until the others' clocks are there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from tightseal.errors import Code, ServiceError, retry_later
from tightseal.model.state import Change, Create, Delete, Expect, Replace, StateStore
from tightseal.release.leaserecord import (
    EPOCH_SECONDS,
    Allowance,
    LeaseRecord,
    free_share,
    take_seat,
    take_slice,
)

__all__ = ["KIND", "SEAT_NAME", "Leases", "Taken"]

KIND: Final = "limit"
"""Kind of the records; their names come from ``Allowance.record``."""

SEAT_NAME: Final = "seats"
"""The record that seats are taken from."""

MAX_ATTEMPTS: Final = 64
"""Most times that a part is asked for while others come first."""

WAIT_SECONDS: Final = 5.0
"""Longest wait for another thread that asks the store."""

MAX_HELD: Final = 1 << 18
"""Most allowances of one epoch that a node keeps count of."""

IDLE_EPOCHS: Final = 10
"""A record that this node wrote goes after so many epochs without another slice."""

MAX_SWEPT: Final = 64
"""Most records that go at once: with each new epoch, and with each slice, so that a
flood of subjects adds no more of them than go."""

_LOST_RACE: Final = frozenset(
    {Code.STATE_CONFLICT, Code.STATE_EXISTS, Code.STATE_MISSING}
)

OnEvent: TypeAlias = Callable[[Allowance, str], None]
"""Told of an allowance, and what happened: ``granted``, ``refused`` or
``leased``, which is a slice taken."""


@dataclass(slots=True)
class _Held:
    """What a node may still spend of one allowance in this epoch."""

    left: int
    dry: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """One unit of each of some allowances, spent in an epoch."""

    epoch: int
    allowances: tuple[Allowance, ...]


@dataclass(frozen=True, slots=True)
class _Written:
    version: int
    epoch: int


class Leases:
    """What this node holds of every allowance. Safe for threads.

    Args:
        store: shared by the nodes that the limits are over; ``None`` for this process
            alone.
        parts: without a store, how many processes like this one divide a limit.
        on_event: told of what happens, for metrics; must not raise.
    """

    def __init__(
        self,
        store: StateStore | None,
        *,
        parts: int = 1,
        on_event: OnEvent = lambda _allowance, _event: None,
    ) -> None:
        self._store = store
        self._parts = parts
        self._on_event = on_event
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._epoch = -1
        self._seated = False
        self._held: dict[str, _Held] = {}
        self._written: dict[str, _Written] = {}

    def take(self, wanted: Sequence[Allowance], *, now: int) -> Taken | None:
        """Take one unit of every allowance, or of none.

        Args:
            wanted: no record twice.
            now: Unix seconds.

        Returns:
            what was taken; ``None`` where nothing was wanted.

        Raises:
            ServiceError: ``rate_limited``, with ``retry_after``; ``overloaded``, where
                others always came first; what the store raises. Nothing was taken then.
        """
        if not wanted:
            return None
        at_least = now // EPOCH_SECONDS
        for _ in range(MAX_ATTEMPTS):
            taken = self._spend(wanted, at_least, now=now)
            if taken is not None:
                return taken
            with self._alone():
                self._ask(wanted, at_least, now=now)
        detail = f"limits: others came first {MAX_ATTEMPTS} times"
        raise retry_later(Code.OVERLOADED, detail, seconds=1)

    def give_back(self, taken: Taken | None) -> None:
        """Give units back that were not used after all; too late, they are lost."""
        if taken is None:
            return
        with self._lock:
            if taken.epoch != self._epoch:
                return
            for allowance in taken.allowances:
                held = self._held[allowance.record]
                held.left, held.dry = held.left + 1, False

    def _spend(
        self, wanted: Sequence[Allowance], at_least: int, *, now: int
    ) -> Taken | None:
        """Take from what is held; ``None`` where the store must be asked."""
        with self._lock:
            if self._epoch < at_least:
                return None
            held = [self._holding(allowance) for allowance in wanted]
            for allowance, own in zip(wanted, held, strict=True):
                if own.left <= 0 and own.dry:
                    raise self._refused(allowance, now=now)
            if any(own.left <= 0 for own in held):
                return None
            for own in held:
                own.left -= 1
            epoch = self._epoch
        for allowance in wanted:
            self._on_event(allowance, "granted")
        return Taken(epoch, tuple(wanted))

    def _holding(self, allowance: Allowance) -> _Held:
        held = self._held.get(allowance.record)
        if held is None:
            if len(self._held) >= MAX_HELD:
                detail = f"limits: {MAX_HELD} allowances in one minute"
                raise retry_later(Code.OVERLOADED, detail, seconds=EPOCH_SECONDS)
            held = self._held[allowance.record] = self._share(allowance)
        return held

    def _share(self, allowance: Allowance) -> _Held:
        if self._store is None:
            return _Held(allowance.limit // self._parts, dry=True)
        return _Held(free_share(allowance.limit) if self._seated else 0)

    def _ask(self, wanted: Sequence[Allowance], at_least: int, *, now: int) -> None:
        """One turn at the store: a seat in a new epoch, or the slices that lack."""
        with self._lock:
            epoch = self._epoch
            behind = epoch < at_least
            short = () if behind else tuple(self._short(wanted))
        if self._store is None:
            if behind:
                self._enter(at_least, seated=False)
        elif behind:
            self._sit(self._store, at_least, now=now)
        elif short:
            self._slice(self._store, short, epoch, now=now)

    def _short(self, wanted: Sequence[Allowance]) -> Iterator[Allowance]:
        for allowance in wanted:
            if self._holding(allowance).left <= 0:
                yield allowance

    def _enter(self, epoch: int, *, seated: bool) -> None:
        with self._lock:
            self._epoch, self._seated = epoch, seated
            self._held.clear()

    def _sit(self, store: StateStore, epoch: int, *, now: int) -> None:
        """Enter an epoch that is at least ``epoch``, with a seat if there is one."""
        found, version = _open(store, SEAT_NAME, now=now)
        after, counts = take_seat(found, epoch=epoch)
        if after is not None:
            change = _change(SEAT_NAME, after, version)
            if _write(store, (change,), now=now) is None:
                return
        self._enter(counts, seated=after is not None)
        self._sweep(store, now=now)

    def _slice(
        self, store: StateStore, short: Sequence[Allowance], epoch: int, *, now: int
    ) -> None:
        """Take a slice of every pool, or of none."""
        changes: list[Change] = []
        sizes: list[int] = []
        for allowance in short:
            found, version = _open(store, allowance.record, now=now)
            if found is not None and found.epoch > epoch:
                self._sit(store, found.epoch, now=now)
                return
            after, size = take_slice(found, epoch=epoch, limit=allowance.limit)
            if not size:
                self._dry(allowance, now=now)
            changes.append(_change(allowance.record, after, version))
            sizes.append(size)
        if any(isinstance(change, Create) for change in changes):
            seats, version = _open(store, SEAT_NAME, now=now)
            if seats is None or seats.epoch != epoch:
                self._sit(store, epoch if seats is None else seats.epoch, now=now)
                return
            changes.append(Expect(KIND, SEAT_NAME, version))
        written = _write(store, changes, now=now)
        if written is None:
            return
        with self._lock:
            for allowance, size in zip(short, sizes, strict=True):
                self._held[allowance.record].left += size
                self._written.pop(allowance.record, None)
                self._written[allowance.record] = _Written(written, epoch)
        for allowance in short:
            self._on_event(allowance, "leased")
        self._sweep(store, now=now)

    def _dry(self, allowance: Allowance, *, now: int) -> None:
        with self._lock:
            self._held[allowance.record].dry = True
            raise self._refused(allowance, now=now)

    def _refused(self, allowance: Allowance, *, now: int) -> ServiceError:
        self._on_event(allowance, "refused")
        seconds = (self._epoch + 1) * EPOCH_SECONDS - now
        subject = "/".join(allowance.subject)
        detail = (
            f"{allowance.limit_name}: {allowance.limit} for {subject} are used up "
            f"until {(self._epoch + 1) * EPOCH_SECONDS}"
        )
        return retry_later(Code.RATE_LIMITED, detail, seconds=seconds)

    def _sweep(self, store: StateStore, *, now: int) -> None:
        """Remove what this node wrote long ago and nobody touched since."""
        old: list[tuple[str, _Written]] = []
        for name, written in self._written.items():
            if written.epoch + IDLE_EPOCHS > self._epoch or len(old) >= MAX_SWEPT:
                break
            old.append((name, written))
        for name, _ in old:
            del self._written[name]
        gone = [Delete(KIND, name, written.version) for name, written in old]
        if not gone or _write(store, gone, now=now) is not None:
            return
        # Another node used one of them: its sweep will find that one, and no other.
        for one in gone:
            _write(store, (one,), now=now)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Threads queue here; racing at the store, they would mostly read in vain."""
        if not self._asking.acquire(timeout=WAIT_SECONDS):
            detail = f"limits: others asked the store for {WAIT_SECONDS} s"
            raise retry_later(Code.OVERLOADED, detail, seconds=1)
        try:
            yield
        finally:
            self._asking.release()


def _open(
    store: StateStore, name: str, *, now: int
) -> tuple[LeaseRecord | None, int | None]:
    try:
        record = store.open(KIND, name, now=now)
    except ServiceError as e:
        if e.code is not Code.STATE_MISSING:
            raise
        return None, None
    return LeaseRecord.decode(record.value), record.version


def _change(name: str, after: LeaseRecord, version: int | None) -> Change:
    if version is None:
        return Create(KIND, name, after.encode())
    return Replace(KIND, name, after.encode(), version)


def _write(store: StateStore, changes: Sequence[Change], *, now: int) -> int | None:
    """The version of what was written; ``None`` where somebody came first."""
    try:
        return store.batch(changes, now=now)
    except ServiceError as e:
        if e.code not in _LOST_RACE:
            raise
        return None
