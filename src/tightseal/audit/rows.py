# SPDX-License-Identifier: Apache-2.0
"""Entries and redemptions in the columns of the journal, within their bounds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from tightseal.audit.entry import Row
from tightseal.audit.writer import ERA_STEP, Redemption
from tightseal.errors import Code, RequestError, ServiceError
from tightseal.model import canonical
from tightseal.model.labels import Label
from tightseal.model.ports import JournalEntry, NonceRedemption

__all__ = [
    "ENTRY_ID_BYTES",
    "MAX_BODY_BYTES",
    "RecordedEntry",
    "malformed",
    "recorded_of",
    "redemption_of",
    "row_of",
]

ENTRY_ID_BYTES: Final = 16
MAX_BODY_BYTES: Final = 256 << 10
"""Longest body of an entry, in bytes."""

_HASH_BYTES: Final = 32
_MAX_NONCE_BYTES: Final = 256
_MAX_WORD_CHARS: Final = 64
_MAX_TIME: Final = ERA_STEP - 1


@dataclass(frozen=True, slots=True)
class RecordedEntry:
    """An entry as it stands in the journal, with its place in it."""

    seq: int
    entry: JournalEntry


def row_of(entry: JournalEntry) -> Row:
    """The columns of an entry.

    Raises:
        ServiceError: ``journal_failed``, where it has no form that is written.
    """
    body = canonical.encode(entry.body)
    if len(entry.entry_id) != ENTRY_ID_BYTES:
        raise malformed(f"entry id of {len(entry.entry_id)} bytes")
    if not 0 <= entry.time <= _MAX_TIME:
        raise malformed(f"time {entry.time}")
    if len(body) > MAX_BODY_BYTES:
        raise malformed(f"body of {len(body)} bytes")
    for word in (entry.protocol_class, entry.code):
        if not 1 <= len(word) <= _MAX_WORD_CHARS or not word.isascii():
            raise malformed("protocol class and code are short ASCII words")
    return (
        entry.entry_id,
        entry.time,
        int(entry.granted),
        str(entry.protocol_class),
        str(entry.code),
        body,
    )


def redemption_of(redemption: NonceRedemption) -> Redemption:
    """What the journal keeps of a redemption: no nonce, only its hash.

    Raises:
        ServiceError: ``journal_failed``, where it has no form that is written.
    """
    if not 1 <= len(redemption.nonce) <= _MAX_NONCE_BYTES:
        raise malformed(f"nonce of {len(redemption.nonce)} bytes")
    if len(redemption.request_hash) != _HASH_BYTES:
        raise malformed(f"request hash of {len(redemption.request_hash)} bytes")
    if not 0 <= redemption.expires_at <= _MAX_TIME:
        raise malformed(f"expiry {redemption.expires_at}")
    covered = canonical.labelled(Label.REDEEMED_NONCE, redemption.nonce)
    return Redemption(
        nonce_hash=hashlib.sha256(covered).digest(),
        expires_at=redemption.expires_at,
        request_hash=redemption.request_hash,
        era=redemption.era,
    )


def recorded_of(row: tuple[int, bytes, int, int, str, str, bytes]) -> RecordedEntry:
    """The entry that stands in a row, with its number.

    Raises:
        ServiceError: ``journal_failed``, where it is damaged.
    """
    seq, entry_id, time, granted, protocol_class, code, body = row
    try:
        value = canonical.decode(body)
    except RequestError as e:
        detail = f"entry {seq} is damaged: {e.detail}"
        raise ServiceError(Code.JOURNAL_FAILED, detail) from e
    entry = JournalEntry(
        entry_id=entry_id,
        time=time,
        granted=bool(granted),
        protocol_class=protocol_class,
        code=code,
        body=value,
    )
    return RecordedEntry(seq=seq, entry=entry)


def malformed(detail: str) -> ServiceError:
    """The refusal of what has no form that is written."""
    return ServiceError(Code.JOURNAL_FAILED, f"not recorded: {detail}")
