# SPDX-License-Identifier: Apache-2.0
"""This version over the state of the one before: nothing is lost, nothing starts anew.

The folder ``previous`` was made by the data format before the signed log, by
``make_previous.py`` and that version's own code.
"""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from upgrade_world import KERNEL, MACHINE, OTHER_KERNEL, SERVICE, SIDECAR, Place

from cli_support import Said, run
from tightseal.audit.journal import SqliteJournal
from tightseal.audit.log import log_signer
from tightseal.errors import Code, TightsealError
from tightseal.keys.keyring import decode_keyring
from tightseal.keys.keyring.sealed import encode_keyring
from tightseal.model.keypath import KeyRequest
from tightseal.platform.door import open_platform
from tightseal.service.roots import open_roots
from tightseal.service.state import log_key
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Scene, free_port

PREVIOUS = Path(__file__).with_name("previous")
DISK, COUNTED, KEPT = KeyRequest("disk"), KeyRequest("counted"), KeyRequest("kept")
SHAPES = pytest.mark.parametrize("name", [SIDECAR, SERVICE])
LATER = 60
"""Seconds between the last request to the older version and the start of this one."""

KILLED_AFTER = (0.4, 0.7, 0.9, 1.1, 1.4)
"""Seconds from the start of a process: while it loads, and while it takes over."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(shutil.copytree(PREVIOUS, tmp_path / "place"))


def now_of(place: Place) -> int:
    return int(place.expected["now"]) + LATER


def service(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = place.expected[SERVICE]
    return found


def sent(place: Place, name: str) -> bytes:
    return (place.folder / SERVICE / name).read_bytes()


def refusal(attempt: Any) -> Code:
    with pytest.raises(TightsealError) as refused:
        attempt()
    return refused.value.code


def rows(place: Place, name: str, count: int) -> list[tuple[Any, ...]]:
    """The first entries of a journal, as the file has them."""
    with closing(sqlite3.connect(place.state(name) / "journal.sqlite")) as connection:
        return connection.execute(
            "SELECT * FROM journal WHERE seq <= ? ORDER BY seq", (count,)
        ).fetchall()


def redeemed(place: Place, name: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(place.state(name) / "journal.sqlite")) as connection:
        return connection.execute("SELECT * FROM redeemed ORDER BY 1").fetchall()


def started(place: Place, name: str) -> str:
    """Start this version once; the log's verifier key, as its start tells it."""
    with place.running(name, now=now_of(place)) as found:
        host = found.settings.host
        platform = open_platform(host.platform.kind.value, host.platform.options())
        own = open_roots(found.settings, platform)
        with closing(SqliteJournal.open(host.journal_path)) as journal:
            return str(log_signer(journal.head().log_id, log_key(own.secret)).key)


def audit(place: Place, name: str, command: str, *arguments: object) -> Said:
    return run("audit", command, "--config", place.config(name), *arguments)


# -- keys -------------------------------------------------------------------------


def test_a_sidecar_gives_every_workload_the_keys_it_had(place: Place) -> None:
    before = place.expected[SIDECAR]
    with place.running(SIDECAR, now=now_of(place)) as found:
        keys = found.keys(DISK, KeyRequest("disk", "second"))
        assert keys == [before["disk"], before["second"]]
        assert found.keys(DISK, kernel=OTHER_KERNEL) == [before["other"]]


def test_a_keyring_gives_the_keys_of_every_generation_and_the_wrapped_one(
    place: Place,
) -> None:
    keys = service(place)["keys"]
    with place.running(SERVICE, now=now_of(place)) as found:
        assert found.keyring_id().hex() == service(place)["keyring_id"]
        assert found.keys(
            KeyRequest("disk", generation=1), KeyRequest("disk", generation=2)
        ) == [keys["first"], keys["second"]]
        assert found.keys(DISK) == [keys["second"]]
        assert found.keys(KEPT) == [keys["kept"]]
        assert found.keys(COUNTED) == [keys["counted"]]


