# SPDX-License-Identifier: Apache-2.0
"""Both verifiers asked through every entrance, and what a case of the list expects."""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field

from tightseal.cli import main
from tightseal.collateral.guard import MemoryGuard
from tightseal.errors import CODES, Code, Fault, TightsealError
from tightseal.evidence.agreement import Conflict, Disagreement
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.differences import DIFFERENCES, Stricter
from tightseal.evidence.intel.verifier import CHECKS, verify_quote
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.claims import Check, Claims, Outcome, SnpTcb, Tee
from tightseal.model.collateral import IntelCollateral, SnpCertificates
from tightseal.model.roots import TrustedRoots
from tightseal.model.verifiers import VerifierException, VerifierMode
from tightseal_sim.defects import Case, intel_cases

NOW = 1_790_000_000
CASES = intel_cases(NOW)
ACCEPTED = [c for c in CASES if c.native is None]
RULES = {d.rule: d for d in DIFFERENCES}
NAMES = [rule.name for rule in CHECKS]

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

UNREADABLE = {Code.EVIDENCE_UNREADABLE, Code.EVIDENCE_TOO_LARGE}


def command(*arguments: object) -> tuple[int, dict[str, object]]:
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        status = main([str(argument) for argument in arguments])
    document = json.loads(out.getvalue())
    assert isinstance(document, dict)
    return status, document
