# SPDX-License-Identifier: Apache-2.0
"""Refresh in the background: when it comes, what failures cost, what it replaces."""

import threading
import time
from collections.abc import Callable

from collateral_shelf import Shelf, ask
from collateral_support import Recorded, Ticker

from tightseal.collateral.cache import RecordCache
from tightseal.collateral.parts import PartKind
from tightseal.collateral.refresh import Refresher, RefreshSettings, due_at
from tightseal.collateral.source import CachedSource

DAY = 86_400


def warm(world: Recorded) -> tuple[Shelf, CachedSource]:
    shelf = Shelf(world)
    source = CachedSource(cache=RecordCache(None), pccs=shelf, monotonic=Ticker())
    ask(source, world)
    shelf.asked.clear()
    return shelf, source


def test_refresh_comes_daily_and_before_expiry(october: Recorded) -> None:
    shelf, source = warm(october)
    clock = [october.now]
    refresher = Refresher(source, clock=lambda: clock[0])
    assert refresher.step() == ()
    clock[0] += DAY - 1
    assert refresher.step() == ()
    clock[0] += 1
    assert len(refresher.step()) == 4
    assert refresher.step() == ()
    assert len(shelf.asked) == 4
    settings = RefreshSettings(max_age=10**9)
    rare = Refresher(source, clock=lambda: clock[0], settings=settings)
    assert rare.step() == ()
    clock[0] = min(due_at(r, settings) for r in source.cache.records())
    assert clock[0] == october.latest - 5 * DAY
    assert [done.name.kind for done in rare.step()] == [PartKind.QE_IDENTITY]


def test_refresh_failures_wait_longer_each_time_and_nothing_is_lost(
    october: Recorded,
) -> None:
    shelf, source = warm(october)
    first = ask(source, october)
    clock = [october.now + DAY]
    refresher = Refresher(source, clock=lambda: clock[0])
    shelf.down = True
    tried: list[int] = []
    for minute in range(180):
        clock[0] = october.now + DAY + 60 * minute
        done = refresher.step()
        if done:
            assert len(done) == 4
            assert all(one.error is not None for one in done)
            tried.append(minute)
    assert tried == [0, 1, 3, 7, 15, 31, 63, 123]
    assert ask(source, october) is first
    shelf.down = False
    clock[0] += 3600
    assert [one.error for one in refresher.step()] == [None] * 4
    assert ask(source, october) is first


def test_a_clock_set_back_does_not_stop_the_refresh(october: Recorded) -> None:
    _, source = warm(october)
    for record in source.cache.records():
        source.cache.put(record.part, now=october.now + 10**9)
    refresher = Refresher(source, clock=lambda: october.now)
    assert len(refresher.step()) == 4
    assert refresher.step() == ()


def test_newer_collateral_replaces_older_in_the_background(
    recorded: Callable[[str], Recorded], october: Recorded
) -> None:
    august = recorded("near-mpc-tdx-v4")
    assert august.fmspc == october.fmspc
    shelf, source = warm(august)
    first = ask(source, august)
    shelf.stock(october)
    clock = [october.now]
    refresher = Refresher(source, clock=lambda: clock[0])
    refresher.step()
    second = source.intel(
        fmspc=october.fmspc, ca=october.ca, tee=october.tee, now=october.now
    )
    assert second != first
    assert second == october.collateral_


def test_the_thread_starts_works_and_stops(october: Recorded) -> None:
    shelf, source = warm(october)
    refresher = Refresher(
        source,
        clock=lambda: october.now + DAY,
        settings=RefreshSettings(interval=0.01),
    )
    refresher.start()
    for _ in range(500):
        if len(shelf.asked) >= 4:
            break
        time.sleep(0.01)
    refresher.stop()
    assert len(shelf.asked) == 4
    assert not [t for t in threading.enumerate() if t.name == "collateral-refresh"]
