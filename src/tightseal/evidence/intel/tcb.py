# SPDX-License-Identifier: Apache-2.0
"""From SVNs to one TCB status: level selection, module identity, merge, relaunch.

Source: Intel QVL, sections 4.1.2.5.12 and 4.1.2.5.18 to 4.1.2.5.20 of its
verification algorithm; Intel PCS API v4, "TCB evaluation".
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import ge
from typing import Final

from tightseal.errors import Code, EvidenceError
from tightseal.evidence.intel.pck import PckExtension
from tightseal.evidence.intel.signed_json import IsvLevel
from tightseal.evidence.intel.tcb_info import (
    PlatformLevel,
    TcbInfo,
    TdxModuleIdentity,
)
from tightseal.model.claims import TcbStatus

__all__ = [
    "Verdict",
    "merge",
    "module_identity",
    "module_level",
    "platform_level",
    "relaunch",
    "require_module",
]

_MODULE_SVN, _MODULE_VERSION = 0, 1
_VERSIONED_MODULE_SKIPS: Final = 2

_S = TcbStatus
_OUT_OF_DATE: Final = TcbStatus.OUT_OF_DATE
_REVOKED: Final = TcbStatus.REVOKED
_OUTDATED: Final = {
    _S.UP_TO_DATE: _S.OUT_OF_DATE,
    _S.SW_HARDENING_NEEDED: _S.OUT_OF_DATE,
    _S.CONFIGURATION_NEEDED: _S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    _S.CONFIGURATION_AND_SW_HARDENING_NEEDED: _S.OUT_OF_DATE_CONFIGURATION_NEEDED,
}
"""What a platform's status becomes where one of its components is out of date."""

_LAUNCH_OUTDATED: Final = frozenset(
    {_S.OUT_OF_DATE, _S.OUT_OF_DATE_CONFIGURATION_NEEDED}
)
_CONFIGURATION: Final = frozenset(
    {
        _S.CONFIGURATION_NEEDED,
        _S.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        _S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    }
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A merged status with its advisories."""

    status: TcbStatus
    advisory_ids: frozenset[str]


def platform_level(
    info: TcbInfo, pck: PckExtension, tee_tcb_svn: bytes | None
) -> PlatformLevel:
    """The highest level that the platform reaches in every component.

    Args:
        info: TCB info of the platform's family.
        pck: SVNs of the platform, from the verified PCK certificate.
        tee_tcb_svn: the TD's 16 TDX SVNs; ``None`` for SGX. Where it names a module
            version, its first two components are judged by ``module_level`` instead.

    Raises:
        EvidenceError: ``tcb_level_unknown``, where it lies below every level.
    """
    skip = 0
    if tee_tcb_svn is not None and tee_tcb_svn[_MODULE_VERSION]:
        skip = _VERSIONED_MODULE_SKIPS
    tdx = b"" if tee_tcb_svn is None else tee_tcb_svn[skip:]
    for level in info.levels:
        if (
            pck.pce_svn >= level.pce_svn
            and all(map(ge, pck.components, level.sgx))
            and all(map(ge, tdx, level.tdx[skip:]))
        ):
            return level
    detail = (
        f"no TCB level: components {pck.components.hex()}, PCESVN {pck.pce_svn}, "
        f"TEE TCB SVN {'none' if tee_tcb_svn is None else tee_tcb_svn.hex()}"
    )
    raise EvidenceError(Code.TCB_LEVEL_UNKNOWN, detail)


def module_identity(info: TcbInfo, tee_tcb_svn: bytes) -> TdxModuleIdentity:
    """The identity of the TDX module that ``tee_tcb_svn`` names by its version.

    Raises:
        EvidenceError: ``tdx_module_mismatch``, where TCB info has none.
    """
    version = tee_tcb_svn[_MODULE_VERSION]
    if not version:
        found = info.module
    else:
        found = info.module_identities.get(f"TDX_{version:02X}")
    if found is None:
        detail = f"TDX module version {version}: no identity in TCB info"
        raise EvidenceError(Code.TDX_MODULE_MISMATCH, detail)
    return found


def require_module(
    identity: TdxModuleIdentity, *, mr_signer_seam: bytes, seam_attributes: bytes
) -> None:
    """Refuse a TDX module of another signer, or with other attributes.

    Attribute bits outside the identity's mask must be zero.

    Raises:
        EvidenceError: ``tdx_module_mismatch``.
    """
    if mr_signer_seam != identity.mrsigner:
        detail = (
            f"TDX module signer: got {mr_signer_seam.hex()}, "
            f"expected {identity.mrsigner.hex()}"
        )
        raise EvidenceError(Code.TDX_MODULE_MISMATCH, detail)
    got = int.from_bytes(seam_attributes, "little")
    mask = int.from_bytes(identity.attributes_mask, "little")
    if got & ~mask or got != int.from_bytes(identity.attributes, "little"):
        detail = (
            f"TDX module attributes: got {seam_attributes.hex()}, expected "
            f"{identity.attributes.hex()} under mask {identity.attributes_mask.hex()}"
        )
        raise EvidenceError(Code.TDX_MODULE_MISMATCH, detail)


def module_level(identity: TdxModuleIdentity, tee_tcb_svn: bytes) -> IsvLevel | None:
    """The highest level that the module reaches; ``None`` for one without a version.

    A module without a version is judged by the platform's level.

    Raises:
        EvidenceError: ``tdx_module_tcb_unknown``, where it lies below every level.
    """
    if not tee_tcb_svn[_MODULE_VERSION]:
        return None
    isv_svn = tee_tcb_svn[_MODULE_SVN]
    for level in identity.levels:
        if isv_svn >= level.isv_svn:
            return level
    detail = f"TDX module SVN {isv_svn}: below every level of its identity"
    raise EvidenceError(Code.TDX_MODULE_TCB_UNKNOWN, detail)


def merge(platform: PlatformLevel, *components: IsvLevel | None) -> Verdict:
    """One status for platform, QE and TDX module, and all their advisories.

    Components count only where out of date or revoked. Revoked wins over everything.
    """
    status, advisories = platform.status, platform.advisory_ids
    revoked = False
    for component in components:
        if component is None:
            continue
        if component.status is _OUT_OF_DATE:
            status = _OUTDATED.get(status, status)
        elif component.status is _REVOKED:
            revoked = True
        if component.advisory_ids:
            advisories |= component.advisory_ids
    return Verdict(_REVOKED if revoked else status, advisories)


def relaunch(launch: Verdict, current: Verdict) -> Verdict:
    """The status of a TD that outlived an update of its TDX module (TD 1.5).

    A TD launched on an out-of-date TCB that has since been updated only needs to be
    launched again; its measurements and keys are still those of the old TCB.
    """
    if _S.REVOKED in (launch.status, current.status):
        status = _S.REVOKED
    elif launch.status in _LAUNCH_OUTDATED and current.status not in _LAUNCH_OUTDATED:
        configuration = _CONFIGURATION & {launch.status, current.status}
        status = (
            _S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
            if configuration
            else _S.TD_RELAUNCH_ADVISED
        )
    else:
        status = launch.status
    return Verdict(status, launch.advisory_ids)
