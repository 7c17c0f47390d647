# SPDX-License-Identifier: Apache-2.0
"""Versions of the root: asked for in words or by number, within what policy allows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rooted_rig import Rooted, document_of, rooted

from tightseal.errors import Code, KeyReleaseError, ProviderError, TightsealError
from tightseal.guest.response import RESPONSE_CHECKS
from tightseal.model.generation import Generation, GenerationName, Generations
from tightseal.model.keypath import KeyRequest
from tightseal.model.ports import KeyRoots
from tightseal.model.provider import sidecar_keyring_id
from tightseal.model.secret import Secret
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World

CURRENT, PREVIOUS = GenerationName.CURRENT, GenerationName.PREVIOUS


@dataclass
class Roots:
    """Three generations; the first was destroyed."""

    current: int = 3
    previous: int | None = 2
    open: frozenset[int] = frozenset({2, 3})
    keyring_id: bytes = sidecar_keyring_id()
    simulated: bool = True

    def generations(self) -> Generations:
        return Generations(self.current, self.previous, self.open)

    def root(self, generation: int) -> Secret:
        if generation not in self.open:
            raise KeyReleaseError(Code.GENERATION_UNKNOWN, str(generation))
        return Secret(bytes([generation]) * 32)


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"generations".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


@pytest.fixture
def found(world: World, tmp_path: Path) -> Iterator[Rooted]:
    with rooted(world, tmp_path) as made:
        made.roots = Roots()
        yield made


def refusal(attempt: Callable[[], object]) -> TightsealError:
    with pytest.raises(TightsealError) as refused:
        attempt()
    return refused.value


def disk(generation: Generation) -> KeyRequest:
    return KeyRequest("disk", generation=generation)


def test_a_guest_holds_two_generations_to_move_its_data(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td))
    released = found.ask(td, disk(CURRENT), disk(PREVIOUS))
    new = released.key("disk")
    old = released.key("disk", generation=PREVIOUS)
    assert (new.generation, old.generation) == (3, 2)
    assert new.secret != old.secret
    by_number = found.ask(td, disk(2)).key("disk", generation=2)
    assert by_number.secret == old.secret


def test_a_key_keeps_its_bytes_when_its_generation_is_no_longer_current(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td))
    before = found.ask(td, disk(CURRENT)).get("disk")
    found.roots = Roots(4, 3, frozenset({2, 3, 4}))
    assert found.ask(td, disk(PREVIOUS)).get("disk", generation=PREVIOUS) == before
    assert found.ask(td, disk(3)).get("disk", generation=3) == before
    assert found.ask(td, disk(CURRENT)).get("disk") != before


@pytest.mark.parametrize("asked", [0, 1, 4])
def test_a_generation_that_is_destroyed_or_not_there_is_unknown(
    found: Rooted, world: World, td: SimTd, asked: int
) -> None:
    found.publish(document_of(world, td))
    assert refusal(lambda: found.ask(td, disk(asked))).code is Code.GENERATION_UNKNOWN


def test_without_a_previous_generation_there_is_none(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td))
    found.roots = Roots(3, None, frozenset({3}))
    error = refusal(lambda: found.ask(td, disk(PREVIOUS)))
    assert error.code is Code.GENERATION_UNKNOWN


@pytest.mark.parametrize(
    ("reach", "granted"),
    [
        ("current", {CURRENT, 4}),
        ("previous", {CURRENT, PREVIOUS, 3, 4}),
        ("any", {CURRENT, PREVIOUS, 2, 3, 4}),
    ],
)
def test_a_policy_says_how_far_back_requests_may_reach(
    found: Rooted, world: World, td: SimTd, reach: str, granted: set[Generation]
) -> None:
    found.roots = Roots(4, 3, frozenset({2, 3, 4}))
    key = {"purpose": "disk", "generations": reach}
    found.publish(document_of(world, td, key=[key]))
    for asked in (CURRENT, PREVIOUS, 2, 3, 4):
        if asked in granted:
            found.ask(td, disk(asked))
        else:
            error = refusal(lambda asked=asked: found.ask(td, disk(asked)))
            assert error.code is Code.GENERATION_NOT_ALLOWED


def test_a_platforms_own_root_is_generation_0(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.roots = None
    found.publish(document_of(world, td))
    assert found.ask(td).key("disk").generation == 0
    by_number = found.ask(td, disk(0)).get("disk", generation=0)
    assert by_number == found.ask(td).get("disk")
    error = refusal(lambda: found.ask(td, disk(PREVIOUS)))
    assert error.code is Code.GENERATION_UNKNOWN


@dataclass
class Lying:
    """Says other generations than it derives from."""

    roots: KeyRoots
    said: Generations

    @property
    def keyring_id(self) -> bytes:
        return self.roots.keyring_id

    @property
    def simulated(self) -> bool:
        return self.roots.simulated

    def generations(self) -> Generations:
        return self.said

    def root(self, generation: int) -> Secret:
        return self.roots.root(generation % 2 + 2)


def test_a_previous_generation_that_is_not_older_is_refused_by_the_guest(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td))
    found.roots = Lying(Roots(), Generations(5, 6, frozenset({5, 6})))
    error = refusal(lambda: found.ask(td, disk(CURRENT), disk(PREVIOUS)))
    assert isinstance(error, ProviderError)
    assert error.code is Code.RESPONSE_INVALID
    assert "generations" in [name for name, _ in RESPONSE_CHECKS]
