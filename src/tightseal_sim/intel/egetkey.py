# SPDX-License-Identifier: Apache-2.0
"""EGETKEY and the MAC of EREPORT, by the rules of the SDM.

Intel SDM volume 3D, "EGETKEY" and its key derivation table; structure layouts and
constants of the simulation mode of Intel's SGX SDK. Every key is AES-128-CMAC under a
base key over a structure that holds all inputs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from tightseal.errors import Code, PlatformError
from tightseal_sim.intel.structures import (
    AttributeFlags,
    KeyName,
    KeyPolicy,
    KeyRequest,
    ReportBody,
    TargetInfo,
)

__all__ = [
    "CpuSecrets",
    "EgetkeyError",
    "SdkSimulationSecrets",
    "SgxStatus",
    "aes_cmac",
    "egetkey",
    "report_key",
]

KEY_BYTES: Final = 16

_ALL_POLICIES: Final = 0x3F
_KSS_POLICIES: Final = 0x3C
_IDENTITY_POLICIES: Final = KeyPolicy.MRENCLAVE | KeyPolicy.MRSIGNER
_MASK32: Final = 0xFFFFFFFF

_SEAL: Final = struct.Struct("<HH4xQQQQII16s16sHHH64s16s16s32s32s32s2x")
_REPORT: Final = struct.Struct("<H6xQQI16s32s16sH64s32s2x")


class SgxStatus(StrEnum):
    """How EGETKEY refuses."""

    GENERAL_PROTECTION = "#GP"
    INVALID_ATTRIBUTE = "SGX_INVALID_ATTRIBUTE"
    INVALID_CPUSVN = "SGX_INVALID_CPUSVN"
    INVALID_ISVSVN = "SGX_INVALID_ISVSVN"
    INVALID_KEYNAME = "SGX_INVALID_KEYNAME"
    POLICY_REFUSED = "refused: neither MRENCLAVE nor MRSIGNER"


class EgetkeyError(PlatformError):
    """EGETKEY refused; ``status`` says how."""

    def __init__(self, status: SgxStatus, why: str) -> None:
        super().__init__(Code.PLATFORM_FAILED, f"EGETKEY: {status.value}: {why}")
        self.status = status
        self._why = why

    def __reduce__(self) -> tuple[type[EgetkeyError], tuple[SgxStatus, str]]:  # type: ignore[override]
        """Rebuild from status and reason."""
        return type(self), (self.status, self._why)


@dataclass(frozen=True, slots=True, repr=False)
class CpuSecrets:
    """What a CPU mixes into every key, and its present security version.

    Attributes:
        seal_base, report_base: base keys, 16 bytes (the fuses).
        owner_epoch: 16 bytes.
        report_key_id: CR_REPORT_KEYID, 32 bytes.
        cpu_svn: present CPUSVN, 16 bytes.
    """

    seal_base: bytes
    report_base: bytes
    owner_epoch: bytes
    report_key_id: bytes
    cpu_svn: bytes

    def resolve_cpusvn(self, requested: bytes) -> bytes | None:
        """The CPUSVN to derive with, or ``None`` where it is beyond the present one.

        Component by component: a CPUSVN is no integer.
        """
        pairs = zip(requested, self.cpu_svn, strict=True)
        return requested if all(r <= c for r, c in pairs) else None


@dataclass(frozen=True, slots=True, repr=False)
class SdkSimulationSecrets(CpuSecrets):
    """The published constants of the SGX SDK's simulation mode: no secrets at all.

    CPUSVN has three known values in a fixed order, and all zeros stand for the default.
    """

    DOWNGRADED = bytes.fromhex("64ea4f3fa0030c36383c322d4f3a8d4f")
    DEFAULT = bytes.fromhex("4820f3376ae6b2f2034d3b7a4b48a778")
    UPGRADED = bytes.fromhex("5339ae8c93ae8f3ce432db924d0f0733")

    seal_base: bytes = bytes.fromhex("00112233445566778899aabbccddeeff")
    report_base: bytes = b"\xff\x00" * 8
    owner_epoch: bytes = b"THISISOWNEREPOCH"
    report_key_id: bytes = b"\xff\x00" * 8 + bytes(16)
    cpu_svn: bytes = DEFAULT

    def resolve_cpusvn(self, requested: bytes) -> bytes | None:
        """The CPUSVN to derive with, in the order of the SDK's three values."""
        asked = requested if any(requested) else self.DEFAULT
        order = (self.DOWNGRADED, self.DEFAULT, self.UPGRADED)
        if asked not in order or order.index(asked) > order.index(self.cpu_svn):
            return None
        return asked


def aes_cmac(key: bytes, data: bytes) -> bytes:
    """AES-128-CMAC (RFC 4493), 16 bytes."""
    mac = CMAC(AES(key))
    mac.update(data)
    return mac.finalize()


