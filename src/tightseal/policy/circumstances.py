# SPDX-License-Identifier: Apache-2.0
"""What a decision depends on besides claims, event log and policy."""

from __future__ import annotations

from dataclasses import dataclass

from tightseal.model.claims import PlatformIdentity, TrustDomain
from tightseal.model.generation import SIDECAR_GENERATIONS, Generations
from tightseal.model.keypath import Authority, ProtocolClass
from tightseal.model.settings import LegacyDerivation

__all__ = ["Circumstances"]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The provider's own side of a decision.

    Attributes:
        authority: policy root or settings digest; enters every key path.
        provider_platform: the provider's own platform, from its verified quote.
        provider_domain: the trust domain of the provider's own quote.
        protocol_class: the way in.
        generations: of the root that keys are derived from.
        legacy_derivation: how the legacy protocol makes its key.
        root_simulated: whether the root itself is of a simulated platform.
        signed_time: the newest time that others have signed, Unix seconds; what is
            granted only after a time waits for this one, since the clock is the host's.
    """

    authority: Authority
    provider_platform: PlatformIdentity
    provider_domain: TrustDomain
    protocol_class: ProtocolClass = ProtocolClass.V1
    generations: Generations = SIDECAR_GENERATIONS
    legacy_derivation: LegacyDerivation = LegacyDerivation.CHAIN
    root_simulated: bool = False
    signed_time: int = 0

    @property
    def compatible(self) -> bool:
        """Whether the key is made by the compatible formula, which knows no path."""
        return (
            self.protocol_class is ProtocolClass.LEGACY
            and self.legacy_derivation is LegacyDerivation.COMPATIBLE
        )
