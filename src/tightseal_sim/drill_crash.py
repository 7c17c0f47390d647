# SPDX-License-Identifier: Apache-2.0
"""Crashes at every step of every change to a keyring, and two who change it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Final

from tightseal.errors import Code, KeyReleaseError, ServiceError
from tightseal.keys.keyring import (
    Keyring,
    activate,
    add_slot,
    destroy,
    keep,
    keep_new,
    new_keyring,
    prepare,
    remove_slot,
    retire,
    rewrap_slot,
    rotate,
    set_terms,
)
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.release.keyring import KeyringKeeper
from tightseal_sim.drill_disk import KEYRING, CrashError, DrillDisk, DrillSystem
from tightseal_sim.drill_outcome import (
    ANOTHER_KEY,
    Event,
    Outcome,
    Verdict,
    tried,
)
from tightseal_sim.drill_renewal import crash_in_renewal
from tightseal_sim.drill_site import POLICY_VERSION, Setup
from tightseal_sim.drill_stage import NOW, Stage, keys_of

__all__ = ["CRASH_EVENTS"]

_Keys = Mapping[int, Secret]
_Change = Callable[[Keyring, Stage], Keyring]
_Run = Callable[[DrillSystem], object]


def _activate(keyring: Keyring, _stage: Stage) -> Keyring:
    return activate(keyring, len(keyring.generations), now=NOW)


def _retire(keyring: Keyring, _stage: Stage) -> Keyring:
    return retire(keyring, len(keyring.generations), now=NOW)


def _add(keyring: Keyring, stage: Stage) -> Keyring:
    return add_slot(keyring, stage.site.key(stage.setup.ways[0]), now=NOW)


def _remove(keyring: Keyring, _stage: Stage) -> Keyring:
    ids = [slot.slot_id for slot in keyring.slots]
    return remove_slot(keyring, ids[-1], working=ids, now=NOW)


def _rewrap(keyring: Keyring, stage: Stage) -> Keyring:
    key = stage.site.key(stage.setup.ways[0])
    return rewrap_slot(keyring, keyring.slots[0].slot_id, key, now=NOW)


def _terms(keyring: Keyring, stage: Stage) -> Keyring:
    return set_terms(
        keyring,
        policy_root=stage.site.policy_root,
        minimum_policy_version=POLICY_VERSION,
        slot_classes=frozenset(SlotClass),
        now=NOW,
    )


_CHANGES: Final[Mapping[str, _Change]] = MappingProxyType(
    {
        "rotate": lambda k, _: rotate(k, now=NOW),
        "activate": _activate,
        "retire": _retire,
        "destroy": lambda k, _: destroy(k, 1, now=NOW),
        "slot add": _add,
        "slot remove": _remove,
        "slot made anew": _rewrap,
        "terms set": _terms,
    }
)


@dataclass
class _Starts:
    """Starts of the provider after a crash; the same file is opened once.

    Attributes:
        stage: the provider.
        files: what each file led to.
    """

    stage: Stage
    files: dict[bytes, _Keys | Code] = field(default_factory=dict)

    def __call__(self, disk: DrillDisk) -> _Keys | Code:
        """The keys, or how the start was refused."""
        data = disk.read() if str(KEYRING) in disk.seen else b""
        if data not in self.files:
            try:
                self.files[data] = self.stage.open(disk=disk).keys
            except KeyReleaseError as e:
                self.files[data] = e.code
        return self.files[data]


def _crash_in(name: str, setup: Setup) -> Outcome:
    """A change that crashes at each of its steps leaves what was, or what was meant."""
    stage = Stage(setup)
    stage.keeper().change(lambda keyring: prepare(keyring, now=NOW))
    keyring = stage.keeper().keyring
    after = _CHANGES[name](keyring, stage)

    def run(system: DrillSystem) -> None:
        file = stage.file(system)
        keep(file, after, replaces=file.load(), anchor=None)

    done = stage.disk.copy()
    run(DrillSystem(done))
    return _crashes(stage, run, allowed=(stage.before, stage.open(disk=done).keys))


def _crash_in_first(setup: Setup) -> Outcome:
    """A first keyring that crashes leaves none, or itself."""
    stage = Stage(setup)
    stage.disk = DrillDisk()
    keyring = new_keyring(
        stage.site.keys(setup.ways),
        trust_domain=stage.site.trust_domain,
        policy_root=stage.site.policy_root,
        minimum_policy_version=POLICY_VERSION,
        slot_classes=frozenset(SlotClass),
        now=NOW,
    )

    def run(system: DrillSystem) -> None:
        keep_new(stage.file(system), keyring, anchor=None)

    done = DrillDisk()
    run(DrillSystem(done))
    allowed = (Code.KEYRING_MISSING, stage.open(disk=done).keys)
    return _crashes(stage, run, allowed=allowed)


def _crashes(
    stage: Stage, run: _Run, *, allowed: tuple[_Keys | Code, _Keys]
) -> Outcome:
    starts, seen = _Starts(stage), set()
    for disk in _crashed_disks(stage.disk, run):
        keys = starts(disk)
        if keys not in allowed:
            why = keys.value if isinstance(keys, Code) else ANOTHER_KEY
            return Outcome(Verdict.LOST, why)
        seen.add(allowed.index(keys))
    # Both sides must come up, or nothing was tried.
    return Outcome(Verdict.KEPT, "" if 0 in seen else "no crash took it back")


def _crashed_disks(disk: DrillDisk, run: _Run) -> Iterator[DrillDisk]:
    """What is left where the process dies before or after each of its calls."""
    whole = DrillSystem(disk.copy())
    run(whole)
    for at in range(whole.calls):
        for late in (False, True):
            process = DrillSystem(disk.copy(), crash_at=at, late=late)
            with suppress(CrashError):
                run(process)
            yield from process.disk.crashed()


def _two_at_once(setup: Setup) -> Outcome:
    """While one rotates, another rotates at each of its steps."""
    stage = Stage(setup)
    whole = DrillSystem(stage.disk.copy())
    first = stage.keeper(system=whole)
    begun = whole.calls
    _rotate(first)
    for at in range(begun, whole.calls):
        outcome = _overtaken(stage, at)
        if outcome.verdict is not Verdict.KEPT:
            return outcome
    return Outcome(Verdict.KEPT)


def _overtaken(stage: Stage, at: int) -> Outcome:
    disk = stage.disk.copy()
    process = DrillSystem(disk)
    one, other = stage.keeper(system=process), stage.keeper(disk=disk)

    def meanwhile(number: int) -> None:
        if number == at:
            _rotate(other)

    process.meanwhile = meanwhile
    _rotate(one)
    process.meanwhile = None
    # What either may have released meanwhile has to be there for both.
    given = dict(keys_of(one, stage.site)) | dict(keys_of(other, stage.site))
    outcome, opened = tried(stage, disk=disk)
    if opened is None:
        return outcome
    for keeper in (one, other):
        keeper.look()
        if dict(keys_of(keeper, stage.site)) != dict(opened.keys):
            return Outcome(Verdict.LOST, ANOTHER_KEY)
    if any(opened.keys.get(number) != key for number, key in given.items()):
        return Outcome(Verdict.LOST, "a generation that was in use")
    return Outcome(Verdict.KEPT)


def _rotate(keeper: KeyringKeeper) -> None:
    """One of two at once may be told to come again."""
    try:
        keeper.change(lambda keyring: rotate(keyring, now=NOW))
    except ServiceError as e:
        if e.code is not Code.STATE_CONFLICT:
            raise


CRASH_EVENTS: Final[Mapping[str, Event]] = MappingProxyType(
    {
        "crash at every step: first keyring": _crash_in_first,
        **{
            f"crash at every step: {name}": partial(_crash_in, name)
            for name in _CHANGES
        },
        "crash at every step: keyring key renewed": crash_in_renewal,
        "two providers rotate at once": _two_at_once,
    }
)
"""Events by name."""
