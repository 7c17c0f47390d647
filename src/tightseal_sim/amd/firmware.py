# SPDX-License-Identifier: Apache-2.0
"""``/dev/sev-guest`` of a simulated guest: requests in memory, as the driver has them.

So the product's own path runs, down to the bytes of MSG_KEY_REQ. Like the driver, it
answers nothing after a request that the firmware refused.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tightseal.errors import PlatformError
from tightseal.model.claims import SnpTcb
from tightseal.model.slots import SlotClass, SlotKey
from tightseal.platform.slots.snp import SevGuestKeys, SnpSlot
from tightseal_sim.amd.guest import DerivedKeyRequest, SimGuest

__all__ = ["SimSevDevice", "decode_tcb", "guest_slots"]

SNP_GET_DERIVED_KEY: Final = 0xC0205301
DEVICE_FD: Final = 3
INVALID_PARAMETERS: Final = 0x16

_REQUEST: Final = struct.Struct("<IIQII8s")
_ARGUMENT: Final = struct.Struct("<B7xQQQ")
_STATUS: Final = struct.Struct("<I28x32s")


@dataclass
class SimSevDevice:
    """The device: file operations and ``ioctl``.

    Attributes:
        guest: whose firmware answers.
        requests: every request that reached it, 32 bytes each.
    """

    guest: SimGuest

    def __post_init__(self) -> None:
        """No request yet, and the message key is whole."""
        self.requests: list[bytes] = []
        self._wiped = False

    def ioctl(self, fd: int, number: int, argument: bytearray) -> int:
        """SNP_GET_DERIVED_KEY; as ``fcntl.ioctl`` with a mutable argument."""
        if self._wiped or fd != DEVICE_FD or number != SNP_GET_DERIVED_KEY:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        version, request_at, response_at, _ = _ARGUMENT.unpack(argument)
        request = ctypes.string_at(request_at, _REQUEST.size)
        self.requests.append(request)
        root, _, select, vmpl, guest_svn, tcb = _REQUEST.unpack(request)
        wanted = DerivedKeyRequest(
            select,
            root,
            vmpl,
            guest_svn,
            decode_tcb(tcb, turin=self.guest.launch_tcb.fmc is not None),
            version,
        )
        try:
            key = self.guest.derived_key(wanted).reveal()
        except PlatformError as e:
            self._wiped = True
            answer = _STATUS.pack(INVALID_PARAMETERS, bytes(32))
            ctypes.memmove(response_at, answer, len(answer))
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from e
        ctypes.memmove(response_at, _STATUS.pack(0, key), _STATUS.size)
        return 0

    def open(self, _path: str, _flags: int) -> int:
        """The device's descriptor."""
        return DEVICE_FD

    def read(self, _fd: int, _length: int) -> bytes:
        """Nothing is read from it."""
        return b""

    def write(self, _fd: int, _data: bytes) -> int:
        """Nothing is written to it."""
        return 0

    def close(self, _fd: int) -> None:
        """Nothing to close."""

    def mkdir(self, path: str) -> None:
        """No folder."""
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)

    def rmdir(self, path: str) -> None:
        """No folder."""
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)


def decode_tcb(tcb: bytes, *, turin: bool) -> SnpTcb:
    """A TCB_VERSION of 8 bytes; ``encode_tcb`` read back."""
    if turin:
        return SnpTcb(
            fmc=tcb[0], bootloader=tcb[1], tee=tcb[2], snp=tcb[3], microcode=tcb[7]
        )
    return SnpTcb(bootloader=tcb[0], tee=tcb[1], snp=tcb[6], microcode=tcb[7])


def guest_slots(guest: SimGuest) -> Mapping[SlotClass, SlotKey]:
    """The slot that a guest can open by itself."""
    device = SimSevDevice(guest)
    keys = SevGuestKeys(guest, ioctl=device.ioctl, files=device)
    return {SlotClass.SNP: SnpSlot(keys, vmpl=guest.image.vmpl)}
