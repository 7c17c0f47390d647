# SPDX-License-Identifier: Apache-2.0
"""What must be remembered: records, changes to them, and what makes going back visible.

A record has a kind, a name, a value and a version. Versions come from one counter of
the whole store: they only rise, by no known step, and no version of a name ever comes
twice, not even after the record was deleted and created again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol, TypeAlias

__all__ = [
    "MAX_BATCH",
    "MAX_KIND_CHARS",
    "MAX_RECORD_NAME_BYTES",
    "MAX_VALUE_BYTES",
    "Anchor",
    "AnchorClass",
    "Change",
    "Create",
    "Delete",
    "Expect",
    "Freshness",
    "Head",
    "Record",
    "Replace",
    "StateStore",
]

MAX_VALUE_BYTES: Final = 512 * 1024
"""Longest value of a record."""

MAX_RECORD_NAME_BYTES: Final = 256
"""Longest name of a record, in UTF-8; the shortest is 1."""

MAX_KIND_CHARS: Final = 32
"""Longest kind: lower-case letters, digits and hyphens, a letter first."""

MAX_BATCH: Final = 256
"""Most changes in one batch."""


class AnchorClass(StrEnum):
    """What notices that the whole state was put back to an older one."""

    NONE = "none"
    PROCESS = "process"
    TPM = "tpm"
    PEERS = "peers"
    WITNESS = "witness"

    @property
    def not_noticed(self) -> str:
        """What goes unnoticed under this anchor; for receipts and health."""
        return _NOT_NOTICED[self]


_NOT_NOTICED: Final = {
    AnchorClass.NONE: (
        "an older copy of the whole state, put back while no provider runs"
    ),
    AnchorClass.PROCESS: (
        "an older copy of the whole state, put back while this process does not run"
    ),
    AnchorClass.TPM: "an older state, where the host can reset or replace the TPM",
    AnchorClass.PEERS: "an older state, where enough peers went back as well",
    AnchorClass.WITNESS: "an older state, where the witness went back as well",
}


@dataclass(frozen=True, slots=True)
class Head:
    """One state of a whole store, short enough to be kept elsewhere.

    Attributes:
        store_id: 16 random bytes, made with the store.
        counter: rises with every change.
        digest: SHA-256 over everything that the store's maps commit to.
    """

    store_id: bytes
    counter: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Freshness:
    """How far going back would be noticed; for receipts and health.

    Attributes:
        anchor: the class of the anchor in use.
        head: the state last seen.
        not_noticed: in words.
    """

    anchor: AnchorClass
    head: Head
    not_noticed: str


class Anchor(Protocol):
    """Remembers the newest head where the host cannot put it back.

    Asked before every read and write, so a slow one keeps what it last heard.
    """

    @property
    def anchor_class(self) -> AnchorClass:
        """What kind of anchor this is."""
        ...

    def latest(self, store_id: bytes) -> Head | None:
        """The newest head taken for a store, or ``None`` where it never took one.

        Raises:
            ServiceError: ``state_unavailable``, where it cannot be asked.
        """
        ...

    def adopt(self, head: Head) -> None:
        """Begin with a store that was never seen.

        Raises:
            ServiceError: ``state_unavailable``; ``state_rolled_back``, where another
                head of this store was taken before.
        """
        ...

    def advance(self, head: Head, *, previous: bytes) -> None:
        """Take the head that came right after the one with digest ``previous``.

        So two histories that parted can never both go on. Returns once the head would
        survive what the anchor is there to survive; also where this very head was taken
        before, even if newer ones followed: processes overtake each other, so an anchor
        remembers some recent heads.

        Raises:
            ServiceError: ``state_unavailable``; ``state_rolled_back``, where the latest
                head is not ``previous`` and this one was not taken before.
        """
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it was opened.

    Attributes:
        kind: what it is, such as ``usage``.
        name: which one.
        value: its bytes; kept out of the repr.
        version: to name in a compare-and-set.
        expires_at: Unix seconds from which on it counts as missing; ``None`` for never.
    """

    kind: str
    name: str
    value: bytes = field(repr=False)
    version: int
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Create:
    """Make a record that must not be there."""

    kind: str
    name: str
    value: bytes = field(repr=False)
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Replace:
    """Compare-and-set: a new value, where the version is still ``expected``."""

    kind: str
    name: str
    value: bytes = field(repr=False)
    expected: int
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a record, where the version is still ``expected``."""

    kind: str
    name: str
    expected: int


@dataclass(frozen=True, slots=True)
class Expect:
    """Change nothing, but fail the batch unless the version is ``expected``.

    ``None`` expects the record to be missing.
    """

    kind: str
    name: str
    expected: int | None


Change: TypeAlias = Create | Replace | Delete | Expect


class StateStore(Protocol):
    """Records outside the TEE: sealed, and nothing in them changes unnoticed.

    Every method raises ``ServiceError``: ``state_unavailable`` where the engine fails
    (after a write the outcome is then unknown: open the record and compare versions);
    ``state_tampered`` where what was found is not what was written;
    ``state_rolled_back`` where it is older than what this process or the anchor saw;
    ``state_too_large`` where a bound of this module is passed. Expiry believes ``now``:
    what must not be forgotten has none.
    """

    def create(
        self,
        kind: str,
        name: str,
        value: bytes,
        *,
        now: int,
        expires_at: int | None = None,
    ) -> int:
        """Make a new record; its version. Raises ``state_exists``."""
        ...

    def open(self, kind: str, name: str, *, now: int) -> Record:
        """Read a record. Raises ``state_missing``, never makes one."""
        ...

    def replace(
        self,
        kind: str,
        name: str,
        value: bytes,
        *,
        expected: int,
        now: int,
        expires_at: int | None = None,
    ) -> int:
        """Compare-and-set; the new version. ``state_missing``, ``state_conflict``."""
        ...

    def delete(self, kind: str, name: str, *, expected: int, now: int) -> None:
        """Remove a record. ``state_missing``, ``state_conflict``."""
        ...

    def batch(self, changes: Sequence[Change], *, now: int) -> int:
        """All of the changes or none; their common version.

        No record may be named twice. Raises what the single changes raise.
        """
        ...

    def scan(self, kind: str, *, now: int) -> tuple[Record, ...]:
        """Every live record of a kind, in the order of names; none can be hidden."""
        ...

    def purge(self, *, now: int, limit: int = MAX_BATCH) -> int:
        """Remove expired records, at most ``limit``; how many went."""
        ...

    def freshness(self) -> Freshness:
        """How far going back would be noticed."""
        ...
