# SPDX-License-Identifier: Apache-2.0
"""``tightseal keyring renew-key``: a new keyring key, and all that lies under it."""

from __future__ import annotations

from typing import Annotated, Final

from cyclopts import Parameter

from tightseal.cli import ui
from tightseal.cli.keyring_open import (
    JsonFlag,
    Place,
    Where,
    agreed,
    clock,
    find_slot,
    place_of,
)
from tightseal.errors import Code
from tightseal.keys.keyring import (
    Keyring,
    Slot,
    probe_slots,
    remove_slot,
    rotate,
    working,
)
from tightseal.model.canonical import Value
from tightseal.release.renewal import Finished
from tightseal.service.renewal import finish_renewal, renew_keyring

__all__ = ["renew_key"]

BEFORE: Final = (
    "every provider that uses this keyring or its state must be stopped; those on other"
    " machines, and enclaves with locks of their own, are not seen from here"
)
"""What the command cannot see."""

AFTER: Final = (
    "copies of the file from before still open by their slots, and give the old key;"
    " it opens nothing that is written from now on. Roots are the same: rotate where"
    " somebody knew them"
)
"""What it does not do."""


def renew_key(
    *,
    rotated: Annotated[bool, Parameter("--rotate")] = False,
    remove: Annotated[tuple[str, ...], Parameter("--remove")] = (),
    stopped: bool = False,
    yes: bool = False,
    where: Where | None = None,
    as_json: JsonFlag = False,
) -> int:
    """Give the keyring a new key while no provider runs: 0 done, 1 not.

    Every root is sealed and every slot made anew; the state store and the guard against
    older collateral follow. Whoever knew the old key, by a slot that was removed or as
    a provider, cannot open what is written afterwards. All slots have to open here. A
    crash loses nothing: the next start, or this command, ends what was begun.

    Args:
        rotated: make a new current generation too, since somebody knew the roots. Under
            a policy root that takes a signed action.
        remove: a slot that goes in the same step, such as another machine's; its id, or
            the first 8 digits of it; may be given again.
        stopped: every provider is stopped, whatever sessions the database shows.
        yes: do not ask.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    place = place_of(where)
    if rotated:
        place.require_unsigned(Code.GENERATION_NOT_ALLOWED, "rotate-keyring")
    ended = finish_renewal(place.settings, lambda: place.ways)
    if ended is not Finished.NOTHING:
        ui.note(f"a renewal that was broken off was ended first: {ended.value}")
    slots, keyring_id = _removed(place, remove)
    if not as_json and not yes:
        _show(keyring_id, slots, rotated=rotated)
    if not agreed("renew the key?", yes=yes, as_json=as_json):
        ui.note("nothing was changed")
        return ui.EXIT_NO
    keyring = _renewed(place, slots, rotated=rotated, stopped=stopped)
    return _told(keyring, slots, as_json=as_json)


def _removed(place: Place, texts: tuple[str, ...]) -> tuple[tuple[Slot, ...], bytes]:
    """The slots that are to go, and the keyring's id."""
    keyring = place.keeper().keyring
    try:
        found = tuple(find_slot(keyring, text) for text in texts)
        return tuple(dict.fromkeys(found)), keyring.header.keyring_id
    finally:
        keyring.wipe()


def _renewed(
    place: Place, slots: tuple[Slot, ...], *, rotated: bool, stopped: bool
) -> Keyring:
    now, ways = clock(), place.ways

    def first(keyring: Keyring) -> Keyring:
        for slot in slots:
            good = working(probe_slots(keyring, ways.slot_keys))
            keyring = remove_slot(keyring, slot.slot_id, working=good, now=now)
        return rotate(keyring, now=now) if rotated else keyring

    named: list[Value] = [slot.slot_id for slot in slots]
    told: dict[str, Value] = {"rotate": rotated, "removed": named}
    keeper = renew_keyring(
        place.settings,
        ways,
        slot_key=place.slots.of,
        clock=clock,
        first=first,
        record=lambda keyring: place.entered(keyring, "renew-key", now, **told),
        stopped=stopped,
    )
    return keeper.keyring


def _show(keyring_id: bytes, slots: tuple[Slot, ...], *, rotated: bool) -> None:
    ui.verdict("to renew", "the keyring key", tone="unsure")
    ui.facts(
        [
            ("keyring id", f"{keyring_id.hex()}, which stays"),
            ("removed", ", ".join(map(str, slots)) or "no slot"),
            ("rotated", "yes" if rotated else "no"),
        ]
    )
    ui.note(BEFORE)


def _told(keyring: Keyring, slots: tuple[Slot, ...], *, as_json: bool) -> int:
    header = keyring.header
    if as_json:
        ui.print_json(
            {
                "done": "renewed",
                "keyring_id": header.keyring_id.hex(),
                "counter": header.counter,
                "current": keyring.current.number,
                "removed": [slot.slot_id.hex() for slot in slots],
                "slots_left": len(keyring.slots),
                "remark": AFTER,
            }
        )
        return ui.EXIT_YES
    ui.verdict("renewed", "the keyring key", tone="yes")
    ui.facts(
        [
            ("current", str(keyring.current.number)),
            ("slots now", str(len(keyring.slots))),
            ("counter", str(header.counter)),
            ("not undone", AFTER),
            ("next", "copy the file and back up the state: older copies do not fit"),
        ]
    )
    return ui.EXIT_YES
