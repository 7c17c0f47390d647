# SPDX-License-Identifier: Apache-2.0
"""Taking a provider's way to the keyring away: its slots go, and the roots move on.

It knew the keyring key and every root. What it may still open afterwards is said by
``STILL_KNOWN``, to whoever revokes.
"""

from __future__ import annotations

from typing import Final

from tightseal.keys.keyring import Keyring, remove_slot, rotate
from tightseal.model.action import RevokeParameters
from tightseal.model.state import Change, StateStore
from tightseal.release.handoffs import Handoffs
from tightseal.release.keyring import Change as KeyringChange
from tightseal.release.keyring import KeyringKeeper
from tightseal.release.rewrap import Rewrapper

__all__ = ["STILL_KNOWN", "revocation", "revoke", "slots_gone"]

STILL_KNOWN: Final = (
    "it knew every root until now and the keyring key: old data stays readable to it"
    " until it is written anew under the new generation, and whoever has its memory and"
    " a copy of the new keyring file opens that too until the key was renewed:"
    " tightseal keyring renew-key"
)
"""What to say with every revocation."""


def revoke(
    keeper: KeyringKeeper, store: StateStore, parameters: RevokeParameters, *, now: int
) -> None:
    """Remove the slots, rotate, and close the generation before to wrapped keys.

    The invitation was marked before. A crash after the change of the keyring leaves the
    floor where it was, and the counter refuses the same action again: another one,
    which names the invitation and no slots, rotates once more and raises it.

    Raises:
        KeyReleaseError: ``slot_unavailable``, for a slot that is not there;
            ``slot_last``; ``generation_not_allowed``.
        ServiceError: ``state_conflict``, where the counter is another one; what file
            and store raise.
    """
    keeper.change(
        slots_gone(parameters, working=keeper.working, now=now),
        expected=parameters.counter,
    )
    current = keeper.generations().current
    Rewrapper(store, keeper).close(current - 1, now=now)


def slots_gone(
    parameters: RevokeParameters, *, working: frozenset[bytes], now: int
) -> KeyringChange:
    """The change of the keyring alone.

    Args:
        parameters: which slots.
        working: slots that opened here; one of them must remain.
        now: Unix seconds.
    """

    def change(keyring: Keyring) -> Keyring:
        for slot_id in parameters.slots:
            keyring = remove_slot(keyring, slot_id, working=working, now=now)
        return rotate(keyring, now=now)

    return change


def revocation(
    store: StateStore, parameters: RevokeParameters, *, now: int
) -> tuple[Change, ...]:
    """What the store must change: the invitation, where one is named.

    Raises:
        ServiceError: what the store raises.
    """
    if parameters.invitation is None:
        return ()
    return (Handoffs(store).revocation(parameters.invitation, now=now),)
