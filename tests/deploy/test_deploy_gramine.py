# SPDX-License-Identifier: Apache-2.0
"""The Gramine manifests and the settings of the sidecar, linted; never run here."""

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gramine_support import (
    DEFECTS,
    FOLDER,
    TEMPLATES,
    expanded,
    linter,
    manifest,
    values,
)

from tightseal.model.claims import TcbStatus
from tightseal.model.settings import PlatformRule, ReleaseSettings
from tightseal.service.load import load_settings
from tightseal.service.settings import PlatformKind

shapes = pytest.mark.parametrize("shape", TEMPLATES)


@shapes
def test_the_template_has_no_other_markup(shape: str) -> None:
    assert not re.search(r"\{[{%]|[%}]\}", expanded(shape))


@shapes
def test_the_readme_gives_every_value(shape: str) -> None:
    readme = (FOLDER / "README.md").read_text()
    commands = re.findall(
        r"^gramine-manifest (.*?\.template) (\S+)$", readme, re.MULTILINE | re.DOTALL
    )
    (given,) = [c for c, made in commands if made == TEMPLATES[shape].stem]
    assert dict(re.findall(r"-D(\w+)=(\S+)", given)) == values(shape)


@shapes
def test_the_manifest_passes(shape: str) -> None:
    assert linter().problems(manifest(shape), shape) == []


@shapes
def test_what_matters_is_there_in_plain_sight(shape: str) -> None:
    found = manifest(shape)
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


@shapes
@pytest.mark.parametrize("defect", [d[1] for d in DEFECTS], ids=[d[0] for d in DEFECTS])
def test_a_broken_rule_is_found(
    defect: Callable[[dict[str, Any]], None], shape: str
) -> None:
    broken = copy.deepcopy(manifest(shape))
    defect(broken)
    assert linter().problems(broken, shape) != []


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
    assert run(str(good), "sidecar") == 0
    assert run(str(good), "quorum") == 2
    good.write_text(expanded("service"))
    assert run(str(good), "service") == 0
    assert run(str(good)) == 1


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
