# SPDX-License-Identifier: Apache-2.0
"""Releases by the minute: per platform, workload and tenant, and denials."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from policy_rig import refusal
from release_rig import NOW, rig
from rooted_rig import Rooted, document_of, rooted

from tightseal.errors import Code
from tightseal.model.keypath import KeyRequest
from tightseal.model.settings import LimitSettings
from tightseal.release.leaserecord import EPOCH_SECONDS
from tightseal.release.leases import KIND, Leases
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"limits".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


@pytest.fixture(scope="module")
def twin(world: World) -> SimTd:
    """The same image on another machine."""
    return world.intel.platform("two").launch_td(TdImage())


@pytest.fixture
def found(world: World, tmp_path: Path) -> Iterator[Rooted]:
    with rooted(world, tmp_path) as made:
        made.leases = Leases(made.store)
        yield made


def limited(found: Rooted, world: World, td: SimTd, release: str) -> None:
    found.publish(document_of(world, td, platform="any"), release=release)


def entries(found: Rooted) -> int:
    return len(found.journal.entries())


def test_a_platform_gets_so_many_a_minute_and_another_one_its_own(
    found: Rooted, world: World, td: SimTd, twin: SimTd
) -> None:
    limited(found, world, td, "[limits]\nplatform_per_minute = 2\n")
    found.key(td)
    found.key(td)
    error = refusal(lambda: found.key(td))
    assert error.code is Code.RATE_LIMITED
    assert error.retry_after is not None
    assert 1 <= error.retry_after <= EPOCH_SECONDS
    found.key(twin)
    found.now += EPOCH_SECONDS
    found.key(td)


@pytest.mark.parametrize("limit", ["workload_per_minute", "tenant_per_minute"])
def test_a_workload_or_tenant_is_limited_over_all_platforms(
    found: Rooted, world: World, td: SimTd, twin: SimTd, limit: str
) -> None:
    limited(found, world, td, f"[limits]\n{limit} = 3\n")
    found.key(td)
    found.key(twin)
    found.key(td)
    for machine in (td, twin):
        error = refusal(lambda m=machine: found.key(m))
        assert error.code is Code.RATE_LIMITED
        assert limit in error.detail
        assert "acme" in error.detail


def test_two_providers_over_one_store_share_a_limit(
    found: Rooted, world: World, td: SimTd
) -> None:
    limited(found, world, td, "[limits]\ntenant_per_minute = 5\n")
    nodes = [Leases(found.store), Leases(found.store)]
    released = 0
    for number in range(12):
        found.leases = nodes[number % 2]
        try:
            found.key(td)
        except Exception as e:
            if getattr(e, "code", None) is not Code.RATE_LIMITED:
                raise
        else:
            released += 1
    assert released == 5
    # Killed and started again: it finds what was handed out.
    found.leases = Leases(found.store)
    assert refusal(lambda: found.key(td)).code is Code.RATE_LIMITED


def test_many_keys_at_once_are_one_release(
    world: World, td: SimTd, tmp_path: Path
) -> None:
    two = (KeyRequest("disk"), KeyRequest("swap"))
    with rig(world, tmp_path, limits=LimitSettings(platform_per_minute=2)) as ours:
        for _ in range(2):
            exchange, body = ours.question(td, two)
            answer = ours.provider.keys(body, now=NOW)
            assert exchange.open_response(answer, now=NOW).get("swap")
        assert refusal(lambda: ours.key(td)).code is Code.RATE_LIMITED


def test_a_retry_of_the_same_bytes_is_answered_although_the_limit_is_reached(
    found: Rooted, world: World, td: SimTd
) -> None:
    limited(found, world, td, "[limits]\nplatform_per_minute = 1\n")
    _, body = found.question(td)
    first = found.provider.keys(body, now=NOW)
    assert refusal(lambda: found.key(td)).code is Code.RATE_LIMITED
    assert found.provider.keys(body, now=NOW) == first


def test_what_is_limited_may_be_asked_again_with_the_same_bytes(
    found: Rooted, world: World, td: SimTd
) -> None:
    """Nothing was decided, so nothing is written down and no nonce is used up."""
    limited(found, world, td, "[limits]\nplatform_per_minute = 1\n")
    found.key(td)
    before = entries(found)
    exchange, body = found.question(td)
    error = refusal(lambda: found.provider.keys(body, now=found.now))
    assert error.code is Code.RATE_LIMITED
    assert entries(found) == before
    found.now += EPOCH_SECONDS
    answer = found.provider.keys(body, now=found.now)
    assert exchange.open_response(answer, now=found.now).get("disk")


def test_denials_of_a_platform_are_written_down_up_to_the_limit(
    found: Rooted, world: World, td: SimTd, twin: SimTd
) -> None:
    limited(found, world, td, "[limits]\nplatform_denials_per_minute = 2\n")
    for _ in range(3):
        found.key(td)
    before = entries(found)
    codes = [refusal(lambda: found.key(td, "unknown-purpose")).code for _ in range(4)]
    assert codes[:2] == [Code.PURPOSE_NOT_ALLOWED] * 2
    assert codes[2:] == [Code.RATE_LIMITED] * 2
    assert entries(found) == before + 2
    # Then it gets nothing until the minute is over, and another machine does.
    assert refusal(lambda: found.key(td)).code is Code.RATE_LIMITED
    found.key(twin)
    found.now += EPOCH_SECONDS
    found.key(td)


def test_without_limits_nothing_is_asked_of_the_store(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td))
    found.key(td)
    assert found.store.scan(KIND, now=NOW) == ()


def test_the_sidecar_counts_in_memory(world: World, td: SimTd, tmp_path: Path) -> None:
    limits = LimitSettings(platform_per_minute=2)
    with rig(world, tmp_path, limits=limits) as ours:
        ours.key(td)
        ours.key(td)
        assert refusal(lambda: ours.key(td)).code is Code.RATE_LIMITED
        ours.key(td, now=NOW + EPOCH_SECONDS)
