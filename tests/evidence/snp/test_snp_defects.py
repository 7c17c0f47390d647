# SPDX-License-Identifier: Apache-2.0
"""Every named defect is refused by its code; every good form is authentic."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.collateral.guard import MemoryGuard
from tightseal.errors import Code, CollateralError, EvidenceError, TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS
from tightseal.evidence.snp.query import embedded_certificates
from tightseal.evidence.snp.verifier import CHECKS, verify_report
from tightseal.model.claims import Check, Claims, Outcome
from tightseal.model.collateral import CollateralFacts, SnpCertificates
from tightseal_sim.amd import AmdWorld, GuestImage
from tightseal_sim.amd.bench import REPORT_DATA, Bench
from tightseal_sim.amd.defects import SnpCase, good_cases, snp_cases

NAMES = [name for name, _ in CHECKS]


@pytest.fixture(scope="module")
def cases(world: AmdWorld, attacker: AmdWorld) -> list[SnpCase]:
    return snp_cases(1_780_000_000, world=world, attacker=attacker)


def judge(case: SnpCase, cache: ResultCache | None = None) -> Code | None:
    try:
        verify_report(
            case.evidence,
            case.certificates,
            now=case.now,
            roots=case.roots,
            cache=cache,
        )
    except TightsealError as e:
        made = [c for c in e.checks if isinstance(c, Check)]
        assert [c.name for c in made] == NAMES[: len(made)]
        assert made[-1].outcome is Outcome.FAILED
        assert Outcome.FAILED not in {c.outcome for c in made[:-1]}
        return e.code
    return None


def test_every_defect_is_refused_by_its_code(cases: list[SnpCase]) -> None:
    wrong = {
        case.name: (case.expected, got)
        for case in cases
        if (got := judge(case)) is not case.expected
    }
    assert wrong == {}


def test_every_defect_is_refused_with_a_warm_cache(cases: list[SnpCase]) -> None:
    cache = ResultCache(64)
    for case in cases:
        assert judge(case, cache) is case.expected, case.name
    for case in reversed(cases):
        assert judge(case, cache) is case.expected, case.name


def test_names_are_distinct_and_codes_are_covered(cases: list[SnpCase]) -> None:
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    assert None not in {case.expected for case in cases}
    snp = {code for code in Code if code.startswith(("snp_", "hcl_", "certificate_"))}
    # The one is Intel's, the other the policy's.
    unreachable = {Code.CERTIFICATE_CHAIN_TOO_LONG, Code.SNP_MIGRATABLE}
    assert snp - unreachable <= {case.expected for case in cases}


def test_every_good_form_is_authentic(world: AmdWorld, now: int) -> None:
    for case in good_cases(now, world=world):
        assert judge(case) is None, case.name


def test_simulated_evidence_fails_under_vendor_roots(world: AmdWorld, now: int) -> None:
    for case in good_cases(now, world=world):
        vendor = replace(case, roots=VENDOR_ROOTS.amd)
        assert judge(vendor) is Code.ROOT_NOT_TRUSTED, case.name


def test_one_world_is_nothing_in_another(
    world: AmdWorld, attacker: AmdWorld, now: int
) -> None:
    bench = Bench(attacker, "Milan", now)
    both = (*VENDOR_ROOTS.amd, world.trusted_root("Milan"))
    assert judge(bench.case("foreign", None, roots=both)) is Code.ROOT_NOT_TRUSTED


def test_the_trust_domain_is_the_simulated_root(world: AmdWorld, now: int) -> None:
    for product in ("Milan", "Genoa", "Turin"):
        bench = Bench(world, product, now)
        claims = verify_report(
            bench.report, bench.certificates, now=now, roots=world.trusted_roots
        )
        root = world.trusted_root(product)
        assert claims.trust_domain == root.trust_domain
        assert str(claims.trust_domain).startswith("simulated:")
        assert claims.platform.chip_id == bench.chip.chip_id
        assert claims.snp_tcb == bench.chip.tcb


def test_a_vlek_names_no_chip(world: AmdWorld, now: int) -> None:
    chip = world.chip("hosted")
    chip.vlek = True
    evidence = chip.launch(GuestImage(b"k")).evidence(REPORT_DATA)
    claims = verify_report(
        evidence, chip.certificates(), now=now, roots=world.trusted_roots
    )
    assert claims.platform.chip_id is None
    assert not claims.platform.same_machine(claims.platform)


def test_a_chip_id_of_zeros_matches_nothing(world: AmdWorld, now: int) -> None:
    bench = Bench(world, "Milan", now)
    claims = verify_report(
        bench.resigned(chip_id=bytes(64)),
        bench.endorsed(hardware_id=bytes(64)),
        now=now,
        roots=bench.roots,
    )
    assert claims.platform.chip_id is None


def test_azure_evidence_is_not_bound_to_the_workload(world: AmdWorld, now: int) -> None:
    bench = Bench(world, "Genoa", now)
    blob = bench.guest.hcl_evidence(b"{}")
    claims = verify_report(blob, bench.certificates, now=now, roots=bench.roots)
    assert not claims.report_data_bound
    padded = verify_report(
        blob + bytes(100), bench.certificates, now=now, roots=bench.roots
    )
    assert padded.evidence_hash == claims.evidence_hash


def test_certificates_in_the_evidence_are_handed_on(world: AmdWorld, now: int) -> None:
    bench = Bench(world, "Turin", now)
    evidence = bench.guest.evidence(REPORT_DATA)
    embedded = embedded_certificates(evidence)
    assert embedded == bench.certificates
    assert embedded is not None
    claims = verify_report(evidence, embedded, now=now, roots=bench.roots)
    bare = verify_report(bench.report, embedded, now=now, roots=bench.roots)
    assert claims.evidence_hash == bare.evidence_hash
    assert embedded_certificates(bench.report) is None


def test_a_warm_cache_still_sees_an_expired_crl_and_a_revocation(
    world: AmdWorld, now: int
) -> None:
    bench = Bench(world, "Milan", now)
    cache = ResultCache(16)

    def verify(chain: SnpCertificates, at: int) -> None:
        verify_report(bench.report, chain, now=at, roots=bench.roots, cache=cache)

    good = replace(bench.certificates, crl=world.crl("Milan", now=now))
    verify(good, now)
    with pytest.raises(CollateralError) as expired:
        verify(good, now + 365 * 86400)
    assert expired.value.code is Code.CRL_EXPIRED
    listed = replace(bench.certificates, crl=world.crl("Milan", now=now, revoked=True))
    with pytest.raises(TightsealError) as revoked:
        verify(listed, now)
    assert revoked.value.code is Code.CERTIFICATE_REVOKED


def test_a_cache_of_one_root_is_not_used_for_another(
    world: AmdWorld, attacker: AmdWorld, now: int
) -> None:
    cache = ResultCache(16)
    bench = Bench(attacker, "Milan", now)
    verify_report(
        bench.report, bench.certificates, now=now, roots=bench.roots, cache=cache
    )
    borrowed = replace(bench.certificates, root=world.root_certificate("Milan"))
    with pytest.raises(TightsealError) as refused:
        verify_report(
            bench.report,
            borrowed,
            now=now,
            roots=(world.trusted_root("Milan"),),
            cache=cache,
        )
    assert refused.value.code is Code.CERTIFICATE_CHAIN_INVALID


@given(data=st.data())
def test_whatever_is_changed_in_a_chain_or_report_is_refused(
    world: AmdWorld, data: st.DataObject
) -> None:
    bench = Bench(world, data.draw(st.sampled_from(("Milan", "Turin"))), 1_780_000_000)
    crl = world.crl(bench.product, now=bench.now)
    parts = {
        "evidence": bench.report,
        "signer": bench.certificates.signer,
        "intermediate": bench.certificates.intermediate,
        "crl": crl,
    }
    name = data.draw(st.sampled_from(sorted(parts)))
    changed = bytearray(parts[name])
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    parts[name] = bytes(changed)
    evidence = parts.pop("evidence")
    chain = SnpCertificates(**parts)
    with pytest.raises((EvidenceError, CollateralError)):
        verify_report(evidence, chain, now=bench.now, roots=bench.roots)


class OldestRefused:
    """A guard that refuses a list older than one seen."""

    def __init__(self) -> None:
        self.newest = 0

    def admit(self, facts: tuple[CollateralFacts, ...], *, now: int) -> None:
        assert now > 0
        for fact in facts:
            assert fact.kind == "root_crl"
            assert fact.subject == "crl:vcek:Milan"
            if fact.issued_at < self.newest:
                raise CollateralError(Code.COLLATERAL_ROLLBACK, "older")
            self.newest = fact.issued_at

    def admitted(self, *, trust_domain: str, kind: str, subject: str) -> bool:
        assert trust_domain.startswith("simulated:")
        return self.newest > 0 and (kind, subject) == ("root_crl", "crl:vcek:Milan")


def test_the_guard_sees_every_crl(world: AmdWorld, now: int) -> None:
    bench = Bench(world, "Milan", now)
    guard = OldestRefused()
    newer = replace(bench.certificates, crl=world.crl("Milan", now=now))
    older = replace(bench.certificates, crl=world.crl("Milan", now=now - 86400))
    verify_report(bench.report, newer, now=now, roots=bench.roots, guard=guard)
    with pytest.raises(CollateralError) as refused:
        verify_report(bench.report, older, now=now, roots=bench.roots, guard=guard)
    assert refused.value.code is Code.COLLATERAL_ROLLBACK


def test_a_crl_that_was_there_once_cannot_be_left_out_again(
    world: AmdWorld, now: int
) -> None:
    bench = Bench(world, "Milan", now)
    other = Bench(world, "Genoa", now)
    guard = MemoryGuard()
    without = replace(bench.certificates, crl=None)

    def claims(subject: Bench, certificates: SnpCertificates) -> Claims:
        return verify_report(
            subject.report, certificates, now=now, roots=subject.roots, guard=guard
        )

    assert any("no CRL" in text for text in claims(bench, without).not_checked)
    claims(bench, replace(without, crl=world.crl("Milan", now=now)))
    with pytest.raises(CollateralError) as refused:
        claims(bench, without)
    assert refused.value.code is Code.COLLATERAL_UNAVAILABLE
    last = refused.value.checks[-1]
    assert isinstance(last, Check)
    assert (last.name, last.outcome) == ("crl", Outcome.FAILED)
    # What is known of one product says nothing of another.
    claims(other, replace(other.certificates, crl=None))


def test_a_crl_can_be_required_from_the_start(world: AmdWorld, now: int) -> None:
    bench = Bench(world, "Milan", now)
    certificates = replace(bench.certificates, crl=None)
    with pytest.raises(CollateralError) as refused:
        verify_report(
            bench.report, certificates, now=now, roots=bench.roots, require_crl=True
        )
    assert refused.value.code is Code.COLLATERAL_UNAVAILABLE


def test_amd_sized_keys_verify(now: int) -> None:
    real = AmdWorld(None, bytes(32))
    bench = Bench(real, "Turin", now)
    claims = verify_report(bench.report, bench.certificates, now=now, roots=bench.roots)
    assert claims.snp_tcb == bench.chip.tcb
    assert real.root_key("Turin").key_size == 4096
