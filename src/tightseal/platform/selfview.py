# SPDX-License-Identifier: Apache-2.0
"""What a process reads about itself in evidence that its own platform just made.

Nothing is verified here: the evidence never left this TEE. The provider uses these
fields to refuse to start, and to compare them with claims that were verified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code, PlatformError
from tightseal.model.claims import Tee

__all__ = [
    "SGX_REPORT_BYTES",
    "SGX_TARGET_INFO_BYTES",
    "SNP_REPORT_BYTES",
    "OwnSnpReport",
    "OwnView",
    "read_sgx_report",
    "read_snp_report",
    "read_td_quote",
    "refuse_debug",
]

SGX_REPORT_BYTES: Final = 432
SGX_TARGET_INFO_BYTES: Final = 512
SNP_REPORT_BYTES: Final = 1184

_SGX_DEBUG: Final = 0x02
_SGX_INIT: Final = 0x01
_SNP_POLICY_DEBUG: Final = 1 << 19
_TD_DEBUG: Final = 0x01
_QUOTE_HEADER_BYTES: Final = 48
_QUOTE_V5_BODY_HEADER_BYTES: Final = 6
_TD_BODY_BYTES: Final = 584
_QUOTE_V4: Final = 4
_QUOTE_V5: Final = 5


@dataclass(frozen=True, slots=True)
class OwnView:
    """What a process sees of itself.

    Attributes:
        tee: kind of TEE.
        measurement: MRENCLAVE (32 bytes), MRTD or SNP measurement (48 bytes).
        report_data: 64 bytes, as asked for.
        debug: whether the host may read this process.
    """

    tee: Tee
    measurement: bytes
    report_data: bytes
    debug: bool


@dataclass(frozen=True, slots=True)
class OwnSnpReport:
    """Fields of our own SNP report that bound what may be asked of the firmware."""

    view: OwnView
    vmpl: int
    guest_svn: int
    committed_tcb: bytes


def read_sgx_report(report: bytes, target_info: bytes) -> OwnView:
    """Read an EREPORT over ourselves (Intel SDM volume 3D, REPORT and TARGETINFO).

    Args:
        report: 432 bytes.
        target_info: our own TARGETINFO, 512 bytes; must name the same enclave.

    Raises:
        PlatformError: ``platform_failed``.
    """
    _length("report", report, SGX_REPORT_BYTES)
    _length("my_target_info", target_info, SGX_TARGET_INFO_BYTES)
    measurement, attributes = report[64:96], report[48:64]
    if (target_info[:32], target_info[32:48]) != (measurement, attributes):
        raise _failed("report and my_target_info do not name the same enclave")
    flags = int.from_bytes(attributes[:8], "little")
    if not flags & _SGX_INIT:
        raise _failed(f"report attributes {flags:#x}: the enclave is not initialised")
    return OwnView(
        tee=Tee.SGX,
        measurement=measurement,
        report_data=report[320:384],
        debug=bool(flags & _SGX_DEBUG),
    )


def read_snp_report(report: bytes) -> OwnSnpReport:
    """Read our own SNP report (SEV-SNP firmware ABI, ATTESTATION_REPORT).

    Args:
        report: at least 1184 bytes; a certificate table may follow.

    Raises:
        PlatformError: ``platform_failed``.
    """
    if len(report) < SNP_REPORT_BYTES:
        raise _failed(f"SNP report of {len(report)} bytes, expected {SNP_REPORT_BYTES}")
    policy = int.from_bytes(report[8:16], "little")
    view = OwnView(
        tee=Tee.SNP,
        measurement=report[144:192],
        report_data=report[80:144],
        debug=bool(policy & _SNP_POLICY_DEBUG),
    )
    return OwnSnpReport(
        view=view,
        vmpl=int.from_bytes(report[48:52], "little"),
        guest_svn=int.from_bytes(report[4:8], "little"),
        committed_tcb=report[480:488],
    )


def read_td_quote(quote: bytes) -> OwnView:
    """Read our own TD quote, version 4 or 5 (Intel TDX DCAP quoting library API).

    Raises:
        PlatformError: ``platform_failed``.
    """
    version = int.from_bytes(quote[:2], "little")
    start = _QUOTE_HEADER_BYTES
    if version == _QUOTE_V5:
        start += _QUOTE_V5_BODY_HEADER_BYTES
    body = quote[start : start + _TD_BODY_BYTES]
    if version not in (_QUOTE_V4, _QUOTE_V5) or len(body) != _TD_BODY_BYTES:
        raise _failed(f"TD quote of version {version} and {len(quote)} bytes")
    return OwnView(
        tee=Tee.TDX,
        measurement=body[136:184],
        report_data=body[520:584],
        debug=bool(body[120] & _TD_DEBUG),
    )


def refuse_debug(view: OwnView) -> None:
    """Refuse a TEE that the host may read.

    Raises:
        PlatformError: ``provider_debug``.
    """
    if view.debug:
        detail = f"our own {view.tee.value} report has the debug bit set; expected not"
        raise PlatformError(Code.PROVIDER_DEBUG, detail)


def _length(what: str, data: bytes, expected: int) -> None:
    if len(data) != expected:
        raise _failed(f"{what}: {len(data)} bytes, expected {expected}")


def _failed(detail: str) -> PlatformError:
    return PlatformError(Code.PLATFORM_FAILED, detail)
