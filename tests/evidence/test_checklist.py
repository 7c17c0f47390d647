# SPDX-License-Identifier: Apache-2.0
"""Every defect and control, through every entrance, with the exact answer by name."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tightseal.cli import main
from tightseal.collateral.guard import MemoryGuard
from tightseal.errors import CODES, Code, Fault, TightsealError
from tightseal.evidence.agreement import Conflict, Disagreement
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.differences import DIFFERENCES, Stricter
from tightseal.evidence.intel.verifier import CHECKS, verify_quote
from tightseal.evidence.roots import VENDOR_ROOTS
from tightseal.evidence.snp.verifier import CHECKS as SNP_CHECKS
from tightseal.evidence.snp.verifier import verify_report
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.claims import Check, Claims, Outcome, SnpTcb, Tee, Vendor
from tightseal.model.collateral import IntelCollateral, SnpCertificates
from tightseal.model.roots import TrustedRoot, TrustedRoots
from tightseal.model.verifiers import VerifierException, VerifierMode
from tightseal_sim.amd import AmdWorld
from tightseal_sim.amd.defects import SnpCase, good_cases, snp_cases
from tightseal_sim.defects import Case, intel_cases
from tightseal_sim.intel.collateral import collateral_json
from tightseal_sim.world import World

NOW = 1_790_000_000
CASES = intel_cases(NOW)
ACCEPTED = [c for c in CASES if c.native is None]
RULES = {d.rule: d for d in DIFFERENCES}
NAMES = [rule.name for rule in CHECKS]
SNP_NAMES = [name for name, _ in SNP_CHECKS]

Answer = Claims | TightsealError
Exceptions = frozenset[VerifierException]


@dataclass
class Given:
    """A source that gives what it was given."""

    collateral: IntelCollateral | None = None
    certificates: SnpCertificates | None = None

    def intel(self, *, fmspc: bytes, ca: str, tee: Tee, now: int) -> IntelCollateral:
        del fmspc, ca, tee, now
        assert self.collateral is not None
        return self.collateral

    def snp(
        self, *, product: str, chip_id: bytes, tcb: SnpTcb, vlek: bool, now: int
    ) -> SnpCertificates:
        del product, chip_id, tcb, vlek, now
        assert self.certificates is not None
        return self.certificates


@dataclass
class Asked:
    """What one entrance is asked with, and the disagreements heard."""

    case: Case
    cache: ResultCache
    guard: MemoryGuard
    exceptions: Exceptions
    heard: list[Disagreement] = field(default_factory=list)

    def direct(self, collateral: IntelCollateral) -> Claims:
        return verify_quote(
            self.case.evidence,
            collateral,
            now=self.case.now,
            roots=(self.case.root,),
            guard=self.guard,
            cache=self.cache,
            exceptions=self.exceptions,
        )

    def entrance(self, collateral: IntelCollateral, mode: VerifierMode) -> Claims:
        verify = EvidenceVerifier(
            roots=TrustedRoots(intel=(self.case.root,)),
            source=Given(collateral),
            cache=self.cache,
            mode=mode,
            exceptions=self.exceptions,
            guard=self.guard,
            on_disagreement=self.heard.append,
        )
        return verify(self.case.evidence, now=self.case.now)

    def native(self, collateral: IntelCollateral) -> Claims:
        return self.entrance(collateral, VerifierMode.NATIVE)

    def both(self, collateral: IntelCollateral) -> Claims:
        return self.entrance(collateral, VerifierMode.BOTH)


ENTRANCES: dict[str, Callable[[Asked, IntelCollateral], Claims]] = {
    "verify_quote": Asked.direct,
    "native": Asked.native,
    "both": Asked.both,
}


def ask(
    entrance: str, case: Case, cache: ResultCache, exceptions: Exceptions
) -> tuple[Answer, list[Disagreement]]:
    asked = Asked(case, cache, MemoryGuard(floors=()), exceptions)
    call = ENTRANCES[entrance]
    if case.seen_before is not None:
        call(asked, case.seen_before)
        asked.heard.clear()
    try:
        return call(asked, case.collateral), asked.heard
    except TightsealError as error:
        return error, asked.heard


def expected_code(entrance: str, case: Case, exceptions: Exceptions) -> Code | None:
    if case.exception is not None and case.exception in exceptions:
        return None
    if entrance == "verify_quote":
        return case.native
    if entrance == "native":
        # Evidence of no known kind is refused before a verifier is asked.
        return case.both if case.native is not None else None
    return case.both


def judge(entrance: str, case: Case, cache: ResultCache, exceptions: Exceptions) -> str:
    """What is wrong with the answer; empty where nothing is."""
    answer, heard = ask(entrance, case, cache, exceptions)
    expected = expected_code(entrance, case, exceptions)
    if isinstance(answer, Claims):
        wrong = wrong_claims(answer, case, expected)
    else:
        wrong = wrong_refusal(answer, expected)
        alone = entrance == "verify_quote" or answer.code in LISTED_BY_NATIVE
        if not wrong and alone:
            wrong = wrong_checks(answer)
    return wrong or wrong_disagreements(entrance, case, exceptions, heard)


def wrong_claims(claims: Claims, case: Case, expected: Code | None) -> str:
    if expected is not None:
        return f"accepted, expected {expected}"
    if claims.tcb is None or claims.tcb.status is not case.status:
        return f"TCB {claims.tcb}, expected {case.status}"
    if claims.tcb.advisory_ids != case.expect.advisories:
        return f"advisories {claims.tcb.advisory_ids}"
    if Outcome.FAILED in {check.outcome for check in claims.checks}:
        return "a failed check in claims"
    if claims.trust_domain != case.root.trust_domain or claims.tee is not case.tee:
        return f"trust domain {claims.trust_domain}, {claims.tee}"
    return ""


def wrong_refusal(error: TightsealError, expected: Code | None) -> str:
    if error.code is not expected:
        return f"{error}, expected {expected}"
    if CODES[error.code].fault not in {Fault.EVIDENCE, Fault.COLLATERAL}:
        return f"fault {CODES[error.code].fault}"
    if error.code is Code.EVIDENCE_UNREADABLE:
        return "" if error.checks == () else "checks of evidence of no kind"
    outcomes = [c.outcome for c in error.checks if isinstance(c, Check)]
    if len(outcomes) != len(error.checks) or not outcomes:
        return f"checks {error.checks}"
    if outcomes[-1] is not Outcome.FAILED or Outcome.FAILED in outcomes[:-1]:
        return f"outcomes {outcomes}"
    return ""


LISTED_BY_NATIVE = {
    # Codes that only the numbered list can give; parsing and naming the collateral
    # may refuse with the others before the list begins.
    Code.QUOTE_SIGNATURE_INVALID,
    Code.QE_REPORT_SIGNATURE_INVALID,
    Code.TCB_REVOKED,
    Code.COLLATERAL_ROLLBACK,
    Code.CERTIFICATE_REVOKED,
    Code.DEBUG_ENABLED,
}


def wrong_checks(error: TightsealError) -> str:
    made = [c.name for c in error.checks if isinstance(c, Check)]
    return "" if made == NAMES[: len(made)] else f"checks {made}"


def wrong_disagreements(
    entrance: str, case: Case, exceptions: Exceptions, heard: list[Disagreement]
) -> str:
    if entrance != "both" or (case.exception and case.exception in exceptions):
        return f"heard {heard}" if heard else ""
    if len(heard) > 1:
        return f"heard {heard}"
    for found in heard:
        rule = RULES.get(found.rule or "")
        if rule is None:
            return f"no rule for {found}"
        native_refuses = found.conflict is Conflict.NATIVE_REFUSES
        if native_refuses != (rule.stricter is Stricter.NATIVE):
            return f"rule {rule.rule} for {found}"
        if native_refuses and case.native not in rule.codes:
            return f"rule {rule.rule} for {case.native}"
        if not native_refuses and case.native is not None:
            return f"{found} although native refuses"
    differ = (case.native is None) != (case.qvl is None)
    if differ and not heard and case.name not in REFUSED_BEFORE_ASKING:
        return "a difference that nobody heard of"
    return f"heard {heard} without a difference" if heard and not differ else ""


REFUSED_BEFORE_ASKING = {
    # Refused by parsing or by naming the collateral, so that dcap-qvl is not asked.
    "trailing_garbage",
    "trailing_garbage_sgx",
    "pck_ca_name",
}


def wrongs(
    entrance: str, cases: list[Case], cache: ResultCache | None, exceptions: Exceptions
) -> dict[str, str]:
    found = {}
    for case in cases:
        kept = cache or ResultCache(64)
        if wrong := judge(entrance, case, kept, exceptions):
            found[case.name] = wrong
    return found


NONE: Exceptions = frozenset()
ALL: Exceptions = frozenset(VerifierException)


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


# -- the command ---------------------------------------------------------------------


def command(*arguments: object) -> tuple[int, dict[str, object]]:
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        status = main([str(argument) for argument in arguments])
    document = json.loads(out.getvalue())
    assert isinstance(document, dict)
    return status, document


def one_of_each() -> Iterator[Case]:
    """One case for each answer of either kind of TEE, and every exception."""
    seen: set[object] = set()
    for case in CASES:
        # The command keeps no memory of collateral where a time is named.
        kind = (case.tee, case.both, case.native, case.status, case.exception)
        if kind not in seen and case.seen_before is None:
            seen.add(kind)
            yield case


SAMPLE = list(one_of_each())
UNREADABLE = {Code.EVIDENCE_UNREADABLE, Code.EVIDENCE_TOO_LARGE}


def files(case: Case, folder: Path) -> list[object]:
    (folder / "quote").write_bytes(case.evidence)
    (folder / "collateral.json").write_text(collateral_json(case.collateral))
    arguments: list[object] = ["verify", folder / "quote", "--json", "--at", case.now]
    arguments += ["--collateral", folder / "collateral.json"]
    if case.root.certificate is not None:
        (folder / "root.der").write_bytes(case.root.certificate)
        arguments += ["--root-ca", folder / "root.der"]
    return arguments


@pytest.mark.parametrize("mode", [VerifierMode.NATIVE, VerifierMode.BOTH])
@pytest.mark.parametrize("case", SAMPLE, ids=[c.name for c in SAMPLE])
def test_the_command(case: Case, mode: VerifierMode, tmp_path: Path) -> None:
    expected = expected_code(mode.value, case, NONE)
    arguments = files(case, tmp_path)
    status, said = command(*arguments, "--verifier", mode.value)
    if expected is None:
        assert (status, said["verdict"], said["code"]) == (0, "authentic", None)
        tcb = said["tcb"]
        assert isinstance(tcb, dict)
        assert tcb["status"] == case.status.value
        assert tcb["advisory_ids"] == sorted(case.expect.advisories)
        assert said["trust_domain"] == str(case.root.trust_domain)
        return
    word = ("unreadable", 2) if expected in UNREADABLE else ("rejected", 1)
    assert (said["code"], said["verdict"], status) == (expected.value, *word)
    checks = said["checks"]
    assert isinstance(checks, list)
    if expected is not Code.EVIDENCE_UNREADABLE:
        assert checks[-1]["outcome"] == "failed"
        assert "failed" not in {c["outcome"] for c in checks[:-1]}
    if case.exception is not None:
        status, said = command(*arguments, "--accept-exception", case.exception.value)
        assert (status, said["single_verifier"]) == (0, True)


def test_the_command_takes_no_simulated_evidence_unasked(tmp_path: Path) -> None:
    for case in ACCEPTED:
        arguments = files(case, tmp_path)
        status, said = command(*arguments[: arguments.index("--root-ca")])
        assert (status, said["code"]) == (1, "root_not_trusted"), case.name


# -- roots ---------------------------------------------------------------------------


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


# -- SEV-SNP -------------------------------------------------------------------------


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
