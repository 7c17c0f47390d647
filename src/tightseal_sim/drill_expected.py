# SPDX-License-Identifier: Apache-2.0
"""What has to come of every drill, why, and what an operator does where keys are lost.

Written by hand from what the documentation promises; never from what a run gave.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tightseal.model.claims import Tee
from tightseal_sim.drill_crash import CRASH_EVENTS
from tightseal_sim.drill_site import Setup, Shape, Way

__all__ = ["CELLS", "Cell"]

KEPT: Final = "kept"
ANEW: Final = "kept, slots made anew"
AGED: Final = "kept, re-wrapped"
OTHER: Final = "lost: another key"
CLOSED: Final = "lost: slot_unavailable"
REFUSED: Final = "refused: "

NEXT_SIDECAR: Final = (
    "Nothing brings them back: give every disk a second way in before, or use the "
    "service shape."
)
NEXT_SLOT: Final = (
    "Undo the change, or start where another slot opens; keep a working second slot."
)
NEXT_MICROCODE: Final = (
    "Bring the microcode forward again, or start where another slot opens."
)
NEXT_COPY: Final = "Put a copy of the keyring file back; keep one on another disk."
NEXT_MACHINE: Final = (
    "Keep a slot that is not this machine's: without one the copy opens nowhere."
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table before it was tried.

    Attributes:
        event: name of the event.
        setup: shape and slots.
        expected: the outcome.
        reason: in one sentence.
        next_step: for the operator, where something is lost.
    """

    event: str
    setup: Setup
    expected: str
    reason: str
    next_step: str = ""


def _service(*ways: Way, tee: Tee = Tee.SGX) -> Setup:
    return Setup(Shape.SERVICE, tee, ways)


SIDECAR: Final = Setup(Shape.SIDECAR, Tee.SGX)
SIDECAR_SNP: Final = Setup(Shape.SIDECAR, Tee.SNP)
GRAMINE: Final = _service(Way.GRAMINE)
SGX: Final = _service(Way.SGX)
SIGNER: Final = _service(Way.GRAMINE_SIGNER)
SGX_SIGNER: Final = _service(Way.SGX_SIGNER)
BOTH: Final = _service(Way.GRAMINE, Way.SGX)
TYPED: Final = _service(Way.GRAMINE, Way.PASSPHRASE)
TYPED_ALONE: Final = _service(Way.PASSPHRASE)
TYPED_FACTOR: Final = _service(Way.GRAMINE_PASSPHRASE)
TPM: Final = _service(Way.GRAMINE_TPM)
TPM_AND_SGX: Final = _service(Way.GRAMINE_TPM, Way.SGX)
TWO_MACHINES: Final = _service(Way.GRAMINE, Way.OTHER_GRAMINE)
TWO_VENDORS: Final = _service(Way.GRAMINE, Way.OTHER_SNP)
SNP: Final = _service(Way.SNP, tee=Tee.SNP)
SNP_TYPED: Final = _service(Way.SNP, Way.PASSPHRASE, tee=Tee.SNP)

_Line = tuple[Setup, str, str, str] | tuple[Setup, str, str]


def _cells(event: str, *lines: _Line) -> tuple[Cell, ...]:
    return tuple(Cell(event, *line) for line in lines)


def _crashes() -> Iterator[Cell]:
    for event in CRASH_EVENTS:
        if event.startswith("crash"):
            reason = "The file is the one before or the one after, and opens."
            if event.endswith("first keyring"):
                reason = "There is no keyring yet, or a whole one."
            yield Cell(event, BOTH, KEPT, reason)


_GRAMINE_NOW: Final = "Gramine asks for the key of the present versions only."
_STORED: Final = "The stored request names the old CPUSVN, which stays derivable."
_SECOND: Final = "The second slot opens; the first is made anew."
_STAND_IN: Final = "The stand-in opens; the machine's slot is made anew."
_ALL_FACTORS: Final = "A factor is a lock more, not a way more: all must open."

