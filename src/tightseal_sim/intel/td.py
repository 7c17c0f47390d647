# SPDX-License-Identifier: Apache-2.0
"""Simulated TDs: launched from an image, measured, extended, quoted."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tightseal.errors import Code, PlatformError
from tightseal.model.secret import Secret
from tightseal_sim.intel import catalogue, eventlog
from tightseal_sim.intel.eventlog import Event
from tightseal_sim.intel.quote import QuoteForm, QuoteParts, TdBody, assemble

if TYPE_CHECKING:
    from tightseal_sim.intel.platform import SimPlatform

__all__ = [
    "SEPT_VE_DISABLE",
    "SimTd",
    "TdImage",
    "td_measurement",
]

TD_DEBUG: Final = 1 << 0
SEPT_VE_DISABLE: Final = 1 << 28
TD_MIGRATABLE: Final = 1 << 29
TD_PKS: Final = 1 << 30
TD_PERFMON: Final = 1 << 63
"""TD attributes by name (TDX module ABI, ATTRIBUTES)."""

DEFAULT_XFAM: Final = 0x602E7

MAX_EVENTS: Final = 4096
"""Longest event log of one TD."""

MAX_EVENT_PAYLOAD: Final = 1 << 20
"""Largest payload of one event, in bytes."""

_PAGE: Final = 4096
_CHUNK: Final = 256
_MR_BYTES: Final = 48
_REPORT_DATA_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class TdImage:
    """What a TD boots, and the owner's words that the host launches it with.

    Attributes:
        firmware: initial memory; makes MRTD.
        kernel: makes RTMR1.
        cmdline, initrd: make RTMR2.
        vcpus, memory_mib: described by the hand-off block; RTMR0.
        boot_events: name and payload of what the image itself measures into RTMR3.
        mr_config_id, mr_owner, mr_owner_config: 48 bytes each.
        mr_service_td: 48 bytes; not zero only where a service TD is bound (TD 1.5).
        attributes: TD attributes; DEBUG comes from ``debug``.
        xfam: extended features.
        debug: a debug TD, which the host may read.
    """

    firmware: bytes = b"simulated TDVF"
    kernel: bytes = b"simulated kernel"
    cmdline: str = "console=hvc0 ro"
    initrd: bytes = b"simulated initrd"
    vcpus: int = 2
    memory_mib: int = 2048
    boot_events: tuple[tuple[str, bytes], ...] = ()
    mr_config_id: bytes = bytes(_MR_BYTES)
    mr_owner: bytes = bytes(_MR_BYTES)
    mr_owner_config: bytes = bytes(_MR_BYTES)
    mr_service_td: bytes = bytes(_MR_BYTES)
    attributes: int = SEPT_VE_DISABLE
    xfam: int = DEFAULT_XFAM
    debug: bool = False

    @property
    def td_attributes(self) -> int:
        """The attributes with DEBUG."""
        return self.attributes | (TD_DEBUG if self.debug else 0)

    def boot_log(self) -> tuple[Event, ...]:
        """What firmware, boot loader and image measure, in order."""
        hob = struct.pack("<II", self.vcpus, self.memory_mib)
        exit_boot = ("Exit Boot Services Invocation", "Exit Boot Services Returned")
        command = self.cmdline.encode("utf-16-le") + b"\0\0"
        boot = eventlog.boot_event
        log = [
            boot(0, eventlog.EV_EFI_HANDOFF_TABLES2, "td_hob", hob, logged=hob),
            boot(0, eventlog.EV_EFI_VARIABLE_DRIVER_CONFIG, "SecureBoot", b"\0"),
            boot(0, eventlog.EV_SEPARATOR, "separator", bytes(4), logged=bytes(4)),
            boot(1, eventlog.EV_EFI_BOOT_SERVICES_APPLICATION, "kernel", self.kernel),
            boot(1, eventlog.EV_SEPARATOR, "separator", bytes(4), logged=bytes(4)),
        ]
        for text in exit_boot:
            data = text.encode()
            log.append(boot(1, eventlog.EV_EFI_ACTION, text, data, logged=data))
        log += [
            boot(2, eventlog.EV_EVENT_TAG, "cmdline", command, logged=command),
            boot(2, eventlog.EV_EVENT_TAG, "initrd", self.initrd),
        ]
        log += [eventlog.runtime_event(name, data) for name, data in self.boot_events]
        return tuple(log)


def td_measurement(firmware: bytes) -> bytes:
    """MRTD of initial memory: TDH.MEM.PAGE.ADD and TDH.MR.EXTEND records, 48 bytes.

    SHA-384 over, per page, a 128-byte record with its address, and per 256-byte chunk
    a 128-byte record followed by the chunk (TDX module base specification).
    """
    measured = hashlib.sha384()
    for page in range(0, max(len(firmware), 1), _PAGE):
        data = firmware[page : page + _PAGE].ljust(_PAGE, b"\0")
        measured.update(struct.pack("<16sQ104x", b"MEM.PAGE.ADD", page))
        for at in range(0, _PAGE, _CHUNK):
            measured.update(struct.pack("<16sQ104x", b"MR.EXTEND", page + at))
            measured.update(data[at : at + _CHUNK])
    return measured.digest()


class SimTd:
    """A running TD; implements ``RootPlatform``, though a TD has no sealing key.

    Args:
        platform: the machine.
        image: what was launched.

    Attributes:
        form: quote version and body that ``evidence`` makes; version 4 at first.
    """

    def __init__(self, platform: SimPlatform, image: TdImage) -> None:
        self.platform = platform
        self.image = image
        self.form = QuoteForm.V4_TD10
        self._launched_module = platform.tdx_module
        self._mrtd = td_measurement(image.firmware)
        self._log = list(image.boot_log())
        self._rtmrs = list(eventlog.replay(self._log))

    @property
    def name(self) -> str:
        """The kind of platform."""
        return "sim"

    def own_measurement(self) -> tuple[str, bytes]:
        """``tdx`` and MRTD.

        Raises:
            PlatformError: ``provider_debug``, where the host may read the TD.
        """
        if self.image.td_attributes & TD_DEBUG:
            raise PlatformError(Code.PROVIDER_DEBUG, "the TD has the DEBUG attribute")
        return "tdx", self._mrtd

    def sealing_key(self) -> Secret:
        """There is none: TDX gives a TD no sealing key.

        Raises:
            PlatformError: ``sealing_key_unavailable``, always.
        """
        raise PlatformError(Code.SEALING_KEY_UNAVAILABLE, "TDX has no sealing key")

    @property
    def event_log(self) -> tuple[Event, ...]:
        """Everything measured since launch, in order."""
        return tuple(self._log)

    @property
    def measurements(self) -> Mapping[str, bytes]:
        """MRTD and RTMR0 to RTMR3 by name, 48 bytes each."""
        named = {f"rtmr{i}": value for i, value in enumerate(self._rtmrs)}
        return {"mrtd": self._mrtd, **named}

    def extend(self, rtmr_index: int, event: Event | tuple[str, bytes]) -> Event:
        """Extend a register, and keep the event in the log.

        Args:
            rtmr_index: 0 to 3; hardware lets software extend 2 and 3 only.
            event: an event, or name and payload of a runtime event.

        Raises:
            PlatformError: ``platform_failed``, for another register, or where the
                payload or the log is over its limit.
        """
        if rtmr_index not in (2, 3):
            detail = f"RTMR{rtmr_index} cannot be extended by software"
            raise PlatformError(Code.PLATFORM_FAILED, detail)
        if isinstance(event, tuple):
            event = eventlog.runtime_event(*event, rtmr=rtmr_index)
        if len(self._log) >= MAX_EVENTS or len(event.payload) > MAX_EVENT_PAYLOAD:
            raise PlatformError(Code.PLATFORM_FAILED, "the event log is full")
        old = self._rtmrs[rtmr_index]
        self._rtmrs[rtmr_index] = eventlog.extended(old, event.digest)
        self._log.append(event)
        return event

    def restart(self) -> SimTd:
        """Boot the same image again: same launch measurements, runtime ones gone."""
        again = SimTd(self.platform, self.image)
        again.form = self.form
        return again

    def evidence(self, report_data: bytes) -> bytes:
        """A quote over exactly 64 bytes, in the TD's form.

        Raises:
            PlatformError: ``platform_failed``, for another length.
        """
        return self.quote(report_data, form=self.form)

    def quote(self, report_data: bytes, *, form: QuoteForm) -> bytes:
        """A quote in a chosen form.

        Raises:
            PlatformError: ``platform_failed``, for another length than 64.
        """
        parts = self.quote_parts(report_data, form=form)
        with self.platform.gate.one_quote():
            return assemble(parts)

    def quote_parts(
        self, report_data: bytes, *, form: QuoteForm | None = None
    ) -> QuoteParts:
        """The quote before signing, for those who want to spoil it.

        Raises:
            PlatformError: ``platform_failed``, for another length than 64.
        """
        return self.platform.td_quote_parts(self.body(report_data), form or self.form)

    def body(self, report_data: bytes) -> TdBody:
        """The TD report body.

        Raises:
            PlatformError: ``platform_failed``, for another length than 64.
        """
        if len(report_data) != _REPORT_DATA_BYTES:
            detail = f"report data of {len(report_data)} bytes, expected 64"
            raise PlatformError(Code.PLATFORM_FAILED, detail)
        image = self.image
        r0, r1, r2, r3 = self._rtmrs
        return TdBody(
            tee_tcb_svn=catalogue.tee_tcb_svn(self._launched_module),
            mr_seam=catalogue.seam_measurement(self.platform.tdx_module),
            td_attributes=image.td_attributes,
            xfam=image.xfam,
            mrtd=self._mrtd,
            mr_config_id=image.mr_config_id,
            mr_owner=image.mr_owner,
            mr_owner_config=image.mr_owner_config,
            rtmrs=(r0, r1, r2, r3),
            report_data=report_data,
            tee_tcb_svn2=catalogue.tee_tcb_svn(self.platform.tdx_module),
            mr_service_td=image.mr_service_td,
            init_cpu_svn=self.platform.cpusvn,
            init_fmspc=self.platform.fmspc.ljust(12, b"\0"),
        )
