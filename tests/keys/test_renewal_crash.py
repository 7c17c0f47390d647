# SPDX-License-Identifier: Apache-2.0
"""A fault at each step of a renewal: the next start opens the keyring and the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from keyring_support import NOW, TERMS, FakeSlot, Machine, made, opened, roots

from keyring_disk import PATH, CrashError, Disk, FakeSystem, Fault
from tightseal.errors import Code, KeyReleaseError, ServiceError, TightsealError
from tightseal.keys.keyring import (
    Keyring,
    KeyringFile,
    add_slot,
    keep,
    keep_new,
    prepare,
    remove_slot,
    rotate,
)
from tightseal.model.labels import Label
from tightseal.model.slots import SlotClass
from tightseal.model.state import Create
from tightseal.release.keyring import Ways
from tightseal.release.renewal import Finished, finish, renew
from tightseal.state.memory import MemoryEngine, Tables
from tightseal.state.reseal import opens, reseal
from tightseal.state.seal import Sealer
from tightseal.state.store import SealedStore

MACHINE = Machine(b"m" * 32)
SLOT = FakeSlot(machine=MACHINE)
SECOND = FakeSlot(SlotClass.SGX, MACHINE)
NEXT = f"{PATH}.next"
LABELS = (Label.KDF_STATE_STORE, Label.KDF_COLLATERAL_GUARD)
"""Two things under the keyring key, each with a commit of its own."""


@dataclass
class Under:
    """A store under the keyring key: a dependent whose commit may be the last act."""

    label: Label
    engine: MemoryEngine
    dies: str = ""

    @property
    def name(self) -> str:
        return self.label.value

    def sealer(self, keyring: Keyring) -> Sealer:
        key = keyring.derive(self.label, None)
        return Sealer(key, trust_domain="intel")

    def there(self) -> bool:
        return self.engine.schema() != 0

    def opens(self, keyring: Keyring) -> bool:
        return opens(self.engine, self.sealer(keyring))

    def reseal(self, before: Keyring, after: Keyring) -> None:
        if self.dies == "before":
            raise CrashError
        reseal(self.engine, before=self.sealer(before), after=self.sealer(after))
        if self.dies == "after":
            raise CrashError
        if self.dies == "told wrong":
            raise ServiceError(Code.STATE_UNAVAILABLE, "the answer was lost")

    def records(self, keyring: Keyring) -> dict[str, bytes]:
        store = SealedStore.attach(self.engine, self.sealer(keyring))
        return {r.name: r.value for r in store.scan("usage", now=NOW)}


@dataclass
class Site:
    """A keyring on a disk, and what lies under its key."""

    system: FakeSystem
    under: list[Under] = field(default_factory=list)

    def copy(self, system: FakeSystem | None = None) -> Site:
        again = Site(system or self.system.copy())
        for held in self.under:
            engine = MemoryEngine()
            engine.tables = held.engine.tables.copy()
            engine._prepared = held.engine._prepared
            again.under.append(Under(held.label, engine))
        return again

    @property
    def ways(self) -> Ways:
        file = KeyringFile(Path(PATH), system=self.system)
        return Ways(file=file, slot_keys=(SLOT, SECOND), terms=TERMS)

    def renew(self, **more: Callable[[Keyring], Keyring]) -> Keyring:
        found = renew(
            self.ways,
            self.under,
            slot_key=lambda slot: (
                SLOT if slot.factors == (SLOT.slot_class,) else SECOND
            ),
            now=NOW,
            **more,
        )
        return found.keyring

    def finish(self) -> Finished:
        return finish(self.ways, self.under)

    def keyring(self) -> Keyring:
        return opened(self.ways.file.load().data, SLOT, SECOND).keyring

    def tables(self) -> list[Tables]:
        return [held.engine.tables for held in self.under]


def begun(*, count: int = 2, stores: bool = True) -> Site:
    """Something to lose: a retired generation, one that waits, slots, records."""
    keyring = prepare(rotate(made(SLOT, SECOND), now=NOW), now=NOW)
    site = Site(FakeSystem())
    keep_new(site.ways.file, keyring, anchor=None)
    for label in LABELS[:count]:
        held = Under(label, MemoryEngine())
        if stores:
            store = SealedStore.new(held.engine, held.sealer(keyring))
            store.batch([Create("usage", f"n{n}", b"v%d" % n) for n in range(3)], now=1)
        site.under.append(held)
    return site


RECORDS = {f"n{n}": b"v%d" % n for n in range(3)}


def whole(site: Site, old: Keyring) -> Keyring:
    """What a start finds: all roots, all slots, all records, nothing that waits."""
    keyring = site.keyring()
    assert roots(keyring) == roots(old)
    assert keyring.header.keyring_id == old.header.keyring_id
    for slot in (SLOT, SECOND):
        data = site.ways.file.load().data
        assert roots(opened(data, slot).keyring) == roots(old)
    for held in site.under:
        if held.there():
            assert held.records(keyring) == RECORDS
    assert site.system.disk.content(NEXT) is None
    return keyring


def test_everything_is_under_the_new_key_and_nothing_changed() -> None:
    site = begun()
    old = site.keyring()
    new = site.renew()
    assert new.key != old.key
    assert new.header.counter == old.header.counter + 1
    assert whole(site, old).key == new.key
    for held in site.under:
        assert not held.opens(old)
    assert site.finish() is Finished.NOTHING
    assert set(site.system.disk.seen) == {PATH, f"{PATH}.lock"}


def test_a_change_can_be_made_in_the_same_step() -> None:
    site = begun()
    gone, kept = site.keyring().slots

    def first(keyring: Keyring) -> Keyring:
        good = {kept.slot_id}
        fewer = remove_slot(keyring, gone.slot_id, working=good, now=NOW)
        return rotate(fewer, now=NOW)

    new = site.renew(first=first)
    assert new.current.number == 3
    assert [slot.slot_id for slot in new.slots] == [kept.slot_id]
    assert site.keyring().current.number == 3


@pytest.mark.parametrize("count", [0, 1, 2])
def test_before_the_first_start_there_is_nothing_to_follow(count: int) -> None:
    site = begun(count=count, stores=False)
    old = site.keyring()
    assert site.renew().key != old.key
    whole(site, old)


def faulty(site: Site) -> Iterator[tuple[Site, Disk, BaseException]]:
    """The renewal with each fault at each call, and each disk that may be left."""
    quiet = site.copy()
    quiet.renew()
    for fault in Fault:
        for at in range(len(quiet.system.calls)):
            process = site.copy()
            process.system.fault, process.system.at = fault, at
            try:
                process.renew()
            except (CrashError, TightsealError) as e:
                error: BaseException = e
            else:
                # Only what is left beside it could not be removed.
                error = CrashError()
            yield from (
                (process, disk, error) for disk in process.system.disk.crashed()
            )
            if not isinstance(error, CrashError):
                yield process, process.system.copy().disk, error


def states(site: Site, disk: Disk) -> tuple[object, ...]:
    names = ("", ".next", ".previous")
    heads = [table.head.sealed if table.head else b"" for table in site.tables()]
    return (*(disk.content(PATH + name) for name in names), *heads)


def test_after_a_fault_at_any_call_the_next_start_opens_all_of_it() -> None:
    site = begun()
    old = site.keyring()
    seen: set[object] = set()
    outcomes: set[Finished] = set()
    for process, disk, _ in faulty(site):
        state = states(process, disk)
        if state in seen:
            continue
        seen.add(state)
        again = process.copy(FakeSystem(disk))
        outcomes.add(again.finish())
        keyring = whole(again, old)
        # And it goes on from there.
        further = rotate(keyring, now=NOW)
        basis = again.ways.file.load()
        keep(again.ways.file, further, replaces=basis, anchor=None)
        assert again.keyring().current.number == further.current.number
    assert outcomes == set(Finished)


@pytest.mark.parametrize("dies", ["before", "after", "told wrong"])
@pytest.mark.parametrize("at", [0, 1])
def test_after_a_crash_at_each_commit_the_next_start_opens_all_of_it(
    dies: str, at: int
) -> None:
    site = begun()
    old = site.keyring()
    site.under[at].dies = dies
    with pytest.raises((CrashError, ServiceError)):
        site.renew()
    again = site.copy(FakeSystem(site.system.disk))
    back = (at, dies) == (0, "before")
    assert again.finish() is (Finished.BACK if back else Finished.FORWARD)
    assert (whole(again, old).key == old.key) is back
    assert again.finish() is Finished.NOTHING


@pytest.mark.parametrize("crashed_at", [0, 1])
def test_a_crash_while_it_is_ended_is_ended_by_the_next_start(crashed_at: int) -> None:
    site = begun()
    old = site.keyring()
    site.under[crashed_at].dies = "after"
    with pytest.raises(CrashError):
        site.renew()
    broken = site.copy(FakeSystem(site.system.disk))
    quiet = broken.copy()
    assert quiet.finish() is Finished.FORWARD
    for fault in (Fault.CRASHES, Fault.CRASHES_AFTER):
        for call in range(len(quiet.system.calls)):
            process = broken.copy()
            process.system.fault, process.system.at = fault, call
            with pytest.raises(CrashError):
                process.finish()
            for disk in process.system.disk.crashed():
                again = process.copy(FakeSystem(disk))
                assert again.finish() in {Finished.FORWARD, Finished.NOTHING}
                assert whole(again, old).key != old.key


# -- what is refused before anything is changed ------------------------------------


def untouched(site: Site, attempt: Callable[[], object]) -> TightsealError:
    before = [tables.head for tables in site.tables()]
    data = site.system.disk.content(PATH)
    with pytest.raises(TightsealError) as raised:
        attempt()
    assert site.system.disk.content(PATH) == data
    assert [tables.head for tables in site.tables()] == before
    assert site.finish() is Finished.NOTHING
    return raised.value


def test_a_slot_that_does_not_open_here_refuses_it() -> None:
    site = begun()
    away = add_slot(site.keyring(), FakeSlot(machine=Machine()), now=NOW)
    basis = site.ways.file.load()
    keep(site.ways.file, away, replaces=basis, anchor=None)
    error = untouched(site, site.renew)
    assert error.code is Code.SLOT_UNAVAILABLE
    assert "remove it, first" in error.detail


def test_a_store_under_another_key_refuses_it() -> None:
    site = begun()
    site.under[1].engine = begun().under[1].engine
    assert untouched(site, site.renew).code is Code.STATE_TAMPERED


def test_a_change_that_is_refused_refuses_it() -> None:
    def first(keyring: Keyring) -> Keyring:
        return prepare(keyring, now=NOW)

    site = begun()
    error = untouched(site, lambda: site.renew(first=first))
    assert error.code is Code.GENERATION_NOT_ALLOWED


def waiting(site: Site) -> bytes:
    """The renewed keyring of a renewal that ended before its first commit."""
    other = site.copy()
    other.under[0].dies = "before"
    with pytest.raises(CrashError):
        other.renew()
    data = other.system.disk.content(NEXT)
    assert data is not None
    return data


def planted(site: Site, data: bytes) -> None:
    """What the host puts beside the keyring."""
    system = site.system
    fd = system.open(NEXT, 0o1101)
    for at in range(0, len(data), 600):
        system.write(fd, data[at : at + 600])
    system.close(fd)


def test_no_other_change_is_saved_while_a_renewed_keyring_waits() -> None:
    site = begun()
    planted(site, waiting(site))
    basis = site.ways.file.load()
    further = rotate(site.keyring(), now=NOW)
    with pytest.raises(ServiceError) as raised:
        keep(site.ways.file, further, replaces=basis, anchor=None)
    assert raised.value.code is Code.STATE_CONFLICT
    with pytest.raises(KeyReleaseError) as exists:
        site.renew()
    assert exists.value.code is Code.KEYRING_EXISTS


def test_no_new_keyring_is_made_where_a_renewed_one_waits() -> None:
    site = begun()
    planted(site, waiting(site))
    site.system.disk.unlink(PATH)
    with pytest.raises(KeyReleaseError) as raised:
        keep_new(site.ways.file, made(SLOT), anchor=None)
    assert raised.value.code is Code.KEYRING_EXISTS


@pytest.mark.parametrize("what", ["older", "garbage", "foreign", "torn"])
def test_what_a_host_puts_beside_a_whole_keyring_is_dropped(what: str) -> None:
    """Nothing is under its key, so it is worth nothing."""
    site = begun()
    data = waiting(site)
    if what == "garbage":
        data = b"not a keyring"
    elif what == "foreign":
        data = made(SLOT).seal()
    elif what == "torn":
        data = data[: len(data) // 2]
    site.renew()
    old = site.keyring()
    planted(site, data)
    assert site.finish() is Finished.BACK
    assert whole(site, old).key == old.key


def test_an_older_renewed_keyring_does_not_replace_a_newer_one() -> None:
    """The host kept the file that waited, and puts it beside a later version."""
    site = begun()
    site.under[0].dies = "after"
    with pytest.raises(CrashError):
        site.renew()
    site.under[0].dies = ""
    stale = site.system.disk.content(NEXT)
    assert stale is not None
    first = site.copy(FakeSystem(site.system.disk))
    first.finish()
    keyring = first.keyring()
    later = rotate(rotate(keyring, now=NOW), now=NOW)
    keep(first.ways.file, later, replaces=first.ways.file.load(), anchor=None)
    planted(first, stale)
    assert first.finish() is Finished.BACK
    assert first.keyring().current.number == later.current.number


def test_a_store_under_neither_key_is_told_and_nothing_is_dropped() -> None:
    site = begun()
    planted(site, waiting(site))
    site.under[0].engine = begun().under[0].engine
    with pytest.raises(ServiceError) as raised:
        site.finish()
    assert raised.value.code is Code.STATE_TAMPERED
    assert site.system.disk.content(NEXT) is not None
