# SPDX-License-Identifier: Apache-2.0
"""The keyring key is renewed over a store in PostgreSQL: crash, sessions, two files."""

import base64
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from store_postgres import Server

from tightseal.errors import Code, ServiceError
from tightseal.keys.keyring import Keyring
from tightseal.platform.door import open_platform
from tightseal.release.keyring import KeyringKeeper, Ways
from tightseal.release.renewal import Finished
from tightseal.service.compose import prepare
from tightseal.service.load import load_settings
from tightseal.service.renewal import finish_renewal, renew_keyring, store_key
from tightseal.service.roots import ways_of
from tightseal.service.settings import Settings
from tightseal.service.slotkeys import own_slots
from tightseal.service.state import open_engine, open_store
from tightseal.state.postgres import PostgresEngine
from tightseal.state.rows import Writer
from tightseal_sim.world import World

NOW = 1_800_000_000
ROOT = "ab" * 32
RECORDS = {f"n{n}": b"v%d" % n for n in range(700)}


class Place:
    """A provider's settings, over a database that others may use too."""

    def __init__(self, folder: Path, url: str) -> None:
        world = World.create(folder / "world")
        world.intel.platform("one")
        root = base64.b64encode(world.intel.root_certificate).decode()
        config = folder / "tightseal.toml"
        where = json.dumps(str(folder / "world"))
        config.write_text(
            f"[host]\nstate_dir = {json.dumps(str(folder / 'state'))}\n"
            f'platform = {{ kind = "sim", world = {where}, machine = "one" }}\n'
            f"keyring = {{ create = true }}\n"
            f'[host.state]\nengine = "postgres"\nurl = {json.dumps(url)}\n'
            f'[release]\nsimulated_roots = ["{root}"]\nroot = "keyring"\n'
            f'policy_root = "{ROOT}"\n'
        )
        self.settings: Settings = load_settings(config)
        kind = self.settings.host.platform
        self.platform = open_platform(kind.kind.value, kind.options())

    @property
    def ways(self) -> Ways:
        return ways_of(self.settings, self.platform)

    def keyring(self) -> Keyring:
        return KeyringKeeper(self.ways).keyring

    def store(self) -> Any:
        return open_store(self.settings.host, store_key(self.keyring(), ROOT))

    def records(self) -> dict[str, bytes]:
        store = self.store()
        try:
            return {r.name: r.value for r in store.scan("usage", now=NOW)}
        finally:
            store.close()

    def renew(self, **how: Any) -> Keyring:
        slots = own_slots(self.settings, self.platform)
        ways, clock = self.ways, lambda: int(time.time())
        found = renew_keyring(
            self.settings, ways, slot_key=slots.of, clock=clock, **how
        )
        return found.keyring


@pytest.fixture
def place(tmp_path: Path, own_postgres: Server) -> Place:
    made = Place(tmp_path, own_postgres.new_address())
    prepare(made.settings)
    store = made.store()
    for name, value in RECORDS.items():
        store.create("usage", name, value, now=NOW)
    store.close()
    return made


def test_store_and_keyring_have_the_new_key(place: Place) -> None:
    old = place.keyring()
    new = place.renew()
    assert (new.key != old.key, place.records() == RECORDS) == (True, True)
    prepare(place.settings)
    with pytest.raises(ServiceError) as raised:
        open_store(place.settings.host, store_key(old, ROOT))
    assert raised.value.code is Code.STATE_TAMPERED


def test_a_provider_that_is_connected_refuses_it(place: Place) -> None:
    """On another machine, where no lock of ours is seen."""
    before = place.ways.file.load().data
    other = place.store()
    try:
        other.open("usage", "n1", now=NOW)
        with pytest.raises(ServiceError) as raised:
            place.renew()
        assert raised.value.code is Code.STATE_CONFLICT
        assert "sessions of providers" in raised.value.detail
        assert place.ways.file.load().data == before
        place.renew(stopped=True)
        # And what was said wrongly does no harm but to who was not stopped.
        with pytest.raises(ServiceError) as late:
            other.create("usage", "late", b"x", now=NOW)
        assert late.value.code is Code.STATE_TAMPERED
    finally:
        other.close()
    assert place.records() == RECORDS


class DiedError(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("committed", [False, True])
def test_a_crash_at_the_commit_is_ended_by_the_next_start(
    place: Place, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    old = place.keyring()
    inner = PostgresEngine.rewrite

    @contextmanager
    def dying(engine: PostgresEngine) -> Iterator[Writer]:
        with inner(engine) as writer:
            yield writer
            if not committed:
                raise DiedError
        raise DiedError

    with monkeypatch.context() as patch:
        patch.setattr(PostgresEngine, "rewrite", dying)
        with pytest.raises(DiedError):
            place.renew()
    ended = finish_renewal(place.settings, lambda: place.ways)
    assert ended is (Finished.FORWARD if committed else Finished.BACK)
    assert (place.keyring().key != old.key) is committed
    assert place.records() == RECORDS
    prepare(place.settings)


def test_a_process_that_is_killed_half_way_loses_nothing(place: Place) -> None:
    old = place.keyring()
    child = os.fork()
    if child == 0:
        try:
            seen = 0
            inner = PostgresEngine.run

            def counted(engine: PostgresEngine, work: Any) -> Any:
                nonlocal seen
                seen += work.__name__ == "_apply"
                if seen == 2:
                    os.kill(os.getpid(), 9)
                return inner(engine, work)

            PostgresEngine.run = counted  # type: ignore[method-assign]
            place.renew(stopped=True)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == 9
    prepare(place.settings)
    assert place.keyring().key == old.key
    assert place.records() == RECORDS


def test_a_database_that_is_gone_leaves_what_waits_for_later(
    place: Place, own_postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = place.keyring()
    with monkeypatch.context() as patch:
        patch.setattr(KeyringKeeper, "change", _died)
        with pytest.raises(DiedError):
            place.renew()
    own_postgres.stop()
    with pytest.raises(ServiceError) as raised:
        finish_renewal(place.settings, lambda: place.ways)
    assert raised.value.code is Code.STATE_UNAVAILABLE
    own_postgres.start()
    prepare(place.settings)
    assert place.keyring().key != old.key
    assert place.records() == RECORDS


def _died(*_: object, **__: object) -> Keyring:
    raise DiedError


def test_a_rewrite_may_think_for_longer_than_other_writes(place: Place) -> None:
    """A large map is hashed between two statements of it."""
    engine = open_engine(place.settings.host)
    assert isinstance(engine, PostgresEngine)
    try:
        with engine.rewrite() as writer:
            assert _patience(engine, writer) == "10min"
        with engine.write() as writer:
            assert _patience(engine, writer) == "30s"
    finally:
        engine.close()


def _patience(engine: PostgresEngine, writer: Any) -> str:
    sql = "SHOW idle_in_transaction_session_timeout"
    return str(engine.run(writer._rows(sql))[0][0])


def test_the_engine_of_the_settings_is_the_one_that_is_asked(place: Place) -> None:
    engine = open_engine(place.settings.host)
    try:
        assert isinstance(engine, PostgresEngine)
        assert engine.others() == 0
    finally:
        engine.close()
