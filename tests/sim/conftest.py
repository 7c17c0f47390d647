# SPDX-License-Identifier: Apache-2.0
"""A simulated world for the tests of the simulated world."""

import pytest

from tightseal_sim.world import World


@pytest.fixture(scope="session")
def world() -> World:
    return World.in_memory(b"\x2a" * 32)
