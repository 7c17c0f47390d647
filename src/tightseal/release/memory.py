# SPDX-License-Identifier: Apache-2.0
"""What a provider under a policy root remembers: usage, adoptions, done actions."""

from __future__ import annotations

from dataclasses import dataclass, field

from tightseal.model.state import AnchorClass, StateStore
from tightseal.release.actions import ActionDesk
from tightseal.release.keyring import KeyringKeeper
from tightseal.release.usage import UsageCounter

__all__ = ["Memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """One state store, and what reads and writes it.

    Attributes:
        store: sealed records; shared by workers, and perhaps by providers.
        keyring: that operators may change; ``None`` in the sidecar shape.
        usage: counts releases.
        actions: does what operators ask for, once.
    """

    store: StateStore
    keyring: KeyringKeeper | None = None
    usage: UsageCounter = field(init=False)
    actions: ActionDesk = field(init=False)

    def __post_init__(self) -> None:
        """Make both over the store."""
        object.__setattr__(self, "usage", UsageCounter(self.store))
        object.__setattr__(
            self, "actions", ActionDesk(self.store, keyring=self.keyring)
        )

    @property
    def anchor(self) -> AnchorClass:
        """What notices that the whole state was put back; for receipts."""
        return self.store.freshness().anchor
