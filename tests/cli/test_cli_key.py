# SPDX-License-Identifier: Apache-2.0
"""``tightseal key``: a workload's way to one key, and what stays off the screen."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tightseal.cli import main
from tightseal.guest.pins import ProviderPin, pin_to_toml
from tightseal_sim.scene import Provider, Scene

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


@pytest.fixture(scope="module")
def provider(scene: Scene) -> Provider:
    return scene.provider()


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def arguments(scene: Scene, provider: Provider, tmp_path: Path) -> list[str]:
    pin, root = tmp_path / "pin.toml", tmp_path / "root.der"
    pin.write_text(pin_to_toml(provider.pin))
    root.write_bytes(scene.world.intel.root_certificate)
    return [
        "key",
        *("--provider", provider.url),
        *("--pin", str(pin)),
        *("--platform", "sim"),
        *("--option", f"world={scene.folder / 'world'}"),
        *("--option", "platform=machine-a"),
        *("--option", "tee=tdx"),
        *("--root-ca", str(root)),
        *("--purpose", "disk"),
    ]


def test_key_goes_to_a_new_file_that_nobody_else_reads(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    assert main([*arguments, "--out", str(first)]) == 0
    assert main([*arguments, "--out", str(second)]) == 0
    captured = capsys.readouterr()
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert len(first.read_bytes()) == 32
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().hex() not in captured.out + captured.err
    assert "simulated" in captured.err


def test_existing_file_is_left_alone(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    out.write_bytes(b"precious")
    assert main([*arguments, "--out", str(out)]) == 2
    assert out.read_bytes() == b"precious"
    assert capsys.readouterr().out == ""


def test_json_holds_the_key_only_with_reveal(
    arguments: list[str],
    scene: Scene,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "a"
    assert main([*arguments, "--json", "--out", str(out)]) == 0
    hidden = json.loads(capsys.readouterr().out)
    online = ["--pccs", scene.pccs_url]
    assert main([*arguments, *online, "--json", "--reveal", "--proof", "quote"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert hidden["key"] is None
    assert shown["key"] == out.read_bytes().hex()
    assert hidden["simulated"] is True
    assert hidden["receipt"]["quote"] is None
    assert shown["receipt"]["quote"]


def test_label_purpose_and_length_make_other_keys(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    keys = set()
    without = arguments[: arguments.index("--purpose")]
    for more in (
        ["--purpose", "disk"],
        ["--purpose", "disk", "--label", "x"],
        ["--purpose", "tls"],
        ["--purpose", "disk", "--length", "64"],
    ):
        assert main([*without, *more, "--json", "--reveal"]) == 0
        keys.add(json.loads(capsys.readouterr().out)["key"])
    assert len(keys) == 4


def test_provider_of_another_pin_is_refused(
    arguments: list[str],
    provider: Provider,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = pin_to_toml(provider.pin)
    assert isinstance(provider.pin, ProviderPin)
    measurement = provider.pin.identity.measurement.hex()
    (tmp_path / "pin.toml").write_text(text.replace(measurement, "ab" * 32))
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "provider_identity_mismatch" in captured.err
    assert not (tmp_path / "a").exists()


def test_simulated_provider_without_its_root_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    at = arguments.index("--root-ca")
    assert main([*arguments[:at], *arguments[at + 2 :], "--json"]) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--json", "--option", "nonsense"],
        ["--json", "--option", "no_such=1"],
        ["--json", "--pin", "/nonexistent"],
        ["--json", "--provider", "ftp://x"],
        ["--json", "--platform", "vax"],
        ["--json", "--event-log", "/nonexistent"],
    ],
    ids=lambda more: " ".join(more) or "nowhere to put the key",
)
def test_what_cannot_be_asked_is_told_with_status_two(
    arguments: list[str], more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        a
        for i, a in enumerate(arguments)
        if not (a in more and a.startswith("--") and a != "--option")
        and not (i and arguments[i - 1] in more and arguments[i - 1] != "--option")
    ]
    assert main([*given, *more]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "settings_invalid" in captured.err
