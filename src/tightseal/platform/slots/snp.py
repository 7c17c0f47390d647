# SPDX-License-Identifier: Apache-2.0
"""Slot ``snp``: a key derived by the AMD secure processor, of a stored choice.

SEV-SNP firmware ABI, MSG_KEY_REQ. The root key is the chip's own (VCEK). What enters
the key is stored, and never less than MEASUREMENT and POLICY. Where TCB and guest SVN
enter, the stored values lead to the same key after an update, since a guest may ask for
any value up to its own; ``rewrap`` then says that the slot should be made anew.

The key does not move to another chip. With vendor firmware the launch measurement is
public and the same across a fleet: on one chip it is as private as the measured image.
HOST_DATA and what is measured at run time do not enter.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from tightseal.errors import Code, PlatformError, SettingsError
from tightseal.model.canonical import Value
from tightseal.model.ports import EvidenceSource
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.platform.files import OS_FILES, FileOps
from tightseal.platform.selfview import OwnSnpReport, read_snp_report, refuse_debug
from tightseal.platform.sev_guest import (
    REQUIRED_FIELDS,
    DerivedKey,
    GuestField,
    Ioctl,
    SevGuestPlatform,
)
from tightseal.platform.slots.derive import Place, sealed, short, unavailable, unsealed
from tightseal.platform.slots.parameters import FORM, Parameters

__all__ = ["SLOT_FIELDS", "DerivedKeys", "SevGuestKeys", "SnpSlot"]

SLOT_FIELDS: Final = REQUIRED_FIELDS | GuestField.GUEST_SVN | GuestField.TCB_VERSION
"""What enters the keys of new slots: an update of the firmware can retire them."""

MAX_FIELDS: Final = int(sum(GuestField))
TCB_BYTES: Final = 8
MEASUREMENT_BYTES: Final = 48
_OTHER: Final = (
    "another measurement, guest policy, VMPL or ID block, or another chip: keys of the"
    " firmware do not move between machines"
)


class DerivedKeys(Protocol):
    """The firmware of one guest; every call may raise ``PlatformError``."""

    def own_report(self) -> OwnSnpReport:
        """What this guest is now."""
        ...

    def derive(self, key: DerivedKey) -> Secret:
        """The derived key, 32 bytes."""
        ...


class SevGuestKeys:
    """Keys of the firmware, through ``SevGuestPlatform``.

    After a failed request nothing is ever asked again, whichever key it was: the driver
    has wiped the guest's message key.

    Args:
        reports: makes SNP reports at the key's VMPL.
        device, ioctl, files: as for ``SevGuestPlatform``.
    """

    def __init__(
        self,
        reports: EvidenceSource,
        *,
        device: Path = Path("/dev/sev-guest"),
        ioctl: Ioctl = fcntl.ioctl,
        files: FileOps = OS_FILES,
    ) -> None:
        self._reports = reports
        self._device = device
        self._ioctl = ioctl
        self._files = files
        self._lock = threading.Lock()
        self._asked: dict[bytes, SevGuestPlatform] = {}
        self._sent = False
        self._failure: str | None = None

    def own_report(self) -> OwnSnpReport:
        """What this guest is now.

        Raises:
            PlatformError: ``platform_failed``, ``platform_unsupported`` or
                ``provider_debug``.
        """
        own = read_snp_report(self._reports.evidence(os.urandom(64)))
        refuse_debug(own.view)
        return own

    def derive(self, key: DerivedKey) -> Secret:
        """The derived key, 32 bytes; one request for each key in a process.

        Raises:
            PlatformError: as ``SevGuestPlatform.sealing_key``.
        """
        with self._lock:
            if self._failure is not None:
                detail = f"not asked again after: {self._failure}"
                raise PlatformError(Code.PLATFORM_FAILED, detail)
            # What the firmware would refuse never reaches it, and is no failure.
            key.refuse_beyond(self.own_report())
            platform = self._asked.setdefault(key.request(), self._platform(key))
            self._sent = False
            try:
                return platform.sealing_key()
            except PlatformError as e:
                if self._sent:
                    self._failure = e.detail
                raise

    def _platform(self, key: DerivedKey) -> SevGuestPlatform:
        return SevGuestPlatform(
            self._reports,
            key=key,
            device=self._device,
            ioctl=self._send,
            files=self._files,
        )

    def _send(self, fd: int, number: int, argument: bytearray) -> int:
        self._sent = True
        return self._ioctl(fd, number, argument)


class SnpSlot:
    """The slot of class ``snp``.

    Args:
        keys: the firmware, or a simulated one.
        fields: what enters the keys of new slots.
        minimum: what must have entered those of stored ones; an ID block's IMAGE_ID
            and FAMILY_ID may be demanded here.
        vmpl: of this guest; never read from storage.

    Raises:
        KeyReleaseError: ``slot_unavailable``, where ``fields`` has less than
            ``minimum``, or either less than MEASUREMENT and POLICY.
    """

    def __init__(
        self,
        keys: DerivedKeys,
        *,
        fields: GuestField = SLOT_FIELDS,
        minimum: GuestField = REQUIRED_FIELDS,
        vmpl: int = 0,
    ) -> None:
        self._keys = keys
        self._vmpl = vmpl
        self._fields = fields
        self._minimum = minimum | REQUIRED_FIELDS
        self._refuse_fewer(fields)

    @property
    def slot_class(self) -> SlotClass:
        """``snp``."""
        return SlotClass.SNP

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        """Parameters and key of a new slot, at the present TCB and guest SVN.

        Raises:
            KeyReleaseError: ``slot_unavailable``.
        """
        place = Place(self.slot_class, keyring_id=keyring_id, slot_id=slot_id)
        own = self._own()
        key = self._key(self._fields, own.guest_svn, own.committed_tcb)
        public: dict[str, Value] = {
            "form": FORM,
            "fields": int(key.fields),
            "guest_svn": key.guest_svn,
            "tcb_version": key.tcb_version,
            "made_by": own.view.measurement,
        }
        return sealed(self._derive(key), public, place)

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        """The key again, also after TCB or guest SVN rose.

        Raises:
            KeyReleaseError: ``slot_unavailable``, with what changed.
        """
        place = Place(self.slot_class, keyring_id=keyring_id, slot_id=slot_id)
        key, made_by = self._stored(parameters)
        own = self._own()
        material = self._derive(key)
        causes = _OTHER
        if own.view.measurement != made_by:
            now = short(own.view.measurement)
            causes = f"measurement was {short(made_by)}, is {now}"
        return unsealed(material, parameters, place, causes=causes)

    def rewrap(self, parameters: Mapping[str, Value]) -> str | None:
        """Why the slot should be made anew, or ``None``.

        Raises:
            KeyReleaseError: ``slot_unavailable``.
        """
        stored, _ = self._stored(parameters)
        own = self._own()
        present = self._key(self._fields, own.guest_svn, own.committed_tcb)
        if stored == present:
            return None
        return (
            f"made of fields {int(stored.fields):#x}, guest SVN {stored.guest_svn}, TCB"
            f" {stored.tcb_version.hex()}; now {int(present.fields):#x},"
            f" {present.guest_svn}, {present.tcb_version.hex()}"
        )

    def _stored(self, parameters: Mapping[str, Value]) -> tuple[DerivedKey, bytes]:
        names = ("fields", "guest_svn", "tcb_version", "made_by")
        values = Parameters(self.slot_class, parameters, names)
        fields = GuestField(values.whole("fields", minimum=0, maximum=MAX_FIELDS))
        self._refuse_fewer(fields)
        key = self._key(
            fields,
            values.whole("guest_svn", minimum=0, maximum=0xFFFFFFFF),
            values.octets("tcb_version", TCB_BYTES),
            strict=True,
        )
        return key, values.octets("made_by", MEASUREMENT_BYTES)

    def _refuse_fewer(self, fields: GuestField) -> None:
        if fields & self._minimum != self._minimum:
            why = f"fields {int(fields):#x} enter the key, at least"
            least = f"{int(self._minimum):#x} must"
            raise unavailable(self.slot_class, f"{why} {least}")

    def _key(
        self, fields: GuestField, guest_svn: int, tcb: bytes, *, strict: bool = False
    ) -> DerivedKey:
        """The request; values whose field is not selected stay zero, or are refused."""
        if not strict and not fields & GuestField.GUEST_SVN:
            guest_svn = 0
        if not strict and not fields & GuestField.TCB_VERSION:
            tcb = bytes(TCB_BYTES)
        try:
            return DerivedKey(
                fields=fields, vmpl=self._vmpl, guest_svn=guest_svn, tcb_version=tcb
            )
        except SettingsError as e:
            raise unavailable(self.slot_class, e.detail) from e

    def _own(self) -> OwnSnpReport:
        try:
            return self._keys.own_report()
        except PlatformError as e:
            raise unavailable(self.slot_class, e.detail) from e

    def _derive(self, key: DerivedKey) -> Secret:
        try:
            return self._keys.derive(key)
        except PlatformError as e:
            raise unavailable(self.slot_class, e.detail) from e
