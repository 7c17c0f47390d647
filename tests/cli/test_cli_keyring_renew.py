# SPDX-License-Identifier: Apache-2.0
"""``tightseal keyring renew-key`` over a real provider's state, and its crashes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from keyring_cli import Operator

from tightseal.audit.journal import SqliteJournal
from tightseal.collateral.guardfile import FileGuard
from tightseal.errors import Code, ServiceError
from tightseal.keys.keyring import Keyring, KeyringFile, rotate
from tightseal.model.canonical import Value
from tightseal.release.keyring import KeyringKeeper, StoreAnchor
from tightseal.release.sharing import StoreShare
from tightseal.service import renewal
from tightseal.service.compose import prepare
from tightseal.service.inuse import use
from tightseal.service.renewal import guard_key, store_key
from tightseal.service.roots import ways_of
from tightseal.service.state import guard_path, open_store
from tightseal.state.rows import Writer
from tightseal.state.sqlite import SqliteEngine

NOW = 1_800_000_000
ROOT = "ab" * 32
RECORDS = {f"n{n}": b"v%d" % n for n in range(5)}


class Provider(Operator):
    """An operator's place where a provider under a policy root has run before."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.configure(release=f'root = "keyring"\npolicy_root = "{ROOT}"')

    def start(self) -> None:
        """What a start does before the first worker."""
        prepare(self.settings())

    def store(self, keyring: Keyring) -> Any:
        return open_store(self.settings().host, store_key(keyring, ROOT))

    def records(self) -> dict[str, bytes]:
        store = self.store(self.keyring())
        try:
            found = store.scan("usage", now=NOW)
            return {record.name: record.value for record in found}
        finally:
            store.close()

    def guard_opens(self) -> None:
        key = guard_key(self.keyring())
        FileGuard.open(guard_path(self.settings().host), key=key)

    def remembered(self) -> int | None:
        keyring = self.keyring()
        store = self.store(keyring)
        try:
            anchor = StoreAnchor(store, lambda: NOW)
            return anchor.remembered(keyring.header.keyring_id)
        finally:
            store.close()

    def shared(self) -> bytes | None:
        """The version that lies in the store for other providers."""
        keyring = self.keyring()
        store = self.store(keyring)
        try:
            found = StoreShare(store, lambda: NOW).fetch(keyring.header.keyring_id)
            return None if found is None else found[1]
        finally:
            store.close()

    def entries(self) -> list[tuple[str, str, Value]]:
        journal = SqliteJournal.open(self.settings().host.journal_path)
        try:
            # The first two are of the first start: of the log, and of the keyring.
            listed = journal.entries()[2:]
            return [
                (e.entry.protocol_class, e.entry.code, e.entry.body) for e in listed
            ]
        finally:
            journal.close()


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    made = Provider(tmp_path)
    made.configure(
        keyring="create = true", release=f'root = "keyring"\npolicy_root = "{ROOT}"'
    )
    made.start()
    store = made.store(made.keyring())
    for name, value in RECORDS.items():
        store.create("usage", name, value, now=NOW)
    anchor = StoreAnchor(store, lambda: NOW)
    anchor.remember(made.keyring().header.keyring_id, 1)
    store.close()
    return made


def same(provider: Provider, old: Keyring) -> None:
    """What a provider under the new key still has."""
    new = provider.keyring()
    assert new.header.keyring_id == old.header.keyring_id
    assert new.root(1).reveal() == old.root(1).reveal()
    assert provider.records() == RECORDS
    provider.guard_opens()
    slots = provider.done("slot", "test")["slots"]
    assert [slot["opens"] for slot in slots] == [True, True]


def test_key_state_and_guard_are_new_and_nothing_is_lost(provider: Provider) -> None:
    old = provider.keyring()
    done = provider.done("renew-key", "--yes")
    assert (done["done"], done["counter"]) == ("renewed", old.header.counter + 1)
    assert provider.keyring().key != old.key
    same(provider, old)
    assert provider.remembered() == done["counter"]
    assert provider.shared() == provider.file.read_bytes()
    provider.start()
    same(provider, old)
    with pytest.raises(ServiceError):
        provider.store(old)
    assert "verify" not in provider.run("verify").stderr
    assert provider.done("verify")["in_order"] is True


