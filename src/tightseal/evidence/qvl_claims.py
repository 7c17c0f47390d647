# SPDX-License-Identifier: Apache-2.0
"""dcap-qvl's claims JSON (version 1) in our words.

Used where dcap-qvl judges alone; where both verifiers judge, the claims are the native
verifier's and only status, advisories, PPID and FMSPC are compared.
"""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from tightseal.errors import Code
from tightseal.model.claims import (
    Check,
    Claims,
    Outcome,
    PlatformIdentity,
    Tcb,
    TcbStatus,
    Tee,
    TrustDomain,
)

__all__ = [
    "CHECK_NAME",
    "QVL_CODES",
    "SPEC",
    "QvlClaims",
    "claims_of",
    "code_of",
    "decode_claims",
]

CHECK_NAME: Final = "dcap_qvl"
SPEC: Final = "dcap-qvl 0.7, claims_only"

NOT_CHECKED: Final = (
    "what only the native verifier checks (tightseal verify --differences)",
    "rollback of collateral",
    "measurements, report data and TCB status: the policy's part",
)

_Bytes: TypeAlias = list[Annotated[int, msgspec.Meta(ge=0, le=255)]]
_Flag: TypeAlias = Literal["True", "False", "Undefined"]


class _Tcb(msgspec.Struct, frozen=True):
    status: TcbStatus
    advisory_ids: list[str]
    eval_data_number: int


class _Level(msgspec.Struct, frozen=True, rename="camel"):
    tcb_date: str


class _Pck(msgspec.Struct, frozen=True):
    ppid: _Bytes
    fmspc: _Bytes
    dynamic_platform: _Flag
    cached_keys: _Flag
    smt_enabled: _Flag
    platform_instance_id: _Bytes | None = None


class _Platform(msgspec.Struct, frozen=True):
    tcb_level: _Level
    pck: _Pck
    root_key_id: _Bytes


class _Td10(msgspec.Struct, frozen=True):
    tee_tcb_svn: str
    mr_seam: str
    mr_signer_seam: str
    td_attributes: str
    xfam: str
    mr_td: str
    mr_config_id: str
    mr_owner: str
    mr_owner_config: str
    rt_mr0: str
    rt_mr1: str
    rt_mr2: str
    rt_mr3: str
    report_data: str


class _Td15(msgspec.Struct, frozen=True):
    base: _Td10
    mr_service_td: str


class _Td15Ex(msgspec.Struct, frozen=True):
    base: _Td15


class _Enclave(msgspec.Struct, frozen=True):
    cpu_svn: str
    misc_select: int
    reserved1: str
    attributes: str
    mr_enclave: str
    mr_signer: str
    reserved3: str
    isv_prod_id: int
    isv_svn: int
    reserved4: str
    report_data: str


class _Report(msgspec.Struct, frozen=True):
    enclave: _Enclave | None = msgspec.field(name="SgxEnclave", default=None)
    td10: _Td10 | None = msgspec.field(name="TD10", default=None)
    td15: _Td15 | None = msgspec.field(name="TD15", default=None)
    td15ex: _Td15Ex | None = msgspec.field(name="TD15Ex", default=None)


class QvlClaims(msgspec.Struct, frozen=True):
    """What is read of the library's claims."""

    claims_version: Literal[1]
    tcb: _Tcb
    platform: _Platform
    report: _Report


_DECODER: Final = msgspec.json.Decoder(QvlClaims)


def decode_claims(text: str) -> QvlClaims:
    """Decode the library's claims JSON; raises msgspec's errors on another form."""
    return _DECODER.decode(text)


