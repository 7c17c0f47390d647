# SPDX-License-Identifier: Apache-2.0
"""Every case of the checklist for SEV-SNP reports, through every entrance."""

from dataclasses import replace
from pathlib import Path

import pytest
from checklist_support import NOW, UNREADABLE, Given, command

from tightseal.errors import Code, TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS
from tightseal.evidence.snp.verifier import CHECKS as SNP_CHECKS
from tightseal.evidence.snp.verifier import verify_report
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.claims import Check, Claims, Outcome, Tee
from tightseal.model.roots import TrustedRoots
from tightseal.model.verifiers import VerifierMode
from tightseal_sim.amd import AmdWorld
from tightseal_sim.amd.defects import SnpCase, good_cases, snp_cases

SNP_NAMES = [name for name, _ in SNP_CHECKS]


@pytest.fixture(scope="module")
def amd() -> AmdWorld:
    return AmdWorld(None, b"\x21" * 32, rsa_bits=2048)


@pytest.fixture(scope="module")
def other_amd() -> AmdWorld:
    return AmdWorld(None, b"\x22" * 32, rsa_bits=2048)


@pytest.fixture(scope="module")
def snp(amd: AmdWorld, other_amd: AmdWorld) -> list[SnpCase]:
    cases = snp_cases(NOW, world=amd, attacker=other_amd)
    return [*cases, *good_cases(NOW, world=amd)]


SNP_UNRECOGNISED = {
    # Neither length nor fields of a report: refused before the verifier's list.
    "empty evidence",
    "truncated report",
    "half a report",
    "blob cut short",
}


def ask_snp(
    entrance: str, case: SnpCase, cache: ResultCache
) -> Claims | TightsealError:
    try:
        if entrance == "verify_report":
            return verify_report(
                case.evidence,
                case.certificates,
                now=case.now,
                roots=case.roots,
                cache=cache,
            )
        verify = EvidenceVerifier(
            roots=TrustedRoots(amd=case.roots),
            source=Given(certificates=case.certificates),
            cache=cache,
            mode=VerifierMode(entrance),
            use_embedded=False,
        )
        return verify(case.evidence, now=case.now)
    except TightsealError as error:
        return error


SNP_ENTRANCES = ("verify_report", "native", "both")


def wrong_snp(entrance: str, case: SnpCase, answer: Claims | TightsealError) -> str:
    if isinstance(answer, Claims):
        if case.expected is not None:
            return f"accepted, expected {case.expected}"
        passed = [check.name for check in answer.checks] == SNP_NAMES
        alone = answer.single_verifier and answer.tee is Tee.SNP and answer.tcb is None
        return "" if passed and alone else f"claims {answer}"
    unread = entrance != "verify_report" and answer.code is Code.EVIDENCE_UNREADABLE
    if unread and case.name in SNP_UNRECOGNISED:
        return ""
    if answer.code is not case.expected:
        return f"{answer}, expected {case.expected}"
    made = [check for check in answer.checks if isinstance(check, Check)]
    if not made:
        # Parsed to name the certificates that are to be fetched.
        return "" if entrance != "verify_report" else "no checks"
    names, outcomes = [c.name for c in made], [c.outcome for c in made]
    if names != SNP_NAMES[: len(names)] or outcomes[-1] is not Outcome.FAILED:
        return f"checks {made}"
    return "" if Outcome.FAILED not in outcomes[:-1] else f"checks {made}"


@pytest.mark.parametrize("entrance", SNP_ENTRANCES)
def test_every_snp_case(entrance: str, snp: list[SnpCase]) -> None:
    warm = ResultCache(4096)
    for cases in (snp, snp[::-1]):
        for case in cases:
            for cache in (ResultCache(64), warm):
                wrong = wrong_snp(entrance, case, ask_snp(entrance, case, cache))
                assert wrong == "", case.name


def test_simulated_reports_are_nothing_under_another_root(
    snp: list[SnpCase], other_amd: AmdWorld
) -> None:
    cache = ResultCache(4096)
    for case in snp:
        if case.expected is not None:
            continue
        for entrance in SNP_ENTRANCES:
            assert isinstance(ask_snp(entrance, case, cache), Claims)
            for roots in (VENDOR_ROOTS.amd, other_amd.trusted_roots):
                answer = ask_snp(entrance, replace(case, roots=roots), cache)
                assert isinstance(answer, TightsealError), case.name
                assert answer.code is Code.ROOT_NOT_TRUSTED, case.name


def test_the_command_on_snp_cases(snp: list[SnpCase], tmp_path: Path) -> None:
    seen: set[Code | None] = set()
    for case in snp:
        readable = case.name not in SNP_UNRECOGNISED
        if case.expected in seen or len(case.roots) != 1 or not readable:
            continue
        certificate = case.roots[0].certificate
        chain = case.certificates
        # A root of a name that AMD does not use cannot even be given to the command.
        if certificate is None or case.name == "root of an unknown product":
            continue
        seen.add(case.expected)
        folder = tmp_path / f"case-{len(seen)}"
        folder.mkdir()
        parts = {
            "report.bin": case.evidence,
            "ark-root.der": certificate,
            "vcek.der": chain.signer,
            "ask.der": chain.intermediate,
            "ark.der": chain.root,
            "crl.der": chain.crl,
        }
        for name, data in parts.items():
            if data is not None:
                (folder / name).write_bytes(data)
        arguments = ("verify", folder / "report.bin", "--json", "--at", case.now)
        files = ("--collateral", folder, "--root-ca", folder / "ark-root.der")
        status, said = command(*arguments, *files)
        expected = None if case.expected is None else case.expected.value
        assert said["code"] == expected, case.name
        unreadable = case.expected in UNREADABLE
        assert status == (0 if expected is None else 2 if unreadable else 1)
    assert len(seen) >= 20
