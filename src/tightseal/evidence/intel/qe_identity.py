# SPDX-License-Identifier: Apache-2.0
"""QE identity: which quoting enclaves Intel vouches for.

Source: Intel PCS API v4, "Get Quoting Enclave Identity" and "Get TD Quoting Enclave
Identity", enclave identity structure version 2 (and 3, which dcap-qvl knows for TDX).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from tightseal.errors import Code, EvidenceError
from tightseal.evidence.intel.layout import SGX_FIELDS
from tightseal.evidence.intel.signed_json import (
    Hex4,
    Hex16,
    Hex32,
    IntelTime,
    IsvLevel,
    IsvLevelJson,
    Number16,
    decode,
    isv_levels,
    require_masked,
    unix_time,
)
from tightseal.model.claims import Tee

__all__ = [
    "QE_IDENTITY_KINDS",
    "QeIdentity",
    "parse_qe_identity",
    "qe_level",
    "require_identity",
]

QE_IDENTITY_KINDS: Final[Mapping[Tee, tuple[str, frozenset[int]]]] = MappingProxyType(
    {Tee.SGX: ("QE", frozenset({2})), Tee.TDX: ("TD_QE", frozenset({2, 3}))}
)
"""Id and versions of the identity that judges the quoting enclave of each TEE."""


class _QeIdentityJson(
    msgspec.Struct,
    frozen=True,
    rename={
        "issue_date": "issueDate",
        "next_update": "nextUpdate",
        "evaluation_number": "tcbEvaluationDataNumber",
        "misc_select": "miscselect",
        "misc_select_mask": "miscselectMask",
        "attributes_mask": "attributesMask",
        "isv_prod_id": "isvprodid",
        "levels": "tcbLevels",
    },
):
    id: str
    version: int
    issue_date: IntelTime
    next_update: IntelTime
    evaluation_number: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
    misc_select: Hex4
    misc_select_mask: Hex4
    attributes: Hex16
    attributes_mask: Hex16
    mrsigner: Hex32
    isv_prod_id: Number16
    levels: tuple[IsvLevelJson, ...]


@dataclass(frozen=True, slots=True)
class QeIdentity:
    """QE identity, decoded; byte strings stand as in an SGX report.

    Attributes:
        id: ``QE`` or ``TD_QE``.
        version: structure version.
        issued_at, next_update: Unix seconds, both inclusive.
        evaluation_number: ``tcbEvaluationDataNumber``.
        misc_select, misc_select_mask: 4 bytes.
        attributes, attributes_mask: 16 bytes.
        mrsigner: 32 bytes.
        isv_prod_id: product id.
        levels: TCB levels, highest first.
    """

    id: str
    version: int
    issued_at: int
    next_update: int
    evaluation_number: int
    misc_select: bytes
    misc_select_mask: bytes
    attributes: bytes
    attributes_mask: bytes
    mrsigner: bytes
    isv_prod_id: int
    levels: tuple[IsvLevel, ...]


def parse_qe_identity(text: str) -> QeIdentity:
    """Decode the text of a QE identity, whose signature was verified before.

    Raises:
        CollateralError: ``qe_identity_malformed`` or ``collateral_too_large``.
    """
    return decode(text, _QeIdentityJson, _qe_identity, Code.QE_IDENTITY_MALFORMED)


def _qe_identity(raw: _QeIdentityJson) -> QeIdentity:
    require_masked("miscselect", raw.misc_select, raw.misc_select_mask)
    require_masked("attributes", raw.attributes, raw.attributes_mask)
    return QeIdentity(
        id=raw.id,
        version=raw.version,
        issued_at=unix_time(raw.issue_date),
        next_update=unix_time(raw.next_update),
        evaluation_number=raw.evaluation_number,
        misc_select=bytes.fromhex(raw.misc_select),
        misc_select_mask=bytes.fromhex(raw.misc_select_mask),
        attributes=bytes.fromhex(raw.attributes),
        attributes_mask=bytes.fromhex(raw.attributes_mask),
        mrsigner=bytes.fromhex(raw.mrsigner),
        isv_prod_id=raw.isv_prod_id,
        levels=isv_levels(raw.levels),
    )


def require_identity(report: bytes, identity: QeIdentity) -> None:
    """Refuse a QE report (384 bytes) that is not of the identity; SVNs apart.

    Raises:
        EvidenceError: ``qe_identity_mismatch``.
    """
    prod_id = identity.isv_prod_id.to_bytes(2, "little")
    _require("mrsigner", report, identity.mrsigner)
    _require("isv_prod_id", report, prod_id)
    _require("misc_select", report, identity.misc_select, identity.misc_select_mask)
    _require("attributes", report, identity.attributes, identity.attributes_mask)


def _require(
    name: str, report: bytes, expected: bytes, mask: bytes | None = None
) -> None:
    got = report[SGX_FIELDS[name]]
    if got == expected and mask is None:
        return
    if mask is not None:
        kept = int.from_bytes(got, "big") & int.from_bytes(mask, "big")
        if kept == int.from_bytes(expected, "big"):
            return
    detail = f"QE {name}: got {got.hex()}, expected {expected.hex()}"
    if mask is not None:
        detail += f" under mask {mask.hex()}"
    raise EvidenceError(Code.QE_IDENTITY_MISMATCH, detail)


def qe_level(report: bytes, identity: QeIdentity) -> IsvLevel:
    """The highest level that the QE report's ISVSVN reaches.

    Raises:
        EvidenceError: ``qe_tcb_unknown``.
    """
    isv_svn = int.from_bytes(report[SGX_FIELDS["isv_svn"]], "little")
    for level in identity.levels:
        if isv_svn >= level.isv_svn:
            return level
    detail = f"QE ISVSVN {isv_svn}: below every level of the QE identity"
    raise EvidenceError(Code.QE_TCB_UNKNOWN, detail)
