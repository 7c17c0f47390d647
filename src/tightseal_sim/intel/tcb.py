# SPDX-License-Identifier: Apache-2.0
"""TCB levels and identities as values, and their JSON in the form of the PCS v4."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from tightseal.model.claims import TcbStatus, Tee
from tightseal_sim.intel.pki import COMPONENTS, PlatformTcb

__all__ = [
    "IsvLevel",
    "ModuleIdentity",
    "QeIdentity",
    "TcbInfo",
    "TcbLevel",
    "iso_time",
]

_DEFAULT_DATE: Final = "2024-03-13T00:00:00Z"


def iso_time(moment: int) -> str:
    """Unix seconds in the form of Intel's JSON."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class IsvLevel:
    """A level of an enclave or of the TDX module: from this ISVSVN on."""

    isv_svn: int
    status: TcbStatus = TcbStatus.UP_TO_DATE
    advisories: tuple[str, ...] = ()
    date: str = _DEFAULT_DATE

    def as_json(self) -> dict[str, Any]:
        """One entry of ``tcbLevels``."""
        level = {
            "tcb": {"isvsvn": self.isv_svn},
            "tcbDate": self.date,
            "tcbStatus": self.status.value,
        }
        return _with_advisories(level, self.advisories)


@dataclass(frozen=True, slots=True)
class TcbLevel:
    """A level of a platform: from these security versions on."""

    tcb: PlatformTcb
    tdx_components: tuple[int, ...] = (0,) * COMPONENTS
    status: TcbStatus = TcbStatus.UP_TO_DATE
    advisories: tuple[str, ...] = ()
    date: str = _DEFAULT_DATE

    def as_json(self, tee: Tee) -> dict[str, Any]:
        """One entry of ``tcbLevels``."""
        tcb: dict[str, Any] = {
            "sgxtcbcomponents": [{"svn": svn} for svn in self.tcb.components],
            "pcesvn": self.tcb.pcesvn,
        }
        if tee is Tee.TDX:
            tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in self.tdx_components]
        level = {"tcb": tcb, "tcbDate": self.date, "tcbStatus": self.status.value}
        return _with_advisories(level, self.advisories)


def _with_advisories(level: dict[str, Any], ids: tuple[str, ...]) -> dict[str, Any]:
    if ids:
        level["advisoryIDs"] = list(ids)
    return level


@dataclass(frozen=True, slots=True)
class ModuleIdentity:
    """One generation of the TDX module: ``TDX_01`` and so on."""

    version: int
    levels: tuple[IsvLevel, ...]
    mr_signer: bytes = bytes(48)

    def as_json(self) -> dict[str, Any]:
        """One entry of ``tdxModuleIdentities``."""
        return {
            "id": f"TDX_{self.version:02X}",
            **_module(self.mr_signer),
            "tcbLevels": [level.as_json() for level in self.levels],
        }


def _module(mr_signer: bytes) -> dict[str, Any]:
    return {
        "mrsigner": mr_signer.hex().upper(),
        "attributes": "00" * 8,
        "attributesMask": "FF" * 8,
    }


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """TCB info version 3 of one FMSPC."""

    tee: Tee
    fmspc: bytes
    pceid: bytes
    issued_at: int
    next_update: int
    evaluation_number: int
    levels: tuple[TcbLevel, ...]
    modules: tuple[ModuleIdentity, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The value of ``tcbInfo``."""
        info: dict[str, Any] = {
            "id": "TDX" if self.tee is Tee.TDX else "SGX",
            "version": 3,
            "issueDate": iso_time(self.issued_at),
            "nextUpdate": iso_time(self.next_update),
            "fmspc": self.fmspc.hex().upper(),
            "pceId": self.pceid.hex().upper(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": self.evaluation_number,
        }
        if self.tee is Tee.TDX:
            info["tdxModule"] = _module(bytes(48))
            info["tdxModuleIdentities"] = [m.as_json() for m in self.modules]
        info["tcbLevels"] = [level.as_json(self.tee) for level in self.levels]
        return info


@dataclass(frozen=True, slots=True)
class QeIdentity:
    """Identity of a quoting enclave, version 2."""

    tee: Tee
    issued_at: int
    next_update: int
    evaluation_number: int
    mr_signer: bytes
    levels: tuple[IsvLevel, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """The value of ``enclaveIdentity``."""
        return {
            "id": "TD_QE" if self.tee is Tee.TDX else "QE",
            "version": 2,
            "issueDate": iso_time(self.issued_at),
            "nextUpdate": iso_time(self.next_update),
            "tcbEvaluationDataNumber": self.evaluation_number,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11" + "00" * 15,
            "attributesMask": "FBFFFFFFFFFFFFFF" + "00" * 8,
            "mrsigner": self.mr_signer.hex().upper(),
            "isvprodid": 2 if self.tee is Tee.TDX else 1,
            "tcbLevels": [level.as_json() for level in self.levels],
        }
