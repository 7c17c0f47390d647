# SPDX-License-Identifier: Apache-2.0
"""Claims from the JSON of ``tightseal verify --json``, for tests of policies.

Such a file is an operator's own statement: nothing in it is verified again, and no
release is ever decided by it. Four things that the file may leave out are read where
they are there: under ``tcb`` the platform options ``dynamic_platform``,
``cached_keys`` and ``smt_enabled``, and ``snp`` with AMD's component versions.
"""

from __future__ import annotations

from typing import Final

import msgspec

from tightseal.errors import Code, SettingsError
from tightseal.model.claims import (
    MEASUREMENT_NAMES,
    Claims,
    PlatformIdentity,
    SnpTcb,
    Tcb,
    TcbStatus,
    Tee,
    TrustDomain,
    Vendor,
)
from tightseal.model.settings import ALWAYS_BOUND

__all__ = ["MAX_CLAIMS_BYTES", "read_claims"]

MAX_CLAIMS_BYTES: Final = 1 << 20
"""Longest file of claims."""


class _Snp(msgspec.Struct, frozen=True):
    bootloader: int = 0
    tee: int = 0
    snp: int = 0
    microcode: int = 0
    fmc: int | None = None


class _Tcb(msgspec.Struct, frozen=True):
    status: TcbStatus | None = None
    advisory_ids: list[str] | None = None
    evaluation_number: int | None = None
    date: str | None = None
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None
    smt_enabled: bool | None = None
    snp: _Snp | None = None


class _Platform(msgspec.Struct, frozen=True):
    ppid: str | None = None
    piid: str | None = None
    fmspc: str | None = None
    chip_id: str | None = None


class _File(msgspec.Struct, frozen=True):
    verdict: str
    tee: Tee | None
    trust_domain: str | None
    single_verifier: bool | None
    debug: bool | None
    tcb: _Tcb
    platform: _Platform
    measurements: dict[str, str | None]
    report_data: str | None


def read_claims(data: bytes, *, name: str) -> Claims:
    """Read the claims of an authentic verdict.

    Args:
        data: JSON as ``tightseal verify --json`` prints it.
        name: of the file, for errors.

    Raises:
        SettingsError: ``policy_invalid``, where it is no such JSON, or its verdict is
            not ``authentic``.
    """
    if len(data) > MAX_CLAIMS_BYTES:
        raise _refused(name, f"longer than {MAX_CLAIMS_BYTES} bytes")
    try:
        file = msgspec.json.decode(data, type=_File)
        if file.verdict != "authentic":
            raise _refused(name, f"the verdict is {file.verdict}, not authentic")
        return _claims(file, name)
    except (msgspec.MsgspecError, ValueError, RecursionError) as e:
        raise _refused(name, str(e)) from e


def _refused(name: str, message: str) -> SettingsError:
    return SettingsError(Code.POLICY_INVALID, f"{name}: {message}")


def _claims(file: _File, name: str) -> Claims:
    if file.tee is None or file.trust_domain is None:
        raise _refused(name, "has no tee or no trust_domain")
    known = MEASUREMENT_NAMES[file.tee]
    for measurement in file.measurements:
        if measurement not in known:
            raise _refused(name, f"{measurement} is no measurement of {file.tee.value}")
    for measurement in ALWAYS_BOUND[file.tee]:
        if not file.measurements.get(measurement):
            raise _refused(name, f"has no {measurement}")
    ids = msgspec.structs.asdict(file.platform)
    return Claims(
        tee=file.tee,
        trust_domain=_trust_domain(file.trust_domain),
        measurements={
            measurement: bytes.fromhex(value)
            for measurement, value in file.measurements.items()
            if value is not None
        },
        report_data=bytes.fromhex(file.report_data or ""),
        debug=file.debug is not False,
        platform=PlatformIdentity(**{id_name: _id(ids[id_name]) for id_name in ids}),
        tcb=_tcb(file.tcb),
        snp_tcb=None
        if file.tcb.snp is None
        else SnpTcb(**msgspec.structs.asdict(file.tcb.snp)),
        single_verifier=file.single_verifier is not False,
    )


def _id(text: str | None) -> bytes | None:
    """An id; an all-zero one is none."""
    value = bytes.fromhex(text or "")
    return value if any(value) else None


def _trust_domain(text: str) -> TrustDomain:
    vendor, _, root = text.partition(":")
    return TrustDomain(Vendor(vendor), root)


def _tcb(tcb: _Tcb) -> Tcb | None:
    if tcb.status is None:
        return None
    return Tcb(
        status=tcb.status,
        advisory_ids=frozenset(tcb.advisory_ids or ()),
        evaluation_number=tcb.evaluation_number or 0,
        date=tcb.date or "",
        dynamic_platform=tcb.dynamic_platform,
        cached_keys=tcb.cached_keys,
        smt_enabled=tcb.smt_enabled,
    )
