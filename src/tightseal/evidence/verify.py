# SPDX-License-Identifier: Apache-2.0
"""Evidence of any kind to claims: the one entrance that services and commands use.

detect -> parse -> chain -> collateral -> verify -> agree -> claims
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, Protocol, runtime_checkable

from tightseal.errors import Code, CollateralError, EvidenceError, TightsealError
from tightseal.evidence.agreement import Disagreement, agree
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.detect import EvidenceKind, detect
from tightseal.evidence.intel.quote import parse_quote
from tightseal.evidence.intel.unverified import (
    CollateralQuery,
    collateral_query,
    require_chain,
)
from tightseal.evidence.intel.verifier import CHECKS, verify_quote
from tightseal.evidence.qvl import (
    QvlAnswer,
    QvlRefusal,
    explain,
    judge,
    judge_any,
)
from tightseal.evidence.qvl_claims import CHECK_NAME, SPEC, claims_of, code_of
from tightseal.evidence.snp.form import split_evidence
from tightseal.evidence.snp.query import (
    CertificateQuery,
    certificate_query,
    embedded_certificates,
)
from tightseal.evidence.snp.report import parse_report
from tightseal.evidence.snp.verifier import verify_report
from tightseal.model.claims import Check, Claims, Outcome, Tee
from tightseal.model.collateral import (
    CollateralGuard,
    CollateralSource,
    IntelCollateral,
    SnpCertificates,
)
from tightseal.model.roots import TrustedRoot, TrustedRoots
from tightseal.model.verifiers import VerifierException, VerifierMode

__all__ = ["EvidenceVerifier"]

UNNAMED_PRODUCTS: Final = ("Milan", "Genoa")
"""What a report may come from that does not name its processor (version 2)."""


_NOT_THERE: Final = frozenset({Code.COLLATERAL_UNAVAILABLE, Code.COLLATERAL_NOT_FOUND})


class SnpIssuers(Protocol):
    """What stands above an SNP signer."""

    @property
    def crl(self) -> bytes | None:
        """AMD's CRL, where there is one."""
        ...


@runtime_checkable
class SnpIssuerSource(Protocol):
    """A source that can also say what stands above an SNP signer."""

    def snp_issuers(self, *, product: str, vlek: bool, now: int) -> SnpIssuers:
        """Intermediate, ARK and CRL of a product line; raises ``CollateralError``."""
        ...


@runtime_checkable
class CachingSource(Protocol):
    """A source that fetches, and can say whether it would have to."""

    def at_hand(self, *, fmspc: bytes, ca: str, tee: Tee, now: int) -> bool:
        """Whether ``intel`` would answer without asking anybody."""
        ...


_STRUCTURE_FAILED: Final = Check(CHECKS[0].name, Outcome.FAILED, CHECKS[0].spec)
_QUERY_FAILED: Final = Check(
    "collateral_query", Outcome.FAILED, "Intel PCS API v4, query by FMSPC and CA"
)


_CHAIN_FAILED: Final = next(
    check.record(Outcome.FAILED) for check in CHECKS if check.name == "pck_chain"
)


@contextmanager
def _named(check: Check) -> Iterator[None]:
    """Name what failed before the verifier's own list began."""
    try:
        yield
    except EvidenceError as error:
        error.checks = error.checks or (check,)
        raise


def _unheard(disagreement: Disagreement) -> None:
    del disagreement


