# SPDX-License-Identifier: Apache-2.0
"""Crashes while the keyring key is renewed, with the state store that lies under it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tightseal.errors import TightsealError
from tightseal.keys.keyring import Keyring, Slot
from tightseal.model.labels import Label
from tightseal.model.slots import SlotKey
from tightseal.release.keyring import Ways
from tightseal.release.renewal import finish, renew
from tightseal.state.memory import MemoryEngine
from tightseal.state.reseal import opens, reseal
from tightseal.state.seal import Sealer
from tightseal.state.store import SealedStore
from tightseal_sim.drill_disk import KEYRING, CrashError, DrillDisk, DrillSystem
from tightseal_sim.drill_outcome import ANOTHER_KEY, Outcome, Verdict
from tightseal_sim.drill_site import Setup, Way
from tightseal_sim.drill_stage import NOW, Stage

__all__ = ["crash_in_renewal"]

_KIND: Final = "usage"
_NAME: Final = "counted"
_VALUE: Final = b"what must not be forgotten"
_DOMAIN: Final = "simulated"


@dataclass(frozen=True, slots=True)
class _State:
    """The state store of the provider, as what lies under its keyring key."""

    stage: Stage
    engine: MemoryEngine
    name: str = "state store"

    def there(self) -> bool:
        return True

    def opens(self, keyring: Keyring) -> bool:
        return opens(self.engine, self.sealer(keyring))

    def reseal(self, before: Keyring, after: Keyring) -> None:
        old, new = self.sealer(before), self.sealer(after)
        reseal(self.engine, before=old, after=new)

    def sealer(self, keyring: Keyring) -> Sealer:
        name = self.stage.site.policy_root.hex()
        key = keyring.derive(Label.KDF_STATE_STORE, name)
        return Sealer(key, trust_domain=_DOMAIN)


def crash_in_renewal(setup: Setup) -> Outcome:
    """Keyring and state go over to the new key together, wherever a crash comes."""
    stage = Stage(setup)
    state = _State(stage, MemoryEngine())
    store = SealedStore.new(state.engine, state.sealer(stage.keeper().keyring))
    store.create(_KIND, _NAME, _VALUE, now=NOW)
    begun = state.engine.tables
    outcomes: dict[tuple[object, ...], str] = {}
    renewed = set()
    for disk in _crashed_disks(stage, state):
        there = _seen(disk, state)
        if there not in outcomes:
            outcomes[there] = _started(stage, state, disk)
            renewed.add(state.engine.tables.head != begun.head)
        if outcomes[there]:
            return Outcome(Verdict.LOST, outcomes[there])
    # Both sides must come up, or nothing was tried.
    whole = renewed == {False, True}
    return Outcome(Verdict.KEPT, "" if whole else "no crash parted the two")


def _crashed_disks(stage: Stage, state: _State) -> Iterator[DrillDisk]:
    """What is left where the process dies before or after each of its calls."""
    begun = state.engine.tables
    whole = DrillSystem(stage.disk.copy())
    _renew(stage, state, whole)
    for at in range(whole.calls):
        for late in (False, True):
            state.engine.tables = begun.copy()
            process = DrillSystem(stage.disk.copy(), crash_at=at, late=late)
            with suppress(CrashError):
                _renew(stage, state, process)
            left = state.engine.tables
            for disk in process.disk.crashed():
                state.engine.tables = left.copy()
                yield disk


def _ways(stage: Stage, system: DrillSystem) -> Ways:
    keys = stage.site.keys(stage.setup.ways)
    file = stage.file(system)
    return Ways(file=file, slot_keys=keys, terms=stage.site.terms)


def _renew(stage: Stage, state: _State, system: DrillSystem) -> None:
    def slot_key(slot: Slot) -> SlotKey:
        return stage.site.key(Way(slot.label))

    renew(_ways(stage, system), (state,), slot_key=slot_key, now=NOW)


def _started(stage: Stage, state: _State, disk: DrillDisk) -> str:
    """The next start ends what was begun; what is wrong then, or nothing."""
    try:
        finish(_ways(stage, DrillSystem(disk)), (state,))
        opened = stage.open(disk=disk)
        assert opened.keeper is not None
        sealer = state.sealer(opened.keeper.keyring)
        held = SealedStore.attach(state.engine, sealer).open(_KIND, _NAME, now=NOW)
    except TightsealError as e:
        return e.code.value
    if opened.keys != stage.before:
        return ANOTHER_KEY
    return "" if held.value == _VALUE else "what the state held"


def _seen(disk: DrillDisk, state: _State) -> tuple[object, ...]:
    names = (str(KEYRING), f"{KEYRING}.next", f"{KEYRING}.previous")
    files = [disk.read(Path(name)) if name in disk.seen else b"" for name in names]
    return (*files, state.engine.tables.head)
