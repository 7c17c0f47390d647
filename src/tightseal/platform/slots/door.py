# SPDX-License-Identifier: Apache-2.0
"""The slots that a platform can open by itself; nothing of the hardware is touched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tightseal.errors import Code, SettingsError
from tightseal.model.ports import RootPlatform
from tightseal.model.slots import SlotClass, SlotKey
from tightseal.platform.gramine import GraminePlatform
from tightseal.platform.slots.gramine import GramineSlot
from tightseal.platform.slots.native_egetkey import DEFAULT_SHIM, NativeEgetkey
from tightseal.platform.slots.sgx import SgxSlot
from tightseal.platform.slots.snp import SevGuestKeys, SnpSlot

__all__ = ["OffersSlots", "platform_slots"]


@runtime_checkable
class OffersSlots(Protocol):
    """A platform that brings its own slots: a simulated one."""

    def slots(self, *, allow_signer: bool) -> Mapping[SlotClass, SlotKey]:
        """Its slots, by class."""
        ...


def platform_slots(
    kind: str,
    platform: RootPlatform,
    options: Mapping[str, Any] | None = None,
    *,
    allow_signer: bool,
    shim: Path = DEFAULT_SHIM,
) -> Mapping[SlotClass, SlotKey]:
    """The slots of class ``gramine``, ``sgx`` and ``snp`` that exist here.

    That a slot is listed does not say that it opens: the shim may be missing.

    Args:
        kind: as it was given to ``open_platform``.
        platform: what came out.
        options: as they were given to ``open_platform``.
        allow_signer: whether the signed policy in force allows keys of the signer.
        shim: the built EGETKEY shim.

    Raises:
        SettingsError: ``settings_invalid``, for a VMPL that is no number.
    """
    given = options or {}
    if isinstance(platform, OffersSlots):
        return platform.slots(allow_signer=allow_signer)
    if isinstance(platform, GraminePlatform):
        door = NativeEgetkey(shim)
        return {
            SlotClass.GRAMINE: GramineSlot(platform, allow_signer=allow_signer),
            SlotClass.SGX: SgxSlot(door, allow_signer=allow_signer),
        }
    if kind == "sev-guest":
        device = Path(given.get("device", "/dev/sev-guest"))
        firmware = SevGuestKeys(platform, device=device)
        return {SlotClass.SNP: SnpSlot(firmware, vmpl=_vmpl(given))}
    return {}


def _vmpl(options: Mapping[str, Any]) -> int:
    try:
        return int(options.get("vmpl", 0))
    except (TypeError, ValueError) as e:
        detail = f"vmpl {options.get('vmpl')!r}, expected a whole number"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
