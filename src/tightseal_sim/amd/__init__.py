# SPDX-License-Identifier: Apache-2.0
"""AMD's side of the simulated world: roots, chips, guests, reports and derived keys."""

from __future__ import annotations

from tightseal_sim.amd.chip import SimChip
from tightseal_sim.amd.guest import DerivedKeyRequest, FieldSelect, GuestImage, SimGuest
from tightseal_sim.amd.world import AmdWorld

__all__ = [
    "AmdWorld",
    "DerivedKeyRequest",
    "FieldSelect",
    "GuestImage",
    "SimChip",
    "SimGuest",
]
