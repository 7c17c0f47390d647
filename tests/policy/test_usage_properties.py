# SPDX-License-Identifier: Apache-2.0
"""Laws of counting under any clock, any rule of the day and any order of requests."""

import bisect
import hashlib
import itertools
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from policy_support import HERE, NOW

from tightseal.errors import Code, PolicyError
from tightseal.model.usage import UsageRule
from tightseal.policy.usage import UsageRecord, count, reset
from tightseal.policy.usagerecord import HOUR, MAX_TAGS

# Seconds between one request and the next by the host's clock, back and forth: small
# steps, steps about as long as the window, and leaps.
STEP = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([0, 1, HOUR - 1, HOUR, HOUR + 1, -HOUR, 1 - HOUR]),
    st.integers(-20 * HOUR, 20 * HOUR),
)
CLOCK = st.lists(STEP, max_size=60).map(
    lambda steps: list(itertools.accumulate(steps, initial=NOW))
)
HONEST = st.lists(STEP.map(abs), max_size=60).map(
    lambda steps: list(itertools.accumulate(steps, initial=NOW))
)
PER_HOUR = st.integers(1, 6)


def tag_of(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


@dataclass
class Ledger:
    """A record, and beside it what the test saw being released."""

    record: UsageRecord | None = None
    releases: list[int] = field(default_factory=list)
    tags: list[bytes] = field(default_factory=list)

    def ask(self, rule: UsageRule, *, now: int, tag: bytes | None = None) -> bool:
        """Whether the release was allowed; the record goes through its encoding."""
        try:
            after = count(self.record, rule, platform=HERE, tag=tag, now=now)
        except PolicyError as no:
            if no.code is not Code.USAGE_LIMIT_REACHED:
                raise
            return False
        if after is not self.record:
            self.record = UsageRecord.decode(after.encode())
            assert self.record == after
            self.releases.append(after.latest)
            if tag is not None:
                self.tags.append(tag)
        return True

    def most_in_an_hour(self) -> int:
        """Most releases in any 3600 seconds of record time."""
        ordered = sorted(self.releases)
        return max(
            (
                bisect.bisect_left(ordered, start + HOUR) - at
                for at, start in enumerate(ordered)
            ),
            default=0,
        )


@given(CLOCK, PER_HOUR)
def test_no_clock_gets_more_than_per_hour_into_any_hour(
    clock: list[int], per_hour: int
) -> None:
    ledger = Ledger()
    rule = UsageRule(per_hour=per_hour)
    for now in clock:
        ledger.ask(rule, now=now)
    assert ledger.most_in_an_hour() <= per_hour
    assert ledger.releases == sorted(ledger.releases)


@given(CLOCK, PER_HOUR)
def test_a_clock_that_jumps_gains_nothing_over_the_hours_that_it_showed(
    clock: list[int], per_hour: int
) -> None:
    """Hours borrowed ahead are the hours in which nothing is left later."""
    ledger = Ledger()
    rule = UsageRule(per_hour=per_hour)
    for now in clock:
        ledger.ask(rule, now=now)
    hours = (max(clock) - clock[0]) // HOUR + 1
    assert len(ledger.releases) <= per_hour * hours


@given(CLOCK, CLOCK, PER_HOUR)
def test_going_back_is_never_better_than_standing_still(
    clock: list[int], later: list[int], per_hour: int
) -> None:
    """After any past: whatever the clock does below the newest time, it frees as little
    as a clock that stays there."""
    rule = UsageRule(per_hour=per_hour)
    past = Ledger()
    for now in clock:
        past.ask(rule, now=now)
    assert past.record is not None
    newest = past.record.latest
    jumping, still = Ledger(past.record), Ledger(past.record)
    for now in later:
        assert jumping.ask(rule, now=min(now, newest)) == still.ask(rule, now=newest)
    assert jumping.record == still.record


@given(HONEST, PER_HOUR)
def test_an_honest_clock_is_refused_only_where_the_hour_is_full(
    clock: list[int], per_hour: int
) -> None:
    ledger = Ledger()
    for now in clock:
        full = sum(at > now - HOUR for at in ledger.releases) >= per_hour
        assert ledger.ask(UsageRule(per_hour=per_hour), now=now) is not full


@given(CLOCK, PER_HOUR)
def test_the_promised_time_is_the_first_at_which_it_works(
    clock: list[int], per_hour: int
) -> None:
    ledger = Ledger()
    rule = UsageRule(per_hour=per_hour)
    for now in clock:
        ledger.ask(rule, now=now)
    assert ledger.record is not None
    if len(ledger.record.recent) < per_hour:
        return
    promised = ledger.record.recent[-per_hour] + HOUR
    assert not Ledger(ledger.record).ask(rule, now=promised - 1)
    assert Ledger(ledger.record).ask(rule, now=promised)


RULES = st.builds(
    UsageRule,
    per_hour=st.one_of(st.none(), PER_HOUR),
    total=st.one_of(st.none(), st.integers(1, 20)),
)


@given(st.lists(st.tuples(STEP, RULES), max_size=60))
def test_every_release_obeys_the_rule_of_its_day(
    steps: list[tuple[int, UsageRule]],
) -> None:
    ledger = Ledger()
    now = NOW
    for step, rule in steps:
        now = max(0, now + step)
        before = len(ledger.releases)
        allowed = ledger.ask(rule, now=now)
        assert allowed == (len(ledger.releases) == before + 1)
        if not allowed:
            continue
        time = ledger.releases[-1]
        assert time == max([now, *ledger.releases[:-1]])
        if rule.total is not None:
            assert len(ledger.releases) <= rule.total
        if rule.per_hour is not None:
            in_window = sum(at > time - HOUR for at in ledger.releases)
            assert in_window <= rule.per_hour


@given(
    st.lists(st.tuples(STEP, st.integers(0, 12)), max_size=80),
    st.integers(1, 15),
    PER_HOUR,
)
def test_requests_that_come_again_are_counted_once(
    steps: list[tuple[int, int]], total: int, per_hour: int
) -> None:
    """Fewer different requests than a record keeps tags: none is counted twice."""
    ledger = Ledger()
    rule = UsageRule(total=total, per_hour=per_hour)
    now = NOW
    for step, number in steps:
        now = max(0, now + step)
        known = tag_of(number) in ledger.tags
        allowed = ledger.ask(rule, now=now, tag=tag_of(number))
        assert allowed or not known
    assert len(set(ledger.tags)) == len(ledger.tags) == len(ledger.releases)
    assert len(ledger.releases) <= total
    assert ledger.most_in_an_hour() <= per_hour


@settings(max_examples=30)
@given(st.lists(st.integers(0, MAX_TAGS + 10), max_size=250))
def test_the_newest_tags_are_known_and_older_ones_are_counted_again(
    numbers: list[int],
) -> None:
    ledger = Ledger()
    for number in numbers:
        known = tag_of(number) in ledger.tags[-MAX_TAGS:]
        before = len(ledger.releases)
        assert ledger.ask(UsageRule(), now=NOW, tag=tag_of(number))
        assert (len(ledger.releases) == before) is known


@given(st.lists(st.tuples(STEP.map(abs), st.booleans()), max_size=60), PER_HOUR)
def test_resets_do_not_fill_up_an_hour(
    steps: list[tuple[int, bool]], per_hour: int
) -> None:
    """By a clock that never went back; the total begins anew each time."""
    ledger = Ledger()
    rule = UsageRule(per_hour=per_hour, total=5)
    now = NOW
    since = 0
    for step, again in steps:
        now += step
        if again and ledger.record is not None:
            ledger.record = reset(ledger.record, now=now)
            since = len(ledger.releases)
        ledger.ask(rule, now=now)
        assert len(ledger.releases) - since <= 5
    assert ledger.most_in_an_hour() <= per_hour


@given(CLOCK, st.integers(0, NOW), PER_HOUR)
def test_a_reset_after_a_clock_that_ran_ahead_leaves_the_hour_as_full(
    clock: list[int], now: int, per_hour: int
) -> None:
    rule = UsageRule(per_hour=per_hour)
    ledger = Ledger()
    for shown in clock:
        ledger.ask(rule, now=shown)
    assert ledger.record is not None
    full = len(ledger.record.recent) >= per_hour
    fresh = reset(ledger.record, now=now)
    assert UsageRecord.decode(fresh.encode()) == fresh
    assert fresh.latest == now
    assert Ledger(fresh).ask(rule, now=now) is not full
    assert Ledger(fresh).ask(rule, now=now + HOUR)
