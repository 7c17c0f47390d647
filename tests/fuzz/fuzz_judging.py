# SPDX-License-Identifier: Apache-2.0
"""Two verifiers on one input: how they may differ, and what counts as a finding."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from cryptography import x509
from fuzz_trials import Finding, Result, Trial

from tightseal.errors import EvidenceError, TightsealError
from tightseal.evidence.agreement import Disagreement, agree, exceptions_needed
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.differences import difference_by_error, difference_of
from tightseal.evidence.intel.certs import decode_chain, parse_certificate
from tightseal.evidence.intel.pck import PckExtension, parse_pck_extension
from tightseal.evidence.intel.quote import parse_quote
from tightseal.evidence.intel.verifier import verify_quote
from tightseal.evidence.qvl import QvlAnswer, QvlOpinion, QvlRefusal, judge
from tightseal.evidence.qvl_claims import claims_of
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.claims import Check, Claims, Outcome, SnpTcb, Tee
from tightseal.model.collateral import IntelCollateral, SnpCertificates
from tightseal.model.roots import TrustedRoots
from tightseal.model.verifiers import VerifierMode

__all__ = ["ENTRANCE_EVERY", "Judge"]

ENTRANCE_EVERY: Final = 8
"""One in so many inputs also goes through the entrance that services use."""

_RESIGNED: Final = frozenset(
    {
        "quote.certificate_content",
        "quote.certificate_form",
        "collateral.issuer_chain",
    }
)


def _native(given: Trial, cache: ResultCache | None) -> Claims | TightsealError:
    try:
        return verify_quote(
            given.evidence,
            given.collateral,
            now=given.now,
            roots=(given.root,),
            cache=cache,
            exceptions=given.exceptions,
        )
    except TightsealError as error:
        return error


def _declared(evidence: bytes) -> bytes:
    """What dcap-qvl is shown: the quote without padding, where it can be read."""
    try:
        return evidence[: parse_quote(evidence).declared_length]
    except TightsealError:
        return evidence


@dataclass
class Judge:
    """Judges inputs, and keeps the cache that answers must not depend on."""

    result: Result
    cache: ResultCache = field(default_factory=lambda: ResultCache(512))

    def judge(self, given: Trial) -> None:
        """Judge one input, and record what came of it."""
        try:
            self._judge(given)
        except Exception:  # noqa: BLE001 (whatever leaks is what is looked for)
            detail = traceback.format_exc(limit=-6)
            self.result.add(Finding(given, "leak", detail))

    def _judge(self, given: Trial) -> None:
        native = _native(given, None)
        declared = _declared(given.evidence)
        qvl = judge(declared, given.collateral, now=given.now, root=given.root)
        self._count(given, native, qvl)
        problem = (
            _differ(given, declared, native, qvl, self.result)
            or self._cached(given, native)
            or self._entered(given, native, qvl)
        )
        if problem:
            self.result.add(Finding(given, *problem))

    def _count(
        self, given: Trial, native: Claims | TightsealError, qvl: QvlAnswer
    ) -> None:
        result = self.result
        result.steps.update(given.steps)
        result.reached.update(c.name for c in native.checks if isinstance(c, Check))
        if isinstance(native, TightsealError):
            last = native.checks[-1]
            assert isinstance(last, Check)
            assert last.outcome is Outcome.FAILED
            result.failed[last.name] += 1
            result.codes[native.code.value] += 1
        else:
            result.codes["accepted"] += 1
        if isinstance(qvl, QvlRefusal):
            result.qvl[" ".join(qvl.message.split()[:5])] += 1
            result.panics += qvl.message.startswith("panic")
        else:
            result.qvl["accepted"] += 1

    def _cached(
        self, given: Trial, cold: Claims | TightsealError
    ) -> tuple[str, str] | None:
        """A cache that has seen other inputs must change nothing."""
        warm = _native(given, self.cache)
        if _words(warm) == _words(cold):
            return None
        return "cache", f"cold {_words(cold)}; warm {_words(warm)}"

    def _entered(
        self, given: Trial, native: Claims | TightsealError, qvl: QvlAnswer
    ) -> tuple[str, str] | None:
        """The services' entrance must not accept what either verifier refuses."""
        if given.number % ENTRANCE_EVERY:
            return None
        verify = EvidenceVerifier(
            roots=TrustedRoots(intel=(given.root,)),
            source=_Source(given.collateral),
            cache=self.cache,
            mode=VerifierMode.BOTH,
            exceptions=given.exceptions,
        )
        try:
            claims = verify(given.evidence, now=given.now)
        except TightsealError:
            if isinstance(native, Claims) and isinstance(qvl, QvlOpinion):
                return "entrance", "refused what both verifiers accept"
            return None
        if isinstance(native, TightsealError):
            return "entrance", f"accepted, native {native}"
        excused = isinstance(qvl, QvlRefusal)
        if excused != claims.single_verifier or (excused and not given.exceptions):
            return "entrance", f"accepted, dcap-qvl {qvl}"
        return None


