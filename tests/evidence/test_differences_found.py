# SPDX-License-Identifier: Apache-2.0
"""Differences between the two verifiers that fuzzing found, each as one case."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tightseal.errors import Code, TightsealError
from tightseal.evidence.differences import difference_by_error, difference_of
from tightseal.evidence.intel.verifier import verify_quote
from tightseal.evidence.qvl import QvlOpinion, QvlRefusal, judge
from tightseal.model.claims import Claims, Tee
from tightseal_sim.defects.bench import Bench, edit_identity, edit_tcb
from tightseal_sim.intel.collateral import CollateralParts
from tightseal_sim.intel.pki import PckFields, PlatformTcb, issue
from tightseal_sim.intel.quote import QuoteParts, assemble
from tightseal_sim.world import World

BENCH = Bench(World.in_memory(b"\x31" * 32), 1_790_000_000)
WHOLE = BENCH.collateral()
LAST_SECOND = WHOLE.pck_crl.next_update or 0

Change = Callable[[dict[str, Any]], object]


def module(**changes: object) -> Change:
    return lambda info: info["tdxModuleIdentities"][0].update(changes)


def twin(info: dict[str, Any]) -> None:
    identity = info["tdxModuleIdentities"][0]
    info["tdxModuleIdentities"] = [identity | {"id": "tdx_01"}]


def level(**changes: object) -> Change:
    return lambda info: info["tcbLevels"][0].update(changes)


def high_module_level(info: dict[str, Any]) -> None:
    info["tdxModuleIdentities"][0]["tcbLevels"][0]["tcb"]["isvsvn"] = 256


def pce_svn(value: int) -> QuoteParts:
    fields = BENCH.platform.pck_fields
    tcb = PlatformTcb(fields.tcb.components, value)
    request = BENCH.intel.pck_request("found", replace(fields, tcb=tcb))
    leaf = issue(BENCH.intel.pck_cas["platform"], request)
    chain = BENCH.intel.pck_chain(leaf, "platform")
    return replace(BENCH.td_parts(), qe_signer=leaf.key, chain=chain)


def numbered(number: int) -> CollateralParts:
    return replace(WHOLE, root_crl=replace(WHOLE.root_crl, number=number))


def late(text: str) -> CollateralParts:
    return edit_tcb(WHOLE, lambda info: info.update(issueDate=text))


@dataclass(frozen=True)
class Row:
    """Native's code, dcap-qvl's message, and the rule where they differ."""

    name: str
    native: Code | None
    qvl: str | None
    rule: str | None = None
    collateral: CollateralParts = WHOLE
    evidence: QuoteParts | None = None
    now: int = BENCH.now


ROWS = [
    Row("crl_before_its_last_second", None, None, now=LAST_SECOND - 1),
    Row("crl_at_its_last_second", Code.CRL_EXPIRED, "CrlExpired", now=LAST_SECOND),
    Row("crl_number_of_32_bits", None, None, collateral=numbered((1 << 32) - 1)),
    Row(
        "crl_number_of_20_octets",
        None,
        "Failed to parse root CA CRL for claims",
        "root_crl_number",
        numbered((1 << 159) - 1),
    ),
    Row(
        "crl_number_of_21_octets",
        Code.CRL_MALFORMED,
        "Failed to parse root CA CRL",
        collateral=numbered(1 << 159),
    ),
    Row(
        "issued_before_1970",
        Code.TCB_INFO_MALFORMED,
        "Failed to parse TCB Info issue date",
        collateral=late("1969-12-31T23:59:59Z"),
    ),
    Row("issued_in_1970", None, None, collateral=late("1970-01-01T00:00:00Z")),
    Row(
        "level_of_no_such_day",
        Code.TCB_INFO_MALFORMED,
        "Invalid TCB level tcbDate",
        collateral=edit_tcb(WHOLE, level(tcbDate="2024-02-30T00:00:00Z")),
    ),
    Row(
        "qe_attributes_outside_the_mask",
        Code.QE_IDENTITY_MALFORMED,
        None,
        "signed_json",
        edit_identity(WHOLE, lambda j: j.update(attributesMask="10" + "00" * 15)),
    ),
    Row(
        "module_identity_in_small_letters",
        Code.TCB_INFO_MALFORMED,
        None,
        "signed_json",
        edit_tcb(WHOLE, twin),
    ),
    Row(
        "module_attributes_outside_the_mask",
        Code.TCB_INFO_MALFORMED,
        None,
        "signed_json",
        edit_tcb(WHOLE, module(attributes="01" + "00" * 7, attributesMask="00" * 8)),
    ),
    Row(
        "module_level_that_no_td_reports",
        Code.TCB_INFO_MALFORMED,
        "Failed to decode TcbInfo",
        collateral=edit_tcb(WHOLE, high_module_level),
    ),
    Row(
        "no_module_identities",
        Code.TDX_MODULE_MISMATCH,
        "TDX module TCB level check",
        collateral=edit_tcb(WHOLE, lambda info: info.update(tdxModuleIdentities=[])),
    ),
    Row("pce_svn_of_two_bytes", None, None, evidence=pce_svn(0x7FFF)),
    Row(
        "pce_svn_of_three_bytes",
        None,
        "PceSvn length mismatch",
        "pce_svn",
        evidence=pce_svn(0x8000),
    ),
]


def native(row: Row) -> Claims | TightsealError:
    try:
        return verify_quote(
            assemble(row.evidence or BENCH.parts(Tee.TDX)),
            row.collateral.assemble(),
            now=row.now,
            roots=(BENCH.intel.trusted_root,),
        )
    except TightsealError as error:
        return error


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_both_answers(row: Row) -> None:
    ours = native(row)
    theirs = judge(
        assemble(row.evidence or BENCH.parts(Tee.TDX)),
        row.collateral.assemble(),
        now=row.now,
        root=BENCH.intel.trusted_root,
    )
    rule = None
    if isinstance(ours, TightsealError):
        assert ours.code is row.native
        rule = difference_of(ours) if isinstance(theirs, QvlOpinion) else None
    else:
        assert row.native is None
    if isinstance(theirs, QvlRefusal):
        assert row.qvl is not None
        assert theirs.message.startswith(row.qvl)
        if isinstance(ours, Claims):
            rule = difference_by_error(theirs.message)
    else:
        assert row.qvl is None
    assert (None if rule is None else rule.rule) == row.rule


class TwoTcbs(PckFields):
    """An SGX extension whose CPUSVN is not its sixteen components."""

    def extension(self) -> bytes:
        components = bytes(self.tcb.components)
        other = bytes([components[0] + 1]) + components[1:]
        return (
            super().extension().replace(b"\x04\x10" + components, b"\x04\x10" + other)
        )


def test_a_certificate_that_names_two_tcbs_is_refused() -> None:
    fields = BENCH.platform.pck_fields
    both = TwoTcbs(**{n: getattr(fields, n) for n in PckFields.__dataclass_fields__})
    leaf = issue(
        BENCH.intel.pck_cas["platform"], BENCH.intel.pck_request("two tcbs", both)
    )
    chain = BENCH.intel.pck_chain(leaf, "platform")
    parts = replace(BENCH.td_parts(), qe_signer=leaf.key, chain=chain)
    collateral, root = WHOLE.assemble(), BENCH.intel.trusted_root
    with pytest.raises(TightsealError) as caught:
        verify_quote(assemble(parts), collateral, now=BENCH.now, roots=(root,))
    assert caught.value.code is Code.PCK_EXTENSION_INVALID
    assert "CPUSVN" in caught.value.detail
    assert difference_of(caught.value) is not None
