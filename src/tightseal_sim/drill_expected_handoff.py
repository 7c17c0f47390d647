# SPDX-License-Identifier: Apache-2.0
"""What has to come of handoffs, and of providers that share a state store."""

from __future__ import annotations

from typing import Final

from tightseal_sim.drill_cells import KEPT, REFUSED, cells, service
from tightseal_sim.drill_site import Way

__all__ = ["HANDOFF_CELLS"]

BOTH: Final = service(Way.GRAMINE, Way.SGX)
NEXT_JOIN: Final = (
    "Let another provider join before: tightseal provider upgrade. Now only a copy of"
    " the file, and a slot that is not this machine's, bring them back."
)

HANDOFF_CELLS: Final = (
    *cells(
        "machine lost, another provider had joined",
        (BOTH, KEPT, "It has every root, and slots of its own."),
        (service(Way.GRAMINE), KEPT, "It has every root, and a slot of its own."),
    ),
    *cells(
        "machine lost, nobody had joined",
        (BOTH, "lost: keyring_missing", "There was one copy.", NEXT_JOIN),
    ),
    *cells(
        "joiner dies at each step of a handoff",
        (BOTH, KEPT, "The invitation is its machine's until it has confirmed."),
    ),
    *cells(
        "giver dies before its answer arrives",
        (BOTH, KEPT, "What it remembers is in the state store; both go on."),
    ),
    *cells(
        "genuine twin under its own policy root asks to join",
        (BOTH, REFUSED + "action_provider_mismatch", "Its operators are not ours."),
    ),
    *cells(
        "image that the policy does not name asks to join",
        (BOTH, REFUSED + "provider_not_allowed", "An invitation alone lets nobody in."),
    ),
    *cells(
        "second machine joins by a used invitation",
        (BOTH, REFUSED + "invitation_used", "It is for one machine, once."),
    ),
    *cells(
        "provider of one tenant asks for another's key",
        (BOTH, REFUSED + "key_not_in_branch", "Its own keys are as at the parent's."),
    ),
    *cells(
        "revoked provider is given the newest file",
        (BOTH, REFUSED + "slot_unavailable", "Its slots are gone, the roots rotated."),
    ),
    *cells(
        "two providers over one store rotate at once",
        (BOTH, KEPT, "One after the other, by compare-and-set in the store."),
    ),
    *cells(
        "provider down while another rotates",
        (BOTH, KEPT, "It takes the newest version from the store at its start."),
    ),
)
"""Rows, in the order of the table."""
