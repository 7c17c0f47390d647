# SPDX-License-Identifier: Apache-2.0
"""Counting in a state store: all or nothing, races, lost answers and anchors."""

import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from store_places import MemoryPlace, Place, SqlitePlace, sealer
from usage_support import (
    HERE,
    NOW,
    THERE,
    Batch,
    Meddle,
    Meddled,
    anchor_of,
    demand,
    kept,
    tag_of,
)

from tightseal.errors import Code, PolicyError, ServiceError, TightsealError
from tightseal.model.claims import PlatformIdentity
from tightseal.model.state import AnchorClass, Change, Create, Freshness, Replace
from tightseal.model.usage import UsageDemand
from tightseal.policy.usage import UsageRecord, reset, without_platform
from tightseal.policy.usagerecord import HOUR
from tightseal.release import usage
from tightseal.release.usage import KIND, MAX_ATTEMPTS, UsageCounter, usage_change
from tightseal.state.store import SealedStore


def ask(
    store: Any,
    *demands: UsageDemand,
    platform: PlatformIdentity = HERE,
    tag: bytes | None = None,
    now: int = NOW,
) -> Freshness | None:
    counter = UsageCounter(store)
    return counter.count(demands, platform=platform, tag=tag, now=now)


def refused(code: Code, store: Any, *demands: UsageDemand, **how: Any) -> str:
    with pytest.raises(TightsealError) as no:
        ask(store, *demands, **how)
    assert no.value.code is code
    return no.value.detail


@pytest.fixture
def store() -> SealedStore:
    return MemoryPlace().new()


# -- what is counted --------------------------------------------------------------


def test_every_engine_counts_to_the_limit(place: Place) -> None:
    store = place.new()
    for number in range(3):
        ask(store, demand(total=3), tag=tag_of(number))
    refused(Code.USAGE_LIMIT_REACHED, place.attach(), demand(total=3))
    assert kept(store).total == 3


def test_without_demands_nothing_is_read_or_written() -> None:
    assert ask(object()) is None


def test_the_answer_says_under_which_head_it_was_counted(store: SealedStore) -> None:
    found = ask(store, demand(total=2))
    assert found is not None
    assert found == store.freshness()
    assert found.head.counter == 1


def test_all_demands_of_a_grant_are_one_step(store: SealedStore) -> None:
    ask(store, demand("disk", total=2), demand("token", per_hour=2))
    assert store.freshness().head.counter == 1
    assert kept(store, "disk").total == kept(store, "token").total == 1


def test_a_demand_that_is_refused_leaves_the_others_uncounted(
    store: SealedStore,
) -> None:
    ask(store, demand("token", total=1))
    both = demand("disk", total=9), demand("token", total=1)
    detail = refused(Code.USAGE_LIMIT_REACHED, store, *both)
    assert "usage.total of token" in detail
    with pytest.raises(ServiceError, match="state_missing"):
        kept(store, "disk")


def test_purposes_and_workloads_are_counted_apart(store: SealedStore) -> None:
    ask(store, demand("disk", total=1))
    ask(store, demand("token", total=1))
    refused(Code.USAGE_LIMIT_REACHED, store, demand("disk", total=1))


def test_first_platform_is_remembered(store: SealedStore) -> None:
    rule = demand(first_platform=True)
    ask(store, rule)
    refused(Code.USAGE_PLATFORM_BOUND, store, rule, platform=THERE)
    refused(Code.PLATFORM_UNKNOWN, store, rule, platform=PlatformIdentity())
    ask(store, rule)


def test_a_refusal_changes_nothing(store: SealedStore) -> None:
    ask(store, demand(total=1))
    head = store.freshness().head
    refused(Code.USAGE_LIMIT_REACHED, store, demand(total=1), now=NOW + 10**6)
    assert store.freshness().head == head


def test_records_outlive_any_clock(store: SealedStore) -> None:
    ask(store, demand(total=1))
    far = (1 << 53) - 1
    assert store.purge(now=far) == 0
    refused(Code.USAGE_LIMIT_REACHED, store, demand(total=1), now=far)


