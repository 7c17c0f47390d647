# SPDX-License-Identifier: Apache-2.0
"""What seldom happens: no descriptors left, drains too long, IPv6, odd platforms."""

import errno
import importlib.util
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import msgspec
import pytest
import service_harness
from service_harness import (
    HARNESS,
    ScriptedProvider,
    ask_framed,
    ask_http,
    connect,
    frame,
    http_request,
    parse_http,
    receive_all,
    running,
    scripted_front,
    scripted_settings,
    serving,
    until,
)
from service_world import composed_provider

from tightseal.errors import Code, PlatformError
from tightseal.model.ports import RootPlatform
from tightseal.model.wire import KEYS_PATH
from tightseal.platform.gramine import GraminePlatform
from tightseal.service import compose as composing
from tightseal.service.settings import (
    CollateralSettings,
    HostSettings,
    PlatformKind,
    PlatformSettings,
    Settings,
)
from tightseal.service.supervisor import EXIT_STOPPED, _listen
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Scene, free_port

GOLDEN_RESPONSE = service_harness.frame(
    b'{"encrypted_key":[1,2],"provider_quote":[3,4]}'
)

# -- descriptors -------------------------------------------------------------------


class FailingListener(socket.socket):
    """Fails to accept as often as told, then works."""

    failures: list[int]

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            number = self.failures.pop()
            raise OSError(number, os.strerror(number))
        return super().accept()


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]
)
def test_accept_that_fails_makes_room_and_goes_on(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = service_harness.listener

    def failing(address: str = "127.0.0.1") -> socket.socket:
        made = FailingListener(fileno=usual(address).detach())
        made.failures = []
        found.append(made)
        return made

    found: list[FailingListener] = []
    monkeypatch.setattr(service_harness, "listener", failing)
    with running() as run, connect(run.http_port) as idle:
        assert ask_http(run.http_port, "GET", "/healthz").status == 200
        for listener in found:
            listener.failures = [number] * 3
        # The oldest idle connection goes first, and everybody else is served.
        assert ask_http(run.http_port, "GET", "/healthz").status == 200
        assert ask_framed(run.framed_port, b'{"quote":[1]}') == GOLDEN_RESPONSE
        assert receive_all(idle) == b""
    assert os.strerror(number) in capsys.readouterr().out


FILES = 96


def test_process_without_descriptors_serves_on() -> None:
    """More silent connections than the process may have open files."""
    settings = msgspec.json.encode(scripted_settings()).decode()
    arguments = [sys.executable, str(HARNESS), settings]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        http_port, framed_port = json.loads(process.stdout.readline())
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (FILES, hard))
        silent: list[socket.socket] = []
        try:
            silent += [connect(framed_port, timeout=20) for _ in range(2 * FILES)]
            assert ask_http(http_port, "GET", "/healthz").status == 200
            assert ask_framed(framed_port, b'{"quote":[1]}') == GOLDEN_RESPONSE
            listed = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
            assert listed <= FILES
        finally:
            for connection in silent:
                connection.close()
            process.kill()


# -- the end -----------------------------------------------------------------------


def test_drain_ends_on_time_and_cuts_off_what_is_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    provider = ScriptedProvider(gate=threading.Event())
    settings = scripted_settings(drain_seconds=0.6)
    with (
        running(provider, settings) as run,
        connect(run.http_port) as http,
        connect(run.framed_port) as framed,
    ):
        http.sendall(http_request("POST", KEYS_PATH, b"{}"))
        framed.sendall(frame(b'{"quote":[1]}'))
        until(lambda: len(provider.seen) == 2)
        start = time.monotonic()
        run.stop()
        assert 0.5 < time.monotonic() - start < 3
        assert receive_all(http) == b""
        assert receive_all(framed) == b""
    assert "cut_off=2" in capsys.readouterr().out


