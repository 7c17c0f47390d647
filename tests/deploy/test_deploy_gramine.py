# SPDX-License-Identifier: Apache-2.0
"""The Gramine manifest and the settings of the sidecar, linted; never run here."""

import copy
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tightseal.model.claims import TcbStatus
from tightseal.model.settings import PlatformRule, ReleaseSettings
from tightseal.service.load import load_settings
from tightseal.service.settings import PlatformKind

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "gramine"
TEMPLATE = FOLDER / "tightseal.manifest.template"
VALUES = {
    "entrypoint": "/usr/bin/python3.11",
    "python_stdlib": "/usr/lib/python3.11",
    "arch_libdir": "/lib/x86_64-linux-gnu",
    "runtime_dir": "/usr/lib/x86_64-linux-gnu/gramine/runtime/glibc",
    "install_dir": "/opt/tightseal",
    "config_dir": "/opt/tightseal-etc",
    "state_dir": "/srv/tightseal/state",
    "cache_dir": "/srv/tightseal/cache",
    "host_config_dir": "/srv/tightseal/host",
    "isv_prod_id": "1",
    "isv_svn": "1",
}


def expanded() -> str:
    """Put the values in, as gramine-manifest would; a name it lacks is an error."""
    return re.sub(
        r"\{\{ (\w+) \}\}", lambda m: VALUES[m.group(1)], TEMPLATE.read_text()
    )


def manifest() -> dict[str, Any]:
    return tomllib.loads(expanded())


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", FOLDER / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_template_has_no_other_markup() -> None:
    assert not re.search(r"\{[{%]|[%}]\}", expanded())


def test_the_readme_gives_every_value() -> None:
    readme = (FOLDER / "README.md").read_text()
    given = dict(re.findall(r"-D(\w+)=(\S+)", readme))
    assert given == VALUES


def test_the_manifest_passes(check: ModuleType) -> None:
    assert check.problems(manifest()) == []


def test_what_matters_is_there_in_plain_sight() -> None:
    found = manifest()
    assert found["sgx"]["debug"] is False
    assert found["sgx"]["remote_attestation"] == "dcap"
    assert found["sgx"]["max_threads"] == 64
    assert found["sgx"]["seal_key"] == {
        "flags_mask": "0xffffffffffffffff",
        "xfrm_mask": "0xfffffffffff9ff1b",
        "misc_mask": "0xffffffff",
    }
    assert found["loader"]["argv"][-3:] == [
        *("/etc/tightseal/tightseal.toml", "--host-config"),
        "/etc/tightseal-host/host.toml",
    ]
    assert "file:/opt/tightseal-etc/tightseal.toml" in found["sgx"]["trusted_files"]


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        table = found
        for name in parents:
            table = table.setdefault(name, {})
        table[last] = value

    return change


def _drop(path: str) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        table = found
        for name in parents:
            table = table[name]
        del table[last]

    return change