def test_a_retry_writes_nothing(store: SealedStore) -> None:
    ask(store, demand(total=1), tag=tag_of(1))
    head = store.freshness().head
    assert ask(store, demand(total=1), tag=tag_of(1)) == store.freshness()
    assert store.freshness().head == head


def test_a_retry_is_counted_where_its_tag_is_not_known(store: SealedStore) -> None:
    """A rule that came with a new policy between a request and its retry."""
    ask(store, demand("disk", total=2), tag=tag_of(1))
    ask(store, demand("disk", total=2), demand("token", total=2), tag=tag_of(1))
    assert kept(store, "disk").total == kept(store, "token").total == 1


# -- anchors ----------------------------------------------------------------------


@pytest.mark.parametrize("anchor_class", AnchorClass)
def test_an_anchor_must_outlive_the_process(anchor_class: AnchorClass) -> None:
    place = MemoryPlace()
    anchor = anchor_of(anchor_class)
    store = SealedStore.new(place.engine(), sealer(), anchor=anchor)
    strict = demand(total=2, without_anchor=False)
    if anchor_class in {AnchorClass.NONE, AnchorClass.PROCESS}:
        detail = refused(Code.ANCHOR_REQUIRED, store, strict)
        assert "usage.without_anchor of disk" in detail
        got = f"expected an anchor of class peers, tpm, witness, got {anchor_class}"
        assert got in detail
        assert store.freshness().head.counter == 0
    else:
        found = ask(store, strict)
        assert found is not None
        assert found.anchor is anchor_class
    ask(store, demand(total=2))


def test_one_rule_that_needs_an_anchor_keeps_all_from_being_counted(
    store: SealedStore,
) -> None:
    strict = demand("token", total=2, without_anchor=False)
    refused(Code.ANCHOR_REQUIRED, store, demand("disk", total=2), strict)
    assert store.freshness().head.counter == 0


# -- races and lost answers -------------------------------------------------------


def once(act: Meddle) -> Meddle:
    """Meddle with the first batch alone."""
    done: list[bool] = []

    def meddle(batch: Batch, changes: Sequence[Change]) -> int:
        if done:
            return batch(changes)
        done.append(True)
        return act(batch, changes)

    return meddle


@pytest.mark.parametrize("before", [0, 1])
def test_who_comes_too_late_reads_again(store: SealedStore, before: int) -> None:
    for number in range(before):
        ask(store, demand(total=9), tag=tag_of(number))

    def overtake(batch: Batch, changes: Sequence[Change]) -> int:
        ask(store, demand(total=9), tag=tag_of("other"))
        return batch(changes)

    ask(Meddled(store, once(overtake)), demand(total=9), tag=tag_of("mine"))
    assert kept(store).total == before + 2
    assert set(kept(store).tags) >= {tag_of("mine"), tag_of("other")}


def test_the_last_release_goes_to_one_of_two(store: SealedStore) -> None:
    def overtake(batch: Batch, changes: Sequence[Change]) -> int:
        ask(store, demand(total=1))
        return batch(changes)

    refused(Code.USAGE_LIMIT_REACHED, Meddled(store, once(overtake)), demand(total=1))
    assert kept(store).total == 1


def test_two_identical_requests_that_race_are_counted_once(
    store: SealedStore,
) -> None:
    def overtake(batch: Batch, changes: Sequence[Change]) -> int:
        ask(store, demand(total=1), tag=tag_of("same"))
        return batch(changes)

    ask(Meddled(store, once(overtake)), demand(total=1), tag=tag_of("same"))
    assert kept(store).total == 1


def test_a_platform_that_comes_too_late_is_not_the_first(store: SealedStore) -> None:
    rule = demand(first_platform=True)

    def overtake(batch: Batch, changes: Sequence[Change]) -> int:
        ask(store, rule, platform=THERE)
        return batch(changes)

    refused(Code.USAGE_PLATFORM_BOUND, Meddled(store, once(overtake)), rule)


def test_who_never_comes_first_gives_up(store: SealedStore) -> None:
    others: list[bytes] = []

    def overtake(batch: Batch, changes: Sequence[Change]) -> int:
        others.append(tag_of(len(others)))
        ask(store, demand(total=999), tag=others[-1])
        return batch(changes)

    refused(Code.OVERLOADED, Meddled(store, overtake), demand(total=999))
    assert kept(store).total == len(others) == MAX_ATTEMPTS


