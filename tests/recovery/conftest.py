# SPDX-License-Identifier: Apache-2.0
"""A giver and a joiner in one scene, by the real clock."""

from collections.abc import Iterator

import pytest
from desk_rig import Asking, Giving, asking, clock, giving, next_name

from handoff_scene import Site
from tightseal_sim.scene import Scene


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        yield Site(scene)


@pytest.fixture(scope="module")
def bundle(site: Site) -> bytes:
    return site.bundle()


@pytest.fixture
def giver(site: Site, bundle: bytes) -> Iterator[Giving]:
    with giving(site, bundle, next_name("giver"), clock=clock) as found:
        yield found


@pytest.fixture
def joiner(site: Site, bundle: bytes) -> Asking:
    return asking(site, bundle, next_name("joiner"), clock=clock)
