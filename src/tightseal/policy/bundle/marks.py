# SPDX-License-Identifier: Apache-2.0
"""What a provider remembers of the bundle that it accepted last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code, SettingsError
from tightseal.model.canonical import Value, encode

__all__ = ["DIGEST_BYTES", "MAX_MARKS_BYTES", "MAX_VERSION", "Marks"]

DIGEST_BYTES: Final = 32

MAX_VERSION: Final = (1 << 53) - 1
"""Highest version of a role: the last integer that every reader of JSON can tell."""

MAX_MARKS_BYTES: Final = 480 << 10
"""Longest encoding; a record of the state store takes no more than 512 KiB."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Versions below which no role may fall again.

    Attributes:
        root, timestamp, snapshot: versions of these roles.
        roles: name and version of ``targets`` and of every tenant's role that was ever
            accepted, also of those whose delegation has gone; in the order of names.
        digest: SHA-256 of the whole bundle, 32 bytes.
    """

    root: int
    timestamp: int
    snapshot: int
    roles: tuple[tuple[str, int], ...]
    digest: bytes

    def as_value(self) -> Value:
        """As canonical CBOR can hold it; see :meth:`from_value`."""
        return {
            "root": self.root,
            "timestamp": self.timestamp,
            "snapshot": self.snapshot,
            "roles": dict(self.roles),
            "digest": self.digest,
        }

    @classmethod
    def from_value(cls, value: Value) -> Marks:
        """The marks that :meth:`as_value` gave.

        Raises:
            SettingsError: ``bundle_malformed``, where it did not.
        """
        match value:
            case {
                "root": int(root),
                "timestamp": int(timestamp),
                "snapshot": int(snapshot),
                "roles": dict(roles),
                "digest": bytes(digest),
                **more,
            } if not more and len(digest) == DIGEST_BYTES:
                versions: list[object] = [root, timestamp, snapshot, *roles.values()]
                if all(_is_version(version) for version in versions):
                    ordered = tuple(sorted(roles.items()))
                    return cls(root, timestamp, snapshot, ordered, digest)
        raise SettingsError(Code.BUNDLE_MALFORMED, "not the marks of a bundle")

    def __post_init__(self) -> None:
        """Refuse more than a record can hold.

        Raises:
            SettingsError: ``bundle_malformed``.
        """
        size = len(encode(self.as_value()))
        if size > MAX_MARKS_BYTES:
            detail = f"marks of {len(self.roles)} roles take {size} bytes, at most "
            raise SettingsError(Code.BUNDLE_MALFORMED, f"{detail}{MAX_MARKS_BYTES}")


def _is_version(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_VERSION
