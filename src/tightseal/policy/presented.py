# SPDX-License-Identifier: Apache-2.0
"""What a workload presents: claims, and what its event log proves besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tightseal.model.claims import Claims
from tightseal.policy.eventlog.facts import EventFacts
from tightseal.policy.fields import event_field

__all__ = ["Presented", "present"]


@dataclass(frozen=True, slots=True)
class Presented:
    """Claims and event log as selectors see them. Made by :func:`present`.

    Attributes:
        claims: from verified evidence.
        values: measurements by name, and identity events as ``event:<name>``.
        events: of the replayed log; ``None`` where none was sent.
    """

    claims: Claims
    values: Mapping[str, bytes]
    events: EventFacts | None

    def digests(self, register: str) -> tuple[bytes, ...] | None:
        """What a register was extended with; ``None`` where nobody knows."""
        return None if self.events is None else self.events.digests(register)


def present(claims: Claims, events: EventFacts | None) -> Presented:
    """Put claims and event log side by side; an absent log has no values."""
    if events is None or not events.identity:
        return Presented(claims, claims.measurements, events)
    identity = {event_field(name): data for name, data in events.identity.items()}
    return Presented(claims, {**claims.measurements, **identity}, events)
