# SPDX-License-Identifier: Apache-2.0
"""Guests: what is launched, what it can prove, and which keys it can derive.

SNP_GET_DERIVED_KEY follows AMD 56860 (MSG_KEY_REQ): what is selected enters the key,
what is asked for may not exceed what the guest has. How real firmware mixes these, and
whether the chip's root key follows the TCB, is not public; here it does not.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Final

from tightseal.errors import Code, PlatformError
from tightseal.model.claims import SnpTcb
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass, SlotKey
from tightseal_sim.amd.generations import encode_tcb
from tightseal_sim.amd.table import certificate_table, hcl_blob

if TYPE_CHECKING:
    from tightseal_sim.amd.chip import SimChip

__all__ = ["DerivedKeyRequest", "FieldSelect", "GuestImage", "RootKey", "SimGuest"]

REPORT_DATA_BYTES: Final = 64

_INVALID_PARAMETERS: Final = 0x16
_HIGHEST_VMPL: Final = 3
_MITIGATION_MESSAGE: Final = 2
_DEBUG: Final = 1 << 19
_LABEL: Final = b"tightseal_sim/v1/snp-derived-key"


class FieldSelect(IntFlag):
    """GUEST_FIELD_SELECT: what enters a derived key."""

    POLICY = 1
    IMAGE_ID = 2
    FAMILY_ID = 4
    MEASUREMENT = 8
    GUEST_SVN = 16
    TCB_VERSION = 32
    LAUNCH_MIT_VECTOR = 64


class RootKey(IntEnum):
    """ROOT_KEY_SELECT."""

    VCEK = 0
    VMRK = 1


@dataclass(frozen=True, slots=True)
class DerivedKeyRequest:
    """MSG_KEY_REQ.

    Attributes:
        select: what enters the key.
        root: the chip's key, or the migration agent's, which no guest here has.
        vmpl: enters the key; at least the guest's own.
        guest_svn: at most that of the launch.
        tcb: no component above the committed TCB; ``None`` for zero.
        message_version: 2 brings the mitigation vector.
    """

    select: int
    root: int = RootKey.VCEK
    vmpl: int = 0
    guest_svn: int = 0
    tcb: SnpTcb | None = None
    message_version: int = 1


@dataclass(frozen=True, slots=True)
class GuestImage:
    """What is launched.

    Attributes:
        kernel: stands for all initial memory; decides the measurement.
        policy: guest policy; bit 17 is always one, bit 19 lets the host debug.
        host_data: 32 bytes that the host gives at launch.
        family_id, image_id, guest_svn, id_key_digest, author_key_digest: of the ID
            block; zero without one.
        vmpl: the privilege level that asks for reports.
    """

    kernel: bytes
    policy: int = 0x30000
    host_data: bytes = bytes(32)
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    guest_svn: int = 0
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes | None = None
    vmpl: int = 0

    @property
    def measurement(self) -> bytes:
        """SHA-384 over the initial memory, 48 bytes."""
        return hashlib.sha384(b"tightseal_sim/v1/launch" + self.kernel).digest()


class SimGuest:
    """A running guest: makes evidence and derives keys.

    Args:
        chip: where it runs.
        image: what was launched.
        report_id: new with every launch.
        launch_tcb: the chip's firmware at launch.
    """

    def __init__(
        self, chip: SimChip, image: GuestImage, *, report_id: bytes, launch_tcb: SnpTcb
    ) -> None:
        self._chip = chip
        self.image = image
        self.report_id = report_id
        self.launch_tcb = launch_tcb

    @property
    def name(self) -> str:
        """The kind of platform."""
        return "sim"

    def report(self, report_data: bytes) -> bytes:
        """A report over 64 bytes of report data, 1184 bytes.

        Raises:
            PlatformError: ``platform_failed``, for another length.
        """
        if len(report_data) != REPORT_DATA_BYTES:
            detail = f"report data of {len(report_data)} bytes, expected 64"
            raise PlatformError(Code.PLATFORM_FAILED, detail)
        return self._chip.sign(self._chip.report_fields(self, report_data))

    def evidence(self, report_data: bytes) -> bytes:
        """A report with the certificate table that the host gives along.

        Raises:
            PlatformError: ``platform_failed``, for another length than 64.
        """
        report = self.report(report_data)
        return report + certificate_table(
            self._chip.certificates(), vlek=self._chip.vlek
        )

    def hcl_evidence(self, runtime_claims: bytes) -> bytes:
        """Azure's blob: the paravisor's report over its own runtime claims."""
        digest = hashlib.sha256(runtime_claims).digest()
        return hcl_blob(self.report(digest + bytes(32)), runtime_claims)

    def own_measurement(self) -> tuple[str, bytes]:
        """``snp`` and the measurement.

        Raises:
            PlatformError: ``provider_debug``, where the policy lets the host look.
        """
        if self.image.policy & _DEBUG:
            detail = f"guest policy {self.image.policy:#x} allows debugging"
            raise PlatformError(Code.PROVIDER_DEBUG, detail)
        return "snp", self.image.measurement

    def sealing_key(self) -> Secret:
        """The key of this measurement and policy on this chip, 32 bytes.

        Firmware updates leave it alone: neither TCB nor guest SVN is selected.
        """
        select = FieldSelect.MEASUREMENT | FieldSelect.POLICY
        return self.derived_key(DerivedKeyRequest(select, vmpl=self.image.vmpl))

    def slots(self, *, allow_signer: bool) -> Mapping[SlotClass, SlotKey]:
        """The keyring slot ``snp`` of this guest; no key of it belongs to a signer."""
        del allow_signer
        # The device is made of this class.
        from tightseal_sim.amd.firmware import guest_slots  # noqa: PLC0415

        return guest_slots(self)

    def derived_key(self, request: DerivedKeyRequest) -> Secret:
        """SNP_GET_DERIVED_KEY: 32 bytes.

        Raises:
            PlatformError: ``platform_failed`` with the firmware's status, where the
                request is invalid or asks for more than the guest has.
        """
        self._check(request)
        image, select = self.image, request.select
        tcb = bytes(8) if request.tcb is None else encode_tcb(request.tcb)
        chosen = (
            (FieldSelect.POLICY, struct.pack("<Q", image.policy)),
            (FieldSelect.IMAGE_ID, image.image_id),
            (FieldSelect.FAMILY_ID, image.family_id),
            (FieldSelect.MEASUREMENT, image.measurement),
            (FieldSelect.GUEST_SVN, struct.pack("<I", request.guest_svn)),
            (FieldSelect.TCB_VERSION, tcb),
            (FieldSelect.LAUNCH_MIT_VECTOR, bytes(8)),
        )
        mixed = struct.pack("<III", request.root, select, request.vmpl) + b"".join(
            value if select & field else bytes(len(value)) for field, value in chosen
        )
        root = self._chip.derived_key_root()
        return Secret(hmac.digest(root, _LABEL + mixed, "sha256"))

    def _check(self, request: DerivedKeyRequest) -> None:
        known = FieldSelect(0b111111)
        if request.message_version >= _MITIGATION_MESSAGE:
            known |= FieldSelect.LAUNCH_MIT_VECTOR
        committed = encode_tcb(self._chip.tcb)
        asked = bytes(8) if request.tcb is None else encode_tcb(request.tcb)
        rules = (
            (request.select | known == known, "reserved field select bits"),
            (request.root == RootKey.VCEK, "no VMRK without a migration agent"),
            (
                self.image.vmpl <= request.vmpl <= _HIGHEST_VMPL,
                f"VMPL {request.vmpl}, own {self.image.vmpl}",
            ),
            (
                0 <= request.guest_svn <= self.image.guest_svn,
                f"guest SVN {request.guest_svn}, launched {self.image.guest_svn}",
            ),
            (
                all(a <= c for a, c in zip(asked, committed, strict=True)),
                f"TCB {asked.hex()}, committed {committed.hex()}",
            ),
        )
        for holds, detail in rules:
            if not holds:
                text = f"firmware status {_INVALID_PARAMETERS:#x}: {detail}"
                raise PlatformError(Code.PLATFORM_FAILED, text)
