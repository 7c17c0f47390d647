# SPDX-License-Identifier: Apache-2.0
"""What has to come of what happens to other providers, and to the signer's opt-in."""

from __future__ import annotations

from typing import Final

from tightseal_sim.drill_cells import ANEW, CLOSED, KEPT, NEXT_SLOT, cells, service
from tightseal_sim.drill_site import Way

__all__ = ["PROVIDER_CELLS"]

AT_PEER: Final = service(Way.PEER)
AT_PEER_TOO: Final = service(Way.GRAMINE, Way.PEER)
PEER_FIRST: Final = service(Way.PEER, Way.GRAMINE)
AT_SIDECAR: Final = service(Way.SIDECAR)
AT_SIDECAR_TOO: Final = service(Way.GRAMINE, Way.SIDECAR)

NEXT_PEER_POLICY: Final = (
    "Name the new image in the peer's policy, before the rebuild; after it, too."
)
NEXT_START: Final = (
    "Start the other provider; keep a slot that needs no provider that runs."
)
NEXT_PIN: Final = (
    "Pin the new image in release.slot_provider, before it replaces the old."
)
NEXT_OPT_IN: Final = (
    "Sign the opt-in again to open once more; add another slot before it goes."
)

_OWN_OPENS: Final = "The machine's own slot opens; the other is passed over."
_REFUSED_ALWAYS: Final = "The opt-in is asked for at each opening."

PROVIDER_CELLS: Final = (
    *cells(
        "rebuild, named in the peer's policy before",
        (service(Way.GRAMINE), CLOSED, "It has no slot of the peer.", NEXT_SLOT),
        (AT_PEER, KEPT, "One name in the peer's policy, two images."),
        (AT_PEER_TOO, ANEW, "The peer's slot opens; the machine's is made anew."),
        (AT_SIDECAR, CLOSED, "A sidecar's key belongs to the image.", NEXT_SLOT),
    ),
    *cells(
        "rebuild, same signer, opt-in withdrawn",
        (service(Way.GRAMINE_SIGNER), CLOSED, _REFUSED_ALWAYS, NEXT_OPT_IN),
        (service(Way.SGX_SIGNER), CLOSED, _REFUSED_ALWAYS, NEXT_OPT_IN),
    ),
    *cells(
        "opt-in for the signer withdrawn",
        (service(Way.GRAMINE_SIGNER), CLOSED, _REFUSED_ALWAYS, NEXT_OPT_IN),
        (service(Way.SGX), KEPT, "It belongs to the enclave alone."),
    ),
    *cells(
        "other provider down",
        (AT_PEER, CLOSED, "Nothing else opens.", NEXT_START),
        (AT_PEER_TOO, KEPT, "The machine's own slot opens."),
        (PEER_FIRST, KEPT, _OWN_OPENS),
        (AT_SIDECAR, CLOSED, "Nothing else opens.", NEXT_START),
    ),
    *cells(
        "other provider down and back",
        (AT_PEER, KEPT, "It gives the same key again."),
        (AT_SIDECAR, KEPT, "It gives the same key again."),
    ),
    *cells(
        "other provider rebuilt, pin as before",
        (AT_PEER, CLOSED, "The pin names the old image.", NEXT_PIN),
        (PEER_FIRST, KEPT, _OWN_OPENS),
    ),
    *cells(
        "other provider rebuilt, pin changed with it",
        (AT_PEER, KEPT, "The same keyring, opened by the new image."),
    ),
    *cells(
        "other provider's microcode updated",
        (AT_PEER, KEPT, "The peer's root is in its own keyring."),
    ),
    *cells(
        "other provider's policy drops our image",
        (AT_PEER, CLOSED, "It gives its key to others only.", NEXT_PEER_POLICY),
        (PEER_FIRST, KEPT, _OWN_OPENS),
    ),
)
"""Rows, in the order of the table."""
