# SPDX-License-Identifier: Apache-2.0
"""What is remembered of the releases of one purpose, and its encoding."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from tightseal.errors import Code, RequestError, ServiceError
from tightseal.model.canonical import Value, decode, encode
from tightseal.model.claims import PlatformIdentity
from tightseal.model.usage import MAX_PER_HOUR

__all__ = [
    "HOUR",
    "MAX_RECORD_BYTES",
    "MAX_TAGS",
    "MAX_TIME",
    "TAG_BYTES",
    "UsageRecord",
    "machine_of",
    "show_machine",
]

HOUR: Final = 3600
"""Length of the sliding window, in seconds."""

TAG_BYTES: Final = 32
"""Length of a request's tag: SHA-256 over the whole request."""

MAX_TAGS: Final = 64
"""Most tags that a record keeps, the newest.

A tag serves while a client may still send the same bytes again. Where more releases of
one purpose than this come between a request and its retry, the retry is counted a
second time: the limit is reached early, and never passed.
"""

MAX_RECORD_BYTES: Final = 8 * 1024
"""Longest encoding; 2 bytes for each release of the hour and 34 for each tag fit."""

MAX_TIME: Final = (1 << 53) - 1
"""Far beyond any clock, and exact wherever JSON numbers are doubles."""

_VERSION: Final = 1
_MEMBERS: Final = frozenset({"version", "total", "latest", "ages", "platform", "tags"})
_MAX_COUNTED: Final = (1 << 63) - 1
_AGE_BYTES: Final = 2
_INTEL_ID_BYTES: Final = frozenset({16})
_CHIP_ID_BYTES: Final = frozenset({8, 64})


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What was counted for one purpose of a workload.

    Attributes:
        total: releases since the first, or since the last reset.
        latest: the newest time at which one was counted, Unix seconds.
        recent: times of the releases in the ``HOUR`` that ends with ``latest``, oldest
            first; the newest ``MAX_PER_HOUR`` of them, which is as far as a rule looks.
        platform: the first platform, by PPID and PIID or by chip id alone; ``None``
            where none is bound.
        tags: of the requests counted last, oldest first, at most ``MAX_TAGS``.
    """

    total: int
    latest: int
    recent: tuple[int, ...]
    platform: PlatformIdentity | None = None
    tags: tuple[bytes, ...] = field(default=(), repr=False)

    def encode(self) -> bytes:
        """Deterministic CBOR; at most ``MAX_RECORD_BYTES``."""
        return encode(
            {
                "version": _VERSION,
                "total": self.total,
                "latest": self.latest,
                "ages": _ages(self.recent, self.latest),
                "platform": _platform_value(self.platform),
                "tags": self.tags,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> UsageRecord:
        """Read what ``encode`` wrote.

        Raises:
            ServiceError: ``state_tampered`` for anything else.
        """
        try:
            value = decode(data, max_bytes=MAX_RECORD_BYTES)
        except RequestError as e:
            raise _faulty(e.detail) from e
        if not isinstance(value, dict):
            raise _faulty("not a map")
        version = _whole(value.get("version"), "version", most=MAX_TIME)
        if version != _VERSION:
            raise _faulty(f"version {version}, expected {_VERSION}")
        if value.keys() != _MEMBERS:
            raise _faulty(f"members {', '.join(sorted(value))}")
        latest = _whole(value["latest"], "latest", most=MAX_TIME)
        return cls(
            total=_whole(value["total"], "total", most=_MAX_COUNTED),
            latest=latest,
            recent=_recent(value["ages"], latest),
            platform=_platform(value["platform"]),
            tags=_tags(value["tags"]),
        )


def machine_of(platform: PlatformIdentity) -> PlatformIdentity | None:
    """What names a machine, and nothing else; ``None`` where nothing does.

    Absent and all-zero ids are what many machines have in common, and an id of another
    length is none.
    """
    if _is_id(platform.ppid, _INTEL_ID_BYTES):
        piid = platform.piid if _is_id(platform.piid, _INTEL_ID_BYTES) else None
        return PlatformIdentity(ppid=platform.ppid, piid=piid)
    if _is_id(platform.chip_id, _CHIP_ID_BYTES):
        return PlatformIdentity(chip_id=platform.chip_id)
    return None


def show_machine(platform: PlatformIdentity) -> str:
    """The ids, for the operator."""
    names = ("ppid", "piid", "chip_id")
    ids = ((name, getattr(platform, name)) for name in names)
    return ", ".join(f"{name} {value.hex()}" for name, value in ids if value)


def _is_id(value: object, sizes: frozenset[int]) -> bool:
    return isinstance(value, bytes) and len(value) in sizes and any(value)


def _platform_value(platform: PlatformIdentity | None) -> Value:
    if platform is None:
        return None
    if platform.ppid is not None:
        return ["intel", platform.ppid, platform.piid]
    return ["amd", platform.chip_id]


def _platform(value: Value) -> PlatformIdentity | None:
    found = None
    match value:
        case None:
            return None
        case ["intel", bytes() as ppid, (bytes() | None) as piid]:
            found = PlatformIdentity(ppid=ppid, piid=piid)
        case ["amd", bytes() as chip_id]:
            found = PlatformIdentity(chip_id=chip_id)
    if found is None or machine_of(found) != found:
        raise _faulty("platform: expected the ids of one machine")
    return found


def _ages(recent: tuple[int, ...], latest: int) -> bytes:
    """Seconds before ``latest``, 2 bytes each: a list would take 30 times as long."""
    return struct.pack(f">{len(recent)}H", *(latest - time for time in recent))


def _recent(value: Value, latest: int) -> tuple[int, ...]:
    if not isinstance(value, bytes) or len(value) > MAX_PER_HOUR * _AGE_BYTES:
        raise _faulty(f"ages: expected bytes for at most {MAX_PER_HOUR}")
    many, rest = divmod(len(value), _AGE_BYTES)
    if rest:
        raise _faulty(f"ages: expected {_AGE_BYTES} bytes each")
    ages = struct.unpack(f">{many}H", value)
    most = min(HOUR - 1, latest)
    if any(older < newer for older, newer in pairwise((most, *ages))):
        raise _faulty(f"ages: expected the oldest first, at most {most} s")
    return tuple(latest - age for age in ages)


def _tags(value: Value) -> tuple[bytes, ...]:
    tags = []
    for tag in _items(value, "tags", most=MAX_TAGS):
        if not isinstance(tag, bytes) or len(tag) != TAG_BYTES or tag in tags:
            raise _faulty(f"tags: expected {TAG_BYTES} bytes each, none twice")
        tags.append(tag)
    return tuple(tags)


def _items(value: Value, what: str, *, most: int) -> Sequence[Value]:
    if not isinstance(value, list) or len(value) > most:
        raise _faulty(f"{what}: expected a list of at most {most}")
    return value


def _whole(value: Value, what: str, *, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise _faulty(f"{what}: expected a number, at most {most}")
    return value


def _faulty(detail: str) -> ServiceError:
    return ServiceError(Code.STATE_TAMPERED, f"usage record: {detail}")
