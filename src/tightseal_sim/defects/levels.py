# SPDX-License-Identifier: Apache-2.0
"""TCB levels, the TDX module and the QE identity's content."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from tightseal.errors import Code
from tightseal.model.claims import TcbStatus, Tee
from tightseal_sim.defects.bench import Bench, edit_identity, edit_tcb
from tightseal_sim.defects.case import Case, Expect
from tightseal_sim.intel.collateral import SignedJson
from tightseal_sim.intel.pki import COMPONENTS
from tightseal_sim.intel.tcb import TcbLevel

__all__ = ["levels", "malformed", "modules", "qe_content"]

_NO_LEVEL: Final = "No matching TCB level found"
_REVOKED: Final = "TCB status is invalid: Revoked"
_DECODE: Final = "Failed to decode TcbInfo"
_MODULE_IDENTITY: Final = "TDX module identity check"
_MODULE_LEVEL: Final = "TDX module TCB level check"

Change = Callable[[dict[str, Any]], object]


def levels(bench: Bench) -> Iterator[Case]:
    """Platforms below every level, and revoked ones."""
    whole, tcb = bench.collateral(), bench.platform.tcb
    high = replace(tcb, components=(200, *tcb.components[1:]))
    tdx = (0, 0, 99) + (0,) * (COMPONENTS - 3)
    unknown = Expect.refuse(Code.TCB_LEVEL_UNKNOWN, _NO_LEVEL)
    revoked = Expect.refuse(Code.TCB_REVOKED, _REVOKED)
    for number, name, title, level, expect in (
        (42, "cpusvn_below_all_levels", "CPUSVN below all levels",
         TcbLevel(high), unknown),
        (43, "pcesvn_below_all_levels", "PCESVN below all levels",
         TcbLevel(replace(tcb, pcesvn=tcb.pcesvn + 1)), unknown),
        (44, "tee_tcb_svn_below_all_levels", "tee_tcb_svn below all levels",
         TcbLevel(tcb, tdx), unknown),
        (51, "platform_revoked", "platform Revoked",
         TcbLevel(tcb, status=TcbStatus.REVOKED), revoked),
    ):  # fmt: skip
        spoiled = bench.levels(whole, Tee.TDX, level)
        yield bench.case(name, title, expect, number=number, collateral=spoiled)
    yield bench.case(
        "tcb_levels_empty",
        "empty tcbLevels",
        unknown,
        number=45,
        collateral=bench.levels(whole, Tee.TDX),
    )
    sgx = TcbLevel(tcb, status=TcbStatus.REVOKED)
    yield bench.case(
        "platform_revoked_sgx",
        "platform Revoked (SGX)",
        revoked,
        tee=Tee.SGX,
        collateral=bench.levels(bench.collateral(Tee.SGX), Tee.SGX, sgx),
    )


def malformed(bench: Bench) -> Iterator[Case]:
    """TCB info that is not of its form, signed nevertheless."""
    whole = bench.collateral()

    def fifteen(info: dict[str, Any]) -> None:
        info["tcbLevels"][0]["tcb"]["sgxtcbcomponents"].pop()

    def word(info: dict[str, Any]) -> None:
        info["tcbLevels"][0]["tcbStatus"] = "Fine"

    status = '"tcbStatus":"UpToDate"'
    text = whole.tcb_info.text.replace(status, f"{status},{status}", 1)
    twice = SignedJson(text, whole.tcb_info.signer, whole.tcb_info.chain)
    for number, name, title, spoiled, message, cause in (
        (46, "tcb_components_missing", "15 components instead of 16",
         edit_tcb(whole, fifteen), "SGX component count mismatch", ""),
        (56, "tcb_status_unknown", "unknown tcbStatus",
         edit_tcb(whole, word), _DECODE, "unknown variant"),
        (86, "tcb_info_duplicate_key", "TCB info with duplicate key tcbStatus",
         replace(whole, tcb_info=twice), _DECODE, "duplicate field"),
        (None, "tcb_info_not_json", "TCB info that is not JSON",
         replace(whole, tcb_info=replace(whole.tcb_info, text="{")), _DECODE, ""),
    ):  # fmt: skip
        expect = Expect.refuse(Code.TCB_INFO_MALFORMED, message, cause)
        yield bench.case(name, title, expect, number=number, collateral=spoiled)


def modules(bench: Bench) -> Iterator[Case]:
    """The TDX module against its identity."""
    whole = bench.collateral()

    def module(change: Change) -> Change:
        return lambda info: change(info["tdxModuleIdentities"][0])

    def level(value: dict[str, Any]) -> Change:
        return module(lambda identity: identity["tcbLevels"][0].update(value))

    def only_level(svn: int) -> Change:
        def change(identity: dict[str, Any]) -> None:
            kept = identity["tcbLevels"][0]
            identity["tcbLevels"] = [kept | {"tcb": {"isvsvn": svn}}]

        return module(change)

    for number, name, title, change, code, message, cause in (
        (47, "tdx_module_missing", "tdxModule missing",
         lambda info: info.pop("tdxModule"),
         Code.TCB_INFO_MALFORMED, _MODULE_IDENTITY, "missing tdxModule"),
        (48, "tdx_module_mrsigner", "TDX module mrsigner mismatch",
         module(lambda identity: identity.update(mrsigner="01" * 48)),
         Code.TDX_MODULE_MISMATCH, _MODULE_IDENTITY, "MRSIGNER mismatch"),
        (49, "tdx_module_version_unknown", "no module identity for the version",
         module(lambda identity: identity.update(id="TDX_03")),
         Code.TDX_MODULE_MISMATCH, _MODULE_LEVEL, "No TDX module identity"),
        (50, "tdx_module_below_all_levels", "module isvsvn below all levels",
         only_level(99),
         Code.TDX_MODULE_TCB_UNKNOWN, _MODULE_LEVEL, "below minimum"),
        (None, "tdx_module_revoked", "TDX module Revoked",
         level({"tcbStatus": "Revoked"}), Code.TCB_REVOKED, _REVOKED, ""),
        (None, "tdx_module_attributes", "TDX module attributes mismatch",
         module(lambda identity: identity.update(attributes="01" + "00" * 7)),
         Code.TDX_MODULE_MISMATCH, _MODULE_IDENTITY, ""),
    ):  # fmt: skip
        yield bench.case(
            name,
            title,
            Expect.refuse(code, message, cause),
            number=number,
            collateral=edit_tcb(whole, change),
        )


def qe_content(bench: Bench) -> Iterator[Case]:
    """The quoting enclave against its identity."""
    whole = bench.collateral()
    mismatch, unknown = Code.QE_IDENTITY_MISMATCH, Code.QE_TCB_UNKNOWN

    def first(**value: object) -> Change:
        return lambda identity: identity["tcbLevels"][0].update(value)

    def only(svn: int) -> Change:
        def change(identity: dict[str, Any]) -> None:
            kept = identity["tcbLevels"][0]
            identity["tcbLevels"] = [kept | {"tcb": {"isvsvn": svn}}]

        return change

    for number, name, title, change, code, message in (
        (52, "qe_revoked", "QE Revoked", first(tcbStatus="Revoked"),
         Code.TCB_REVOKED, _REVOKED),
        (57, "qe_mrsigner", "QE mrsigner mismatch",
         lambda j: j.update(mrsigner="01" * 32), mismatch, "QE MRSIGNER mismatch"),
        (58, "qe_isvprodid", "QE isvprodid mismatch",
         lambda j: j.update(isvprodid=7), mismatch, "QE ISVPRODID mismatch"),
        (59, "qe_miscselect", "QE miscselect mismatch",
         lambda j: j.update(miscselect="01000000"), mismatch,
         "QE MISCSELECT mismatch"),
        (60, "qe_attributes", "QE attributes (masked) mismatch",
         lambda j: j.update(attributes="01" + "00" * 15), mismatch,
         "QE ATTRIBUTES mismatch at byte 0"),
        (62, "qe_below_all_levels", "QE isvsvn below all levels", only(99), unknown,
         "QE ISVSVN 8 is below minimum required 99"),
        (95, "qe_levels_empty", "QE identity with empty tcbLevels",
         lambda j: j.update(tcbLevels=[]), unknown,
         "No TCB levels found in QE Identity"),
        (None, "qe_identity_status_unknown", "QE identity with an unknown status",
         first(tcbStatus="Fine"), Code.QE_IDENTITY_MALFORMED,
         "Failed to decode QeIdentity"),
    ):  # fmt: skip
        yield bench.case(
            name,
            title,
            Expect.refuse(code, message),
            number=number,
            collateral=edit_identity(whole, change),
        )
