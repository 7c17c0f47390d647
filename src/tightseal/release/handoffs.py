# SPDX-License-Identifier: Apache-2.0
"""What is remembered of each invitation: who used it, and how that went.

    nothing -> sent -> confirmed -> revoked

An invitation is bound to the first platform that uses it. Until that provider has
confirmed it may try again, since nothing is gained by a second copy of what it has; so
a crash on its side costs no new round of signatures.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from tightseal.errors import Code, PolicyError, RequestError, ServiceError
from tightseal.model.canonical import Value, decode, encode
from tightseal.model.claims import PlatformIdentity
from tightseal.model.state import Change, Create, Record, Replace, StateStore

__all__ = ["HANDOFF_KIND", "Handoff", "HandoffState", "Handoffs", "platform_value"]

HANDOFF_KIND: Final = "handoff"
"""Kind of the records, named by the invitation's id in hex."""

MAX_ATTEMPTS: Final = 16
"""Most times that a record is written while others come first."""

_FORM: Final = 1
_LOST_RACE: Final = frozenset({Code.STATE_CONFLICT, Code.STATE_EXISTS})


class HandoffState(StrEnum):
    """How far it went."""

    SENT = "sent"
    """The keyring crossed; whether it arrived is not known."""

    CONFIRMED = "confirmed"
    """The joiner's own slot opened what it wrote."""

    REVOKED = "revoked"
    """Nothing is handed over by this invitation any more."""


@dataclass(frozen=True, slots=True)
class Handoff:
    """One invitation that was used.

    Attributes:
        state: how far it went.
        platform: as of :func:`platform_value`; ``None`` where the evidence names none.
        transcript_hash: of the newest exchange, 64 bytes.
        confirm_key: of that exchange, 32 bytes.
        joiner: the joiner's identity, as its canonical value.
        tenant: whose branch crossed; ``None`` for the whole keyring.
        slots: ids of the slots that the joiner made; empty before it confirmed.
        generations: how many the confirmed copy has; 0 before it confirmed.
        changed_at: Unix seconds by the provider's clock.
    """

    state: HandoffState
    platform: bytes | None
    transcript_hash: bytes
    confirm_key: bytes
    joiner: Value
    tenant: str | None
    slots: tuple[bytes, ...]
    changed_at: int
    generations: int = 0

    @classmethod
    def void(cls, now: int) -> Handoff:
        """Of an invitation that was revoked before anybody used it."""
        return cls(HandoffState.REVOKED, None, b"", b"", None, None, (), now)

    def encode(self) -> bytes:
        """The record's value."""
        return encode(
            [
                _FORM,
                self.state.value,
                self.platform,
                self.transcript_hash,
                self.confirm_key,
                self.joiner,
                self.tenant,
                list(self.slots),
                self.changed_at,
                self.generations,
            ]
        )

    @classmethod
    def decode(cls, data: bytes) -> Handoff:
        """Read a record's value.

        Raises:
            ServiceError: ``state_tampered``.
        """
        try:
            value = decode(data)
        except RequestError as e:
            raise _strange() from e
        match value:
            case [
                1,
                str(state),
                bytes() | None as platform,
                bytes(transcript),
                bytes(key),
                joiner,
                str() | None as tenant,
                [*slots],
                int(changed_at),
                int(generations),
            ] if state in set(HandoffState) and all(
                isinstance(slot, bytes) for slot in slots
            ):
                return cls(
                    HandoffState(state),
                    platform,
                    transcript,
                    key,
                    joiner,
                    tenant,
                    tuple(slot for slot in slots if isinstance(slot, bytes)),
                    changed_at,
                    generations,
                )
        raise _strange()


def platform_value(platform: PlatformIdentity) -> bytes | None:
    """What tells a machine from others, as bytes; ``None`` where nothing does."""
    if platform.ppid is None and platform.chip_id is None:
        return None
    return encode([platform.ppid, platform.piid, platform.chip_id])