def test_what_is_done_in_time_is_answered_before_the_end() -> None:
    provider = ScriptedProvider(gate=threading.Event())
    with running(provider) as run, connect(run.http_port) as http:
        http.sendall(http_request("POST", KEYS_PATH, b"{}"))
        until(lambda: len(provider.seen) == 1)
        run.loop.call_soon_threadsafe(run.worker.stop)
        time.sleep(0.2)
        provider.open_gate()
        assert parse_http(receive_all(http)).status == 200


# -- IPv6 --------------------------------------------------------------------------


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback here")


@needs_ipv6
def test_both_transports_over_ipv6() -> None:
    settings = scripted_settings()
    with serving(scripted_front(ScriptedProvider(), settings), address="::1") as run:
        with socket.create_connection(("::1", run.http_port), timeout=10) as http:
            http.sendall(http_request("POST", KEYS_PATH, b"{}"))
            assert parse_http(receive_all(http)).status == 200
        with socket.create_connection(("::1", run.framed_port), timeout=10) as framed:
            framed.sendall(frame(b'{"quote":[1]}'))
            assert receive_all(framed) == GOLDEN_RESPONSE


@needs_ipv6
@pytest.mark.parametrize("address", ["[::1]:0", "[::]:0"])
def test_ipv6_address_of_a_setting_is_bound(address: str) -> None:
    with _listen(address, setting="host.listen") as listener:
        assert listener.family is socket.AF_INET6


# -- a platform that is not what it should be --------------------------------------


