# SPDX-License-Identifier: Apache-2.0
"""The root of the sidecar shape: the platform's own sealing key, and nothing stored."""

from __future__ import annotations

from typing import Final

from tightseal.errors import Code, KeyReleaseError
from tightseal.model.generation import SIDECAR_GENERATIONS, Generations
from tightseal.model.ports import RootPlatform
from tightseal.model.provider import sidecar_keyring_id
from tightseal.model.secret import Secret

__all__ = ["SIMULATED_PLATFORM", "PlatformRoots"]

SIMULATED_PLATFORM: Final = "sim"
"""Name of the one kind of platform whose sealing key is simulated too."""


class PlatformRoots:
    """Implements ``KeyRoots`` over a platform that has a sealing key.

    Args:
        platform: what the provider stands on.

    Raises:
        PlatformError: ``sealing_key_unavailable``, where it has none.
    """

    def __init__(self, platform: RootPlatform) -> None:
        self._root = platform.sealing_key()
        self._simulated = platform.name == SIMULATED_PLATFORM

    @property
    def keyring_id(self) -> bytes:
        """The constant of the sidecar shape."""
        return sidecar_keyring_id()

    @property
    def simulated(self) -> bool:
        """Whether the platform is."""
        return self._simulated

    def generations(self) -> Generations:
        """One, for ever."""
        return SIDECAR_GENERATIONS

    def root(self, generation: int) -> Secret:
        """The sealing key, as generation 0.

        Raises:
            KeyReleaseError: ``generation_unknown``, for any other.
        """
        if generation != SIDECAR_GENERATIONS.current:
            detail = f"generation {generation}: a sealing key has 0 alone"
            raise KeyReleaseError(Code.GENERATION_UNKNOWN, detail)
        return self._root