class Handoffs:
    """The records, over one state store. Safe for threads and processes.

    Args:
        store: where they lie.
    """

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def check(self, invitation: bytes, platform: bytes | None, *, now: int) -> None:
        """Refuse an invitation that this platform cannot use (any more).

        Raises:
            PolicyError: ``provider_revoked``, ``invitation_used``.
            ServiceError: what the store raises.
        """
        held = self._open(invitation, now=now)
        if held is not None:
            _require_usable(Handoff.decode(held.value), platform)

    def send(self, invitation: bytes, handoff: Handoff, *, now: int) -> None:
        """Bind an invitation to this exchange, before anything crosses.

        Raises:
            PolicyError: as :meth:`check`.
            ServiceError: what the store raises; ``overloaded``.
        """
        for _ in range(MAX_ATTEMPTS):
            held = self._open(invitation, now=now)
            change: Change = Create(HANDOFF_KIND, invitation.hex(), handoff.encode())
            if held is not None:
                _require_usable(Handoff.decode(held.value), handoff.platform)
                change = _replaced(held, handoff)
            if self._written(change, now=now):
                return
        raise _overtaken()

    def sent(self, invitation: bytes, *, now: int) -> Handoff:
        """A handoff that took place.

        Raises:
            RequestError: ``handoff_unknown``.
            PolicyError: ``provider_revoked``.
            ServiceError: what the store raises.
        """
        held = self._open(invitation, now=now)
        if held is None:
            detail = f"invitation {invitation.hex()}: nothing was handed over by it"
            raise RequestError(Code.HANDOFF_UNKNOWN, detail)
        handoff = Handoff.decode(held.value)
        _require_not_revoked(handoff)
        return handoff

    def confirm(
        self,
        invitation: bytes,
        *,
        transcript_hash: bytes,
        slots: tuple[bytes, ...],
        generations: int,
        now: int,
    ) -> None:
        """Note that the joiner opens what it wrote. Doing so again changes nothing.

        Raises:
            RequestError: ``handoff_unknown``, also where a later exchange took its
                place.
            PolicyError: ``provider_revoked``.
            ServiceError: what the store raises; ``overloaded``.
        """
        for _ in range(MAX_ATTEMPTS):
            held = self._open(invitation, now=now)
            before = None if held is None else Handoff.decode(held.value)
            if held is None or before is None:
                detail = f"invitation {invitation.hex()}: nothing was handed over"
                raise RequestError(Code.HANDOFF_UNKNOWN, detail)
            if before.transcript_hash != transcript_hash:
                detail = f"invitation {invitation.hex()}: a later exchange counts"
                raise RequestError(Code.HANDOFF_UNKNOWN, detail)
            if before.state is HandoffState.CONFIRMED:
                return
            _require_not_revoked(before)
            after = replace(
                before,
                state=HandoffState.CONFIRMED,
                slots=slots,
                changed_at=now,
                generations=generations,
            )
            if self._written(_replaced(held, after), now=now):
                return
        raise _overtaken()

    def revocation(self, invitation: bytes, *, now: int) -> Change:
        """What revokes an invitation, used or not; to be part of a batch.

        Raises:
            ServiceError: what the store raises.
        """
        held = self._open(invitation, now=now)
        if held is None:
            void = Handoff.void(now)
            return Create(HANDOFF_KIND, invitation.hex(), void.encode())
        before = Handoff.decode(held.value)
        return _replaced(
            held, replace(before, state=HandoffState.REVOKED, changed_at=now)
        )

    def confirmed(self, *, now: int) -> tuple[Handoff, ...]:
        """Every whole keyring that another provider has confirmed to open.

        Raises:
            ServiceError: what the store raises.
        """
        found = (
            Handoff.decode(r.value) for r in self._store.scan(HANDOFF_KIND, now=now)
        )
        return tuple(
            h for h in found if h.state is HandoffState.CONFIRMED and h.tenant is None
        )

    def joined_elsewhere(self, own: bytes | None, *, now: int) -> bool:
        """Whether another provider joined last, so that the keyring goes on there.

        Two that share no state, and each make generations in a copy of their own, would
        have two of one number. After a handoff the one that joined last goes on.

        Args:
            own: id of the slot that opened the keyring here, if one did.
            now: Unix seconds.

        Raises:
            ServiceError: what the store raises.
        """
        last = max(
            self.confirmed(now=now), key=lambda h: (h.changed_at, h.slots), default=None
        )
        return last is not None and own not in last.slots

    def withdraw(self, slots: Collection[bytes], *, now: int) -> None:
        """Note that the provider with these slots is gone: it is nobody's successor.

        Raises:
            ServiceError: what the store raises; it can be repeated.
        """
        for record in self._store.scan(HANDOFF_KIND, now=now):
            before = Handoff.decode(record.value)
            confirmed = before.state is HandoffState.CONFIRMED
            if confirmed and not set(before.slots).isdisjoint(slots):
                gone = replace(before, state=HandoffState.REVOKED, changed_at=now)
                self._store.batch([_replaced(record, gone)], now=now)

    def _open(self, invitation: bytes, *, now: int) -> Record | None:
        try:
            return self._store.open(HANDOFF_KIND, invitation.hex(), now=now)
        except ServiceError as e:
            if e.code is not Code.STATE_MISSING:
                raise
            return None

    def _written(self, change: Change, *, now: int) -> bool:
        try:
            self._store.batch([change], now=now)
        except ServiceError as e:
            if e.code not in _LOST_RACE:
                raise
            return False
        return True


def _replaced(held: Record, after: Handoff) -> Replace:
    return Replace(HANDOFF_KIND, held.name, after.encode(), held.version)


def _require_usable(before: Handoff, platform: bytes | None) -> None:
    _require_not_revoked(before)
    if before.state is HandoffState.CONFIRMED:
        detail = f"the invitation was used up at {before.changed_at}"
        raise PolicyError(Code.INVITATION_USED, detail)
    if platform is None or platform != before.platform:
        # An absent identity matches nothing, not even itself.
        detail = "the invitation was begun on another platform, or on one without id"
        raise PolicyError(Code.INVITATION_USED, detail)


def _require_not_revoked(before: Handoff) -> None:
    if before.state is HandoffState.REVOKED:
        detail = f"the invitation was revoked at {before.changed_at}"
        raise PolicyError(Code.PROVIDER_REVOKED, detail)


def _overtaken() -> ServiceError:
    detail = f"handoff: others came first {MAX_ATTEMPTS} times"
    return ServiceError(Code.OVERLOADED, detail)


def _strange() -> ServiceError:
    return ServiceError(Code.STATE_TAMPERED, "handoff: not a record of ours")