@pytest.fixture(scope="module")
def fakes() -> ModuleType:
    path = Path(__file__).parents[1] / "platform" / "platform_fakes.py"
    spec = importlib.util.spec_from_file_location("platform_fakes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gramine_settings(state: Path) -> Settings:
    return Settings(
        host=HostSettings(
            state_dir=str(state),
            platform=PlatformSettings(kind=PlatformKind.GRAMINE),
            collateral=CollateralSettings(pccs=("http://127.0.0.1:9",), kds=()),
        )
    )


def stand_on(monkeypatch: pytest.MonkeyPatch, tree: Any) -> None:
    def opened(kind: str, _options: object) -> RootPlatform:
        assert kind == "gramine"
        return GraminePlatform(files=tree, sleep=lambda _seconds: None)

    monkeypatch.setattr(composing, "open_platform", opened)


def parts_of(url: str) -> dict[str, dict[str, Any]]:
    answer = httpx.get(url + "/readyz", trust_env=False)
    assert answer.status_code == 503
    return {part["name"]: part for part in answer.json()["parts"]}


def once(background: Any) -> None:
    ended = threading.Event()
    ended.set()
    background(ended)


def test_gramine_whose_quotes_no_vendor_signed_is_not_ready(
    fakes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As far as a provider gets without hardware: every part of it but the proof."""
    stand_on(monkeypatch, fakes.GramineTree())
    with composed_provider(gramine_settings(tmp_path / "state")) as provider:
        once(provider.composed.background)
        parts = parts_of(provider.url)
        assert parts["clock"]["ok"]
        assert parts["journal"]["ok"]
        for name in ("attested_key", "collateral"):
            # The fake quote carries no signature data; the verifier says so by name.
            assert parts[name]["code"] == "attestation_key_type_unsupported"
            assert parts[name]["remedy"]
        assert "tightseal-simulated" not in httpx.get(provider.url + "/healthz").headers
        body = b'{"version":1,"client_nonce":"' + b"A" * 43 + b'"}'
        answer = httpx.post(
            provider.url + "/v1/challenge", content=body, trust_env=False
        )
        assert answer.json()["code"] == "provider_not_ready"
        assert answer.status_code == 503


def test_gramine_without_quotes_is_not_ready_and_comes_back(
    fakes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tree = fakes.GramineTree()
    stand_on(monkeypatch, tree)
    with composed_provider(gramine_settings(tmp_path / "state")) as provider:
        tree.faults["open", "quote"] = [errno.EACCES] * 100
        once(provider.composed.background)
        assert parts_of(provider.url)["attested_key"]["code"] == "platform_failed"
        tree.faults.clear()
        once(provider.composed.background)
        assert parts_of(provider.url)["attested_key"]["code"] != "platform_failed"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"flags": 0x07}, Code.PROVIDER_DEBUG),
        ({"kind": b"none"}, Code.PLATFORM_UNSUPPORTED),
        ({"missing": {"attestation_type"}}, Code.PLATFORM_UNSUPPORTED),
        ({"keys": {}}, Code.SEALING_KEY_UNAVAILABLE),
    ],
    ids=["debug", "not_dcap", "no_tree", "no_sealing_key"],
)
def test_gramine_that_cannot_hold_keys_ends_the_start_by_name(
    fakes: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    change: dict[str, Any],
    code: Code,
) -> None:
    tree = fakes.GramineTree()
    for name, value in change.items():
        setattr(tree, name, value)
    stand_on(monkeypatch, tree)
    with pytest.raises(PlatformError) as refused:
        composing.prepare(gramine_settings(tmp_path / "state"))
    assert refused.value.code is code
    assert not (tmp_path / "state").exists()


# -- whole processes ---------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


def log_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("workers", [1, 2])
def test_host_file_is_served_and_read_again_on_hang_up(
    scene: Scene, tmp_path: Path, workers: int
) -> None:
    provider = scene.provider(f"hostfile-{workers}")
    provider.stop()
    port = free_port()
    host, log = tmp_path / "host.toml", tmp_path / "log"
    text = f'[host]\nlisten = "127.0.0.1:{port}"\nworkers = {workers}\n'
    host.write_text(text)
    arguments = [
        *(sys.executable, "-m", "tightseal", "serve"),
        *("--config", str(provider.config), "--host-config", str(host)),
    ]
    with (
        log.open("wb") as sink,
        subprocess.Popen(arguments, stdout=sink, stderr=sink) as process,
    ):
        try:
            until(lambda: ready(f"http://127.0.0.1:{port}"), seconds=30)
            until(lambda: any(x["event"] == "serving" for x in log_of(log)), seconds=20)
            host.write_text(text + '[host.log]\nlevel = "debug"\n')
            process.send_signal(signal.SIGHUP)
            until(
                lambda: any(
                    x["event"] == "log_level_read_again" and x["new_level"] == "debug"
                    for x in log_of(log)
                ),
                seconds=10,
            )
            host.write_text("[release]\nnonce_life = 60\n")
            process.send_signal(signal.SIGHUP)
            until(
                lambda: any(
                    x["event"] == "settings_not_read_again" and "release" in x["detail"]
                    for x in log_of(log)
                ),
                seconds=10,
            )
            assert ready(f"http://127.0.0.1:{port}")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0
    starting = next(x for x in log_of(log) if x["event"] == "starting")
    assert starting["host_file"] == str(host)
    assert starting["workers"] == workers


def ready(url: str) -> bool:
    try:
        return httpx.get(url + "/readyz", trust_env=False).is_success
    except httpx.HTTPError:
        return False


QUOTE_SECONDS = 8.0


def test_process_ends_after_its_drain_though_a_quote_hangs(tmp_path: Path) -> None:
    legacy = {"legacy": {"enabled": True}}
    with Scene(tmp_path, quote_latency_ms=QUOTE_SECONDS * 1000) as slow:
        provider = slow.provider("slow", release=legacy, host={"drain_seconds": 0.5})
        td = slow.world.intel.platform("machine-a").launch_td(TdImage())
        quote = td.evidence(bytes([9]) + bytes(63))
        with connect(provider.framed[1], timeout=30) as connection:
            payload = json.dumps({"quote": list(quote)}).encode()
            connection.sendall(frame(payload))
            time.sleep(1.0)
            start = time.monotonic()
            provider.process.send_signal(signal.SIGTERM)
            assert provider.process.wait(30) == EXIT_STOPPED
            assert time.monotonic() - start < QUOTE_SECONDS - 3
            assert receive_all(connection) == b""
    assert any(x["event"] == "calls_abandoned" for x in log_of(provider.log))
