# SPDX-License-Identifier: Apache-2.0
"""Simulated SGX enclaves: measured, reporting, quoting, sealing."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tightseal.errors import Code, PlatformError
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass, SlotKey
from tightseal_sim.intel.egetkey import aes_cmac, egetkey, report_key
from tightseal_sim.intel.quote import QuoteParts, assemble
from tightseal_sim.intel.structures import (
    AttributeFlags,
    KeyName,
    KeyPolicy,
    KeyRequest,
    Report,
    ReportBody,
    TargetInfo,
)

if TYPE_CHECKING:
    from tightseal_sim.intel.platform import SimPlatform

__all__ = [
    "GRAMINE_FLAGS_MASK",
    "GRAMINE_MISC_MASK",
    "GRAMINE_XFRM_MASK",
    "EnclaveImage",
    "SimEnclave",
]

GRAMINE_FLAGS_MASK: Final = 0xFFFFFFFFFFFFFFFF
GRAMINE_XFRM_MASK: Final = 0xFFFFFFFFFFF9FF1B
GRAMINE_MISC_MASK: Final = 0xFFFFFFFF
"""Gramine's default sealing masks (``sgx.seal_key`` in the manifest reference)."""

REPORT_DATA_BYTES: Final = 64

_PAGE: Final = 4096
_CHUNK: Final = 256
_MODULUS_BYTES: Final = 384
_READ_WRITE_EXECUTE_REG: Final = 0x207
_RESERVED_FLAGS: Final = AttributeFlags.PROVISION_KEY | AttributeFlags.EINITTOKEN_KEY


@dataclass(frozen=True, slots=True)
class EnclaveImage:
    """An enclave as its author signed it.

    Attributes:
        name: for people; enters the code pages.
        code: the pages; with ``name`` and ``size`` it makes MRENCLAVE.
        signer: name of the signing key; makes MRSIGNER.
        isv_prod_id, isv_svn: product and security version.
        kss: whether the enclave has key separation and sharing; without it the four
            fields below must be zero.
        isv_ext_prod_id, isv_family_id, config_id, config_svn: the KSS fields.
        debug: a debug enclave, which the host may read.
        xfrm: extended features.
        misc_select: MISCSELECT.
        size: enclave size in bytes, a power of two.
    """

    name: str
    code: bytes = b""
    signer: str = "simulated author"
    isv_prod_id: int = 1
    isv_svn: int = 1
    kss: bool = False
    isv_ext_prod_id: bytes = bytes(16)
    isv_family_id: bytes = bytes(16)
    config_id: bytes = bytes(64)
    config_svn: int = 0
    debug: bool = False
    extra_flags: int = 0
    xfrm: int = 0xE7
    misc_select: int = 0
    size: int = 1 << 24

    @property
    def flags(self) -> int:
        """ATTRIBUTES.FLAGS of the initialised enclave."""
        flags = AttributeFlags.INIT | AttributeFlags.MODE64BIT
        if self.kss:
            flags |= AttributeFlags.KSS
        if self.debug:
            flags |= AttributeFlags.DEBUG
        return int(flags) | self.extra_flags

    @property
    def mr_enclave(self) -> bytes:
        """MRENCLAVE: SHA-256 over ECREATE, EADD and EEXTEND records (SDM), 32 bytes."""
        measured = hashlib.sha256()
        measured.update(struct.pack("<8sIQ44x", b"ECREATE", 1, self.size))
        pages = self.name.encode().ljust(_PAGE, b"\0") + self.code
        for offset in range(0, len(pages), _PAGE):
            page = pages[offset : offset + _PAGE].ljust(_PAGE, b"\0")
            secinfo = struct.pack("<Q40x", _READ_WRITE_EXECUTE_REG)
            measured.update(struct.pack("<8sQ48s", b"EADD", offset, secinfo))
            for at in range(0, _PAGE, _CHUNK):
                measured.update(struct.pack("<8sQ48x", b"EEXTEND", offset + at))
                measured.update(page[at : at + _CHUNK])
        return measured.digest()

    @property
    def mr_signer(self) -> bytes:
        """MRSIGNER: SHA-256 over a stand-in for the signer's modulus, 32 bytes."""
        modulus = hashlib.shake_256(self.signer.encode()).digest(_MODULUS_BYTES)
        return hashlib.sha256(modulus).digest()