def test_what_was_refused_is_refused_for_the_same_reasons(place: Place) -> None:
    with place.running(SERVICE, now=now_of(place)) as found:
        codes = [
            refusal(lambda: found.keys(DISK, kernel=OTHER_KERNEL)),
            refusal(lambda: found.keys(KeyRequest("unheard"))),
            refusal(lambda: found.keys(KeyRequest("kept", create=True))),
        ]
    assert codes == service(place)["refused"]


@SHAPES
def test_collateral_that_was_cached_is_used_while_no_pccs_answers(
    place: Place, name: str
) -> None:
    expected = place.expected[name]
    key = expected["disk"] if name == SIDECAR else expected["keys"]["second"]
    with place.running(name, now=now_of(place), offline=True) as found:
        assert found.keys(DISK) == [key]


def test_a_keyring_is_written_in_the_form_that_it_had(place: Place) -> None:
    """So the older version opens it as well, after this one has changed it."""
    data = (place.state(SERVICE) / "keyring.tsk").read_bytes()
    assert encode_keyring(decode_keyring(data)) == data


# -- state ------------------------------------------------------------------------


def test_usage_is_counted_on_and_the_policy_goes_on_from_its_version(
    place: Place,
) -> None:
    with place.running(SERVICE, now=now_of(place)) as found:
        assert found.provider.built().in_force.version == 1
        for _ in range(service(place)["left"]):
            found.keys(COUNTED)
        assert refusal(lambda: found.keys(COUNTED)) is Code.USAGE_LIMIT_REACHED
        accepted = found.provider.publish(sent(place, "next.tsb"), now=found.now)
        assert accepted.policy_version == 2
        assert found.keys(COUNTED) == [service(place)["keys"]["counted"]]
        assert refusal(lambda: found.keys(COUNTED)) is Code.USAGE_LIMIT_REACHED


def test_an_action_stays_done_and_the_keyring_counts_on(place: Place) -> None:
    keys = service(place)["keys"]
    with place.running(SERVICE, now=now_of(place)) as found:
        again = sent(place, "done.json")
        code = refusal(lambda: found.provider.act(again, now=found.now))
        assert code is Code.ACTION_REPLAYED
        found.provider.act(sent(place, "next.json"), now=found.now)
        third = found.keys(DISK)[0]
        assert third not in keys.values()
        assert found.keys(
            KeyRequest("disk", generation=1), KeyRequest("disk", generation=2)
        ) == [keys["first"], keys["second"]]
    data = (place.state(SERVICE) / "keyring.tsk").read_bytes()
    assert decode_keyring(data).header.counter == service(place)["keyring_counter"] + 1
    with place.running(SERVICE, now=now_of(place)) as found:
        assert found.keys(DISK) == [third]


# -- journal and log --------------------------------------------------------------


@SHAPES
def test_old_entries_and_new_ones_stand_in_one_log(place: Place, name: str) -> None:
    count = place.expected["entries"][name]
    before, nonces = rows(place, name, count), redeemed(place, name)
    key = started(place, name)
    with place.running(name, now=now_of(place)) as found:
        found.keys(DISK)
    assert started(place, name) == key
    marked = [(*row[:4], f"unsigned-{row[4]}", *row[5:]) for row in before]
    assert rows(place, name, count) == marked
    assert nonces
    assert set(nonces) <= set(redeemed(place, name))
    whole = audit(place, name, "verify", "--log-key", key, "--min-size", count + 2)
    assert whole.status == 0, whole.stderr
    listed = audit(place, name, "query", "--json").document["entries"]
    assert [entry["code"] for entry in listed[:count]] == [row[5] for row in before]
    taken = listed[count]
    assert (taken["protocol_class"], taken["code"]) == ("log", "taken-over")
    assert taken["body"]["entries"] == count
    begun = [] if name == SIDECAR else ["begun"]
    assert [entry["code"] for entry in listed[count + 1 :]] == [*begun, "granted"]