def _append(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        table, _, last = path.rpartition(".")
        for name in table.split("."):
            found = found[name]
        found[last].append(value)

    return change


def _state(**fields: Any) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        for mount in found["fs"]["mounts"]:
            if mount["path"] == "/var/lib/tightseal":
                mount.update(fields)

    return change


def _settings_untrusted(found: dict[str, Any]) -> None:
    files = found["sgx"]["trusted_files"]
    files.remove("file:/opt/tightseal-etc/tightseal.toml")


DEFECTS: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    ("debug", _set("sgx.debug", True)),
    ("debug_as_number", _set("sgx.debug", 0)),
    ("debug_missing", _drop("sgx.debug")),
    ("edmm", _set("sgx.edmm_enable", True)),
    ("no_attestation", _set("sgx.remote_attestation", "none")),
    ("epid", _set("sgx.remote_attestation", "epid")),
    ("no_attestation_key", _drop("sgx.remote_attestation")),
    ("host_arguments", _set("loader.insecure__use_cmdline_argv", True)),
    ("host_environment", _set("loader.insecure__use_host_env", True)),
    ("argv_file", _set("loader.argv_src_file", "file:args")),
    ("env_file", _set("loader.env_src_file", "file:env")),
    ("env_passthrough", _set("loader.env.LD_PRELOAD", {"passthrough": True})),
    ("env_setting", _set("loader.env.TIGHTSEAL_HOST_PLATFORM_ROOT", "/tmp/x")),
    ("env_python", _set("loader.env.PYTHONSTARTUP", "/tmp/x.py")),
    ("other_arguments", _append("loader.argv", "--help")),
    ("argv_missing", _drop("loader.argv")),
    ("flags_mask", _set("sgx.seal_key.flags_mask", "0xff0000000000000b")),
    ("xfrm_mask", _set("sgx.seal_key.xfrm_mask", "0x0")),
    ("misc_mask_missing", _drop("sgx.seal_key.misc_mask")),
    ("no_masks", _drop("sgx.seal_key")),
    ("max_threads_missing", _drop("sgx.max_threads")),
    ("max_threads_too_few", _set("sgx.max_threads", 1)),
    ("isvsvn_missing", _drop("sgx.isvsvn")),
    ("isvprodid_text", _set("sgx.isvprodid", "1")),
    ("lax_files", _set("sgx.file_check_policy", "allow_all_but_log")),
    ("insecure_key", _set("fs.insecure__keys", {"default": "00" * 16})),
    ("insecure_eventfd", _set("sys.insecure__allow_eventfd", True)),
    ("preload", _set("loader.preload", "file:/tmp/x.so")),
    ("statistics", _set("sgx.enable_stats", True)),
    ("profile", _set("sgx.profile", {"enable": "main"})),
    ("settings_not_measured", _settings_untrusted),
    ("allowed_settings", _append("sgx.allowed_files", "file:/opt/tightseal-etc/")),
    ("allowed_program", _append("sgx.allowed_files", "file:/opt/tightseal/")),
    ("allowed_host_folder", _append("sgx.allowed_files", "file:/srv/tightseal/host/")),
    (
        "host_file_not_allowed",
        _set("sgx.allowed_files", ["file:/srv/tightseal/cache/"]),
    ),
    (
        "host_file_measured",
        _append("sgx.trusted_files", "file:/srv/tightseal/host/host.toml"),
    ),
    ("host_file_elsewhere", _append("loader.argv", "/etc/tightseal/host.toml")),
    ("allowed_everything", _set("sgx.allowed_files", ["file:/"])),
    ("untrusted_mount", _append("fs.mounts", {"path": "/x", "uri": "file:/x"})),
    (
        "odd_mount",
        _append("fs.mounts", {"type": "untrusted_shm", "path": "/x", "uri": "dev:x"}),
    ),
    ("state_untrusted", _state(type="chroot")),
    ("state_under_the_root_key", _state(key_name="_sgx_mrenclave")),
    ("state_under_a_given_key", _state(key_name="default")),
    (
        "given_hash",
        _append("sgx.trusted_files", {"uri": "file:/x", "sha256": "00" * 32}),
    ),
    ("no_mounts", _drop("fs.mounts")),
]


@pytest.mark.parametrize("defect", [d[1] for d in DEFECTS], ids=[d[0] for d in DEFECTS])
def test_a_broken_rule_is_found(
    check: ModuleType, defect: Callable[[dict[str, Any]], None]
) -> None:
    broken = copy.deepcopy(manifest())
    defect(broken)
    assert check.problems(broken) != []


def test_the_script(tmp_path: Path) -> None:
    def run(*arguments: str) -> int:
        command = [sys.executable, str(FOLDER / "check.py"), *arguments]
        done = subprocess.run(command, check=False, capture_output=True, timeout=60)
        return done.returncode

    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text(expanded())
    bad.write_text(expanded().replace("sgx.debug = false", "sgx.debug = true"))
    assert run(str(good)) == 0
    assert run(str(bad)) == 1
    assert run(str(tmp_path / "missing")) == 2
    assert run() == 2


def test_the_settings_are_production_settings() -> None:
    settings = load_settings(FOLDER / "tightseal.toml")
    assert settings.host.platform.kind is PlatformKind.GRAMINE
    assert settings.host.platform.root == "/dev/attestation"
    assert settings.host.workers == 1
    assert settings.release.simulated_roots == ()
    assert settings.release.accepted_tcb == (TcbStatus.UP_TO_DATE,)
    assert settings.release.platform is PlatformRule.SAME
    assert not settings.release.legacy.enabled
    assert settings.release == ReleaseSettings()


def test_the_host_file_is_accepted_and_changes_no_key() -> None:
    alone = load_settings(FOLDER / "tightseal.toml")
    both = load_settings(FOLDER / "tightseal.toml", host_path=FOLDER / "host.toml")
    assert both.release == alone.release
    assert both.host.platform == alone.host.platform
    assert both.host.state_dir == alone.host.state_dir
    assert both.host.collateral_dir == alone.host.collateral_dir
    assert both.host.listen == "0.0.0.0:3442"


def test_settings_and_mounts_agree() -> None:
    settings = load_settings(FOLDER / "tightseal.toml", host_path=FOLDER / "host.toml")
    mounts = {m["path"]: m.get("type", "chroot") for m in manifest()["fs"]["mounts"]}
    assert mounts[settings.host.state_dir] == "encrypted"
    assert mounts[str(settings.host.collateral_dir)] == "chroot"
