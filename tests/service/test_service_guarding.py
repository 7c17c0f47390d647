# SPDX-License-Identifier: Apache-2.0
"""A floor under the host's clock, from dates that others have signed."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.collateral.guard import MemoryGuard
from tightseal.errors import Code, CollateralError, ServiceError
from tightseal.model.collateral import CollateralFacts
from tightseal.service.guarding import FlooredClock, WatchedGuard

NOW = 1_790_000_000


def facts(issued_at: int, number: int = 17) -> tuple[CollateralFacts, ...]:
    return (CollateralFacts("simulated:00", "sgx:00", "tcb_info", issued_at, number),)


def test_clock_before_the_newest_signed_date_is_refused() -> None:
    guard = WatchedGuard(MemoryGuard())
    time = [NOW]
    clock = FlooredClock(lambda: time[0], guard)
    guard.admit(facts(NOW - 100), now=NOW)
    assert clock() == NOW
    time[0] = NOW - 100
    assert clock() == NOW - 100
    time[0] = NOW - 101
    with pytest.raises(ServiceError) as refused:
        clock()
    assert refused.value.code is Code.CLOCK_BEHIND


def test_what_was_remembered_before_a_restart_counts() -> None:
    guard = WatchedGuard(MemoryGuard(), newest=[5, NOW, 7])
    with pytest.raises(ServiceError):
        FlooredClock(lambda: NOW - 1, guard)()


def test_refused_collateral_moves_nothing() -> None:
    guard = WatchedGuard(MemoryGuard())
    guard.admit(facts(NOW), now=NOW)
    with pytest.raises(CollateralError):
        guard.admit(facts(NOW + 50, number=16), now=NOW)
    with pytest.raises(CollateralError):
        guard.check(facts(NOW - 1))
    assert guard.newest == NOW


@given(st.lists(st.integers(0, 1 << 40), max_size=20))
def test_the_floor_only_rises(dates: list[int]) -> None:
    told: list[int] = []
    guard = WatchedGuard(MemoryGuard(), on_newer=told.append)
    for date in sorted(dates):
        guard.admit(facts(date), now=date)
    assert guard.newest == max(dates, default=0)
    assert all(a < b for a, b in pairwise(told))
