# SPDX-License-Identifier: Apache-2.0
"""Twenty thousand spoiled inputs: two verifiers, and only the table's differences."""

import sys
from dataclasses import replace
from pathlib import Path

import differential
import fuzz_judging
import pytest
from fuzz_judging import Judge
from fuzz_trials import VECTORS, Finding, Result, Stock, trial

from tightseal.errors import Code, EvidenceError
from tightseal.evidence.differences import DIFFERENCES
from tightseal.evidence.intel.verifier import CHECKS
from tightseal.evidence.qvl import QvlRefusal
from tightseal.model.claims import Outcome

COUNT = 20_000
SOAK_COUNT = 500_000
SEED = 20_240_313

GUARDED = {"root_crl_rollback", "collateral_rollback"}
"""Checks that nothing can fail without a memory of collateral."""

NEVER_FIRST = {
    # What they refuse lies behind another check under any certificate that there is:
    # padding is read with the structure; the signing certificates live as the root.
    "quote_padding",
    "tcb_signing_validity",
}


def judged(count: int, seed: int, folder: Path) -> Result:
    def progress(done: int, result: Result) -> None:
        differential.show_progress(done, result)

    result = differential.run(count, seed, progress=progress)
    sys.stderr.write("\n")
    if result.found:
        path = folder / "findings.json"
        differential.write_findings(result, path)
        text = differential.report(result)
        pytest.fail(f"{text}\nwritten to {path}", pytrace=False)
    return result


def test_they_differ_by_the_rules_alone(tmp_path: Path) -> None:
    result = judged(COUNT, SEED, tmp_path)
    sys.stdout.write(differential.report(result))
    assert result.panics == 0
    assert result.both_accept > COUNT // 10
    names = {rule.name for rule in CHECKS}
    assert all(result.reached[name] > COUNT // 10 for name in names)
    # A fuzzer that no longer reaches a check says nothing about it.
    assert {n for n in names if not result.failed[n]} <= GUARDED | NEVER_FIRST
    assert len(result.codes) > 40
    assert len(result.rules) > 15


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_they_differ_by_the_rules_alone_for_long(seed: int, tmp_path: Path) -> None:
    judged(SOAK_COUNT, seed, tmp_path)


@pytest.fixture(scope="module")
def stock() -> Stock:
    return Stock.open(VECTORS)


def test_the_same_seed_makes_the_same_inputs(stock: Stock) -> None:
    again = Stock.open(VECTORS)
    for number in range(300):
        first, second = trial(stock, SEED, number), trial(again, SEED, number)
        assert first == second
    assert trial(stock, SEED, 1) != trial(stock, SEED + 1, 1)


def findings(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    judge = Judge(Result())
    monkeypatch.setattr(fuzz_judging, "ENTRANCE_EVERY", 1 << 60)
    for number in range(400):
        judge.judge(trial(stock, SEED, number))
    return judge.result.findings


def test_a_verifier_that_is_too_lax_is_noticed(
    stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = trial(stock, SEED, 0)
    good = replace(good, evidence=stock.parts[0].evidence(), exceptions=frozenset())
    good = replace(good, collateral=stock.parts[0].whole_collateral())
    good = replace(good, now=stock.parts[0].now, root=stock.parts[0].root)
    claims = fuzz_judging._native(good, None)
    monkeypatch.setattr(fuzz_judging, "_native", lambda *_: claims)
    kinds = {finding.kind for finding in findings(stock, monkeypatch)}
    assert {"dcap_qvl_refuses", "claims_differ"} <= kinds


def test_a_verifier_that_is_too_strict_is_noticed(
    stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = EvidenceError(Code.QUOTE_SIGNATURE_INVALID, "always")
    error.checks = (CHECKS[0].record(Outcome.FAILED),)
    monkeypatch.setattr(fuzz_judging, "_native", lambda *_: error)
    kinds = {finding.kind for finding in findings(stock, monkeypatch)}
    assert kinds == {"native_refuses"}


def test_a_leak_is_noticed(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaks(*_: object) -> None:
        raise KeyError("leaked")

    monkeypatch.setattr(fuzz_judging, "_native", leaks)
    found = findings(stock, monkeypatch)
    assert {finding.kind for finding in found} == {"leak"}
    assert "leaked" in found[0].detail


def test_a_second_verifier_that_never_accepts_is_noticed(
    stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = QvlRefusal("no")
    monkeypatch.setattr(fuzz_judging, "judge", lambda *_, **__: refusal)
    kinds = {finding.kind for finding in findings(stock, monkeypatch)}
    assert kinds == {"dcap_qvl_refuses"}


def test_findings_are_written_with_what_repeats_them(
    stock: Stock, tmp_path: Path
) -> None:
    result = Result(count=1, seed=7)
    result.add(Finding(trial(stock, 7, 3), "leak", "detail"))
    differential.write_findings(result, tmp_path / "found.json")
    text = (tmp_path / "found.json").read_text()
    assert "differential.py --seed 7 --only 3" in text
    assert '"evidence"' in text


def test_every_rule_that_the_run_counts_is_in_the_table(stock: Stock) -> None:
    judge = Judge(Result())
    for number in range(2_000):
        judge.judge(trial(stock, SEED + 1, number))
    known = {difference.rule for difference in DIFFERENCES}
    rules = {name.split(" ")[0] for name in judge.result.rules}
    assert rules <= known
    assert judge.result.found == 0
