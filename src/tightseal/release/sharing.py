# SPDX-License-Identifier: Apache-2.0
"""The newest version of a keyring in the state store, for all providers that share it.

Each provider has a file of its own, which it needs before it can open the store. What
decides is the copy here: a change is put here by compare-and-set first, and then into
the file. So two providers that rotate at once do it one after the other, and one that
was down while others rotated catches up instead of being refused.

The copy lies under the keyring key, as everything in the store does, and is a keyring
file besides: it tells nobody more than the file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final, Protocol

from tightseal.errors import Code, RequestError, ServiceError
from tightseal.keys.keyring import MAX_KEYRING_BYTES
from tightseal.model.canonical import decode, encode
from tightseal.model.ports import Clock
from tightseal.model.state import Change, Create, Delete, Record, Replace, StateStore

__all__ = ["CHUNK_BYTES", "KeyringShare", "SharedCopy", "StoreShare"]

CHUNK_BYTES: Final = 480 * 1024
"""Bytes of a keyring in one record; the longest keyring takes nine."""

MAX_READS: Final = 8
"""Most times that a copy is read while others put newer ones in its place."""

_KIND: Final = "keyring-copy"
_PART_KIND: Final = "keyring-part"
_FORM: Final = 1
_DIGEST_BYTES: Final = 32
_LOST_RACE: Final = frozenset({Code.STATE_CONFLICT, Code.STATE_EXISTS})


@dataclass(frozen=True, slots=True)
class SharedCopy:
    """What the store says is the newest version; the version itself is fetched apart.

    Attributes:
        counter: of the keyring's header.
        digest: SHA-256 of its bytes.
        size: in bytes.
        version: of the record, for a compare-and-set.
    """

    counter: int
    digest: bytes
    size: int
    version: int = field(default=0, compare=False)

    @classmethod
    def of(cls, data: bytes, counter: int) -> SharedCopy:
        """The copy that these bytes would be."""
        return cls(counter, hashlib.sha256(data).digest(), len(data))

    def names(self) -> list[str]:
        """Of the records that hold its bytes, in order."""
        count = -(-self.size // CHUNK_BYTES)
        return [f"{self.digest.hex()}/{i}" for i in range(count)]

    def encode(self) -> bytes:
        """The record's value."""
        return encode([_FORM, self.counter, self.digest, self.size])

    @classmethod
    def decode(cls, record: Record) -> SharedCopy:
        """Read the record.

        Raises:
            ServiceError: ``state_tampered``.
        """
        try:
            value = decode(record.value)
        except RequestError as e:
            raise _strange() from e
        match value:
            case [1, int(counter), bytes(digest), int(size)] if (
                len(digest) == _DIGEST_BYTES and 0 < size <= MAX_KEYRING_BYTES
            ):
                return cls(counter, digest, size, record.version)
        raise _strange()


class KeyringShare(Protocol):
    """Where the newest version of a keyring lies for all of its providers.

    Every method raises ``ServiceError`` as the state store does.
    """

    def newest(self, keyring_id: bytes) -> SharedCopy | None:
        """Which version it is; cheap. ``None`` before the first one was put there."""
        ...

    def fetch(self, keyring_id: bytes) -> tuple[SharedCopy, bytes] | None:
        """The version and its bytes."""
        ...

    def publish(
        self, keyring_id: bytes, data: bytes, counter: int, *, after: SharedCopy | None
    ) -> bool:
        """Put a version there, where ``after`` is still the newest; whether it was."""
        ...


class StoreShare:
    """Implements ``KeyringShare`` in a state store.

    Args:
        store: that the providers share, or one provider's own.
        clock: Unix seconds.
    """

    def __init__(self, store: StateStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def newest(self, keyring_id: bytes) -> SharedCopy | None:
        """As of ``KeyringShare``."""
        try:
            record = self._store.open(_KIND, keyring_id.hex(), now=self._clock())
        except ServiceError as e:
            if e.code is not Code.STATE_MISSING:
                raise
            return None
        return SharedCopy.decode(record)

    def fetch(self, keyring_id: bytes) -> tuple[SharedCopy, bytes] | None:
        """As of ``KeyringShare``."""
        copy = self.newest(keyring_id)
        for _ in range(MAX_READS):
            if copy is None:
                return None
            try:
                data = b"".join(
                    self._store.open(_PART_KIND, name, now=self._clock()).value
                    for name in copy.names()
                )
            except ServiceError as e:
                newer = self.newest(keyring_id)
                if e.code is not Code.STATE_MISSING or newer == copy:
                    raise
                # Another provider put a newer version in its place in between.
                copy = newer
                continue
            if hashlib.sha256(data).digest() != copy.digest:
                raise _strange()
            return copy, data
        detail = f"keyring: newer versions came first {MAX_READS} times"
        raise ServiceError(Code.OVERLOADED, detail)

    def publish(
        self, keyring_id: bytes, data: bytes, counter: int, *, after: SharedCopy | None
    ) -> bool:
        """As of ``KeyringShare``."""
        name, now = keyring_id.hex(), self._clock()
        copy = SharedCopy.of(data, counter)
        if after == copy:
            return True
        parts = (data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES))
        changes: list[Change] = [
            Create(_PART_KIND, part, value)
            for part, value in zip(copy.names(), parts, strict=True)
        ]
        try:
            if after is None:
                changes.append(Create(_KIND, name, copy.encode()))
            else:
                changes.append(Replace(_KIND, name, copy.encode(), after.version))
                changes += [
                    Delete(
                        _PART_KIND,
                        part,
                        self._store.open(_PART_KIND, part, now=now).version,
                    )
                    for part in after.names()
                ]
            self._store.batch(changes, now=now)
        except ServiceError as e:
            if e.code not in _LOST_RACE and e.code is not Code.STATE_MISSING:
                raise
            return False
        return True


def _strange() -> ServiceError:
    return ServiceError(Code.STATE_TAMPERED, "keyring: not a copy that we put there")
