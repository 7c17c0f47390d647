# SPDX-License-Identifier: Apache-2.0
"""Two verifiers on spoiled evidence: they may differ by the rules of the table alone.

``python tests/fuzz/differential.py --count 20000 --seed 1`` judges that many inputs
with the native verifier and with dcap-qvl. Every input follows from seed and number,
so ``--only N`` with the same seed repeats one. Exit status 1 where something was found.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Final, TypeAlias

from cryptography import x509
from fuzz_collateral import COLLATERAL_MUTATORS, TIME_MUTATORS, WHOLE_MUTATORS
from fuzz_quote import PART_MUTATORS, QUOTE_MUTATORS
from fuzz_scenes import Cast, Draft, cast, real_drafts, sim_drafts

from tightseal.errors import EvidenceError, TightsealError
from tightseal.evidence.agreement import Disagreement, agree, exceptions_needed
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.differences import difference_by_error, difference_of
from tightseal.evidence.intel.certs import decode_chain, parse_certificate
from tightseal.evidence.intel.pck import PckExtension, parse_pck_extension
from tightseal.evidence.intel.quote import parse_quote
from tightseal.evidence.intel.verifier import CHECKS, verify_quote
from tightseal.evidence.qvl import QvlAnswer, QvlOpinion, QvlRefusal, judge
from tightseal.evidence.qvl_claims import claims_of
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.claims import Check, Claims, Outcome, SnpTcb, Tee
from tightseal.model.collateral import IntelCollateral, SnpCertificates
from tightseal.model.roots import TrustedRoot, TrustedRoots
from tightseal.model.verifiers import VerifierException, VerifierMode
from tightseal_sim.intel.collateral import collateral_json

__all__ = ["Finding", "Result", "Trial", "run", "trial", "write_findings"]

VECTORS: Final = Path(
    os.environ.get("TIGHTSEAL_VECTORS")
    or Path(__file__).resolve().parents[3] / "shared" / "vectors"
)
MAX_FINDINGS: Final = 50
"""Most inputs that are kept; the run goes on counting."""

PROGRESS_EVERY: Final = 500
ENTRANCE_EVERY: Final = 8
"""One in so many inputs also goes through the entrance that services use."""

_RESIGNED: Final = frozenset(
    {
        "quote.certificate_content",
        "quote.certificate_form",
        "collateral.issuer_chain",
    }
)

_REAL_SHARE: Final = 0.12
_CASE_SHARE: Final = 0.12


@dataclass(frozen=True)
class Trial:
    """One input.

    Attributes:
        number: which of the run.
        name: what it was made from.
        steps: what was done to it.
        evidence, collateral, now, root, exceptions: what the verifiers are asked.
    """

    number: int
    name: str
    steps: tuple[str, ...]
    evidence: bytes
    collateral: IntelCollateral
    now: int
    root: TrustedRoot
    exceptions: frozenset[VerifierException]


@dataclass(frozen=True)
class Finding:
    """An input on which the verifiers differ without a rule, or something leaked."""

    trial: Trial
    kind: str
    detail: str


@dataclass
class Result:
    """What came of a run.

    Attributes:
        count, seed, seconds: of the run.
        steps: how often each mutation was made.
        reached: how many inputs were judged by each check of the native verifier.
        failed: how many ended at it.
        codes: answers of the native verifier.
        qvl: answers of dcap-qvl, by the beginning of its message.
        both_accept: accepted by both, with the same claims.
        rules: inputs on which they differ, by the rule that explains it.
        panics: panics of dcap-qvl, contained as refusals.
        findings: at most ``MAX_FINDINGS``; ``found`` counts all.
    """

    count: int = 0
    seed: int = 0
    seconds: float = 0.0
    steps: Counter[str] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    qvl: Counter[str] = field(default_factory=Counter)
    both_accept: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    panics: int = 0
    found: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Count a finding, and keep the first ones."""
        self.found += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)


# -- inputs ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Stock:
    """Everything that inputs are made from."""

    cast: Cast
    parts: tuple[Draft, ...]
    cases: tuple[Draft, ...]
    real: tuple[Draft, ...]

    @classmethod
    def open(cls, vectors: Path | None) -> Stock:
        """The simulated world, and real evidence where it is there."""
        found = sim_drafts()
        return cls(
            cast=cast(),
            parts=tuple(d for d in found if d.parts is not None),
            cases=tuple(d for d in found if d.parts is None),
            real=() if vectors is None else real_drafts(vectors),
        )


def _pick(rng: Random, table: Sequence[tuple[int, Any]]) -> Any:
    return rng.choices([m for _, m in table], [w for w, _ in table])[0]


def trial(stock: Stock, seed: int, number: int) -> Trial:
    """The input of this number in the run of this seed."""
    rng = Random(f"{seed}/{number}")
    share = rng.random()
    if stock.real and share < _REAL_SHARE:
        draft = rng.choice(stock.real).fresh()
    elif share < _REAL_SHARE + _CASE_SHARE:
        draft = rng.choice(stock.cases).fresh()
    else:
        draft = rng.choice(stock.parts).fresh()
    for _ in range(rng.choice((0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3))):
        _spoil(draft, rng, stock.cast)
    every = frozenset(VerifierException)
    return Trial(
        number=number,
        name=draft.name,
        steps=tuple(draft.steps),
        evidence=draft.evidence(),
        collateral=draft.whole_collateral(),
        now=draft.now,
        root=draft.root,
        exceptions=every if rng.random() < 0.25 else frozenset(),
    )


