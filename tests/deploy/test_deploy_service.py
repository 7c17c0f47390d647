# SPDX-License-Identifier: Apache-2.0
"""The Gramine manifest and settings of the service: where what must outlive lies."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gramine_support import (
    FOLDER,
    KEYRING,
    SERVICE_VALUES,
    STATE,
    append,
    linter,
    manifest,
    mounted,
    put,
)

from tightseal.model.settings import ReleaseSettings, RootKind
from tightseal.platform.slots.native_egetkey import DEFAULT_SHIM
from tightseal.service.load import load_settings
from tightseal.service.settings import PlatformKind, Settings, StateEngine

SHIM = "/usr/local/lib/libtightseal-egetkey.so"


def settings() -> Settings:
    return load_settings(FOLDER / "service.toml", host_path=FOLDER / "host.toml")


def _without(path: str) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        mounts = found["fs"]["mounts"]
        mounts[:] = [mount for mount in mounts if mount["path"] != path]

    return change


def _shim_not_measured(found: dict[str, Any]) -> None:
    found["sgx"]["trusted_files"].remove(f"file:{SERVICE_VALUES['shim']}")


DEFECTS: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    (
        "keyring_ends_with_the_microcode",
        mounted(KEYRING, type="encrypted", key_name="_sgx_mrsigner"),
    ),
    ("keyring_in_enclave_memory", mounted(KEYRING, type="tmpfs")),
    ("keyring_not_mounted", _without(KEYRING)),
    ("keyring_mounted_twice", append("fs.mounts", {"path": KEYRING, "uri": "file:/x"})),
    (
        "keyring_in_the_state_folder",
        mounted(KEYRING, uri="file:/srv/tightseal/state/k"),
    ),
    ("keyring_is_the_cache", mounted(KEYRING, uri="file:/srv/tightseal/cache")),
    (
        "keyring_not_allowed",
        put(
            "sgx.allowed_files",
            ["file:/srv/tightseal/cache/", "file:/srv/tightseal/host/host.toml"],
        ),
    ),
    ("keyring_measured", append("sgx.trusted_files", "file:/srv/tightseal/keyring/")),
    ("state_not_mounted", _without(STATE)),
    ("state_in_enclave_memory", mounted(STATE, type="tmpfs")),
    ("shim_not_mounted", _without(SHIM)),
    ("shim_not_measured", _shim_not_measured),
    (
        "shim_of_the_host",
        append("sgx.allowed_files", f"file:{SERVICE_VALUES['shim']}"),
    ),
]


@pytest.mark.parametrize("defect", [d[1] for d in DEFECTS], ids=[d[0] for d in DEFECTS])
def test_a_broken_rule_is_found(defect: Callable[[dict[str, Any]], None]) -> None:
    broken = copy.deepcopy(manifest("service"))
    defect(broken)
    assert linter().problems(broken, "service") != []


@pytest.mark.parametrize("shape", ["sidecar", "service"])
def test_the_manifest_of_one_shape_is_refused_as_the_other(shape: str) -> None:
    other = {"sidecar": "service", "service": "sidecar"}[shape]
    assert linter().problems(manifest(shape), other) != []


def test_the_manifests_differ_in_the_keyring_and_the_shim_alone() -> None:
    sidecar, service = manifest("sidecar"), manifest("service")
    for name in ("loader", "libos", "sys"):
        assert sidecar[name] == service[name]
    files = ("trusted_files", "allowed_files")
    for found in (sidecar, service):
        found["kept"] = {k: v for k, v in found["sgx"].items() if k not in files}
    assert sidecar["kept"] == service["kept"]
    for part, more in (("trusted_files", 1), ("allowed_files", 1)):
        added = set(service["sgx"][part]) - set(sidecar["sgx"][part])
        assert len(added) == more
        assert set(sidecar["sgx"][part]) < set(service["sgx"][part])
    paths = [{m["path"] for m in found["fs"]["mounts"]} for found in (sidecar, service)]
    assert paths[1] - paths[0] == {KEYRING, SHIM}
    assert paths[0] < paths[1]


def test_the_settings_are_those_of_a_service() -> None:
    found = settings()
    assert found.host.platform.kind is PlatformKind.GRAMINE
    assert found.host.workers == 1
    assert found.host.keyring.create
    assert found.release == ReleaseSettings(
        root=RootKind.KEYRING, policy_root=found.release.policy_root
    )
    assert not found.simulated


def test_what_must_outlive_the_enclave_is_not_on_its_encrypted_mount() -> None:
    found = settings()
    mounts = {
        m["path"]: m.get("type", "chroot") for m in manifest("service")["fs"]["mounts"]
    }
    assert mounts[found.host.state_dir] == "encrypted"
    assert mounts[str(found.host.keyring_path.parent)] == "chroot"
    state = Path(found.host.state_dir)
    assert not found.host.keyring_path.is_relative_to(state)
    assert found.host.state.engine is StateEngine.POSTGRES


def test_the_shim_is_where_the_product_looks() -> None:
    assert os.fspath(DEFAULT_SHIM) == SHIM


def test_the_policy_root_of_the_file_is_nobodys() -> None:
    """Started as it is, no bundle is ever accepted, and nothing is released."""
    assert settings().release.policy_root == "00" * 32
