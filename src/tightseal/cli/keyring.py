# SPDX-License-Identifier: Apache-2.0
"""``tightseal keyring``: the roots of a provider's keys, their slots and generations.

The commands run where the provider runs, inside its TEE: that is where its slots open.
They change the same file as a running provider, which takes the newer version over.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

from cyclopts import App, Parameter

from tightseal.cli import ui
from tightseal.cli.keyring_anchor import anchor_app
from tightseal.cli.keyring_open import (
    ClassName,
    JsonFlag,
    Place,
    Where,
    agreed,
    asked,
    clock,
    label_of,
    place_of,
    settings_of,
)
from tightseal.cli.keyring_renew import renew_key
from tightseal.cli.keyring_show import (
    ONLY_THROUGH_PROVIDERS,
    TAKES_OVER,
    generation_row,
    generations_json,
    header_json,
    header_rows,
    pin_line,
    show_generations,
    show_slots,
    slots_json,
    still_open,
    tried,
    untried,
)
from tightseal.cli.keyring_slot import slot_app
from tightseal.cli.keyring_verify import verify
from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring import (
    Keyring,
    KeyringFile,
    SealedKeyring,
    decode_keyring,
    prepare,
)
from tightseal.keys.keyring import destroy as destroyed
from tightseal.keys.keyring import retire as retired
from tightseal.keys.keyring import rotate as rotated
from tightseal.model.slots import FIRST_FACTORS, SlotClass
from tightseal.release.keyring import KeyringKeeper
from tightseal.service.ownkeyring import write_keyring
from tightseal.service.slotkeys import only_through_providers
from tightseal.service.state import prepare_folder

__all__ = ["keyring_app"]

ClassOption = Annotated[ClassName | None, Parameter("--class")]

_NOTHING_TO_SHOW: Final = frozenset({Code.KEYRING_MISSING, Code.KEYRING_MALFORMED})

keyring_app = App(
    name="keyring",
    help="Make and look after the keyring that a provider's keys come from.",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)
keyring_app.command(slot_app)
keyring_app.command(anchor_app)
keyring_app.command(asked(verify), name="verify")
keyring_app.command(asked(renew_key), name="renew-key")


@keyring_app.command
@asked
def init(
    *,
    slot_class: ClassOption = None,
    label: str = "first",
    where: Where | None = None,
    as_json: JsonFlag = False,
) -> int:
    """Make a keyring with one generation and one slot, where there is none.

    The provider enters what it finds into its journal at its first start.

    Args:
        slot_class: of the first slot; by default the platform's own.
        label: of that slot, for people.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    name = label_of(label)
    place = place_of(where)
    classes = [] if slot_class is None else [SlotClass(slot_class)]
    slot_key = place.new_slot(*classes)
    prepare_folder(place.settings.host)
    keyring = write_keyring(place.settings, slot_key, label=name, now=clock())
    following = _second_slot(place, keyring)
    if as_json:
        ui.print_json(
            {
                "file": str(place.path),
                **header_json(keyring.header),
                "pin": pin_line(keyring.header),
                "generations": generations_json(keyring),
                "slots": slots_json(untried(keyring.slots)),
                "next": following,
            }
        )
        return ui.EXIT_YES
    ui.verdict("made", str(place.path), tone="yes")
    ui.facts(header_rows(keyring.header))
    ui.facts([("slot", str(keyring.slots[0]))])
    ui.heading("for the workloads' pins")
    ui.facts([("[provider]", pin_line(keyring.header))])
    ui.heading("next")
    ui.facts([("a second slot", following)])
    ui.note(
        "slots of this platform are lost with this machine: keep copies of the file,"
        " and a slot of another provider or of a council as soon as there is one"
    )
    if keyring.header.simulated:
        ui.note("a keyring of a simulated world: for development, not for production")
    return ui.EXIT_YES


