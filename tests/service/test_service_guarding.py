# SPDX-License-Identifier: Apache-2.0
"""A floor under the host's clock, from dates that others have signed."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.collateral.guard import MemoryGuard
from tightseal.collateral.guardfile import FileGuard
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
    remembering = MemoryGuard()
    remembering.admit(facts(NOW), now=NOW)
    guard = WatchedGuard(remembering)
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


def test_what_another_worker_admitted_counts_after_a_look(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    FileGuard.create(path, floors=())
    ours, theirs = (WatchedGuard(FileGuard.open(path, floors=())) for _ in range(2))
    clock = FlooredClock(lambda: NOW - 1, ours)
    theirs.admit(facts(NOW), now=NOW)
    assert clock() == NOW - 1
    ours.look()
    assert ours.newest == NOW
    with pytest.raises(ServiceError) as refused:
        clock()
    assert refused.value.code is Code.CLOCK_BEHIND


def test_a_look_at_an_unchanged_file_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "guard.json"
    FileGuard.create(path, floors=())
    guard = WatchedGuard(FileGuard.open(path, floors=()))

    def opened(*_: object, **__: object) -> None:
        pytest.fail("the file was read again")

    monkeypatch.setattr(Path, "open", opened)
    guard.look()


def test_a_lost_file_is_said_and_the_floor_stays(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    FileGuard.create(path, floors=())
    guard = WatchedGuard(FileGuard.open(path, floors=()))
    guard.admit(facts(NOW), now=NOW)
    path.unlink()
    with pytest.raises(CollateralError):
        guard.look()
    assert guard.newest == NOW


def test_threads_never_lower_the_floor() -> None:
    guard = WatchedGuard(MemoryGuard(floors=()))

    def admit(date: int) -> None:
        with suppress(CollateralError):
            guard.admit(facts(date), now=date)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(admit, range(NOW, NOW + 500)))
    assert guard.newest == NOW + 499


@given(st.lists(st.integers(0, 1 << 40), max_size=20))
def test_the_floor_only_rises(dates: list[int]) -> None:
    told: list[int] = []
    guard = WatchedGuard(MemoryGuard(), on_newer=told.append)
    for date in sorted(dates):
        guard.admit(facts(date), now=date)
    assert guard.newest == max(dates, default=0)
    assert all(a < b for a, b in pairwise(told))
