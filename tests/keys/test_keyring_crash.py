# SPDX-License-Identifier: Apache-2.0
"""A fault at every call of every keyring operation: it opens, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import pytest
from keyring_support import (
    NOW,
    POLICY_ROOT,
    FakeAnchor,
    FakeSlot,
    Machine,
    everything,
    made,
    opened,
    roots,
)

from keyring_disk import PATH, CrashError, Disk, FakeSystem, Fault, Node
from tightseal.errors import Code, KeyReleaseError, ServiceError
from tightseal.keys.keyring import (
    Keyring,
    KeyringFile,
    Source,
    activate,
    add_slot,
    destroy,
    keep,
    keep_new,
    prepare,
    remove_slot,
    renew_key,
    retire,
    rewrap_slot,
    rotate,
    set_terms,
)
from tightseal.model.slots import FIRST_FACTORS

SLOT = FakeSlot(machine=Machine(b"m" * 32))
CRASHES = (Fault.CRASHES, Fault.CRASHES_AFTER)
FAILURES = (Fault.FAILS, Fault.FAILS_AFTER)


def before(*, waiting: bool = True) -> Keyring:
    """Something to lose: a retired generation, one that waits, and two slots."""
    keyring = rotate(made(SLOT, SLOT), now=NOW)
    return prepare(keyring, now=NOW) if waiting else keyring


def ids(keyring: Keyring) -> tuple[bytes, bytes]:
    one, two = keyring.slots
    return one.slot_id, two.slot_id


CHANGES: Mapping[str, Callable[[Keyring], Keyring]] = {
    "rotate": lambda k: rotate(k, now=NOW),
    "prepare": lambda k: prepare(k, now=NOW),
    "activate": lambda k: activate(k, 3, now=NOW),
    "retire": lambda k: retire(k, 3, now=NOW),
    "destroy": lambda k: destroy(k, 1, now=NOW),
    "add slot": lambda k: add_slot(k, SLOT, now=NOW),
    "remove slot": lambda k: remove_slot(k, ids(k)[0], working=set(ids(k)), now=NOW),
    "rewrap slot": lambda k: rewrap_slot(k, ids(k)[0], SLOT, now=NOW),
    "renew key": lambda k: renew_key(k, dict.fromkeys(ids(k), SLOT), now=NOW),
    "set terms": lambda k: set_terms(
        k,
        policy_root=POLICY_ROOT,
        minimum_policy_version=3,
        slot_classes=FIRST_FACTORS,
        now=NOW,
    ),
}


def file(system: FakeSystem) -> KeyringFile:
    return KeyringFile(Path(PATH), system=system)


def stored(keyring: Keyring) -> FakeSystem:
    """A keyring that lies on disk, with nothing else."""
    system = FakeSystem()
    keep_new(file(system), keyring, anchor=None)
    return system


def save(system: FakeSystem, keyring: Keyring, anchor: FakeAnchor | None) -> None:
    """What an operator's command does: load, and keep what was made of it."""
    loaded = file(system).load()
    keep(file(system), keyring, replaces=loaded, anchor=anchor)


def found(disk: Disk) -> Keyring:
    """The keyring as the next start finds it, through a slot, without recovery."""
    loaded = file(FakeSystem(disk)).load()
    assert loaded.source is Source.CURRENT
    return by_slot(loaded.data)


@lru_cache
def by_slot(data: bytes) -> Keyring:
    """Most disks that a crash may leave hold the same file."""
    return opened(data, SLOT).keyring


def goes_on(disk: Disk, keyring: Keyring) -> None:
    """Whatever lies around does not hinder the next change."""
    system = FakeSystem(disk)
    further = rotate(keyring, now=NOW)
    save(system, further, None)
    assert everything(found(system.disk)) == everything(further)
    assert disk.seen.keys() == {PATH, f"{PATH}.lock"}


def faulty(
    system: FakeSystem, run: Callable[[FakeSystem], None]
) -> Iterator[tuple[Fault, int, FakeSystem, BaseException | None]]:
    """The run with each fault at each of its calls."""
    quiet = system.copy()
    run(quiet)
    for fault in Fault:
        for at in range(len(quiet.calls)):
            process = system.copy()
            process.fault, process.at = fault, at
            error: BaseException | None = None
            try:
                run(process)
            except (CrashError, ServiceError) as e:
                error = e
            assert isinstance(error, CrashError) == (fault in CRASHES)
            yield fault, at, process, error


@pytest.mark.parametrize("name", CHANGES)
def test_after_a_crash_or_failure_the_keyring_is_the_old_or_the_new(name: str) -> None:
    old = before(waiting=name != "prepare")
    new = CHANGES[name](old)
    sides = [everything(old), everything(new)]
    seen: set[int] = set()
    begun = stored(old)
    for fault, _, process, error in faulty(begun, lambda s: save(s, new, None)):
        if fault in FAILURES:
            # The same machine goes on, and sees what it wrote.
            there = everything(found(process.copy().disk))
            assert there in sides
            assert error is not None or there == sides[1]
        for disk in process.disk.crashed():
            there = everything(found(disk))
            assert there in sides
            if error is None:
                assert there == sides[1]
            seen.add(sides.index(there))
    assert seen == {0, 1}


def test_after_any_fault_the_next_change_can_be_made() -> None:
    old = before()
    new = rotate(old, now=NOW)
    for _, _, process, _ in faulty(stored(old), lambda s: save(s, new, None)):
        for disk in process.disk.crashed():
            goes_on(disk, found(disk))


def broken(keyring: Keyring) -> FakeSystem:
    """The version before, and a newer one that was cut."""
    system = stored(keyring)
    disk = system.disk
    disk.rename(PATH, f"{PATH}.previous")
    cut = Disk({**disk.nodes, 99: Node(b"\x86", b"\x86")}, {**disk.seen, PATH: 99})
    cut.sync_folder()
    return FakeSystem(cut)


