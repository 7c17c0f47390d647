# SPDX-License-Identifier: Apache-2.0
"""TCB info, version 3: what Intel says about one platform family.

Source: Intel PCS API v4, "Get TCB Info", TCB info structure version 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from tightseal.errors import Code
from tightseal.evidence.intel.signed_json import (
    Hex2,
    Hex6,
    Hex8,
    Hex48,
    IntelTime,
    IsvLevel,
    IsvLevelJson,
    Number16,
    decode,
    isv_levels,
    require_masked,
    unix_time,
)
from tightseal.model.claims import TcbStatus

__all__ = [
    "TCB_INFO_VERSION",
    "PlatformLevel",
    "TcbInfo",
    "TdxModuleIdentity",
    "parse_tcb_info",
]

TCB_INFO_VERSION: Final = 3

_ID_TDX: Final = "TDX"
_TCB_TYPE: Final = 0
_MAX_MODULE_SVN: Final = 0xFF


class _ComponentJson(msgspec.Struct, frozen=True):
    svn: Annotated[int, Meta(ge=0, le=0xFF)]


_Components = Annotated[tuple[_ComponentJson, ...], Meta(min_length=16, max_length=16)]


class _TcbJson(
    msgspec.Struct,
    frozen=True,
    rename={
        "sgx": "sgxtcbcomponents",
        "pce_svn": "pcesvn",
        "tdx": "tdxtcbcomponents",
    },
):
    sgx: _Components
    pce_svn: Number16
    tdx: _Components | None = None


class _LevelJson(
    msgspec.Struct,
    frozen=True,
    rename={
        "date": "tcbDate",
        "status": "tcbStatus",
        "advisory_ids": "advisoryIDs",
    },
):
    tcb: _TcbJson
    date: IntelTime
    status: Literal[
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "Revoked",
    ]
    advisory_ids: tuple[str, ...] = ()


class _ModuleJson(
    msgspec.Struct, frozen=True, rename={"attributes_mask": "attributesMask"}
):
    mrsigner: Hex48
    attributes: Hex8
    attributes_mask: Hex8


class _ModuleIdentityJson(
    _ModuleJson, frozen=True, rename={"levels": "tcbLevels"}, kw_only=True
):
    id: str
    levels: tuple[IsvLevelJson, ...]


class _TcbInfoJson(
    msgspec.Struct,
    frozen=True,
    rename={
        "issue_date": "issueDate",
        "next_update": "nextUpdate",
        "pce_id": "pceId",
        "tcb_type": "tcbType",
        "evaluation_number": "tcbEvaluationDataNumber",
        "levels": "tcbLevels",
        "tdx_module": "tdxModule",
        "tdx_module_identities": "tdxModuleIdentities",
    },
):
    id: str
    version: int
    issue_date: IntelTime
    next_update: IntelTime
    fmspc: Hex6
    pce_id: Hex2
    tcb_type: int
    evaluation_number: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
    levels: tuple[_LevelJson, ...]
    tdx_module: _ModuleJson | None = None
    tdx_module_identities: tuple[_ModuleIdentityJson, ...] = ()


@dataclass(frozen=True, slots=True)
class PlatformLevel:
    """One TCB level of a platform family.

    Attributes:
        sgx: the 16 lowest SGX component SVNs.
        pce_svn: lowest PCESVN.
        tdx: the 16 lowest TDX component SVNs; empty in TCB info for SGX.
        status: as Intel judges the level.
        date: ``tcbDate`` as Intel writes it.
        advisory_ids: what applies to the level.
    """

    sgx: bytes
    pce_svn: int
    tdx: bytes
    status: TcbStatus
    date: str
    advisory_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class TdxModuleIdentity:
    """What a TDX module must be; ``levels`` is empty for the one without a version."""

    mrsigner: bytes
    attributes: bytes
    attributes_mask: bytes
    levels: tuple[IsvLevel, ...] = ()


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """TCB info, decoded; ``levels`` highest first.

    Attributes:
        id: ``SGX`` or ``TDX``.
        version: 3 for the structure that is understood.
        issued_at, next_update: Unix seconds, both inclusive.
        fmspc, pce_id: the family, 6 and 2 bytes.
        evaluation_number: ``tcbEvaluationDataNumber``.
        levels: TCB levels.
        module: the TDX module that has no version; TDX only.
        module_identities: by id, such as ``TDX_03``.
    """

    id: str
    version: int
    issued_at: int
    next_update: int
    fmspc: bytes
    pce_id: bytes
    evaluation_number: int
    levels: tuple[PlatformLevel, ...]
    module: TdxModuleIdentity | None
    module_identities: Mapping[str, TdxModuleIdentity]


def parse_tcb_info(text: str) -> TcbInfo:
    """Decode the text of TCB info, whose signature was verified before.

    Raises:
        CollateralError: ``tcb_info_malformed`` or ``collateral_too_large``.
    """
    return decode(text, _TcbInfoJson, _tcb_info, Code.TCB_INFO_MALFORMED)


def _tcb_info(raw: _TcbInfoJson) -> TcbInfo:
    if raw.tcb_type != _TCB_TYPE:
        message = f"tcbType: got {raw.tcb_type}, expected 0"
        raise ValueError(message)
    if raw.id == _ID_TDX and (
        raw.tdx_module is None or any(x.tcb.tdx is None for x in raw.levels)
    ):
        message = "TCB info for TDX without tdxModule or tdxtcbcomponents"
        raise ValueError(message)
    identities = {x.id: _module(x, x.levels) for x in raw.tdx_module_identities}
    # Readers that ignore case would take one id for another.
    if len({x.upper() for x in identities} & set(identities)) != len(
        raw.tdx_module_identities
    ):
        message = "a TDX module identity is given twice, or not in capitals"
        raise ValueError(message)
    levels = {_order(level): level for level in map(_level, raw.levels)}
    if len(levels) != len(raw.levels):
        message = "a TCB level is given twice"
        raise ValueError(message)
    return TcbInfo(
        id=raw.id,
        version=raw.version,
        issued_at=unix_time(raw.issue_date),
        next_update=unix_time(raw.next_update),
        fmspc=bytes.fromhex(raw.fmspc),
        pce_id=bytes.fromhex(raw.pce_id),
        evaluation_number=raw.evaluation_number,
        levels=tuple(levels[tcb] for tcb in sorted(levels, reverse=True)),
        module=None if raw.tdx_module is None else _module(raw.tdx_module, ()),
        module_identities=MappingProxyType(identities),
    )


def _order(level: PlatformLevel) -> tuple[bytes, int, bytes]:
    """By SGX components, then PCESVN, then TDX components; JSON order means nothing."""
    return level.sgx, level.pce_svn, level.tdx


def _level(raw: _LevelJson) -> PlatformLevel:
    unix_time(raw.date)
    return PlatformLevel(
        sgx=bytes(c.svn for c in raw.tcb.sgx),
        pce_svn=raw.tcb.pce_svn,
        tdx=bytes(c.svn for c in raw.tcb.tdx or ()),
        status=TcbStatus(raw.status),
        date=raw.date,
        advisory_ids=frozenset(raw.advisory_ids),
    )


def _module(raw: _ModuleJson, levels: tuple[IsvLevelJson, ...]) -> TdxModuleIdentity:
    require_masked("TDX module attributes", raw.attributes, raw.attributes_mask)
    if any(x.tcb.isvsvn > _MAX_MODULE_SVN for x in levels):
        message = f"TDX module isvsvn above {_MAX_MODULE_SVN}, which no TD reports"
        raise ValueError(message)
    return TdxModuleIdentity(
        mrsigner=bytes.fromhex(raw.mrsigner),
        attributes=bytes.fromhex(raw.attributes),
        attributes_mask=bytes.fromhex(raw.attributes_mask),
        levels=isv_levels(levels),
    )
