# SPDX-License-Identifier: Apache-2.0
"""Where tiles may be, by address: what is opened, listed and refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from log_support import published

from tightseal.errors import Code, SettingsError, TightsealError
from tightseal.service.tileplaces import (
    listed_logs,
    log_id_of,
    reading,
    row_store,
    writing,
)
from tightseal.service.tilerows import RowTileStore, stored_logs

ORIGIN = "tightseal/v1/log/" + "ab" * 16


def refused(*codes: Code) -> "pytest.RaisesExc[TightsealError]":
    return pytest.RaisesExc(TightsealError, check=lambda e: e.code in codes)


def test_folders_of_logs_are_listed_too(tmp_path: Path) -> None:
    trusts = []
    (tmp_path / "logs").mkdir()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        store, trust = published(tmp_path / name, 4)
        trusts.append(trust)
        Path(str(store)).rename(tmp_path / "logs" / name)
    (tmp_path / "logs" / "broken").mkdir()
    (tmp_path / "logs" / "broken" / "checkpoint").write_bytes(b"no note")
    first, second, broken = listed_logs(str(tmp_path / "logs"))
    assert [first.origin, second.origin] == [trust.log.name for trust in trusts]
    assert first.size == second.size == 4
    assert "log_malformed" in broken.problem
    assert broken.log_id == ""
    (alone,) = listed_logs(str(tmp_path / "logs" / "a"))
    assert alone.origin == first.origin
    with refused(Code.LOG_MISSING):
        listed_logs(str(tmp_path / "nowhere"))


def _list_paths(dsn: str) -> None:
    with RowTileStore(dsn, b"a" * 16) as store:
        list(store.paths(0))


def _read_one(dsn: str) -> None:
    with row_store(dsn, b"a" * 16) as store:
        store.read("checkpoint")


@pytest.mark.parametrize(
    "use",
    [
        _list_paths,
        _read_one,
        stored_logs,
    ],
    ids=["paths", "read", "logs"],
)
@pytest.mark.parametrize(
    "address",
    [
        "postgresql://reader:hush-hush@127.0.0.1:99999/log",
        "postgresql://reader:hush-hush@[::1/log",
        "postgresql://reader:hush-hush@127.0.0.1:1/log",
        "postgresql://reader:hush-hush@nowhere.invalid/log",
    ],
)
def test_no_error_has_a_password_in_it(
    use: Callable[[str], object], address: str
) -> None:
    with pytest.raises(TightsealError) as raised:
        use(address)
    assert raised.value.code in {Code.LOG_UNREACHABLE, Code.SETTINGS_INVALID}
    assert "hush" not in f"{raised.value} {raised.value.detail}"


@pytest.mark.parametrize("address", ["ftp://host/log", "mysql://host/log", "x://"])
def test_addresses_of_other_kinds(address: str) -> None:
    with refused(Code.SETTINGS_INVALID), reading(address, ORIGIN):
        pass
    with refused(Code.SETTINGS_INVALID), writing(address, ORIGIN):
        pass
    with refused(Code.SETTINGS_INVALID):
        listed_logs(address)


def test_a_server_is_not_written_to_and_lists_nothing() -> None:
    with refused(Code.SETTINGS_INVALID), writing("https://log.example", ORIGIN):
        pass
    with refused(Code.SETTINGS_INVALID):
        listed_logs("https://log.example")


@pytest.mark.parametrize(
    "origin", ["log.example/1", "tightseal/v1/log/", ORIGIN.upper(), ORIGIN + "ab"]
)
def test_rows_are_found_by_origins_of_ours_alone(origin: str) -> None:
    assert log_id_of(ORIGIN) == bytes([0xAB]) * 16
    with pytest.raises(SettingsError):
        log_id_of(origin)
