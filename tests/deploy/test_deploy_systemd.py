# SPDX-License-Identifier: Apache-2.0
"""The systemd unit and its drop-ins: analysed, and its harshest line tried."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from debian_support import MissingError, needed
from tightseal.service.load import DEFAULT_CONFIG, parse_settings
from tightseal.service.server import BACKGROUND_SECONDS, FINISH_SECONDS
from tightseal.service.settings import HostSettings
from tightseal.service.supervisor import EXIT_SETTINGS, STOP_SLACK_SECONDS
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Provider, Scene

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "tightseal.service"
DROP_INS = sorted((FOLDER / "tightseal.service.d").glob("*.conf.example"))
PROGRAM = "/opt/tightseal/bin/tightseal"

MOST_EXPOSED = 14
"""Ten times what systemd-analyze may find: 12 with systemd 252, 100 at worst."""

MOST_WITH_HARDWARE = 22

PR_SET_MDWE = 65
MDWE_SINCE = (6, 3)


@pytest.fixture(scope="module")
def analyse(
    cannot_run: Callable[[str], NoReturn],
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    try:
        program = needed(lambda: shutil.which("systemd-analyze"), "systemd")
    except MissingError as e:
        cannot_run(str(e))

    def run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [program, *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": ""},
        )

    return run


def placed(folder: Path, drop_in: Path | None = None, **changes: str) -> Path:
    """The unit where it can be analysed: programs that it names are there."""
    text = UNIT.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    unit = folder / UNIT.name
    unit.write_text(text.replace(PROGRAM, "/bin/true"))
    if drop_in is not None:
        (folder / f"{UNIT.name}.d").mkdir()
        mended = drop_in.read_text().replace("/usr/bin/gramine-sgx", "/bin/true")
        (folder / f"{UNIT.name}.d" / drop_in.name.removesuffix(".example")).write_text(
            mended
        )
    return unit


def directives(path: Path) -> list[tuple[str, str]]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    pairs = [line.partition("=") for line in lines if "=" in line and line[0] != "#"]
    return [(name, value) for name, _, value in pairs]


def values(name: str) -> list[str]:
    return [value for found, value in directives(UNIT) if found == name]


def test_every_drop_in_is_here() -> None:
    names = [drop_in.name for drop_in in DROP_INS]
    assert names == [f"{n}.conf.example" for n in ("gramine", "sev-guest", "tpm2")]


@pytest.mark.parametrize(
    "drop_in", [None, *DROP_INS], ids=lambda p: p.name if p else "unit"
)
def test_systemd_understands_every_line(
    analyse: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
    drop_in: Path | None,
) -> None:
    done = analyse("verify", placed(tmp_path, drop_in))
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_line_that_it_does_not_understand_is_seen(
    analyse: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    strange = tmp_path / "strange.conf.example"
    strange.write_text("[Service]\nProtectEverything=yes\n")
    folder = tmp_path / "unit"
    folder.mkdir()
    assert "ProtectEverything" in analyse("verify", placed(folder, strange)).stderr


@pytest.mark.parametrize(
    ("drop_in", "most"),
    [(None, MOST_EXPOSED), *((d, MOST_WITH_HARDWARE) for d in DROP_INS)],
    ids=lambda v: v.name if isinstance(v, Path) else str(v),
)
def test_exposure_stays_below_the_threshold(
    analyse: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
    drop_in: Path | None,
    most: int,
) -> None:
    unit = placed(tmp_path, drop_in)
    done = analyse("security", "--offline=true", f"--threshold={most}", unit)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "line",
    ["User=tightseal", "SystemCallFilter=@system-service", "CapabilityBoundingSet=\n"],
)
def test_a_protection_that_is_gone_is_above_it(
    analyse: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
    line: str,
) -> None:
    unit = placed(tmp_path, **{line: "\n"})
    done = analyse("security", "--offline=true", f"--threshold={MOST_EXPOSED}", unit)
    assert done.returncode != 0


def test_the_unit_fits_the_program() -> None:
    host = HostSettings()
    (start,) = values("ExecStart")
    assert start.split() == [PROGRAM, "serve", "--config", str(DEFAULT_CONFIG)]
    folders = values("StateDirectory")[0].split()
    assert f"/var/lib/{folders[0]}" == host.state_dir
    (timeout,) = values("TimeoutStopSec")
    stopping = host.drain_notice_seconds + host.drain_seconds
    assert int(timeout) > stopping + STOP_SLACK_SECONDS
    assert STOP_SLACK_SECONDS > FINISH_SECONDS + BACKGROUND_SECONDS
    assert str(EXIT_SETTINGS) in values("RestartPreventExitStatus")[0].split()
    assert values("ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert values("LimitMEMLOCK") == ["infinity"]
    assert values("LimitCORE") == ["0"]
    assert values("KillMode") == ["mixed"]


def test_no_line_holds_a_secret_or_an_environment() -> None:
    """Settings stand in files; what is in the unit, everybody on the host can read."""
    for path in (UNIT, *DROP_INS):
        names = {name for name, _ in directives(path)}
        assert not names & {"Environment", "EnvironmentFile", "PassEnvironment"}
        assert not names & {"SetCredential", "SetCredentialEncrypted"}


def test_it_releases_keys_where_no_memory_may_become_executable(
    tmp_path: Path, cannot_run: Callable[[str], NoReturn]
) -> None:
    """What ``MemoryDenyWriteExecute`` asks of the kernel, without systemd."""
    release = tuple(int(n) for n in platform.release().split(".")[:2])
    if release < MDWE_SINCE:
        cannot_run(f"Linux {MDWE_SINCE[0]}.{MDWE_SINCE[1]} has PR_SET_MDWE")
    deny = (
        "import ctypes, os, sys\n"
        f"assert ctypes.CDLL(None).prctl({PR_SET_MDWE}, 1, 0, 0, 0) == 0\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    )
    with Scene(tmp_path / "scene") as scene:
        config = scene.configure()
        settings = parse_settings(config.read_text(), environment={})
        command = [sys.executable, "-c", deny]
        command += ["-m", "tightseal", "serve", "--config", str(config)]
        log = tmp_path / "log"
        with log.open("wb") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=sink)
        provider = Provider(
            url=f"http://{settings.host.listen}",
            framed=("", 0),
            settings=settings,
            config=config,
            log=log,
            process=process,
            pin=scene.pin_of(settings),
        )
        try:
            provider.wait_ready()
            td = scene.world.intel.platform("machine-a").launch_td(TdImage())
            with scene.client(provider, td) as client:
                assert len(client.key("disk")) == 32
        finally:
            provider.stop()
        assert process.returncode == 0
