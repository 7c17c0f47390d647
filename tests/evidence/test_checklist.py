# SPDX-License-Identifier: Apache-2.0
"""Every defect and control, through every entrance, with the exact answer by name."""

from dataclasses import replace

import pytest
from checklist_support import (
    ACCEPTED,
    ALL,
    CASES,
    ENTRANCES,
    NONE,
    NOW,
    Exceptions,
    ask,
    expected_code,
    judge,
    wrongs,
)

from tightseal.errors import Code, TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.intel.verifier import verify_quote
from tightseal.evidence.roots import VENDOR_ROOTS
from tightseal.model.claims import Claims, Vendor
from tightseal.model.roots import TrustedRoot
from tightseal.model.verifiers import VerifierException
from tightseal_sim.defects import Case, intel_cases
from tightseal_sim.world import World


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("exceptions", [NONE, ALL], ids=["plain", "excepted"])
def test_every_case_with_a_cold_cache(entrance: str, exceptions: Exceptions) -> None:
    assert wrongs(entrance, CASES, None, exceptions) == {}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("entries", [1, 8, 4096])
def test_every_case_with_a_warm_cache(entrance: str, entries: int) -> None:
    cache = ResultCache(entries)
    assert wrongs(entrance, CASES, cache, NONE) == {}
    assert wrongs(entrance, CASES[::-1], cache, NONE) == {}


def test_one_cache_serves_every_entrance() -> None:
    cache = ResultCache(4096)
    for case in CASES:
        for exceptions in (NONE, ALL):
            for entrance in ENTRANCES:
                wrong = judge(entrance, case, cache, exceptions)
                assert wrong == "", (case.name, entrance)


@pytest.mark.parametrize("other", list(VerifierException))
def test_an_exception_excuses_its_own_rule_alone(other: VerifierException) -> None:
    for case in CASES:
        expected = expected_code("both", case, frozenset({other}))
        answer, _ = ask("both", case, ResultCache(64), frozenset({other}))
        got = None if isinstance(answer, Claims) else answer.code
        assert got is expected, case.name


def test_the_cases_are_those_of_the_checklist() -> None:
    assert len(CASES) >= 150
    assert len(ACCEPTED) >= 25
    codes = {c.native for c in CASES}
    assert len(codes) >= 45
    conflicts = [c for c in CASES if (c.native is None) != (c.qvl is None)]
    assert len(conflicts) >= 15


@pytest.fixture(scope="module")
def foreign() -> World:
    return World.in_memory(b"\x5a" * 32)


def codes_under(
    cases: list[Case], roots: tuple[TrustedRoot, ...], *, warm: bool
) -> dict[str, object]:
    """The codes of all three entrances, where they are not ``root_not_trusted``."""
    found: dict[str, object] = {}
    cache = ResultCache(4096)
    for case in cases:
        for entrance in ENTRANCES:
            if warm:
                ask(entrance, case, cache, ALL)
            for root in roots:
                answer, _ = ask(entrance, replace(case, root=root), cache, ALL)
                if getattr(answer, "code", None) is not Code.ROOT_NOT_TRUSTED:
                    found[f"{case.name} {entrance}"] = answer
    return found


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_simulated_evidence_is_nothing_under_another_root(
    foreign: World, *, warm: bool
) -> None:
    roots = (*VENDOR_ROOTS.intel, foreign.intel.trusted_root)
    assert codes_under(ACCEPTED, roots, warm=warm) == {}


def test_foreign_collateral_does_not_serve(foreign: World) -> None:
    twins = {c.name: c for c in intel_cases(NOW, world=foreign)}
    both = (CASES[0].root, foreign.intel.trusted_root)
    for case in ACCEPTED:
        if case.collateral.pck_certificate_chain is not None:
            continue
        for roots in ((case.root,), both):
            with pytest.raises(TightsealError) as refused:
                verify_quote(
                    case.evidence,
                    twins[case.name].collateral,
                    now=NOW,
                    roots=roots,
                    exceptions=ALL,
                )
            assert refused.value.code is Code.CRL_ISSUER_MISMATCH, case.name


def test_parts_of_foreign_collateral_do_not_serve(foreign: World) -> None:
    theirs = intel_cases(NOW, world=foreign)[0].collateral
    case = CASES[0]
    own = case.collateral
    mixed = {
        "root_crl": replace(own, root_ca_crl=theirs.root_ca_crl),
        "pck_crl": replace(own, pck_crl=theirs.pck_crl),
        "tcb_info": replace(
            own,
            tcb_info_issuer_chain=theirs.tcb_info_issuer_chain,
            tcb_info=theirs.tcb_info,
            tcb_info_signature=theirs.tcb_info_signature,
        ),
        "qe_identity": replace(
            own,
            qe_identity_issuer_chain=theirs.qe_identity_issuer_chain,
            qe_identity=theirs.qe_identity,
            qe_identity_signature=theirs.qe_identity_signature,
        ),
        "tcb_info_signature": replace(
            own, tcb_info_signature=theirs.tcb_info_signature
        ),
    }
    expected = {
        "root_crl": Code.CRL_ISSUER_MISMATCH,
        "pck_crl": Code.CRL_ISSUER_MISMATCH,
        "tcb_info": Code.ROOT_NOT_TRUSTED,
        "qe_identity": Code.ROOT_NOT_TRUSTED,
        "tcb_info_signature": Code.TCB_INFO_SIGNATURE_INVALID,
    }
    cache = ResultCache(64)
    roots = (case.root, foreign.intel.trusted_root)
    for name, collateral in mixed.items():
        with pytest.raises(TightsealError) as refused:
            verify_quote(case.evidence, collateral, now=NOW, roots=roots, cache=cache)
        assert refused.value.code is expected[name], name


def test_each_world_is_its_own_trust_domain(foreign: World) -> None:
    roots = (*VENDOR_ROOTS.intel, CASES[0].root, foreign.intel.trusted_root)
    cache = ResultCache(4096)
    domains = set()
    for case in (CASES[0], intel_cases(NOW, world=foreign)[0]):
        for order in (roots, roots[::-1]):
            claims = verify_quote(
                case.evidence, case.collateral, now=NOW, roots=order, cache=cache
            )
            assert claims.trust_domain == case.root.trust_domain
            assert claims.trust_domain.vendor is Vendor.SIMULATED
            domains.add(str(claims.trust_domain))
    assert len(domains) == 2