def _second_slot(place: Place, keyring: Keyring) -> str:
    """What to do before anything depends on one slot."""
    own = [c for c in place.slots.factors if c in FIRST_FACTORS]
    others = [c.value for c in own if c is not keyring.slots[0].slot_class]
    if others and place.settings.release.policy_root:
        sign = f"tightseal action sign --kind add-slot --slot-class {others[0]}"
        return f"{sign} --label second, once the provider runs"
    if others:
        return f"tightseal keyring slot add --class {others[0]} --label second"
    return (
        "this platform has no other class: until there is a slot of another provider or"
        " of a council, all keys are lost with this one"
    )


@keyring_app.command
@asked
def status(
    *,
    unverified: bool = False,
    where: Where | None = None,
    as_json: JsonFlag = False,
) -> int:
    """Show header, generations and slots: 0 it opens here, 1 it does not.

    Every slot is tried.

    Args:
        unverified: show what the file says without opening it: nothing of it is proven.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    if unverified:
        return _unverified(where or Where(), as_json=as_json)
    place = place_of(where)
    try:
        keeper = place.keeper()
    except KeyReleaseError as e:
        if e.code not in _NOTHING_TO_SHOW:
            ui.note("what the file says, unproven: keyring status --unverified")
        raise
    keyring, opened = keeper.keyring, keeper.opened
    states = tried(keyring, place.ways.slot_keys)
    if as_json:
        anchor = {"anchor": opened.anchor.value, "not_noticed": opened.not_noticed}
        by = None if opened.slot is None else opened.slot.slot_id.hex()
        needs = {"only_through_providers": only_through_providers(keyring.slots)}
        slots = {"opened_by": by, "slots": slots_json(states), **needs}
        ui.print_json(
            {**_document(place.path, keyring, proven=True), **anchor, **slots}
        )
        return ui.EXIT_YES
    ui.verdict("opens", str(place.path), tone="yes")
    ui.facts(header_rows(keyring.header))
    ui.facts([("opened by", str(opened.slot)), ("anchor", opened.anchor.value)])
    ui.facts([("not noticed", opened.not_noticed)])
    show_generations(keyring)
    show_slots(states)
    if sum(state.opens is True for state in states) == 1:
        ui.note("one slot alone opens here: add another, or its loss may lose all keys")
    if only_through_providers(keyring.slots):
        ui.note(ONLY_THROUGH_PROVIDERS)
    return ui.EXIT_YES


def _unverified(where: Where, *, as_json: bool) -> int:
    """What a file says, which whoever keeps it could have written."""
    path = settings_of(where).host.keyring_path
    sealed = decode_keyring(KeyringFile(path).load().data)
    states = untried(sealed.slots)
    if as_json:
        anchor = {"anchor": None, "not_noticed": None}
        needs = {"only_through_providers": only_through_providers(sealed.slots)}
        slots = {"opened_by": None, "slots": slots_json(states), **needs}
        ui.print_json({**_document(path, sealed, proven=False), **anchor, **slots})
        return ui.EXIT_YES
    ui.verdict("NOT VERIFIED", f"{path}: whoever keeps it wrote this", tone="unsure")
    ui.facts(header_rows(sealed.header))
    show_generations(sealed)
    show_slots(states)
    return ui.EXIT_YES


def _document(
    path: object, keyring: Keyring | SealedKeyring, *, proven: bool
) -> dict[str, object]:
    return {
        "verified": proven,
        "file": str(path),
        **header_json(keyring.header),
        "generations": generations_json(keyring),
    }


@keyring_app.command
@asked
def rotate(
    *,
    ahead: Annotated[bool, Parameter("--prepare")] = False,
    where: Where | None = None,
    as_json: JsonFlag = False,
) -> int:
    """Make a new current generation; the one before retires and still opens old data.

    Under a policy root it takes a signed action.

    Args:
        ahead: only make the next generation; the next rotation takes it into use.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    place = place_of(where)
    kind = "prepare-generation" if ahead else "rotate-keyring"
    place.require_unsigned(Code.GENERATION_NOT_ALLOWED, kind)
    keeper, now = place.changer(), clock()
    change = partial(prepare if ahead else rotated, now=now)
    with place.recorded(keeper.keyring, kind, now):
        keyring = keeper.change(change)
    if ahead:
        word, about = "prepared", f"generation {keyring.generations[-1].number}"
    else:
        word, about = "rotated", f"generation {keyring.current.number} is current"
    return _told(word, about, keyring, as_json=as_json)


