# SPDX-License-Identifier: Apache-2.0
"""What lies under a provider's keyring key, and its renewal while no provider runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import structlog

from tightseal.audit.logfile import is_signed, rekey
from tightseal.collateral.guardfile import FileGuard
from tightseal.errors import Code, CollateralError, KeyReleaseError, ServiceError
from tightseal.keys.keyring import AnchorFile, AnchorRecord, Keyring, Slot
from tightseal.model.labels import Label
from tightseal.model.ports import Clock
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotKey
from tightseal.release.keyring import Change, KeyringKeeper, StoreAnchor, Ways
from tightseal.release.renewal import Dependent, Finished, finish, renew
from tightseal.release.sharing import StoreShare
from tightseal.service.inuse import alone
from tightseal.service.settings import HostSettings, Settings
from tightseal.service.state import (
    guard_path,
    log_key,
    open_engine,
    open_store,
    store_sealer,
)
from tightseal.state.reseal import opens, reseal
from tightseal.state.seal import Sealer

__all__ = ["dependents_of", "finish_renewal", "guard_key", "renew_keyring", "store_key"]

log = structlog.get_logger("tightseal.keyring")


def store_key(keyring: Keyring, policy_root: str) -> Secret:
    """The key of the state under one policy root.

    A host that starts our image under a root of its own on this machine opens the same
    slots; with another store key it can neither read nor change what is counted.
    """
    return keyring.derive(Label.KDF_STATE_STORE, policy_root)


def guard_key(keyring: Keyring) -> Secret:
    """The key of the guard against older collateral."""
    return keyring.derive(Label.KDF_COLLATERAL_GUARD, None)


def dependents_of(settings: Settings) -> tuple[Dependent, ...]:
    """What lies under the keyring key; the state store decides after a crash."""
    host, root = settings.host, settings.release.policy_root
    rest = (_Guard(host), _Log(host), _AnchorRecord(host))
    return (_Store(host, root), *rest) if root else rest


def finish_renewal(settings: Settings, ways: Callable[[], Ways]) -> Finished:
    """End a renewal that a crash broke off; before anything else opens the keyring.

    Args:
        settings: both kinds.
        ways: how the keyring is opened; asked only where something is to be done.

    Raises:
        ServiceError: ``state_conflict``, where somebody uses the keyring meanwhile.
        TightsealError: as of ``release.renewal.finish``.
    """
    path = settings.host.keyring_path
    if not path.with_name(f"{path.name}.next").exists():
        return Finished.NOTHING
    with alone(path):
        done = finish(ways(), dependents_of(settings))
    if done is not Finished.NOTHING:
        log.warning("keyring_renewal_ended", outcome=done.value)
    return done


def renew_keyring(
    settings: Settings,
    ways: Ways,
    *,
    slot_key: Callable[[Slot], SlotKey],
    clock: Clock,
    first: Change = lambda keyring: keyring,
    record: Callable[[Keyring], AbstractContextManager[None]] = lambda _: nullcontext(),
    stopped: bool = False,
) -> KeyringKeeper:
    """Give the keyring a new key, and seal state store and guard anew under it.

    Args:
        settings: both kinds.
        ways: how the keyring is opened, without an anchor.
        slot_key: what makes a slot anew.
        clock: Unix seconds.
        first: a change to be made in the same step.
        record: what the keyring before it is handed to while it is renewed: enters it
            into the journal, before anything is changed.
        stopped: whether the operator says that every provider is stopped, whatever
            sessions the database shows.

    Returns:
        the keeper of the renewed keyring, whose counter the state store remembers.

    Raises:
        ServiceError: ``state_conflict``, where a provider is seen to run;
            ``state_missing``, where the state store is.
        TightsealError: as of ``release.renewal.renew``.
    """
    # The record of an anchor follows the key: it is asked before, and from the next
    # opening on, and not in between.
    bare = replace(ways, keyed=None)
    with alone(settings.host.keyring_path):
        finish(bare, dependents_of(settings))
        before = KeyringKeeper(ways)
        try:
            _require_stopped(settings, stopped=stopped)
            _anchor(settings, before, clock)
            with record(before.keyring):
                renewed = renew(
                    bare,
                    dependents_of(settings),
                    slot_key=slot_key,
                    now=clock(),
                    first=first,
                )
        finally:
            before.keyring.wipe()
        _anchor(settings, renewed, clock)
        return renewed


def _require_stopped(settings: Settings, *, stopped: bool) -> None:
    if not settings.release.policy_root:
        return
    engine = open_engine(settings.host)
    try:
        others = engine.others()
    finally:
        engine.close()
    if others and not stopped:
        detail = (
            f"{engine.name}: {others} sessions of providers: stop every provider that "
            "uses this state; where these are of another one, say --stopped"
        )
        raise ServiceError(Code.STATE_CONFLICT, detail)


def _anchor(settings: Settings, keeper: KeyringKeeper, clock: Clock) -> None:
    """Hold the keyring against what the store has, and tell it the newest.

    Before it, so that the newest version is renewed, which another provider may have
    made; after it, so that no version under the old key lies there any more.
    """
    root = settings.release.policy_root
    if not root:
        return
    host = settings.host
    engine = open_engine(host)
    try:
        missing = engine.schema() == 0
    finally:
        engine.close()
    if missing:
        # Before the first start there is neither; afterwards it must not be left out.
        if host.journal_path.exists():
            detail = f"{engine.name}: there is no state beside the journal: restore it"
            raise ServiceError(Code.STATE_MISSING, detail)
        return
    store = open_store(host, store_key(keeper.keyring, root))
    try:
        keeper.anchor_with(StoreAnchor(store, clock), StoreShare(store, clock))
    finally:
        store.close()


@dataclass(frozen=True, slots=True)
class _Store:
    """The state store, as a dependent."""

    host: HostSettings
    policy_root: str

    @property
    def name(self) -> str:
        return "state store"

    def there(self) -> bool:
        engine = open_engine(self.host)
        try:
            return engine.schema() != 0
        finally:
            engine.close()

    def opens(self, keyring: Keyring) -> bool:
        engine = open_engine(self.host)
        try:
            return opens(engine, self._sealer(keyring))
        finally:
            engine.close()

    def reseal(self, before: Keyring, after: Keyring) -> None:
        engine = open_engine(self.host)
        try:
            reseal(engine, before=self._sealer(before), after=self._sealer(after))
        finally:
            engine.close()

    def _sealer(self, keyring: Keyring) -> Sealer:
        return store_sealer(self.host, store_key(keyring, self.policy_root))


@dataclass(frozen=True, slots=True)
class _Guard:
    """The guard against older collateral, as a dependent."""

    host: HostSettings

    @property
    def name(self) -> str:
        return "collateral guard"

    def there(self) -> bool:
        return guard_path(self.host).exists()

    def opens(self, keyring: Keyring) -> bool:
        try:
            FileGuard.open(guard_path(self.host), key=guard_key(keyring))
        except CollateralError:
            return False
        return True

    def reseal(self, before: Keyring, after: Keyring) -> None:
        old, new = guard_key(before), guard_key(after)
        FileGuard.rekey(guard_path(self.host), before=old, after=new)


@dataclass(frozen=True, slots=True)
class _Log:
    """The log in the journal, whose head the keyring's log key signs."""

    host: HostSettings

    @property
    def name(self) -> str:
        return "log"

    def there(self) -> bool:
        path = self.host.journal_path
        return path.exists() and is_signed(path)

    def opens(self, keyring: Keyring) -> bool:
        return is_signed(self.host.journal_path, log_key(keyring.derive))

    def reseal(self, before: Keyring, after: Keyring) -> None:
        old, new = log_key(before.derive), log_key(after.derive)
        rekey(self.host.journal_path, before=old, after=new)


@dataclass(frozen=True, slots=True)
class _AnchorRecord:
    """What says what the counter of a TPM means for the keyring."""

    host: HostSettings

    @property
    def name(self) -> str:
        return "anchor record"

    @property
    def _file(self) -> AnchorFile:
        return AnchorFile(self.host.keyring_path)

    def there(self) -> bool:
        return self._file.read() is not None

    def opens(self, keyring: Keyring) -> bool:
        data = self._file.read()
        try:
            return data is not None and bool(AnchorRecord.open(data, keyring))
        except KeyReleaseError:
            return False

    def reseal(self, before: Keyring, after: Keyring) -> None:
        with self._file.alone():
            data = self._file.read()
            if data is None:
                detail = f"{self._file.path}: it was there"
                raise ServiceError(Code.STATE_MISSING, detail)
            record = AnchorRecord.open(data, before)
            self._file.write(record.seal(after))
