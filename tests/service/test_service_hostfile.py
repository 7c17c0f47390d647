# SPDX-License-Identifier: Apache-2.0
"""The host file: what an unmeasured file may say, and what overrides what."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import Code, SettingsError
from tightseal.model.settings import ReleaseSettings
from tightseal.service.hostfile import NOT_IN_HOST_FILE, Source, overlay
from tightseal.service.load import (
    SettingsFiles,
    describe,
    load_settings,
    parse_settings,
)
from tightseal.service.settings import HostSettings, Settings

MEASURED = (
    '[host]\nlisten = "127.0.0.1:1"\nworkers = 2\n'
    '[host.log]\nformat = "text"\n[release]\nnonce_life = 60\n'
)

REFUSED = {
    "release table": ("[release]\n", "release"),
    "release setting": ('[release]\naccepted_tcb = ["OutOfDate"]\n', "release"),
    "dotted release setting": ("release.nonce_life = 60\n", "release"),
    "release as a value": ("release = 1\n", "release"),
    "unknown table": ("[hots]\n", "hots"),
    "setting at the top": ("workers = 2\n", "workers"),
    "host as a value": ("host = 1\n", "host"),
    "host as a list": ("[[host]]\nworkers = 2\n", "host"),
    "platform table": ("[host.platform]\n", "host.platform"),
    "platform kind": ('[host.platform]\nkind = "gramine"\n', "host.platform"),
    "platform as a value": ("host.platform = 1\n", "host.platform"),
    "platform inline": ('host = { platform = { root = "/x" } }\n', "host.platform"),
    "state folder": ('[host]\nstate_dir = "/tmp"\n', "host.state_dir"),
    "cache folder": ('host.collateral.cache_dir = "/x"\n', "host.collateral.cache_dir"),
    "bundle": ('[host.collateral]\nbundle = "/x"\n', "host.collateral.bundle"),
    "TLS certificate": ('[host.tls]\ncertificate = "/x"\n', "host.tls.certificate"),
    "TLS key": ('[host.tls]\nkey = "/x"\n', "host.tls.key"),
    "unknown setting": ("[host]\nworkes = 2\n", "workes"),
    "wrong type": ('[host]\nworkers = "2"\n', "host.workers"),
    "out of bounds": ("[host]\nworkers = 65\n", "host.workers"),
    "address without port": ('[host]\nlisten = "127.0.0.1"\n', "host.listen"),
    "no TOML": ("[host\n", "TOML"),
}


@pytest.mark.parametrize(("text", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_host_file_names_file_and_key(
    tmp_path: Path, text: str, named: str
) -> None:
    host = tmp_path / "host.toml"
    host.write_text(text)
    with pytest.raises(SettingsError) as refused:
        load_settings(None, host_path=host)
    assert refused.value.code is Code.SETTINGS_INVALID
    assert str(host) in refused.value.detail
    assert named in refused.value.detail


def test_missing_host_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(None, host_path=tmp_path / "none.toml")
    assert "none.toml" in refused.value.detail


def test_each_layer_overrides_those_before_it_and_is_named(tmp_path: Path) -> None:
    config, host = tmp_path / "tightseal.toml", tmp_path / "host.toml"
    config.write_text(MEASURED)
    host.write_text('[host]\nworkers = 3\nqueue = 9\n[host.log]\nlevel = "debug"\n')
    environment = {"TIGHTSEAL_HOST_QUEUE": "10", "TIGHTSEAL_HOST_THREADS": "1"}
    loaded = SettingsFiles(config, host).load(environment)
    found = loaded.settings.host
    assert (found.listen, found.workers, found.queue, found.threads) == (
        *("127.0.0.1:1", 3, 10, 1),
    )
    assert (found.log.format.value, found.log.level.value) == ("text", "debug")
    expected = {
        "host.listen": Source.SETTINGS_FILE,
        "host.log.format": Source.SETTINGS_FILE,
        "release.nonce_life": Source.SETTINGS_FILE,
        "host.workers": Source.HOST_FILE,
        "host.log.level": Source.HOST_FILE,
        "host.queue": Source.ENVIRONMENT,
        "host.threads": Source.ENVIRONMENT,
    }
    assert dict(loaded.sources) == expected
    assert loaded.source("host.drain_seconds") is Source.DEFAULT


def test_a_host_file_cannot_hide_a_fault_of_the_settings_file() -> None:
    with pytest.raises(SettingsError):
        parse_settings(
            "[host]\nworkers = 0\n", host_text="[host]\nworkers = 1\n", environment={}
        )


@given(
    workers=st.integers(1, 64),
    level=st.sampled_from(["debug", "info", "warning", "error"]),
    port=st.integers(0, 65535),
)
def test_no_host_file_changes_the_release_settings(
    workers: int, level: str, port: int
) -> None:
    text = (
        f'[host]\nworkers = {workers}\nlisten = "[::]:{port}"\n'
        f'[host.log]\nlevel = "{level}"\n'
    )
    settings = parse_settings(MEASURED, host_text=text, environment={})
    assert settings.release.digest() == ReleaseSettings(nonce_life=60).digest()
    assert settings.host.platform == HostSettings().platform
    assert settings.host.state_dir == HostSettings().state_dir


def test_what_may_not_stand_in_a_host_file_exists() -> None:
    names = {name for name, _, _ in describe(Settings())[0]}
    for path in NOT_IN_HOST_FILE:
        name = ".".join(path)
        assert any(n == name or n.startswith(name + ".") for n in names), name


def test_every_path_among_the_host_settings_was_decided_on() -> None:
    """A new setting that names a place must be put on the list, or here."""
    harmless = {"collateral.ca_file"}
    refused = {".".join(path) for path in NOT_IN_HOST_FILE}
    # Of the state, ``engine`` says where it lies.
    refused = (refused - {"state"}) | {"state.engine"}
    refused -= {"keyring.create", "keyring.tpm"}
    places = {
        name
        for name, _, meaning in describe(Settings())[0]
        if not name.startswith("platform.")
        and any(word in meaning.split()[:3] for word in ("folder", "file", "PEM"))
    }
    assert places == (refused - {"platform"}) | harmless


TABLES = st.recursive(
    st.integers(),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))


@given(TABLES, TABLES)
def test_overlay_changes_neither_table_and_keeps_what_is_above(
    below: dict[str, object], above: dict[str, object]
) -> None:
    before = repr((below, above))
    merged = overlay(below, above)
    assert repr((below, above)) == before
    assert set(merged) == set(below) | set(above)
    assert overlay(merged, above) == merged
    for name, value in above.items():
        if not isinstance(value, dict):
            assert merged[name] == value
