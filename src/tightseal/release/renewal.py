# SPDX-License-Identifier: Apache-2.0
"""A new keyring key, and everything that lies under it following along.

The keyring's file and what lies under its key (the state store, the guard against older
collateral) cannot be written in one commit. So the renewed keyring first waits beside
the old one, where the next start finds it:

    every slot opens -> renewed keyring staged beside the file, each of its slots tried
    -> each dependent sealed anew, one after the other -> renewed keyring in place
    -> nothing waits any more

A crash between two of these is ended by :func:`finish`, at the next start: where any
dependent is under the renewed key already, all go forward to it; where none is, the
renewed keyring is dropped. Each dependent is under one of the two keys at any time, and
both keyrings open by the same slots, so nothing is lost whichever way it goes.

Nobody may use the keyring meanwhile; see the callers in ``service``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Protocol

from tightseal.errors import Code, KeyReleaseError, ServiceError, TightsealError
from tightseal.keys.keyring import (
    Keyring,
    Loaded,
    Slot,
    check_saved,
    open_keyring,
    probe_slots,
    renew_key,
)
from tightseal.keys.keyring import keep as keep_keyring
from tightseal.model.slots import SlotKey
from tightseal.release.keyring import Change, KeyringKeeper, Ways

__all__ = ["Dependent", "Finished", "finish", "renew"]


class Dependent(Protocol):
    """Something of the provider's own that lies under the keyring key."""

    @property
    def name(self) -> str:
        """For the operator."""
        ...

    def there(self) -> bool:
        """Whether there is one at all."""
        ...

    def opens(self, keyring: Keyring) -> bool:
        """Whether it is there, and under this keyring's key."""
        ...

    def reseal(self, before: Keyring, after: Keyring) -> None:
        """Seal it under another key, durably, at once or not at all.

        Raises:
            TightsealError: it is not as it was written, or cannot be written.
        """
        ...


class Finished(StrEnum):
    """What became of a renewal that was broken off."""

    NOTHING = "nothing"
    """There was none."""

    FORWARD = "forward"
    """The renewed keyring is in place, and everything is under its key."""

    BACK = "back"
    """Nothing was under the renewed key yet; the keyring is as before."""


def renew(
    ways: Ways,
    dependents: Sequence[Dependent],
    *,
    slot_key: Callable[[Slot], SlotKey],
    now: int,
    first: Change = lambda keyring: keyring,
) -> KeyringKeeper:
    """Give the keyring a new key, and seal everything under it anew.

    Args:
        ways: how it is opened.
        dependents: everything that lies under its key, in an order that never changes:
            what decides after a crash comes first.
        slot_key: what makes a slot of the keyring anew.
        now: Unix seconds.
        first: a change to be made in the same step, such as a rotation, or taking out
            slots that cannot be made here.

    Returns:
        the keeper of the renewed keyring.

    Raises:
        KeyReleaseError: ``slot_unavailable``, where a slot does not open or cannot be
            made here; what ``first`` refuses. Nothing was changed then.
        TightsealError: after the renewed keyring was staged; the next ``finish`` goes
            forward or back.
    """
    keeper = KeyringKeeper(ways)
    before, loaded = keeper.keyring, ways.file.load()
    changed = first(before)
    _require_all(changed, ways, "make it anew, or remove it, first")
    keys = {slot.slot_id: slot_key(slot) for slot in changed.slots}
    after = renew_key(changed, keys, now=now)
    try:
        _require_all(after, ways, "made anew, and does not open again")
        for dependent in dependents:
            if dependent.there() and not dependent.opens(before):
                raise _not_ours(dependent)
        ways.file.stage(
            after.seal(), lambda data: check_saved(data, after), replaces=loaded
        )
        for dependent in dependents:
            if dependent.there():
                dependent.reseal(before, after)
        keeper.change(lambda _: after, expected=before.header.counter)
    except BaseException:
        after.wipe()
        raise
    before.wipe()
    # It is in place; what is left beside it is dropped at the next start.
    with suppress(ServiceError):
        ways.file.unstage()
    return keeper


def finish(ways: Ways, dependents: Sequence[Dependent]) -> Finished:
    """End a renewal that was broken off; cheap where there is none.

    Args:
        ways: as of ``renew``.
        dependents: likewise, in the same order.

    Raises:
        KeyReleaseError: the keyring does not open here, or the one that waits does not
            while something is under its key.
        TightsealError: a dependent cannot be read or written; call it again.
    """
    waiting = ways.file.staged()
    if waiting is None:
        return Finished.NOTHING
    loaded = ways.file.load()
    if loaded.digest == waiting.digest:
        ways.file.unstage()
        return Finished.FORWARD
    before = _opened(loaded, ways)
    try:
        return _decide(ways, dependents, waiting, loaded, before)
    finally:
        before.wipe()


def _decide(
    ways: Ways,
    dependents: Sequence[Dependent],
    waiting: Loaded,
    loaded: Loaded,
    before: Keyring,
) -> Finished:
    there = [dependent for dependent in dependents if dependent.there()]
    behind = [dependent for dependent in there if dependent.opens(before)]
    if len(behind) == len(there):
        ways.file.unstage()
        return Finished.BACK
    after = _opened(waiting, ways)
    try:
        _check_follows(before, after)
        for dependent in there:
            if dependent not in behind and not dependent.opens(after):
                raise _not_ours(dependent)
        for dependent in behind:
            dependent.reseal(before, after)
        keep_keyring(ways.file, after, replaces=loaded, anchor=None)
    finally:
        after.wipe()
    ways.file.unstage()
    return Finished.FORWARD


def _opened(loaded: Loaded, ways: Ways) -> Keyring:
    return open_keyring(
        loaded.data, terms=ways.terms, slot_keys=ways.slot_keys, anchor=None
    ).keyring


def _check_follows(before: Keyring, after: Keyring) -> None:
    """The host can put any file of ours beside the keyring."""
    ours, next_one = before.header, after.header
    if ours.keyring_id != next_one.keyring_id:
        detail = f"beside it waits keyring {next_one.keyring_id.hex()}"
        raise KeyReleaseError(Code.KEYRING_MISMATCH, detail)
    if next_one.counter <= ours.counter:
        detail = f"counter {next_one.counter} waits beside {ours.counter}"
        raise KeyReleaseError(Code.KEYRING_ROLLED_BACK, detail)


def _require_all(keyring: Keyring, ways: Ways, what: str) -> None:
    """A slot that is lost with its old key would be lost for good."""
    for probe in probe_slots(keyring, ways.slot_keys):
        if probe.refusal:
            detail = f"{probe.slot}: {what}: {probe.refusal}"
            raise KeyReleaseError(Code.SLOT_UNAVAILABLE, detail)


def _not_ours(dependent: Dependent) -> TightsealError:
    detail = f"{dependent.name}: not under this keyring's key; nothing was changed"
    return ServiceError(Code.STATE_TAMPERED, detail)
