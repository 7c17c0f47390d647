# SPDX-License-Identifier: Apache-2.0
"""Keyrings: random roots in one file, opened through independent slots."""

from __future__ import annotations

from tightseal.keys.keyring.anchor_record import AnchorFile, AnchorRecord
from tightseal.keys.keyring.change import (
    NOT_ERASED,
    activate,
    destroy,
    new_keyring,
    prepare,
    retire,
    rotate,
    set_terms,
)
from tightseal.keys.keyring.change_slots import (
    add_slot,
    adopt_slots,
    remove_slot,
    renew_key,
    rewrap_slot,
    without_damaged,
)
from tightseal.keys.keyring.file import Basis, KeyringFile, Loaded, Saved, Source
from tightseal.keys.keyring.generation import (
    MAX_GENERATIONS,
    TRANSITIONS,
    Generation,
    GenerationState,
)
from tightseal.keys.keyring.handed import (
    Handed,
    decode_handed,
    hand_over,
    new_slots,
    take_over,
)
from tightseal.keys.keyring.header import Branch, Header
from tightseal.keys.keyring.history import check_goes_on
from tightseal.keys.keyring.keep import check_saved, keep, keep_new, keep_opened
from tightseal.keys.keyring.open import OpenedKeyring, open_keyring, open_with_key
from tightseal.keys.keyring.opened import Keyring
from tightseal.keys.keyring.probe import SlotProbe, probe_slots, working
from tightseal.keys.keyring.sealed import (
    MAX_KEYRING_BYTES,
    SealedKeyring,
    decode_keyring,
)
from tightseal.keys.keyring.slot import MAX_SLOTS, Slot
from tightseal.keys.keyring.terms import DamagedSlots, Terms, UnseenKeyring
from tightseal.keys.keyring.wrap import factors_of

__all__ = [
    "MAX_GENERATIONS",
    "MAX_KEYRING_BYTES",
    "MAX_SLOTS",
    "NOT_ERASED",
    "TRANSITIONS",
    "AnchorFile",
    "AnchorRecord",
    "Basis",
    "Branch",
    "DamagedSlots",
    "Generation",
    "GenerationState",
    "Handed",
    "Header",
    "Keyring",
    "KeyringFile",
    "Loaded",
    "OpenedKeyring",
    "Saved",
    "SealedKeyring",
    "Slot",
    "SlotProbe",
    "Source",
    "Terms",
    "UnseenKeyring",
    "activate",
    "add_slot",
    "adopt_slots",
    "check_goes_on",
    "check_saved",
    "decode_handed",
    "decode_keyring",
    "destroy",
    "factors_of",
    "hand_over",
    "keep",
    "keep_new",
    "keep_opened",
    "new_keyring",
    "new_slots",
    "open_keyring",
    "open_with_key",
    "prepare",
    "probe_slots",
    "remove_slot",
    "renew_key",
    "retire",
    "rewrap_slot",
    "rotate",
    "set_terms",
    "take_over",
    "without_damaged",
    "working",
]
