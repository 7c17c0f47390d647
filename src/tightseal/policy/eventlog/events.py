# SPDX-License-Identifier: Apache-2.0
"""What both formats are read into, and the bounds that hold for both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code, EvidenceError

__all__ = [
    "DIGEST_BYTES",
    "MAX_EVENTS",
    "MAX_EVENT_DATA_BYTES",
    "MAX_NAME_CHARS",
    "REGISTER_NAMES",
    "RUNTIME_REGISTER",
    "LoggedEvent",
    "malformed",
    "too_large",
]

REGISTER_NAMES: Final = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")
"""The registers that events are replayed into, as the claims name them."""

RUNTIME_REGISTER: Final = 3
"""Index of the register that dstack's runtime events go to."""

DIGEST_BYTES: Final = 48
"""SHA-384, the only algorithm that extends an RTMR."""

MAX_EVENTS: Final = 4096
"""Most events in one log, ignored ones too; real logs have below 200."""

MAX_EVENT_DATA_BYTES: Final = 1 << 20
"""Longest data of one event; the largest real ones, revocation lists, have 24 KiB."""

MAX_NAME_CHARS: Final = 128
"""Longest name of a runtime event."""


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event that extends a register.

    Attributes:
        register: 0 to 3, for RTMR0 to RTMR3.
        digest: what the register was extended with, 48 bytes.
        data: bytes from which the digest was recomputed; ``None`` where the log's data
            is not what was measured, or is left out.
        name: name of a runtime event, covered by the digest; ``None`` for others.
    """

    register: int
    digest: bytes
    data: bytes | None
    name: str | None = None

    @classmethod
    def of_boot(cls, register: int, digest: bytes, data: bytes) -> LoggedEvent:
        """An event whose data counts only where the digest is its SHA-384."""
        proven = hashlib.sha384(data).digest() == digest
        return cls(register, digest, data if proven else None)


def malformed(detail: str) -> EvidenceError:
    """``event_log_malformed``, with what was expected and what came."""
    return EvidenceError(Code.EVENT_LOG_MALFORMED, f"event log: {detail}")


def too_large(detail: str) -> EvidenceError:
    """``event_log_too_large``, with the count and its limit."""
    return EvidenceError(Code.EVENT_LOG_TOO_LARGE, f"event log: {detail}")
