# SPDX-License-Identifier: Apache-2.0
"""How many threads may wait for a service that does not answer."""

import threading

import pytest
from collateral_shelf import Shelf, ask
from collateral_support import Recorded

from tightseal.collateral.cache import RecordCache
from tightseal.collateral.source import CachedSource, SourceLimits
from tightseal.errors import Code, CollateralError, ServiceError


def test_who_finds_no_place_is_told_to_come_back_and_what_is_at_hand_is_given(
    october: Recorded,
) -> None:
    limits = SourceLimits(waiting=1, place_seconds=0.01)
    shelf = Shelf(october)
    warm = CachedSource(cache=RecordCache(None), pccs=shelf, limits=limits)
    kept = ask(warm, october)
    cold = CachedSource(cache=RecordCache(None), pccs=shelf, limits=limits)
    shelf.gate = threading.Event()
    before = len(shelf.asked)
    found: list[object] = []
    first = threading.Thread(target=lambda: found.append(ask(cold, october)))
    first.start()
    while len(shelf.asked) == before:
        threading.Event().wait(0.001)
    with pytest.raises(ServiceError) as refused:
        ask(cold, october)
    assert refused.value.code is Code.OVERLOADED
    assert refused.value.retry_after
    assert ask(warm, october) is kept
    shelf.gate.set()
    first.join(20)
    assert found == [kept]
    assert ask(cold, october) == kept


def test_a_place_is_given_back_after_a_failure(october: Recorded) -> None:
    shelf = Shelf(october)
    source = CachedSource(
        cache=RecordCache(None),
        pccs=shelf,
        limits=SourceLimits(waiting=1, place_seconds=0.01, failed_seconds=0),
    )
    shelf.down = True
    for _ in range(3):
        with pytest.raises(CollateralError):
            ask(source, october)
    shelf.down = False
    assert ask(source, october) == october.collateral_