def claims_of(
    claims: QvlClaims, *, quote: bytes, trust_domain: TrustDomain
) -> Claims | None:
    """Our claims from the library's.

    Args:
        claims: as decoded.
        quote: the quote, cut to its declared length; only hashed.
        trust_domain: of the root that the library was given.

    Returns:
        the claims, ``single_verifier`` set; ``None`` where the report is of a form that
        this version does not know.
    """
    try:
        named = _named(claims.report)
    except (ValueError, OverflowError):
        return None
    if named is None:
        return None
    tee, measurements, report_data = named
    pck = claims.platform.pck
    return Claims(
        tee=tee,
        trust_domain=trust_domain,
        measurements=MappingProxyType(measurements),
        report_data=report_data,
        debug=False,
        platform=PlatformIdentity(
            ppid=_identity(pck.ppid),
            piid=_identity(pck.platform_instance_id or []),
            fmspc=bytes(pck.fmspc),
        ),
        tcb=Tcb(
            status=claims.tcb.status,
            advisory_ids=frozenset(claims.tcb.advisory_ids),
            evaluation_number=claims.tcb.eval_data_number,
            date=claims.platform.tcb_level.tcb_date,
            dynamic_platform=_flag(pck.dynamic_platform),
            cached_keys=_flag(pck.cached_keys),
            smt_enabled=_flag(pck.smt_enabled),
        ),
        single_verifier=True,
        checks=(Check(CHECK_NAME, Outcome.PASSED, SPEC),),
        not_checked=NOT_CHECKED,
        evidence_hash=hashlib.sha256(quote).digest(),
    )


def _identity(value: _Bytes) -> bytes | None:
    """An absent or all-zero identity names no machine."""
    return bytes(value) if any(value) else None


def _flag(value: _Flag) -> bool | None:
    return {"True": True, "False": False, "Undefined": None}[value]


def _named(report: _Report) -> tuple[Tee, dict[str, bytes], bytes] | None:
    if report.enclave is not None:
        return Tee.SGX, _enclave(report.enclave), _hex(report.enclave.report_data)
    td15 = report.td15ex.base if report.td15ex is not None else report.td15
    td10 = td15.base if td15 is not None else report.td10
    if td10 is None:
        return None
    # A TD 1.0 report has no such field: it reads as for a TD without a service TD.
    service_td = bytes(48) if td15 is None else _hex(td15.mr_service_td)
    return Tee.TDX, _td(td10, service_td), _hex(td10.report_data)


def _td(td: _Td10, service_td: bytes) -> dict[str, bytes]:
    return {
        "mrtd": _hex(td.mr_td),
        "rtmr0": _hex(td.rt_mr0),
        "rtmr1": _hex(td.rt_mr1),
        "rtmr2": _hex(td.rt_mr2),
        "rtmr3": _hex(td.rt_mr3),
        "mr_config_id": _hex(td.mr_config_id),
        "mr_owner": _hex(td.mr_owner),
        "mr_owner_config": _hex(td.mr_owner_config),
        "mr_seam": _hex(td.mr_seam),
        "mr_signer_seam": _hex(td.mr_signer_seam),
        "mr_service_td": service_td,
        "td_attributes": _hex(td.td_attributes),
        "xfam": _hex(td.xfam),
        "tee_tcb_svn": _hex(td.tee_tcb_svn),
    }


def _enclave(enclave: _Enclave) -> dict[str, bytes]:
    """SGX REPORT body; the KSS fields lie in what the library calls reserved."""
    at20, at160, at260 = map(
        _hex, (enclave.reserved1, enclave.reserved3, enclave.reserved4)
    )
    return {
        "mrenclave": _hex(enclave.mr_enclave),
        "mrsigner": _hex(enclave.mr_signer),
        "isv_prod_id": enclave.isv_prod_id.to_bytes(2, "little"),
        "isv_svn": enclave.isv_svn.to_bytes(2, "little"),
        "isv_ext_prod_id": at20[12:28],
        "isv_family_id": at260[44:60],
        "config_id": at160[32:96],
        "config_svn": at260[0:2],
        "attributes": _hex(enclave.attributes),
        "misc_select": enclave.misc_select.to_bytes(4, "little"),
        "cpu_svn": _hex(enclave.cpu_svn),
    }


def _hex(text: str) -> bytes:
    return bytes.fromhex(text)


