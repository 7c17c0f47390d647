# SPDX-License-Identifier: Apache-2.0
"""``tightseal keyring anchor``: a TPM's counter, which notices an older keyring."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from cyclopts import App, Parameter

from tightseal.cli import ui
from tightseal.cli.keyring_open import (
    JsonFlag,
    Place,
    Where,
    agreed,
    asked,
    clock,
    place_of,
)
from tightseal.keys.keyring import Keyring
from tightseal.model.state import AnchorClass
from tightseal.release.anchored import held
from tightseal.release.tpmanchor import AnchorState
from tightseal.service.keyringanchor import keyed_anchor, tpm_anchor
from tightseal.service.slotkeys import read_passphrase

__all__ = ["anchor_app"]

SETTING: Final = "anchor = true in [host.keyring.tpm], for the provider to ask it"
"""What makes the provider use it."""

COMPARE: Final = (
    "compare this Name with the TPM vendor's certificate once, and pin it as ek_name in"
    " [host.keyring.tpm]: one that the host emulates goes back whenever the host wants"
)
"""What no command can check."""

anchor_app = App(
    name="anchor",
    help="Hold the keyring against a TPM's counter, which notices an older file.",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)


@anchor_app.command
@asked
def init(
    *,
    adopt: bool = False,
    owner_auth_file: Path | None = None,
    yes: bool = False,
    where: Where | None = None,
    as_json: JsonFlag = False,
) -> int:
    """Make a counter in the TPM for this keyring: 0 made, 1 not.

    Args:
        adopt: also where there was one: what it remembered is given up, and this file
            taken for the newest.
        owner_auth_file: holds the authorisation value of the TPM's owner hierarchy,
            alone; by default it has none.
        yes: do not ask.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    place = place_of(where)
    keyring, now = place.unanchored().keyring, clock()
    if adopt and not _adopted(keyring, yes=yes, as_json=as_json):
        ui.note("nothing was made")
        return ui.EXIT_NO
    owner = None if owner_auth_file is None else read_passphrase(owner_auth_file)
    anchor = tpm_anchor(place.settings, keyring, owner_auth=owner)
    with place.recorded(keyring, "anchor-keyring", now, adopt=adopt):
        state = anchor.begin(adopt=adopt)
    return _told("made", place, keyring, state, as_json=as_json)


@anchor_app.command
@asked
def status(*, where: Where | None = None, as_json: JsonFlag = False) -> int:
    """Ask the TPM what it remembers of this keyring: 0 the file holds, 1 not.

    Args:
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    place = place_of(where)
    keeper = place.unanchored()
    anchor = tpm_anchor(place.settings, keeper.keyring)
    held(keeper.opened, anchor)
    state = anchor.state(keeper.keyring_id)
    if state is None:
        ui.note("the record was removed just now")
        return ui.EXIT_NO
    return _told("holds", place, keeper.keyring, state, as_json=as_json)


def _adopted(keyring: Keyring, *, yes: bool, as_json: bool) -> bool:
    header = keyring.header
    if not as_json and not yes:
        ui.verdict("to adopt", f"counter {header.counter}", tone="unsure")
        ui.facts(
            [
                ("keyring id", header.keyring_id.hex()),
                ("changed at", str(header.changed_at)),
                ("given up", "what the TPM remembered of it"),
            ]
        )
    question = f"is counter {header.counter} the newest of this keyring?"
    return agreed(question, yes=yes, as_json=as_json)


def _told(
    word: str, place: Place, keyring: Keyring, state: AnchorState, *, as_json: bool
) -> int:
    asked_for = keyed_anchor(place.settings) is not None
    document: dict[str, Any] = {
        "done": word,
        "anchor": AnchorClass.TPM.value,
        "ek_name": state.ek.hex(),
        "index": f"{state.handle:#010x}",
        "value": state.value,
        "remembered": state.remembered,
        "counter": keyring.header.counter,
        "in_use": asked_for,
        "not_noticed": AnchorClass.TPM.not_noticed,
    }
    if as_json:
        ui.print_json(document)
        return ui.EXIT_YES
    ui.verdict(word, f"TPM index {document['index']}", tone="yes")
    ui.facts(
        [
            ("EK", state.ek.hex()),
            ("its counter", str(state.value)),
            ("remembered", str(state.remembered)),
            ("in the file", str(keyring.header.counter)),
            ("not noticed", AnchorClass.TPM.not_noticed),
        ]
    )
    if not place.settings.host.keyring.tpm.ek_name:
        ui.note(COMPARE)
    if not asked_for:
        ui.note(f"not in use yet: {SETTING}")
    return ui.EXIT_YES
