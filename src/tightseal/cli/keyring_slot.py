# SPDX-License-Identifier: Apache-2.0
"""``tightseal keyring slot``: the independent ways to open a keyring."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final, Literal

from cyclopts import App, Parameter

from tightseal.cli import ui
from tightseal.cli.keyring_open import (
    JsonFlag,
    Where,
    asked,
    clock,
    find_slot,
    label_of,
    place_of,
)
from tightseal.cli.keyring_show import (
    TAKES_OVER,
    SlotState,
    show_slots,
    slots_json,
    tried,
)
from tightseal.keys.keyring import (
    Keyring,
    probe_slots,
    remove_slot,
    working,
)
from tightseal.model.slots import SlotClass
from tightseal.service.ownkeyring import rewrapped, with_slot

__all__ = ["slot_app"]

slot_app = App(
    name="slot",
    help="Add, remove and test the slots of a keyring.",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)

REMOVED: Final = (
    "older copies of the file still open by it, and give the keyring key, which opens"
    " later versions too"
)
"""What removing a slot does not do."""


@slot_app.command
@asked
def add(
    *,
    slot_class: Annotated[
        Literal["gramine", "sgx", "snp", "passphrase", "tpm2"], Parameter("--class")
    ],
    beside: Annotated[
        tuple[Literal["tpm2", "passphrase"], ...], Parameter("--with")
    ] = (),
    label: str = "",
    where: Where | None = None,
    as_json: JsonFlag = False,
) -> int:
    """Add a slot. It is opened before it is kept.

    Args:
        slot_class: where its key comes from.
        beside: a second factor, without which it does not open; may be given again.
        label: for people.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    name = label_of(label)
    place = place_of(where)
    keeper, now = place.keeper(), clock()
    classes = [SlotClass(slot_class), *(SlotClass(factor) for factor in beside)]
    slot_key = place.new_slot(*classes)

    change = partial(with_slot, slot_key=slot_key, label=name, now=now)
    keyring = keeper.change(change)
    added = SlotState(keyring.slots[-1], opens=True)
    status = _told("added", [added], keyring, as_json=as_json)
    named = place.settings.host.keyring.passphrase_file
    if SlotClass.PASSPHRASE in classes and not named:
        ui.note(
            "the provider opens this slot only where host.keyring.passphrase_file names"
            " the passphrase; these commands take --passphrase-file"
        )
    return status


@slot_app.command
@asked
def remove(
    slot_id: str, /, *, where: Where | None = None, as_json: JsonFlag = False
) -> int:
    """Remove a slot. Tests the others first; the last one that works stays.

    Args:
        slot_id: its id, or the first 8 digits of it.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    place = place_of(where)
    keeper, now = place.keeper(), clock()
    slot = find_slot(keeper.keyring, slot_id)
    slot_keys = place.ways.slot_keys

    def change(keyring: Keyring) -> Keyring:
        good = working(probe_slots(keyring, slot_keys))
        return remove_slot(keyring, slot.slot_id, working=good, now=now)

    keyring = keeper.change(change)
    gone = SlotState(slot, opens=None)
    return _told("removed", [gone], keyring, as_json=as_json, remark=REMOVED)


@slot_app.command(name="test")
@asked
def try_all(
    slot_id: str | None = None,
    /,
    *,
    where: Where | None = None,
    as_json: JsonFlag = False,
) -> int:
    """Try slots: 0 all open here, 1 one does not, with the reason.

    Says which ones should be made anew with rewrap.

    Args:
        slot_id: of one slot, or the first 8 digits of it; all by default.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    place = place_of(where)
    keyring = place.keeper().keyring
    only = None if slot_id is None else find_slot(keyring, slot_id)
    states = tried(keyring, place.ways.slot_keys)
    if only is not None:
        states = tuple(s for s in states if s.slot.slot_id == only.slot_id)
    good = sum(state.opens is True for state in states)
    whole = good == len(states)
    if as_json:
        ui.print_json({"in_order": whole, "slots": slots_json(states)})
    else:
        word = "in order" if whole else "not in order"
        about = f"{good} of {len(states)} slots open here"
        ui.verdict(word, about, tone="yes" if whole else "no")
        show_slots(states)
        if not whole:
            ui.note(
                "where one will not open again: slot rewrap ID makes it anew from what"
                " is here now, slot remove ID takes it away"
            )
    return ui.EXIT_YES if whole else ui.EXIT_NO


@slot_app.command
@asked
def rewrap(
    slot_id: str, /, *, where: Where | None = None, as_json: JsonFlag = False
) -> int:
    """Make a slot anew from what is here now, under the same id.

    After a microcode or firmware update, and for a slot that no longer opens while
    another one does.

    Args:
        slot_id: its id, or the first 8 digits of it.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    place = place_of(where)
    keeper, now = place.keeper(), clock()
    slot = find_slot(keeper.keyring, slot_id)
    slot_key = place.slots.of(slot)

    change = partial(rewrapped, slot=slot, slot_key=slot_key, now=now)
    keyring = keeper.change(change)
    made = SlotState(keyring.slot(slot.slot_id), opens=True)
    remark = "older copies of the file still open by the slot as it was"
    return _told("made anew", [made], keyring, as_json=as_json, remark=remark)


def _told(
    word: str,
    states: list[SlotState],
    keyring: Keyring,
    *,
    as_json: bool,
    remark: str = "",
) -> int:
    """What a change did to a slot."""
    slot = states[0].slot
    if as_json:
        document: dict[str, Any] = {
            "done": word,
            "keyring_id": keyring.header.keyring_id.hex(),
            "counter": keyring.header.counter,
            "slot": slots_json(states)[0],
            "slots_left": len(keyring.slots),
            "remark": remark,
        }
        ui.print_json(document)
        return ui.EXIT_YES
    ui.verdict(word, str(slot), tone="yes")
    ui.facts(
        [
            ("slot id", slot.slot_id.hex()),
            ("slots now", str(len(keyring.slots))),
            ("counter", str(keyring.header.counter)),
            ("running provider", TAKES_OVER),
            *([("not undone", remark)] if remark else []),
        ]
    )
    return ui.EXIT_YES
