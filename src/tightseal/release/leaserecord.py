# SPDX-License-Identifier: Apache-2.0
"""Allowances by the minute, and how nodes divide them: arithmetic on values.

An allowance of ``limit`` belongs to one minute by number, its *epoch*. It is handed out
in parts, and a part is spent or lost, never given out twice:

* ``SEATS`` nodes may take a seat in an epoch. A seat is a free share of *every*
  allowance, so that what is rarely asked for costs no write.
* The rest of an allowance is its pool. Nodes that need more take slices of it.

``SEATS`` shares and the pool are the limit, so the sum over all nodes cannot pass it.
The epoch of a record only rises: what was handed out in one stays handed out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code, RequestError, ServiceError
from tightseal.model.canonical import Value, decode, encode, labelled
from tightseal.model.labels import Label
from tightseal.model.settings import MAX_PER_MINUTE

__all__ = [
    "EPOCH_SECONDS",
    "SEATS",
    "SLICES",
    "Allowance",
    "LeaseRecord",
    "free_share",
    "pool_of",
    "take_seat",
    "take_slice",
]

EPOCH_SECONDS: Final = 60
"""Length of an epoch."""

SEATS: Final = 16
"""Nodes of an epoch that have a free share. Others take slices of the pool alone."""

SLICES: Final = 8
"""A slice is this part of what is left in the pool, at least 1: large while there is
much, so that there are few writes; small towards the end, so that little is lost with
a node that holds some of it."""

_MAX_EPOCH: Final = 1 << 48
_MAX_RECORD_BYTES: Final = 128
_VERSION: Final = 1
_MEMBERS: Final = frozenset({"version", "epoch", "taken"})


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be done so often in a minute.

    Attributes:
        limit_name: the setting, such as ``tenant_per_minute``; for texts and metrics.
        subject: who it is for; its parts are told apart.
        limit: most in one epoch, over all nodes.
    """

    limit_name: str
    subject: tuple[str, ...]
    limit: int

    @property
    def record(self) -> str:
        """The name of its record; 64 hex digits."""
        value = labelled(Label.LIMIT_RECORD, [self.limit_name, list(self.subject)])
        return hashlib.sha256(value).hexdigest()


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What is handed out in the newest epoch that was seen.

    Attributes:
        epoch: Unix time of its begin, divided by ``EPOCH_SECONDS``.
        taken: units of the pool, or seats.
    """

    epoch: int
    taken: int

    def encode(self) -> bytes:
        """Deterministic CBOR."""
        return encode({"version": _VERSION, "epoch": self.epoch, "taken": self.taken})

    @classmethod
    def decode(cls, data: bytes) -> LeaseRecord:
        """Read what ``encode`` wrote.

        Raises:
            ServiceError: ``state_tampered`` for anything else.
        """
        try:
            value = decode(data, max_bytes=_MAX_RECORD_BYTES)
        except RequestError as e:
            raise _faulty(e.detail) from e
        if not isinstance(value, dict) or value.keys() != _MEMBERS:
            raise _faulty("not the members of one")
        if value["version"] != _VERSION:
            raise _faulty(f"version {value['version']}, expected {_VERSION}")
        return cls(
            epoch=_whole(value["epoch"], most=_MAX_EPOCH),
            taken=_whole(value["taken"], most=MAX_PER_MINUTE),
        )


def free_share(limit: int) -> int:
    """What a seat is worth of an allowance: half of it, over all seats."""
    return limit // (2 * SEATS)


def pool_of(limit: int) -> int:
    """What is left for slices."""
    return limit - SEATS * free_share(limit)


def take_seat(
    record: LeaseRecord | None, *, epoch: int
) -> tuple[LeaseRecord | None, int]:
    """Take a seat.

    Returns:
        the record to keep, ``None`` where no seat is left; and the epoch that counts,
        which is the record's where that is newer.
    """
    if record is None or record.epoch < epoch:
        return LeaseRecord(epoch, 1), epoch
    if record.taken >= SEATS:
        return None, record.epoch
    return LeaseRecord(record.epoch, record.taken + 1), record.epoch


def take_slice(
    record: LeaseRecord | None, *, epoch: int, limit: int
) -> tuple[LeaseRecord, int]:
    """Take a slice of the pool of an epoch that is not older than the record's.

    Returns:
        the record to keep, and the units of the slice; 0 where the pool is empty.
    """
    taken = record.taken if record is not None and record.epoch == epoch else 0
    left = max(0, pool_of(limit) - taken)
    size = min(left, max(1, left // SLICES))
    return LeaseRecord(epoch, taken + size), size


def _whole(value: Value, *, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise _faulty(f"expected a number, at most {most}")
    return value


def _faulty(detail: str) -> ServiceError:
    return ServiceError(Code.STATE_TAMPERED, f"lease record: {detail}")
