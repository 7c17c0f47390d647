# SPDX-License-Identifier: Apache-2.0
"""Taking a provider's keyring off its machine, once another provider has it."""

from __future__ import annotations

import secrets
from contextlib import closing
from dataclasses import dataclass

import structlog

from tightseal.audit.journal import SqliteJournal
from tightseal.errors import Code, ServiceError
from tightseal.keys.keyring import Keyring, KeyringFile, probe_slots, working
from tightseal.model.canonical import Value
from tightseal.model.ports import JournalEntry, RootPlatform
from tightseal.recovery.desk import HANDOFF_CLASS
from tightseal.release.handoffs import Handoff, Handoffs
from tightseal.release.keyring import KeyringKeeper, Ways
from tightseal.service.inuse import alone
from tightseal.service.renewal import store_key
from tightseal.service.roots import ways_of
from tightseal.service.settings import Settings, StateEngine
from tightseal.service.state import log_key, open_store
from tightseal.state.store import SealedStore

__all__ = ["Successor", "retire", "successors"]

ENTRY_ID_BYTES = 16

log = structlog.get_logger("tightseal.keyring")


@dataclass(frozen=True, slots=True)
class Successor:
    """A provider that has confirmed to open the same keyring.

    Attributes:
        measurement: of it.
        slots: ids of its slots, which the keyring still has.
        confirmed_at: Unix seconds by the provider's clock.
    """

    measurement: bytes
    slots: tuple[bytes, ...]
    confirmed_at: int


def successors(
    settings: Settings, platform: RootPlatform, *, now: int
) -> tuple[Successor, ...]:
    """Who opens this keyring elsewhere; one or more.

    Raises:
        ServiceError: ``successor_missing``; what store and file system raise.
        KeyReleaseError: the keyring is missing or does not open here.
    """
    ways = ways_of(settings, platform)
    keyring = KeyringKeeper(ways).keyring
    return _successors(settings, keyring, _here(keyring, ways), now=now)


def retire(
    settings: Settings, platform: RootPlatform, *, now: int
) -> tuple[bytes, ...]:
    """Remove the keyring of a provider that is stopped; ids of the slots it had here.

    The journal says so first. What the file held is not erased from the disk: it opens
    by the slots alone.

    Raises:
        ServiceError: ``successor_missing``; ``state_conflict``, where a process of ours
            uses it; ``journal_failed``; what store and file system raise.
        KeyReleaseError: the keyring is missing or does not open here.
    """
    path = settings.host.keyring_path
    with alone(path):
        ways = ways_of(settings, platform)
        keeper = KeyringKeeper(ways)
        here = _here(keeper.keyring, ways)
        found = _successors(settings, keeper.keyring, here, now=now)
        _record(settings, keeper, found, now=now)
        with closing(_store(settings, keeper.keyring)) as store:
            Handoffs(store).withdraw(here, now=now)
        KeyringFile(path).remove()
        log.warning("provider_retired", keyring_id=keeper.keyring_id.hex())
    return tuple(sorted(here))


def _here(keyring: Keyring, ways: Ways) -> frozenset[bytes]:
    """Every slot that opens on this machine, and not the first one alone."""
    return working(probe_slots(keyring, ways.slot_keys))


def _store(settings: Settings, keyring: Keyring) -> SealedStore:
    root = settings.release.policy_root
    return open_store(settings.host, store_key(keyring, root))


def _successors(
    settings: Settings, keyring: Keyring, here: frozenset[bytes], *, now: int
) -> tuple[Successor, ...]:
    """Those that opened every generation elsewhere.

    In a store that is shared there is our own confirmation too, and where two versions
    were pointed at one file, a slot that opens for both: neither is another copy.
    """
    if not settings.release.policy_root:
        detail = "release.policy_root is not set, so nothing was ever handed over"
        raise ServiceError(Code.SUCCESSOR_MISSING, detail)
    elsewhere = {slot.slot_id for slot in keyring.slots} - here
    newest = len(keyring.generations)
    # Where a database is shared, a later rotation reached the successor through it.
    shared = settings.host.state.engine is not StateEngine.SQLITE
    with closing(_store(settings, keyring)) as store:
        confirmed = Handoffs(store).confirmed(now=now)
    found = tuple(
        Successor(_measurement(handoff), handoff.slots, handoff.changed_at)
        for handoff in confirmed
        if set(handoff.slots) & elsewhere and (shared or handoff.generations >= newest)
    )
    if not found:
        detail = (
            f"{len(confirmed)} handoffs confirmed, none of a slot that stands, opens"
            f" elsewhere and has all {newest} generations"
        )
        raise ServiceError(Code.SUCCESSOR_MISSING, detail)
    return found


def _measurement(handoff: Handoff) -> bytes:
    match handoff.joiner:
        case [_, bytes(measurement), *_]:
            return measurement
    raise ServiceError(Code.STATE_TAMPERED, "handoff: not a record of ours")


def _record(
    settings: Settings,
    keeper: KeyringKeeper,
    found: tuple[Successor, ...],
    *,
    now: int,
) -> None:
    successor: list[Value] = [s.measurement for s in found]
    key = log_key(keeper.keyring.derive)
    path = settings.host.journal_path
    with closing(SqliteJournal.open(path, log_key=key)) as journal:
        journal.record(
            JournalEntry(
                entry_id=secrets.token_bytes(ENTRY_ID_BYTES),
                time=now,
                granted=True,
                protocol_class=HANDOFF_CLASS,
                code="retired",
                body={
                    "keyring_id": keeper.keyring_id,
                    "counter": keeper.keyring.header.counter,
                    "successors": successor,
                },
            ),
            redemption=None,
            response=b"",
        )