def unavailable(*_: object) -> int:
    raise ServiceError(Code.STATE_UNAVAILABLE, "the answer was lost")


def test_a_write_that_was_done_but_not_answered_is_counted_once_by_a_retry(
    store: SealedStore,
) -> None:
    def lose(batch: Batch, changes: Sequence[Change]) -> int:
        batch(changes)
        return unavailable()

    rule = demand(total=1)
    hostile = Meddled(store, once(lose))
    refused(Code.STATE_UNAVAILABLE, hostile, rule, tag=tag_of("mine"))
    assert kept(store).total == 1
    ask(hostile, rule, tag=tag_of("mine"))
    assert kept(store).total == 1
    refused(Code.USAGE_LIMIT_REACHED, hostile, rule, tag=tag_of("new"))


def test_a_write_that_was_not_done_is_counted_by_the_retry(
    store: SealedStore,
) -> None:
    hostile = Meddled(store, once(unavailable))
    refused(Code.STATE_UNAVAILABLE, hostile, demand(total=1), tag=tag_of("mine"))
    assert store.freshness().head.counter == 0
    ask(hostile, demand(total=1), tag=tag_of("mine"))
    assert kept(store).total == 1


@pytest.mark.parametrize(
    "code", [Code.STATE_UNAVAILABLE, Code.STATE_ROLLED_BACK, Code.STATE_TAMPERED]
)
def test_a_record_that_cannot_be_read_is_not_taken_for_none(
    store: SealedStore, monkeypatch: pytest.MonkeyPatch, code: Code
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ServiceError(code, "no record came")

    monkeypatch.setattr(store, "open", fail)
    refused(code, store, demand(total=2))
    with pytest.raises(ServiceError, match=code.value):
        usage_change(store, demand().record, reset, now=NOW)
    assert store.freshness().head.counter == 0


def test_a_record_that_goes_away_in_between_is_no_fresh_start(
    store: SealedStore,
) -> None:
    ask(store, demand(total=2))

    def remove(batch: Batch, changes: Sequence[Change]) -> int:
        held = store.open(KIND, demand().record, now=NOW)
        store.delete(KIND, demand().record, expected=held.version, now=NOW)
        return batch(changes)

    refused(Code.STATE_MISSING, Meddled(store, once(remove)), demand(total=2))


def test_a_value_that_is_no_record_is_tampered(store: SealedStore) -> None:
    store.create(KIND, demand().record, b"\x00", now=NOW)
    refused(Code.STATE_TAMPERED, store, demand(total=2))
    with pytest.raises(ServiceError, match="state_tampered"):
        usage_change(store, demand().record, reset, now=NOW)


def test_a_store_put_back_whole_is_noticed_while_the_process_runs() -> None:
    place = MemoryPlace()
    store = place.new()
    ask(store, demand(total=2))
    old = place.dump()
    ask(store, demand(total=2))
    place.load(old)
    refused(Code.STATE_ROLLED_BACK, store, demand(total=2))


def test_a_thread_waits_for_another_only_so_long(
    store: SealedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def stop(batch: Batch, changes: Sequence[Change]) -> int:
        entered.set()
        assert leave.wait(30)
        return batch(changes)

    counter = UsageCounter(Meddled(store, once(stop)))

    def one(purpose: str) -> None:
        demands = (demand(purpose, total=9),)
        counter.count(demands, platform=HERE, tag=None, now=NOW)

    slow = threading.Thread(target=one, args=("disk",))
    slow.start()
    try:
        assert entered.wait(30)
        monkeypatch.setattr(usage, "WAIT_SECONDS", 0.01)
        with pytest.raises(ServiceError, match="overloaded"):
            one("disk")
    finally:
        leave.set()
        slow.join()
    one("disk")
    assert kept(store).total == 2


def test_threads_of_two_providers_share_one_limit_exactly(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = SqlitePlace(tmp_path_factory.mktemp("usage") / "state.db")
    place.new()
    limit, each = 40, 8
    rules = demand("disk", total=limit), demand("token", total=10 * limit)
    counters = [UsageCounter(place.attach()) for _ in range(2)]
    granted: list[bytes] = []
    faults: list[TightsealError] = []

    def work(counter: UsageCounter, name: str) -> None:
        for number in range(each):
            tag = tag_of(f"{name}-{number}")
            try:
                counter.count(rules, platform=HERE, tag=tag, now=NOW)
                granted.append(tag)
            except TightsealError as e:
                faults.append(e)

    threads = [
        threading.Thread(target=work, args=(counters[n % 2], str(n))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {e.code for e in faults} == {Code.USAGE_LIMIT_REACHED}
    assert len(granted) == len(set(granted)) == limit
    assert len(faults) == 8 * each - limit
    store = place.attach()
    assert kept(store, "disk").total == kept(store, "token").total == limit
    assert set(kept(store).tags) == set(granted)
    place.close()


def test_providers_whose_clocks_differ_share_every_hour(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = SqlitePlace(tmp_path_factory.mktemp("usage") / "state.db")
    place.new()
    per_hour = 5
    rule = demand(per_hour=per_hour)
    recorded: list[int] = []

    def watch(batch: Batch, changes: Sequence[Change]) -> int:
        version = batch(changes)
        (change,) = changes
        assert isinstance(change, Create | Replace)
        recorded.append(UsageRecord.decode(change.value).latest)
        return version

    def work(seed: int) -> None:
        chance = random.Random(seed)
        counter = UsageCounter(Meddled(place.attach(), watch))
        for _ in range(40):
            now = NOW + chance.randrange(0, 6 * HOUR)
            try:
                counter.count((rule,), platform=HERE, tag=None, now=now)
            except PolicyError as e:
                refusals.append(e)

    refusals: list[PolicyError] = []
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorded) + len(refusals) == 4 * 40
    assert per_hour < len(recorded) <= 6 * per_hour
    for start in recorded:
        assert sum(start <= at < start + HOUR for at in recorded) <= per_hour
    place.close()


# -- what an operator asks for ----------------------------------------------------


def test_a_reset_goes_into_the_batch_of_its_action(store: SealedStore) -> None:
    ask(store, demand(total=1))
    change = usage_change(store, demand().record, reset, now=NOW)
    store.batch([change, Create("action", "id", b"")], now=NOW)
    ask(store, demand(total=1))
    again = usage_change(store, demand().record, reset, now=NOW)
    with pytest.raises(ServiceError, match="state_exists"):
        store.batch([again, Create("action", "id", b"")], now=NOW)
    refused(Code.USAGE_LIMIT_REACHED, store, demand(total=1))


def test_a_released_platform_makes_way(store: SealedStore) -> None:
    rule = demand(first_platform=True)
    ask(store, rule)
    store.batch([usage_change(store, rule.record, without_platform, now=NOW)], now=NOW)
    ask(store, rule, platform=THERE)
    refused(Code.USAGE_PLATFORM_BOUND, store, rule)


def test_a_change_is_refused_where_a_release_came_first(store: SealedStore) -> None:
    ask(store, demand(total=9))
    change = usage_change(store, demand().record, reset, now=NOW)
    ask(store, demand(total=9))
    with pytest.raises(ServiceError, match="state_conflict"):
        store.batch([change], now=NOW)
    assert kept(store).total == 2


def test_what_was_never_counted_cannot_be_changed(store: SealedStore) -> None:
    with pytest.raises(ServiceError, match="nothing was ever counted") as no:
        usage_change(store, demand().record, reset, now=NOW)
    assert no.value.code is Code.STATE_MISSING


def test_a_reset_between_reading_and_counting_is_not_lost(store: SealedStore) -> None:
    ask(store, demand(total=1))
    ask(store, demand(total=2), tag=tag_of(1))

    def overtake(batch: Batch, changes: Sequence[Change]) -> int:
        store.batch([usage_change(store, demand().record, reset, now=NOW)], now=NOW)
        return batch(changes)

    ask(Meddled(store, once(overtake)), demand(total=3))
    assert kept(store).total == 1


def test_a_refusal_is_a_policy_error(store: SealedStore) -> None:
    ask(store, demand(total=1))
    with pytest.raises(PolicyError) as no:
        ask(store, demand(total=1))
    assert no.value.reasons