_RUNNING: Final = (
    *_cells(
        "provider killed and restarted",
        (SIDECAR, KEPT, "The platform gives the same key again."),
        (SIDECAR_SNP, KEPT, "The firmware gives the same key again."),
        (GRAMINE, KEPT, "The slot opens again."),
        (SGX, KEPT, "The slot opens again."),
        (SNP, KEPT, "The slot opens again."),
        (TPM, KEPT, "Both factors open again."),
        (TYPED_FACTOR, KEPT, "Both factors open again."),
    ),
    *_crashes(),
    *_cells(
        "two providers rotate at once",
        (
            BOTH,
            KEPT,
            "One waits or is told to come again; neither overwrites the other.",
        ),
    ),
)

_MICROCODE: Final = (
    *_cells(
        "microcode update, CPUSVN up",
        (SIDECAR, OTHER, _GRAMINE_NOW, NEXT_SIDECAR),
        (GRAMINE, CLOSED, _GRAMINE_NOW, NEXT_SLOT),
        (SIGNER, CLOSED, _GRAMINE_NOW, NEXT_SLOT),
        (SGX, AGED, _STORED),
        (BOTH, ANEW, _SECOND),
        (TYPED, ANEW, _STAND_IN),
        (TYPED_FACTOR, CLOSED, _ALL_FACTORS, NEXT_SLOT),
        (TPM, CLOSED, _ALL_FACTORS, NEXT_SLOT),
        (TPM_AND_SGX, ANEW, _SECOND),
    ),
    *_cells(
        "microcode rolled back",
        (SIDECAR, OTHER, "Older microcode has no newer key.", NEXT_MICROCODE),
        (GRAMINE, CLOSED, "Older microcode has no newer key.", NEXT_MICROCODE),
        (SGX, CLOSED, "The CPU refuses a CPUSVN above its own.", NEXT_MICROCODE),
        (BOTH, CLOSED, "Both slots belong to the newer CPUSVN.", NEXT_MICROCODE),
        (TYPED, ANEW, _STAND_IN),
    ),
    *_cells(
        "microcode rolled back and forward again",
        (SIDECAR, KEPT, "The key comes back with the CPUSVN."),
        (GRAMINE, KEPT, "The key comes back with the CPUSVN."),
        (SGX, KEPT, "The key comes back with the CPUSVN."),
    ),
)

_BUILDS: Final = (
    *_cells(
        "rebuild, same signer",
        (SIDECAR, OTHER, "MRENCLAVE is another.", NEXT_SIDECAR),
        (SIDECAR_SNP, OTHER, "The launch measurement is another.", NEXT_SIDECAR),
        (GRAMINE, CLOSED, "MRENCLAVE is another.", NEXT_SLOT),
        (SGX, CLOSED, "MRENCLAVE is another.", NEXT_SLOT),
        (SIGNER, KEPT, "It belongs to the signer, where the policy allows that."),
        (SGX_SIGNER, KEPT, "It belongs to the signer, where the policy allows that."),
        (BOTH, CLOSED, "Both slots belong to the old MRENCLAVE.", NEXT_SLOT),
        (TYPED, ANEW, _STAND_IN),
        (SNP, CLOSED, "The launch measurement is another.", NEXT_SLOT),
        (SNP_TYPED, ANEW, _STAND_IN),
    ),
    *_cells(
        "rebuild, same signer, ISVSVN up",
        (SIDECAR, OTHER, "MRENCLAVE and ISVSVN are others.", NEXT_SIDECAR),
        (SIGNER, CLOSED, _GRAMINE_NOW, NEXT_SLOT),
        (SGX_SIGNER, AGED, "The stored request names the old ISVSVN."),
    ),
    *_cells(
        "rebuild, new signer",
        (SIDECAR, OTHER, "MRENCLAVE is another.", NEXT_SIDECAR),
        (GRAMINE, CLOSED, "MRENCLAVE is another.", NEXT_SLOT),
        (SGX, CLOSED, "MRENCLAVE is another.", NEXT_SLOT),
        (SIGNER, CLOSED, "MRSIGNER is another.", NEXT_SLOT),
        (SGX_SIGNER, CLOSED, "MRSIGNER is another.", NEXT_SLOT),
        (TYPED, ANEW, _STAND_IN),
    ),
    *_cells(
        "seal masks changed",
        (SIDECAR, OTHER, "The masks of the manifest enter the key.", NEXT_SIDECAR),
        (GRAMINE, CLOSED, "The masks of the manifest enter the key.", NEXT_SLOT),
        (SGX, KEPT, "Its masks come from code, not from the manifest."),
        (BOTH, ANEW, _SECOND),
    ),
)

