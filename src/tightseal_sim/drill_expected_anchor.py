# SPDX-License-Identifier: Apache-2.0
"""What has to come of drills where a TPM's counter remembers the keyring.

Written by hand from what the documentation promises; never from what a run gave.
"""

from __future__ import annotations

from typing import Final

from tightseal_sim.drill_cells import KEPT, REFUSED, cells, service
from tightseal_sim.drill_site import Way

__all__ = ["ANCHOR_CELLS"]

NEXT_ADOPT: Final = (
    "Find out who did it; once you know that the file is the newest, `keyring anchor "
    "init --adopt`."
)

_GRAMINE: Final = service(Way.GRAMINE)
_LOST: Final = "lost: keyring_rolled_back"

ANCHOR_CELLS: Final = (
    *cells(
        "older file put back, a TPM as anchor",
        (
            _GRAMINE,
            REFUSED + "keyring_rolled_back",
            "The TPM remembers the counter, also where the record beside it is older.",
        ),
    ),
    *cells(
        "provider crash between file and TPM",
        (_GRAMINE, KEPT, "The next start tells the TPM what it was not told."),
    ),
    *cells(
        "TPM of the anchor cleared",
        (_GRAMINE, _LOST, "What the TPM remembered is gone.", NEXT_ADOPT),
    ),
    *cells(
        "TPM of the anchor cleared, adopted by an operator",
        (_GRAMINE, KEPT, "The TPM opens nothing: the slots open as before."),
    ),
    *cells(
        "TPM of the anchor replaced",
        (_GRAMINE, _LOST, "The record names the TPM that is meant.", NEXT_ADOPT),
    ),
)
"""Rows, in the order of the table."""
