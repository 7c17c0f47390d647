# SPDX-License-Identifier: Apache-2.0
"""``tightseal audit tail``: the journal's entries for people and for tools."""

import hashlib
import json
from pathlib import Path

import pytest

from tightseal.audit.journal import SqliteJournal
from tightseal.cli import main
from tightseal.model.ports import JournalEntry

NOW = 1_790_000_000
ENTRIES = 30


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "200")
    file = tmp_path / "tightseal.toml"
    file.write_text(f'[host]\nstate_dir = "{tmp_path}"\n')
    journal = SqliteJournal.create(tmp_path / "journal.sqlite")
    for number in range(ENTRIES):
        granted = number % 2 == 0
        entry = JournalEntry(
            entry_id=number.to_bytes(16, "big"),
            time=NOW + number,
            granted=granted,
            protocol_class="v1",
            code="granted" if granted else "platform_mismatch",
            body={
                "keys": [{"purpose": "disk"}] if granted else [],
                "evidence_hash": b"\xab" * 32,
                "reasons": [["debug", "off", "off", True]],
            },
        )
        journal.record(entry, redemption=None, response=b"")
    journal.close()
    return file


def test_last_entries_come_oldest_first(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "tail", "--config", str(config), "--count", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["28", "29", "30"]
    assert "2026-09-21T14:13:47Z  denied platform_mismatch  class=v1" in lines[0]
    assert "granted  class=v1  evidence=abababababababab  purposes=disk" in lines[1]


def test_json_holds_the_whole_entry(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["audit", "tail", "--config", str(config), "--after", "1", "--json"]
    assert main([*arguments, "--count", "2"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["latest"] == ENTRIES
    second, third = document["entries"]
    assert second == {
        "seq": 2,
        "entry_id": (1).to_bytes(16, "big").hex(),
        "time": "2026-09-21T14:13:21Z",
        "granted": False,
        "protocol_class": "v1",
        "code": "platform_mismatch",
        "body": {
            "keys": [],
            "evidence_hash": "ab" * 32,
            "reasons": [["debug", "off", "off", True]],
        },
    }
    assert third["body"]["keys"] == [{"purpose": "disk"}]


def test_reading_on_from_the_last_number_misses_nothing(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    while not seen or seen[-1] < ENTRIES:
        after = str(seen[-1] if seen else 0)
        arguments = ["--config", str(config), "--count", "7", "--after", after]
        assert main(["audit", "tail", *arguments, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        seen += [entry["seq"] for entry in document["entries"]]
    assert seen == list(range(1, ENTRIES + 1))


def test_nothing_behind_the_last_entry(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "tail", "--config", str(config), "--after", "30"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "the last one is 30" in captured.err


@pytest.mark.parametrize("option", [("--count", "0"), ("--count", "1001")])
def test_counts_out_of_bounds_are_refused(
    config: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, str]
) -> None:
    assert main(["audit", "tail", "--config", str(config), *option]) == 2
    assert capsys.readouterr().out == ""


def test_missing_journal_is_an_error_and_none_is_made(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = config.parent / "journal.sqlite"
    journal.unlink()
    assert main(["audit", "tail", "--config", str(config)]) == 1
    assert capsys.readouterr().out == ""
    assert not journal.exists()


def test_entries_are_left_as_they_are(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = config.parent / "journal.sqlite"
    before = hashlib.sha256(journal.read_bytes()).digest()
    assert main(["audit", "tail", "--config", str(config)]) == 0
    assert capsys.readouterr().out
    assert hashlib.sha256(journal.read_bytes()).digest() == before


# -- query ------------------------------------------------------------------------


def queried(
    config: Path, capsys: pytest.CaptureFixture[str], *arguments: str
) -> list[int]:
    capsys.readouterr()
    command = ["audit", "query", "--config", str(config), "--json", *arguments]
    status = main(command)
    found = [e["seq"] for e in json.loads(capsys.readouterr().out)["entries"]]
    assert status == (0 if found else 1)
    return found


ODD = list(range(1, ENTRIES + 1, 2))
EVEN = list(range(2, ENTRIES + 1, 2))
QUERIES: dict[str, tuple[tuple[str, ...], list[int]]] = {
    "everything": ((), list(range(1, ENTRIES + 1))),
    "granted": (("--outcome", "granted"), ODD),
    "denied": (("--outcome", "denied"), EVEN),
    "code": (("--code", "platform_mismatch"), EVEN),
    "another_code": (("--code", "debug_enabled"), []),
    "class": (("--class", "v1", "--count", "2"), [1, 2]),
    "another_class": (("--class", "legacy"), []),
    "purpose": (("--purpose", "disk"), ODD),
    "another_purpose": (("--purpose", "dis"), []),
    "workload_that_none_has": (("--workload", "web"), []),
    "evidence": (("--evidence", "ABAB", "--count", "1"), [1]),
    "other_evidence": (("--evidence", "ac"), []),
    "entry_id": (("--entry-id", f"{7:032x}"), [8]),
    "since": (("--since", "2026-09-21T14:13:47Z"), [28, 29, 30]),
    "until": (("--until", "2026-09-21T14:13:22Z"), [1, 2]),
    "until_in_another_zone": (("--until", "2026-09-21T16:13:22+02:00"), [1, 2]),
    "between": (
        ("--since", "2026-09-21T14:13:21", "--until", "2026-09-21T14:13:23"),
        [2, 3],
    ),
    "after": (("--after", "28"), [29, 30]),
    "two_rules": (("--outcome", "granted", "--after", "27"), [29]),
}


@pytest.mark.parametrize("which", QUERIES)
def test_entries_that_fit(
    config: Path, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    arguments, expected = QUERIES[which]
    assert queried(config, capsys, *arguments) == expected


def test_a_query_says_that_there_is_more(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["audit", "query", "--config", str(config), "--outcome", "denied"]
    assert main([*command, "--count", "3"]) == 0
    out, err = capsys.readouterr()
    assert [text.split()[0] for text in out.splitlines()] == ["2", "4", "6"]
    assert "--after 6" in err
    assert main([*command, "--after", "24", "--count", "3"]) == 0
    assert capsys.readouterr().err == ""


def test_a_time_that_is_none(config: Path) -> None:
    assert main(["audit", "query", "--config", str(config), "--since", "noon"]) == 2
