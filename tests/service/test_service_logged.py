# SPDX-License-Identifier: Apache-2.0
"""A provider in processes of its own: two workers, one signed log, published tiles."""

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tightseal.audit.checkpoint import Trust
from tightseal.audit.entry import parse_entry
from tightseal.audit.logfile import check_journal
from tightseal.audit.note import NoteKey
from tightseal.audit.tilefiles import FileTileStore
from tightseal.audit.verify import verify_log
from tightseal.errors import Code, PlatformError
from tightseal.guest.response import Receipt
from tightseal.model.exchange import Kem
from tightseal.model.keypath import KeyRequest
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


PUBLISH_SECONDS = 40.0


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as made:
        yield made


def released(scene: Scene, provider: Provider, td: SimTd) -> Receipt:
    with scene.client(provider, td, kem=Kem.X25519) as client:
        return client.keys(KeyRequest("disk")).receipt


def test_two_workers_keep_one_log_that_they_publish(
    scene: Scene, tmp_path: Path
) -> None:
    tiles = tmp_path / "tiles"
    settings = {"workers": 2, "log_tiles": str(tiles)}
    provider = scene.provider("two", host=settings)
    td = scene.world.intel.platform("machine-a").launch_td(TdImage())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: released(scene, provider, td), range(12)))
    keys = {one.logged.key for one in found if one.logged is not None}
    (key,) = map(NoteKey.parse, keys)
    entries: list[bytes] = []
    deadline = time.monotonic() + PUBLISH_SECONDS
    while len(entries) < 12 and time.monotonic() < deadline:
        entries.clear()
        time.sleep(0.5)
        if (tiles / "checkpoint").exists():
            verify_log(
                FileTileStore(tiles), Trust(key), each=lambda _, e: entries.append(e)
            )
    named = {parse_entry(entry).entry_id for entry in entries}
    assert named == {one.entry_id for one in found}
    assert f'"log_verifier":"{key}"' in provider.log.read_text().replace(": ", ":")
    provider.stop()
    head = check_journal(provider.settings.host.journal_path, key, whole=True)
    assert head.frontier.size == 12
    again = scene.start(provider.config)
    assert released(scene, again, td).logged is not None
    again.stop()


def test_a_provider_does_not_start_on_a_log_that_was_changed(scene: Scene) -> None:
    provider = scene.provider("changed")
    td = scene.world.intel.platform("machine-a").launch_td(TdImage())
    for _ in range(3):
        released(scene, provider, td)
    provider.stop()
    host = sqlite3.connect(provider.settings.host.journal_path)
    with host:
        host.execute("UPDATE journal SET time = time + 1 WHERE seq = 2")
    host.close()
    with pytest.raises(PlatformError):
        scene.start(provider.config)
    assert Code.LOG_TAMPERED.value in provider.log.read_text()
