# SPDX-License-Identifier: Apache-2.0
"""One simulated AMD and one attacker's for all tests here; small RSA keys for speed."""

import pytest

from tightseal_sim.amd import AmdWorld

NOW = 1_780_000_000


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> AmdWorld:
    folder = tmp_path_factory.mktemp("amd")
    return AmdWorld(folder, bytes(range(32)), rsa_bits=2048)


@pytest.fixture(scope="session")
def attacker() -> AmdWorld:
    return AmdWorld(None, bytes(32), rsa_bits=2048)


@pytest.fixture
def now() -> int:
    return NOW
