# SPDX-License-Identifier: Apache-2.0
"""Actions about slots: what the command line says of them, and how they are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from tightseal.cli.keyring_open import label_of
from tightseal.cli.verify import UsageError
from tightseal.model.action import SLOT_ID_BYTES, ActionKind, SlotParameters
from tightseal.model.slots import SlotClass

__all__ = ["AskedSlot", "slot_parameters", "slot_rows"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class AskedSlot:
    """Which slot.

    Attributes:
        slot: remove-slot, renew-slots: its whole id, 32 hex digits, as
            ``tightseal keyring status`` has it with --json; renew-slots: by default
            every slot that opens.
        slot_class: add-slot: where its key comes from.
        beside: add-slot: a second factor, without which it does not open; may be given
            again.
        label: add-slot: for people.
        signer: add-slot: gramine and sgx: for every enclave of the signer.
    """

    slot: str | None = None
    slot_class: SlotClass | None = None
    beside: Annotated[tuple[SlotClass, ...], Parameter("--with")] = ()
    label: str = ""
    signer: bool = False


def slot_parameters(
    kind: ActionKind, asked: AskedSlot, *, counter: int
) -> SlotParameters:
    """Parameters of an action about slots; whether they fit its kind is judged later.

    Raises:
        UsageError: something is missing, or has another form.
    """
    if kind is ActionKind.ADD_SLOT and asked.slot_class is None:
        raise UsageError("--slot-class is missing: where the new slot's key comes from")
    named = {asked.slot_class, *asked.beside} - {None}
    return SlotParameters(
        counter=counter,
        slot=None if asked.slot is None else _slot_id(asked.slot),
        factors=tuple(name for name in SlotClass if name in named),
        label=label_of(asked.label),
        signer=asked.signer,
    )


def slot_rows(parameters: SlotParameters) -> list[tuple[str, str]]:
    """What is asked, for whoever is to sign it."""
    rows = [("keyring counter", str(parameters.counter))]
    if parameters.factors:
        names = "+".join(factor.value for factor in parameters.factors)
        whose = " of the enclave's signer" if parameters.signer else ""
        label = parameters.label or "none"
        return [*rows, ("new slot", f"{names}{whose}"), ("label", label)]
    if parameters.slot is None:
        return [*rows, ("slots", "every one that opens")]
    return [*rows, ("slot", parameters.slot.hex())]


def _slot_id(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != SLOT_ID_BYTES:
        message = f"--slot {text!r}: expected {2 * SLOT_ID_BYTES} hex digits"
        raise UsageError(message)
    return value
