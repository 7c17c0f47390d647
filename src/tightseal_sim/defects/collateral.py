# SPDX-License-Identifier: Apache-2.0
"""Spoiled TCB info and QE identities: time, signature, role, type, content."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from tightseal.errors import Code
from tightseal.model.claims import Tee
from tightseal.model.collateral import IntelCollateral
from tightseal_sim.defects.bench import (
    Bench,
    edit_identity,
    edit_tcb,
    flip,
    resign_identity,
    resign_tcb,
)
from tightseal_sim.defects.case import ACCEPTED, Case, Expect
from tightseal_sim.intel.collateral import compact
from tightseal_sim.intel.pki import (
    TCB_SIGNING_NAME,
    CertificateRequest,
    issue,
    pem_chain,
)
from tightseal_sim.intel.tcb import iso_time

__all__ = ["roles", "rollback", "signatures", "types", "windows"]

_TCB_SIGNATURE: Final = "Signature is invalid for tcb_info in quote_collateral"
_QE_SIGNATURE: Final = "Signature is invalid for qe_identity in quote_collateral"
_HOUR: Final = 3600
_DAY: Final = 86400

Change = Callable[[IntelCollateral], IntelCollateral]


def windows(bench: Bench) -> Iterator[Case]:
    """TCB info and QE identity outside their validity, everything else inside."""
    past = {
        "issueDate": iso_time(bench.now - 60 * _DAY),
        "nextUpdate": iso_time(bench.now - _HOUR),
    }
    future = {
        "issueDate": iso_time(bench.now + _HOUR),
        "nextUpdate": iso_time(bench.now + 30 * _DAY),
    }
    whole = bench.collateral()
    for number, name, title, parts, code, message in (
        (29, "tcb_info_expired", "TCB info expired",
         edit_tcb(whole, lambda j: j.update(past)),
         Code.TCB_INFO_EXPIRED, "TCBInfo expired"),
        (30, "tcb_info_from_the_future", "now before the TCB info's issue date",
         edit_tcb(whole, lambda j: j.update(future)),
         Code.TCB_INFO_NOT_YET_VALID, "TCBInfo issue date is in the future"),
        (63, "qe_identity_expired", "QE identity expired",
         edit_identity(whole, lambda j: j.update(past)),
         Code.QE_IDENTITY_EXPIRED, "QE Identity expired"),
        (94, "qe_identity_from_the_future", "QE identity issued in the future",
         edit_identity(whole, lambda j: j.update(future)),
         Code.QE_IDENTITY_NOT_YET_VALID, "QE Identity issue date is in the future"),
    ):  # fmt: skip
        expect = Expect.refuse(code, message)
        yield bench.case(name, title, expect, number=number, collateral=parts)


_SIGNATURES: Final[tuple[tuple[int | None, str, str, Change, Code, str], ...]] = (
    (31, "tcb_info_signature_flipped", "TCB info signature flipped",
     lambda c: replace(c, tcb_info_signature=flip(c.tcb_info_signature, 40)),
     Code.TCB_INFO_SIGNATURE_INVALID, _TCB_SIGNATURE),
    (32, "tcb_info_edited", "TCB info edited, not signed again",
     lambda c: replace(c, tcb_info=_raise_evaluation(c.tcb_info)),
     Code.TCB_INFO_SIGNATURE_INVALID, _TCB_SIGNATURE),
    (33, "tcb_info_whitespace", "whitespace added to TCB info",
     lambda c: replace(c, tcb_info=c.tcb_info.replace(":", ": ", 1)),
     Code.TCB_INFO_SIGNATURE_INVALID, _TCB_SIGNATURE),
    (93, "qe_identity_signature_flipped", "QE identity signature flipped",
     lambda c: replace(c, qe_identity_signature=flip(c.qe_identity_signature, 40)),
     Code.QE_IDENTITY_SIGNATURE_INVALID, _QE_SIGNATURE),
    (93, "qe_identity_edited", "QE identity edited, not signed again",
     lambda c: replace(c, qe_identity=_raise_evaluation(c.qe_identity)),
     Code.QE_IDENTITY_SIGNATURE_INVALID, _QE_SIGNATURE),
    (None, "qe_identity_whitespace", "whitespace added to the QE identity",
     lambda c: replace(c, qe_identity=c.qe_identity.replace(":", ": ", 1)),
     Code.QE_IDENTITY_SIGNATURE_INVALID, _QE_SIGNATURE),
)  # fmt: skip


def _raise_evaluation(text: str) -> str:
    value = json.loads(text)
    value["tcbEvaluationDataNumber"] += 1
    return compact(value)


def signatures(bench: Bench) -> Iterator[Case]:
    """Texts that are not what was signed."""
    whole = bench.collateral().assemble()
    for number, name, title, change, code, message in _SIGNATURES:
        expect = Expect.refuse(code, message)
        yield bench.case(name, title, expect, number=number, collateral=change(whole))


def roles(bench: Bench) -> Iterator[Case]:
    """Signed under the right root by someone who may not sign this."""
    intel, whole = bench.intel, bench.collateral()
    lax = Expect.refuse(Code.CERTIFICATE_ROLE_MISMATCH, None)
    ca = intel.pck_cas["platform"]
    by_ca = Expect.refuse(
        Code.CERTIFICATE_ROLE_MISMATCH,
        "Failed to verify certificate chain",
        "CaUsedAsEndEntity",
    )
    stray = CertificateRequest(
        "Intel SGX Something Else",
        intel.seed.p256("key", "defects/stray"),
        intel.seed.serial("serial", "defects/stray"),
    )
    foreign = issue(intel.root, stray)
    below = issue(ca, replace(stray, common_name=TCB_SIGNING_NAME))
    own, other = bench.platform, bench.other_platform
    for number, name, title, resign, by, chain, expect in (
        (34, "tcb_info_signed_by_pck", "TCB info signed by this platform's PCK key",
         resign_tcb, own.pck, own.pck_chain, lax),
        (34, "tcb_info_signed_by_other_pck", "TCB info signed by another's PCK key",
         resign_tcb, other.pck, other.pck_chain, lax),
        (35, "qe_identity_signed_by_pck", "QE identity signed by a PCK key",
         resign_identity, own.pck, own.pck_chain, lax),
        (36, "tcb_info_signed_by_ca", "TCB info signed by the intermediate CA",
         resign_tcb, ca, pem_chain((ca, intel.root)), by_ca),
        (89, "tcb_info_signed_by_foreign_name",
         "TCB info signed by a root-issued leaf with a foreign name",
         resign_tcb, foreign, pem_chain((foreign, intel.root)), lax),
        (None, "qe_identity_signed_by_foreign_name",
         "QE identity signed by a root-issued leaf with a foreign name",
         resign_identity, foreign, pem_chain((foreign, intel.root)), lax),
        (None, "tcb_signing_below_pck_ca",
         "TCB info signed by a leaf of the PCK CA with the right name",
         resign_tcb, below, pem_chain((below, ca, intel.root)),
         Expect.refuse(Code.CERTIFICATE_CHAIN_INVALID, None)),
    ):  # fmt: skip
        spoiled = resign(whole, by, chain)
        yield bench.case(name, title, expect, number=number, collateral=spoiled)


_UNSUPPORTED_QE: Final = "Unsupported QE Identity id/version"

_TypeRow = tuple[int | None, str, str, dict[str, Any], Code, str | None]
_TYPES: Final[tuple[_TypeRow, ...]] = (
    (39, "fmspc_mismatch", "FMSPC of another family", {"fmspc": "20906EC10000"},
     Code.FMSPC_MISMATCH, "Fmspc mismatch"),
    (40, "pceid_mismatch", "pceId of another PCE", {"pceId": "0001"},
     Code.PCEID_MISMATCH, None),
    (41, "tcb_info_version_1", "TCB info version 1", {"version": 1},
     Code.TCB_INFO_TYPE_MISMATCH, "TDX quote with non-TDX TCB info in the collateral"),
)  # fmt: skip


def types(bench: Bench) -> Iterator[Case]:
    """Genuine texts about something else."""
    whole = bench.collateral()
    for number, name, title, change, code, message in _TYPES:

        def edit(info: dict[str, Any], change: dict[str, Any] = change) -> None:
            info.update(change)

        expect = Expect.refuse(code, message)
        spoiled = edit_tcb(whole, edit)
        yield bench.case(name, title, expect, number=number, collateral=spoiled)
    sgx = bench.collateral(Tee.SGX)
    for number, name, title, tee, parts, code, message in (
        (37, "sgx_tcb_info_for_tdx", "SGX TCB info for a TDX quote", Tee.TDX,
         replace(whole, tcb_info=sgx.tcb_info), Code.TCB_INFO_TYPE_MISMATCH,
         "TDX quote with non-TDX TCB info in the collateral"),
        (38, "sgx_qe_identity_for_tdx", "SGX QE identity for a TDX quote", Tee.TDX,
         replace(whole, qe_identity=sgx.qe_identity), Code.QE_IDENTITY_TYPE_MISMATCH,
         _UNSUPPORTED_QE),
        (61, "qe_identity_version", "QE identity of an unknown version", Tee.TDX,
         edit_identity(whole, lambda j: j.update(version=9)),
         Code.QE_IDENTITY_TYPE_MISMATCH, _UNSUPPORTED_QE),
        (85, "tdx_collateral_for_sgx", "SGX quote with TDX collateral", Tee.SGX,
         whole, Code.TCB_INFO_TYPE_MISMATCH, _UNSUPPORTED_QE),
        (None, "tdx_tcb_info_for_sgx", "TDX TCB info for an SGX quote", Tee.SGX,
         replace(sgx, tcb_info=whole.tcb_info), Code.TCB_INFO_TYPE_MISMATCH,
         "SGX quote with non-SGX TCB info in the collateral"),
    ):  # fmt: skip
        expect = Expect.refuse(code, message)
        yield bench.case(name, title, expect, number=number, tee=tee, collateral=parts)


def rollback(bench: Bench) -> Iterator[Case]:
    """Collateral that is still valid, after newer was seen."""
    twin = Bench(bench.world, bench.now)
    older = twin.intel.collateral_parts(
        fmspc=twin.platform.fmspc,
        ca="platform",
        tee=Tee.TDX,
        now=bench.now - 5 * _DAY,
    ).assemble()
    twin.intel.publish_recovery()
    newer = twin.collateral().assemble()
    yield twin.case(
        "collateral_rollback",
        "older, still valid collateral after newer was seen",
        Expect.refuse(Code.COLLATERAL_ROLLBACK, None),
        number=96,
        collateral=older,
        seen_before=newer,
    )
    yield bench.case(
        "pck_crl_issuer_chain_empty",
        "pck_crl_issuer_chain empty",
        ACCEPTED,
        number=71,
        collateral=replace(bench.collateral(), pck_crl_chain=""),
    )
