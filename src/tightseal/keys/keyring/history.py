# SPDX-License-Identifier: Apache-2.0
"""Whether one version of a keyring goes on from another one, or parted from it.

A counter alone does not tell: a host can run the genuine image on a copy from before a
rotation, and have it count on from there. The roots tell: the later version has every
generation of the earlier one, with the same root, and no state that went back.
"""

from __future__ import annotations

from typing import Final

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring.generation import Generation, GenerationState, open_root
from tightseal.keys.keyring.opened import Keyring

__all__ = ["check_goes_on"]

_ORDER: Final = tuple(GenerationState)


def check_goes_on(earlier: Keyring, later: Keyring) -> None:
    """Refuse a version that lacks, or changed, a generation of an earlier one.

    Both are open, under one keyring key. Slots are not compared: one that was removed
    cannot be told from one that was never there.

    Raises:
        KeyReleaseError: ``keyring_rolled_back``, with the first such generation.
    """
    if len(later.generations) < len(earlier.generations):
        detail = f"{len(later.generations)} generations, there were"
        raise _parted(f"{detail} {len(earlier.generations)}")
    for was, found in zip(earlier.generations, later.generations, strict=False):
        if _ORDER.index(found.state) < _ORDER.index(was.state):
            change = f"{was.state.value}, now {found.state.value}"
            raise _parted(f"generation {was.number} was {change}")
        if was.living and found.living and not _same_root(was, found, earlier, later):
            raise _parted(f"generation {was.number} has another root")


def _same_root(
    was: Generation, found: Generation, earlier: Keyring, later: Keyring
) -> bool:
    if was.sealed == found.sealed:
        return True
    one = open_root(was, key=earlier.key, keyring_id=earlier.header.keyring_id)
    other = open_root(found, key=later.key, keyring_id=later.header.keyring_id)
    try:
        return one == other
    finally:
        one.wipe()
        other.wipe()


def _parted(detail: str) -> KeyReleaseError:
    return KeyReleaseError(Code.KEYRING_ROLLED_BACK, f"keyring: parted: {detail}")