def _spoil(draft: Draft, rng: Random, cast: Cast) -> None:
    """One mutation, of what the draft has."""
    share = rng.random()
    if draft.parts is not None and share < 0.4:
        mutate = _pick(rng, PART_MUTATORS)
        draft.parts = mutate(draft.parts, rng, cast)
    elif draft.collateral_parts is not None and share < 0.75:
        mutate = _pick(rng, COLLATERAL_MUTATORS)
        draft.collateral_parts = mutate(draft.collateral_parts, rng, cast)
    else:
        tables = (QUOTE_MUTATORS, WHOLE_MUTATORS, TIME_MUTATORS)
        mutate = _pick(rng, rng.choices(tables, (5, 3, 3))[0])
        mutate(draft, rng, cast)
    module = mutate.__module__.removeprefix("fuzz_")
    draft.steps.append(f"{module}.{mutate.__name__}")


# -- judging ---------------------------------------------------------------------------


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


# -- runs ------------------------------------------------------------------------------


def run(
    count: int,
    seed: int,
    *,
    vectors: Path | None = VECTORS,
    first: int = 0,
    progress: Callable[[int, Result], object] | None = None,
) -> Result:
    """Judge inputs.

    Args:
        count: how many.
        seed: decides all of them.
        vectors: folder of real evidence; ``None``, or one without any, leaves it out.
        first: number of the first input.
        progress: called every ``PROGRESS_EVERY`` inputs.
    """
    stock = Stock.open(vectors)
    result = Result(count=count, seed=seed)
    judging = Judge(result)
    begun = time.monotonic()
    for number in range(first, first + count):
        judging.judge(trial(stock, seed, number))
        result.seconds = time.monotonic() - begun
        if progress is not None and (number - first + 1) % PROGRESS_EVERY == 0:
            progress(number - first + 1, result)
    return result


def command(finding: Finding, seed: int) -> str:
    """What repeats a finding."""
    number = finding.trial.number
    return f"python tests/fuzz/differential.py --seed {seed} --only {number}"


def write_findings(result: Result, path: Path) -> None:
    """Write what was found, each with what repeats it and with all that was judged."""
    rows = []
    for finding in result.findings:
        given = finding.trial
        root = given.root.certificate
        rows.append(
            {
                "command": command(finding, result.seed),
                "kind": finding.kind,
                "detail": finding.detail,
                "made_from": given.name,
                "steps": list(given.steps),
                "now": given.now,
                "exceptions": sorted(given.exceptions),
                "root": None if root is None else root.hex(),
                "evidence": given.evidence.hex(),
                "collateral": json.loads(collateral_json(given.collateral)),
            }
        )
    path.write_text(json.dumps(rows, indent=1))


def report(result: Result) -> str:
    """The run in words: what was reached, answered and found."""
    rate = result.count / result.seconds if result.seconds else 0.0
    lines = [
        f"{result.count} inputs of seed {result.seed}",
        f"in {result.seconds:.1f} s ({rate:.0f} a second)",
        f"accepted by both with the same claims: {result.both_accept}",
        f"panics of dcap-qvl, contained: {result.panics}",
        "",
        f"{'check':<24} {'reached':>8} {'refused':>8}",
    ]
    lines += [
        f"{rule.name:<24} {result.reached[rule.name]:>8} {result.failed[rule.name]:>8}"
        for rule in CHECKS
    ]
    for title, table in (
        ("native verifier", result.codes),
        ("dcap-qvl", result.qvl),
        ("differ by rule", result.rules),
        ("mutations", result.steps),
    ):
        lines += ["", title]
        lines += [f"  {n:>7}  {name}" for name, n in table.most_common()]
    lines += ["", f"findings: {result.found}"]
    for finding in result.findings:
        steps = ", ".join(finding.trial.steps) or "nothing"
        lines.append(f"  {finding.kind}: {finding.detail[-700:]}")
        lines.append(f"    {finding.trial.name}: {steps}")
        lines.append(f"    {command(finding, result.seed)}")
    return "\n".join(lines)


def as_json(result: Result) -> str:
    """The run for programs."""
    return json.dumps(
        {
            "count": result.count,
            "seed": result.seed,
            "seconds": round(result.seconds, 3),
            "both_accept": result.both_accept,
            "panics": result.panics,
            "reached": dict(result.reached),
            "failed": dict(result.failed),
            "codes": dict(result.codes),
            "dcap_qvl": dict(result.qvl),
            "rules": dict(result.rules),
            "steps": dict(result.steps),
            "found": result.found,
            "findings": [
                {
                    "kind": f.kind,
                    "detail": f.detail,
                    "made_from": f.trial.name,
                    "steps": list(f.trial.steps),
                    "command": command(f, result.seed),
                }
                for f in result.findings
            ],
        },
        indent=1,
    )


def show_progress(done: int, result: Result) -> None:
    """One line on stderr that is written over."""
    text = f"\r{done} inputs, {result.seconds:.0f} s, {result.found} findings"
    sys.stderr.write(text)
    sys.stderr.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="N", help="the Nth input alone")
    parser.add_argument("--vectors", type=Path, default=VECTORS)
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--out", type=Path, help="where findings are written")
    given = parser.parse_args(argv)
    count, first = (given.count, 0) if given.only is None else (1, given.only)
    result = run(
        count,
        given.seed,
        vectors=given.vectors,
        first=first,
        progress=show_progress,
    )
    sys.stderr.write("\n")
    sys.stdout.write((as_json(result) if given.as_json else report(result)) + "\n")
    if not result.findings:
        return 0
    out = given.out
    if out is None:
        name = f"tightseal-differential-{given.seed}.json"
        out = Path(tempfile.gettempdir()) / name
    write_findings(result, out)
    sys.stderr.write(f"findings written to {out}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
