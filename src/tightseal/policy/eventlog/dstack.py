# SPDX-License-Identifier: Apache-2.0
"""dstack's event log: a JSON array of boot events and runtime events.

Fields (dstack ``cc-eventlog``): ``imr`` (0 to 3 for RTMR0 to RTMR3), ``event_type``,
``digest`` and ``event_payload`` in lower-case hex, ``event``, and for runtime events
``version`` (1 where absent) and ``preimage``. Runtime events have type 0x08000001 and
extend RTMR3 with a digest over name and payload; boot events come from the CCEL.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from tightseal.errors import Code, EvidenceError
from tightseal.policy.eventlog.events import (
    DIGEST_BYTES,
    MAX_EVENT_DATA_BYTES,
    MAX_EVENTS,
    MAX_NAME_CHARS,
    REGISTER_NAMES,
    RUNTIME_REGISTER,
    LoggedEvent,
    malformed,
    too_large,
)

__all__ = ["RUNTIME_EVENT_TYPE", "parse_dstack_log", "runtime_digest"]

RUNTIME_EVENT_TYPE: Final = 0x08000001

# Version 1 joins name and payload with a colon and no length: a name with a colon
# would let one digest be read as two events. Quotes, backslashes and braces are left
# out so that version 2 needs no escapes and braces count events.
_NAME: Final = rf"\A[ !#-9;-Z\[\]^-z|~]{{0,{MAX_NAME_CHARS}}}\Z"
_HEX: Final = r"\A[0-9a-f]*\Z"
_DIGEST: Final = rf"\A(?:[0-9a-f]{{{2 * DIGEST_BYTES}}})?\Z"
_PREIMAGE_OVERHEAD: Final = 256
"""Room in a preimage for the name, its frame and, in version 2, the type."""

_Hex = Annotated[str, Meta(pattern=_HEX, max_length=2 * MAX_EVENT_DATA_BYTES)]
_Preimage = Annotated[
    str,
    Meta(pattern=_HEX, max_length=4 * (MAX_EVENT_DATA_BYTES + _PREIMAGE_OVERHEAD)),
]


class _EventJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    imr: Annotated[int, Meta(ge=0, lt=len(REGISTER_NAMES))]
    event_type: Annotated[int, Meta(ge=0, lt=1 << 32)]
    event: Annotated[str, Meta(pattern=_NAME)]
    event_payload: _Hex
    digest: Annotated[str, Meta(pattern=_DIGEST)] = ""
    version: Literal[1, 2] = 1
    preimage: _Preimage | None = None


_DECODER: Final = msgspec.json.Decoder(list[_EventJson])


def runtime_digest(name: str, payload: bytes, *, version: int) -> bytes:
    """What a runtime event extends its register with, 48 bytes.

    Args:
        name: printable ASCII without colon, quote, backslash or brace.
        payload: the event's data.
        version: 1, SHA-384 over the type (little-endian), colon, name, colon and
            payload; or 2, SHA-384 over JSON in the form of RFC 8785.
    """
    return hashlib.sha384(_preimage(name, payload, version)).digest()


def parse_dstack_log(log: bytes) -> tuple[LoggedEvent, ...]:
    """Read dstack's JSON strictly, and recompute the digest of every runtime event.

    The digest of a runtime event may be left out, as dstack does to save space; where
    it is given it must be that of name and payload. RTMR3 holds runtime events alone:
    an event there with a bare digest could hide the boot boundary or an identity event.

    Does not check: that the events lead to any register.

    Raises:
        EvidenceError: ``event_log_malformed``, where the JSON has another shape, a key
            twice, or names that version 1 cannot tell apart; ``event_log_too_large``
            over the bounds; ``event_log_digest_mismatch``, where a digest or preimage
            is not that of name and payload; ``event_log_misplaced``, where a runtime
            event is outside RTMR3, or another event in it.
    """
    return tuple(_event(event, at) for at, event in enumerate(_decode(log)))


def _decode(log: bytes) -> list[_EventJson]:
    if log.count(b"{") > MAX_EVENTS:
        raise too_large(f"more than {MAX_EVENTS} events")
    try:
        events = _DECODER.decode(log)
        # The typed decoder keeps the last of two equal keys. It has proven the shape,
        # so nothing nests when the text is read again to see every key.
        json.loads(log.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as e:
        raise malformed(f"{type(e).__name__}: {e}") from e
    return events


def _event(event: _EventJson, at: int) -> LoggedEvent:
    """A runtime event with its digest recomputed, or a boot event as it stands."""
    digest, payload = bytes.fromhex(event.digest), _payload(event, at)
    runtime = event.event_type == RUNTIME_EVENT_TYPE
    if runtime != (event.imr == RUNTIME_REGISTER):
        raise EvidenceError(
            Code.EVENT_LOG_MISPLACED,
            f"event log: event {at} of type {event.event_type:#x} in "
            f"{REGISTER_NAMES[event.imr]}: runtime events stand in rtmr3, alone",
        )
    if runtime:
        return _runtime_event(event, at, digest, payload)
    if len(digest) != DIGEST_BYTES:
        raise malformed(f"event {at} has no digest")
    if event.version != 1 or event.preimage is not None:
        raise malformed(f"event {at} has a version or preimage, and no runtime type")
    return LoggedEvent.of_boot(event.imr, digest, payload)


def _payload(event: _EventJson, at: int) -> bytes:
    try:
        return bytes.fromhex(event.event_payload)
    except ValueError as e:
        raise malformed(f"event {at}: payload of half a byte") from e


def _runtime_event(
    event: _EventJson, at: int, digest: bytes, payload: bytes
) -> LoggedEvent:
    preimage = _preimage(event.event, payload, event.version)
    expected = hashlib.sha384(preimage).digest()
    given = event.preimage
    if (digest and digest != expected) or given not in (None, preimage.hex()):
        raise EvidenceError(
            Code.EVENT_LOG_DIGEST_MISMATCH,
            f"event log: event {at} ({event.event}, version {event.version}): expected "
            f"digest {expected.hex()}, got {digest.hex() or 'another preimage'}",
        )
    return LoggedEvent(event.imr, expected, payload, event.event)


def _preimage(name: str, payload: bytes, version: int) -> bytes:
    if version == 1:
        head = struct.pack("<I", RUNTIME_EVENT_TYPE)
        return b":".join((head, name.encode("ascii"), payload))
    text = f'"name":"{name}","payload":"{payload.hex()}","type":{RUNTIME_EVENT_TYPE}'
    return b"{" + text.encode("ascii") + b"}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        message = "a key is given twice"
        raise ValueError(message)
    return found