_OTHER_HARDWARE: Final = (
    *_cells(
        "SNP TCB update",
        (SIDECAR_SNP, KEPT, "No TCB enters the key."),
        (SNP, AGED, "The stored TCB stays derivable."),
    ),
    *_cells(
        "SNP TCB rolled back",
        (SIDECAR_SNP, KEPT, "No TCB enters the key."),
        (
            SNP,
            CLOSED,
            "A TCB above the committed one is never asked for.",
            "Bring the firmware forward again, or start where another slot opens.",
        ),
        (SNP_TYPED, ANEW, _STAND_IN),
    ),
    *_cells(
        "TPM cleared",
        (GRAMINE, KEPT, "No TPM is among the factors."),
        (TPM, CLOSED, "The storage key went with the clearing.", NEXT_SLOT),
        (TPM_AND_SGX, ANEW, _SECOND),
    ),
    *_cells(
        "boot measured otherwise",
        (GRAMINE, KEPT, "No TPM is among the factors."),
        (
            TPM,
            CLOSED,
            "A PCR of the slot changed.",
            "Boot as before, or start where another slot opens.",
        ),
        (TPM_AND_SGX, ANEW, _SECOND),
    ),
)

_LOSSES: Final = (
    *_cells(
        "state disk lost",
        (SIDECAR, KEPT, "Nothing is stored that keys need."),
        (GRAMINE, "lost: keyring_missing", "The roots were on it alone.", NEXT_COPY),
        (
            TYPED,
            "lost: keyring_missing",
            "Slots open the file, and there is none.",
            NEXT_COPY,
        ),
    ),
    *_cells(
        "state disk lost, keyring copied before",
        (GRAMINE, KEPT, "The copy opens as the file did."),
    ),
    *_cells(
        "machine lost, keyring copied before",
        (SIDECAR, OTHER, "The root was in the processor.", NEXT_SIDECAR),
        (SIDECAR_SNP, OTHER, "The root was in the processor.", NEXT_SIDECAR),
        (GRAMINE, CLOSED, "The slot's key was in the processor.", NEXT_MACHINE),
        (SGX, CLOSED, "The slot's key was in the processor.", NEXT_MACHINE),
        (BOTH, CLOSED, "Both keys were in one processor.", NEXT_MACHINE),
        (SNP, CLOSED, "The slot's key was in the processor.", NEXT_MACHINE),
        (TPM_AND_SGX, CLOSED, "All of it was in one machine.", NEXT_MACHINE),
        (TYPED, ANEW, _STAND_IN),
        (TWO_MACHINES, ANEW, "The second machine's own slot opens there."),
        (
            TWO_VENDORS,
            "lost: keyring_mismatch",
            "Its slot opens, and the keyring belongs to the other trust domain.",
            "Keep the second slot in the keyring's own trust domain.",
        ),
    ),
)

_TAMPERED: Final = "keyring_tampered"
_ROLLED_BACK: Final = "keyring_rolled_back"

