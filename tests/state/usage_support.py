# SPDX-License-Identifier: Apache-2.0
"""Demands, stores with anchors, and stores that something happens to."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from tightseal.model.claims import PlatformIdentity
from tightseal.model.state import Anchor, AnchorClass, Change, StateStore
from tightseal.model.usage import UsageDemand, UsageRule, key_record
from tightseal.policy.usage import UsageRecord
from tightseal.release.usage import KIND
from tightseal.state.anchors import MemoryAnchor, NoAnchor

NOW = 1_790_000_000
HERE = PlatformIdentity(ppid=b"p" * 16, piid=b"i" * 16, fmspc=b"f" * 6)
THERE = PlatformIdentity(ppid=b"q" * 16, piid=b"i" * 16, fmspc=b"f" * 6)


def tag_of(text: object) -> bytes:
    return hashlib.sha256(str(text).encode()).digest()


def demand(purpose: str = "disk", **rule: Any) -> UsageDemand:
    """Runs without an anchor unless told otherwise."""
    rule.setdefault("without_anchor", True)
    record = key_record(tenant="acme", workload="db", purpose=purpose)
    return UsageDemand(purpose=purpose, record=record, rule=UsageRule(**rule))


def kept(store: StateStore, purpose: str = "disk") -> UsageRecord:
    held = store.open(KIND, demand(purpose).record, now=NOW)
    assert held.expires_at is None
    return UsageRecord.decode(held.value)


def anchor_of(anchor_class: AnchorClass) -> Anchor:
    """An anchor of any class, in memory."""
    if anchor_class is AnchorClass.NONE:
        return NoAnchor()
    anchor = MemoryAnchor()
    anchor.anchor_class = anchor_class
    return anchor


Batch = Callable[[Sequence[Change]], int]
Meddle = Callable[[Batch, Sequence[Change]], int]


class Meddled:
    """A store whose batches go through a function of the test."""

    def __init__(self, store: StateStore, meddle: Meddle) -> None:
        self._store = store
        self._meddle = meddle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def batch(self, changes: Sequence[Change], *, now: int) -> int:
        return self._meddle(lambda c: self._store.batch(c, now=now), changes)
