# SPDX-License-Identifier: Apache-2.0
"""Counts releases in the state store, before anything is derived.

Several threads and several providers count in one record by compare-and-set: who comes
too late reads again. So what is counted is never less than what was released. It may be
more: where nobody knows whether a write was done, nothing is released, and a retry of
the same bytes finds its tag in the record and is not counted again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final, Protocol

from tightseal.errors import Code, PolicyError, ServiceError
from tightseal.model.claims import PlatformIdentity
from tightseal.model.grant import Reason
from tightseal.model.state import (
    AnchorClass,
    Change,
    Create,
    Freshness,
    Record,
    Replace,
    StateStore,
)
from tightseal.model.usage import UsageDemand
from tightseal.policy.usage import UsageRecord, count

__all__ = [
    "KIND",
    "MAX_ATTEMPTS",
    "SUFFICIENT_ANCHORS",
    "WAIT_SECONDS",
    "Transform",
    "UsageCounter",
    "usage_change",
]

KIND: Final = "usage"
"""Kind of the records; their names come from ``model.usage.key_record``."""

SUFFICIENT_ANCHORS: Final = frozenset(
    {AnchorClass.TPM, AnchorClass.PEERS, AnchorClass.WITNESS}
)
"""Anchors under which a rule counts without ``without_anchor``.

They outlive the process. What this process remembers does not: a host stops it, puts an
older state back, and starts it again.
"""

MAX_ATTEMPTS: Final = 64
"""Most times that a count is tried while others come first."""

WAIT_SECONDS: Final = 10.0
"""Longest wait for another thread that counts in the same record."""

_STRIPES: Final = 64
_LOST_RACE: Final = frozenset({Code.STATE_CONFLICT, Code.STATE_EXISTS})


class UsageCounter:
    """Counts under usage rules. Safe for threads; any number may share one store.

    Args:
        store: where the records lie. They never expire: expiry believes the host.
    """

    def __init__(self, store: StateStore) -> None:
        self._store = store
        # Threads of one process queue here; racing, they would mostly read in vain.
        self._locks = tuple(threading.Lock() for _ in range(_STRIPES))

    def count(
        self,
        demands: Sequence[UsageDemand],
        *,
        platform: PlatformIdentity,
        tag: bytes | None,
        now: int,
    ) -> Freshness | None:
        """Count one release under every demand of a grant, or under none.

        Args:
            demands: of one grant; no record twice.
            platform: of the verified claims.
            tag: SHA-256 over the whole request, 32 bytes; ``None`` where requests of
                the protocol cannot be told apart, which counts every one of them.
            now: Unix seconds.

        Returns:
            how far going back would be noticed, for the receipt; ``None`` where there
            was nothing to count.

        Raises:
            PolicyError: ``anchor_required``, ``platform_unknown``,
                ``usage_platform_bound``, ``usage_limit_reached``: nothing was counted.
            ServiceError: ``overloaded``, where others always came first: nothing was
                counted; ``state_unavailable``, where it may have been; what else the
                store raises. Nothing may be released then.
        """
        if not demands:
            return None
        _require_anchor(demands, self._store.freshness())
        with self._alone(demands):
            for _ in range(MAX_ATTEMPTS):
                changes = [
                    change
                    for demand in demands
                    for change in self._counted(demand, platform, tag, now)
                ]
                if not changes or self._written(changes, now):
                    return self._store.freshness()
        detail = f"usage: others came first {MAX_ATTEMPTS} times"
        raise ServiceError(Code.OVERLOADED, detail)

    def _counted(
        self,
        demand: UsageDemand,
        platform: PlatformIdentity,
        tag: bytes | None,
        now: int,
    ) -> Iterator[Change]:
        """What the store must change for one demand, if anything."""
        held = _open(self._store, demand.record, now=now)
        before = None if held is None else UsageRecord.decode(held.value)
        after = count(
            before,
            demand.rule,
            platform=platform,
            tag=tag,
            now=now,
            purpose=demand.purpose,
            times=demand.times,
        )
        if held is None:
            yield Create(KIND, demand.record, after.encode())
        elif after is not before:
            yield Replace(KIND, demand.record, after.encode(), held.version)

    def _written(self, changes: Sequence[Change], now: int) -> bool:
        """Whether nobody came first."""
        try:
            self._store.batch(changes, now=now)
        except ServiceError as e:
            if e.code not in _LOST_RACE:
                raise
            return False
        return True

    @contextmanager
    def _alone(self, demands: Sequence[UsageDemand]) -> Iterator[None]:
        """Hold what belongs to the records, always in the same order."""
        stripes = sorted({hash(demand.record) % _STRIPES for demand in demands})
        with ExitStack() as held:
            for stripe in stripes:
                lock = self._locks[stripe]
                if not lock.acquire(timeout=WAIT_SECONDS):
                    detail = f"usage: others counted for {WAIT_SECONDS} s"
                    raise ServiceError(Code.OVERLOADED, detail)
                held.callback(lock.release)
            yield


class Transform(Protocol):
    """A change of a record that an operator asked for, such as ``reset``."""

    def __call__(self, record: UsageRecord, /, *, now: int) -> UsageRecord:
        """The record to keep."""
        ...


def usage_change(
    store: StateStore, record_name: str, transform: Transform, *, now: int
) -> Change:
    """What a batch must hold to transform a record, beside what else it is to do.

    The batch raises ``state_conflict`` where a release was counted in between: ask for
    the change again.

    Args:
        store: where the records lie.
        record_name: see ``model.usage.key_record``.
        transform: ``reset`` or ``without_platform``.
        now: Unix seconds, inside the life of the action that asks.

    Raises:
        ServiceError: ``state_missing``, where nothing was ever counted under this name;
            ``state_tampered``; what else the store raises.
    """
    held = _open(store, record_name, now=now)
    if held is None:
        detail = "usage: nothing was ever counted for this purpose of this workload"
        raise ServiceError(Code.STATE_MISSING, detail)
    after = transform(UsageRecord.decode(held.value), now=now)
    return Replace(KIND, record_name, after.encode(), held.version)


def _open(store: StateStore, name: str, *, now: int) -> Record | None:
    """The record, or none: the first release makes it.

    That there is none is the store's proven word, under its newest head. A rule that
    counts is safe from an older one by its anchor alone.
    """
    try:
        return store.open(KIND, name, now=now)
    except ServiceError as e:
        if e.code is not Code.STATE_MISSING:
            raise
        return None


def _require_anchor(demands: Sequence[UsageDemand], freshness: Freshness) -> None:
    """Without an anchor a host puts the whole state back, and counts anew."""
    if freshness.anchor in SUFFICIENT_ANCHORS:
        return
    for demand in demands:
        if not demand.rule.without_anchor:
            expected = ", ".join(sorted(SUFFICIENT_ANCHORS))
            rule = f"usage.without_anchor of {demand.purpose}"
            got = freshness.anchor.value
            detail = f"{rule}: expected an anchor of class {expected}, got {got}"
            error = PolicyError(Code.ANCHOR_REQUIRED, detail)
            error.reasons = (Reason(rule, expected, got, satisfied=False),)
            raise error
