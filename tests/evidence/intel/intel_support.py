# SPDX-License-Identifier: Apache-2.0
"""What the tests of the Intel verifier share."""

import json
from pathlib import Path
from typing import Any

from tightseal.collateral.bundle import intel_from_json
from tightseal.model.collateral import CollateralFacts, IntelCollateral

NOW = 1_790_000_000


def dcap_index(vectors: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(
        (vectors / "dcap" / "INDEX.json").read_text()
    )
    return entries


def quote_of(vectors: Path, name: str) -> bytes:
    return (vectors / "dcap" / name / "quote.bin").read_bytes()


def collateral_of(vectors: Path, name: str) -> IntelCollateral:
    return intel_from_json((vectors / "dcap" / name / "collateral.json").read_bytes())


class RecordingGuard:
    """Admits everything and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[CollateralFacts, ...]] = []

    def admit(self, facts: tuple[CollateralFacts, ...], *, now: int) -> None:
        assert now
        self.asked.append(facts)

    def admitted(self, *, trust_domain: str, kind: str, subject: str) -> bool:
        known = {(f.trust_domain, f.kind, f.subject) for fs in self.asked for f in fs}
        return (trust_domain, kind, subject) in known
