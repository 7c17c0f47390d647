# SPDX-License-Identifier: Apache-2.0
"""The event log of a TD as bytes: the firmware's CCEL, and dstack's JSON.

Encoders write whatever the events say, digests that are wrong too: what is spoiled here
is for a verifier to notice.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Any, Final

from tightseal_sim.intel.eventlog import RUNTIME_EVENT, Event, runtime_event

__all__ = ["ccel_event", "ccel_header", "dstack_entry", "to_ccel", "to_dstack_json"]

_EV_NO_ACTION: Final = 3
_SHA384: Final = 0x0C
_SPEC_ID: Final = b"Spec ID Event03\0"


def ccel_header(algorithms: tuple[tuple[int, int], ...] = ((_SHA384, 48),)) -> bytes:
    """The header event: version 2.0, algorithms with their digest sizes."""
    spec = _SPEC_ID + struct.pack("<I4BI", 0, 0, 2, 0, 2, len(algorithms))
    spec += b"".join(struct.pack("<HH", *pair) for pair in algorithms) + b"\0"
    return struct.pack("<II20sI", 1, _EV_NO_ACTION, bytes(20), len(spec)) + spec


def ccel_event(index: int, event_type: int, digest: bytes, data: bytes) -> bytes:
    """One event; index 0 is MRTD, 1 to 4 are RTMR0 to RTMR3."""
    head = struct.pack("<IIIH", index, event_type, 1, _SHA384)
    return head + digest + struct.pack("<I", len(data)) + data


def to_ccel(events: Iterable[Event], *, area: int = 0) -> bytes:
    """The log as firmware leaves it in memory.

    Args:
        events: in order; payloads become the events' data.
        area: bytes of the log area; what is left of it is filled with 0xFF.
    """
    parts = [
        ccel_event(event.rtmr + 1, event.event_type, event.digest, event.payload)
        for event in events
    ]
    return (ccel_header() + b"".join(parts)).ljust(area, b"\xff")


def dstack_entry(event: Event, *, stripped: bool = False) -> dict[str, Any]:
    """One event as dstack's JSON has it.

    Args:
        event: of boot or runtime.
        stripped: leave out what dstack leaves out to save space: the digest of runtime
            events, the payload of boot events.
    """
    runtime = event.event_type == RUNTIME_EVENT
    entry: dict[str, Any] = {
        "imr": event.rtmr,
        "event_type": event.event_type,
        "digest": "" if stripped and runtime else event.digest.hex(),
        "event": event.name if runtime else "",
        "event_payload": "" if stripped and not runtime else event.payload.hex(),
    }
    second = runtime_event(event.name, event.payload, version=2)
    if runtime and second.digest == event.digest:
        entry["version"] = 2
    return entry


def to_dstack_json(events: Iterable[Event], *, stripped: bool = False) -> bytes:
    """The log as dstack's guest agent gives it out, compact JSON.

    Args:
        events: in order.
        stripped: as for ``dstack_entry``.
    """
    entries = [dstack_entry(event, stripped=stripped) for event in events]
    return json.dumps(entries, separators=(",", ":")).encode()