@dataclass(frozen=True)
class _Source:
    """A source that gives what it was given."""

    collateral: IntelCollateral

    def intel(self, *, fmspc: bytes, ca: str, tee: Tee, now: int) -> IntelCollateral:
        del fmspc, ca, tee, now
        return self.collateral

    def snp(
        self, *, product: str, chip_id: bytes, tcb: SnpTcb, vlek: bool, now: int
    ) -> SnpCertificates:
        del product, chip_id, tcb, vlek, now
        # Evidence spoiled into something that looks like a report has none.
        return SnpCertificates(signer=b"", intermediate=b"")


def _words(answer: Claims | TightsealError) -> str:
    if isinstance(answer, TightsealError):
        return f"refuses: {answer.code.value} at {answer.checks[-1]}"
    return f"accepts: {answer}"


def _differ(
    given: Trial,
    declared: bytes,
    native: Claims | TightsealError,
    qvl: QvlAnswer,
    result: Result,
) -> tuple[str, str] | None:
    """How two answers differ although no rule says so; ``None`` where they do not."""
    if isinstance(native, TightsealError):
        if isinstance(qvl, QvlRefusal):
            return None
        found, rule = _only_native_refuses(given, native, qvl)
    elif isinstance(qvl, QvlRefusal):
        found, rule = _only_qvl_refuses(given, native, qvl)
    else:
        found, rule = _both_accept(given, declared, native, qvl)
        result.both_accept += found is None and rule is None
    if rule is not None:
        result.rules[rule] += 1
    return found


Judged: TypeAlias = tuple[tuple[str, str] | None, str | None]
"""What is wrong, or the rule that explains it."""


def _only_native_refuses(
    given: Trial, native: TightsealError, qvl: QvlOpinion
) -> Judged:
    rule = difference_of(native)
    if rule is None or not _explains(given, rule.rule):
        return ("native_refuses", f"{native}; dcap-qvl {qvl}"), None
    return None, f"{rule.rule} ({native.code.value})"


def _only_qvl_refuses(given: Trial, native: Claims, qvl: QvlRefusal) -> Judged:
    rule = difference_by_error(qvl.message)
    if rule is None or not _holds(given, native, rule.rule):
        return ("dcap_qvl_refuses", str(qvl)), None
    return None, rule.rule


def _both_accept(
    given: Trial, declared: bytes, native: Claims, qvl: QvlOpinion
) -> Judged:
    heard: list[Disagreement] = []
    try:
        agree(
            native,
            qvl,
            evidence_hash=native.evidence_hash,
            exceptions=given.exceptions,
            on_disagreement=heard.append,
        )
    except TightsealError as error:
        return ("claims_differ", str(error)), None
    return _other_claims(native, qvl, declared), None


def _holds(given: Trial, native: Claims, rule: str) -> bool:
    """Whether the evidence has what the rule of dcap-qvl is about."""
    if rule == "sept_ve_disable":
        return bool(exceptions_needed(native))
    if rule == "qe_auth_data_length":
        return len(parse_quote(given.evidence).qe_auth_data) != 32
    if rule == "pce_svn":
        return _extension(given).pce_svn > 0x7FFF
    if rule in {"pck_certificate_parts", "issuer_certificate_parts"}:
        # Certificates of another content than the world's, which its CAs signed.
        return not _RESIGNED.isdisjoint(given.steps)
    crl = {
        "root_crl_number": given.collateral.root_ca_crl,
        "pck_crl_number": given.collateral.pck_crl,
    }.get(rule)
    if crl is None:
        return False
    extensions = x509.load_der_x509_crl(crl).extensions
    number = extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    return number > 0xFFFFFFFF


def _extension(given: Trial) -> PckExtension:
    """What the quote's PCK certificate says; the native verifier has read it."""
    pem = parse_quote(given.evidence).certification_data
    leaf = parse_certificate(
        decode_chain(pem, fault=EvidenceError)[0], fault=EvidenceError
    )
    assert leaf.sgx_extension is not None
    return parse_pck_extension(leaf.sgx_extension, fault=EvidenceError)


def _explains(given: Trial, rule: str) -> bool:
    """Whether a rule of ours, named by a code that others share, is the reason."""
    if rule == "qe_report_data":
        return any(parse_quote(given.evidence).qe_field("report_data")[32:])
    return True


def _other_claims(
    native: Claims, qvl: QvlOpinion, declared: bytes
) -> tuple[str, str] | None:
    """Where both accept, everything that dcap-qvl says must be what we say."""
    theirs = claims_of(qvl.claims, quote=declared, trust_domain=native.trust_domain)
    if theirs is None or theirs.tcb is None or native.tcb is None:
        return "claims_differ", "dcap-qvl's claims are of another form"
    ours = replace(native, checks=(), not_checked=(), single_verifier=True)
    ours = replace(ours, measurements=dict(native.measurements))
    # The library writes dates in its own way; the level behind it shows in the status.
    ours = replace(ours, tcb=replace(native.tcb, date=theirs.tcb.date))
    theirs = replace(theirs, checks=(), not_checked=())
    theirs = replace(theirs, measurements=dict(theirs.measurements))
    if ours == theirs:
        return None
    return "claims_differ", f"native {ours}; dcap-qvl {theirs}"
