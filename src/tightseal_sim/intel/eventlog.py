# SPDX-License-Identifier: Apache-2.0
"""The event log of a TD: what was measured into which RTMR, and its replay."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = [
    "RUNTIME_EVENT",
    "Event",
    "boot_event",
    "extended",
    "replay",
    "runtime_event",
]

RUNTIME_EVENT: Final = 0x08000001
"""Event type of runtime events, as dstack writes it."""

EV_SEPARATOR: Final = 0x4
EV_EVENT_TAG: Final = 0x6
EV_EFI_BOOT_SERVICES_APPLICATION: Final = 0x80000003
EV_EFI_ACTION: Final = 0x80000007
EV_EFI_HANDOFF_TABLES2: Final = 0x8000000B
EV_EFI_VARIABLE_DRIVER_CONFIG: Final = 0x80000001

RTMR_BYTES: Final = 48


@dataclass(frozen=True, slots=True)
class Event:
    """One measured event.

    Attributes:
        rtmr: register, 0 to 3.
        event_type: TCG event type, or ``RUNTIME_EVENT``.
        name: what it is.
        payload: what the log keeps of it; a kernel is logged by its name only.
        digest: what the register was extended with, 48 bytes.
    """

    rtmr: int
    event_type: int
    name: str
    payload: bytes
    digest: bytes


def boot_event(
    rtmr: int, event_type: int, name: str, measured: bytes, *, logged: bytes = b""
) -> Event:
    """An event of the boot: the digest is SHA-384 over what was measured."""
    return Event(rtmr, event_type, name, logged, hashlib.sha384(measured).digest())


def runtime_event(
    name: str, payload: bytes, *, rtmr: int = 3, version: int = 1
) -> Event:
    """An event of the running system, digested like dstack's runtime events.

    Version 1: SHA-384 over type (little-endian), colon, name, colon, payload. Version
    2: SHA-384 over JSON with sorted keys and no spaces, the payload in hex.
    """
    head = struct.pack("<I", RUNTIME_EVENT) + b":" + name.encode() + b":"
    measured = head + payload
    if version == 2:  # noqa: PLR2004 - the number is the format's own
        fields = {"name": name, "payload": payload.hex(), "type": RUNTIME_EVENT}
        text = json.dumps(
            fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        measured = text.encode()
    digest = hashlib.sha384(measured).digest()
    return Event(rtmr, RUNTIME_EVENT, name, payload, digest)


def extended(register: bytes, digest: bytes) -> bytes:
    """A register after one extension (TDG.MR.RTMR.EXTEND)."""
    return hashlib.sha384(register + digest).digest()


def replay(events: Iterable[Event]) -> tuple[bytes, bytes, bytes, bytes]:
    """The four registers that the events lead to, starting from zero."""
    registers = [bytes(RTMR_BYTES)] * 4
    for event in events:
        registers[event.rtmr] = extended(registers[event.rtmr], event.digest)
    return registers[0], registers[1], registers[2], registers[3]
