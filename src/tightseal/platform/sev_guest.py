# SPDX-License-Identifier: Apache-2.0
"""AMD SEV-SNP: a sealing key derived by the firmware, through ``/dev/sev-guest``.

SEV-SNP firmware ABI, MSG_KEY_REQ; Linux, include/uapi/linux/sev-guest.h. After an
error of firmware or transport the driver wipes the guest's message key and answers
nothing until a reboot. So nothing is ever tried out: a request is checked against our
own report first, sent once, and never again after a failure.

With vendor firmware the launch measurement is public and the same across a fleet, so
the key is only as private as the measured image, and it does not move to another chip.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Final, TypeAlias

from tightseal.errors import Code, PlatformError, SettingsError
from tightseal.model.ports import EvidenceSource
from tightseal.model.secret import Secret
from tightseal.platform.files import OS_FILES, FileOps
from tightseal.platform.selfview import OwnSnpReport, read_snp_report, refuse_debug

__all__ = ["DerivedKey", "GuestField", "RootKey", "SevGuestPlatform"]

SNP_GET_DERIVED_KEY: Final = 0xC0205301
MESSAGE_VERSION: Final = 1
"""The 32-byte request; version 2 adds a field that drivers of today do not copy."""

REQUEST_FORMAT: Final = struct.Struct("<IIQIIQ")
ARGUMENT_FORMAT: Final = struct.Struct("<B7xQQQ")
RESPONSE_BYTES: Final = 64
KEY_BYTES: Final = 32
MAX_VMPL: Final = 3

Ioctl: TypeAlias = Callable[[int, int, bytearray], int]
"""Descriptor, request number, argument (changed in place); may raise ``OSError``."""


class GuestField(IntFlag):
    """What enters the derived key (guest_field_select)."""

    POLICY = 1 << 0
    IMAGE_ID = 1 << 1
    FAMILY_ID = 1 << 2
    MEASUREMENT = 1 << 3
    GUEST_SVN = 1 << 4
    TCB_VERSION = 1 << 5


REQUIRED_FIELDS: Final = GuestField.MEASUREMENT | GuestField.POLICY
_ALL_FIELDS: Final = sum(GuestField)


class RootKey(IntEnum):
    """What the firmware derives from: the chip's key, or a migration agent's."""

    VCEK = 0
    VMRK = 1


@dataclass(frozen=True, slots=True)
class DerivedKey:
    """Which key is asked for. A change of any field is another key.

    Attributes:
        fields: what enters it; at least ``MEASUREMENT | POLICY``: without fields, all
            guests of a chip share one key.
        vmpl: 0 to 3, and not more privileged than this guest runs.
        root_key: VCEK, unless a migration agent is there.
        guest_svn: enters where ``GUEST_SVN`` is selected; at most the launch value.
        tcb_version: 8 bytes, enters where ``TCB_VERSION`` is selected; no component
            above the committed TCB.

    Raises:
        SettingsError: ``settings_invalid``.
    """

    fields: GuestField = REQUIRED_FIELDS
    vmpl: int = 0
    root_key: RootKey = RootKey.VCEK
    guest_svn: int = 0
    tcb_version: bytes = bytes(8)

    def __post_init__(self) -> None:
        """Refuse what the firmware would refuse, or would share too widely."""
        bits = int(self.fields)
        if bits & ~_ALL_FIELDS or bits & REQUIRED_FIELDS != REQUIRED_FIELDS:
            detail = f"fields {bits:#x}: MEASUREMENT and POLICY must be in, unknown out"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        if not 0 <= self.vmpl <= MAX_VMPL:
            detail = f"VMPL {self.vmpl}, expected 0 to {MAX_VMPL}"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        if not 0 <= self.guest_svn < 1 << 32 or len(self.tcb_version) != 8:  # noqa: PLR2004
            detail = "guest_svn must be 32 bits and tcb_version 8 bytes"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        unused_svn = self.guest_svn and not bits & GuestField.GUEST_SVN
        unused_tcb = any(self.tcb_version) and not bits & GuestField.TCB_VERSION
        if unused_svn or unused_tcb:
            detail = "guest_svn or tcb_version is given, but its field is not selected"
            raise SettingsError(Code.SETTINGS_INVALID, detail)

    def request(self) -> bytes:
        """The 32 bytes of MSG_KEY_REQ, version 1."""
        return REQUEST_FORMAT.pack(
            int(self.root_key),
            0,
            int(self.fields),
            self.vmpl,
            self.guest_svn,
            int.from_bytes(self.tcb_version, "little"),
        )

    def refuse_beyond(self, own: OwnSnpReport) -> None:
        """Refuse a request that the firmware would answer with an error.

        Raises:
            PlatformError: ``platform_failed``; nothing was sent.
        """
        if own.vmpl != self.vmpl:
            detail = f"our report is at VMPL {own.vmpl}, the key at {self.vmpl}"
            raise PlatformError(Code.PLATFORM_FAILED, detail)
        if self.guest_svn > own.guest_svn:
            detail = f"guest SVN {self.guest_svn}, launched with {own.guest_svn}"
            raise PlatformError(Code.PLATFORM_FAILED, detail)
        pairs = zip(self.tcb_version, own.committed_tcb, strict=True)
        if any(asked > committed for asked, committed in pairs):
            detail = "TCB version above the committed TCB"
            raise PlatformError(Code.PLATFORM_FAILED, detail)


class SevGuestPlatform:
    """An SNP guest whose firmware derives the sealing key.

    Args:
        reports: makes SNP reports at the key's VMPL; see ``ConfigfsTsm``.
        key: which key is asked for.
        device: the guest device.
        ioctl: as ``fcntl.ioctl`` with a mutable argument.
        files: the file operations.
    """

    def __init__(
        self,
        reports: EvidenceSource,
        *,
        key: DerivedKey | None = None,
        device: Path = Path("/dev/sev-guest"),
        ioctl: Ioctl = fcntl.ioctl,
        files: FileOps = OS_FILES,
    ) -> None:
        self._reports = reports
        self._key = key or DerivedKey()
        self._device = device
        self._ioctl = ioctl
        self._files = files
        self._lock = threading.Lock()
        self._derived: Secret | None = None
        self._failure: str | None = None

    @property
    def name(self) -> str:
        """``sev-guest``."""
        return "sev-guest"

    def evidence(self, report_data: bytes) -> bytes:
        """An SNP report over 64 bytes of report data, with the host's certificates.

        Raises:
            PlatformError: ``platform_unsupported`` or ``platform_failed``.
        """
        return self._reports.evidence(report_data)

    def own_measurement(self) -> tuple[str, bytes]:
        """``snp`` and the launch measurement of this guest.

        Raises:
            PlatformError: ``platform_failed``, ``platform_unsupported`` or
                ``provider_debug``.
        """
        own = self._own_report()
        return own.view.tee.value, own.view.measurement

    def sealing_key(self) -> Secret:
        """The derived key, 32 bytes; asked for once in the life of this process.

        Raises:
            PlatformError: ``platform_failed``, ``platform_unsupported`` or
                ``provider_debug``. After a failed request every further call fails
                without another.
        """
        with self._lock:
            if self._failure is not None:
                raise _failed(f"not asked again after: {self._failure}")
            if self._derived is None:
                self._key.refuse_beyond(self._own_report())
                self._derived = self._derive()
            return Secret(self._derived.reveal())

    def _own_report(self) -> OwnSnpReport:
        own = read_snp_report(self._reports.evidence(os.urandom(64)))
        refuse_debug(own.view)
        return own

    def _derive(self) -> Secret:
        try:
            fd = self._files.open(str(self._device), os.O_RDWR)
        except OSError as e:
            raise _explained(f"open {self._device}", e) from e
        try:
            return self._ask(fd)
        except (OSError, PlatformError) as e:
            self._failure = str(e)
            raise _explained("SNP_GET_DERIVED_KEY", e) from e
        finally:
            self._files.close(fd)

    def _ask(self, fd: int) -> Secret:
        """Send the one request; the buffers are wiped whatever happens."""
        request = ctypes.create_string_buffer(self._key.request(), REQUEST_FORMAT.size)
        response = ctypes.create_string_buffer(RESPONSE_BYTES)
        argument = bytearray(
            ARGUMENT_FORMAT.pack(
                MESSAGE_VERSION,
                ctypes.addressof(request),
                ctypes.addressof(response),
                0,
            )
        )
        try:
            self._ioctl(fd, SNP_GET_DERIVED_KEY, argument)
            *_, exit_info = ARGUMENT_FORMAT.unpack(argument)
            status = int.from_bytes(response.raw[:4], "little")
            if exit_info or status:
                raise _failed(f"exitinfo2 {exit_info:#x}, status {status:#x}")
            key = response.raw[RESPONSE_BYTES - KEY_BYTES :]
            if not any(key):
                raise _failed("the derived key is all zero")
            return Secret(key)
        finally:
            ctypes.memset(response, 0, RESPONSE_BYTES)


def _explained(what: str, error: OSError | PlatformError) -> PlatformError:
    if isinstance(error, PlatformError):
        return _failed(f"{what}: {error.detail}; the guest may need a reboot")
    number = errno.errorcode.get(error.errno or 0, str(error.errno))
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        detail = f"{what}: {number}: is this an SNP guest with sev_guest loaded?"
        return PlatformError(Code.PLATFORM_UNSUPPORTED, detail)
    if error.errno == errno.ENOTTY:
        return _failed(f"{what}: ENOTTY: the driver wiped its message key; reboot")
    return _failed(f"{what}: {number}: only root may ask the firmware")


def _failed(detail: str) -> PlatformError:
    return PlatformError(Code.PLATFORM_FAILED, detail)
