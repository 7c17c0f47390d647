# SPDX-License-Identifier: Apache-2.0
"""Rotation by age: a provider moves on by itself once others signed that it is due.

The host's clock may delay a rotation and cannot bring one forward: a generation is old
once *signed* time (collateral, bundles) has reached its end. The next one begins at
that time, so there is at most one rotation for each span of signed time, and a host
that turns its clock burns no generations.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from tightseal.errors import TightsealError
from tightseal.keys.keyring import Keyring, rotate
from tightseal.model.canonical import Value
from tightseal.release.actions import ENTRY_ID_BYTES, Log
from tightseal.release.changes import ChangeBy, KeyringChange
from tightseal.release.keyring import KeyringKeeper

__all__ = ["DAY_SECONDS", "due", "rotate_by_age"]

DAY_SECONDS: Final = 86_400


def due(keyring: Keyring, *, days: int, signed_time: int) -> bool:
    """Whether the current generation has reached its age.

    Args:
        keyring: a branch has its roots from its parent, and is never due.
        days: after which it is; 0 for never.
        signed_time: the newest time that others have signed, Unix seconds.
    """
    if not days or keyring.header.branch is not None:
        return False
    began = keyring.current.activated_at
    assert began is not None, "a current generation was activated"
    return signed_time >= began + days * DAY_SECONDS


def rotate_by_age(
    keeper: KeyringKeeper,
    *,
    days: int,
    signed_time: int,
    log: Log,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
) -> Keyring | None:
    """Rotate where the current generation is old; journal first.

    Several workers and providers of one file may try at once: one of them rotates.

    Args:
        keeper: of the keyring.
        days: as of ``due``.
        signed_time: likewise; also the date of the change.
        log: the journal; returns once an entry is durable.
        entropy: random bytes, for entry ids; replaced in tests.

    Returns:
        the keyring after it; ``None`` where nothing was due.

    Raises:
        KeyReleaseError: ``generation_not_allowed``, where the keyring had as many as it
            can.
        ServiceError: ``state_conflict``, where somebody else changed it meanwhile;
            ``journal_failed``; what the file raises.
    """
    keyring = keeper.keyring
    if not due(keyring, days=days, signed_time=signed_time):
        return None
    parameters: dict[str, Value] = {"days": days, "signed_time": signed_time}
    change = KeyringChange("rotate-keyring", ChangeBy.AGE, keyring.header, parameters)
    log(change.entry(entry_id=entropy(ENTRY_ID_BYTES), now=signed_time))
    try:
        return keeper.change(
            partial(rotate, now=signed_time), expected=keyring.header.counter
        )
    except TightsealError as e:
        again = entropy(ENTRY_ID_BYTES)
        with suppress(TightsealError):
            log(change.entry(entry_id=again, now=signed_time, refusal=e.code))
        raise
