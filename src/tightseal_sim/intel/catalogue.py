# SPDX-License-Identifier: Apache-2.0
"""The simulated hardware's numbers: families, security versions and their levels."""

from __future__ import annotations

import hashlib
from typing import Final

from tightseal.model.claims import TcbStatus, Tee
from tightseal_sim.intel.pki import COMPONENTS, PlatformTcb
from tightseal_sim.intel.structures import AttributeFlags, ReportBody
from tightseal_sim.intel.tcb import IsvLevel, ModuleIdentity, TcbLevel
from tightseal_sim.state import IntelState

__all__ = [
    "EVALUATION_NUMBER",
    "FMSPCS",
    "PCEID",
    "QE_LEVELS",
    "QE_MRSIGNER",
    "module_identities",
    "platform_levels",
    "platform_tcb",
    "qe_report",
    "seam_measurement",
    "tee_tcb_svn",
]

FMSPCS: Final = {
    "platform": bytes.fromhex("70f06d070000"),
    "processor": bytes.fromhex("20906ec10000"),
}
"""One family of machines per PCK CA."""

PCEID: Final = bytes(2)
EVALUATION_NUMBER: Final = 17
"""``tcbEvaluationDataNumber`` before anything was republished."""

_COMPONENTS: Final = (2, 2, 2, 2, 3, 1, 0, 5)
_PCESVN: Final = 11
_OLD_PCESVN: Final = 5
_TDX_COMPONENTS: Final = (5, 0, 2)

MODULE_VERSION: Final = 1
_MODULE_SVN: Final = 6

_OLD_DATE: Final = "2018-01-04T00:00:00Z"
_OLD_ADVISORIES: Final = ("INTEL-SA-00106", "INTEL-SA-00615")

QE_MRSIGNER: Final = hashlib.sha256(b"simulated quoting enclave signer").digest()
_QE_SVN: Final = 8

QE_LEVELS: Final = {
    tee: (
        IsvLevel(_QE_SVN),
        IsvLevel(6, TcbStatus.OUT_OF_DATE, ("INTEL-SA-00477",), _OLD_DATE),
        IsvLevel(1, TcbStatus.REVOKED, ("INTEL-SA-00202",), _OLD_DATE),
    )
    for tee in (Tee.SGX, Tee.TDX)
}


def platform_tcb(microcode: int) -> PlatformTcb:
    """Security versions of a machine; each microcode update raises two components."""
    raised = (_COMPONENTS[0] + 1 + microcode, _COMPONENTS[1] + 1 + microcode)
    return PlatformTcb(_pad((*raised, *_COMPONENTS[2:])), _PCESVN)


def platform_levels(state: IntelState) -> tuple[TcbLevel, ...]:
    """The published levels of every family, newest first.

    After n recoveries only machines with n microcode updates match the newest level;
    the others match an OutOfDate one that names the advisories they miss.
    """
    newest = len(state.recoveries)
    levels = []
    for age in range(newest, -1, -1):
        missed = tuple(i for ids in state.recoveries[age:] for i in ids)
        current = age == newest
        levels.append(
            TcbLevel(
                platform_tcb(age),
                _pad(_TDX_COMPONENTS),
                TcbStatus(state.status) if current else TcbStatus.OUT_OF_DATE,
                state.advisories if current else missed,
            )
        )
    old = PlatformTcb(_pad(_COMPONENTS), _OLD_PCESVN)
    oldest = PlatformTcb(_pad((1, 1)), _OLD_PCESVN)
    no_tdx = _pad((1,))
    levels += [
        TcbLevel(old, no_tdx, TcbStatus.OUT_OF_DATE, _OLD_ADVISORIES, _OLD_DATE),
        TcbLevel(oldest, no_tdx, TcbStatus.REVOKED, _OLD_ADVISORIES, _OLD_DATE),
    ]
    return tuple(levels)


def module_identities(state: IntelState) -> tuple[ModuleIdentity, ...]:
    """The TDX module's identity with its levels, newest first."""
    recoveries = state.module_recoveries
    newest = len(recoveries)
    levels = [IsvLevel(_MODULE_SVN + newest)]
    for age in range(newest - 1, -1, -1):
        missed = tuple(i for ids in recoveries[age:] for i in ids)
        levels.append(IsvLevel(_MODULE_SVN + age, TcbStatus.OUT_OF_DATE, missed))
    levels += [
        IsvLevel(4, TcbStatus.OUT_OF_DATE, ("INTEL-SA-01036",), _OLD_DATE),
        IsvLevel(1, TcbStatus.REVOKED, ("INTEL-SA-01036",), _OLD_DATE),
    ]
    return (ModuleIdentity(MODULE_VERSION, tuple(levels)),)


def tee_tcb_svn(tdx_module: int) -> bytes:
    """TEE_TCB_SVN after so many updates of the TDX module, 16 bytes."""
    return bytes(_pad((_MODULE_SVN + tdx_module, MODULE_VERSION, 3)))


def seam_measurement(tdx_module: int) -> bytes:
    """MRSEAM of the TDX module, 48 bytes."""
    return hashlib.sha384(b"simulated TDX module %d" % tdx_module).digest()


def qe_report(tee: Tee, cpusvn: bytes) -> ReportBody:
    """Report of the quoting enclave for a TEE, without its report data."""
    name = b"simulated quoting enclave for " + tee.value.encode()
    return ReportBody(
        cpu_svn=cpusvn,
        flags=AttributeFlags.INIT
        | AttributeFlags.MODE64BIT
        | AttributeFlags.PROVISION_KEY,
        mr_enclave=hashlib.sha256(name).digest(),
        mr_signer=QE_MRSIGNER,
        isv_prod_id=2 if tee is Tee.TDX else 1,
        isv_svn=_QE_SVN,
    )


def _pad(values: tuple[int, ...]) -> tuple[int, ...]:
    return values + (0,) * (COMPONENTS - len(values))