def test_it_is_in_the_journal_before_anything_is_changed(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    inner = KeyringFile.stage

    def stage(file: KeyringFile, *given: Any, **more: Any) -> None:
        seen.append(len(provider.entries()))
        inner(file, *given, **more)

    monkeypatch.setattr(KeyringFile, "stage", stage)
    provider.done("renew-key", "--yes")
    assert seen == [1]
    [(by, code, body)] = provider.entries()
    assert (by, code) == ("command", "granted")
    assert isinstance(body, dict)
    action = body["action"]
    assert isinstance(action, dict)
    assert (action["kind"], body["role"], body["signers"]) == ("renew-key", None, [])
    assert action["parameters"] == {"counter": 2, "rotate": False, "removed": []}


def test_for_people_it_says_what_it_cannot_see_and_asks(provider: Provider) -> None:
    before = provider.file.read_bytes()
    said = provider.run("renew-key", stdin=b"no\n")
    assert said.status == 1
    assert "must be stopped" in said.stderr
    assert "nothing was changed" in said.stderr
    assert provider.file.read_bytes() == before
    said = provider.run("renew-key", stdin=b"yes\n")
    assert said.status == 0
    assert "copies of the file from before still open" in said.stdout
    assert "then give --yes" in provider.usage("renew-key", "--json")


def test_it_is_refused_while_a_worker_runs(provider: Provider) -> None:
    code = (
        "import sys, time; from pathlib import Path;"
        "from tightseal.service.inuse import use; use(Path(sys.argv[1]));"
        "print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(provider.file)], stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert "state_conflict" in provider.refused("renew-key", "--yes")
        assert provider.records() == RECORDS
        # What a running provider takes over does not mind.
        provider.done("slot", "test")
    finally:
        child.kill()
        child.communicate()
    provider.done("renew-key", "--yes")


def test_a_worker_does_not_start_while_it_goes_on(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[Code] = []
    inner = SqliteEngine.rewrite

    def rewrite(engine: SqliteEngine) -> Any:
        with pytest.raises(ServiceError) as raised:
            use(provider.file)
        refused.append(raised.value.code)
        return inner(engine)

    monkeypatch.setattr(SqliteEngine, "rewrite", rewrite)
    provider.done("renew-key", "--yes")
    assert refused == [Code.STATE_CONFLICT]
    use(provider.file)()


def test_sessions_of_a_database_refuse_it_until_the_operator_says_so(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteEngine, "others", lambda _: 2)
    assert "2 sessions of providers" in provider.refused("renew-key", "--yes")
    provider.done("renew-key", "--yes", "--stopped")


def test_a_keyring_that_was_put_back_is_refused_before_anything_is_changed(
    provider: Provider,
) -> None:
    keyring = provider.keyring()
    store = provider.store(keyring)
    newer = StoreAnchor(store, lambda: NOW)
    newer.remember(keyring.header.keyring_id, keyring.header.counter + 1)
    store.close()
    assert "keyring_rolled_back" in provider.refused("renew-key", "--yes")
    assert provider.records() == RECORDS


def test_a_newer_version_that_another_provider_made_is_what_is_renewed(
    provider: Provider,
) -> None:
    """Its file is its own; the store has the newest for all of them."""
    older = provider.file.read_bytes()
    keeper = KeyringKeeper(ways_of(provider.settings(), provider.platform()))
    store = provider.store(keeper.keyring)
    clock = lambda: NOW  # noqa: E731
    keeper.anchor_with(StoreAnchor(store, clock), StoreShare(store, clock))
    newest = keeper.change(lambda keyring: rotate(keyring, now=NOW))
    store.close()
    provider.file.write_bytes(older)
    done = provider.done("renew-key", "--yes")
    assert (done["current"], done["counter"]) == (2, newest.header.counter + 1)
    assert provider.keyring().root(2).reveal() == newest.root(2).reveal()
    assert provider.shared() == provider.file.read_bytes()


def test_missing_state_beside_a_journal_is_no_fresh_start(provider: Provider) -> None:
    provider.settings().host.state_path.unlink()
    before = provider.file.read_bytes()
    assert "state_missing" in provider.run("renew-key", "--yes").stderr
    assert provider.file.read_bytes() == before


def test_before_the_first_start_the_key_alone_is_renewed(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    operator.done("init")
    old = operator.keyring()
    said = operator.run("renew-key", "--yes")
    assert said.status == 0
    assert "not in the journal" in said.stderr
    assert operator.keyring().key != old.key
    assert operator.keyring().root(1).reveal() == old.root(1).reveal()


def test_a_rotation_comes_with_it_where_no_policy_root_says_who_may(
    tmp_path: Path,
) -> None:
    operator = Operator(tmp_path)
    operator.done("init")
    operator.done("slot", "add", "--class", "sgx", "--label", "second")
    gone = operator.slots()["first"]["id"]
    done = operator.done("renew-key", "--rotate", "--remove", gone[:8], "--yes")
    assert (done["current"], done["removed"], done["slots_left"]) == (2, [gone], 1)
    assert set(operator.slots()) == {"second"}


def test_under_a_policy_root_the_rotation_is_a_signed_action(
    provider: Provider,
) -> None:
    said = provider.refused("renew-key", "--rotate", "--yes")
    assert "--kind rotate-keyring" in said


def test_a_slot_that_does_not_open_here_is_named_and_can_go(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    operator.done("init")
    secret = ("--passphrase-file", operator.secret)
    added = operator.done("slot", "add", "--class", "passphrase", *secret)
    away = added["slot"]["id"]
    said = operator.refused("renew-key", "--yes")
    assert "slot_unavailable" in said
    assert f"passphrase {away[:8]}" in said
    with_it = operator.done("renew-key", "--yes", *secret)
    assert with_it["slots_left"] == 2
    without = operator.done("renew-key", "--yes", "--remove", away)
    assert without["slots_left"] == 1


# -- faults ------------------------------------------------------------------------


class DiedError(BaseException):
    """The process ended here."""


class Faults:
    """Counts every call that changes something outside, and ends the process at one."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.at = -1
        self.calls: list[str] = []
        self.on = False
        for owner, name in (
            (os, "write"),
            (os, "fsync"),
            (Path, "rename"),
            (Path, "unlink"),
        ):
            patch.setattr(owner, name, self.wrapped(name, getattr(owner, name)))
        inner = SqliteEngine.rewrite

        @contextmanager
        def rewrite(engine: SqliteEngine) -> Iterator[Writer]:
            with inner(engine) as writer:
                yield writer
                self.hit("commit")
            self.hit("committed")

        patch.setattr(SqliteEngine, "rewrite", rewrite)
        patch.setattr(renewal, "rekey", self.wrapped("rekey", renewal.rekey))

    def hit(self, name: str) -> None:
        if not self.on:
            return
        self.calls.append(name)
        if len(self.calls) - 1 == self.at:
            self.on = False
            raise DiedError

    def wrapped(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            self.hit(f"before {name}")
            result = inner(*given, **more)
            self.hit(f"after {name}")
            return result

        return call


def test_after_a_crash_at_any_call_the_provider_starts_with_all_of_it(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = provider.keyring()
    state, kept = provider.file.parent, provider.place / "kept"
    shutil.copytree(state, kept)
    faults = Faults(monkeypatch)
    faults.on = True
    provider.done("renew-key", "--yes")
    names = list(faults.calls)
    assert {"commit", "committed", "before rename", "after fsync"} <= set(names)
    new = 0
    for at in range(len(names)):
        shutil.rmtree(state)
        shutil.copytree(kept, state)
        faults.at, faults.calls, faults.on = at, [], True
        with pytest.raises(DiedError):
            provider.run("renew-key", "--yes")
        faults.on = False
        provider.start()
        same(provider, old)
        new += provider.keyring().key != old.key
        assert not (state / "keyring.tsk.next").exists()
    assert 0 < new < len(names)


def test_a_command_ends_what_a_crash_broke_off(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = provider.keyring()
    faults = Faults(monkeypatch)
    inner = KeyringKeeper.change

    def change(*_: Any, **__: Any) -> Keyring:
        raise DiedError

    monkeypatch.setattr(KeyringKeeper, "change", change)
    with pytest.raises(DiedError):
        provider.run("renew-key", "--yes")
    monkeypatch.setattr(KeyringKeeper, "change", inner)
    assert not faults.calls
    # Until then the keyring opens, and says that something waits.
    assert provider.keyring().key == old.key
    found = provider.done("verify", status=1)
    assert (found["in_order"], found["renewal_waits"]) == (False, True)
    assert "was broken off" in provider.run("verify").stderr
    said = provider.run("renew-key", "--yes")
    assert "ended first: forward" in said.stderr
    assert provider.keyring().header.counter == old.header.counter + 2
    same(provider, old)


def test_ways_of_the_command_are_those_of_the_provider(provider: Provider) -> None:
    keeper = KeyringKeeper(ways_of(provider.settings(), provider.platform()))
    assert keeper.keyring.header.policy_root == bytes.fromhex(ROOT)