class SimEnclave:
    """A running enclave; implements ``RootPlatform``.

    Args:
        platform: the machine.
        image: what was loaded.

    Raises:
        PlatformError: ``platform_unsupported``, where the image asks for PROVISION_KEY
            or EINITTOKEN_KEY, or has KSS fields without KSS.
    """

    def __init__(self, platform: SimPlatform, image: EnclaveImage) -> None:
        if image.flags & _RESERVED_FLAGS:
            detail = f"enclave {image.name}: attributes kept for Intel's own enclaves"
            raise PlatformError(Code.PLATFORM_UNSUPPORTED, detail)
        fields = (image.isv_ext_prod_id, image.isv_family_id, image.config_id)
        if not image.kss and (any(map(any, fields)) or image.config_svn):
            detail = f"enclave {image.name}: KSS fields without KSS"
            raise PlatformError(Code.PLATFORM_UNSUPPORTED, detail)
        self.platform = platform
        self.image = image
        self._secs = ReportBody(
            misc_select=image.misc_select,
            isv_ext_prod_id=image.isv_ext_prod_id,
            flags=image.flags,
            xfrm=image.xfrm,
            mr_enclave=image.mr_enclave,
            mr_signer=image.mr_signer,
            config_id=image.config_id,
            isv_prod_id=image.isv_prod_id,
            isv_svn=image.isv_svn,
            config_svn=image.config_svn,
            isv_family_id=image.isv_family_id,
        )

    @property
    def name(self) -> str:
        """The kind of platform."""
        return "sim"

    @property
    def body(self) -> ReportBody:
        """The report body at the present CPUSVN, with zero report data."""
        return replace(self._secs, cpu_svn=self.platform.cpusvn)

    def own_measurement(self) -> tuple[str, bytes]:
        """``sgx`` and MRENCLAVE.

        Raises:
            PlatformError: ``provider_debug``, where the host may read the enclave.
        """
        if self.image.debug:
            detail = f"enclave {self.image.name} has the DEBUG attribute"
            raise PlatformError(Code.PROVIDER_DEBUG, detail)
        return "sgx", self._secs.mr_enclave

    def evidence(self, report_data: bytes) -> bytes:
        """A version 3 quote over exactly 64 bytes.

        Raises:
            PlatformError: ``platform_failed``, for another length.
        """
        parts = self.quote_parts(report_data)
        with self.platform.gate.one_quote():
            return assemble(parts)

    def quote_parts(self, report_data: bytes) -> QuoteParts:
        """The quote before signing, for those who want to spoil it.

        Raises:
            PlatformError: ``platform_failed``, for another length than 64.
        """
        body = replace(self.body, report_data=_checked(report_data))
        return self.platform.sgx_quote_parts(body)

    def sealing_key(self) -> Secret:
        """The key that Gramine gives as ``_sgx_mrenclave``: 16 bytes.

        EGETKEY(SEAL, MRENCLAVE) with Gramine's default masks, KEYID zero and the
        present security versions: another after a microcode update.
        """
        return Secret(self.egetkey(self.sealing_request()))

    def slots(self, *, allow_signer: bool) -> Mapping[SlotClass, SlotKey]:
        """The keyring slots ``gramine`` and ``sgx`` of this enclave."""
        # The slots are made of this class.
        from tightseal_sim.intel.slots import enclave_slots  # noqa: PLC0415

        return enclave_slots(self, allow_signer=allow_signer)

    def sealing_request(self, policy: int = KeyPolicy.MRENCLAVE) -> KeyRequest:
        """The request behind ``sealing_key``."""
        return KeyRequest(
            KeyName.SEAL,
            policy,
            isv_svn=self.image.isv_svn,
            cpu_svn=self.platform.cpusvn,
            flags_mask=GRAMINE_FLAGS_MASK,
            xfrm_mask=GRAMINE_XFRM_MASK,
            misc_mask=GRAMINE_MISC_MASK,
            config_svn=self.image.config_svn,
        )

    def egetkey(self, request: KeyRequest) -> bytes:
        """EGETKEY; 16 bytes.

        Raises:
            EgetkeyError: with the instruction's status.
        """
        return egetkey(self.platform.cpu_secrets, self.body, request)

    def target_info(self) -> TargetInfo:
        """TARGETINFO of this enclave, for those who report to it."""
        own = self._secs
        return TargetInfo(
            own.mr_enclave,
            own.flags,
            own.xfrm,
            own.config_svn,
            own.misc_select,
            own.config_id,
        )

    def ereport(self, target: TargetInfo, report_data: bytes) -> Report:
        """EREPORT for another enclave on this machine.

        Raises:
            PlatformError: ``platform_failed``, for another length than 64.
        """
        cpu = self.platform.cpu_secrets
        body = replace(self.body, report_data=_checked(report_data)).pack()
        key = report_key(cpu, target, cpu.report_key_id)
        return Report(body, cpu.report_key_id, aes_cmac(key, body))

    def verify_report(self, report: Report) -> None:
        """Check that a report was made for this enclave on this machine.

        The KEYID comes from the report, so an old report passes too.

        Raises:
            PlatformError: ``platform_failed``, where the MAC does not fit.
        """
        request = KeyRequest(KeyName.REPORT, key_id=report.key_id)
        expected = aes_cmac(self.egetkey(request), report.body)
        if not hmac.compare_digest(expected, report.mac):
            raise PlatformError(Code.PLATFORM_FAILED, "REPORT: the MAC does not fit")


def _checked(report_data: bytes) -> bytes:
    if len(report_data) != REPORT_DATA_BYTES:
        detail = f"report data of {len(report_data)} bytes, expected 64"
        raise PlatformError(Code.PLATFORM_FAILED, detail)
    return report_data
