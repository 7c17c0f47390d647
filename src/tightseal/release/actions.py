# SPDX-License-Identifier: Apache-2.0
"""Does what operators ask for: journal first, then the effect and its replay record.

    authorised action -> not done before -> journal -> one batch: replay record + effect

The batch is all or nothing, so no action is done in part, and none is done twice over
one state store. A crash before the batch leaves the action undone and repeatable; what
the journal then says twice was done once. The replay record never expires: expiry
believes the clock. Where the whole store was put back (see its anchor), an action can
be done again, until it expires.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Final, TypeAlias

from tightseal.errors import (
    Code,
    PolicyError,
    RequestError,
    ServiceError,
    TightsealError,
)
from tightseal.keys.keyring import Keyring, destroy, prepare, retire, rotate
from tightseal.model.action import (
    ACTION_ID_BYTES,
    Action,
    ActionKind,
    AdoptParameters,
    InviteParameters,
    KeyParameters,
    KeyringParameters,
    KeySource,
    RevokeParameters,
    SlotParameters,
)
from tightseal.model.action_file import source_from_value
from tightseal.model.canonical import decode, encode
from tightseal.model.keypath import KeyPath
from tightseal.model.ports import JournalEntry
from tightseal.model.state import Change, Create, Expect, Record, Replace, StateStore
from tightseal.policy.actions import AuthorisedAction
from tightseal.policy.usage import reset, without_platform
from tightseal.release.handoffs import Handoffs
from tightseal.release.keyring import Change as KeyringChange
from tightseal.release.keyring import KeyringKeeper
from tightseal.release.revoke import revocation, revoke, slots_gone
from tightseal.release.rewrap import Rewrapper
from tightseal.release.slots import SlotWays, slot_change
from tightseal.release.usage import Transform, usage_change

__all__ = [
    "ACTION_KIND",
    "ADOPTION_KIND",
    "MAX_ATTEMPTS",
    "PROTOCOL_CLASS",
    "ActionDesk",
    "Log",
    "adopted_source",
    "apply_source",
    "keyring_change",
]

ACTION_KIND: Final = "action"
"""Kind of the replay records, named by action id in hex."""

ADOPTION_KIND: Final = "adoption"
"""Kind of the adoptions, named by ``model.usage.key_record``."""

PROTOCOL_CLASS: Final = "action"
"""What journal entries of actions have in place of a protocol class."""

MAX_ATTEMPTS: Final = 64
"""Most times that an effect is tried while releases are counted in between."""

ENTRY_ID_BYTES: Final = 16

Log: TypeAlias = Callable[[JournalEntry], None]
"""Takes an entry into the journal; returns once it is durable, or raises."""

_USAGE: Final[Mapping[ActionKind, Transform]] = MappingProxyType(
    {
        ActionKind.RELEASE_PLATFORM: without_platform,
        ActionKind.RESET_USAGE: reset,
    }
)
_LOST_RACE: Final = frozenset(
    {Code.STATE_CONFLICT, Code.STATE_EXISTS, Code.STATE_MISSING}
)


class ActionDesk:
    """Does authorised actions over one state store. Safe for threads and processes.

    Args:
        store: holds replay records, adoptions and usage.
        keyring: that actions may change; ``None`` in the sidecar shape.
        slots: what the provider makes slots with, asked for each action; ``None`` where
            it makes none.
        shared: whether other providers of the keyring share this store.
        entropy: random bytes, for entry ids; replaced in tests.
    """

    def __init__(
        self,
        store: StateStore,
        *,
        keyring: KeyringKeeper | None = None,
        slots: Callable[[], SlotWays] | None = None,
        shared: bool = False,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._shared = shared
        self._store = store
        self._keyring = keyring
        self._slots = slots
        self._entropy = entropy

    def perform(self, authorised: AuthorisedAction, *, now: int, log: Log) -> bytes:
        """Do an action, once.

        Args:
            authorised: from ``policy.actions.authorise``, under the policy in force and
                at this very ``now``.
            now: Unix seconds.
            log: the journal. Takes the entry before anything is changed, and another
                one where the change was refused after all.

        Returns:
            the id of the journal entry, 16 bytes.

        Raises:
            RequestError: ``action_replayed``.
            ServiceError: ``state_missing``, where nothing was ever counted for this
                purpose; ``state_exists`` or ``state_conflict``, where the name has an
                adoption that ``replaces`` does not name; ``journal_failed``; what else
                the store raises. After ``state_unavailable`` it may have been done:
                submit it again, and ``action_replayed`` says that it was.
        """
        action = authorised.action
        _refuse_replay(self._store, action, now=now)
        self._foresee(action, now=now)
        entry_id = self._entropy(ENTRY_ID_BYTES)
        log(_entry(authorised, entry_id=entry_id, now=now))
        try:
            self._commit(authorised, now=now)
        except TightsealError as e:
            with suppress(TightsealError):
                refused = self._entropy(ENTRY_ID_BYTES)
                log(_entry(authorised, entry_id=refused, now=now, refusal=e.code))
            raise
        return entry_id

    def _foresee(self, action: Action, *, now: int) -> None:
        """Refuse what cannot be done, before the journal says that it was asked."""
        parameters = action.parameters
        if isinstance(parameters, InviteParameters):
            detail = "an invitation is for the provider that joins by it: provider join"
            raise RequestError(Code.ACTION_NOT_ALLOWED, detail)
        if isinstance(parameters, KeyParameters):
            _effect(self._store, action, now=now)
            return
        keeper = self._keeper()
        _require_counter(keeper.keyring, parameters)
        if isinstance(parameters, RevokeParameters):
            revocation(self._store, parameters, now=now)
            slots_gone(parameters, working=keeper.working, now=now)(keeper.keyring)
            return
        if isinstance(parameters, KeyringParameters) and not self._shared:
            self._require_going_on(keeper, now=now)
        self._change(action.kind, parameters, now=now)(keeper.keyring)

    def _require_going_on(self, keeper: KeyringKeeper, *, now: int) -> None:
        slot = keeper.opened.slot
        own = None if slot is None else slot.slot_id
        if Handoffs(self._store).joined_elsewhere(own, now=now):
            detail = "the keyring was handed over to a provider without this store"
            raise RequestError(
                Code.ACTION_NOT_ALLOWED, f"{detail}: ask that one, or revoke it"
            )

    def _change(
        self,
        kind: ActionKind,
        parameters: KeyringParameters | SlotParameters,
        *,
        now: int,
    ) -> KeyringChange:
        if isinstance(parameters, KeyringParameters):
            return keyring_change(kind, parameters, now=now)
        if self._slots is None:
            detail = "this provider makes no slots: use tightseal keyring slot"
            raise RequestError(Code.ACTION_NOT_ALLOWED, detail)
        return slot_change(kind, parameters, self._slots(), now=now)

    def _keeper(self) -> KeyringKeeper:
        if self._keyring is None:
            detail = "there is no keyring: the root is the platform's sealing key"
            raise RequestError(Code.ACTION_NOT_ALLOWED, detail)
        return self._keyring

    def _change_keyring(
        self,
        authorised: AuthorisedAction,
        parameters: KeyringParameters | SlotParameters,
        *,
        now: int,
    ) -> None:
        """The keyring first: its counter keeps a repetition from changing it again."""
        kind = authorised.action.kind
        if kind is ActionKind.DESTROY_GENERATION:
            assert isinstance(parameters, KeyringParameters), "checked with the form"
            assert parameters.generation is not None, "checked with the form"
            # No key may be wrapped under what is about to be destroyed.
            rewrapper = Rewrapper(self._store, self._keeper())
            rewrapper.give_up(parameters.generation, now=now)
        self._keeper().change(
            self._change(kind, parameters, now=now), expected=parameters.counter
        )
        self._store.batch([_replay_record(authorised, now=now)], now=now)

    def _commit(self, authorised: AuthorisedAction, *, now: int) -> None:
        action = authorised.action
        parameters = action.parameters
        if isinstance(parameters, KeyringParameters | SlotParameters):
            self._change_keyring(authorised, parameters, now=now)
            return
        if isinstance(parameters, RevokeParameters):
            # First: a confirmation that is under way asks for it before it brings the
            # joiner's slots in, so none comes back after they went.
            gone = revocation(self._store, parameters, now=now)
            if gone:
                self._store.batch(list(gone), now=now)
            revoke(self._keeper(), self._store, parameters, now=now)
            self._store.batch([_replay_record(authorised, now=now)], now=now)
            return
        for _ in range(MAX_ATTEMPTS):
            effect = _effect(self._store, action, now=now)
            try:
                self._store.batch(
                    [_replay_record(authorised, now=now), effect], now=now
                )
            except ServiceError as e:
                if e.code not in _LOST_RACE:
                    raise
                _refuse_replay(self._store, action, now=now)
                continue
            return
        detail = f"action: others came first {MAX_ATTEMPTS} times"
        raise ServiceError(Code.OVERLOADED, detail)


def adopted_source(store: StateStore, record_name: str, *, now: int) -> KeySource:
    """Where an adopted key is derived from.

    Args:
        store: that the adoption was done over.
        record_name: from ``Grant.adopted``.
        now: Unix seconds.

    Raises:
        PolicyError: ``adoption_missing``, where no action put a key under this name.
        ServiceError: ``state_tampered``; what else the store raises.
    """
    held = _open(store, ADOPTION_KIND, record_name, now=now)
    if held is None:
        detail = "no action has put a measured key under this name yet"
        raise PolicyError(Code.ADOPTION_MISSING, detail)
    return _adoption(held)[1]


def apply_source(path: KeyPath, source: KeySource) -> KeyPath:
    """The path of an adopted key.

    KDF, tenant, workload level and purpose are the source's. Trust domain, generation,
    protocol class, label, length and type stay the grant's: a key that was released
    under others is not found, and no other world's key can be.

    Args:
        path: as granted, under the name.
        source: of :func:`adopted_source`, for the same name.
    """
    return replace(
        path,
        kdf=source.kdf,
        tenant=source.tenant,
        workload=source.binding(),
        purpose=source.purpose,
    )


# -- the keyring ------------------------------------------------------------------


def keyring_change(
    kind: ActionKind, parameters: KeyringParameters, *, now: int
) -> KeyringChange:
    """What an action does to a keyring.

    Raises:
        KeyReleaseError: when applied: as the change itself.
    """
    number = parameters.generation
    if kind is ActionKind.DESTROY_GENERATION and number is not None:
        return lambda keyring: destroy(keyring, number, now=now)
    if kind is ActionKind.RETIRE_GENERATION and number is not None:
        return lambda keyring: retire(keyring, number, now=now)
    if kind is ActionKind.PREPARE_GENERATION:
        return lambda keyring: prepare(keyring, now=now)
    return lambda keyring: rotate(keyring, now=now)


def _require_counter(
    keyring: Keyring,
    parameters: KeyringParameters | SlotParameters | RevokeParameters,
) -> None:
    counter = keyring.header.counter
    if counter != parameters.counter:
        detail = f"keyring: counter {counter}, the action is for {parameters.counter}"
        raise ServiceError(Code.STATE_CONFLICT, detail)


# -- effects ----------------------------------------------------------------------


def _effect(store: StateStore, action: Action, *, now: int) -> Change:
    """What the store must change, beside the replay record."""
    parameters = action.parameters
    assert isinstance(parameters, KeyParameters), "no record of the store"
    if isinstance(parameters, AdoptParameters):
        return _adopt(store, action, parameters, now=now)
    transform = _USAGE[action.kind]
    return usage_change(store, parameters.record, transform, now=now)


def _adopt(
    store: StateStore, action: Action, parameters: AdoptParameters, *, now: int
) -> Change:
    """A new adoption, or one in the place of that which the operators named.

    An adoption that others made since they signed is not overwritten: the disk behind
    it would be lost without anybody having said so.
    """
    name = parameters.record
    value = encode([action.action_id, parameters.source.as_value()])
    held = _open(store, ADOPTION_KIND, name, now=now)
    if held is None:
        if parameters.replaces is not None:
            detail = f"adopt: nothing to replace, expected {parameters.replaces.hex()}"
            raise ServiceError(Code.STATE_CONFLICT, detail)
        return Create(ADOPTION_KIND, name, value)
    adopted_by, source = _adoption(held)
    if parameters.replaces == adopted_by:
        return Replace(ADOPTION_KIND, name, value, held.version)
    if parameters.replaces is not None:
        expected = parameters.replaces.hex()
        detail = f"adopt: expected an adoption by {expected}, got {adopted_by.hex()}"
        raise ServiceError(Code.STATE_CONFLICT, detail)
    if source != parameters.source:
        detail = f"adopt: the name has an adoption by {adopted_by.hex()}; name that one"
        raise ServiceError(Code.STATE_EXISTS, f"{detail} as the one to replace")
    return Expect(ADOPTION_KIND, name, held.version)


def _adoption(record: Record) -> tuple[bytes, KeySource]:
    """The id of the action that adopted, and the source."""
    try:
        value = decode(record.value)
        if isinstance(value, list) and len(value) == 2:  # noqa: PLR2004 (a pair)
            action_id, source = value
            if isinstance(action_id, bytes) and len(action_id) == ACTION_ID_BYTES:
                return action_id, source_from_value(source)
    except RequestError as e:
        raise ServiceError(Code.STATE_TAMPERED, f"adoption: {e.detail}") from e
    raise ServiceError(Code.STATE_TAMPERED, "adoption: not a record of ours")


# -- records and entries ----------------------------------------------------------


def _open(store: StateStore, kind: str, name: str, *, now: int) -> Record | None:
    """A record, or that there is none, which is the store's proven word."""
    try:
        return store.open(kind, name, now=now)
    except ServiceError as e:
        if e.code is not Code.STATE_MISSING:
            raise
        return None


def _refuse_replay(store: StateStore, action: Action, *, now: int) -> None:
    name = action.action_id.hex()
    if _open(store, ACTION_KIND, name, now=now) is not None:
        raise RequestError(Code.ACTION_REPLAYED, f"action {name} was done before")


def _replay_record(authorised: AuthorisedAction, *, now: int) -> Create:
    action = authorised.action
    value = encode([action.kind.value, str(authorised.role), now])
    return Create(ACTION_KIND, action.action_id.hex(), value)


def _entry(
    authorised: AuthorisedAction,
    *,
    entry_id: bytes,
    now: int,
    refusal: Code | None = None,
) -> JournalEntry:
    return JournalEntry(
        entry_id=entry_id,
        time=now,
        granted=refusal is None,
        protocol_class=PROTOCOL_CLASS,
        code="granted" if refusal is None else refusal.value,
        body={
            "action": authorised.action.as_value(),
            "role": str(authorised.role),
            "signers": list(authorised.signers),
        },
    )
