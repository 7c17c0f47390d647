# SPDX-License-Identifier: Apache-2.0
"""The SGX structures: KEYREQUEST, TARGETINFO, REPORT, in Intel's layout.

Intel SDM volume 3D, chapter "SGX data structures"; ``sgx_key.h`` and ``sgx_report.h``.
All integers little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, Self

__all__ = [
    "KEY_REQUEST_BYTES",
    "REPORT_BODY_BYTES",
    "REPORT_BYTES",
    "TARGET_INFO_BYTES",
    "AttributeFlags",
    "KeyName",
    "KeyPolicy",
    "KeyRequest",
    "Report",
    "ReportBody",
    "TargetInfo",
]

REPORT_BODY_BYTES: Final = 384
REPORT_BYTES: Final = 432
KEY_REQUEST_BYTES: Final = 512
TARGET_INFO_BYTES: Final = 512

_BODY: Final = struct.Struct("<16sI12s16sQQ32s32s32s32s64sHHH42s16s64s")
_KEY_REQUEST: Final = struct.Struct("<HHH2s16sQQ32sIH434s")
_TARGET_INFO: Final = struct.Struct("<32sQQ2sHI8s64s384s")


class AttributeFlags(IntFlag):
    """ATTRIBUTES.FLAGS."""

    INIT = 0x1
    DEBUG = 0x2
    MODE64BIT = 0x4
    PROVISION_KEY = 0x10
    EINITTOKEN_KEY = 0x20
    KSS = 0x80
    AEX_NOTIFY = 0x400


class KeyName(IntEnum):
    """KEYREQUEST.KEYNAME."""

    EINITTOKEN = 0
    PROVISION = 1
    PROVISION_SEAL = 2
    REPORT = 3
    SEAL = 4


class KeyPolicy(IntFlag):
    """KEYREQUEST.KEYPOLICY."""

    MRENCLAVE = 0x01
    MRSIGNER = 0x02
    NOISVPRODID = 0x04
    CONFIGID = 0x08
    ISVFAMILYID = 0x10
    ISVEXTPRODID = 0x20


@dataclass(frozen=True, slots=True)
class ReportBody:
    """The first 384 bytes of a REPORT, and the body of an SGX quote.

    Attributes follow the layout; ``reserved`` ranges are zero.
    """

    cpu_svn: bytes = bytes(16)
    misc_select: int = 0
    isv_ext_prod_id: bytes = bytes(16)
    flags: int = 0
    xfrm: int = 3
    mr_enclave: bytes = bytes(32)
    mr_signer: bytes = bytes(32)
    config_id: bytes = bytes(64)
    isv_prod_id: int = 0
    isv_svn: int = 0
    config_svn: int = 0
    isv_family_id: bytes = bytes(16)
    report_data: bytes = bytes(64)

    def pack(self) -> bytes:
        """384 bytes."""
        return _BODY.pack(
            self.cpu_svn,
            self.misc_select,
            b"",
            self.isv_ext_prod_id,
            self.flags,
            self.xfrm,
            self.mr_enclave,
            b"",
            self.mr_signer,
            b"",
            self.config_id,
            self.isv_prod_id,
            self.isv_svn,
            self.config_svn,
            b"",
            self.isv_family_id,
            self.report_data,
        )

    @property
    def attributes(self) -> bytes:
        """FLAGS and XFRM, 16 bytes."""
        return struct.pack("<QQ", self.flags, self.xfrm)


@dataclass(frozen=True, slots=True)
class Report:
    """An EREPORT result: body, KEYID and MAC, 432 bytes."""

    body: bytes
    key_id: bytes
    mac: bytes

    def pack(self) -> bytes:
        """432 bytes."""
        return self.body + self.key_id + self.mac

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Split 432 bytes.

        Raises:
            ValueError: another length.
        """
        if len(data) != REPORT_BYTES:
            raise ValueError(f"REPORT of {len(data)} bytes, expected {REPORT_BYTES}")
        return cls(data[:384], data[384:416], data[416:])


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """Whom a report is for."""

    mr_enclave: bytes
    flags: int
    xfrm: int
    config_svn: int = 0
    misc_select: int = 0
    config_id: bytes = bytes(64)

    def pack(self) -> bytes:
        """512 bytes."""
        return _TARGET_INFO.pack(
            self.mr_enclave,
            self.flags,
            self.xfrm,
            b"",
            self.config_svn,
            self.misc_select,
            b"",
            self.config_id,
            b"",
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Split 512 bytes.

        Raises:
            ValueError: another length, or reserved bytes that are not zero.
        """
        if len(data) != TARGET_INFO_BYTES:
            message = f"TARGETINFO of {len(data)} bytes, expected {TARGET_INFO_BYTES}"
            raise ValueError(message)
        mr_enclave, flags, xfrm, r1, config_svn, misc, r2, config_id, r3 = (
            _TARGET_INFO.unpack(data)
        )
        if any(r1) or any(r2) or any(r3):
            raise ValueError("TARGETINFO: reserved bytes are not zero")
        return cls(mr_enclave, flags, xfrm, config_svn, misc, config_id)


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """What EGETKEY is asked for.

    ``reserved`` holds the three reserved ranges joined; anything but zero faults.
    """

    key_name: int
    key_policy: int = 0
    isv_svn: int = 0
    cpu_svn: bytes = bytes(16)
    flags_mask: int = 0
    xfrm_mask: int = 0
    key_id: bytes = bytes(32)
    misc_mask: int = 0
    config_svn: int = 0
    reserved: bytes = b""

    def pack(self) -> bytes:
        """512 bytes."""
        reserved = self.reserved.ljust(436, b"\0")
        return _KEY_REQUEST.pack(
            self.key_name,
            self.key_policy,
            self.isv_svn,
            reserved[:2],
            self.cpu_svn,
            self.flags_mask,
            self.xfrm_mask,
            self.key_id,
            self.misc_mask,
            self.config_svn,
            reserved[2:],
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Split 512 bytes.

        Raises:
            ValueError: another length.
        """
        if len(data) != KEY_REQUEST_BYTES:
            message = f"KEYREQUEST of {len(data)} bytes, expected {KEY_REQUEST_BYTES}"
            raise ValueError(message)
        name, policy, isv_svn, r1, cpu_svn, flags, xfrm, key_id, misc, config, r2 = (
            _KEY_REQUEST.unpack(data)
        )
        return cls(
            name,
            policy,
            isv_svn,
            cpu_svn,
            flags,
            xfrm,
            key_id,
            misc,
            config,
            reserved=r1 + r2,
        )