class EvidenceVerifier:
    """Verifies quotes and reports; implements ``model.ports.Verifier``.

    Safe to use from several threads. Holds no state but the result cache.

    Args:
        roots: the roots that are switched on.
        source: where collateral comes from; never the workload.
        cache: signature results, reused by content.
        mode: which verifiers judge Intel evidence. SEV-SNP has one only, and is refused
            where dcap-qvl alone may judge.
        exceptions: the rules on which dcap-qvl may be overruled, by name.
        guard: refuses collateral older than seen before, and SEV-SNP evidence without
            AMD's CRL once one was seen. dcap-qvl alone has none.
        on_disagreement: told of answers that differ, for a metric and a log line; must
            not raise.
        use_embedded: try the certificates that SNP evidence carries before ``source``.
        require_amd_crl: refuse SEV-SNP evidence without AMD's CRL from the start.
    """

    def __init__(
        self,
        *,
        roots: TrustedRoots,
        source: CollateralSource,
        cache: ResultCache,
        mode: VerifierMode = VerifierMode.BOTH,
        exceptions: frozenset[VerifierException] = frozenset(),
        guard: CollateralGuard | None = None,
        on_disagreement: Callable[[Disagreement], None] = _unheard,
        use_embedded: bool = True,
        require_amd_crl: bool = False,
    ) -> None:
        self._roots = roots
        self._source = source
        self._cache = cache
        self._mode = mode
        self._exceptions = exceptions
        self._guard = guard
        self._on_disagreement = on_disagreement
        self._use_embedded = use_embedded
        self._require_amd_crl = require_amd_crl

    def __call__(self, evidence: bytes, *, now: int) -> Claims:
        """Verify binary evidence as of ``now`` (Unix seconds).

        Raises:
            EvidenceError: the evidence is not authentic, or of no known kind;
                ``verifiers_disagree``. Where a verifier refused, ``checks`` says what
                was checked, the failed check last.
            CollateralError: it cannot be judged.

        Does not check: measurements, report data, TCB status and debug of SNP policies;
        those are the policy's.
        """
        if detect(evidence) is EvidenceKind.QUOTE:
            return self._quote(evidence, now=now)
        return self._report(evidence, now=now)

    def _quote(self, evidence: bytes, *, now: int) -> Claims:
        with _named(_STRUCTURE_FAILED):
            quote = parse_quote(evidence)
        with _named(_QUERY_FAILED):
            query = collateral_query(quote, roots=self._roots.intel, cache=self._cache)
        if self._would_fetch(query, now=now):
            with _named(_CHAIN_FAILED):
                require_chain(quote, roots=self._roots.intel, cache=self._cache)
        collateral = self._source.intel(
            fmspc=query.fmspc, ca=query.ca, tee=query.tee, now=now
        )
        declared = evidence[: quote.declared_length]
        if self._mode is VerifierMode.DCAP_QVL:
            return self._qvl_alone(declared, collateral, now=now)
        native = self._native(evidence, collateral, now=now)
        if self._mode is VerifierMode.NATIVE:
            if isinstance(native, TightsealError):
                raise native
            return replace(native, single_verifier=True)
        return agree(
            native,
            self._second_opinion(native, declared, collateral, now=now),
            evidence_hash=hashlib.sha256(declared).digest(),
            exceptions=self._exceptions,
            on_disagreement=self._on_disagreement,
        )

    def _would_fetch(self, query: CollateralQuery, *, now: int) -> bool:
        source = self._source
        if not isinstance(source, CachingSource):
            return False
        return not source.at_hand(
            fmspc=query.fmspc, ca=query.ca, tee=query.tee, now=now
        )

    def _native(
        self, evidence: bytes, collateral: IntelCollateral, *, now: int
    ) -> Claims | TightsealError:
        try:
            return verify_quote(
                evidence,
                collateral,
                now=now,
                roots=self._roots.intel,
                guard=self._guard,
                cache=self._cache,
                exceptions=self._exceptions,
            )
        except (EvidenceError, CollateralError) as error:
            return error

    def _second_opinion(
        self,
        native: Claims | TightsealError,
        declared: bytes,
        collateral: IntelCollateral,
        *,
        now: int,
    ) -> QvlAnswer:
        """Ask dcap-qvl under the root that the native verifier found, or any."""
        roots = self._roots.intel
        if isinstance(native, TightsealError):
            return judge_any(declared, collateral, now=now, roots=roots)[0]
        for root in roots:
            if root.trust_domain == native.trust_domain:
                return judge(declared, collateral, now=now, root=root)
        return QvlRefusal("no root for the native verifier's trust domain")

    def _qvl_alone(
        self, declared: bytes, collateral: IntelCollateral, *, now: int
    ) -> Claims:
        answer, root = judge_any(declared, collateral, now=now, roots=self._roots.intel)
        if isinstance(answer, QvlRefusal):
            raise self._qvl_error(answer, root, declared, collateral, now=now)
        claims = (
            None
            if root is None
            else claims_of(
                answer.claims, quote=declared, trust_domain=root.trust_domain
            )
        )
        if claims is None:
            detail = "dcap-qvl accepts, but its claims are of an unknown form"
            raise EvidenceError(Code.VERIFIERS_DISAGREE, detail)
        return claims

    def _qvl_error(
        self,
        refusal: QvlRefusal,
        root: TrustedRoot | None,
        declared: bytes,
        collateral: IntelCollateral,
        *,
        now: int,
    ) -> EvidenceError:
        if root is None:
            error = EvidenceError(Code.ROOT_NOT_TRUSTED, f"dcap-qvl: {refusal.message}")
        else:
            reason = explain(declared, collateral, now=now, root=root)
            if not reason.startswith(refusal.message):
                reason = refusal.message
            error = EvidenceError(code_of(reason), f"dcap-qvl: {reason}")
        error.checks = (Check(CHECK_NAME, Outcome.FAILED, SPEC),)
        return error

    def _report(self, evidence: bytes, *, now: int) -> Claims:
        if self._mode is VerifierMode.DCAP_QVL:
            detail = "SEV-SNP, and dcap-qvl alone may judge: it knows Intel's only"
            raise EvidenceError(Code.EVIDENCE_KIND_UNSUPPORTED, detail)
        embedded = embedded_certificates(evidence) if self._use_embedded else None
        if embedded is None:
            return self._judge_report(evidence, self._fetch(evidence, now=now), now=now)
        try:
            # Without memory: what the chain is must be known to ask for its CRL.
            claims = verify_report(
                evidence, embedded, now=now, roots=self._roots.amd, cache=self._cache
            )
        except EvidenceError as refusal:
            # Hosts keep stale tables: the certificates may be at fault, not the report.
            try:
                fetched = self._fetch(evidence, now=now)
            except CollateralError:
                raise refusal from None
            return self._judge_report(evidence, fetched, now=now)
        crl = self._crl(evidence, claims, now=now)
        return self._judge_report(evidence, replace(embedded, crl=crl), now=now)

    def _judge_report(
        self, evidence: bytes, certificates: SnpCertificates, *, now: int
    ) -> Claims:
        return verify_report(
            evidence,
            certificates,
            now=now,
            roots=self._roots.amd,
            cache=self._cache,
            guard=self._guard,
            require_crl=self._require_amd_crl,
        )

    def _crl(self, evidence: bytes, claims: Claims, *, now: int) -> bytes | None:
        """AMD's CRL from our own source, for certificates that the workload brought.

        ``None`` where the source has none to give; the claims then say so, unless
        there was one before.
        """
        source = self._source
        if not isinstance(source, SnpIssuerSource):
            return None
        vlek = _query(evidence).vlek
        domain = claims.trust_domain
        product = next(
            (r.product for r in self._roots.amd if r.trust_domain == domain), ""
        )
        try:
            return source.snp_issuers(product=product, vlek=vlek, now=now).crl
        except CollateralError as error:
            if error.code not in _NOT_THERE:
                raise
            return None

    def _fetch(self, evidence: bytes, *, now: int) -> SnpCertificates:
        query = _query(evidence)
        products = UNNAMED_PRODUCTS if query.product is None else (query.product,)
        missing = CollateralError(Code.COLLATERAL_UNAVAILABLE, "no product line")
        for product in products:
            try:
                return self._source.snp(
                    product=product,
                    chip_id=query.chip_id,
                    tcb=query.tcb,
                    vlek=query.vlek,
                    now=now,
                )
            except CollateralError as error:
                if error.code not in _NOT_THERE:
                    raise
                missing = error
        raise missing


def _query(evidence: bytes) -> CertificateQuery:
    return certificate_query(parse_report(split_evidence(evidence).report))
