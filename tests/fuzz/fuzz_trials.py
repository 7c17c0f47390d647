# SPDX-License-Identifier: Apache-2.0
"""Inputs of two verifiers, each made from a seed and its number, and their results."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from fuzz_collateral import COLLATERAL_MUTATORS, TIME_MUTATORS, WHOLE_MUTATORS
from fuzz_quote import PART_MUTATORS, QUOTE_MUTATORS
from fuzz_scenes import Cast, Draft, cast, real_drafts, sim_drafts

from tightseal.model.collateral import IntelCollateral
from tightseal.model.roots import TrustedRoot
from tightseal.model.verifiers import VerifierException

__all__ = ["MAX_FINDINGS", "VECTORS", "Finding", "Result", "Stock", "Trial", "trial"]

VECTORS: Final = Path(
    os.environ.get("TIGHTSEAL_VECTORS")
    or Path(__file__).resolve().parents[3] / "shared" / "vectors"
)
MAX_FINDINGS: Final = 50
"""Most inputs that are kept; the run goes on counting."""

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