@SHAPES
def test_an_old_entry_is_proven_and_one_that_was_changed_is_found(
    place: Place, name: str
) -> None:
    key, tiles = started(place, name), place.folder / "tiles"
    assert audit(place, name, "export", "--tiles", tiles).status == 0
    entry_id = rows(place, name, 1)[0][1].hex()
    proof = place.folder / "proof"
    proven = audit_tiles("prove", tiles, key, "--entry-id", entry_id, "--out", proof)
    assert proven.status == 0, proven.stderr
    assert run("audit", "verify", "--proof", proof, "--log-key", key).status == 0
    path = place.state(name) / "journal.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE journal SET class = 'v1' WHERE seq = 1")
    said = audit(place, name, "verify", "--log-key", key)
    assert (said.status, "log_tampered" in said.stderr) == (1, True)


def audit_tiles(command: str, tiles: Path, key: str, *arguments: object) -> Said:
    return run("audit", command, "--tiles", tiles, "--log-key", key, *arguments)


def test_a_journal_is_not_read_before_a_provider_took_it_over(place: Place) -> None:
    said = audit(place, SIDECAR, "query")
    assert said.status == 1
    assert "the provider takes it over when it starts" in said.stderr


@SHAPES
def test_a_start_that_failed_behind_the_journal_is_repeated(
    place: Place, name: str
) -> None:
    """The log is there, the provider is not: the next start goes on from it."""
    count = place.expected["entries"][name]
    key = started(place, name)
    guard = place.state(name) / "collateral-guard.json"
    kept = guard.read_bytes()
    guard.write_bytes(b"damaged")
    with pytest.raises(TightsealError), place.running(name, now=now_of(place)):
        pass
    guard.write_bytes(kept)
    assert started(place, name) == key
    said = audit(place, name, "query", "--code", "taken-over", "--json")
    assert [entry["seq"] for entry in said.document["entries"]] == [count + 1]


@pytest.mark.filterwarnings(
    # The collateral client of a guest lives as long as its process.
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
)
def test_a_served_provider_that_is_killed_while_it_starts_loses_nothing(
    place: Place,
) -> None:
    count = place.expected["entries"][SIDECAR]
    with Scene(place.folder) as scene:
        place.pccs = scene.pccs_url
        config = place.config(SIDECAR)
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
        with scene.client(provider, td) as client:
            key = client.keys(DISK).get("disk").reveal().hex()
        assert key == place.expected[SIDECAR]["disk"]
        listed = run("audit", "query", "--config", config, "--json")
    codes = [entry["code"] for entry in listed.document["entries"]]
    assert codes[count:] == ["taken-over", "granted"]


@SHAPES
def test_an_older_provider_that_still_writes_is_noticed(
    place: Place, name: str
) -> None:
    started(place, name)
    path = place.state(name) / "journal.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        # What the older version's writer executes.
        connection.execute(
            "INSERT INTO journal (entry_id, time, granted, class, code, body)"
            " VALUES (?, ?, 1, 'v1', 'granted', x'a0')",
            (b"i" * 16, now_of(place)),
        )
    with (
        pytest.raises(TightsealError) as refused,
        place.running(name, now=now_of(place)),
    ):
        pass
    assert refused.value.code is Code.LOG_TAMPERED


def test_the_folder_says_of_which_format_it_is() -> None:
    """Where this fails, the fixture was made by another version than the text says."""
    for name in (SIDECAR, SERVICE):
        path = PREVIOUS / name / "state" / "journal.sqlite"
        with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as found:
            assert found.execute("PRAGMA user_version").fetchone() == (1,)
    assert b"branch" not in (PREVIOUS / SERVICE / "state/keyring.tsk").read_bytes()
    assert json.loads((PREVIOUS / "expected.json").read_text())["now"] > 0
