# SPDX-License-Identifier: Apache-2.0
"""A real provider is told to stop under load: nobody who was let in is left alone."""

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_harness import (
    ScriptedProvider,
    ask_http,
    connect,
    frame,
    http_request,
    parse_http,
    receive_all,
    running,
    scripted_settings,
    until,
)

from cli_support import run
from tightseal.errors import Code, TightsealError
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.guest.client import Client
from tightseal.guest.collateral import judge_with, online
from tightseal.guest.exchange import Terms
from tightseal.guest.http import Bounds
from tightseal.model.exchange import Kem
from tightseal.model.keypath import KeyRequest
from tightseal.service.supervisor import EXIT_STOPPED
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene

NOTICE_SECONDS = 300.0
"""Longer than any test: who wants its end says so once more."""

MANY = 3
WAIT_SECONDS = 60.0

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path / "scene") as made:
        yield made


@dataclass
class Load:
    """Workloads that ask readiness before each exchange, and never repeat."""

    scene: Scene
    provider: Provider
    td: SimTd
    entries: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def client(self) -> Client:
        roots = with_simulated(VENDOR_ROOTS, self.scene.world.intel.root_certificate)
        collateral = online(pccs=[self.scene.pccs_url], judge=judge_with(roots=roots))
        terms = Terms(pin=self.provider.pin, collateral=collateral, kem=Kem.X25519)
        bounds = Bounds(attempts=1)
        return Client(self.provider.url, source=self.td, terms=terms, bounds=bounds)

    def ask(self) -> None:
        """Until readiness says that the end comes."""
        with self.client() as client:
            while not self.told or self.told[-1] != "draining":
                self.release(client)
                self.look()

    def look(self) -> None:
        try:
            answer = httpx.get(f"{self.provider.url}/readyz", trust_env=False)
        except httpx.ConnectError:
            self.told.append("draining")
            return
        self.told.append("ready" if answer.is_success else first_part(answer.json()))

    def release(self, client: Client) -> None:
        try:
            keys = client.keys(KeyRequest("disk"))
        except TightsealError as e:
            self.failed.append(f"{e.code.value}: {e.detail}")
        else:
            self.entries.append(keys.receipt.entry_id.hex())


def first_part(document: dict[str, Any]) -> str:
    name: str = document["parts"][0]["name"]
    return name


def log_of(provider: Provider) -> list[dict[str, Any]]:
    return [json.loads(line) for line in provider.log.read_text().splitlines()]


def logged(provider: Provider) -> list[str]:
    said = run("audit", "query", "--config", provider.config, "--json", "--count", 5000)
    return [entry["entry_id"] for entry in said.document["entries"]]


@pytest.mark.parametrize("workers", [2])
def test_a_provider_that_is_told_to_stop_under_load_leaves_nobody_alone(
    scene: Scene, tmp_path: Path, workers: int
) -> None:
    tiles = tmp_path / "tiles"
    provider = scene.provider(
        host={
            "workers": workers,
            "drain_notice_seconds": NOTICE_SECONDS,
            "log_tiles": str(tiles),
        }
    )
    td = scene.world.intel.platform("machine-a").launch_td(TdImage())
    # The other worker may still begin when one is ready, and then it has no drain.
    until(lambda: '"event":"serving"' in provider.log.read_text(), WAIT_SECONDS)
    loads = [Load(scene, provider, td) for _ in range(MANY)]
    threads = [threading.Thread(target=load.ask) for load in loads]
    for thread in threads:
        thread.start()
    until(lambda: all(len(load.entries) >= 3 for load in loads), WAIT_SECONDS)
    # A workload that asks nobody: in the notice it is served all the same.
    deaf = Load(scene, provider, td)
    with deaf.client() as client:
        deaf.release(client)
        provider.process.send_signal(signal.SIGTERM)
        until(lambda: (deaf.look(), deaf.told[-1] == "draining")[1], WAIT_SECONDS)
        deaf.release(client)
    for thread in threads:
        thread.join(WAIT_SECONDS)
    # Nobody asks any more. Told again, it does not wait until the notice is over.
    provider.process.send_signal(signal.SIGTERM)
    assert provider.process.wait(WAIT_SECONDS) == EXIT_STOPPED
    assert [load.failed for load in (*loads, deaf)] == [[]] * (MANY + 1)
    assert {told for load in loads for told in load.told} == {"ready", "draining"}

    answered = [entry for load in (*loads, deaf) for entry in load.entries]
    entries = logged(provider)
    assert set(answered) <= set(entries)
    assert len(entries) == len(answered), "every grant reached its workload"
    lines = log_of(provider)
    assert [x["cut_off"] for x in lines if x["event"] == "drained"] == [0] * workers
    (key,) = {x["log_verifier"] for x in lines if x["event"] == "log_checked"}
    size = ("--log-key", key, "--min-size", len(entries))
    for source in (("--config", provider.config), ("--tiles", tiles)):
        said = run("audit", "verify", *source, *size)
        assert said.status == 0, said.stderr


