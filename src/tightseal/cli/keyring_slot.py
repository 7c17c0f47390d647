# SPDX-License-Identifier: Apache-2.0
"""``tightseal keyring slot``: the independent ways to open a keyring."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final, Literal

from cyclopts import App, Parameter

from tightseal.cli import ui
from tightseal.cli.keyring_open import (
    ClassName,
    JsonFlag,
    Where,
    agreed,
    asked,
    clock,
    find_slot,
    label_of,
    place_of,
)
from tightseal.cli.keyring_show import (
    ONLY_THROUGH_PROVIDERS,
    TAKES_OVER,
    SlotState,
    show_slots,
    slots_json,
    tried,
    untried,
)
from tightseal.cli.verify import UsageError
from tightseal.errors import Code
from tightseal.keys.keyring import (
    DamagedSlots,
    Keyring,
    probe_slots,
    remove_slot,
    without_damaged,
    working,
)
from tightseal.model.canonical import Value
from tightseal.model.slots import SlotClass
from tightseal.service.ownkeyring import rewrapped, with_slot
from tightseal.service.slotkeys import only_through_providers

__all__ = ["slot_app"]

slot_app = App(
    name="slot",
    help="Add, remove and test the slots of a keyring.",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)

SIGNER: Final = (
    "whoever has the enclave's signing key can build an enclave that opens this slot,"
    " and with it every generation: guard that key as the roots themselves"
)
"""What a slot of the signer means."""

DAMAGED: Final = (
    "what the file says of them is not proven; a copy of the file from before has them"
    " as they were: bring it back instead, if it is the newest"
)
"""What to know before damaged slots are dropped."""

REMOVED: Final = (
    "older copies of the file still open by it, and give the keyring key, which opens"
    " later versions too"
)
"""What removing a slot does not do."""


@slot_app.command
@asked
def add(
    *,
    slot_class: Annotated[ClassName, Parameter("--class")],
    beside: Annotated[
        tuple[Literal["tpm2", "passphrase"], ...], Parameter("--with")
    ] = (),
    signer: bool = False,
    label: str = "",
    where: Where | None = None,
    as_json: JsonFlag = False,
) -> int:
    """Add a slot. It is opened before it is kept.

    Under a policy root it takes a signed action.

    Args:
        slot_class: where its key comes from.
        beside: a second factor, without which it does not open; may be given again.
        signer: gramine and sgx: for every enclave of the signer, where release settings
            allow it. Whoever has the signing key can build an enclave that opens it.
        label: for people.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    name = label_of(label)
    place = place_of(where)
    place.require_unsigned(Code.SLOT_NOT_ALLOWED, "add-slot")
    keeper, now = place.changer(), clock()
    classes = [SlotClass(slot_class), *(SlotClass(factor) for factor in beside)]
    slot_key = place.new_slot(*classes, signer=signer)

    change = partial(with_slot, slot_key=slot_key, label=name, now=now)
    names: list[Value] = [factor.value for factor in classes]
    told: dict[str, Value] = {"factors": names, "label": name, "signer": signer}
    with place.recorded(keeper.keyring, "add-slot", now, **told):
        keyring = keeper.change(change)
    added = SlotState(keyring.slots[-1], opens=True)
    status = _told("added", [added], keyring, as_json=as_json)
    named = place.settings.host.keyring.passphrase_file
    if SlotClass.PASSPHRASE in classes and not named:
        ui.note(
            "the provider opens this slot only where host.keyring.passphrase_file names"
            " the passphrase; these commands take --passphrase-file"
        )
    if signer:
        ui.note(SIGNER)
    if only_through_providers(keyring.slots):
        ui.note(ONLY_THROUGH_PROVIDERS)
    return status


@slot_app.command
@asked
def remove(
    slot_id: str, /, *, where: Where | None = None, as_json: JsonFlag = False
) -> int:
    """Remove a slot. Tests the others first; the last one that works stays.

    Under a policy root it takes a signed action.

    Args:
        slot_id: its id, or the first 8 digits of it.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    place = place_of(where)
    place.require_unsigned(Code.SLOT_NOT_ALLOWED, "remove-slot")
    keeper, now = place.changer(), clock()
    slot = find_slot(keeper.keyring, slot_id)
    slot_keys = place.ways.slot_keys

    def change(keyring: Keyring) -> Keyring:
        good = working(probe_slots(keyring, slot_keys))
        return remove_slot(keyring, slot.slot_id, working=good, now=now)

    with place.recorded(keeper.keyring, "remove-slot", now, slot=slot.slot_id):
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
    another one does. Under a policy root it takes a signed action.

    Args:
        slot_id: its id, or the first 8 digits of it.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    place = place_of(where)
    place.require_unsigned(Code.SLOT_NOT_ALLOWED, "renew-slots")
    keeper, now = place.changer(), clock()
    slot = find_slot(keeper.keyring, slot_id)
    slot_key = place.slots.of(slot)

    change = partial(rewrapped, slot=slot, slot_key=slot_key, now=now)
    with place.recorded(keeper.keyring, "renew-slots", now, slot=slot.slot_id):
        keyring = keeper.change(change)
    made = SlotState(keyring.slot(slot.slot_id), opens=True)
    remark = "older copies of the file still open by the slot as it was"
    return _told("made anew", [made], keyring, as_json=as_json, remark=remark)


@slot_app.command(name="drop-damaged")
@asked
def drop_damaged(
    *, yes: bool = False, where: Where | None = None, as_json: JsonFlag = False
) -> int:
    """Open without slots that are not as they were written: 0 dropped, 1 not.

    Damage, and a slot put there by whoever keeps the file, look alike: so the keyring
    does not open until an operator has seen which slots they are. Another slot has to
    open. Generations, header and the other slots are proven to be as written.

    Args:
        yes: do not ask.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    place = place_of(where)
    keeper, now = place.changer(damaged=DamagedSlots.LEAVE_OUT), clock()
    before, damaged = keeper.keyring, keeper.opened.damaged
    if not damaged:
        message = "every slot is as it was written: there is nothing to drop"
        raise UsageError(message)
    states = untried(damaged)
    if not as_json and not yes:
        ui.verdict("to drop", f"{len(damaged)} damaged slots", tone="unsure")
        show_slots(states)
        ui.note(DAMAGED)
    if not agreed("drop them?", yes=yes, as_json=as_json):
        ui.note("nothing was dropped")
        return ui.EXIT_NO
    named: list[Value] = [slot.slot_id for slot in damaged]
    with place.recorded(before, "drop-damaged-slots", now, slots=named):
        keyring = keeper.change(
            partial(without_damaged, now=now), expected=before.header.counter
        )
    if as_json:
        ui.print_json(
            {
                "done": "dropped",
                "keyring_id": keyring.header.keyring_id.hex(),
                "counter": keyring.header.counter,
                "dropped": slots_json(states),
                "slots_left": len(keyring.slots),
                "remark": DAMAGED,
            }
        )
        return ui.EXIT_YES
    ui.verdict("dropped", f"{len(damaged)} damaged slots", tone="yes")
    show_slots(states)
    ui.facts(
        [
            ("slots now", str(len(keyring.slots))),
            ("counter", str(keyring.header.counter)),
        ]
    )
    return ui.EXIT_YES


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