@keyring_app.command
@asked
def retire(
    number: int, /, *, where: Where | None = None, as_json: JsonFlag = False
) -> int:
    """Withdraw a generation that was prepared. The current one retires by rotate.

    Under a policy root it takes a signed action.

    Args:
        number: of the generation.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    place = place_of(where)
    kind = "retire-generation"
    place.require_unsigned(Code.GENERATION_NOT_ALLOWED, kind)
    keeper, now = place.changer(), clock()
    with place.recorded(keeper.keyring, kind, now, generation=number):
        keyring = keeper.change(lambda k: retired(k, number, now=now))
    return _told("retired", f"generation {number}", keyring, as_json=as_json)


@keyring_app.command
@asked
def destroy(
    number: int,
    /,
    *,
    yes: bool = False,
    where: Where | None = None,
    as_json: JsonFlag = False,
) -> int:
    """Drop a retired generation's root from the keyring: 0 dropped, 1 not.

    Whatever is still under its keys cannot be opened by this keyring again. Says what
    older copies of the file could still open. Under a policy root it takes a signed
    action, which moves wrapped keys first.

    Args:
        number: of the generation.
        yes: do not ask.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    place = place_of(where)
    kind = "destroy-generation"
    # Wrapped keys lie in the state store, which this command does not see.
    place.require_unsigned(Code.GENERATION_NOT_ALLOWED, kind)
    keeper, now = place.changer(), clock()
    before = keeper.keyring
    # Refused before anybody is asked.
    destroyed(before, number, now=now)
    if not as_json and not yes:
        _show_destruction(keeper, number)
    if not agreed(f"destroy generation {number}?", yes=yes, as_json=as_json):
        ui.note("nothing was destroyed")
        return ui.EXIT_NO
    with place.recorded(before, kind, now, generation=number):
        keyring = keeper.change(
            lambda k: destroyed(k, number, now=now), expected=before.header.counter
        )
    about = f"generation {number}, in this file"
    return _told("destroyed", about, keyring, as_json=as_json, copies=True)


def _show_destruction(keeper: KeyringKeeper, number: int) -> None:
    keyring = keeper.keyring
    lost = "every key of it; move what is under them to the current one before"
    ui.verdict("to destroy", f"generation {number}", tone="unsure")
    ui.facts(
        [
            ("keyring id", keyring.header.keyring_id.hex()),
            ("generation", generation_row(keyring.generation(number))),
            ("lost", lost),
            ("not erased", still_open(keyring)),
            ("not noticed", keeper.opened.not_noticed),
        ]
    )


def _told(
    word: str, about: str, keyring: Keyring, *, as_json: bool, copies: bool = False
) -> int:
    """What a change made of the keyring."""
    previous = keyring.previous
    number = None if previous is None else previous.number
    if as_json:
        ui.print_json(
            {
                "done": word,
                "keyring_id": keyring.header.keyring_id.hex(),
                "counter": keyring.header.counter,
                "current": keyring.current.number,
                "previous": number,
                "generations": generations_json(keyring),
                "erased": False if copies else None,
                "not_erased": still_open(keyring) if copies else None,
            }
        )
        return ui.EXIT_YES
    ui.verdict(word, about, tone="yes")
    if copies:
        ui.facts([("not erased", still_open(keyring))])
    ui.facts(
        [
            ("current", str(keyring.current.number)),
            ("previous", "none" if number is None else str(number)),
            ("counter", str(keyring.header.counter)),
            ("running provider", TAKES_OVER),
        ]
    )
    return ui.EXIT_YES
