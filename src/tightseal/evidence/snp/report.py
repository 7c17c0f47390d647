# SPDX-License-Identifier: Apache-2.0
"""The attestation report: 1184 bytes, read strictly, nothing believed.

Layout: AMD SEV Secure Nested Paging Firmware ABI (56860), ATTESTATION_REPORT. Version 3
added the processor's family, model and stepping, version 5 the mitigation vectors.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from tightseal.errors import Code, EvidenceError

__all__ = [
    "DEBUG_POLICY_BIT",
    "REPORT_BYTES",
    "REPORT_VERSIONS",
    "FirmwareVersion",
    "SigningKey",
    "UnverifiedReport",
    "parse_report",
]

REPORT_BYTES: Final = 1184
REPORT_VERSIONS: Final = frozenset({2, 3, 5})
DEBUG_POLICY_BIT: Final = 19
MIGRATE_MA_POLICY_BIT: Final = 18

_SIGNED_BYTES: Final = 0x2A0
_SCALAR_FIELD_BYTES: Final = 72
_P384_SCALAR_BYTES: Final = 48
_ECDSA_P384_SHA384: Final = 1
_POLICY_RESERVED_ONE: Final = 1 << 17
_POLICY_BITS: Final = 26
_KEY_INFO_BITS: Final = 5
_HIGHEST_VMPL: Final = 3
_VERSION_WITH_CPUID: Final = 3
_VERSION_WITH_MITIGATIONS: Final = 5

_HEAD: Final = struct.Struct("<IIQ16s16sII8sQII")
_TEXT: Final = struct.Struct("<64s48s32s48s48s32s32s8s")


class SigningKey(IntEnum):
    """Which key signed a report (KEY_INFO, SIGNING_KEY)."""

    VCEK = 0
    VLEK = 1


@dataclass(frozen=True, slots=True, order=True)
class FirmwareVersion:
    """Version of the SNP firmware."""

    major: int
    minor: int
    build: int


@dataclass(frozen=True, slots=True)
class UnverifiedReport:
    """A report as it stands; nothing here is authentic before it is verified.

    Attributes:
        raw: the 1184 bytes.
        version: 2, 3 or 5.
        policy: guest policy; bit 19 lets the host debug the guest.
        vmpl: 0 to 3.
        current_tcb, reported_tcb, committed_tcb, launch_tcb: TCB_VERSION, 8 bytes whose
            meaning depends on the product line.
        signing_key: which key the report says has signed it.
        mask_chip_key: whether the host keeps the VCEK from signing.
        author_key_enabled: whether an author key certified the id key.
        cpuid: combined family, combined model and stepping; ``None`` in version 2.
        chip_id: 64 bytes, zero where the host masks it; Turin uses the first 8.
        launch_mitigations, current_mitigations: version 5 only.
        r, s: the signature.
    """

    raw: bytes
    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: int
    signing_key: SigningKey
    mask_chip_key: bool
    author_key_enabled: bool
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid: tuple[int, int, int] | None
    chip_id: bytes
    committed_tcb: bytes
    current_version: FirmwareVersion
    committed_version: FirmwareVersion
    launch_tcb: bytes
    launch_mitigations: int | None
    current_mitigations: int | None
    r: int
    s: int

    @property
    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        return self.raw[:_SIGNED_BYTES]

    @property
    def debug(self) -> bool:
        """Whether the guest policy lets the host read and write the guest."""
        return bool(self.policy >> DEBUG_POLICY_BIT & 1)


def parse_report(data: bytes) -> UnverifiedReport:
    """Read a report strictly.

    Reserved fields must be zero, also those behind the signature, which nothing signs:
    a report has one form but for its signature, where s and its negative both verify.
    PLATFORM_INFO is taken as it stands, since AMD gives its reserved bits a meaning
    without a new report version. A report that the hypervisor
    asked for (VMPL 0xFFFFFFFF) is refused: its report data is not the guest's.

    Does not check: the signature, or that any field is true.

    Raises:
        EvidenceError: ``snp_report_malformed``, ``snp_version_unsupported``,
            ``snp_signature_algorithm_unsupported``, ``snp_signing_key_mismatch`` (an
            unsigned report, or a reserved signing key) or ``snp_signature_invalid``
            (r or s of more than 384 bits).
    """
    if len(data) != REPORT_BYTES:
        raise _malformed(f"{len(data)} bytes, expected {REPORT_BYTES}")
    version, guest_svn, policy, family, image, vmpl, algorithm, *rest = (
        _HEAD.unpack_from(data)
    )
    current_tcb, platform_info, key_info, reserved = rest
    if version not in REPORT_VERSIONS:
        detail = f"report version {version}, expected one of {sorted(REPORT_VERSIONS)}"
        raise EvidenceError(Code.SNP_VERSION_UNSUPPORTED, detail)
    if algorithm != _ECDSA_P384_SHA384:
        detail = f"signature algorithm {algorithm}, expected {_ECDSA_P384_SHA384}"
        raise EvidenceError(Code.SNP_SIGNATURE_ALGORITHM, detail)
    _check_policy(policy, vmpl)
    _check_reserved(data, version, reserved)
    signing_key, mask_chip_key, author_key = _key_info(key_info)
    text = _TEXT.unpack_from(data, 0x50)
    if not author_key and any(text[4]):
        raise _malformed("author key digest without an author key")
    has_cpuid = version >= _VERSION_WITH_CPUID
    has_mitigations = version >= _VERSION_WITH_MITIGATIONS
    launch, current = struct.unpack_from("<QQ", data, 0x1F8)
    return UnverifiedReport(
        raw=data,
        version=version,
        guest_svn=guest_svn,
        policy=policy,
        family_id=family,
        image_id=image,
        vmpl=vmpl,
        current_tcb=current_tcb,
        platform_info=platform_info,
        signing_key=signing_key,
        mask_chip_key=mask_chip_key,
        author_key_enabled=author_key,
        report_data=text[0],
        measurement=text[1],
        host_data=text[2],
        id_key_digest=text[3],
        author_key_digest=text[4],
        report_id=text[5],
        report_id_ma=text[6],
        reported_tcb=text[7],
        cpuid=(data[0x188], data[0x189], data[0x18A]) if has_cpuid else None,
        chip_id=data[0x1A0:0x1E0],
        committed_tcb=data[0x1E0:0x1E8],
        current_version=_firmware(data[0x1E8:0x1EB]),
        committed_version=_firmware(data[0x1EC:0x1EF]),
        launch_tcb=data[0x1F0:0x1F8],
        launch_mitigations=launch if has_mitigations else None,
        current_mitigations=current if has_mitigations else None,
        r=_scalar(data, _SIGNED_BYTES, "r"),
        s=_scalar(data, _SIGNED_BYTES + _SCALAR_FIELD_BYTES, "s"),
    )


def _check_policy(policy: int, vmpl: int) -> None:
    if not policy & _POLICY_RESERVED_ONE or policy >> _POLICY_BITS:
        # A policy bit of unknown meaning may weaken the guest.
        raise _malformed(f"guest policy {policy:#x}: reserved bits")
    if vmpl > _HIGHEST_VMPL:
        raise _malformed(f"VMPL {vmpl:#x}: the guest did not ask for this report")


def _check_reserved(data: bytes, version: int, reserved: int) -> None:
    cpuid_end = 0x18B if version >= _VERSION_WITH_CPUID else 0x188
    vectors_end = 0x208 if version >= _VERSION_WITH_MITIGATIONS else 0x1F8
    signature_end = _SIGNED_BYTES + 2 * _SCALAR_FIELD_BYTES
    ranges = (
        (cpuid_end, 0x1A0),
        (0x1EB, 0x1EC),
        (0x1EF, 0x1F0),
        (vectors_end, _SIGNED_BYTES),
        (signature_end, REPORT_BYTES),
    )
    if reserved:
        raise _malformed("reserved bytes at 0x4c are not zero")
    for start, end in ranges:
        if any(data[start:end]):
            raise _malformed(f"reserved bytes at {start:#x} are not zero")


def _key_info(value: int) -> tuple[SigningKey, bool, bool]:
    author_key, mask_chip_key = bool(value & 1), bool(value & 2)
    if value >> _KEY_INFO_BITS:
        raise _malformed(f"key info {value:#x}: reserved bits")
    try:
        signing_key = SigningKey(value >> 2)
    except ValueError as e:
        detail = f"signing key {value >> 2}, expected 0 (VCEK) or 1 (VLEK)"
        raise EvidenceError(Code.SNP_SIGNING_KEY_MISMATCH, detail) from e
    if mask_chip_key and signing_key is SigningKey.VCEK:
        detail = "the host masks the chip key, so the VCEK did not sign"
        raise EvidenceError(Code.SNP_SIGNING_KEY_MISMATCH, detail)
    return signing_key, mask_chip_key, author_key


def _firmware(raw: bytes) -> FirmwareVersion:
    build, minor, major = raw
    return FirmwareVersion(major, minor, build)


def _scalar(data: bytes, at: int, name: str) -> int:
    field = data[at : at + _SCALAR_FIELD_BYTES]
    if any(field[_P384_SCALAR_BYTES:]):
        detail = f"signature: {name} has more than 384 bits"
        raise EvidenceError(Code.SNP_SIGNATURE_INVALID, detail)
    return int.from_bytes(field, "little")


def _malformed(detail: str) -> EvidenceError:
    return EvidenceError(Code.SNP_REPORT_MALFORMED, f"SNP report: {detail}")
