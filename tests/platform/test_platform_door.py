# SPDX-License-Identifier: Apache-2.0
"""The door to the platforms."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from tightseal.errors import SettingsError
from tightseal.platform import door
from tightseal.platform.door import PLATFORM_KINDS, open_platform
from tightseal.platform.files import OS_FILES, read_whole, write_once
from tightseal.platform.gramine import GraminePlatform


def announced(monkeypatch: pytest.MonkeyPatch, *targets: str) -> None:
    points = EntryPoints(
        EntryPoint("sim", target, door.ENTRY_POINT_GROUP) for target in targets
    )

    def entry_points(**wanted: Any) -> EntryPoints:
        return points.select(**wanted)

    monkeypatch.setattr(door, "entry_points", entry_points)


def echo(options: dict[str, object]) -> tuple[str, dict[str, object]]:
    return "opened", options


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gramine", {}),
        ("gramine", {"root": "/tmp/tree"}),
        ("configfs-tsm", {}),
        ("configfs-tsm", {"provider": "tdx_guest"}),
        ("configfs-tsm", {"provider": "sev_guest", "privlevel": 1}),
        ("sev-guest", {}),
        ("sev-guest", {"vmpl": 1, "fields": ["measurement", "policy", "image_id"]}),
    ],
)
def test_opens_without_touching_the_hardware(
    kind: str, options: dict[str, object]
) -> None:
    assert open_platform(kind, options).name == kind


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("tpm", {}),
        ("", {}),
        ("gramine", {"rot": "/x"}),
        ("gramine", {"root": "relative"}),
        ("gramine", {"root": 1}),
        ("configfs-tsm", {"provider": "arm"}),
        ("configfs-tsm", {"provider": ["tdx_guest"]}),
        ("configfs-tsm", {"privlevel": "one"}),
        ("configfs-tsm", {"privlevel": True}),
        ("configfs-tsm", {"privlevel": 9}),
        ("sev-guest", {"vmpl": 4}),
        ("sev-guest", {"fields": []}),
        ("sev-guest", {"fields": "measurement"}),
        ("sev-guest", {"fields": ["measurement"]}),
        ("sev-guest", {"fields": [["measurement"]]}),
        ("sev-guest", {"fields": ["measurement", "policy", "all"]}),
    ],
)
def test_refused(kind: str, options: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        open_platform(kind, options)


def test_every_kind_is_listed() -> None:
    assert PLATFORM_KINDS == ("gramine", "configfs-tsm", "sev-guest", "sim")


def test_sim_is_found_through_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    announced(monkeypatch, f"{__name__}:echo")
    opened: object = open_platform("sim", {"world": "w"})
    assert opened == ("opened", {"world": "w"})


def test_sim_is_refused_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    announced(monkeypatch)
    with pytest.raises(SettingsError, match="0 installed"):
        open_platform("sim", {})


def test_two_sims_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    announced(monkeypatch, f"{__name__}:echo", f"{__name__}:other")
    with pytest.raises(SettingsError, match="2 installed"):
        open_platform("sim", {})


def test_the_door_imports_nothing_of_the_simulated_world() -> None:
    program = (
        "import sys, tightseal.platform.door;"
        "print([m for m in sys.modules if m.startswith('tightseal_sim')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, timeout=60
    )
    assert done.stdout.strip() == b"[]"


def test_os_files_on_real_files_and_fifos(tmp_path: Path) -> None:
    folder = tmp_path / "request"
    OS_FILES.mkdir(str(folder))
    assert (folder.stat().st_mode & 0o777) == 0o700
    (folder / "inblob").touch()
    write_once(OS_FILES, str(folder / "inblob"), b"x" * 64)
    data = read_whole(OS_FILES, str(folder / "inblob"), max_bytes=64)
    assert data == b"x" * 64
    (folder / "inblob").unlink()
    OS_FILES.rmdir(str(folder))
    assert not folder.exists()


def test_a_real_folder_with_static_files_is_not_taken_for_gramine(
    tmp_path: Path,
) -> None:
    """Files that do not react cannot quote other report data than they hold."""
    (tmp_path / "attestation_type").write_bytes(b"dcap")
    (tmp_path / "my_target_info").write_bytes(bytes(32) + b"\x05" + bytes(479))
    (tmp_path / "target_info").touch()
    (tmp_path / "user_report_data").touch()
    (tmp_path / "report").write_bytes(bytes(48) + b"\x05" + bytes(383))
    (tmp_path / "quote").write_bytes(bytes(5000))
    with pytest.raises(Exception, match="second writer"):
        GraminePlatform(tmp_path).evidence(os.urandom(64))
