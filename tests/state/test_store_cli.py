# SPDX-License-Identifier: Apache-2.0
"""``tightseal state``: what it says and how it exits."""

import json
import stat
from pathlib import Path

import pytest
from store_places import DOMAIN, KEY, SqlitePlace
from store_postgres import Server
from test_store_backup import filled, old_file

from tightseal.cli import main
from tightseal.state.check import UNSEALED_NOTICE
from tightseal.state.rows import SCHEMA

Said = pytest.CaptureFixture[str]


@pytest.fixture
def key(tmp_path: Path) -> list[str]:
    path = tmp_path / "key"
    path.write_text(KEY.hex() + "\n")
    return ["--key-file", str(path), "--trust-domain", DOMAIN]


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = tmp_path / "state.db"
    filled(SqlitePlace(path)).close()
    return str(path)


def test_check_verifies_with_the_key(store: str, key: list[str], capsys: Said) -> None:
    assert main(["state", "check", store, *key, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verified"], said["counter"], said["schema"]) == (True, 2, SCHEMA)
    assert said["kinds"]["usage"]["records"] == 30


def test_check_without_the_key_says_so(store: str, capsys: Said) -> None:
    assert main(["state", "check", store]) == 0
    out = capsys.readouterr().out
    assert "head not verified" in out
    assert UNSEALED_NOTICE.split(":", maxsplit=1)[0] in out


def test_check_names_what_is_wrong(store: str, key: list[str], capsys: Said) -> None:
    place = SqlitePlace(Path(store))
    tables = place.dump()
    del tables.record[max(tables.record)]
    place.load(tables)
    for more in ([], key):
        assert main(["state", "check", store, *more]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert "state_tampered" in said.err


def test_a_missing_store_is_no_answer(tmp_path: Path, capsys: Said) -> None:
    missing = str(tmp_path / "none.db")
    assert main(["state", "check", missing]) == 2
    assert "state_missing" in capsys.readouterr().err
    assert main(["state", "backup", missing, str(tmp_path / "copy")]) == 2
    assert sorted(tmp_path.iterdir()) == []


def test_backup_and_restore(
    store: str, key: list[str], tmp_path: Path, capsys: Said
) -> None:
    copy, again = tmp_path / "copy", str(tmp_path / "again.db")
    assert main(["state", "backup", store, str(copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 31
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert main(["state", "backup", store, str(copy)]) == 2
    assert main(["state", "restore", again, str(copy), *key]) == 0
    said = capsys.readouterr().out
    assert "restored" in said
    assert "older copy of the whole state" in said
    assert main(["state", "restore", again, str(copy), *key]) == 1
    assert "state_exists" in capsys.readouterr().err
    assert SqlitePlace(Path(again)).dump() == SqlitePlace(Path(store)).dump()
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_migrate(tmp_path: Path, key: list[str], capsys: Said) -> None:
    path = tmp_path / "old.db"
    old_file(path)
    assert main(["state", "check", str(path), *key]) == 1
    assert "state_schema_unsupported" in capsys.readouterr().err
    assert main(["state", "migrate", str(path), *key]) == 0
    assert "index of expiry" in capsys.readouterr().out
    assert main(["state", "migrate", str(path), *key]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["state", "check", str(path), *key]) == 0


@pytest.mark.parametrize("text", ["", "00" * 31, "00" * 33, "zz" * 32, "\xff" * 64])
def test_a_key_file_that_holds_no_key_is_refused(
    store: str, tmp_path: Path, text: str, capsys: Said
) -> None:
    path = tmp_path / "bad"
    path.write_text(text, encoding="latin-1")
    told = ["--key-file", str(path), "--trust-domain", DOMAIN]
    assert main(["state", "check", store, *told]) == 2
    assert "settings_invalid" in capsys.readouterr().err
    assert main(["state", "check", store, *told[:2]]) == 2
    missing = ["--key-file", str(tmp_path / "none"), *told[2:]]
    assert main(["state", "check", store, *missing]) == 2


def test_another_key_verifies_nothing(store: str, tmp_path: Path, capsys: Said) -> None:
    path = tmp_path / "other"
    path.write_text("11" * 32)
    told = ["--key-file", str(path), "--trust-domain", DOMAIN]
    assert main(["state", "check", store, *told]) == 1
    assert "state_tampered" in capsys.readouterr().err


def test_a_postgres_store_from_backup_to_check(
    store: str, key: list[str], tmp_path: Path, postgres: Server, capsys: Said
) -> None:
    copy, where = str(tmp_path / "copy"), postgres.new_address()
    assert main(["state", "check", where]) == 2
    assert main(["state", "backup", store, copy]) == 0
    assert main(["state", "restore", where, copy, *key]) == 0
    assert main(["state", "check", where, *key]) == 0
    assert "31 records, head verified" in capsys.readouterr().out
