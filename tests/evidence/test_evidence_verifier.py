# SPDX-License-Identifier: Apache-2.0
"""The one entrance: every defect by name, every mode, real evidence in both views."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import dcap_qvl
import pytest

from tightseal.collateral.bundle import FileSource, intel_from_json
from tightseal.collateral.guard import MemoryGuard
from tightseal.collateral.guardfile import FileGuard
from tightseal.errors import Code, CollateralError, EvidenceError, TightsealError
from tightseal.evidence import qvl
from tightseal.evidence.agreement import Disagreement
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.detect import EvidenceKind, detect
from tightseal.evidence.qvl import QvlRefusal, judge
from tightseal.evidence.roots import VENDOR_ROOTS
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.claims import Check, Claims, Outcome, SnpTcb, Tee
from tightseal.model.collateral import (
    CollateralSource,
    IntelCollateral,
    SnpCertificates,
)
from tightseal.model.roots import TrustedRoots
from tightseal.model.secret import Secret
from tightseal.model.verifiers import VerifierException, VerifierMode
from tightseal_sim.amd.defects import good_cases
from tightseal_sim.amd.world import AmdWorld
from tightseal_sim.defects import Case, intel_cases

NOW = 1_790_000_000
CASES = intel_cases(NOW)
MODES = list(VerifierMode)

SEEN_EARLIER = {
    # Refused before the verifier's list begins.
    "empty": Code.EVIDENCE_UNREADABLE,
}


@dataclass
class Given:
    """A source that gives what it was given, and counts."""

    collateral: IntelCollateral | None = None
    certificates: SnpCertificates | None = None
    asked: int = 0

    def intel(self, *, fmspc: bytes, ca: str, tee: Tee, now: int) -> IntelCollateral:
        assert len(fmspc) == 6
        assert ca in {"platform", "processor"}
        assert tee in {Tee.SGX, Tee.TDX}
        assert now
        self.asked += 1
        if self.collateral is None:
            raise CollateralError(Code.COLLATERAL_UNAVAILABLE, "nothing here")
        return self.collateral

    def snp(
        self, *, product: str, chip_id: bytes, tcb: SnpTcb, vlek: bool, now: int
    ) -> SnpCertificates:
        del chip_id, tcb, vlek, now
        self.asked += 1
        if self.certificates is None:
            raise CollateralError(Code.COLLATERAL_NOT_FOUND, product)
        return self.certificates


def verifier(
    source: CollateralSource,
    roots: TrustedRoots,
    heard: list[Disagreement],
    *,
    mode: VerifierMode = VerifierMode.BOTH,
    exceptions: frozenset[VerifierException] = frozenset(),
    guard: MemoryGuard | None = None,
) -> EvidenceVerifier:
    return EvidenceVerifier(
        roots=roots,
        source=source,
        cache=ResultCache(64),
        mode=mode,
        exceptions=exceptions,
        guard=guard,
        on_disagreement=heard.append,
    )


def judged(
    case: Case,
    mode: VerifierMode,
    exceptions: frozenset[VerifierException] = frozenset(),
) -> tuple[Claims | Code, list[Disagreement]]:
    heard: list[Disagreement] = []
    roots, guard = TrustedRoots(intel=(case.root,)), MemoryGuard(floors=())
    answer: Claims | Code = Code.INTERNAL
    for collateral in (case.seen_before, case.collateral):
        if collateral is None:
            continue
        heard.clear()
        verify = verifier(
            Given(collateral),
            roots,
            heard,
            mode=mode,
            exceptions=exceptions,
            guard=guard,
        )
        try:
            answer = verify(case.evidence, now=case.now)
        except TightsealError as error:
            answer = error.code
    return answer, heard


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_both_verifiers_on_every_defect(case: Case) -> None:
    answer, heard = judged(case, VerifierMode.BOTH)
    expected = SEEN_EARLIER.get(case.name, case.both)
    if isinstance(answer, Claims):
        assert expected is None
        assert answer.tcb is not None
        assert answer.tcb.status is case.status
        assert answer.tcb.advisory_ids == case.expect.advisories
        assert not answer.single_verifier
    else:
        assert answer is expected
    # Whatever only one of them refuses is explained by a rule of the table.
    assert all(found.rule is not None for found in heard)


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_native_alone_on_every_defect(case: Case) -> None:
    answer, heard = judged(case, VerifierMode.NATIVE)
    assert heard == []
    if isinstance(answer, Claims):
        assert case.native is None
        assert answer.single_verifier
    else:
        assert answer is SEEN_EARLIER.get(case.name, case.native)


LAX = {c.name for c in CASES if c.qvl is None and c.native is not None}
PARSED_BY_US = ("trailing_garbage", "pck_ca_name")
"""Lax cases that our parser or the query for collateral refuses in every mode."""


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_dcap_qvl_alone_on_every_defect(case: Case) -> None:
    answer, heard = judged(case, VerifierMode.DCAP_QVL)
    assert heard == []
    if case.name.startswith(PARSED_BY_US) or case.qvl is not None:
        assert isinstance(answer, Code)
    else:
        assert isinstance(answer, Claims)
        assert answer.single_verifier
        assert [c.name for c in answer.checks] == ["dcap_qvl"]


def test_the_lax_cases_are_there() -> None:
    assert len(LAX) >= 15


EXCEPTED = [c for c in CASES if c.exception is not None]


@pytest.mark.parametrize("case", EXCEPTED, ids=[c.name for c in EXCEPTED])
def test_named_exceptions(case: Case) -> None:
    assert case.exception is not None
    answer, heard = judged(case, VerifierMode.BOTH, frozenset({case.exception}))
    assert isinstance(answer, Claims)
    assert answer.single_verifier
    assert heard == []
    others = frozenset(set(VerifierException) - {case.exception})
    answer, _ = judged(case, VerifierMode.BOTH, others)
    assert answer is case.both


def accepted(vectors: Path) -> list[tuple[bytes, IntelCollateral, int]]:
    found = []
    for entry in json.loads((vectors / "dcap" / "INDEX.json").read_text()):
        verdict = entry.get("verdict")
        if verdict and "status" in verdict:
            folder = vectors / "dcap" / entry["name"]
            collateral = intel_from_json((folder / "collateral.json").read_bytes())
            quote = (folder / "quote.bin").read_bytes()
            found.append((quote, collateral, verdict["now"]))
    return found


def test_both_verifiers_say_the_same_of_real_evidence(vectors: Path) -> None:
    seen = accepted(vectors)
    assert len(seen) == 8
    for quote, collateral, now in seen:
        views = []
        for mode in (VerifierMode.NATIVE, VerifierMode.DCAP_QVL):
            heard: list[Disagreement] = []
            claims = verifier(Given(collateral), VENDOR_ROOTS, heard, mode=mode)(
                quote, now=now
            )
            assert claims.tcb is not None
            same = replace(claims, checks=(), not_checked=())
            views.append(replace(same, tcb=replace(claims.tcb, date="")))
        assert dict(views[0].measurements) == dict(views[1].measurements)
        assert views[0] == views[1]


REFUSED = [c for c in CASES if c.both is not None and c.name not in SEEN_EARLIER]


@pytest.mark.parametrize("mode", [VerifierMode.BOTH, VerifierMode.NATIVE])
def test_failed_checks_come_with_every_refusal(mode: VerifierMode) -> None:
    for case in REFUSED:
        if mode is VerifierMode.NATIVE and case.native is None:
            continue
        if case.seen_before is not None:
            continue
        roots = TrustedRoots(intel=(case.root,))
        verify = verifier(Given(case.collateral), roots, [], mode=mode)
        with pytest.raises(TightsealError) as error:
            verify(case.evidence, now=case.now)
        outcomes = [check.outcome for check in checks_of(error.value)]
        assert outcomes[-1] is Outcome.FAILED, case.name
        assert Outcome.FAILED not in outcomes[:-1]


def checks_of(error: TightsealError) -> list[Check]:
    return [check for check in error.checks if isinstance(check, Check)]


def test_unavailable_collateral_is_not_a_verdict_on_the_evidence() -> None:
    case = CASES[0]
    verify = verifier(Given(), TrustedRoots(intel=(case.root,)), [])
    with pytest.raises(CollateralError) as error:
        verify(case.evidence, now=NOW)
    assert error.value.code is Code.COLLATERAL_UNAVAILABLE


@pytest.fixture(scope="module")
def amd() -> AmdWorld:
    return AmdWorld(None, bytes(32))


def test_snp_has_one_verifier(amd: AmdWorld) -> None:
    roots = TrustedRoots(amd=tuple(amd.trusted_roots))
    for case in good_cases(NOW, world=amd):
        source = Given(certificates=case.certificates)
        claims = verifier(source, roots, [])(case.evidence, now=NOW)
        assert claims.tee is Tee.SNP, case.name
        assert claims.single_verifier
        embedded = detect(case.evidence) is EvidenceKind.SNP_EXTENDED
        assert (source.asked == 0) == embedded, case.name


def test_dcap_qvl_alone_cannot_judge_snp(amd: AmdWorld) -> None:
    roots = TrustedRoots(amd=tuple(amd.trusted_roots))
    verify = verifier(Given(), roots, [], mode=VerifierMode.DCAP_QVL)
    for case in good_cases(NOW, world=amd):
        with pytest.raises(EvidenceError) as error:
            verify(case.evidence, now=NOW)
        assert error.value.code is Code.EVIDENCE_KIND_UNSUPPORTED


def test_snp_without_certificates_is_unavailable(amd: AmdWorld) -> None:
    roots = TrustedRoots(amd=tuple(amd.trusted_roots))
    [case, *_] = good_cases(NOW, world=amd)
    with pytest.raises(CollateralError) as error:
        verifier(Given(), roots, [])(case.evidence[:1184], now=NOW)
    assert error.value.code is Code.COLLATERAL_NOT_FOUND


@dataclass(frozen=True)
class Issuers:
    crl: bytes | None


class Issuing(Given):
    """A source that also knows what stands above a signer."""

    answer: Issuers | CollateralError = Issuers(None)

    def snp_issuers(self, *, product: str, vlek: bool, now: int) -> Issuers:
        assert product in {"Milan", "Genoa", "Turin"}
        assert vlek in {True, False}
        assert now
        if isinstance(self.answer, CollateralError):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Issuers(None), None),
        (CollateralError(Code.COLLATERAL_NOT_FOUND, "none published"), None),
        (CollateralError(Code.COLLATERAL_UNAVAILABLE, "nobody to ask"), None),
        (Issuers(b"not a CRL"), Code.CRL_MALFORMED),
        (CollateralError(Code.COLLATERAL_ROLLBACK, "older"), Code.COLLATERAL_ROLLBACK),
    ],
)
def test_our_own_crl_judges_certificates_that_came_along(
    amd: AmdWorld, answer: Issuers | CollateralError, code: Code | None
) -> None:
    roots = TrustedRoots(amd=tuple(amd.trusted_roots))
    cases = [
        case
        for case in good_cases(NOW, world=amd)
        if detect(case.evidence) is EvidenceKind.SNP_EXTENDED
    ]
    assert cases
    for case in cases:
        source = Issuing()
        source.answer = answer
        verify = verifier(source, roots, [])
        if code is None:
            claims = verify(case.evidence, now=NOW)
            assert any("CRL" in text for text in claims.not_checked)
            continue
        with pytest.raises(CollateralError) as error:
            verify(case.evidence, now=NOW)
        assert error.value.code is code


class Distribution(Issuing):
    """Gives the CRL of a world, until it is told to answer something else."""

    def __init__(self, amd: AmdWorld) -> None:
        super().__init__()
        self.amd = amd
        self.blocked = False

    def snp_issuers(self, *, product: str, vlek: bool, now: int) -> Issuers:
        if self.blocked:
            return super().snp_issuers(product=product, vlek=vlek, now=now)
        return Issuers(self.amd.crl(product, now=now, vlek=vlek))


def embedding(amd: AmdWorld) -> bytes:
    return next(
        case.evidence
        for case in good_cases(NOW, world=amd)
        if detect(case.evidence) is EvidenceKind.SNP_EXTENDED
    )


@pytest.mark.parametrize(
    "answer",
    [
        Issuers(None),
        CollateralError(Code.COLLATERAL_NOT_FOUND, "none published"),
        CollateralError(Code.COLLATERAL_UNAVAILABLE, "nobody to ask"),
    ],
)
def test_a_host_cannot_keep_a_crl_away_that_was_seen_before(
    amd: AmdWorld, answer: Issuers | CollateralError, tmp_path: Path
) -> None:
    roots = TrustedRoots(amd=tuple(amd.trusted_roots))
    evidence = embedding(amd)
    source = Distribution(amd)
    source.answer = answer
    path, key = tmp_path / "guard", Secret(bytes(32))
    FileGuard.create(path, key=key)

    def without_crl(*, blocked: bool) -> bool:
        """As judged by a process that has just started."""
        source.blocked = blocked
        verify = verifier(source, roots, [], guard=FileGuard.open(path, key=key))
        claims = verify(evidence, now=NOW)
        return any("no CRL" in text for text in claims.not_checked)

    assert without_crl(blocked=True)
    assert not without_crl(blocked=False)
    with pytest.raises(CollateralError) as refused:
        without_crl(blocked=True)
    assert refused.value.code is Code.COLLATERAL_UNAVAILABLE
    assert not without_crl(blocked=False)


def test_a_library_user_can_require_the_crl_from_the_start(amd: AmdWorld) -> None:
    source = Distribution(amd)
    verify = EvidenceVerifier(
        roots=TrustedRoots(amd=tuple(amd.trusted_roots)),
        source=source,
        cache=ResultCache(64),
        require_amd_crl=True,
    )
    assert verify(embedding(amd), now=NOW).tee is Tee.SNP
    source.blocked = True
    with pytest.raises(CollateralError) as refused:
        verify(embedding(amd), now=NOW)
    assert refused.value.code is Code.COLLATERAL_UNAVAILABLE


class PanicException(BaseException):
    """What a panic in a Rust extension looks like from Python."""


@pytest.mark.parametrize(
    "raised", [PanicException("at the disco"), ValueError("x"), OverflowError("y")]
)
def test_whatever_the_library_raises_is_a_refusal(
    raised: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, *_: bytes) -> None:
            raise raised

    monkeypatch.setattr(qvl.dcap_qvl, "QuoteVerifier", Broken)
    case = CASES[0]
    answer = judge(case.evidence, case.collateral, now=NOW, root=case.root)
    assert isinstance(answer, QvlRefusal)
    assert str(raised) in answer.message


def test_a_process_that_is_asked_to_stop_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, *_: bytes) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(qvl.dcap_qvl, "QuoteVerifier", Broken)
    case = CASES[0]
    with pytest.raises(KeyboardInterrupt):
        judge(case.evidence, case.collateral, now=NOW, root=case.root)


@pytest.mark.parametrize("now", [-1, 1 << 64])
def test_times_that_the_library_cannot_take(now: int) -> None:
    case = CASES[0]
    answer = judge(case.evidence, case.collateral, now=now, root=case.root)
    assert isinstance(answer, QvlRefusal)


def test_a_claims_form_of_another_version_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Later:
        def __init__(self, *_: bytes) -> None: ...

        def verify_with_policy(self, *_: object) -> "Later":
            return self

        def to_json(self) -> str:
            return '{"claims_version": 2}'

    monkeypatch.setattr(qvl.dcap_qvl, "QuoteVerifier", Later)
    case = CASES[0]
    answer = judge(case.evidence, case.collateral, now=NOW, root=case.root)
    assert isinstance(answer, QvlRefusal)
    assert "form" in answer.message


def test_the_library_never_gets_a_chain_from_the_collateral(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[object] = []
    real = dcap_qvl.QuoteVerifier

    class Watched:
        def __init__(self, *roots: bytes) -> None:
            self.inner = real(*roots)

        def verify_with_policy(
            self, quote: bytes, collateral: object, *rest: object
        ) -> object:
            seen.append(json.loads(collateral.to_json()))  # type: ignore[attr-defined]
            return self.inner.verify_with_policy(quote, collateral, *rest)

    monkeypatch.setattr(qvl.dcap_qvl, "QuoteVerifier", Watched)
    case = next(c for c in CASES if c.collateral.pck_certificate_chain is not None)
    judge(case.evidence, case.collateral, now=NOW, root=case.root)
    assert [c.get("pck_certificate_chain") for c in seen] == [None]  # type: ignore[attr-defined]


def test_file_source_is_a_collateral_source(vectors: Path) -> None:
    folder = vectors / "snp" / "snp-milan-trustee"
    verify = verifier(FileSource(folder), VENDOR_ROOTS, [])
    claims = verify((folder / "report.bin").read_bytes(), now=1_735_689_600)
    assert str(claims.trust_domain) == "amd"
