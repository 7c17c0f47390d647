# SPDX-License-Identifier: Apache-2.0
"""Two verifiers on spoiled evidence: they may differ by the rules of the table alone.

``python tests/fuzz/differential.py --count 20000 --seed 1`` judges that many inputs
with the native verifier and with dcap-qvl. Every input follows from seed and number,
so ``--only N`` with the same seed repeats one. Exit status 1 where something was found.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from fuzz_judging import Judge
from fuzz_trials import VECTORS, Finding, Result, Stock, trial

from tightseal.evidence.intel.verifier import CHECKS
from tightseal_sim.intel.collateral import collateral_json

__all__ = ["run", "write_findings"]

PROGRESS_EVERY: Final = 500


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
