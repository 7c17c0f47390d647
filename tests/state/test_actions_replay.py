# SPDX-License-Identifier: Apache-2.0
"""Actions over a state store: once, whole, journalled first, and never half done."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from adopted_paths import granted, key_of, measured
from store_places import MemoryPlace, Place, SqlitePlace
from usage_support import HERE, THERE, Batch, Meddled, tag_of

import action_support as support
from tightseal.errors import Code, PolicyError, ServiceError, TightsealError
from tightseal.model.action import ActionKind
from tightseal.model.canonical import encode
from tightseal.model.claims import PlatformIdentity
from tightseal.model.keypath import (
    Authority,
    Kdf,
    ProtocolClass,
)
from tightseal.model.ports import JournalEntry
from tightseal.model.state import Change, Delete, StateStore
from tightseal.model.usage import UsageDemand, UsageRule
from tightseal.policy.usage import UsageRecord
from tightseal.release.actions import (
    ACTION_KIND,
    ADOPTION_KIND,
    MAX_ATTEMPTS,
    ActionDesk,
    adopted_source,
    apply_source,
)
from tightseal.release.usage import KIND, UsageCounter
from tightseal.state.store import SealedStore

NOW = support.NOW
RECORD = support.DISK.record
ABOUT_KEYS = (
    ActionKind.ADOPT,
    ActionKind.RELEASE_PLATFORM,
    ActionKind.RESET_USAGE,
)
RULE = UsageRule(total=2, first_platform=True, without_anchor=True)


class Journal:
    """Keeps entries, and what stood in the store when each came."""

    def __init__(self, store: StateStore | None = None) -> None:
        self.entries: list[JournalEntry] = []
        self.done_before: list[bool] = []
        self._store = store

    def __call__(self, entry: JournalEntry) -> None:
        if self._store is not None:
            self.done_before.append(bool(self._store.scan(ACTION_KIND, now=NOW)))
        self.entries.append(entry)

    @property
    def codes(self) -> list[str]:
        return [entry.code for entry in self.entries]


def act(
    store: Any,
    kind: ActionKind = ActionKind.RESET_USAGE,
    *,
    log: Callable[[JournalEntry], None] | None = None,
    **changes: Any,
) -> bytes:
    asked = support.action(kind, **changes)
    authorised = support.judged(support.signed(asked, "alice"))
    return ActionDesk(store).perform(authorised, now=NOW, log=log or Journal())


def refused(code: Code, store: Any, *args: Any, **how: Any) -> str:
    with pytest.raises(TightsealError) as no:
        act(store, *args, **how)
    assert no.value.code is code
    return no.value.detail


def release(
    store: StateStore, *, times: int = 1, platform: PlatformIdentity = HERE
) -> None:
    demand = UsageDemand("disk", RECORD, RULE)
    for number in range(times):
        tag = tag_of((number, platform))
        UsageCounter(store).count((demand,), platform=platform, tag=tag, now=NOW)


def usage(store: StateStore) -> UsageRecord:
    return UsageRecord.decode(store.open(KIND, RECORD, now=NOW).value)


@pytest.fixture
def store() -> SealedStore:
    return MemoryPlace().new()


# -- what an action does ----------------------------------------------------------


def test_reset_begins_the_total_anew(place: Place) -> None:
    store = place.new()
    release(store, times=2)
    act(store, ActionKind.RESET_USAGE)
    assert usage(place.attach()).total == 0
    assert usage(store).platform is not None


def test_the_next_platform_becomes_the_first(store: SealedStore) -> None:
    release(store)
    with pytest.raises(PolicyError):
        release(store, platform=THERE)
    act(store, ActionKind.RELEASE_PLATFORM)
    release(store, platform=THERE)
    with pytest.raises(PolicyError):
        release(store)


@pytest.mark.parametrize(
    "kind", [ActionKind.RESET_USAGE, ActionKind.RELEASE_PLATFORM], ids=str
)
def test_a_purpose_that_was_never_counted_is_told(
    store: SealedStore, kind: ActionKind
) -> None:
    release(store)
    journal = Journal()
    other = replace(support.DISK, workload="databse")
    refused(Code.STATE_MISSING, store, kind, parameters=other, log=journal)
    assert journal.entries == []
    assert store.scan(ACTION_KIND, now=NOW) == ()


def test_adopt_says_where_the_key_is(place: Place) -> None:
    store = place.new()
    act(store, ActionKind.ADOPT)
    assert adopted_source(place.attach(), RECORD, now=NOW) == support.source()
    [held] = store.scan(ADOPTION_KIND, now=NOW)
    assert held.expires_at is None


def test_a_name_without_an_adoption_has_no_key(store: SealedStore) -> None:
    act(store, ActionKind.ADOPT)
    other = replace(support.DISK, purpose="backup").record
    with pytest.raises(PolicyError) as no:
        adopted_source(store, other, now=NOW)
    assert no.value.code is Code.ADOPTION_MISSING


@pytest.mark.parametrize(
    "value",
    [b"", encode([]), encode([b"i" * 16]), encode([b"i", {}]), encode([b"i" * 16, {}])],
    ids=range(5),
)
def test_an_adoption_of_another_form_is_told(store: SealedStore, value: bytes) -> None:
    store.create(ADOPTION_KIND, RECORD, value, now=NOW)
    with pytest.raises(ServiceError) as no:
        adopted_source(store, RECORD, now=NOW)
    assert no.value.code is Code.STATE_TAMPERED


# -- one adoption in the place of another -----------------------------------------

SECOND = {"action_id": b"j" * 16}
ELSEWHERE = {"purpose": "legacy-disk"}


def test_the_same_adoption_again_changes_nothing(store: SealedStore) -> None:
    act(store, ActionKind.ADOPT)
    before = store.open(ADOPTION_KIND, RECORD, now=NOW)
    act(store, ActionKind.ADOPT, **SECOND)
    assert store.open(ADOPTION_KIND, RECORD, now=NOW) == before
    assert len(store.scan(ACTION_KIND, now=NOW)) == 2


def test_another_source_does_not_overwrite_an_adoption(store: SealedStore) -> None:
    act(store, ActionKind.ADOPT)
    other = support.adopt(**ELSEWHERE)
    detail = refused(
        Code.STATE_EXISTS, store, ActionKind.ADOPT, parameters=other, **SECOND
    )
    assert (b"i" * 16).hex() in detail
    assert adopted_source(store, RECORD, now=NOW) == support.source()


def test_an_adoption_that_is_named_is_replaced(store: SealedStore) -> None:
    act(store, ActionKind.ADOPT)
    other = support.adopt(b"i" * 16, **ELSEWHERE)
    act(store, ActionKind.ADOPT, parameters=other, **SECOND)
    assert adopted_source(store, RECORD, now=NOW) == support.source(**ELSEWHERE)
    # The first one is no longer in force, so naming it again replaces nothing.
    third = support.adopt(b"i" * 16)
    ids = {"action_id": b"k" * 16}
    refused(Code.STATE_CONFLICT, store, ActionKind.ADOPT, parameters=third, **ids)


def test_where_nothing_was_adopted_nothing_is_replaced(store: SealedStore) -> None:
    other = support.adopt(b"x" * 16)
    refused(Code.STATE_CONFLICT, store, ActionKind.ADOPT, parameters=other)


# -- once -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ABOUT_KEYS)
def test_an_action_is_done_once(place: Place, kind: ActionKind) -> None:
    store = place.new()
    release(store)
    act(store, kind)
    release(store, platform=THERE if kind is ActionKind.RELEASE_PLATFORM else HERE)
    before = usage(store)
    journal = Journal()
    refused(Code.ACTION_REPLAYED, place.attach(), kind, log=journal)
    assert usage(store) == before
    assert journal.entries == []


def test_a_replay_over_another_handle_of_one_file_is_refused(tmp_path: Path) -> None:
    place = SqlitePlace(tmp_path / "state.db")
    try:
        one, other = place.new(), place.attach()
        release(one, times=2)
        act(one)
        release(other, times=3)
        refused(Code.ACTION_REPLAYED, other)
        assert usage(one).total == 1
    finally:
        place.close()


def test_a_replay_long_after_is_refused(store: SealedStore) -> None:
    release(store)
    act(store)
    later = NOW + 100 * 365 * 86_400
    assert store.purge(now=later) == 0
    [held] = store.scan(ACTION_KIND, now=later)
    assert held.name == (b"i" * 16).hex()


def test_of_many_who_submit_at_once_one_does_it(tmp_path: Path) -> None:
    place = SqlitePlace(tmp_path / "state.db")
    try:
        handles = [place.new(), place.attach(), place.attach(), place.attach()]
        release(handles[0], times=2)
        ready = threading.Barrier(len(handles))
        told: list[Code | None] = []

        def submit(handle: SealedStore) -> None:
            ready.wait()
            try:
                act(handle)
            except TightsealError as e:
                told.append(e.code)
            else:
                told.append(None)

        threads = [threading.Thread(target=submit, args=(h,)) for h in handles]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(str, told)) == ["None", *["action_replayed"] * 3]
        assert usage(handles[1]).total == 0
    finally:
        place.close()


# -- journal first, then all or nothing -------------------------------------------


def test_the_journal_comes_first_and_says_who_asked(store: SealedStore) -> None:
    release(store)
    journal = Journal(store)
    entry_id = act(store, log=journal)
    assert journal.done_before == [False]
    [entry] = journal.entries
    assert (entry.entry_id, entry.time, entry.granted) == (entry_id, NOW, True)
    assert (entry.protocol_class, entry.code) == ("action", "granted")
    assert entry.body == {
        "action": support.action().as_value(),
        "role": "operators",
        "signers": [support.public("alice")],
    }


def test_without_the_journal_nothing_is_done(store: SealedStore) -> None:
    def full(_entry: JournalEntry) -> None:
        raise ServiceError(Code.JOURNAL_FAILED, "full")

    release(store)
    refused(Code.JOURNAL_FAILED, store, log=full)
    assert usage(store).total == 1
    act(store)
    assert usage(store).total == 0


class CrashError(Exception):
    """The process ends here."""


@pytest.mark.parametrize("kind", ABOUT_KEYS)
def test_a_crash_before_the_batch_leaves_the_action_repeatable(
    store: SealedStore, kind: ActionKind
) -> None:
    def crash(_batch: Batch, _changes: Sequence[Change]) -> int:
        raise CrashError

    release(store)
    journal = Journal()
    with pytest.raises(CrashError):
        act(Meddled(store, crash), kind, log=journal)
    assert store.scan(ACTION_KIND, now=NOW) == ()
    assert store.scan(ADOPTION_KIND, now=NOW) == ()
    assert usage(store).total == 1
    act(store, kind, log=journal)
    assert journal.codes == ["granted", "granted"]
    refused(Code.ACTION_REPLAYED, store, kind)


def test_a_store_that_fails_is_told_in_the_journal_too(store: SealedStore) -> None:
    def fail(_batch: Batch, _changes: Sequence[Change]) -> int:
        raise ServiceError(Code.STATE_UNAVAILABLE, "gone")

    release(store)
    journal = Journal()
    refused(Code.STATE_UNAVAILABLE, Meddled(store, fail), log=journal)
    assert journal.codes == ["granted", "state_unavailable"]
    assert [entry.granted for entry in journal.entries] == [True, False]
    assert len({entry.entry_id for entry in journal.entries}) == 2


def test_a_lost_answer_shows_as_a_replay(store: SealedStore) -> None:
    def lose(batch: Batch, changes: Sequence[Change]) -> int:
        batch(changes)
        raise ServiceError(Code.STATE_UNAVAILABLE, "the answer was lost")

    release(store)
    refused(Code.STATE_UNAVAILABLE, Meddled(store, lose))
    assert usage(store).total == 0
    refused(Code.ACTION_REPLAYED, store)


def test_effect_and_replay_record_are_one_batch(store: SealedStore) -> None:
    batches: list[Sequence[Change]] = []

    def watch(batch: Batch, changes: Sequence[Change]) -> int:
        batches.append(changes)
        return batch(changes)

    act(Meddled(store, watch), ActionKind.ADOPT)
    [changes] = batches
    assert {change.kind for change in changes} == {ACTION_KIND, ADOPTION_KIND}


def test_a_release_counted_in_between_is_not_forgotten(store: SealedStore) -> None:
    counted = []

    def count_first(batch: Batch, changes: Sequence[Change]) -> int:
        if not counted:
            counted.append(True)
            demand = UsageDemand("disk", RECORD, RULE)
            UsageCounter(store).count((demand,), platform=HERE, tag=None, now=NOW)
        return batch(changes)

    release(store)
    act(Meddled(store, count_first), ActionKind.RELEASE_PLATFORM)
    assert (usage(store).total, usage(store).platform) == (2, None)


def test_an_action_that_always_comes_too_late_gives_up(store: SealedStore) -> None:
    tries = []

    def count_first(batch: Batch, changes: Sequence[Change]) -> int:
        tries.append(True)
        demand = UsageDemand("disk", RECORD, UsageRule(total=1000, without_anchor=True))
        UsageCounter(store).count((demand,), platform=HERE, tag=None, now=NOW)
        return batch(changes)

    release(store)
    refused(Code.OVERLOADED, Meddled(store, count_first))
    assert len(tries) == MAX_ATTEMPTS
    assert store.scan(ACTION_KIND, now=NOW) == ()


def test_an_adoption_made_in_between_is_not_overwritten(store: SealedStore) -> None:
    def adopt_first(batch: Batch, changes: Sequence[Change]) -> int:
        if not store.scan(ADOPTION_KIND, now=NOW):
            other = support.adopt(**ELSEWHERE)
            act(store, ActionKind.ADOPT, parameters=other, **SECOND)
        return batch(changes)

    journal = Journal()
    meddled = Meddled(store, adopt_first)
    refused(Code.STATE_EXISTS, meddled, ActionKind.ADOPT, log=journal)
    assert journal.codes == ["granted", "state_exists"]
    assert adopted_source(store, RECORD, now=NOW) == support.source(**ELSEWHERE)


def test_an_adoption_taken_away_in_between_is_noticed(store: SealedStore) -> None:
    act(store, ActionKind.ADOPT)

    def drop_first(batch: Batch, changes: Sequence[Change]) -> int:
        for held in store.scan(ADOPTION_KIND, now=NOW):
            store.batch([Delete(held.kind, held.name, held.version)], now=NOW)
        return batch(changes)

    act(Meddled(store, drop_first), ActionKind.ADOPT, **SECOND)
    assert adopted_source(store, RECORD, now=NOW) == support.source()


# -- the key ----------------------------------------------------------------------


def test_an_adopted_key_is_the_measured_one(store: SealedStore) -> None:
    act(store, ActionKind.ADOPT)
    source = adopted_source(store, RECORD, now=NOW)
    path = apply_source(granted(), source)
    assert path == measured()
    assert key_of(path) == key_of(measured())
    assert key_of(granted()) != key_of(measured())


KEPT: dict[str, dict[str, Any]] = {
    "trust domain": {"trust_domain": f"simulated:{'ab' * 48}"},
    "generation": {"generation": 1},
    "protocol class": {"protocol_class": ProtocolClass.LEGACY},
    "label": {"label": "b"},
    "length": {"length": 16},
}


@pytest.mark.parametrize("field", KEPT)
def test_an_adoption_carries_no_key_across(field: str) -> None:
    path = apply_source(granted(**KEPT[field]), support.source())
    assert path == measured(**KEPT[field])
    assert key_of(path) != key_of(measured())


SOURCES: dict[str, dict[str, Any]] = {
    "kdf": {"kdf": Kdf.HKDF_SHA384},
    "tenant": {"tenant": "other"},
    "purpose": {"purpose": "backup"},
    "attribute": {
        "attributes": (("td_attributes", bytes(8)), ("xfam", b"\xe6" + bytes(7)))
    },
    "measurement": {"measurements": (("mrtd", b"n" * 48), ("rtmr3", bytes(48)))},
    "authority": {"authority": Authority("policy_root", b"s" * 32)},
}


@pytest.mark.parametrize("field", SOURCES)
def test_another_source_is_another_key(field: str) -> None:
    path = apply_source(granted(), support.source(**SOURCES[field]))
    assert key_of(path) != key_of(measured())
