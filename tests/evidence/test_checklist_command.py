# SPDX-License-Identifier: Apache-2.0
"""The command on one case of each answer of the checklist."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from checklist_support import ACCEPTED, CASES, NONE, UNREADABLE, command, expected_code

from tightseal.errors import Code
from tightseal.model.verifiers import VerifierMode
from tightseal_sim.defects import Case
from tightseal_sim.intel.collateral import collateral_json


def one_of_each() -> Iterator[Case]:
    """One case for each answer of either kind of TEE, and every exception."""
    seen: set[object] = set()
    for case in CASES:
        # The command keeps no memory of collateral where a time is named.
        kind = (case.tee, case.both, case.native, case.status, case.exception)
        if kind not in seen and case.seen_before is None:
            seen.add(kind)
            yield case


SAMPLE = list(one_of_each())


def files(case: Case, folder: Path) -> list[object]:
    (folder / "quote").write_bytes(case.evidence)
    (folder / "collateral.json").write_text(collateral_json(case.collateral))
    arguments: list[object] = ["verify", folder / "quote", "--json", "--at", case.now]
    arguments += ["--collateral", folder / "collateral.json"]
    if case.root.certificate is not None:
        (folder / "root.der").write_bytes(case.root.certificate)
        arguments += ["--root-ca", folder / "root.der"]
    return arguments


@pytest.mark.parametrize("mode", [VerifierMode.NATIVE, VerifierMode.BOTH])
@pytest.mark.parametrize("case", SAMPLE, ids=[c.name for c in SAMPLE])
def test_the_command(case: Case, mode: VerifierMode, tmp_path: Path) -> None:
    expected = expected_code(mode.value, case, NONE)
    arguments = files(case, tmp_path)
    status, said = command(*arguments, "--verifier", mode.value)
    if expected is None:
        assert (status, said["verdict"], said["code"]) == (0, "authentic", None)
        tcb = said["tcb"]
        assert isinstance(tcb, dict)
        assert tcb["status"] == case.status.value
        assert tcb["advisory_ids"] == sorted(case.expect.advisories)
        assert said["trust_domain"] == str(case.root.trust_domain)
        return
    word = ("unreadable", 2) if expected in UNREADABLE else ("rejected", 1)
    assert (said["code"], said["verdict"], status) == (expected.value, *word)
    checks = said["checks"]
    assert isinstance(checks, list)
    if expected is not Code.EVIDENCE_UNREADABLE:
        assert checks[-1]["outcome"] == "failed"
        assert "failed" not in {c["outcome"] for c in checks[:-1]}
    if case.exception is not None:
        status, said = command(*arguments, "--accept-exception", case.exception.value)
        assert (status, said["single_verifier"]) == (0, True)


def test_the_command_takes_no_simulated_evidence_unasked(tmp_path: Path) -> None:
    for case in ACCEPTED:
        arguments = files(case, tmp_path)
        status, said = command(*arguments[: arguments.index("--root-ca")])
        assert (status, said["code"]) == (1, "root_not_trusted"), case.name
