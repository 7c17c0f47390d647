# SPDX-License-Identifier: Apache-2.0
"""What policy may read of a replayed log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from tightseal.errors import Code, EvidenceError
from tightseal.policy.eventlog.events import (
    REGISTER_NAMES,
    RUNTIME_REGISTER,
    LoggedEvent,
    malformed,
)

__all__ = [
    "BOOT_BOUNDARY",
    "IDENTITY_EVENTS",
    "LATE_EVENTS",
    "EventFact",
    "EventFacts",
    "LogFormat",
    "event_facts",
]

BOOT_BOUNDARY: Final = "boot-mr-done"
"""The runtime event that dstack measures last before anything of the workload runs."""

IDENTITY_EVENTS: Final = (
    "app-id",
    "compose-hash",
    "instance-id",
    "gpu-policy-hash",
    "os-image-hash",
    "key-provider",
)
"""Runtime events that name a workload; each counts once, before the boundary."""

LATE_EVENTS: Final = frozenset({"os-image-hash", "key-provider"})
"""Identity events that dstack itself measures after the boundary.

There they are tolerated and count for nothing: what runs after the boundary may be the
workload's own code.
"""


class LogFormat(StrEnum):
    """Which format a log has."""

    TCG = "tcg"
    DSTACK = "dstack"


@dataclass(frozen=True, slots=True)
class EventFact:
    """One event that a register in the claims proves.

    Attributes:
        digest: what the register was extended with, 48 bytes.
        data: bytes from which the digest was recomputed: for a runtime event its
            payload, for another event the bytes that were hashed. ``None`` where only
            the digest is proven.
        name: of a runtime event, covered by the digest; ``None`` for others.
        before_boundary: whether the boundary follows it in the same register. Always
            false without a boundary, and for other registers, since no register says
            in which order two of them were extended.
    """

    digest: bytes
    data: bytes | None
    name: str | None = None
    before_boundary: bool = False


@dataclass(frozen=True, slots=True)
class EventFacts:
    """What a log proves, once its replay gave the registers in the claims.

    Attributes:
        format: of the log.
        registers: name (``rtmr0`` to ``rtmr3``) to its events, in order; empty where
            the claims show that nothing was measured into it.
        not_replayed: registers that the log is silent about: ``rtmr3`` or none. Nothing
            is known about them, so no rule may hold for them, not even one that asks
            for absence.
        boundary: whether the log has the boot boundary.
        identity: identity event to payload; only events before the boundary, none
            without a boundary, and no empty or all-zero payload.
    """

    format: LogFormat
    registers: Mapping[str, tuple[EventFact, ...]]
    not_replayed: tuple[str, ...]
    boundary: bool
    identity: Mapping[str, bytes]

    def digests(self, register: str) -> tuple[bytes, ...] | None:
        """The digests of a register in order; ``None`` where it was not replayed."""
        events = self.registers.get(register)
        return None if events is None else tuple(event.digest for event in events)


def event_facts(
    log_format: LogFormat, events: Iterable[LoggedEvent], *, replayed: frozenset[str]
) -> EventFacts:
    """Make the facts of events whose replay gave the registers in the claims.

    Args:
        log_format: of the log.
        events: in the log's order.
        replayed: the names of the registers that the replay gave.

    Raises:
        EvidenceError: ``event_log_duplicate``, where the boundary or an identity event
            stands twice; ``event_log_misplaced``, where an identity event that dstack
            measures before the boundary stands behind it; ``event_log_malformed``,
            where the boundary has a payload.
    """
    by_register: list[list[LoggedEvent]] = [[] for _ in REGISTER_NAMES]
    for event in events:
        by_register[event.register].append(event)
    boundary = _boundary(by_register[RUNTIME_REGISTER])
    registers = {
        name: tuple(
            EventFact(
                event.digest,
                event.data,
                event.name,
                index == RUNTIME_REGISTER and boundary is not None and at < boundary,
            )
            for at, event in enumerate(by_register[index])
        )
        for index, name in enumerate(REGISTER_NAMES)
        if name in replayed
    }
    return EventFacts(
        format=log_format,
        registers=MappingProxyType(registers),
        not_replayed=tuple(n for n in REGISTER_NAMES if n not in replayed),
        boundary=boundary is not None,
        identity=MappingProxyType(_identity(by_register[RUNTIME_REGISTER], boundary)),
    )


def _boundary(events: list[LoggedEvent]) -> int | None:
    """Position of the boundary among the events of the runtime register."""
    found = [at for at, event in enumerate(events) if event.name == BOOT_BOUNDARY]
    if not found:
        return None
    if len(found) > 1:
        raise _duplicate(BOOT_BOUNDARY, found[1])
    if events[found[0]].data:
        raise malformed(f"{BOOT_BOUNDARY} with a payload")
    return found[0]


def _identity(events: list[LoggedEvent], boundary: int | None) -> dict[str, bytes]:
    """Identity events before the boundary; each may stand once in all."""
    seen: set[str] = set()
    found: dict[str, bytes] = {}
    for at, event in enumerate(events):
        name = event.name
        if name is None or name not in IDENTITY_EVENTS:
            continue
        if name in seen:
            raise _duplicate(name, at)
        seen.add(name)
        if boundary is None:
            continue
        if at < boundary:
            if event.data is not None and any(event.data):
                found[name] = event.data
        elif name not in LATE_EVENTS:
            raise EvidenceError(
                Code.EVENT_LOG_MISPLACED,
                f"event log: {name} is event {at} of rtmr3, {BOOT_BOUNDARY} is event "
                f"{boundary}: expected it before",
            )
    return found


def _duplicate(name: str, at: int) -> EvidenceError:
    detail = f"event log: {name} a second time, as event {at} of rtmr3"
    return EvidenceError(Code.EVENT_LOG_DUPLICATE, detail)
