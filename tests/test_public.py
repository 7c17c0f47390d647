# SPDX-License-Identifier: Apache-2.0
"""The public surface, and every real vector through it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tightseal
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated

SNP_TIME = 1_737_000_000
"""Inside the validity of every certificate of the SNP vectors."""


def outcome(folder: Path, evidence: Path, collateral: Path, now: int) -> str:
    roots = VENDOR_ROOTS
    if (folder / "root_ca.der").is_file():
        roots = with_simulated(roots, (folder / "root_ca.der").read_bytes())
    try:
        claims = tightseal.verify(
            evidence.read_bytes(),
            collateral=tightseal.FileSource(collateral),
            now=now,
            roots=roots,
        )
    except (tightseal.EvidenceError, tightseal.CollateralError):
        return "rejected"
    return claims.tcb.status.value if claims.tcb else "authentic"


def entries(path: Path) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads(path.read_text())
    return loaded


def test_every_dcap_vector(vectors: Path) -> None:
    judged = 0
    for entry in entries(vectors / "dcap" / "INDEX.json"):
        verdict = entry.get("verdict") or {}
        if "now" not in verdict:
            continue
        folder = vectors / "dcap" / entry["name"]
        got = outcome(
            folder, folder / "quote.bin", folder / "collateral.json", verdict["now"]
        )
        assert got == verdict.get("status", "rejected"), entry["name"]
        judged += 1
    assert judged >= 22


def test_every_tampered_vector_is_rejected(vectors: Path) -> None:
    index = entries(vectors / "tampered" / "INDEX.json")
    for entry in index:
        folder = vectors / "dcap" / entry["base"]
        got = outcome(
            folder,
            vectors / "tampered" / entry["file"],
            folder / "collateral.json",
            entry["now"],
        )
        assert got == "rejected", entry["file"]
    assert len(index) >= 46


def test_every_snp_vector(vectors: Path) -> None:
    index = entries(vectors / "snp" / "INDEX.json")
    for entry in index:
        folder = vectors / "snp" / entry["name"]
        got = outcome(folder, folder / "report.bin", folder, SNP_TIME)
        assert got == entry["expect"]["verdict"], entry["name"]
    assert len(index) >= 5


@pytest.mark.parametrize("name", tightseal.__all__)
def test_public_name_is_there(name: str) -> None:
    assert getattr(tightseal, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        _ = tightseal.no_such_name


def test_importing_the_package_loads_no_crypto() -> None:
    code = "import sys, tightseal; print('cryptography' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
