# SPDX-License-Identifier: Apache-2.0
"""``--root-ca`` opens a simulated domain, and only that one."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cli_support import Said, run
from tightseal.collateral.bundle import intel_to_json
from tightseal_sim.amd.defects import good_cases
from tightseal_sim.amd.world import AmdWorld
from tightseal_sim.defects import intel_cases

NOW = 1_790_000_000
CONTROLS = [c for c in intel_cases(NOW) if c.number in {1, 2, 3}]


@pytest.mark.parametrize("case", CONTROLS, ids=[c.name for c in CONTROLS])
@pytest.mark.parametrize("pem", [False, True])
def test_intel_world(case: object, tmp_path: Path, *, pem: bool) -> None:
    certificate = case.root.certificate  # type: ignore[attr-defined]
    if pem:
        parsed = x509.load_der_x509_certificate(certificate)
        certificate = parsed.public_bytes(Encoding.PEM)
    root, quote = tmp_path / "root", tmp_path / "quote"
    collateral = tmp_path / "collateral.json"
    root.write_bytes(certificate)
    quote.write_bytes(case.evidence)  # type: ignore[attr-defined]
    collateral.write_text(intel_to_json(case.collateral))  # type: ignore[attr-defined]
    options = (quote, "--collateral", collateral, "--at", NOW, "--json")
    for mode in ("both", "native", "dcap-qvl"):
        said = run("verify", *options, "--root-ca", root, "--verifier", mode)
        assert said.status == 0, said.stdout
        assert said.document["trust_domain"].startswith("simulated:")
        said = run("verify", *options, "--verifier", mode)
        assert (said.status, said.document["code"]) == (1, "root_not_trusted")


def amd_verify(folder: Path, report: bytes, root: Path | None) -> Said:
    (folder / "report.bin").write_bytes(report)
    options = ("--collateral", folder, "--at", NOW, "--json")
    extra = () if root is None else ("--root-ca", root)
    return run("verify", folder / "report.bin", *options, *extra)


def test_amd_world(tmp_path: Path) -> None:
    world = AmdWorld(None, bytes(32))
    judged = 0
    for product in ("Milan", "Genoa", "Turin"):
        root = tmp_path / f"{product}.der"
        root.write_bytes(world.root_certificate(product))
        for number, case in enumerate(good_cases(NOW, world=world)):
            if product not in {r.product for r in case.roots}:
                continue
            judged += 1
            folder = tmp_path / f"{product}-{number}"
            folder.mkdir()
            given = case.certificates
            vlek = b"VLEK" in given.signer
            names = ("vlek", "asvk") if vlek else ("vcek", "ask")
            (folder / f"{names[0]}.der").write_bytes(given.signer)
            (folder / f"{names[1]}.der").write_bytes(given.intermediate)
            said = amd_verify(folder, case.evidence, root)
            assert said.status == 0, (case.name, said.stdout)
            assert said.document["trust_domain"].startswith("simulated:")
            assert amd_verify(folder, case.evidence, None).status == 1
    assert judged
