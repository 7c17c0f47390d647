# SPDX-License-Identifier: Apache-2.0
"""What a provider under a policy root remembers: usage, adoptions, done actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tightseal.model.state import AnchorClass, StateStore
from tightseal.release.actions import ActionDesk
from tightseal.release.keyring import KeyringKeeper
from tightseal.release.slots import SlotWays
from tightseal.release.usage import UsageCounter

__all__ = ["Memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """One state store, and what reads and writes it.

    Attributes:
        store: sealed records; shared by workers, and perhaps by providers.
        keyring: that operators may change; ``None`` in the sidecar shape.
        slots: what the provider makes slots with; ``None`` where it makes none.
        shared: whether other providers of the keyring share the store.
        usage: counts releases.
        actions: does what operators ask for, once.
    """

    store: StateStore
    keyring: KeyringKeeper | None = None
    slots: Callable[[], SlotWays] | None = None
    shared: bool = False
    usage: UsageCounter = field(init=False)
    actions: ActionDesk = field(init=False)

    def __post_init__(self) -> None:
        """Make both over the store."""
        object.__setattr__(self, "usage", UsageCounter(self.store))
        desk = ActionDesk(
            self.store, keyring=self.keyring, slots=self.slots, shared=self.shared
        )
        object.__setattr__(self, "actions", desk)

    @property
    def anchor(self) -> AnchorClass:
        """What notices that the whole state was put back; for receipts."""
        return self.store.freshness().anchor
