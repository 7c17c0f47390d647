# SPDX-License-Identifier: Apache-2.0
"""What remembers how far a keyring has come, as an interface."""

from __future__ import annotations

from typing import Protocol

from tightseal.model.state import AnchorClass

__all__ = ["KeyringAnchor"]


class KeyringAnchor(Protocol):
    """Remembers the highest counter of each keyring where the host cannot lower it.

    It knows a number, not the content: of two keyrings that parted at one counter it
    cannot tell which is the right one.
    """

    @property
    def anchor_class(self) -> AnchorClass:
        """What kind of anchor this is."""
        ...

    def remembered(self, keyring_id: bytes) -> int | None:
        """The highest counter taken; ``None`` for a keyring that it never saw.

        Raises:
            KeyReleaseError: ``keyring_rolled_back``, where what it took was lost.
            PolicyError: ``anchor_required``, in place of ``None`` where settings say.
            ServiceError: ``state_unavailable``, where it cannot be asked.
        """
        ...

    def remember(self, keyring_id: bytes, counter: int) -> None:
        """Take a counter; one that is not higher than the last changes nothing.

        Called after the keyring with that counter is safely on disk, so that a crash
        never leaves the anchor ahead of the file.

        Raises:
            KeyReleaseError: ``keyring_rolled_back``, as of ``remembered``.
            ServiceError: ``state_unavailable``.
        """
        ...
