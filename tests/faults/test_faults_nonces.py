# SPDX-License-Identifier: Apache-2.0
"""Challenges asked for and never answered: nothing is kept of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_bodies import challenge_request
from fault_log import read_written
from fault_sockets import Lane, Load, Outcome
from fault_support import Counts, port_of, readiness, resident

from tightseal.model.keypath import KeyRequest
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Scene

ADDRESSES = 8
LANES = 16
SHORT = 12_000
WARM_UP = 1_000
"""Challenges before memory is looked at: caches fill, and the allocator settles."""

MAX_GROWTH_BYTES = 24 << 20
MAX_FILE_GROWTH_BYTES = 64 << 10


@pytest.mark.parametrize(
    "nonces",
    [SHORT, pytest.param(1_000_000, marks=pytest.mark.soak)],
    ids=["short", "long"],
)
def test_nonces_that_nobody_uses_cost_nothing(tmp_path: Path, nonces: int) -> None:
    counts = Counts("nonces asked for and never used")
    with Scene(tmp_path / "scene") as scene:
        provider = scene.provider(
            host={"log": {"level": "error"}, "limits": {"requests_per_second": 0}}
        )
        td = scene.world.intel.platform("machine-a").launch_td(TdImage())
        port, state = port_of(provider), Path(provider.settings.host.state_dir)
        with scene.client(provider, td) as client:
            key = client.key("disk").reveal()
            asked(port, WARM_UP)
            memory, files = resident(provider.process.pid), size_of(state)
            done = asked(port, nonces)
            grown = resident(provider.process.pid) - memory
            files_grown = size_of(state) - files
            told = readiness(port)
            with client.keys(KeyRequest("disk")) as keys:
                assert keys.get("disk").reveal() == key
                logged = keys.receipt.logged
        provider.stop()
        assert logged is not None
        log = read_written(provider.config, tmp_path, logged.key)
    counts.requests = counts.granted = done.granted
    counts.connection_errors = done.errors
    counts.seconds, counts.log_entries = round(done.seconds, 1), len(log)
    counts.more = {
        "memory_before": memory,
        "memory_grown": grown,
        "files_grown": files_grown,
        "slowest_seconds": round(done.slowest, 3),
    }
    assert done.granted >= nonces
    assert not done.errors
    assert told is not None
    assert told["ready"]
    # The two releases, and nothing of what was only asked for.
    assert len(log) == 2
    assert grown < MAX_GROWTH_BYTES, counts
    assert files_grown < MAX_FILE_GROWTH_BYTES, counts
    if nonces > SHORT:
        counts.say()


def asked(port: int, count: int) -> Outcome:
    """Ask for so many challenges on connections that stay, and drop the answers."""
    each = count // LANES + 1
    request = challenge_request()
    lanes = [
        Lane(f"127.4.0.{n % ADDRESSES + 1}", [request] * each) for n in range(LANES)
    ]
    done = Load(port, lanes).run(3600.0)
    assert done.finished
    return done


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
