# SPDX-License-Identifier: Apache-2.0
"""A simulated world: its own roots, its own hardware, one seed behind all of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tightseal.errors import Code, SettingsError
from tightseal_sim.derive import SEED_BYTES, Seed
from tightseal_sim.intel.world import IntelWorld
from tightseal_sim.latency import QuoteGate
from tightseal_sim.state import FolderStore, MemoryStore, Store, WorldState

if TYPE_CHECKING:
    from tightseal_sim.amd import AmdWorld

__all__ = ["World"]

MAX_QUOTE_SECONDS: Final = 60.0
"""Longest simulated time for one quote."""


class World:
    """A simulated world. Every process that opens its folder sees the same one.

    Args:
        store: what was decided in it so far.
        folder: where locks lie; ``None`` for a world of this process alone.
        quote_seconds: time that one quote takes; 0 for none.
        sleep: how to wait for it.

    Raises:
        SettingsError: ``settings_invalid``, for a time outside 0 to 60 seconds.
    """

    def __init__(
        self,
        store: Store,
        folder: Path | None,
        *,
        quote_seconds: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not 0 <= quote_seconds <= MAX_QUOTE_SECONDS:
            detail = f"quote latency of {quote_seconds} s, at most {MAX_QUOTE_SECONDS}"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        self.folder = folder
        self._store = store
        self._quote_seconds = quote_seconds
        self._sleep = sleep
        self._seed = Seed(_seed_bytes(store.read().seed))

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        seed: bytes | None = None,
        quote_seconds: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> World:
        """A new world in a folder; random unless a seed of 32 bytes is given.

        Raises:
            SettingsError: ``settings_invalid``, where one is there already.
        """
        state = _first_state(os.urandom(SEED_BYTES) if seed is None else seed)
        store = FolderStore.create(Path(folder), state)
        return cls(store, Path(folder), quote_seconds=quote_seconds, sleep=sleep)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        quote_seconds: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> World:
        """The world in a folder.

        Raises:
            SettingsError: ``settings_invalid``, where there is none.
        """
        store = FolderStore(Path(folder))
        return cls(store, Path(folder), quote_seconds=quote_seconds, sleep=sleep)

    @classmethod
    def in_memory(cls, seed: bytes) -> World:
        """A world that ends with this process.

        Raises:
            SettingsError: ``settings_invalid``, for a seed of another length than 32.
        """
        return cls(MemoryStore(_first_state(seed)), None)

    def pristine(self) -> World:
        """A world of this process with the same roots, in which nothing was decided."""
        return World.in_memory(_seed_bytes(self._store.read().seed))

    @cached_property
    def intel(self) -> IntelWorld:
        """Intel's side."""
        return IntelWorld(self._seed.child("intel"), self._store, self._gate)

    @cached_property
    def amd(self) -> AmdWorld:
        """AMD's side; loaded when first asked for."""
        from tightseal_sim.amd import AmdWorld  # noqa: PLC0415

        return AmdWorld(self.folder, self._seed.octets("amd", length=SEED_BYTES))

    def _gate(self, platform: str) -> QuoteGate:
        lock = None
        if self.folder is not None:
            # A platform's name is free text, so it must not become a path.
            name = sha256(platform.encode()).hexdigest()[:16]
            lock = self.folder / f"quote-{name}.lock"
        return QuoteGate(lock, seconds=self._quote_seconds, sleep=self._sleep)


def _first_state(seed: bytes) -> WorldState:
    if len(seed) != SEED_BYTES:
        detail = f"seed of {len(seed)} bytes, expected {SEED_BYTES}"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return WorldState(version=1, seed=seed.hex())


def _seed_bytes(text: str) -> bytes:
    try:
        seed = bytes.fromhex(text)
    except ValueError as e:
        detail = "the world's seed is not hexadecimal"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    if len(seed) != SEED_BYTES:
        detail = f"the world's seed has {len(seed)} bytes, expected {SEED_BYTES}"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return seed
