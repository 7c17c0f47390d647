# SPDX-License-Identifier: Apache-2.0
"""The documentation: its generated blocks are fresh, its references exist."""

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tightseal.cli import reference
from tightseal.cli.reference import BLOCKS, DOCS, MarkerError, changes, main, rewritten
from tightseal.errors import CODES, Code
from tightseal.guest.challenge import CHALLENGE_CHECKS
from tightseal.guest.response import RESPONSE_CHECKS
from tightseal.model.claims import TcbStatus
from tightseal.model.labels import Label
from tightseal_sim.amd.defects import good_cases, snp_cases
from tightseal_sim.amd.world import AmdWorld
from tightseal_sim.defects import CHECKLIST_ROWS, intel_cases

ROOT = DOCS.parent
DOCUMENTS = sorted(DOCS.rglob("*.md"))
NOW = 1_795_000_000
FAKE: Mapping[str, Callable[[], str]] = {"one": lambda: "| a |", "two": lambda: "b"}
GOOD = "<!-- generated:one -->\n\n| a |\n\n<!-- end generated -->"


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_every_block_is_fresh() -> None:
    assert [(c.path.name, c.stale) for c in changes(DOCS)] == []


def test_a_fresh_document_stays_as_it_is() -> None:
    text = f"# Title\n\n{GOOD}\n\ntext\n"
    assert rewritten(text, FAKE) == (text, (), ("one",))


@pytest.mark.parametrize("body", ["", "\n", "old\n", "\n| b |\n\n", "| a |\n"])
def test_a_stale_block_is_rewritten_and_named(body: str) -> None:
    text = f"<!-- generated:one -->\n{body}<!-- end generated -->"
    assert rewritten(text, FAKE) == (GOOD, ("one",), ("one",))


def test_text_around_blocks_is_kept() -> None:
    text = f"a\n{GOOD}\nb | c\n<!-- a comment -->\n"
    assert rewritten(text, FAKE)[0] == text


@pytest.mark.parametrize(
    "text",
    [
        "<!-- generated:three -->\n<!-- end generated -->",
        "<!-- generated:one -->\n",
        "<!-- end generated -->",
        f"<!-- generated:one -->\n{GOOD}",
        f"{GOOD}\n<!-- end generated -->",
        "<!-- generated:one --> <!-- end generated -->",
    ],
)
def test_markers_that_do_not_pair_are_refused(text: str) -> None:
    with pytest.raises(MarkerError):
        rewritten(text, FAKE)


def test_a_block_that_stands_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(GOOD)
    with pytest.raises(MarkerError, match="two"):
        changes(tmp_path, FAKE)


def test_check_names_the_stale_block_and_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "below" / "page.md"
    page.parent.mkdir()
    page.write_text(
        "".join(f"<!-- generated:{n} -->\n<!-- end generated -->\n" for n in BLOCKS)
    )
    folder = ["--docs", str(tmp_path)]
    assert main(["--write", *folder]) == 0
    assert main(["--check", *folder]) == 0
    capsys.readouterr()
    fresh = page.read_text()
    page.write_text(fresh.replace("nonce_replayed", "nonce_repeated"))
    assert main(["--check", *folder]) == 1
    said = capsys.readouterr().err
    assert "page.md: stale: codes" in said
    assert "make docs" in said
    assert main(["--write", *folder]) == 0
    assert page.read_text() == fresh


def test_malformed_documents_are_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.md").write_text("<!-- generated:nothing -->\n<!-- end generated -->")
    assert main(["--check", "--docs", str(tmp_path)]) == 2
    assert "a.md: no block 'nothing'" in capsys.readouterr().err
    assert main(["--check", "--docs", str(tmp_path / "missing")]) == 2


@pytest.mark.parametrize("arguments", [[], ["--write", "--check"]])
def test_one_of_write_and_check(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_as_a_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", reference.__name__, "--check"],
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_blocks_have_what_they_are_named_for() -> None:
    assert all(f"`{code}`" in BLOCKS["codes"]() for code in CODES)
    assert all(f"`{label}`" in BLOCKS["labels"]() for label in Label)
    assert "tightseal_ready" in BLOCKS["metrics"]()
    assert "`http.max_head_bytes`" in BLOCKS["host-settings"]()
    assert "`legacy.derivation`" in BLOCKS["release-settings"]()
    assert "tightseal collateral import" in BLOCKS["commands"]()


def test_tables_have_rows_of_one_width() -> None:
    for name, block in BLOCKS.items():
        lines = [line for line in block().splitlines() if line.startswith("|")]
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in lines}
        assert len(widths) <= 1, name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(DOCS)))
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text("utf-8"))
    local = [t for t in targets if not t.startswith("https://")]
    assert [t for t in local if not (path.parent / t).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(DOCS)))
def test_tests_that_are_named_exist(path: Path) -> None:
    named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", path.read_text("utf-8"))
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).is_file()
        or f"def {name}(" not in (ROOT / file).read_text("utf-8")
    ]
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(DOCS)))
def test_files_that_are_named_exist(path: Path) -> None:
    named = re.findall(
        r"`((?:tests|benchmarks|deploy|docs)/[\w/.-]+)`", path.read_text("utf-8")
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    "name", ["threat-model.md", "operations/sidecar.md", "legacy.md", "exchange.md"]
)
def test_codes_that_are_named_exist(name: str) -> None:
    families = r"(?:quote|evidence|collateral|crl|tcb|provider|nonce|report_data)"
    named = set(re.findall(rf"`({families}_\w+)`", read(name)))
    not_codes = {
        "collateral_fetched",
        "collateral_fetch_failed",
        "provider_evidence",
        "provider_quote",
        "nonce_life",
    }
    assert named - not_codes - {code.value for code in Code} == set()


def test_statuses_and_client_checks_are_explained() -> None:
    evidence, exchange = read("evidence.md"), read("exchange.md")
    assert all(f"| `{status.value}` |" in evidence for status in TcbStatus)
    checks = (*CHALLENGE_CHECKS, *RESPONSE_CHECKS)
    assert all(f"| `{name}` |" in exchange for name, _ in checks)


def test_counts_of_the_simulated_world() -> None:
    intel = intel_cases(NOW)
    rows = [case for case in intel if case.number is not None]
    lax = [c for c in intel if c.native is not None and c.qvl is None]
    text = read("simulated-world.md")
    assert (
        f"{len(intel)}: defects and controls; {len(rows)} of them for the "
        f"{CHECKLIST_ROWS} rows" in text
    )
    assert f"| {len(snp_cases(NOW))} defects |" in text
    good = good_cases(NOW, world=AmdWorld(None, bytes(32)))
    assert f"| {len(good)} authentic forms |" in text
    assert f"Of the Intel cases, {len(lax)} are refused by ours" in text
