# SPDX-License-Identifier: Apache-2.0
"""The table of defects against dcap-qvl: its answers are as the table says."""

import json
import re
from dataclasses import replace

import dcap_qvl
import pytest

from tightseal.errors import Code
from tightseal.model.claims import TcbStatus, Tee, Vendor
from tightseal_sim.defects import CHECKLIST_ROWS, Case, intel_cases
from tightseal_sim.intel.collateral import collateral_json
from tightseal_sim.world import World

NOW = 1_790_000_000
CASES = intel_cases(NOW)
PREFIX = "Verification failed: "


def answer(case: Case, *, with_chain: bool) -> str | tuple[str, frozenset[str]]:
    collateral = case.collateral
    if not with_chain:
        collateral = replace(collateral, pck_certificate_chain=None)
    given = dcap_qvl.QuoteCollateralV3.from_json(collateral_json(collateral))
    try:
        if case.root.trust_domain.vendor is Vendor.INTEL:
            report = dcap_qvl.verify(case.evidence, given, case.now)
        else:
            assert case.root.certificate is not None
            report = dcap_qvl.verify_with_root_ca(
                case.evidence, given, case.root.certificate, case.now
            )
    except ValueError as error:
        return " ".join(str(error).removeprefix(PREFIX).split())
    return report.status, frozenset(report.advisory_ids)


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_dcap_qvl_answers_as_the_table_says(case: Case) -> None:
    got = answer(case, with_chain=False)
    if case.qvl is None:
        assert isinstance(got, tuple), got
        if case.native is None:
            assert got == (case.status.value, case.expect.advisories)
        return
    assert isinstance(got, str), got
    assert got.startswith(case.qvl)
    assert case.expect.qvl_cause in got


WITH_CHAIN = [c for c in CASES if c.collateral.pck_certificate_chain is not None]


@pytest.mark.parametrize("case", WITH_CHAIN, ids=[c.name for c in WITH_CHAIN])
def test_dcap_qvl_given_the_chain_too(case: Case) -> None:
    got = answer(case, with_chain=True)
    if case.expect.qvl_given_chain is None:
        assert isinstance(got, tuple), got
    else:
        assert isinstance(got, str)
        assert got.startswith(case.expect.qvl_given_chain)


def test_every_row_of_the_checklist_has_a_case() -> None:
    assert {c.number for c in CASES} - {None} == set(range(1, CHECKLIST_ROWS + 1))


def test_names_are_unique_and_in_snake_case() -> None:
    names = [c.name for c in CASES]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def test_every_status_but_revoked_has_a_control() -> None:
    accepted = {(c.tee, c.status) for c in CASES if c.both is None}
    relaunch = {s for s in TcbStatus if s.value.startswith("TDRelaunch")}
    for status in set(TcbStatus) - {TcbStatus.REVOKED}:
        assert (Tee.TDX, status) in accepted
        assert ((Tee.SGX, status) in accepted) == (status not in relaunch)


def test_answers_of_the_table_are_consistent() -> None:
    for case in CASES:
        if case.native is not None:
            detected = (Code.QUOTE_TRUNCATED, Code.EVIDENCE_UNREADABLE)
            same = case.both is case.native or (case.native, case.both) == detected
            assert same, case.name
        elif case.both is not None:
            assert case.exception is not None, case.name
            assert case.qvl is not None, case.name


def test_cases_leave_the_world_as_it_is() -> None:
    world = World.in_memory(b"\x07" * 32)
    before = world.intel.state
    cases = intel_cases(NOW, world=world)
    assert world.intel.state == before
    assert {c.root.certificate for c in cases} == {world.intel.root_certificate, None}
    assert [c.name for c in cases] == [c.name for c in CASES]


def test_cases_are_the_same_every_time() -> None:
    assert intel_cases(NOW) == CASES


@pytest.mark.parametrize("now", [1_610_000_000, 1_709_164_800, 2_480_000_000])
def test_the_table_holds_at_other_times(now: int) -> None:
    for case in intel_cases(now):
        got = answer(case, with_chain=False)
        if case.qvl is None:
            assert isinstance(got, tuple), (case.name, got)
        else:
            assert isinstance(got, str), case.name
            assert got.startswith(case.qvl), (case.name, got)


def test_rollback_goes_back_and_is_still_valid() -> None:
    (case,) = [c for c in CASES if c.seen_before is not None]
    assert case.seen_before is not None
    old, new = (json.loads(c.tcb_info) for c in (case.collateral, case.seen_before))
    assert old["issueDate"] < new["issueDate"]
    assert old["tcbEvaluationDataNumber"] < new["tcbEvaluationDataNumber"]
    assert isinstance(answer(case, with_chain=False), tuple)
