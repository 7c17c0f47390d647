# SPDX-License-Identifier: Apache-2.0
"""``tightseal inspect``, ``--version``, and how commands start and fail."""

import subprocess
import sys
from pathlib import Path

import pytest

import tightseal
from cli_support import run, run_process
from tightseal.cli import COMMANDS, build_app


def test_inspect_says_unverified_first(vectors: Path) -> None:
    quote = vectors / "dcap" / "phala-sgx-v3" / "quote.bin"
    said = run("inspect", quote)
    assert (said.status, said.stderr) == (0, "")
    assert said.stdout.startswith("UNVERIFIED  ")
    titles = [s for s in said.stdout.splitlines() if s and not s.startswith(" ")][1:]
    assert titles
    assert all(title.endswith("(unverified)") for title in titles)


def test_inspect_json(vectors: Path) -> None:
    report = vectors / "snp" / "snp-vlek-trustee" / "report.bin"
    document = run("inspect", report, "--json").document
    assert document["verified"] is False
    assert document["kind"] == "snp_report"
    assert document["code"] is None
    assert document["sections"]["certificates that it needs"]["signing_key"] == "vlek"


def test_inspect_shows_what_can_be_read(vectors: Path) -> None:
    quote = vectors / "tampered" / "near-mpc-tdx-v4.version.bin"
    said = run("inspect", quote)
    assert said.status == 1
    assert "header" in said.stdout
    assert said.stderr.startswith("error: quote_body_type_invalid")


def test_inspect_reads_stdin_and_refuses_text() -> None:
    said = run("inspect", "-", stdin=b"plain text")
    assert (said.status, said.stdout) == (2, "")
    assert said.stderr.startswith("error: evidence_unreadable")


def test_version() -> None:
    assert run("--version").stdout == f"tightseal {tightseal.__version__}\n"
    assert run_process("--version").stdout == f"tightseal {tightseal.__version__}\n"


@pytest.mark.parametrize("arguments", [["frobnicate"], ["--frobnicate"]])
def test_unknown_commands(arguments: list[str]) -> None:
    said = run(*arguments)
    assert (said.status, said.stdout) == (2, "")
    assert "try: tightseal --help" in said.stderr


def test_help_names_every_command_there_is() -> None:
    text = run("--help").stdout
    app = build_app()
    for name in ("verify", "inspect"):
        assert name in {command for command, _, _ in COMMANDS}
        assert name in text
        assert app[name] is not None


def test_control_characters_in_names_do_not_reach_the_terminal() -> None:
    said = run("verify", "no\x1b[31msuch\nfile", "--at", "0")
    assert said.status == 2
    assert "\x1b[31m" not in said.stderr


def test_starting_loads_no_verifier() -> None:
    code = (
        "import sys; from tightseal.cli import main; main(['--version']); "
        "heavy = {'cryptography', 'dcap_qvl', 'httpx', 'starlette', 'cbor2'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_went_away_is_no_crash(vectors: Path) -> None:
    quote = vectors / "dcap" / "phala-sgx-v3" / "quote.bin"
    code = "import sys; from tightseal.cli import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code, "inspect", str(quote)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
