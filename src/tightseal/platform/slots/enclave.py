# SPDX-License-Identifier: Apache-2.0
"""What our own SGX report says about the inputs of a sealing key."""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from typing import Final

from tightseal.errors import Code, PlatformError
from tightseal.platform.selfview import SGX_REPORT_BYTES
from tightseal.platform.slots.derive import short

__all__ = ["OwnEnclave", "read_own_enclave"]

BODY_FORMAT: Final = struct.Struct("<16sI12x16xQQ32s32x32s32x64xHHH42x16x64x")
"""The first 384 bytes of a REPORT (Intel SDM volume 3D)."""

_DEBUG: Final = 0x02
_INIT: Final = 0x01


@dataclass(frozen=True, slots=True)
class OwnEnclave:
    """The inputs of EGETKEY(SEAL) that belong to this enclave on this machine.

    Attributes:
        cpu_svn: 16 bytes, opaque: the CPU alone compares them.
        misc_select, flags, xfrm: MISCSELECT and ATTRIBUTES.
        mr_enclave, mr_signer: 32 bytes.
        isv_prod_id, isv_svn, config_svn: 16 bits.
    """

    cpu_svn: bytes
    misc_select: int
    flags: int
    xfrm: int
    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int

    def pack(self) -> bytes:
        """The 384 bytes of a report body with these fields and no others."""
        return BODY_FORMAT.pack(*(getattr(self, f.name) for f in fields(self)))

    def changes(self, before: OwnEnclave) -> list[str]:
        """What differs from an earlier view, as ``name was … is …``."""
        return [
            f"{f.name} was {_shown(old)}, is {_shown(new)}"
            for f in fields(self)
            if (old := getattr(before, f.name)) != (new := getattr(self, f.name))
        ]


def read_own_enclave(report: bytes) -> OwnEnclave:
    """Read our own REPORT, or its body alone; the MAC is not checked.

    The report never left this enclave, or it is a stored one that only explains.

    Raises:
        PlatformError: ``platform_failed``; ``provider_debug``, where the host may read
            this enclave.
    """
    if len(report) not in (BODY_FORMAT.size, SGX_REPORT_BYTES):
        detail = f"report of {len(report)} bytes, expected {SGX_REPORT_BYTES}"
        raise PlatformError(Code.PLATFORM_FAILED, detail)
    own = OwnEnclave(*BODY_FORMAT.unpack_from(report))
    if not own.flags & _INIT:
        detail = f"report attributes {own.flags:#x}: the enclave is not initialised"
        raise PlatformError(Code.PLATFORM_FAILED, detail)
    if own.flags & _DEBUG:
        detail = "our own sgx report has the debug bit set; expected not"
        raise PlatformError(Code.PROVIDER_DEBUG, detail)
    return own


def _shown(value: bytes | int) -> str:
    return short(value) if isinstance(value, bytes) else f"{value:#x}"
