# SPDX-License-Identifier: Apache-2.0
"""Gramine manifests as their templates give them, and ways to break one."""

import importlib.util
import re
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "gramine"
TEMPLATES = {
    "sidecar": FOLDER / "tightseal.manifest.template",
    "service": FOLDER / "service.manifest.template",
}
STATE = "/var/lib/tightseal"
KEYRING = "/var/lib/tightseal-keyring"
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

SERVICE_VALUES = {
    **VALUES,
    "keyring_dir": "/srv/tightseal/keyring",
    "shim": "/opt/tightseal-native/libtightseal-egetkey.so",
}


def values(shape: str) -> dict[str, str]:
    return SERVICE_VALUES if shape == "service" else VALUES


def expanded(shape: str = "sidecar") -> str:
    """Put the values in, as gramine-manifest would; a name it lacks is an error."""
    known = values(shape)
    return re.sub(
        r"\{\{ (\w+) \}\}", lambda m: known[m.group(1)], TEMPLATES[shape].read_text()
    )


def manifest(shape: str = "sidecar") -> dict[str, Any]:
    return tomllib.loads(expanded(shape))


@cache
def linter() -> ModuleType:
    """The script, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("check", FOLDER / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        table = found
        for name in parents:
            table = table.setdefault(name, {})
        table[last] = value

    return change


def drop(path: str) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        table = found
        for name in parents:
            table = table[name]
        del table[last]

    return change


def append(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        table, _, last = path.rpartition(".")
        for name in table.split("."):
            found = found[name]
        found[last].append(value)

    return change


def mounted(path: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        for mount in found["fs"]["mounts"]:
            if mount["path"] == path:
                mount.update(fields)

    return change


def settings_untrusted(found: dict[str, Any]) -> None:
    files = found["sgx"]["trusted_files"]
    files.remove("file:/opt/tightseal-etc/tightseal.toml")


DEFECTS: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    ("debug", put("sgx.debug", True)),
    ("debug_as_number", put("sgx.debug", 0)),
    ("debug_missing", drop("sgx.debug")),
    ("edmm", put("sgx.edmm_enable", True)),
    ("no_attestation", put("sgx.remote_attestation", "none")),
    ("epid", put("sgx.remote_attestation", "epid")),
    ("no_attestation_key", drop("sgx.remote_attestation")),
    ("host_arguments", put("loader.insecure__use_cmdline_argv", True)),
    ("host_environment", put("loader.insecure__use_host_env", True)),
    ("argv_file", put("loader.argv_src_file", "file:args")),
    ("env_file", put("loader.env_src_file", "file:env")),
    ("env_passthrough", put("loader.env.LD_PRELOAD", {"passthrough": True})),
    ("env_setting", put("loader.env.TIGHTSEAL_HOST_PLATFORM_ROOT", "/tmp/x")),
    ("env_python", put("loader.env.PYTHONSTARTUP", "/tmp/x.py")),
    ("other_arguments", append("loader.argv", "--help")),
    ("argv_missing", drop("loader.argv")),
    ("flags_mask", put("sgx.seal_key.flags_mask", "0xff0000000000000b")),
    ("xfrm_mask", put("sgx.seal_key.xfrm_mask", "0x0")),
    ("misc_mask_missing", drop("sgx.seal_key.misc_mask")),
    ("no_masks", drop("sgx.seal_key")),
    ("max_threads_missing", drop("sgx.max_threads")),
    ("max_threads_too_few", put("sgx.max_threads", 1)),
    ("isvsvn_missing", drop("sgx.isvsvn")),
    ("isvprodid_text", put("sgx.isvprodid", "1")),
    ("lax_files", put("sgx.file_check_policy", "allow_all_but_log")),
    ("insecure_key", put("fs.insecure__keys", {"default": "00" * 16})),
    ("insecure_eventfd", put("sys.insecure__allow_eventfd", True)),
    ("preload", put("loader.preload", "file:/tmp/x.so")),
    ("statistics", put("sgx.enable_stats", True)),
    ("profile", put("sgx.profile", {"enable": "main"})),
    ("settings_not_measured", settings_untrusted),
    ("allowed_settings", append("sgx.allowed_files", "file:/opt/tightseal-etc/")),
    ("allowed_program", append("sgx.allowed_files", "file:/opt/tightseal/")),
    ("allowed_host_folder", append("sgx.allowed_files", "file:/srv/tightseal/host/")),
    (
        "host_file_not_allowed",
        put("sgx.allowed_files", ["file:/srv/tightseal/cache/"]),
    ),
    (
        "host_file_measured",
        append("sgx.trusted_files", "file:/srv/tightseal/host/host.toml"),
    ),
    ("host_file_elsewhere", append("loader.argv", "/etc/tightseal/host.toml")),
    ("allowed_everything", put("sgx.allowed_files", ["file:/"])),
    ("untrusted_mount", append("fs.mounts", {"path": "/x", "uri": "file:/x"})),
    (
        "odd_mount",
        append("fs.mounts", {"type": "untrusted_shm", "path": "/x", "uri": "dev:x"}),
    ),
    ("state_untrusted", mounted(STATE, type="chroot")),
    ("state_under_the_root_key", mounted(STATE, key_name="_sgx_mrenclave")),
    ("state_under_a_given_key", mounted(STATE, key_name="default")),
    (
        "given_hash",
        append("sgx.trusted_files", {"uri": "file:/x", "sha256": "00" * 32}),
    ),
    ("no_mounts", drop("fs.mounts")),
]