def test_what_runs_and_what_waits_is_answered_before_the_end(tmp_path: Path) -> None:
    """Without a notice: requests for quotes, more than run at once, are all let in."""
    quotes = 6
    legacy = {"legacy": {"enabled": True}}
    with Scene(tmp_path / "slow", quote_latency_ms=300) as slow:
        provider = slow.provider("slow", release=legacy, host={"threads": 1})
        td = slow.world.intel.platform("machine-a").launch_td(TdImage())
        with ExitStack() as stack:
            waiting: list[socket.socket] = []
            for number in range(quotes):
                quote = td.evidence(bytes([9 + number]) + bytes(63))
                payload = json.dumps({"quote": list(quote)}).encode()
                waiting.append(stack.enter_context(connect(provider.framed[1], 60)))
                waiting[-1].sendall(frame(payload))
            provider.process.send_signal(signal.SIGTERM)
            answers = [receive_all(connection) for connection in waiting]
        assert provider.process.wait(WAIT_SECONDS) == EXIT_STOPPED
        assert all(b"encrypted_key" in answer for answer in answers)
        assert len(logged(provider)) == quotes


def draining(run_: Any) -> None:
    run_.loop.call_soon_threadsafe(run_.worker.drain)
    until(lambda: run_.front.health.draining)


def test_readiness_names_the_end_first_and_requests_are_answered_and_closed() -> None:
    with running(settings=scripted_settings(drain_notice_seconds=60)) as served:
        assert ask_http(served.http_port, "GET", "/readyz").status == 200
        draining(served)
        answer = ask_http(served.http_port, "GET", "/readyz")
        assert answer.status == 503
        first = answer.json["parts"][0]
        assert (first["name"], first["ok"]) == ("draining", False)
        assert first["code"] == Code.PROVIDER_NOT_READY.value
        assert "another provider" in first["remedy"]
        assert ask_http(served.http_port, "GET", "/healthz").status == 200
        with connect(served.http_port) as connection:
            request = http_request("POST", "/v1/keys", b"{}", close=False)
            connection.sendall(request)
            kept = parse_http(receive_all(connection))
        assert kept.status == 200
        assert kept.headers["connection"] == "close"


def test_told_twice_a_provider_does_not_wait_for_balancers() -> None:
    with running(settings=scripted_settings(drain_notice_seconds=600)) as served:
        draining(served)
        served.loop.call_soon_threadsafe(served.worker.drain)
        served.thread.join(WAIT_SECONDS)
        assert not served.thread.is_alive()


def test_who_connected_before_the_end_is_served_and_who_comes_after_is_refused() -> (
    None
):
    provider = ScriptedProvider(gate=threading.Event())
    with running(provider) as served, ExitStack() as stack:
        early = [stack.enter_context(connect(served.http_port, 60)) for _ in range(8)]
        for connection in early:
            connection.sendall(http_request("POST", "/v1/keys", b"{}"))
        served.loop.call_soon_threadsafe(served.worker.stop)
        until(lambda: refused(served.http_port), WAIT_SECONDS)
        provider.open_gate()
        answers = [parse_http(receive_all(connection)) for connection in early]
        assert [answer.status for answer in answers] == [200] * len(early)


def refused(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_connection_at_rest_is_closed_and_not_reset() -> None:
    with running() as served, connect(served.http_port) as idle:
        idle.sendall(http_request("GET", "/healthz", close=False))
        assert idle.recv(65536).startswith(b"HTTP/1.1 200")
        served.loop.call_soon_threadsafe(served.worker.stop)
        assert idle.recv(65536) == b""


def test_a_head_that_comes_in_two_parts_across_the_end_is_answered() -> None:
    begun = time.monotonic()
    with running() as served, connect(served.http_port) as slow:
        request = http_request("POST", "/v1/keys", b"{}", close=False)
        slow.sendall(request[:20])
        until(lambda: _reading(served), WAIT_SECONDS)
        served.loop.call_soon_threadsafe(served.worker.stop)
        until(lambda: refused(served.http_port), WAIT_SECONDS)
        slow.sendall(request[20:])
        answer = parse_http(receive_all(slow))
    assert answer.status == 200
    assert answer.headers["connection"] == "close"
    assert time.monotonic() - begun < WAIT_SECONDS


def _reading(served: Any) -> bool:
    gauge: Callable[[], bytes] = served.front.metrics.render
    return b'tightseal_connections{phase="reading",transport="http"} 1.0' in gauge()
