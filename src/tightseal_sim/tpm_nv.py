# SPDX-License-Identifier: Apache-2.0
"""Counters in a simulated TPM's NV memory, under the owner's hierarchy.

TCG TPM Library Part 3, revision 1.59, section 31: what the provider's anchor sends,
with the response codes that swtpm gives.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from tightseal.platform.slots.tpm_wire import Reader, name_of, sized

__all__ = ["RC_HANDLE", "RC_UNINITIALIZED", "NvCounter", "NvMemory"]

RC_HANDLE: Final = 0x18B
RC_UNINITIALIZED: Final = 0x14A
RC_DEFINED: Final = 0x14C

_WRITTEN: Final = 1 << 29


@dataclass(repr=False)
class NvCounter:
    """One index."""

    handle: int
    public: bytes
    auth: bytes
    value: int | None = None

    @property
    def name(self) -> bytes:
        """Over its public area, which says whether it was written."""
        return name_of(self.shown)

    @property
    def shown(self) -> bytes:
        """TPMS_NV_PUBLIC."""
        if self.value is None:
            return self.public
        attributes = int.from_bytes(self.public[6:10], "big") | _WRITTEN
        return self.public[:6] + struct.pack(">I", attributes) + self.public[10:]


@dataclass(repr=False)
class NvMemory:
    """All indices, and the highest value that any counter ever had."""

    indices: dict[int, NvCounter] = field(default_factory=dict)
    highest: int = 0

    def define(self, auth: bytes, public: bytes) -> int:
        """A new index; the response code."""
        handle = Reader(public).number(4)
        if handle in self.indices:
            return RC_DEFINED
        self.indices[handle] = NvCounter(handle, public, auth)
        return 0

    def increment(self, index: NvCounter) -> None:
        """The first one begins above every counter there ever was."""
        index.value = (self.highest if index.value is None else index.value) + 1
        self.highest = max(self.highest, index.value)

    def read(self, index: NvCounter) -> bytes | None:
        """TPM2B of the value; ``None`` before the first increment."""
        if index.value is None:
            return None
        return sized(struct.pack(">Q", index.value))

    def clear(self) -> None:
        """TPM2_Clear deletes the owner's indices; what they reached is kept."""
        self.indices.clear()
