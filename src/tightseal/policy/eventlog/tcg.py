# SPDX-License-Identifier: Apache-2.0
"""The boot log of a TD's firmware (CCEL): TCG's crypto-agile format.

Layout (little-endian; TCG PC Client Platform Firmware Profile 1.06, section 10): a
header in the old event form (index, type, 20 zero bytes, size) holding the
specification id and the algorithms with their digest sizes; then events (index, type,
digest count, digests, size, data). Firmware fills what is left of the log area with
0xFF. In a TD the index is a measurement register (UEFI 2.10, section 38.4.1): 0 is
MRTD, 1 to 4 are RTMR0 to RTMR3.
"""

from __future__ import annotations

import struct
from typing import Final

from tightseal.policy.eventlog.events import (
    DIGEST_BYTES,
    MAX_EVENT_DATA_BYTES,
    MAX_EVENTS,
    REGISTER_NAMES,
    LoggedEvent,
    malformed,
    too_large,
)

__all__ = ["SPEC_ID_AT", "SPEC_ID_SIGNATURE", "parse_tcg_log"]

SPEC_ID_SIGNATURE: Final = b"Spec ID Event03\0"
SPEC_ID_AT: Final = 32
"""Where the signature stands: behind the header event's own header."""

_HEADER: Final = struct.Struct("<II20sI")
_SPEC_ID: Final = struct.Struct("<16sIBBBBI")
_ALGORITHM: Final = struct.Struct("<HH")
_EVENT: Final = struct.Struct("<IIIH48sI")

_NO_ACTION: Final = 0x3
_SHA384: Final = 0x000C
_SPEC_VERSION: Final = (2, 0)
_HEADER_INDICES: Final = frozenset({0, 1})
_PLATFORM_CLASSES: Final = frozenset({0, 1})
_UINTN_SIZES: Final = frozenset({1, 2})
_MRTD_INDEX: Final = 0
_PADDING: Final = 0xFF


def parse_tcg_log(log: bytes) -> tuple[LoggedEvent, ...]:
    """Read a CCEL strictly, and leave out what extends no RTMR.

    Left out are events of index 0 (firmware logs there what the host measured into
    MRTD before launch) and ``EV_NO_ACTION``, whose digest must be zero. The type of an
    event is covered by no digest, so nothing else is read from it.

    Does not check: that the events lead to any register.

    Raises:
        EvidenceError: ``event_log_malformed`` for another specification, algorithm or
            register, truncation, or bytes behind the last event that are not padding;
            ``event_log_too_large`` over the bounds.
    """
    at = _header_end(log)
    found: list[LoggedEvent] = []
    count = 0
    while at < len(log):
        if log[at] == _PADDING:
            _require_padding(log, at)
            break
        count += 1
        if count > MAX_EVENTS:
            raise too_large(f"more than {MAX_EVENTS} events")
        event, at = _event(log, at)
        if event is not None:
            found.append(event)
    return tuple(found)


def _header_end(log: bytes) -> int:
    """Check the header event; where the first event behind it begins."""
    if len(log) < _HEADER.size + _SPEC_ID.size:
        raise malformed(f"{len(log)} bytes hold no header event")
    index, kind, digest, size = _HEADER.unpack_from(log)
    if index not in _HEADER_INDICES or kind != _NO_ACTION or any(digest):
        raise malformed(f"header event of index {index}, type {kind:#x}")
    signature, platform, minor, major, _errata, uintn, algorithms = (
        _SPEC_ID.unpack_from(log, _HEADER.size)
    )
    if signature != SPEC_ID_SIGNATURE or (major, minor) != _SPEC_VERSION:
        raise malformed(f"specification {signature!r} {major}.{minor}, expected 2.0")
    if platform not in _PLATFORM_CLASSES or uintn not in _UINTN_SIZES:
        raise malformed(f"platform class {platform}, size of UINTN {uintn}")
    if algorithms != 1:
        raise malformed(f"{algorithms} digest algorithms, expected SHA-384 alone")
    at = _HEADER.size + _SPEC_ID.size
    if len(log) < at + _ALGORITHM.size + 1:
        raise malformed("truncated in the header event")
    algorithm, digest_size = _ALGORITHM.unpack_from(log, at)
    if (algorithm, digest_size) != (_SHA384, DIGEST_BYTES):
        raise malformed(f"algorithm {algorithm:#x} of {digest_size} bytes, not SHA-384")
    vendor_at = at + _ALGORITHM.size
    end = vendor_at + 1 + log[vendor_at]
    if _HEADER.size + size != end or end > len(log):
        raise malformed(f"header event of {size} bytes, {end - _HEADER.size} read")
    return end


def _event(log: bytes, at: int) -> tuple[LoggedEvent | None, int]:
    """One event, and where the next one begins."""
    if len(log) - at < _EVENT.size:
        raise malformed(f"truncated at byte {at}")
    index, kind, digests, algorithm, digest, size = _EVENT.unpack_from(log, at)
    if index > len(REGISTER_NAMES):
        raise malformed(f"measurement register {index} at byte {at}, at most 4")
    if digests != 1 or algorithm != _SHA384:
        raise malformed(
            f"{digests} digests, the first of algorithm {algorithm:#x}, at byte {at}: "
            "expected one of SHA-384"
        )
    if size > MAX_EVENT_DATA_BYTES:
        raise too_large(f"event data of {size} bytes, at most {MAX_EVENT_DATA_BYTES}")
    begin = at + _EVENT.size
    end = begin + size
    if end > len(log):
        raise malformed(f"event data of {size} bytes, {len(log) - begin} are left")
    if kind == _NO_ACTION:
        if any(digest):
            raise malformed(f"EV_NO_ACTION with a digest at byte {at}")
        return None, end
    if index == _MRTD_INDEX:
        return None, end
    return LoggedEvent.of_boot(index - 1, digest, log[begin:end]), end


def _require_padding(log: bytes, at: int) -> None:
    """Nothing may hide behind what looks like the unused end of the log area."""
    rest = log[at:]
    if rest.count(_PADDING) != len(rest):
        raise malformed(f"bytes behind the last event, from {at} on, are no padding")
