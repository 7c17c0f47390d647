# SPDX-License-Identifier: Apache-2.0
"""How a keyring is told: for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tightseal.cli import ui
from tightseal.cli.policy_show import told
from tightseal.keys.keyring import (
    Generation,
    GenerationState,
    Header,
    Keyring,
    SealedKeyring,
    Slot,
    SlotProbe,
    probe_slots,
)
from tightseal.model.slots import SlotKey
from tightseal.service.slotkeys import missing_hint, of_signer, rewrap_reason

__all__ = [
    "ONLY_THROUGH_PROVIDERS",
    "TAKES_OVER",
    "SlotState",
    "generation_row",
    "generations_json",
    "header_json",
    "header_rows",
    "pin_line",
    "show_generations",
    "show_slots",
    "slots_json",
    "still_open",
    "tried",
    "untried",
]

TAKES_OVER: Final = "a provider that runs takes it over within seconds"

ONLY_THROUGH_PROVIDERS: Final = (
    "every slot needs another provider to run: two that open only through each other"
    " stay closed once both are down; add a slot of this machine or of a council"
)


@dataclass(frozen=True, slots=True)
class SlotState:
    """A slot, and whether it opens here.

    Attributes:
        slot: the slot.
        opens: ``None`` where it was not tried.
        reason: why it does not.
        rewrap: why it should be made anew.
    """

    slot: Slot
    opens: bool | None
    reason: str = ""
    rewrap: str = ""

    @property
    def kind(self) -> str:
        """Its classes, for people, and whose slot it is where that is the signer."""
        names = "+".join(factor.value for factor in self.slot.factors)
        return f"{names} of the signer" if of_signer(self.slot) else names

    @property
    def told(self) -> str:
        """For people."""
        if self.opens is None:
            return "not tried"
        if not self.opens:
            return f"DOES NOT OPEN: {self.reason}"
        if self.rewrap:
            slot_id = self.slot.slot_id.hex()[:8]
            return f"opens; {self.rewrap}: tightseal keyring slot rewrap {slot_id}"
        return "opens"


def tried(keyring: Keyring, slot_keys: Sequence[SlotKey]) -> tuple[SlotState, ...]:
    """Try every slot of an open keyring.

    Raises:
        KeyReleaseError: ``keyring_tampered``.
    """
    return tuple(_state(probe, slot_keys) for probe in probe_slots(keyring, slot_keys))


def untried(slots: Iterable[Slot]) -> tuple[SlotState, ...]:
    """Slots as a file names them."""
    return tuple(SlotState(slot, None) for slot in slots)


def _state(probe: SlotProbe, slot_keys: Sequence[SlotKey]) -> SlotState:
    if probe.refusal:
        hint = missing_hint(probe.slot, slot_keys)
        reason = "; ".join(part for part in (probe.refusal, hint) if part)
        return SlotState(probe.slot, opens=False, reason=reason)
    why = rewrap_reason(probe.slot, slot_keys)
    return SlotState(probe.slot, opens=True, rewrap=why)


def pin_line(header: Header) -> str:
    """The line of a workload's pin file."""
    return f'keyring_id = "{header.keyring_id.hex()}"'


def header_rows(header: Header) -> list[tuple[str, str]]:
    """Whose keyring it is, and its terms."""
    root = "none" if header.policy_root is None else header.policy_root.hex()
    return [
        ("keyring id", header.keyring_id.hex()),
        ("trust domain", header.trust_domain),
        ("policy root", root),
        ("minimum policy", str(header.minimum_policy_version)),
        ("slot classes", ", ".join(sorted(c.value for c in header.slot_classes))),
        ("counter", str(header.counter)),
        ("changed", told(header.changed_at)),
    ]


def header_json(header: Header) -> dict[str, Any]:
    """The header; bytes in hex, times in Unix seconds."""
    root = header.policy_root
    return {
        "keyring_id": header.keyring_id.hex(),
        "trust_domain": header.trust_domain,
        "policy_root": None if root is None else root.hex(),
        "minimum_policy_version": header.minimum_policy_version,
        "slot_classes": sorted(c.value for c in header.slot_classes),
        "counter": header.counter,
        "changed_at": header.changed_at,
    }


def generation_row(generation: Generation) -> str:
    """State and dates."""
    dates = (
        ("made", generation.created_at),
        ("current from", generation.activated_at),
        ("retired", generation.retired_at),
        ("destroyed", generation.destroyed_at),
    )
    said = [f"{what} {told(when)}" for what, when in dates if when is not None]
    return f"{generation.state.value:<10}  {', '.join(said)}"


def show_generations(keyring: Keyring | SealedKeyring) -> None:
    """One a line; those that were destroyed are counted."""
    gone = [g for g in keyring.generations if g.state is GenerationState.DESTROYED]
    ui.heading("generations")
    ui.facts(
        (str(g.number), generation_row(g))
        for g in keyring.generations
        if g.state is not GenerationState.DESTROYED
    )
    if gone:
        ui.facts([("destroyed", f"{len(gone)}, the last one {gone[-1].number}")])


def generations_json(keyring: Keyring | SealedKeyring) -> list[dict[str, Any]]:
    """Every generation; none of them with its root."""
    return [
        {
            "number": g.number,
            "state": g.state.value,
            "created_at": g.created_at,
            "activated_at": g.activated_at,
            "retired_at": g.retired_at,
            "destroyed_at": g.destroyed_at,
        }
        for g in keyring.generations
    ]


def show_slots(states: Sequence[SlotState]) -> None:
    """One a line: id, classes, label, and whether it opens here."""
    names = [state.kind for state in states]
    width = max(map(len, names), default=0)
    rows = []
    for state, name in zip(states, names, strict=True):
        label = f"'{state.slot.label}'  " if state.slot.label else ""
        text = f"{name:<{width}}  {label}{state.told}"
        rows.append((state.slot.slot_id.hex()[:8], text))
    ui.heading("slots")
    ui.facts(rows)


def slots_json(states: Sequence[SlotState]) -> list[dict[str, Any]]:
    """Every slot, and whether it opens here."""
    return [
        {
            "id": state.slot.slot_id.hex(),
            "class": state.slot.slot_class.value,
            "factors": [factor.value for factor in state.slot.factors],
            "signer": of_signer(state.slot),
            "label": state.slot.label,
            "opens": state.opens,
            "reason": state.reason,
            "rewrap": state.rewrap,
        }
        for state in states
    ]


def still_open(keyring: Keyring) -> str:
    """What older copies of the file could open after a generation was destroyed.

    No class of slots forgets its key with a change of the keyring, so erasure is
    claimed of none.
    """
    slots = ", ".join(str(slot) for slot in keyring.slots)
    return (
        "older copies of the file (backups, snapshots) hold it still, for whoever opens"
        f" one of the slots in them: {slots}, or one that was removed since"
    )
