# SPDX-License-Identifier: Apache-2.0
"""``tightseal policy`` from real evidence to a tested document."""

from pathlib import Path

import pytest

from cli_support import Said, run, run_process
from tightseal.policy.compile import load_policy

AT = 1_751_624_191
KEY = ("--purpose", "disk")


@pytest.fixture(scope="module")
def evidence(vectors: Path) -> tuple[object, ...]:
    folder = vectors / "dcap" / "phala-tdx-v4"
    collateral = ("--collateral", folder / "collateral.json", "--at", AT)
    return (folder / "quote.bin", *collateral)


@pytest.fixture
def policy(tmp_path: Path, evidence: tuple[object, ...]) -> Path:
    file = tmp_path / "policy.toml"
    said = run("policy", "from-evidence", *evidence, "--name", "db", "--out", file)
    assert (said.status, said.stdout) == (0, f"written  {file}\n")
    return file


@pytest.fixture
def other(tmp_path: Path, policy: Path) -> Path:
    """The same document with another kernel."""
    file = tmp_path / "other" / "policy.toml"
    file.parent.mkdir()
    lines = policy.read_text().splitlines()
    changed = [f'rtmr2 = "{"ab" * 48}"' if x.startswith("rtmr2") else x for x in lines]
    file.write_text("\n".join(changed))
    return file


def explained(policy: Path, evidence: tuple[object, ...], *options: object) -> Said:
    quote, *rest = evidence
    return run(
        "policy", "explain", "--policy", policy, "--evidence", quote, *rest, *options
    )


def test_a_first_document_is_written_once(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    assert run("policy", "init", "--out", file).status == 0
    load_policy(file.read_text())
    again = run("policy", "init", "--out", file)
    assert (again.status, again.stdout) == (2, "")
    assert "policy_invalid" in again.stderr
    assert run("policy", "init", "--out", "-").stdout == file.read_text()


def test_a_new_document_as_json(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    told = run("policy", "init", "--out", file, "--json").document
    assert told == {"version": 1, "written": str(file), "document": file.read_text()}
    shown = run("policy", "init", "--out", "-", "--json").document
    assert shown == {**told, "written": None}


def test_from_evidence_as_json(policy: Path, evidence: tuple[object, ...]) -> None:
    told = run("policy", "from-evidence", *evidence, "--name", "db", "--json").document
    assert told["written"] is None
    assert told["document"] == policy.read_text()


def test_from_evidence_is_clean_and_grants(
    policy: Path, evidence: tuple[object, ...]
) -> None:
    assert run("policy", "lint", policy).status == 0
    said = explained(policy, evidence, *KEY)
    assert said.status == 0
    assert said.stdout.startswith("granted  default/db, image first\n")


def test_an_explained_denial(other: Path, evidence: tuple[object, ...]) -> None:
    said = explained(other, evidence, *KEY, "--json")
    assert said.status == 1
    told = said.document
    assert (told["granted"], told["code"]) == (False, "measurements_not_accepted")
    assert told["nearest"] == (
        "rtmr2 differs; all else matches image first of default/db"
    )
    assert [r["rule"] for r in told["reasons"] if not r["satisfied"]] == ["rtmr2"]
    people = explained(other, evidence, *KEY).stdout
    assert people.startswith("denied  measurements_not_accepted\n")
    assert told["nearest"] in people


def test_another_platform_is_denied(policy: Path, evidence: tuple[object, ...]) -> None:
    said = explained(policy, evidence, "--elsewhere", "--json")
    assert (said.status, said.document["code"]) == (1, "platform_mismatch")


def test_evidence_that_is_refused_is_not_explained(
    policy: Path, evidence: tuple[object, ...]
) -> None:
    expired = (*evidence[:-1], AT + 10**8)
    said = explained(policy, expired)
    assert said.status != 0
    assert said.stdout == ""
    assert "error:" in said.stderr


def test_lint_points_at_the_line(policy: Path) -> None:
    text = policy.read_text().replace('tee = "tdx"', 'tee = "tdx"\nplatform = "any"')
    policy.write_text(text)
    said = run("policy", "lint", policy)
    assert said.status == 1
    assert said.stdout.startswith("dangerous  ")
    line = text.splitlines().index("[workload.image.measurements]") + 1
    assert f"{policy}:{line}:1: danger: named-anywhere" in said.stdout
    found = run("policy", "lint", policy, "--json").document["findings"]
    assert [f["id"] for f in found if f["severity"] == "danger"] == ["named-anywhere"]
    assert found[0]["position"]["line"] == line


def test_a_malformed_document_is_unreadable(policy: Path) -> None:
    policy.write_text(policy.read_text().replace("minimum_evaluation", "minimum"))
    for command in ("lint", "show"):
        said = run("policy", command, policy)
        assert (said.status, said.stdout) == (2, "")
        assert "policy.toml:13:1: workload[0].tcb.minimum: unknown key" in said.stderr


def test_diff(policy: Path, other: Path) -> None:
    assert run("policy", "diff", policy, policy).stdout == "same\n"
    said = run("policy", "diff", policy, other, "--json")
    assert said.status == 1
    assert [d["field"] for d in said.document["differences"]] == [
        "image[first].measurements.rtmr2"
    ]
    people = run("policy", "diff", policy, other.parent)
    assert people.status == 1
    assert people.stdout.startswith("different  1 fields\n")


def test_show_spells_out_defaults(policy: Path) -> None:
    said = run("policy", "show", policy, "--json")
    assert said.status == 0
    (workload,) = said.document["workload"]
    assert workload["platform"] == "same"
    assert workload["key"][0]["protocols"] == ["v1"]
    people = run("policy", "show", policy).stdout
    assert "default/db" in people
    assert "('v1'" not in people


def test_a_folder_of_cases(
    tmp_path: Path, policy: Path, other: Path, evidence: tuple[object, ...]
) -> None:
    claims = run("verify", *evidence, "--json").stdout
    (tmp_path / "db.json").write_text(claims)
    (tmp_path / "cases.toml").write_text(
        "version = 1\n[[case]]\nclaims = 'db.json'\nat = 2025-07-04T00:00:00Z\n"
        "workload = 'default/db'\nkey = [{ purpose = 'disk' }]\n"
    )
    assert run("policy", "test", tmp_path, "--policy", policy).stdout == (
        "passed  1 of 1 cases\n"
    )
    said = run("policy", "test", tmp_path, "--policy", other, "--json")
    assert said.status == 1
    (case,) = said.document["cases"]
    assert case["passed"] is False
    assert case["decision"]["nearest"].startswith("rtmr2 differs")
    people = run("policy", "test", tmp_path, "--policy", other)
    assert "expected           granted, as default/db" in people.stdout
    (tmp_path / "db.json").unlink()
    assert run("policy", "test", tmp_path, "--policy", policy).status == 2


def test_claims_in_place_of_evidence(
    tmp_path: Path, policy: Path, evidence: tuple[object, ...]
) -> None:
    file = tmp_path / "claims.json"
    file.write_text(run("verify", *evidence, "--json").stdout)
    said = run("policy", "explain", "-p", policy, "--claims", file, "--at", AT)
    assert said.status == 0
    made = run("policy", "from-evidence", "--claims", file, "--name", "db")
    assert made.stdout == policy.read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ("lint",),
        ("lint", "x.toml", "--at", "yesterday"),
        ("explain", "--policy", "x.toml", "--at", "never"),
        ("from-evidence",),
        ("sign",),
    ],
)
def test_wrong_command_lines(arguments: tuple[str, ...]) -> None:
    said = run("policy", *arguments)
    assert (said.status, said.stdout) == (2, "")
    assert "error:" in said.stderr


