# SPDX-License-Identifier: Apache-2.0
"""What has to come of every drill, why, and what an operator does where keys are lost.

Written by hand from what the documentation promises; never from what a run gave.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tightseal.model.claims import Tee
from tightseal_sim.drill_cells import (
    AGED,
    ANEW,
    CLOSED,
    KEPT,
    NEXT_COPY,
    NEXT_MACHINE,
    NEXT_MICROCODE,
    NEXT_SIDECAR,
    NEXT_SLOT,
    OTHER,
    REFUSED,
    Cell,
    cells,
    service,
)
from tightseal_sim.drill_crash import CRASH_EVENTS
from tightseal_sim.drill_expected_anchor import ANCHOR_CELLS
from tightseal_sim.drill_expected_handoff import HANDOFF_CELLS
from tightseal_sim.drill_expected_providers import (
    AT_PEER,
    AT_PEER_TOO,
    AT_SIDECAR,
    AT_SIDECAR_TOO,
    NEXT_PEER_POLICY,
    PROVIDER_CELLS,
)
from tightseal_sim.drill_site import Setup, Shape, Way

__all__ = ["CELLS", "Cell"]

SIDECAR: Final = Setup(Shape.SIDECAR, Tee.SGX)
SIDECAR_SNP: Final = Setup(Shape.SIDECAR, Tee.SNP)
GRAMINE: Final = service(Way.GRAMINE)
SGX: Final = service(Way.SGX)
SIGNER: Final = service(Way.GRAMINE_SIGNER)
SGX_SIGNER: Final = service(Way.SGX_SIGNER)
BOTH: Final = service(Way.GRAMINE, Way.SGX)
TYPED: Final = service(Way.GRAMINE, Way.PASSPHRASE)
TYPED_ALONE: Final = service(Way.PASSPHRASE)
TYPED_FACTOR: Final = service(Way.GRAMINE_PASSPHRASE)
TPM: Final = service(Way.GRAMINE_TPM)
TPM_AND_SGX: Final = service(Way.GRAMINE_TPM, Way.SGX)
TWO_MACHINES: Final = service(Way.GRAMINE, Way.OTHER_GRAMINE)
TWO_VENDORS: Final = service(Way.GRAMINE, Way.OTHER_SNP)
SNP: Final = service(Way.SNP, tee=Tee.SNP)
SNP_TYPED: Final = service(Way.SNP, Way.PASSPHRASE, tee=Tee.SNP)


def _crashes() -> Iterator[Cell]:
    for event in CRASH_EVENTS:
        if event.startswith("crash"):
            reason = "The file is the one before or the one after, and opens."
            if event.endswith("first keyring"):
                reason = "There is no keyring yet, or a whole one."
            if event.endswith("key renewed"):
                reason = "Keyring and state store go forward together, or back."
            yield Cell(event, BOTH, KEPT, reason)


_GRAMINE_NOW: Final = "Gramine asks for the key of the present versions only."
_STORED: Final = "The stored request names the old CPUSVN, which stays derivable."
_SECOND: Final = "The second slot opens; the first is made anew."
_STAND_IN: Final = "The stand-in opens; the machine's slot is made anew."
_SIDECAR_TOO: Final = "The sidecar's own root changed with this machine."
_ALL_FACTORS: Final = "A factor is a lock more, not a way more: all must open."

_RUNNING: Final = (
    *cells(
        "provider killed and restarted",
        (SIDECAR, KEPT, "The platform gives the same key again."),
        (SIDECAR_SNP, KEPT, "The firmware gives the same key again."),
        (GRAMINE, KEPT, "The slot opens again."),
        (SGX, KEPT, "The slot opens again."),
        (SNP, KEPT, "The slot opens again."),
        (TPM, KEPT, "Both factors open again."),
        (TYPED_FACTOR, KEPT, "Both factors open again."),
        (AT_PEER, KEPT, "The peer gives the same key again."),
        (AT_SIDECAR, KEPT, "The sidecar gives the same key again."),
    ),
    *_crashes(),
    *cells(
        "two providers rotate at once",
        (
            BOTH,
            KEPT,
            "One waits or is told to come again; neither overwrites the other.",
        ),
    ),
)

_MICROCODE: Final = (
    *cells(
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
        (AT_PEER, KEPT, "The peer's key does not depend on our microcode."),
        (AT_PEER_TOO, ANEW, "The peer's slot opens; the machine's is made anew."),
        (AT_SIDECAR, CLOSED, _SIDECAR_TOO, NEXT_SLOT),
        (AT_SIDECAR_TOO, CLOSED, _SIDECAR_TOO, NEXT_SLOT),
    ),
    *cells(
        "microcode rolled back",
        (SIDECAR, OTHER, "Older microcode has no newer key.", NEXT_MICROCODE),
        (GRAMINE, CLOSED, "Older microcode has no newer key.", NEXT_MICROCODE),
        (SGX, CLOSED, "The CPU refuses a CPUSVN above its own.", NEXT_MICROCODE),
        (BOTH, CLOSED, "Both slots belong to the newer CPUSVN.", NEXT_MICROCODE),
        (TYPED, ANEW, _STAND_IN),
    ),
    *cells(
        "microcode rolled back and forward again",
        (SIDECAR, KEPT, "The key comes back with the CPUSVN."),
        (GRAMINE, KEPT, "The key comes back with the CPUSVN."),
        (SGX, KEPT, "The key comes back with the CPUSVN."),
    ),
)

_NOT_NAMED: Final = "The peer's policy does not name the new image."

_BUILDS: Final = (
    *cells(
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
        (AT_PEER, CLOSED, _NOT_NAMED, NEXT_PEER_POLICY),
        (AT_PEER_TOO, CLOSED, _NOT_NAMED, NEXT_PEER_POLICY),
        (AT_SIDECAR, CLOSED, "Its key belongs to the measured image.", NEXT_SLOT),
    ),
    *cells(
        "rebuild, same signer, ISVSVN up",
        (SIDECAR, OTHER, "MRENCLAVE and ISVSVN are others.", NEXT_SIDECAR),
        (SIGNER, CLOSED, _GRAMINE_NOW, NEXT_SLOT),
        (SGX_SIGNER, AGED, "The stored request names the old ISVSVN."),
    ),
    *cells(
        "rebuild, new signer",
        (SIDECAR, OTHER, "MRENCLAVE is another.", NEXT_SIDECAR),
        (GRAMINE, CLOSED, "MRENCLAVE is another.", NEXT_SLOT),
        (SGX, CLOSED, "MRENCLAVE is another.", NEXT_SLOT),
        (SIGNER, CLOSED, "MRSIGNER is another.", NEXT_SLOT),
        (SGX_SIGNER, CLOSED, "MRSIGNER is another.", NEXT_SLOT),
        (TYPED, ANEW, _STAND_IN),
    ),
    *cells(
        "seal masks changed",
        (SIDECAR, OTHER, "The masks of the manifest enter the key.", NEXT_SIDECAR),
        (GRAMINE, CLOSED, "The masks of the manifest enter the key.", NEXT_SLOT),
        (SGX, KEPT, "Its masks come from code, not from the manifest."),
        (BOTH, ANEW, _SECOND),
    ),
)

_OTHER_HARDWARE: Final = (
    *cells(
        "SNP TCB update",
        (SIDECAR_SNP, KEPT, "No TCB enters the key."),
        (SNP, AGED, "The stored TCB stays derivable."),
    ),
    *cells(
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
    *cells(
        "TPM cleared",
        (GRAMINE, KEPT, "No TPM is among the factors."),
        (TPM, CLOSED, "The storage key went with the clearing.", NEXT_SLOT),
        (TPM_AND_SGX, ANEW, _SECOND),
    ),
    *cells(
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
    *cells(
        "state disk lost",
        (SIDECAR, KEPT, "Nothing is stored that keys need."),
        (GRAMINE, "lost: keyring_missing", "The roots were on it alone.", NEXT_COPY),
        (
            TYPED,
            "lost: keyring_missing",
            "Slots open the file, and there is none.",
            NEXT_COPY,
        ),
        (
            AT_PEER,
            "lost: keyring_missing",
            "The peer has a key for the file, not the file.",
            NEXT_COPY,
        ),
    ),
    *cells(
        "state disk lost, keyring copied before",
        (GRAMINE, KEPT, "The copy opens as the file did."),
        (AT_PEER, KEPT, "The copy opens as the file did."),
    ),
    *cells(
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
        (AT_PEER, KEPT, "The peer judges the image, whatever machine it is on."),
        (AT_PEER_TOO, ANEW, "The peer's slot opens; the new machine's is made anew."),
        (AT_SIDECAR, CLOSED, "The sidecar was on the same machine.", NEXT_MACHINE),
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
    *cells(
        "one slot damaged",
        (GRAMINE, CLOSED, "The only slot is damaged.", NEXT_COPY),
        (
            BOTH,
            REFUSED + _TAMPERED,
            "Damage and forgery look alike, so an operator says which it is.",
        ),
    ),
    *cells(
        "one slot damaged, left out by an operator",
        (
            BOTH,
            KEPT,
            "`keyring slot drop-damaged`: all but the slot is as it was written.",
        ),
    ),
    *cells(
        "one slot damaged, a copy put back",
        (GRAMINE, KEPT, "The copy opens as the file did."),
        (BOTH, KEPT, "The copy opens as the file did."),
    ),
    *cells(
        "file truncated",
        (GRAMINE, "lost: keyring_malformed", "Half a file is none.", NEXT_COPY),
        (BOTH, "lost: keyring_malformed", "Half a file is none.", NEXT_COPY),
    ),
    *cells(
        "file truncated, a copy put back",
        (BOTH, KEPT, "The copy opens as the file did."),
    ),
    *cells(
        "older file put back, no anchor",
        (
            GRAMINE,
            "older, unnoticed: generation 3 is gone",
            "Nothing remembers the counter while no provider runs.",
            "Put the newest copy back, and pin a policy root: its state is an anchor.",
        ),
    ),
    *cells(
        "older file put back under a running provider",
        (GRAMINE, REFUSED + _ROLLED_BACK, "The process remembers the counter."),
    ),
    *cells(
        "older file put back, state store as anchor",
        (GRAMINE, REFUSED + _ROLLED_BACK, "The store remembers the counter."),
    ),
    *cells(
        "older file and older state put back",
        (
            GRAMINE,
            "older, unnoticed: generation 3 is gone",
            "Both agree, and nothing outside remembers.",
            "Put the newest copies back; only an anchor outside would notice.",
        ),
    ),
    *cells(
        "header downgraded",
        (GRAMINE, REFUSED + _TAMPERED, "The header is under the keyring's MAC."),
        (SNP, REFUSED + _TAMPERED, "The header is under the keyring's MAC."),
    ),
    *cells(
        "slot swapped for its own older one",
        (GRAMINE, REFUSED + _TAMPERED, "The slot opens, and the MAC does not fit."),
        (BOTH, REFUSED + _TAMPERED, "The slot opens, and the MAC does not fit."),
    ),
    *cells(
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
    *cells(
        "genuine twin under its own policy root",
        (SIDECAR, REFUSED + "another key", "The policy root enters every key."),
        (SIDECAR_SNP, REFUSED + "another key", "The policy root enters every key."),
        (GRAMINE, _MISMATCH, "Its slot opens; the header names our policy root."),
        (SGX, _MISMATCH, "Its slot opens; the header names our policy root."),
        (SNP, _MISMATCH, "Its slot opens; the header names our policy root."),
        (AT_PEER, _MISMATCH, "Its slot opens; the header names our policy root."),
    ),
    *cells(
        "genuine twin, header rewritten to its root",
        (GRAMINE, REFUSED + _TAMPERED, "The header is under the keyring's MAC."),
    ),
    *cells(
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
    *cells(
        "simulated keyring in another world",
        (SIDECAR, REFUSED + "another key", _HARDWARE),
        (GRAMINE, REFUSED + "slot_unavailable", _HARDWARE),
        (SNP, REFUSED + "slot_unavailable", _HARDWARE),
        (TYPED, _MISMATCH, "The stand-in opens; the trust domain is another."),
        (AT_PEER, REFUSED + "slot_unavailable", "The trust domain enters its key."),
    ),
    *cells(
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
    *PROVIDER_CELLS,
    *HANDOFF_CELLS,
    *_FILES,
    *ANCHOR_CELLS,
    *_STRANGERS,
)
"""Every row, in the order of the table."""
