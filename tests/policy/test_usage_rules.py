# SPDX-License-Identifier: Apache-2.0
"""Usage rules on values: what one more release does to a record, and when it may."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_support import CHIP, HERE, NOW

from tightseal.errors import Code, PolicyError, ServiceError
from tightseal.model.canonical import encode
from tightseal.model.claims import PlatformIdentity
from tightseal.model.grant import Reason
from tightseal.model.usage import MAX_PER_HOUR, MAX_TOTAL, UsageRule
from tightseal.policy.usage import UsageRecord, count, reset, without_platform
from tightseal.policy.usagerecord import HOUR, MAX_RECORD_BYTES, MAX_TAGS, MAX_TIME

ANY = UsageRule()
FIRST = UsageRule(first_platform=True)
THERE = replace(HERE, ppid=b"q" * 16)


def tag_of(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


def counted(
    record: UsageRecord | None,
    rule: UsageRule = ANY,
    *,
    platform: PlatformIdentity = HERE,
    tag: bytes | None = None,
    now: int = NOW,
) -> UsageRecord:
    """One more, kept and read again as a store would."""
    after = count(record, rule, platform=platform, tag=tag, now=now)
    if after is record:
        return record
    assert UsageRecord.decode(after.encode()) == after
    return after


def times(
    many: int,
    rule: UsageRule = ANY,
    *,
    now: int = NOW,
    start: UsageRecord | None = None,
) -> UsageRecord:
    record = start
    for _ in range(many):
        record = counted(record, rule, now=now)
    assert record is not None
    return record


def refused(
    record: UsageRecord | None, rule: UsageRule, code: Code, **changes: Any
) -> str:
    with pytest.raises(PolicyError) as no:
        counted(record, rule, **changes)
    assert no.value.code is code
    last = no.value.reasons[-1]
    assert isinstance(last, Reason)
    assert not last.satisfied
    assert last.rule in no.value.detail
    return no.value.detail


# -- several at once --------------------------------------------------------------


@pytest.mark.parametrize("many", [1, 2, 16])
def test_several_at_once_count_as_one_after_another(many: int) -> None:
    rule = UsageRule(per_hour=20, total=30)
    before = times(2, rule)
    at_once = count(before, rule, platform=HERE, tag=None, now=NOW, times=many)
    assert at_once == times(many, rule, start=before)


@pytest.mark.parametrize("rule", [UsageRule(total=5), UsageRule(per_hour=5)])
def test_several_at_once_are_refused_where_the_last_one_would_be(
    rule: UsageRule,
) -> None:
    record = times(3, rule)
    fits = count(record, rule, platform=HERE, tag=None, now=NOW, times=2)
    assert fits.total == 5
    with pytest.raises(PolicyError, match="for 3 at once") as no:
        count(record, rule, platform=HERE, tag=None, now=NOW, times=3)
    assert no.value.code is Code.USAGE_LIMIT_REACHED


# -- total ------------------------------------------------------------------------


def test_total_counts_to_its_limit_and_no_further() -> None:
    rule = UsageRule(total=3)
    record = times(3, rule)
    assert record.total == 3
    detail = refused(record, rule, Code.USAGE_LIMIT_REACHED)
    assert "expected fewer than 3 releases so far, got 3" in detail
    refused(record, rule, Code.USAGE_LIMIT_REACHED, now=NOW + 10**9)


def test_total_may_be_the_highest_that_a_rule_can_name() -> None:
    rule = UsageRule(total=MAX_TOTAL)
    record = replace(times(1), total=MAX_TOTAL - 1)
    record = counted(record, rule)
    refused(record, rule, Code.USAGE_LIMIT_REACHED)


def test_total_lowered_below_what_was_counted_refuses_until_it_is_raised() -> None:
    record = times(5, UsageRule(total=10))
    detail = refused(record, UsageRule(total=2), Code.USAGE_LIMIT_REACHED)
    assert "fewer than 2" in detail
    assert "got 5" in detail
    assert counted(record, UsageRule(total=6)).total == 6


def test_a_refusal_names_the_purpose() -> None:
    with pytest.raises(PolicyError, match=r"usage\.total of disk"):
        count(
            times(1),
            UsageRule(total=1),
            platform=HERE,
            tag=None,
            now=NOW,
            purpose="disk",
        )


# -- per hour ---------------------------------------------------------------------


def test_per_hour_is_free_again_exactly_an_hour_after_the_oldest() -> None:
    rule = UsageRule(per_hour=2)
    record = counted(counted(None, rule), rule, now=NOW + 100)
    detail = refused(record, rule, Code.USAGE_LIMIT_REACHED, now=NOW + HOUR - 1)
    assert "expected fewer than 2 releases in 3600 s" in detail
    assert f"got 2; the next is possible at {NOW + HOUR}" in detail
    record = counted(record, rule, now=NOW + HOUR)
    detail = refused(record, rule, Code.USAGE_LIMIT_REACHED, now=NOW + HOUR)
    assert f"the next is possible at {NOW + 100 + HOUR}" in detail


def test_per_hour_holds_across_the_turn_of_an_hour() -> None:
    """A counter by the hour of the clock would give twice as much here."""
    rule = UsageRule(per_hour=3)
    turn = NOW - NOW % HOUR + HOUR
    record = times(3, rule, now=turn - 1)
    refused(record, rule, Code.USAGE_LIMIT_REACHED, now=turn + 1)


def test_a_clock_that_goes_back_frees_nothing() -> None:
    rule = UsageRule(per_hour=1)
    record = counted(None, rule)
    detail = refused(record, rule, Code.USAGE_LIMIT_REACHED, now=NOW - 10 * HOUR)
    assert f"the clock says {NOW - 10 * HOUR}, and was at {NOW} before" in detail
    assert f"the next is possible at {NOW + HOUR}" in detail


def test_a_release_under_a_clock_that_went_back_is_recorded_at_the_latest_time() -> (
    None
):
    rule = UsageRule(per_hour=2)
    record = counted(counted(None, rule), rule, now=0)
    assert record.latest == NOW
    assert record.recent == (NOW, NOW)
    refused(record, rule, Code.USAGE_LIMIT_REACHED, now=1)


def test_a_clock_that_ran_ahead_has_to_be_waited_for() -> None:
    rule = UsageRule(per_hour=2)
    record = times(2, rule)
    record = times(2, rule, now=NOW + 5 * HOUR, start=record)
    for hours in (1, 3, 5):
        refused(record, rule, Code.USAGE_LIMIT_REACHED, now=NOW + hours * HOUR)
    counted(record, rule, now=NOW + 6 * HOUR)


def test_per_hour_raised_gives_the_difference_at_once() -> None:
    record = times(2, UsageRule(per_hour=2))
    record = times(3, UsageRule(per_hour=5), start=record)
    refused(record, UsageRule(per_hour=5), Code.USAGE_LIMIT_REACHED)


def test_per_hour_lowered_waits_until_enough_are_an_hour_old() -> None:
    record = None
    for second in range(5):
        record = counted(record, UsageRule(per_hour=5), now=NOW + second)
    detail = refused(
        record, UsageRule(per_hour=2), Code.USAGE_LIMIT_REACHED, now=NOW + HOUR + 2
    )
    assert f"the next is possible at {NOW + 3 + HOUR}" in detail
    counted(record, UsageRule(per_hour=2), now=NOW + 3 + HOUR)


def test_per_hour_added_later_counts_what_went_before() -> None:
    record = times(3, UsageRule(total=10))
    refused(record, UsageRule(per_hour=3), Code.USAGE_LIMIT_REACHED)


def test_the_highest_per_hour_holds_and_the_record_stays_small() -> None:
    rule = UsageRule(per_hour=MAX_PER_HOUR)
    recent = tuple(NOW - HOUR + 1 + n * 3 for n in range(MAX_PER_HOUR))
    full = UsageRecord(
        total=(1 << 63) - 2,
        latest=NOW,
        recent=(*recent[1:], NOW),
        platform=CHIP,
        tags=tuple(tag_of(n) for n in range(MAX_TAGS)),
    )
    refused(full, rule, Code.USAGE_LIMIT_REACHED)
    after = counted(full, tag=tag_of(1000))
    assert after.recent == (*full.recent[1:], NOW)
    assert after.tags == (*full.tags[1:], tag_of(1000))
    assert len(after.encode()) < MAX_RECORD_BYTES


# -- first platform ---------------------------------------------------------------


@pytest.mark.parametrize(
    "platform", [HERE, CHIP, PlatformIdentity(chip_id=b"t" * 8)], ids=repr
)
def test_the_first_platform_is_the_only_one(platform: PlatformIdentity) -> None:
    record = counted(None, FIRST, platform=platform)
    assert record.platform is not None
    assert record.platform.same_machine(platform)
    counted(record, FIRST, platform=platform)
    detail = refused(record, FIRST, Code.USAGE_PLATFORM_BOUND, platform=THERE)
    assert f"got ppid {(b'q' * 16).hex()}" in detail


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(replace(HERE, piid=b"j" * 16), id="another_piid"),
        pytest.param(replace(HERE, piid=None), id="no_piid"),
        pytest.param(CHIP, id="another_vendor"),
    ],
)
def test_another_platform_is_refused(other: PlatformIdentity) -> None:
    record = counted(None, FIRST)
    refused(record, FIRST, Code.USAGE_PLATFORM_BOUND, platform=other)


def test_a_family_of_platforms_is_no_platform() -> None:
    record = counted(None, FIRST)
    counted(record, FIRST, platform=replace(HERE, fmspc=b"g" * 6))


@pytest.mark.parametrize(
    "unknown",
    [
        pytest.param(PlatformIdentity(), id="absent"),
        pytest.param(PlatformIdentity(fmspc=b"f" * 6), id="family_alone"),
        pytest.param(PlatformIdentity(piid=b"i" * 16), id="piid_alone"),
        pytest.param(PlatformIdentity(ppid=bytes(16)), id="zero_ppid"),
        pytest.param(PlatformIdentity(chip_id=bytes(64)), id="zero_chip_id"),
        pytest.param(PlatformIdentity(ppid=b"p" * 15), id="short_ppid"),
        pytest.param(PlatformIdentity(chip_id=b"c" * 32), id="short_chip_id"),
    ],
)
def test_an_unknown_platform_never_matches(unknown: PlatformIdentity) -> None:
    refused(None, FIRST, Code.PLATFORM_UNKNOWN, platform=unknown)
    bound = counted(None, FIRST)
    refused(bound, FIRST, Code.PLATFORM_UNKNOWN, platform=unknown)
    assert counted(None, ANY, platform=unknown).platform is None


def test_a_refused_platform_uses_nothing_up() -> None:
    rule = UsageRule(total=2, first_platform=True)
    record = counted(None, rule)
    refused(record, rule, Code.USAGE_PLATFORM_BOUND, platform=THERE)
    counted(record, rule)


def test_first_platform_outlives_a_policy_without_the_rule() -> None:
    record = counted(None, FIRST)
    record = counted(record, ANY, platform=THERE)
    counted(record, FIRST)
    refused(record, FIRST, Code.USAGE_PLATFORM_BOUND, platform=THERE)


def test_first_platform_added_later_binds_whoever_asks_next() -> None:
    record = counted(times(3), FIRST, platform=THERE)
    refused(record, FIRST, Code.USAGE_PLATFORM_BOUND)


def test_a_released_platform_makes_way_for_the_next() -> None:
    record = counted(None, FIRST, tag=tag_of(1))
    freed = without_platform(record, now=NOW)
    assert freed == replace(record, platform=None)
    moved = counted(freed, FIRST, platform=THERE)
    refused(moved, FIRST, Code.USAGE_PLATFORM_BOUND)


def test_a_retry_from_the_released_platform_does_not_bind_it_anew() -> None:
    record = counted(None, FIRST, tag=tag_of(1))
    freed = without_platform(record, now=NOW)
    assert counted(freed, FIRST, tag=tag_of(1)) is freed


def test_a_known_tag_opens_nothing_to_another_platform() -> None:
    record = counted(None, FIRST, tag=tag_of(1))
    refused(record, FIRST, Code.USAGE_PLATFORM_BOUND, platform=THERE, tag=tag_of(1))


# -- tags -------------------------------------------------------------------------


def test_a_retry_is_counted_once_even_where_the_limit_is_reached() -> None:
    rule = UsageRule(total=1, per_hour=1)
    record = counted(None, rule, tag=tag_of(1))
    assert counted(record, rule, tag=tag_of(1)) is record
    refused(record, rule, Code.USAGE_LIMIT_REACHED, tag=tag_of(2))


def test_requests_without_a_tag_are_counted_every_time() -> None:
    assert times(4).total == 4
    assert times(4).tags == ()


def test_a_tag_is_forgotten_after_as_many_others_and_counted_again() -> None:
    record = counted(None, tag=tag_of(0))
    for number in range(1, MAX_TAGS):
        record = counted(record, tag=tag_of(number))
    assert counted(record, tag=tag_of(0)) is record
    record = counted(record, tag=tag_of(MAX_TAGS))
    assert counted(record, tag=tag_of(0)).total == MAX_TAGS + 2


# -- reset ------------------------------------------------------------------------


def test_reset_begins_the_total_anew_and_keeps_the_rest() -> None:
    rule = UsageRule(total=2)
    record = counted(counted(None, rule, tag=tag_of(1)), rule, tag=tag_of(2))
    bound = replace(record, platform=CHIP)
    fresh = reset(bound, now=NOW + 5)
    assert fresh == replace(bound, total=0)
    record = times(2, rule, start=fresh, now=NOW + 5)
    refused(record, rule, Code.USAGE_LIMIT_REACHED)


def test_reset_does_not_fill_up_the_hour() -> None:
    rule = UsageRule(per_hour=2)
    fresh = reset(times(2, rule), now=NOW + 10)
    refused(fresh, rule, Code.USAGE_LIMIT_REACHED, now=NOW + 10)
    counted(fresh, rule, now=NOW + HOUR)


def test_reset_forgives_a_clock_that_ran_ahead_but_not_its_last_hour() -> None:
    rule = UsageRule(per_hour=2)
    record = times(2, rule, now=NOW + 10**9)
    fresh = reset(record, now=NOW)
    assert fresh.latest == NOW
    refused(fresh, rule, Code.USAGE_LIMIT_REACHED)
    counted(fresh, rule, now=NOW + HOUR)


# -- what is handed in ------------------------------------------------------------


@pytest.mark.parametrize("now", [-1, MAX_TIME + 1])
def test_what_is_no_time_is_refused(now: int) -> None:
    with pytest.raises(ServiceError) as fault:
        counted(None, now=now)
    assert fault.value.code is Code.INTERNAL
    with pytest.raises(ServiceError) as fault:
        reset(times(1), now=now)
    assert fault.value.code is Code.INTERNAL


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_tag_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ServiceError) as fault:
        counted(None, tag=bytes(size))
    assert fault.value.code is Code.INTERNAL


# -- the encoding -----------------------------------------------------------------

SOUND: dict[str, Any] = {
    "version": 1,
    "total": 2,
    "latest": NOW,
    "ages": (HOUR - 1).to_bytes(2, "big") + bytes(2),
    "platform": ["intel", b"p" * 16, None],
    "tags": [tag_of(1), tag_of(2)],
}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in SOUND.items() if key != name}


DEFECTS: dict[str, Any] = {
    "no_map": [1, 2],
    "no_version": without("version"),
    "version_of_another_type": SOUND | {"version": True},
    "newer_version": SOUND | {"version": 2},
    "missing_member": without("total"),
    "unknown_member": SOUND | {"more": 0},
    "negative_total": SOUND | {"total": -1},
    "total_too_large": SOUND | {"total": 1 << 63},
    "total_of_another_type": SOUND | {"total": "2"},
    "total_that_is_a_truth": SOUND | {"total": True},
    "latest_too_large": SOUND | {"latest": MAX_TIME + 1},
    "release_before_all_time": SOUND | {"latest": 5, "ages": b"\0\6"},
    "age_of_an_hour": SOUND | {"ages": HOUR.to_bytes(2, "big")},
    "ages_out_of_order": SOUND | {"ages": b"\0\0\0\1"},
    "half_an_age": SOUND | {"ages": b"\0\1\0"},
    "too_many_ages": SOUND | {"ages": bytes(2 * MAX_PER_HOUR + 2)},
    "ages_of_another_type": SOUND | {"ages": [1, 0]},
    "platform_of_another_type": SOUND | {"platform": b"p" * 16},
    "empty_platform": SOUND | {"platform": []},
    "unknown_vendor": SOUND | {"platform": ["arm", b"p" * 16]},
    "short_ppid": SOUND | {"platform": ["intel", b"p" * 15, None]},
    "zero_ppid": SOUND | {"platform": ["intel", bytes(16), None]},
    "short_piid": SOUND | {"platform": ["intel", b"p" * 16, b"i"]},
    "zero_chip_id": SOUND | {"platform": ["amd", bytes(64)]},
    "chip_id_of_another_length": SOUND | {"platform": ["amd", b"c" * 16]},
    "short_tag": SOUND | {"tags": [b"t" * 31]},
    "tag_of_another_type": SOUND | {"tags": ["t" * 32]},
    "same_tag_twice": SOUND | {"tags": [tag_of(1), tag_of(1)]},
    "too_many_tags": SOUND | {"tags": [tag_of(n) for n in range(MAX_TAGS + 1)]},
}


def test_the_sound_record_of_the_defects_is_read() -> None:
    record = UsageRecord.decode(encode(SOUND))
    assert record.recent == (NOW - HOUR + 1, NOW)
    assert record.encode() == encode(SOUND)


@pytest.mark.parametrize("value", DEFECTS.values(), ids=DEFECTS)
def test_a_record_with_a_defect_is_tampered(value: Any) -> None:
    with pytest.raises(ServiceError) as fault:
        UsageRecord.decode(encode(value))
    assert fault.value.code is Code.STATE_TAMPERED


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: data[:-1], id="truncated"),
        pytest.param(lambda data: data + b"\0", id="trailing_byte"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: bytes(MAX_RECORD_BYTES + 1), id="too_long"),
    ],
)
def test_bytes_that_are_no_record_are_tampered(
    spoil: Callable[[bytes], bytes],
) -> None:
    with pytest.raises(ServiceError) as fault:
        UsageRecord.decode(spoil(encode(SOUND)))
    assert fault.value.code is Code.STATE_TAMPERED


@given(st.binary(max_size=200))
def test_random_bytes_are_read_in_one_form_or_refused(data: bytes) -> None:
    try:
        record = UsageRecord.decode(data)
    except ServiceError as e:
        assert e.code is Code.STATE_TAMPERED  # noqa: PT017
    else:
        assert record.encode() == data


def test_the_encoding_is_pinned() -> None:
    """Records outlive versions of the provider: this one must be read for ever."""
    record = UsageRecord(
        total=2,
        latest=1_000_000,
        recent=(999_000, 1_000_000),
        platform=PlatformIdentity(chip_id=b"c" * 8),
        tags=(b"t" * 32,),
    )
    parts = {
        "64" + b"ages".hex(): "44" + "03e8" + "0000",
        "64" + b"tags".hex(): "81" + "5820" + "74" * 32,
        "65" + b"total".hex(): "02",
        "66" + b"latest".hex(): "1a000f4240",
        "67" + b"version".hex(): "01",
        "68" + b"platform".hex(): "82" + "63" + b"amd".hex() + "48" + "63" * 8,
    }
    pinned = "a6" + "".join(name + value for name, value in parts.items())
    assert record.encode().hex() == pinned
    assert UsageRecord.decode(bytes.fromhex(pinned)) == record


def test_tags_stay_out_of_the_repr() -> None:
    assert "tags" not in repr(counted(None, tag=tag_of(1)))
