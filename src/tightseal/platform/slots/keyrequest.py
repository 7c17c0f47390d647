# SPDX-License-Identifier: Apache-2.0
"""KEYREQUEST: what the slot asks EGETKEY for, and what it believes of a stored one.

Intel SDM volume 3D, KEYREQUEST and the key derivation table of EGETKEY; ``sgx_key.h``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from tightseal.errors import Code, PlatformError

__all__ = [
    "KEY_ID_BYTES",
    "KEY_REQUEST_BYTES",
    "SEAL_MASKS",
    "SealMasks",
    "SealRequest",
    "SgxPolicy",
    "key_policy",
    "read_seal_request",
]

KEY_REQUEST_BYTES: Final = 512
KEY_ID_BYTES: Final = 32
CPU_SVN_BYTES: Final = 16

KEY_REQUEST_FORMAT: Final = struct.Struct("<HHH2x16sQQ32sIH434x")
SEAL_KEY_NAME: Final = 4
IDENTITY_POLICIES: Final = 0x03
"""MRENCLAVE and MRSIGNER: without either, any enclave on the machine has the key."""

INIT_AND_DEBUG: Final = 0x03
"""ATTRIBUTES bits that every mask must hold."""


class SgxPolicy(IntEnum):
    """The KEYPOLICY values that slots use; ISVPRODID enters both."""

    MRENCLAVE = 0x01
    MRSIGNER = 0x02


@dataclass(frozen=True, slots=True)
class SealMasks:
    """Which bits of ATTRIBUTES and MISCSELECT enter the key.

    Raises:
        PlatformError: ``platform_failed``, where INIT or DEBUG is left out.
    """

    flags: int
    xfrm: int
    misc: int

    def __post_init__(self) -> None:
        """The CPU mixes INIT and DEBUG in anyway; a mask that says otherwise lies."""
        if self.flags & INIT_AND_DEBUG != INIT_AND_DEBUG:
            detail = f"attribute mask {self.flags:#x}: INIT and DEBUG must be in"
            raise PlatformError(Code.PLATFORM_FAILED, detail)


SEAL_MASKS: Final = SealMasks(
    flags=0xFFFFFFFFFFFFFFFF, xfrm=0xFFFFFFFFFFF9FF1B, misc=0xFFFFFFFF
)
"""Every attribute; of XFRM all but AVX, AVX-512 and AMX: Gramine's default. They enter
the key, so they never change: other masks would be another form of the parameters."""


@dataclass(frozen=True, slots=True)
class SealRequest:
    """EGETKEY(SEAL).

    Attributes:
        policy: KEYPOLICY; must name MRENCLAVE or MRSIGNER.
        isv_svn, config_svn: at most the enclave's own.
        cpu_svn: 16 bytes; not beyond the machine's own.
        key_id: 32 random bytes.
        masks: of code, never of storage.

    Raises:
        PlatformError: ``platform_failed``, where the key would belong to any enclave.
    """

    policy: int
    isv_svn: int
    cpu_svn: bytes
    key_id: bytes
    config_svn: int = 0
    masks: SealMasks = SEAL_MASKS

    def __post_init__(self) -> None:
        """Refuse what the hardware would accept and should not."""
        if not self.policy & IDENTITY_POLICIES:
            detail = f"KEYPOLICY {self.policy:#x} names neither MRENCLAVE nor MRSIGNER"
            raise PlatformError(Code.PLATFORM_FAILED, detail)
        lengths = len(self.cpu_svn), len(self.key_id)
        if lengths != (CPU_SVN_BYTES, KEY_ID_BYTES):
            detail = f"CPUSVN and KEYID of {lengths} bytes, expected 16 and 32"
            raise PlatformError(Code.PLATFORM_FAILED, detail)

    def pack(self) -> bytes:
        """512 bytes, reserved ones zero."""
        return KEY_REQUEST_FORMAT.pack(
            SEAL_KEY_NAME,
            self.policy,
            self.isv_svn,
            self.cpu_svn,
            self.masks.flags,
            self.masks.xfrm,
            self.key_id,
            self.masks.misc,
            self.config_svn,
        )


def key_policy(data: bytes) -> int:
    """KEYPOLICY of a stored request of 512 bytes; nothing else of it is looked at."""
    policy: int = KEY_REQUEST_FORMAT.unpack(data)[1]
    return policy


def read_seal_request(data: bytes, *, policies: frozenset[int]) -> SealRequest:
    """Read a stored request, of which only SVNs and KEYID are believed.

    The request is built anew, with one of ``policies`` and the masks of this code, and
    must come out byte for byte as stored.

    Raises:
        PlatformError: ``platform_failed``, where anything else differs from what this
            code would ask for.
    """
    if len(data) != KEY_REQUEST_BYTES:
        detail = f"KEYREQUEST of {len(data)} bytes, expected {KEY_REQUEST_BYTES}"
        raise PlatformError(Code.PLATFORM_FAILED, detail)
    name, policy, isv_svn, cpu_svn, flags, xfrm, key_id, misc, config_svn = (
        KEY_REQUEST_FORMAT.unpack(data)
    )
    if policy not in policies:
        allowed = ", ".join(f"{value:#x}" for value in sorted(policies))
        detail = f"stored KEYPOLICY {policy:#x}, allowed here: {allowed}"
        raise PlatformError(Code.PLATFORM_FAILED, detail)
    request = SealRequest(policy, isv_svn, cpu_svn, key_id, config_svn)
    if request.pack() != data:
        detail = (
            f"stored KEYREQUEST with name {name}, masks {flags:#x} {xfrm:#x} {misc:#x}"
            " or reserved bytes that this code does not ask with"
        )
        raise PlatformError(Code.PLATFORM_FAILED, detail)
    return request
