# SPDX-License-Identifier: Apache-2.0
"""``tightseal config``: two kinds marked, errors that name the key, a first file."""

import json
import tomllib
from pathlib import Path

import pytest

from tightseal.cli import main
from tightseal.cli.config import initial_config
from tightseal.model.settings import ReleaseSettings
from tightseal.service.load import describe, parse_settings
from tightseal.service.openapi import openapi_document
from tightseal.service.settings import Settings


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_show_marks_the_two_kinds_and_prints_the_digest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["config", "show"]) == 0
    out = capsys.readouterr().out
    host, release = out.index("[host]"), out.index("[release]")
    assert host < out.index("listen_framed") < release < out.index("accepted_tcb")
    assert ReleaseSettings().digest().hex() in out


def test_show_as_json_holds_every_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "t.toml"
    config.write_text("[host]\nworkers = 2\n[release]\nnonce_life = 60\n")
    assert main(["config", "show", "--config", str(config), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    host, release = describe(Settings())
    assert set(document["host"]) == {name for name, _, _ in host}
    assert set(document["release"]) == {name for name, _, _ in release}
    assert document["host"]["workers"] == 2
    assert document["settings_digest"] == ReleaseSettings(nonce_life=60).digest().hex()
    assert document["settings_digest"] != ReleaseSettings().digest().hex()


def test_show_and_check_name_the_source_of_each_value(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, host = tmp_path / "t.toml", tmp_path / "host.toml"
    config.write_text("[host]\nworkers = 2\n[release]\nnonce_life = 60\n")
    host.write_text('[host]\nlisten = "127.0.0.1:9"\n')
    monkeypatch.setenv("TIGHTSEAL_HOST_QUEUE", "7")
    files = ["--config", str(config), "--host-config", str(host)]
    assert main(["config", "show", *files, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["sources"]["host"].keys() == document["host"].keys()
    assert document["sources"]["release"].keys() == document["release"].keys()
    assert document["host"]["listen"] == "127.0.0.1:9"
    found = {
        document["sources"]["host"][name]
        for name in ("workers", "listen", "queue", "threads")
    }
    assert found == {"settings file", "host file", "environment", "default"}
    assert document["sources"]["release"]["nonce_life"] == "settings file"

    assert main(["config", "show", *files]) == 0
    shown = capsys.readouterr().out
    assert main(["config", "check", *files]) == 0
    checked = capsys.readouterr().out
    for text in (shown, checked):
        assert '"127.0.0.1:9"   (host file; default "127.0.0.1:3442")' in text
        assert "7   (environment; default 256)" in text
        assert "60   (settings file; default 120)" in text
    assert "threads" in shown
    assert "threads" not in checked


@pytest.mark.parametrize(
    "command", [["config", "check"], ["config", "show"], ["serve"]]
)
def test_release_settings_in_a_host_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    config, host = tmp_path / "t.toml", tmp_path / "host.toml"
    config.write_text("")
    host.write_text("[release]\nnonce_life = 60\n")
    files = ["--config", str(config), "--host-config", str(host)]
    assert main([*command, *files]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{host}: release: a host file holds host settings alone" in captured.err


def test_host_settings_leave_the_digest_alone(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tmp_path / "t.toml"
    config.write_text("[host]\nworkers = 2\n")
    monkeypatch.setenv("TIGHTSEAL_HOST_LOG_LEVEL", "debug")
    assert main(["config", "show", "--config", str(config), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["host"]["log.level"] == "debug"
    assert document["settings_digest"] == ReleaseSettings().digest().hex()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[host]\nworkes = 1\n", "workes"),
        ("[host]\nworkers = 0\n", "host.workers"),
        ('[release]\nkdf = "md5"\n', "release.kdf"),
    ],
)
def test_check_refuses_with_the_key_and_an_empty_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, named: str
) -> None:
    config = tmp_path / "t.toml"
    config.write_text(text)
    assert main(["config", "check", "--config", str(config)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "settings_invalid" in captured.err
    assert named in captured.err
    assert str(config) in captured.err


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://tightseal:hush@db/state",
        "postgresql://:hu@sh@db/state",
        "postgresql://db/state?user=x&password=hush&sslmode=require",
    ],
)
@pytest.mark.parametrize("setting", ["state.url", "log_tiles"])
def test_a_password_in_an_address_is_refused_and_not_shown(
    address: str, setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"state.url": "postgresql://db/state", "log_tiles": ""} | {setting: address}
    config = tmp_path / "tightseal.toml"
    config.write_text(
        f'[host]\nlog_tiles = "{given["log_tiles"]}"\n'
        f'[host.state]\nengine = "postgres"\nurl = "{given["state.url"]}"\n'
    )
    for command in (["show"], ["show", "--json"], ["check"]):
        assert main(["config", *command, "--config", str(config)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert f"host.{setting}" in captured.err
        assert "passfile=" in captured.err
        assert "hush" not in captured.err
        assert "hu@sh" not in captured.err


def test_a_password_file_is_named_in_an_address(tmp_path: Path) -> None:
    config = tmp_path / "tightseal.toml"
    url = "postgresql://tightseal@db/state?passfile=/etc/tightseal/pgpass"
    config.write_text(f'[host.state]\nengine = "postgres"\nurl = "{url}"\n')
    assert main(["config", "check", "--config", str(config)]) == 0


def test_check_accepts_what_init_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "t.toml"
    assert main(["config", "init", "--out", str(config)]) == 0
    assert main(["config", "check", "--config", str(config)]) == 0
    assert ReleaseSettings().digest().hex() in capsys.readouterr().out


def test_init_never_overwrites(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "t.toml"
    config.write_text("precious")
    assert main(["config", "init", "--out", str(config)]) == 2
    assert config.read_text() == "precious"
    assert "--out" in capsys.readouterr().err


def test_init_to_stdout_is_toml(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "init", "--out", "-"]) == 0
    assert parse_settings(capsys.readouterr().out, environment={}) == Settings()


def test_every_commented_default_is_the_default() -> None:
    lines = [
        line[1:] if line.startswith("#") and not line.startswith("# ") else line
        for line in initial_config().splitlines()
    ]
    text = "\n".join(lines)
    assert len(tomllib.loads(text)["host"]) > 8
    assert parse_settings(text, environment={}) == Settings()


def test_check_refuses_a_simulated_root_that_is_no_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "t.toml"
    config.write_text('[release]\nsimulated_roots = ["AAAA"]\n')
    assert main(["config", "check", "--config", str(config)]) == 2
    assert capsys.readouterr().out == ""


def test_openapi_is_what_a_provider_serves(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["openapi"]) == 0
    assert capsys.readouterr().out.encode() == openapi_document()


def test_serve_with_a_missing_file_says_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--config", str(tmp_path / "none.toml")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "config init" in captured.err
