# SPDX-License-Identifier: Apache-2.0
"""What a host or an accident does to a keyring's file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final

from tightseal.errors import TightsealError
from tightseal.keys.keyring import (
    DamagedSlots,
    SealedKeyring,
    add_slot,
    decode_keyring,
    rewrap_slot,
    rotate,
    without_damaged,
)
from tightseal.keys.keyring.sealed import encode_keyring
from tightseal.release.keyring import StoreAnchor
from tightseal.state.memory import MemoryEngine
from tightseal.state.seal import Sealer
from tightseal.state.store import SealedStore
from tightseal_sim.drill_outcome import (
    Event,
    Outcome,
    Verdict,
    all_alike,
    attack,
    refused,
    restarted,
)
from tightseal_sim.drill_site import Setup
from tightseal_sim.drill_stage import NOW, Opened, Stage

__all__ = ["FILE_EVENTS", "store_of"]

TRUNCATIONS: Final = 64
"""How many lengths of a truncated file are tried."""

STORE_DOMAIN: Final = "simulated"


def store_of(engine: MemoryEngine, opened: Opened, *, new: bool = False) -> SealedStore:
    """A provider's state store.

    Raises:
        ServiceError: ``state_tampered``, where it is another's.
    """
    sealer = Sealer(opened.store_key, trust_domain=STORE_DOMAIN)
    if new:
        return SealedStore.new(engine, sealer)
    return SealedStore.attach(engine, sealer)


def _damaged(stage: Stage) -> bytes:
    """The file with one bit changed in its first slot."""
    sealed = decode_keyring(stage.disk.read())
    first = sealed.slots[0]
    wrapped = first.wrapped[:-1] + bytes([first.wrapped[-1] ^ 1])
    slots = (replace(first, wrapped=wrapped), *sealed.slots[1:])
    return encode_keyring(replace(sealed, slots=slots))


def _slot_damaged(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.disk.put(_damaged(stage))
    outcome = restarted(stage)
    if outcome.verdict is not Verdict.LOST:
        return outcome
    mended = _left_out(stage)
    return outcome if mended is None else Outcome(Verdict.REFUSED, outcome.why)


def _left_out(stage: Stage) -> Outcome | None:
    """An operator drops the damaged slot, and adds another; where one opens.

    As ``tightseal keyring slot drop-damaged`` does; the provider starts in between.
    """
    way = stage.setup.ways[0]
    try:
        keeper = stage.keeper(damaged=DamagedSlots.LEAVE_OUT)
    except TightsealError:
        return None
    keeper.change(partial(without_damaged, now=NOW))
    key, keeper = stage.site.key(way), stage.keeper()
    keeper.change(lambda keyring: add_slot(keyring, key, label=way, now=NOW))
    return restarted(stage)


def _slot_damaged_left_out(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.disk.put(_damaged(stage))
    return _left_out(stage) or restarted(stage)


def _slot_damaged_restored(setup: Setup) -> Outcome:
    stage = Stage(setup)
    copy = stage.disk.read()
    stage.disk.put(_damaged(stage))
    stage.disk.put(copy)
    return restarted(stage)


def _truncated(setup: Setup) -> Outcome:
    stage = Stage(setup)
    whole = stage.disk.read()

    def lengths() -> Iterator[Outcome]:
        for part in range(TRUNCATIONS):
            stage.disk.put(whole[: len(whole) * part // TRUNCATIONS])
            yield restarted(stage)

    return all_alike(lengths())


def _truncated_restored(setup: Setup) -> Outcome:
    stage = Stage(setup)
    whole = stage.disk.read()
    stage.disk.put(whole[: len(whole) // 2])
    stage.disk.put(whole)
    return restarted(stage)


def _put_back(setup: Setup) -> Outcome:
    stage = Stage(setup)
    older = _rotated(stage)
    stage.disk.put(older)
    return restarted(stage)


def _rotated(stage: Stage) -> bytes:
    """Rotate, and give the file as it was before."""
    older = stage.disk.read()
    stage.keeper().change(lambda keyring: rotate(keyring, now=NOW))
    stage.before = stage.open().keys
    return older


def _put_back_while_running(setup: Setup) -> Outcome:
    stage = Stage(setup)
    older = _rotated(stage)
    keeper = stage.keeper()
    newest = stage.disk.read()
    stage.disk.put(older)
    outcome = _looked(keeper.look)
    stage.disk.put(newest)
    return refused(stage, outcome)


def _looked(look: Callable[[], object]) -> str:
    try:
        look()
    except TightsealError as e:
        return e.code.value
    return "nothing was noticed"


def _anchored(stage: Stage, engine: MemoryEngine, *, new: bool) -> None:
    """Start with the state store as anchor, as a provider with a policy root does.

    Raises:
        KeyReleaseError: ``keyring_rolled_back``.
    """
    opened = stage.open()
    assert opened.keeper is not None
    store = store_of(engine, opened, new=new)
    opened.keeper.anchor_with(StoreAnchor(store, lambda: NOW))


def _put_back_under_store(setup: Setup) -> Outcome:
    stage, engine = Stage(setup), MemoryEngine()
    _anchored(stage, engine, new=True)
    older = _rotated(stage)
    _anchored(stage, engine, new=False)
    newest = stage.disk.read()
    stage.disk.put(older)
    outcome = _looked(lambda: _anchored(stage, engine, new=False))
    stage.disk.put(newest)
    return refused(stage, outcome)


def _put_back_with_store(setup: Setup) -> Outcome:
    stage, engine = Stage(setup), MemoryEngine()
    _anchored(stage, engine, new=True)
    with engine.read():
        state = engine.tables.copy()
    older = _rotated(stage)
    _anchored(stage, engine, new=False)
    stage.disk.put(older)
    engine.tables = state
    outcome = _looked(lambda: _anchored(stage, engine, new=False))
    if outcome != "nothing was noticed":
        return Outcome(Verdict.REFUSED, outcome)
    return restarted(stage)


def _downgraded(setup: Setup) -> Outcome:
    stage = Stage(setup)
    sealed = decode_keyring(stage.disk.read())
    header = sealed.header
    changes: tuple[dict[str, object], ...] = (
        {"minimum_policy_version": 0},
        {"slot_classes": frozenset(slot.slot_class for slot in sealed.slots)},
        {"policy_root": None},
        {"policy_root": bytes(32)},
        {"counter": header.counter + 1},
        {"changed_at": header.changed_at + 1},
    )
    return all_alike(
        attack(stage, data=_with_header(sealed, change)) for change in changes
    )


def _with_header(sealed: SealedKeyring, change: dict[str, object]) -> bytes:
    header = replace(sealed.header, **change)  # type: ignore[arg-type]
    return encode_keyring(replace(sealed, header=header))


def _slot_of_before(setup: Setup) -> Outcome:
    """A slot that was made anew is put back; its key is still good."""
    stage = Stage(setup)
    old = decode_keyring(stage.disk.read()).slots[0]
    key = stage.site.key(setup.ways[0])
    stage.keeper().change(lambda k: rewrap_slot(k, old.slot_id, key, now=NOW))
    sealed = decode_keyring(stage.disk.read())
    slots = (old, *sealed.slots[1:])
    return attack(stage, data=encode_keyring(replace(sealed, slots=slots)))


def _slot_of_other(setup: Setup) -> Outcome:
    """The first slot is that of another keyring of this machine."""
    stage = Stage(setup)
    sealed = decode_keyring(stage.disk.read())
    foreign = decode_keyring(Stage(setup).disk.read()).slots[0]
    slots = (foreign, *sealed.slots[1:])
    return attack(stage, data=encode_keyring(replace(sealed, slots=slots)))


FILE_EVENTS: Final[Mapping[str, Event]] = MappingProxyType(
    {
        "one slot damaged": _slot_damaged,
        "one slot damaged, left out by an operator": _slot_damaged_left_out,
        "one slot damaged, a copy put back": _slot_damaged_restored,
        "file truncated": _truncated,
        "file truncated, a copy put back": _truncated_restored,
        "older file put back, no anchor": _put_back,
        "older file put back under a running provider": _put_back_while_running,
        "older file put back, state store as anchor": _put_back_under_store,
        "older file and older state put back": _put_back_with_store,
        "header downgraded": _downgraded,
        "slot swapped for its own older one": _slot_of_before,
        "slot swapped for another keyring's": _slot_of_other,
    }
)
"""Events by name."""