_FILES: Final = (
    *_cells(
        "one slot damaged",
        (GRAMINE, CLOSED, "The only slot is damaged.", NEXT_COPY),
        (
            BOTH,
            REFUSED + _TAMPERED,
            "Damage and forgery look alike, so an operator says which it is.",
        ),
    ),
    *_cells(
        "one slot damaged, left out by an operator",
        (BOTH, KEPT, "Everything but the slot is as it was written."),
    ),
    *_cells(
        "one slot damaged, a copy put back",
        (GRAMINE, KEPT, "The copy opens as the file did."),
        (BOTH, KEPT, "The copy opens as the file did."),
    ),
    *_cells(
        "file truncated",
        (GRAMINE, "lost: keyring_malformed", "Half a file is none.", NEXT_COPY),
        (BOTH, "lost: keyring_malformed", "Half a file is none.", NEXT_COPY),
    ),
    *_cells(
        "file truncated, a copy put back",
        (BOTH, KEPT, "The copy opens as the file did."),
    ),
    *_cells(
        "older file put back, no anchor",
        (
            GRAMINE,
            "older, unnoticed: generation 3 is gone",
            "Nothing remembers the counter while no provider runs.",
            "Put the newest copy back, and pin a policy root: its state is an anchor.",
        ),
    ),
    *_cells(
        "older file put back under a running provider",
        (GRAMINE, REFUSED + _ROLLED_BACK, "The process remembers the counter."),
    ),
    *_cells(
        "older file put back, state store as anchor",
        (GRAMINE, REFUSED + _ROLLED_BACK, "The store remembers the counter."),
    ),
    *_cells(
        "older file and older state put back",
        (
            GRAMINE,
            "older, unnoticed: generation 3 is gone",
            "Both agree, and nothing outside remembers.",
            "Put the newest copies back; only an anchor outside would notice.",
        ),
    ),
    *_cells(
        "header downgraded",
        (GRAMINE, REFUSED + _TAMPERED, "The header is under the keyring's MAC."),
        (SNP, REFUSED + _TAMPERED, "The header is under the keyring's MAC."),
    ),
    *_cells(
        "slot swapped for its own older one",
        (GRAMINE, REFUSED + _TAMPERED, "The slot opens, and the MAC does not fit."),
        (BOTH, REFUSED + _TAMPERED, "The slot opens, and the MAC does not fit."),
    ),
    *_cells(
        "slot swapped for another keyring's",
        (
            GRAMINE,
            REFUSED + "slot_unavailable",
            "The slot's key is bound to its keyring.",
        ),
        (BOTH, REFUSED + _TAMPERED, "The other slot opens, and the MAC does not fit."),
    ),
)

_MISMATCH: Final = REFUSED + "keyring_mismatch"
_HARDWARE: Final = "Another world's hardware gives another key."

_STRANGERS: Final = (
    *_cells(
        "genuine twin under its own policy root",
        (SIDECAR, REFUSED + "another key", "The policy root enters every key."),
        (SIDECAR_SNP, REFUSED + "another key", "The policy root enters every key."),
        (GRAMINE, _MISMATCH, "Its slot opens; the header names our policy root."),
        (SGX, _MISMATCH, "Its slot opens; the header names our policy root."),
        (SNP, _MISMATCH, "Its slot opens; the header names our policy root."),
    ),
    *_cells(
        "genuine twin, header rewritten to its root",
        (GRAMINE, REFUSED + _TAMPERED, "The header is under the keyring's MAC."),
    ),
    *_cells(
        "genuine twin reads the state store",
        (
            SIDECAR,
            REFUSED + "state_tampered",
            "The policy root enters the store's key.",
        ),
        (
            GRAMINE,
            REFUSED + "state_tampered",
            "The store's key is the keyring's, and its own is another.",
        ),
    ),
    *_cells(
        "simulated keyring in another world",
        (SIDECAR, REFUSED + "another key", _HARDWARE),
        (GRAMINE, REFUSED + "slot_unavailable", _HARDWARE),
        (SNP, REFUSED + "slot_unavailable", _HARDWARE),
        (TYPED, _MISMATCH, "The stand-in opens; the trust domain is another."),
    ),
    *_cells(
        "simulated keyring in production",
        (GRAMINE, REFUSED + "slot_unavailable", "No slot of it opens on hardware."),
        (
            TYPED_ALONE,
            REFUSED + "slot_not_allowed",
            "A second factor alone counts in development only.",
        ),
    ),
)

CELLS: Final = (
    *_RUNNING,
    *_MICROCODE,
    *_BUILDS,
    *_OTHER_HARDWARE,
    *_LOSSES,
    *_FILES,
    *_STRANGERS,
)
"""Every row, in the order of the table."""
