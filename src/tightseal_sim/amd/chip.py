# SPDX-License-Identifier: Apache-2.0
"""A chip: its firmware, its keys, and the guests that run on it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tightseal.model.claims import SnpTcb
from tightseal.model.collateral import SnpCertificates
from tightseal_sim.amd.generations import Generation, encode_tcb
from tightseal_sim.amd.guest import GuestImage, SimGuest
from tightseal_sim.amd.report import ReportFields, encode_body, sign_body

if TYPE_CHECKING:
    from tightseal_sim.amd.world import AmdWorld

__all__ = ["SimChip"]

_FIRMWARE: Final = (1, 55, 55)
_PLATFORM_INFO: Final = 0x25
_MITIGATIONS: Final = 0x0B
_VLEK: Final = 1


class SimChip:
    """One processor. Firmware updates and host settings live in this object.

    Attributes:
        name: what the world knows it by.
        line: its generation.
        tcb: current, reported, committed firmware; guests keep that of their launch.
        report_version: 2, 3 or 5.
        vlek: whether the host loaded a VLEK, which then signs in place of the VCEK.
        mask_chip_id: whether the host hides the chip id in reports.
    """

    def __init__(self, world: AmdWorld, name: str, line: Generation) -> None:
        self._world = world
        self._launches = 0
        self._cached: dict[tuple[bytes, bool], SnpCertificates] = {}
        self.name = name
        self.line = line
        self.tcb = line.tcb
        self.report_version = line.report_version
        self.vlek = False
        self.mask_chip_id = False

    @property
    def chip_id(self) -> bytes:
        """The hardware id, 64 bytes, 8 on Turin."""
        return self._world.chip_id(self.name, self.line)

    def firmware_update(self, *, microcode: int = 1) -> SnpTcb:
        """Raise the microcode level: what a TCB recovery does; the new TCB."""
        self.tcb = replace(self.tcb, microcode=self.tcb.microcode + microcode)
        return self.tcb

    def launch(self, image: GuestImage) -> SimGuest:
        """Start a guest."""
        self._launches += 1
        seed = self._world.chip_seed(self.name, self.line.product)
        report_id = seed.octets("report-id", str(self._launches), length=32)
        return SimGuest(self, image, report_id=report_id, launch_tcb=self.tcb)

    def certificates(self, *, vlek: bool | None = None) -> SnpCertificates:
        """The chain of the key that signs now, or of the VLEK or VCEK by choice."""
        wanted = self.vlek if vlek is None else vlek
        key = encode_tcb(self.tcb), wanted
        if key not in self._cached:
            self._cached[key] = self._world.certificates(
                self.name, self.line, self.tcb, vlek=wanted
            )
        return self._cached[key]

    def derived_key_root(self) -> bytes:
        """The chip's secret behind SNP_GET_DERIVED_KEY, 32 bytes."""
        seed = self._world.chip_seed(self.name, self.line.product)
        return seed.octets("derived-key-root", length=32)

    def report_fields(self, guest: SimGuest, report_data: bytes) -> ReportFields:
        """What the firmware writes about a guest."""
        image, tcb = guest.image, encode_tcb(self.tcb)
        author = image.author_key_digest
        return ReportFields(
            version=self.report_version,
            guest_svn=image.guest_svn,
            policy=image.policy,
            family_id=image.family_id,
            image_id=image.image_id,
            vmpl=image.vmpl,
            signature_algorithm=1,
            current_tcb=tcb,
            platform_info=_PLATFORM_INFO,
            key_info=(_VLEK << 2 if self.vlek else 0) | (author is not None),
            report_data=report_data,
            measurement=image.measurement,
            host_data=image.host_data,
            id_key_digest=image.id_key_digest,
            author_key_digest=author or bytes(48),
            report_id=guest.report_id,
            report_id_ma=b"\xff" * 32,
            reported_tcb=tcb,
            cpuid=self.line.cpuid,
            chip_id=bytes(64) if self.mask_chip_id else self.chip_id,
            committed_tcb=tcb,
            firmware=_FIRMWARE,
            launch_tcb=encode_tcb(guest.launch_tcb),
            mitigations=_MITIGATIONS,
        )

    def sign(self, fields: ReportFields) -> bytes:
        """A report of these fields by the key that signs now, 1184 bytes."""
        key = self._world.signer_key(self.name, self.line, self.tcb, vlek=self.vlek)
        return sign_body(encode_body(fields), key)
