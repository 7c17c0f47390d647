# SPDX-License-Identifier: Apache-2.0
"""Every defect of the negative checklist is refused by its name, cold and warm."""

import pytest
from intel_support import NOW

from tightseal.collateral.guard import MemoryGuard
from tightseal.errors import Code, TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.intel.verifier import verify_quote
from tightseal.evidence.roots import VENDOR_ROOTS
from tightseal.model.claims import Claims
from tightseal_sim.defects import Case, intel_cases

CASES = intel_cases(NOW)


def answer(case: Case, cache: ResultCache | None = None) -> Code | Claims:
    guard = MemoryGuard(floors=())
    collaterals = [case.collateral]
    if case.seen_before is not None:
        collaterals.insert(0, case.seen_before)
    try:
        for collateral in collaterals:
            claims = verify_quote(
                case.evidence,
                collateral,
                now=case.now,
                roots=(case.root,),
                guard=guard,
                cache=cache,
            )
    except TightsealError as error:
        return error.code
    return claims


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_native_answers_as_the_checklist_says(case: Case) -> None:
    cache = ResultCache(64)
    for got in (answer(case), answer(case, cache), answer(case, cache)):
        if case.native is not None:
            assert got is case.native
            continue
        assert isinstance(got, Claims)
        assert got.tcb is not None
        assert got.tcb.status is case.expect.status
        assert got.tcb.advisory_ids == case.expect.advisories


def test_one_warm_cache_for_all_cases_changes_no_answer() -> None:
    cache = ResultCache(4096)
    for _ in range(2):
        for case in CASES:
            got = answer(case, cache)
            if case.native is None:
                assert isinstance(got, Claims), case.name
            else:
                assert got is case.native, case.name


def test_no_simulated_case_is_accepted_under_intels_root() -> None:
    for case in CASES:
        with pytest.raises(TightsealError):
            verify_quote(
                case.evidence, case.collateral, now=case.now, roots=VENDOR_ROOTS.intel
            )


def test_the_named_exceptions_accept_what_they_name() -> None:
    used = 0
    for case in CASES:
        if case.exception is None or case.native is None:
            continue
        claims = verify_quote(
            case.evidence,
            case.collateral,
            now=case.now,
            roots=(case.root,),
            exceptions=frozenset({case.exception}),
        )
        assert claims.tcb is not None
        assert claims.tcb.status is case.expect.status
        used += 1
    assert used
