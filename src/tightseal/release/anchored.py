# SPDX-License-Identifier: Apache-2.0
"""Anchors whose word is held against a keyring once it is open.

What says what a TPM's counter means lies under the keyring key. So it is asked after
the keyring was opened, and before anything of it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring import Keyring, OpenedKeyring
from tightseal.model.keyring import KeyringAnchor
from tightseal.model.state import AnchorClass

__all__ = ["Anchors", "KeyedAnchor", "held"]

KeyedAnchor: TypeAlias = Callable[[Keyring], KeyringAnchor]
"""From an open keyring to what remembers it."""


class Anchors:
    """Implements ``KeyringAnchor`` by several: each must know the keyring.

    Args:
        anchors: the one whose class is shown first.
    """

    def __init__(self, anchors: Sequence[KeyringAnchor]) -> None:
        self._anchors = tuple(anchors)

    @property
    def anchor_class(self) -> AnchorClass:
        """That of the first."""
        return self._anchors[0].anchor_class

    def remembered(self, keyring_id: bytes) -> int | None:
        """The highest of all; ``None`` where one never saw it. Raises as they do."""
        known = [anchor.remembered(keyring_id) for anchor in self._anchors]
        if any(counter is None for counter in known):
            return None
        return max(counter for counter in known if counter is not None)

    def remember(self, keyring_id: bytes, counter: int) -> None:
        """Tell each in turn; raises as they do."""
        for anchor in self._anchors:
            anchor.remember(keyring_id, counter)


def held(opened: OpenedKeyring, anchor: KeyringAnchor) -> OpenedKeyring:
    """The same, once an anchor was asked; it says which.

    Args:
        opened: a keyring that no anchor was asked about.
        anchor: what remembers it.

    Raises:
        KeyReleaseError: ``keyring_rolled_back``; what the anchor raises.
        ServiceError: ``state_unavailable``, where it cannot be asked.
    """
    header, kind = opened.keyring.header, anchor.anchor_class
    known = anchor.remembered(header.keyring_id)
    if known is None:
        name = header.keyring_id.hex()[:16]
        detail = (
            f"anchor {kind.value} never saw keyring {name}; once you know that the file"
            " is the newest: tightseal keyring anchor init"
        )
        raise KeyReleaseError(Code.KEYRING_ROLLED_BACK, detail)
    if header.counter < known:
        detail = f"counter {header.counter}, but anchor {kind.value} has seen {known}"
        raise KeyReleaseError(Code.KEYRING_ROLLED_BACK, detail)
    return replace(opened, anchor=kind, not_noticed=kind.not_noticed)