def test_help_is_named_by_command_not_by_function(tmp_path: Path) -> None:
    said = run("policy", "test", tmp_path, "--policy", tmp_path)
    assert "try: tightseal policy test --help" in said.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("policy", "sign", "--nothing"), "policy sign --help"),
        (("policy", "from-evidence"), "policy from-evidence --help"),
        (("action", "sign", "--key", "x"), "action sign --help"),
        (("policy", "nothing"), "policy --help"),
        (("nothing",), "tightseal --help"),
        (("key", "--provider", "x"), "key --help"),
    ],
)
def test_the_nearest_help_is_named(arguments: tuple[str, ...], named: str) -> None:
    said = run(*arguments)
    assert said.status == 2
    assert said.stderr.endswith(f"{named}\n")


def test_a_folder_of_approvers_is_no_folder_of_documents(tmp_path: Path) -> None:
    there = tmp_path / "targets" / "policy"
    there.mkdir(parents=True)
    said = run("policy", "lint", tmp_path)
    assert said.status == 2
    assert f"no .toml file directly in it; name {there}" in said.stderr
    assert run("policy", "init", "--out", there / "p.toml").status == 0
    assert run("policy", "lint", tmp_path, there).status == 2
    assert run("policy", "show", there).status == 0


def test_a_file_that_is_missing_or_no_text(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    assert run("policy", "lint", file).status == 2
    file.write_bytes(b"\xff\xfe")
    said = run("policy", "lint", file)
    assert said.status == 2
    assert "not UTF-8" in said.stderr


def test_in_a_process_of_its_own() -> None:
    said = run_process("policy", "init", "--out", "-")
    assert (said.status, said.stderr) == (0, "")
    load_policy(said.stdout)
