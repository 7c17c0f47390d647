# SPDX-License-Identifier: Apache-2.0
"""Anchors: what they take, and what happens between a commit and its anchoring."""

import threading

import pytest
from store_places import MemoryPlace, sealer

from tightseal.errors import Code, ServiceError
from tightseal.model.state import AnchorClass, Head
from tightseal.state.anchors import RECENT_HEADS, MemoryAnchor, NoAnchor
from tightseal.state.store import SealedStore

NOW = 1_795_000_000
STORE = bytes(16)


def head(counter: int, name: bytes = b"") -> Head:
    return Head(STORE, counter, name or b"%d" % counter)


class Crash(BaseException):
    """The process ends here."""


class Crashing(MemoryAnchor):
    """An anchor whose process ends before it takes a head."""

    armed = False

    def advance(self, head: Head, *, previous: bytes) -> None:
        if self.armed:
            raise Crash
        super().advance(head, previous=previous)


class Late(MemoryAnchor):
    """An anchor that is asked just before others advance it."""

    stale: Head | None = None

    def latest(self, store_id: bytes) -> Head | None:
        return self.stale or super().latest(store_id)


def test_an_anchor_takes_one_chain_of_heads() -> None:
    anchor = MemoryAnchor()
    with pytest.raises(ServiceError) as unknown:
        anchor.advance(head(1), previous=b"0")
    assert unknown.value.code is Code.STATE_ROLLED_BACK
    anchor.adopt(head(0))
    anchor.adopt(head(0))
    anchor.advance(head(1), previous=b"0")
    anchor.advance(head(5), previous=b"1")
    anchor.advance(head(1), previous=b"0")
    assert anchor.latest(STORE) == head(5)
    for other, previous in (
        (head(5, b"parted"), b"1"),
        (head(6), b"1"),
        (head(4), b"5"),
        (head(9), b"8"),
    ):
        with pytest.raises(ServiceError) as refused:
            anchor.advance(other, previous=previous)
        assert refused.value.code is Code.STATE_ROLLED_BACK
    with pytest.raises(ServiceError) as again:
        anchor.adopt(head(0))
    assert again.value.code is Code.STATE_ROLLED_BACK


def test_an_anchor_in_memory_is_bounded() -> None:
    anchor = MemoryAnchor()
    anchor.adopt(head(0))
    for counter in range(1, 3 * RECENT_HEADS):
        anchor.advance(head(counter), previous=b"%d" % (counter - 1))
    assert len(anchor._heads[STORE]) == RECENT_HEADS


def test_no_anchor_remembers_nothing() -> None:
    anchor = NoAnchor()
    anchor.adopt(head(1))
    anchor.advance(head(2), previous=b"1")
    assert anchor.latest(STORE) is None


@pytest.mark.parametrize("kind", AnchorClass)
def test_every_class_says_what_it_does_not_notice(kind: AnchorClass) -> None:
    assert "older" in kind.not_noticed


def test_a_crash_between_commit_and_anchor_is_caught_up() -> None:
    place, anchor = MemoryPlace(), Crashing()
    store = SealedStore.new(place.engine(), sealer(), anchor=anchor)
    anchor.armed = True
    with pytest.raises(Crash):
        store.create("usage", "a", b"", now=NOW)
    anchor.armed = False
    again = SealedStore.attach(place.engine(), sealer(), anchor=anchor)
    assert again.open("usage", "a", now=NOW).value == b""
    again.create("usage", "b", b"", now=NOW)
    assert anchor.latest(again.freshness().head.store_id) == again.freshness().head


def test_a_process_anchors_what_another_one_left_before_it_writes() -> None:
    place, anchor = MemoryPlace(), Crashing()
    one = SealedStore.new(place.engine(), sealer(), anchor=anchor)
    two = SealedStore.attach(place.engine(), sealer(), anchor=anchor)
    anchor.armed = True
    with pytest.raises(Crash):
        one.create("usage", "a", b"", now=NOW)
    anchor.armed = False
    two.create("usage", "b", b"", now=NOW)
    one.create("usage", "c", b"", now=NOW)
    assert len(two.scan("usage", now=NOW)) == 3


def test_a_fork_in_the_moment_of_a_write_is_never_answered() -> None:
    """The anchor is asked, the host forks the store, both halves go on at once."""
    place, half, anchor = MemoryPlace(), MemoryPlace(), Late()
    SealedStore.new(place.engine(), sealer(), anchor=anchor)
    half.new()
    half.load(place.dump())
    one = SealedStore.attach(place.engine(), sealer(), anchor=anchor)
    two = SealedStore.attach(half.engine(), sealer(), anchor=anchor)
    before = one.freshness().head
    for i in range(3):
        one.create("usage", str(i), b"", now=NOW)
    anchor.stale = before
    with pytest.raises(ServiceError) as noticed:
        two.create("usage", "elsewhere", b"", now=NOW)
    assert noticed.value.code is Code.STATE_ROLLED_BACK
    anchor.stale = None
    with pytest.raises(ServiceError) as later:
        two.open("usage", "elsewhere", now=NOW)
    assert later.value.code is Code.STATE_ROLLED_BACK
    assert len(one.scan("usage", now=NOW)) == 3


def test_a_store_written_without_its_anchor_is_refused_by_it() -> None:
    place, anchor = MemoryPlace(), MemoryAnchor()
    SealedStore.new(place.engine(), sealer(), anchor=anchor)
    careless = place.attach()
    for i in range(2):
        careless.create("usage", str(i), b"", now=NOW)
    with pytest.raises(ServiceError) as refused:
        SealedStore.attach(place.engine(), sealer(), anchor=anchor)
    assert refused.value.code is Code.STATE_ROLLED_BACK


def test_an_interrupted_commit_leaves_nobody_waiting() -> None:
    place, anchor = MemoryPlace(), Crashing()
    store = SealedStore.new(place.engine(), sealer(), anchor=anchor)
    anchor.armed = True
    with pytest.raises(Crash):
        store.create("usage", "a", b"", now=NOW)
    anchor.armed = False
    store.create("usage", "b", b"", now=NOW)


def test_threads_share_an_anchor_without_a_false_alarm() -> None:
    place, anchor = MemoryPlace(), MemoryAnchor()
    stores = [SealedStore.new(place.engine(), sealer(), anchor=anchor)]
    stores += [
        SealedStore.attach(place.engine(), sealer(), anchor=anchor) for _ in range(3)
    ]
    failures: list[Exception] = []

    def write(store: SealedStore, which: int) -> None:
        try:
            for i in range(60):
                store.create("usage", f"{which}-{i}", b"", now=NOW)
                store.open("usage", f"{which}-{i}", now=NOW)
        except ServiceError as e:
            failures.append(e)

    threads = [
        threading.Thread(target=write, args=(stores[i % 4], i)) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(stores[0].scan("usage", now=NOW)) == 8 * 60