def egetkey(cpu: CpuSecrets, enclave: ReportBody, request: KeyRequest) -> bytes:
    """EGETKEY for the enclave whose SECS values ``enclave`` holds; 16 bytes.

    SEAL and REPORT only: the other keys belong to Intel's own enclaves.

    Raises:
        EgetkeyError: with the status that the instruction, or for a policy without
            MRENCLAVE and MRSIGNER the SDK, answers.
    """
    _check_form(enclave, request)
    if request.key_name == KeyName.REPORT:
        target = TargetInfo(
            enclave.mr_enclave,
            enclave.flags,
            enclave.xfrm,
            enclave.config_svn,
            enclave.misc_select,
            enclave.config_id,
        )
        return report_key(cpu, target, request.key_id)
    if request.key_name == KeyName.SEAL:
        return _seal_key(cpu, enclave, request)
    if request.key_name in (*KeyName,):
        why = "the enclave lacks the attribute for this key"
        raise EgetkeyError(SgxStatus.INVALID_ATTRIBUTE, why)
    raise EgetkeyError(SgxStatus.INVALID_KEYNAME, f"key name {request.key_name}")


def report_key(cpu: CpuSecrets, target: TargetInfo, key_id: bytes) -> bytes:
    """The key that reports for ``target`` are MACed with; 16 bytes."""
    data = _REPORT.pack(
        KeyName.REPORT,
        target.flags,
        target.xfrm,
        target.misc_select,
        cpu.owner_epoch,
        target.mr_enclave,
        cpu.cpu_svn,
        target.config_svn,
        target.config_id,
        key_id,
    )
    return aes_cmac(cpu.report_base, data)


def _check_form(enclave: ReportBody, request: KeyRequest) -> None:
    if any(request.reserved):
        raise _fault("reserved bytes are not zero")
    if request.key_policy & ~_ALL_POLICIES:
        raise _fault(f"reserved bits in KEYPOLICY {request.key_policy:#x}")
    kss = enclave.flags & AttributeFlags.KSS
    if not kss and (request.key_policy & _KSS_POLICIES or request.config_svn):
        raise _fault("KSS fields are asked for, and the enclave has no KSS")


def _fault(why: str) -> EgetkeyError:
    return EgetkeyError(SgxStatus.GENERAL_PROTECTION, why)


def _seal_key(cpu: CpuSecrets, enclave: ReportBody, request: KeyRequest) -> bytes:
    policy = request.key_policy
    if not policy & _IDENTITY_POLICIES:
        why = f"KEYPOLICY {policy:#x} binds to no identity"
        raise EgetkeyError(SgxStatus.POLICY_REFUSED, why)
    cpu_svn = cpu.resolve_cpusvn(request.cpu_svn)
    if cpu_svn is None:
        why = f"{request.cpu_svn.hex()} is beyond {cpu.cpu_svn.hex()}"
        raise EgetkeyError(SgxStatus.INVALID_CPUSVN, why)
    if request.isv_svn > enclave.isv_svn:
        why = f"ISVSVN {request.isv_svn}, the enclave has {enclave.isv_svn}"
        raise EgetkeyError(SgxStatus.INVALID_ISVSVN, why)
    if request.config_svn > enclave.config_svn:
        why = f"CONFIGSVN {request.config_svn}, the enclave has {enclave.config_svn}"
        raise EgetkeyError(SgxStatus.INVALID_ISVSVN, why)

    def chosen(bit: KeyPolicy, value: bytes) -> bytes:
        return value if policy & bit else bytes(len(value))

    # INIT and DEBUG always enter: no mask makes a debug enclave share a key.
    flags_mask = request.flags_mask | AttributeFlags.INIT | AttributeFlags.DEBUG
    config = policy & KeyPolicy.CONFIGID
    data = _SEAL.pack(
        KeyName.SEAL,
        policy,
        enclave.flags & flags_mask,
        enclave.xfrm & request.xfrm_mask,
        request.flags_mask,
        request.xfrm_mask,
        enclave.misc_select & request.misc_mask,
        ~request.misc_mask & _MASK32,
        cpu.owner_epoch,
        cpu_svn,
        request.isv_svn,
        0 if policy & KeyPolicy.NOISVPRODID else enclave.isv_prod_id,
        request.config_svn if config else 0,
        chosen(KeyPolicy.CONFIGID, enclave.config_id),
        chosen(KeyPolicy.ISVFAMILYID, enclave.isv_family_id),
        chosen(KeyPolicy.ISVEXTPRODID, enclave.isv_ext_prod_id),
        chosen(KeyPolicy.MRENCLAVE, enclave.mr_enclave),
        chosen(KeyPolicy.MRSIGNER, enclave.mr_signer),
        request.key_id,
    )
    return aes_cmac(cpu.seal_base, data)
