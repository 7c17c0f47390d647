# SPDX-License-Identifier: Apache-2.0
"""This version over state that the one before had in PostgreSQL.

``previous-postgres`` was made by the code before the signed log: ``make_previous.py``
with ``--postgres``. Its tables are put into an empty schema of a real server.
"""

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from upgrade_world import KERNEL, MACHINE, SERVICE, STATE_SQL, Place, Running

from cli_support import run
from tightseal.errors import Code, TightsealError
from tightseal.model.keypath import KeyRequest
from tightseal.state.postgres import PostgresEngine
from tightseal.state.rows import SCHEMA, Writer
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Scene, free_port
from tile_places import Server

PREVIOUS = Path(__file__).with_name("previous-postgres")
DISK, COUNTED, KEPT = KeyRequest("disk"), KeyRequest("counted"), KeyRequest("kept")
BOTH = (KeyRequest("disk", generation=1), KeyRequest("disk", generation=2))
LATER = 60
MOST_COMMITS = 40
KILLED_AFTER = (0.5, 0.9, 1.2, 1.6)
"""Seconds from the start of a process: while it loads, and while it takes over."""


class KilledError(BaseException):
    """What a process that was killed does not catch."""


@pytest.fixture
def place(tmp_path: Path, postgres: Server) -> Place:
    found = Place(
        shutil.copytree(PREVIOUS, tmp_path / "place"), database=postgres.new_address()
    )
    script = (found.folder / SERVICE / STATE_SQL).read_text()

    async def restore() -> None:
        connection = await asyncpg.connect(found.database)
        try:
            await connection.execute(script)
        finally:
            await connection.close()

    asyncio.run(restore())
    return found


def now_of(place: Place) -> int:
    return int(place.expected["now"]) + LATER


def said(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = place.expected[SERVICE]
    return found


def refusal(attempt: Callable[[], object]) -> Code:
    with pytest.raises(TightsealError) as refused:
        attempt()
    return refused.value.code


def gives_the_keys_it_had(found: Running, place: Place) -> None:
    keys = said(place)["keys"]
    assert found.keyring_id().hex() == said(place)["keyring_id"]
    assert found.keys(*BOTH, KEPT) == [keys["first"], keys["second"], keys["kept"]]


def test_it_gives_every_key_it_had_and_counts_on(place: Place) -> None:
    keys = said(place)["keys"]
    with place.running(SERVICE, now=now_of(place)) as found:
        gives_the_keys_it_had(found, place)
        assert found.provider.built().in_force.version == said(place)["policy_version"]
        for _ in range(said(place)["left"]):
            assert found.keys(COUNTED) == [keys["counted"]]
        assert refusal(lambda: found.keys(COUNTED)) is Code.USAGE_LIMIT_REACHED
        done, following = (
            (place.folder / SERVICE / name).read_bytes()
            for name in ("done.json", "next.json")
        )
        replayed = refusal(lambda: found.provider.act(done, now=found.now))
        assert replayed is Code.ACTION_REPLAYED
        found.provider.act(following, now=found.now)
        third = found.keys(DISK)[0]
        assert third not in keys.values()
        newer = (place.folder / SERVICE / "next.tsb").read_bytes()
        assert found.provider.publish(newer, now=found.now).policy_version == 2
    with place.running(SERVICE, now=now_of(place)) as found:
        gives_the_keys_it_had(found, place)
        assert found.keys(DISK) == [third]
        assert found.provider.built().in_force.version == 2


def test_a_second_node_begins_on_the_same_state(place: Place) -> None:
    """A folder of its own, with the keyring; the first one's journal is not its own."""
    with place.running(SERVICE, now=now_of(place)) as found:
        gives_the_keys_it_had(found, place)
    folder, own = place.folder / SERVICE, place.folder / "second"
    (own / "state").mkdir(parents=True)
    shutil.copy(folder / "settings.toml.in", own)
    shutil.copy(folder / "state" / "keyring.tsk", own / "state")
    text = (own / "settings.toml.in").read_text()
    (own / "settings.toml.in").write_text(text.replace("/service/", "/second/"))
    with place.running("second", now=now_of(place)) as found:
        gives_the_keys_it_had(found, place)
        for _ in range(said(place)["left"]):
            found.keys(COUNTED)
        assert refusal(lambda: found.keys(COUNTED)) is Code.USAGE_LIMIT_REACHED


@contextmanager
def dying_at(
    patch: pytest.MonkeyPatch, commit: int, *, after: bool
) -> Iterator[list[int]]:
    """This process is killed at the so many'th commit to the state."""
    counted = [0]
    real = PostgresEngine.write

    @contextmanager
    def write(engine: PostgresEngine) -> Iterator[Writer]:
        counted[0] += 1
        if counted[0] == commit and not after:
            raise KilledError
        with real(engine) as writer:
            yield writer
        if counted[0] == commit:
            raise KilledError

    with patch.context() as context:
        context.setattr(PostgresEngine, "write", write)
        yield counted


def test_a_start_that_is_killed_at_any_commit_is_repeated_and_loses_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills, commit, after = 0, 1, False
    while True:
        assert commit < MOST_COMMITS
        with dying_at(monkeypatch, commit, after=after) as counted:
            try:
                with place.running(SERVICE, now=now_of(place)) as found:
                    gives_the_keys_it_had(found, place)
            except KilledError:
                kills += 1
            if counted[0] < commit:
                break
        # What the one before left undone may be all that this one does.
        commit, after = (commit, True) if not after else (commit + 1, False)
    assert kills >= 2
    with place.running(SERVICE, now=now_of(place)) as found:
        gives_the_keys_it_had(found, place)
    listed = run("audit", "query", "--config", place.config(SERVICE), "--json")
    codes = [entry["code"] for entry in listed.document["entries"]]
    count = place.expected["entries"][SERVICE]
    assert codes[count] == "taken-over"
    assert codes.count("taken-over") == 1
    whole = run("state", "check", place.database)
    assert whole.status == 0, whole.stderr
    assert f"schema             {SCHEMA}" in whole.stdout


@pytest.mark.filterwarnings(
    # The collateral client of a guest lives as long as its process.
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
)
@pytest.mark.soak
def test_a_served_provider_that_is_killed_while_it_starts_loses_nothing(
    place: Place,
) -> None:
    with Scene(place.folder) as scene:
        place.pccs = scene.pccs_url
        config = place.config(SERVICE)
        ports = f'listen = "127.0.0.1:{free_port()}"\n'
        ports += f'listen_framed = "127.0.0.1:{free_port()}"\n'
        config.write_text(config.read_text().replace("[host]\n", f"[host]\n{ports}"))
        for seconds in KILLED_AFTER:
            process = subprocess.Popen(
                [sys.executable, "-m", "tightseal", "serve", "--config", str(config)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(seconds)
            process.kill()
            process.wait(10)
        provider = scene.start(config)
        td = scene.world.intel.platform(MACHINE).launch_td(TdImage(kernel=KERNEL))
        running = Running(place, provider.settings, None, now_of(place))
        running.keyring_id = lambda: bytes.fromhex(  # type: ignore[method-assign]
            said(place)["keyring_id"]
        )
        with scene.client(provider, td, pin=running.pin()) as client:
            keys = client.keys(*BOTH)
        given = [keys.get("disk", generation=n).reveal().hex() for n in (1, 2)]
    assert given == [said(place)["keys"][name] for name in ("first", "second")]