def test_a_fault_after_a_recovery_leaves_what_was_recovered_or_the_new() -> None:
    old = before()
    new = rotate(old, now=NOW)
    sides = [everything(old), everything(new)]

    def run(system: FakeSystem) -> None:
        loaded = file(system).load(recover=True)
        assert loaded.source is Source.PREVIOUS
        keep(file(system), new, replaces=loaded, anchor=None)

    seen: set[int] = set()
    for fault, _, process, error in faulty(broken(old), run):
        disks = [*process.disk.crashed()]
        if fault in FAILURES:
            disks.append(process.copy().disk)
        for disk in disks:
            loaded = file(FakeSystem(disk)).load(recover=True)
            there = everything(by_slot(loaded.data))
            assert there in sides
            assert error is not None or there == sides[1]
            seen.add(sides.index(there))
    assert seen == {0, 1}


def test_loading_under_faults_changes_nothing() -> None:
    old = before()
    begun = stored(old)
    for _, _, process, _ in faulty(begun, lambda s: accept(file(s).load().data)):
        for disk in process.disk.crashed():
            assert everything(found(disk)) == everything(old)


def accept(data: bytes) -> None:
    assert by_slot(data)


def test_a_crash_while_the_first_is_made_leaves_none_or_a_good_one() -> None:
    new = before()
    outcomes = set()
    run = faulty(FakeSystem(), lambda s: _create(s, new))
    for fault, _, process, error in run:
        disks = [*process.disk.crashed()]
        if fault in FAILURES:
            disks.append(process.copy().disk)
        for disk in disks:
            if PATH in disk.seen:
                assert everything(found(disk)) == everything(new)
                outcomes.add("good")
                continue
            assert error is not None
            outcomes.add("none")
            _create(FakeSystem(disk), new)
            assert everything(found(disk)) == everything(new)
    assert outcomes == {"none", "good"}


def _create(system: FakeSystem, keyring: Keyring) -> None:
    keep_new(file(system), keyring, anchor=None)


def test_no_fault_leaves_an_anchor_ahead_of_the_file() -> None:
    old = before()
    new = rotate(old, now=NOW)
    keyring_id = old.header.keyring_id
    begun = stored(old)
    anchors: list[FakeAnchor] = []

    def run(system: FakeSystem) -> None:
        anchors.append(FakeAnchor(counters={keyring_id: old.header.counter}))
        save(system, new, anchors[-1])

    for _, _, process, _ in faulty(begun, run):
        for disk in process.disk.crashed():
            opened(file(FakeSystem(disk)).load().data, SLOT, anchor=anchors[-1])
    assert anchors[0].remembered(keyring_id) == new.header.counter


def test_every_call_that_writes_was_made_to_fail() -> None:
    """So that the tests above cannot pass by saving nothing."""
    system = stored(before()).copy()
    save(system, rotate(before(), now=NOW), None)
    named = {call.split()[0] for call in system.calls}
    assert named == {
        "open",
        "read",
        "write",
        "fsync",
        "close",
        "rename",
        "unlink",
        "lock",
    }
    assert system.calls.count("fsync") >= 5


def test_the_disk_of_the_tests_loses_what_was_not_synced() -> None:
    """A save without its syncs is caught by the same search."""

    class Careless(FakeSystem):
        def fsync(self, fd: int) -> None:
            assert fd in self.handles
            self._hit("fsync", late=False)
            self._hit("fsync", late=True)

        def copy(self) -> FakeSystem:
            return Careless(super().copy().disk)

    old = before()
    new = rotate(old, now=NOW)
    careless = Careless(stored(old).disk)
    lost = 0
    for _, _, process, _ in faulty(careless, lambda s: save(s, new, None)):
        for disk in process.disk.crashed():
            try:
                found(disk)
            except KeyReleaseError:
                lost += 1
    assert lost


def test_what_does_not_open_when_read_back_is_taken_back() -> None:
    old = before()
    system = stored(old)
    loaded = file(system).load()

    def refuse(_: bytes) -> None:
        raise KeyReleaseError(Code.KEYRING_TAMPERED, "does not open")

    with pytest.raises(KeyReleaseError, match="does not open"):
        file(system).save(rotate(old, now=NOW).seal(), refuse, replaces=loaded)
    assert everything(found(system.disk)) == everything(old)
    for disk in system.disk.crashed():
        assert everything(found(disk)) == everything(old)


def test_what_comes_back_with_other_bytes_is_taken_back() -> None:
    old = before()
    system = stored(old)
    loaded = file(system).load()
    new = rotate(old, now=NOW)

    class Lying(FakeSystem):
        def rename(self, source: str, target: str) -> None:
            super().rename(source, target)
            self.corrupt = target if source == f"{PATH}.new" else ""

    lying = Lying(system.disk)
    with pytest.raises(ServiceError, match="not what was written"):
        keep(file(lying), new, replaces=loaded, anchor=None)
    assert everything(found(system.disk)) == everything(old)


def test_roots_survive_a_long_life_of_crashes() -> None:
    """Each change crashes somewhere else, and is made again where it did not take."""
    keyring = made(SLOT)
    disk = stored(keyring).disk
    known = dict(roots(keyring))
    for turn in range(40):
        new = rotate(found(disk), now=NOW + turn)
        process = FakeSystem(disk, Fault.CRASHES_AFTER, turn)
        with pytest.raises(CrashError):
            save(process, new, None)
        disks = list(process.disk.crashed())
        disk = disks[turn % len(disks)]
        now = roots(found(disk))
        assert known.items() <= now.items()
        known = now
    assert len(known) > 1