QVL_CODES: Final[tuple[tuple[str, Code], ...]] = (
    ("Failed to load root ca", Code.ROOT_NOT_TRUSTED),
    ("Failed to parse root CA CRL", Code.CRL_SIGNATURE_INVALID),
    ("Failed to parse PCK CRL", Code.CRL_MALFORMED),
    ("CertRevoked", Code.CERTIFICATE_REVOKED),
    ("CertExpired", Code.CERTIFICATE_EXPIRED),
    ("CertNotValidYet", Code.CERTIFICATE_NOT_YET_VALID),
    ("CrlExpired", Code.CRL_EXPIRED),
    ("InvalidCrlSignature", Code.CRL_SIGNATURE_INVALID),
    ("Failed to decode quote", Code.QUOTE_MALFORMED),
    ("Unsupported DCAP quote version", Code.QUOTE_VERSION_UNSUPPORTED),
    ("Unknown QE vendor ID", Code.QE_VENDOR_UNKNOWN),
    ("Unsupported TEE type", Code.QUOTE_TEE_TYPE_INVALID),
    ("SGX TEE quote must have version", Code.QUOTE_TEE_TYPE_INVALID),
    ("TDX TEE quote must have version", Code.QUOTE_TEE_TYPE_INVALID),
    (
        "Unsupported DCAP attestation key type",
        Code.ATTESTATION_KEY_TYPE_UNSUPPORTED,
    ),
    ("Unsupported DCAP PCK cert format", Code.CERTIFICATION_DATA_UNSUPPORTED),
    ("Failed to decode TcbInfo", Code.TCB_INFO_MALFORMED),
    ("TCBInfo issue date is in the future", Code.TCB_INFO_NOT_YET_VALID),
    ("TCBInfo expired", Code.TCB_INFO_EXPIRED),
    ("Signature is invalid for tcb_info", Code.TCB_INFO_SIGNATURE_INVALID),
    ("TDX quote with non-TDX TCB info", Code.TCB_INFO_TYPE_MISMATCH),
    ("SGX quote with non-SGX TCB info", Code.TCB_INFO_TYPE_MISMATCH),
    ("Fmspc mismatch", Code.FMSPC_MISMATCH),
    ("Failed to decode QeIdentity", Code.QE_IDENTITY_MALFORMED),
    ("QE Identity issue date is in the future", Code.QE_IDENTITY_NOT_YET_VALID),
    ("QE Identity expired", Code.QE_IDENTITY_EXPIRED),
    ("Signature is invalid for qe_identity", Code.QE_IDENTITY_SIGNATURE_INVALID),
    ("Unsupported QE Identity id/version", Code.QE_IDENTITY_TYPE_MISMATCH),
    ("Too many intermediate certificates", Code.CERTIFICATE_CHAIN_TOO_LONG),
    ("Failed to verify certificate chain", Code.CERTIFICATE_CHAIN_INVALID),
    ("Certificate chain is too short", Code.CERTIFICATE_CHAIN_INVALID),
    ("Intel extension not found", Code.PCK_EXTENSION_INVALID),
    ("Signature is invalid for qe_report", Code.QE_REPORT_SIGNATURE_INVALID),
    ("Invalid QE auth data length", Code.QUOTE_MALFORMED),
    ("QE report hash mismatch", Code.QE_REPORT_DATA_MISMATCH),
    ("QE report validation failed", Code.QE_DEBUG),
    ("QE ISVSVN", Code.QE_TCB_UNKNOWN),
    ("No TCB levels found in QE Identity", Code.QE_TCB_UNKNOWN),
    ("QE ", Code.QE_IDENTITY_MISMATCH),
    ("ISV enclave report signature is invalid", Code.QUOTE_SIGNATURE_INVALID),
    ("No matching TCB level found", Code.TCB_LEVEL_UNKNOWN),
    ("component count mismatch", Code.TCB_INFO_MALFORMED),
    ("TDX module identity check", Code.TDX_MODULE_MISMATCH),
    ("TDX module TCB level check", Code.TDX_MODULE_TCB_UNKNOWN),
    ("TCB status is invalid: Revoked", Code.TCB_REVOKED),
    ("Debug mode is enabled", Code.DEBUG_ENABLED),
    ("TD profiling is enabled", Code.TD_PROFILING),
    ("Reserved bits in TD attributes are set", Code.TD_ATTRIBUTES_RESERVED),
    ("TD migration is enabled", Code.TD_MIGRATABLE),
    ("SERVTD_EXT is enabled", Code.TD_SERVICE_TD),
    ("Invalid MR service TD", Code.TD_SERVICE_TD),
    ("SEPT_VE_DISABLE is not enabled", Code.SEPT_VE_ENABLED),
)
"""Part of the library's message to our code, most telling first; used only where it
judges alone."""


def code_of(message: str) -> Code:
    """Our code for one of the library's messages; one without a row is a chain's."""
    for part, code in QVL_CODES:
        if part in message:
            return code
    return Code.CERTIFICATE_CHAIN_INVALID
