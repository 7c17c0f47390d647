# SPDX-License-Identifier: Apache-2.0
"""One TOML file, two kinds of settings, and errors that name the key."""

import base64
from pathlib import Path

import pytest

from tightseal.errors import Code, SettingsError
from tightseal.service.load import (
    describe,
    host_variables,
    load_settings,
    parse_settings,
)
from tightseal.service.settings import PlatformKind, Settings

SOME_ROOT = base64.b64encode(b"certificate").decode()

REFUSED = {
    "unknown table": ("[hots]\n", "hots"),
    "unknown host key": ("[host]\nworkes = 2\n", "workes"),
    "unknown key in a sub-table": ("[host.http]\nhead_secs = 2\n", "host.http"),
    "unknown release key": ("[release]\ntcb = []\n", "release"),
    "wrong type": ('[host]\nworkers = "2"\n', "host.workers"),
    "out of bounds": ("[host]\nworkers = 65\n", "host.workers"),
    "zero time": ("[host.framed]\nread_seconds = 0\n", "host.framed.read_seconds"),
    "total of thirty seconds": ("[host.framed]\ntotal_seconds = 30\n", "total_seconds"),
    "unknown platform": ('[host.platform]\nkind = "vax"\n', "host.platform.kind"),
    "address without port": ('[host]\nlisten = "127.0.0.1"\n', "host.listen"),
    "port too high": ('[host]\nlisten = "127.0.0.1:65536"\n', "host.listen"),
    "empty state folder": ('[host]\nstate_dir = ""\n', "host.state_dir"),
    "log served from nowhere": ("[host.http]\nlog = true\n", "host.log_tiles"),
    "log in no database": ('[host]\nlog_tiles = "postgresql:"\n', "host.log_tiles"),
    "log on a server": ('[host]\nlog_tiles = "https://l"\n', "host.log_tiles"),
    "unknown status": ('[release]\naccepted_tcb = ["Fine"]\n', "release.accepted_tcb"),
    "revoked accepted": ('[release]\naccepted_tcb = ["Revoked"]\n', "accepted_tcb"),
    "host setting under release": ("[release]\nworkers = 1\n", "workers"),
    "simulated platform alone": ('[host.platform]\nkind = "sim"\n', "simulated_roots"),
    "no TOML": ("[host\n", "TOML"),
    "key given twice": ("[host]\nworkers = 1\nworkers = 2\n", "TOML"),
}


@pytest.mark.parametrize(("text", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_settings_name_the_key(text: str, named: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings(text, environment={})
    assert refused.value.code is Code.SETTINGS_INVALID
    assert named in refused.value.detail


def test_nothing_given_means_the_defaults() -> None:
    assert parse_settings("", environment={}) == Settings()
    assert Settings().host.listen == "127.0.0.1:3442"
    assert Settings().host.listen_framed == "127.0.0.1:3443"
    assert not Settings().release.legacy.enabled


@pytest.mark.parametrize(
    ("tiles", "place"),
    [
        ("", ""),
        ("/srv/log", "/srv/log"),
        ("postgresql:", "postgresql://tightseal@db/state"),
        ("postgresql://log@db/log", "postgresql://log@db/log"),
    ],
)
def test_where_the_log_goes(tiles: str, place: str) -> None:
    state = (
        '[host.state]\nengine = "postgres"\nurl = "postgresql://tightseal@db/state"\n'
    )
    text = f'[host]\nlog_tiles = "{tiles}"\n{state}'
    assert parse_settings(text, environment={}).host.log_place == place


def test_environment_overrides_host_settings() -> None:
    text = '[host]\nworkers = 2\nlisten = "127.0.0.1:1"\n'
    environment = {
        "TIGHTSEAL_HOST_WORKERS": "3",
        "TIGHTSEAL_HOST_HTTP_METRICS": "false",
        "TIGHTSEAL_HOST_COLLATERAL_PCCS": "http://a, http://b",
        "TIGHTSEAL_HOST_FRAMED_READ_SECONDS": "1.5",
        "PATH": "/bin",
    }
    host = parse_settings(text, environment=environment).host
    assert (host.workers, host.listen) == (3, "127.0.0.1:1")
    assert host.http.metrics is False
    assert host.collateral.pccs == ("http://a", "http://b")
    assert host.framed.read_seconds == 1.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TIGHTSEAL_HOST_WORKES", "2"),
        ("TIGHTSEAL_HOST_WORKERS", "many"),
        ("TIGHTSEAL_HOST_WORKERS", "0"),
        ("TIGHTSEAL_HOST_LISTEN", "nowhere"),
        ("TIGHTSEAL_RELEASE_ACCEPTED_TCB", "OutOfDate"),
        ("TIGHTSEAL_RELEASE_KDF", "hkdf-sha256"),
        ("TIGHTSEAL_HOST_PLATFORM_KIND", "gramine"),
        ("TIGHTSEAL_HOST_PLATFORM_ROOT", "/tmp/mine"),
    ],
)
def test_refused_variables(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings("", environment={name: value})
    setting = name.removeprefix("TIGHTSEAL_HOST_").lower()
    assert name in refused.value.detail or setting in refused.value.detail


def test_release_settings_never_change_by_environment() -> None:
    plain = parse_settings("[release]\nnonce_life = 60\n", environment={})
    changed = parse_settings(
        "[release]\nnonce_life = 60\n", environment={"TIGHTSEAL_HOST_WORKERS": "2"}
    )
    assert plain.release == changed.release
    assert plain.release.digest() == changed.release.digest()
    assert not [n for n in host_variables() if "PLATFORM" in n or "RELEASE" in n]


def test_simulated_platform_with_its_root_is_allowed_and_says_so() -> None:
    text = (
        f'[host.platform]\nkind = "sim"\nworld = "/w"\n'
        f'[release]\nsimulated_roots = ["{SOME_ROOT}"]\n'
    )
    settings = parse_settings(text, environment={})
    assert settings.simulated
    assert settings.host.platform.kind is PlatformKind.SIM
    assert settings.host.platform.options() == {
        "world": "/w",
        "platform": "host",
        "tee": "sgx",
    }


def test_no_platform_option_chooses_what_the_sealing_key_is_bound_to() -> None:
    for text in ("fields = []", "vmpl = 1", "privlevel = 1"):
        with pytest.raises(SettingsError):
            parse_settings(f"[host.platform]\n{text}\n", environment={})


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(tmp_path / "none.toml")
    assert "none.toml" in refused.value.detail
    assert "config init" in refused.value.detail


@pytest.mark.parametrize("data", [b"\xff\xfe", b"#" * ((1 << 20) + 1)])
def test_unreadable_file_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "odd.toml"
    path.write_bytes(data)
    with pytest.raises(SettingsError) as refused:
        load_settings(path)
    assert "odd.toml" in refused.value.detail


def test_every_setting_is_described() -> None:
    host, release = describe(Settings())
    for name, _, meaning in [*host, *release]:
        assert meaning, name
        if name.endswith("_seconds"):
            assert "second" in meaning, name
