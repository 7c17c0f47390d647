# SPDX-License-Identifier: Apache-2.0
"""Wrapped keys in races, crashes and rotations: none is lost, none changes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from wrapped_support import (
    NOW,
    OTHER_TAG,
    TAG,
    Meddled,
    Roots,
    get,
    held,
    make,
    name_of,
    new_store,
    overwrite,
    path_of,
    refusal,
)

from tightseal.errors import Code, ServiceError
from tightseal.model.grant import WrappedUse
from tightseal.model.keypath import KeyPath, KeyType
from tightseal.model.state import Change, Replace
from tightseal.release.rewrap import Rewrapped, Rewrapper
from tightseal.release.wrapped import Wanted, WrappedKeys, kind_of
from tightseal.release.wrapped_floor import raise_floor, read_floor
from tightseal.release.wrapped_record import WrappedRecord

# -- races ------------------------------------------------------------------------


def test_a_create_that_comes_second_is_refused() -> None:
    store = new_store()
    first = WrappedKeys(store, Roots())
    made: list[bytes] = []

    def meddle() -> None:
        if not made:
            made.append(make(first, path_of(), OTHER_TAG))

    second = WrappedKeys(Meddled(store, before=meddle), Roots())
    error = refusal(lambda: make(second, path_of()))
    assert error.code is Code.KEY_EXISTS
    assert get(first, path_of()) == made[0]


def test_whoever_wraps_anew_second_reads_again() -> None:
    store, roots = new_store(), Roots()
    plain = WrappedKeys(store, roots)
    key = make(plain, path_of())
    roots.rotate()
    path = path_of(generation=2)
    done: list[bytes] = []

    def meddle() -> None:
        if not done:
            done.append(get(plain, path))

    raced = WrappedKeys(Meddled(store, before=meddle), roots)
    opened = raced.open(path, name_of(path), now=NOW)
    assert (opened.key.reveal(), opened.path.generation) == (key, 2)
    assert done == [key]


def test_a_create_under_a_generation_that_closes_meanwhile_is_refused() -> None:
    store, roots = new_store(), Roots()
    newer = Roots(2, {1, 2})

    def meddle() -> None:
        Rewrapper(store, newer).close(1, now=NOW)

    keys = WrappedKeys(Meddled(store, before=meddle), roots)
    error = refusal(lambda: make(keys, path_of()))
    assert error.code is Code.PROVIDER_NOT_READY
    assert Rewrapper(store, newer).still_under(1, now=NOW) == 0
    make(WrappedKeys(store, newer), path_of(generation=2))


def test_who_always_comes_second_gives_up() -> None:
    store, roots = new_store(), Roots()
    make(WrappedKeys(store, roots), path_of())
    roots.rotate()

    def touch() -> None:
        overwrite(store, path_of(), held(store, path_of()).value)

    busy = WrappedKeys(Meddled(store, before=touch), roots)
    error = refusal(lambda: get(busy, path_of(generation=2)))
    assert error.code is Code.OVERLOADED


def test_going_through_all_keys_passes_over_one_that_others_change() -> None:
    store, roots = new_store(), Roots()
    plain = WrappedKeys(store, roots)
    # Several in one kind, so that they share a batch.
    paths: dict[str, list[KeyPath]] = {}
    for n in range(40):
        path = path_of(label=f"{n}", generation=1)
        paths.setdefault(kind_of(name_of(path)), []).append(path)
    shared = next(group for group in paths.values() if len(group) > 1)
    made = {path.label: make(plain, path) for path in shared}
    roots.rotate()
    done: list[bytes] = []

    def meddle() -> None:
        if not done:
            done.append(get(plain, replace(shared[0], generation=2)))

    rewrapper = Rewrapper(Meddled(store, before=meddle), roots)
    counts = rewrapper.rewrap_all(now=NOW)
    assert counts == Rewrapped(moved=len(shared) - 1, overtaken=1)
    assert rewrapper.by_generation(now=NOW) == {2: len(shared)}
    roots.open.discard(1)
    for path in shared:
        assert get(plain, replace(path, generation=2)) == made[path.label]


def test_keys_of_a_lost_generation_stop_no_others() -> None:
    store, roots = new_store(), Roots()
    make(WrappedKeys(store, roots), path_of())
    roots.rotate()
    make(WrappedKeys(store, roots), path_of("other", generation=2))
    roots.rotate()
    roots.open.discard(1)
    counts = Rewrapper(store, roots).rewrap_all(now=NOW)
    assert counts == Rewrapped(moved=1, lost=1)


def test_no_key_is_moved_to_a_generation_that_closes_meanwhile() -> None:
    store, roots = new_store(), Roots()
    key = make(WrappedKeys(store, roots), path_of())
    roots.rotate()
    newer = Roots(3, {1, 2, 3})

    def meddle() -> None:
        Rewrapper(store, newer).close(2, now=NOW)

    behind = Rewrapper(Meddled(store, before=meddle), roots)
    assert behind.rewrap_all(now=NOW) == Rewrapped(overtaken=1)
    error = refusal(lambda: behind.rewrap_all(now=NOW))
    assert error.code is Code.PROVIDER_NOT_READY
    assert Rewrapper(store, newer).give_up(2, now=NOW) == Rewrapped(moved=1)
    assert get(WrappedKeys(store, newer), path_of(generation=3)) == key


def test_a_generation_that_keys_are_left_under_is_not_given_up() -> None:
    store, roots = new_store(), Roots()
    make(WrappedKeys(store, roots), path_of())
    roots.rotate()
    roots.open.discard(1)  # This keyring cannot open it; another one may.
    error = refusal(lambda: Rewrapper(store, roots).give_up(1, now=NOW))
    assert error.code is Code.GENERATION_NOT_ALLOWED
    assert "1 are still under generation 1" in error.detail


def test_a_closed_generation_stays_closed() -> None:
    store = new_store()
    raise_floor(store, 5, now=NOW)
    raise_floor(store, 3, now=NOW)
    assert read_floor(store, now=NOW).lowest == 5


# -- crashes ----------------------------------------------------------------------


class CrashError(Exception):
    """The process is gone."""


def crash() -> None:
    raise CrashError


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_while_wrapping_anew_loses_nothing(when: str) -> None:
    store, roots = new_store(), Roots()
    keys = WrappedKeys(store, roots)
    key = make(keys, path_of())
    roots.rotate()
    crashing = Meddled(store, **{when: crash})
    with pytest.raises(CrashError):
        get(WrappedKeys(crashing, roots), path_of(generation=2))
    with pytest.raises(CrashError):
        WrappedKeys(crashing, roots).create(
            (Wanted(path_of("x"), WrappedUse(name_of(path_of("x")), create=True)),),
            tag=TAG,
            now=NOW,
        )
    assert get(keys, path_of(generation=2)) == key
    if when == "after":
        assert get(keys, path_of("x", generation=2))
    else:
        make(keys, path_of("x", generation=2))


def test_an_unknown_outcome_is_no_answer_and_the_same_bytes_go_on() -> None:
    store, roots = new_store(), Roots()

    def unknown() -> None:
        raise ServiceError(Code.STATE_UNAVAILABLE, "the answer was lost")

    lost = WrappedKeys(Meddled(store, after=unknown), roots)
    error = refusal(lambda: make(lost, path_of()))
    assert error.code is Code.STATE_UNAVAILABLE
    keys = WrappedKeys(store, roots)
    assert refusal(lambda: make(keys, path_of(), OTHER_TAG)).code is Code.KEY_EXISTS
    assert make(keys, path_of()) == get(keys, path_of())


# -- any history ------------------------------------------------------------------

PATHS = (path_of(), path_of(label="a"), path_of("id", key_type=KeyType.P256))
WHICH = st.sampled_from(range(len(PATHS)))
WHO = st.sampled_from((0, 1))


class Histories(RuleBasedStateMachine):
    """Two providers over one store; each knows of a rotation once it looked."""

    def __init__(self) -> None:
        super().__init__()
        self.store = new_store()
        self.newest = Roots()
        self.known = (Roots(), Roots())
        self.created: dict[int, bytes] = {}
        self.requests = 0

    def asked(self, which: int, who: int) -> tuple[WrappedKeys, KeyPath]:
        roots = self.known[who]
        path = replace(PATHS[which], generation=roots.current)
        return WrappedKeys(self.store, roots), path

    @rule()
    def rotate(self) -> None:
        self.newest.rotate()

    @rule(who=WHO)
    def look(self, who: int) -> None:
        self.known[who].current = self.newest.current
        self.known[who].open = set(self.newest.open)

    @rule(which=WHICH, who=WHO)
    def create(self, which: int, who: int) -> None:
        keys, path = self.asked(which, who)
        self.requests += 1
        tag = self.requests.to_bytes(32, "big")
        if which in self.created:
            error = refusal(lambda: make(keys, path, tag))
            assert error.code is Code.KEY_EXISTS
        elif path.generation < read_floor(self.store, now=NOW).lowest:
            error = refusal(lambda: make(keys, path, tag))
            assert error.code is Code.PROVIDER_NOT_READY
        else:
            self.created[which] = make(keys, path, tag)

    @rule(which=WHICH, who=WHO)
    def open(self, which: int, who: int) -> None:
        keys, path = self.asked(which, who)
        if which not in self.created:
            assert refusal(lambda: get(keys, path)).code is Code.KEY_MISSING
            return
        record = WrappedRecord.decode(held(self.store, path).value)
        if record.path.generation in self.known[who].open:
            assert get(keys, path) == self.created[which]
        else:
            error = refusal(lambda: get(keys, path))
            assert error.code is Code.GENERATION_UNKNOWN

    @rule()
    def give_up_what_is_old(self) -> None:
        rewrapper = Rewrapper(self.store, self.newest)
        old = self.newest.current - 1
        rewrapper.give_up(old, now=NOW)
        kept = rewrapper.by_generation(now=NOW)
        assert sum(kept.values()) == len(self.created)
        self.newest.open = {g for g in self.newest.open if kept.get(g)}
        self.newest.open.add(self.newest.current)

    @invariant()
    def no_key_is_lost_and_none_changes(self) -> None:
        keys = WrappedKeys(self.store, self.newest)
        for which, key in self.created.items():
            path = replace(PATHS[which], generation=self.newest.current)
            opened = keys.open(path, name_of(path), now=NOW, rewrap=False)
            assert opened.key.reveal() == key


Histories.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None
)
test_histories = Histories.TestCase


# -- what a release costs ---------------------------------------------------------


def test_a_replaced_value_is_what_a_release_writes_at_most() -> None:
    """One write for a key of an older generation, none otherwise; never a scan."""
    store, roots = new_store(), Roots()
    written: list[Sequence[Change]] = []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            assert name != "scan"
            return getattr(store, name)

        def batch(self, changes: Sequence[Change], *, now: int) -> int:
            written.append(changes)
            return store.batch(changes, now=now)

    keys = WrappedKeys(Watched(), roots)
    make(keys, path_of())
    written.clear()
    get(keys, path_of())
    assert written == []
    roots.rotate()
    get(keys, path_of(generation=2))
    assert [isinstance(c, Replace) for c in written[0]] == [True, False]
    assert len(written) == 1
