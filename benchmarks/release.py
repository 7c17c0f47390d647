# SPDX-License-Identifier: Apache-2.0
"""Releases a second, over HTTP and framed TCP, with both verifiers on.

Real providers in a simulated world. Challenges and evidence are prebuilt, untimed; wrk
replays the bodies, each once. The framed protocol has no nonce, so one frame is sent
again and again, a connection each. Ratios are taken within this one run; best of three.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
from rows import Row, at_least, figure, note, show

from tightseal.envelope.hpke import RecipientKey
from tightseal.model.base64url import encode_base64url
from tightseal.model.exchange import Kem
from tightseal.model.keypath import KeyRequest
from tightseal.model.wire import (
    CHALLENGE_PATH,
    ChallengeRequest,
    ChallengeResponse,
    KeysRequest,
    ParsedKeysRequest,
    Proof,
    decode_json,
    encode_json,
)
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene
from tightseal_sim.world import World

HERE = Path(__file__).resolve().parent
ROUNDS = 3
SECONDS = 3
FIRST_BODIES = 1500
WORKERS_LIMIT = 1.4
LATENCY_LIMIT = 0.9
NONCE_LIFE = 600
HARDWARE_QUOTE_MS = 40.0
DISK = (KeyRequest("disk"),)


@dataclass(frozen=True)
class Load:
    """What a load gave: releases a second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float


def wrk_path() -> str:
    """The load generator, installed from Debian's package where that is allowed."""
    found = shutil.which("wrk")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        note("installing wrk")
        subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
        install = ["apt-get", "install", "-y", "-qq", "wrk"]
        subprocess.run(install, check=False, capture_output=True)
        found = shutil.which("wrk")
    if found is None:
        message = "wrk is missing: install Debian's package wrk, then run this again"
        raise SystemExit(message)
    return found


def body_for(http: httpx.Client, td: SimTd, recipient: RecipientKey) -> bytes:
    """One request that answers a fresh challenge."""
    asked = ChallengeRequest(version=1, client_nonce=encode_base64url(bytes(32)))
    answer = http.post(CHALLENGE_PATH, content=encode_json(asked))
    answer.raise_for_status()
    challenge = decode_json(answer.content, ChallengeResponse).parsed()
    binding = challenge.body.binding
    draft = ParsedKeysRequest(
        nonce=challenge.body.nonce,
        binding_key_hash=binding.key_hash(),
        kem=Kem.MLKEM768_X25519,
        recipient_key=recipient.public_bytes(),
        keys=DISK,
        event_log=None,
        evidence=b"",
        proof=Proof.ATTESTED_KEY,
    )
    report_data = draft.transcript(binding).report_data()
    evidence = td.evidence(report_data)
    request = ParsedKeysRequest(
        **{
            name: getattr(draft, name)
            for name in ParsedKeysRequest.__slots__
            if name != "evidence"
        },
        evidence=evidence,
    )
    return encode_json(KeysRequest.of(request))


def prebuild(provider: Provider, td: SimTd, path: Path, count: int) -> None:
    """Write ``count`` bodies, a line each."""
    recipient = RecipientKey.generate(Kem.MLKEM768_X25519)
    with httpx.Client(base_url=provider.url, trust_env=False) as http:
        lines = [body_for(http, td, recipient) for _ in range(count)]
    path.write_bytes(b"\n".join(lines) + b"\n")


def wrk(provider: Provider, bodies: Path, clients: int) -> Load | None:
    """One run of wrk over prebuilt bodies; ``None`` where there were too few."""
    threads = min(clients, 2)
    command = [wrk_path(), f"-t{threads}", f"-c{clients}", f"-d{SECONDS}s"]
    command += ["--timeout", "20s", "-s", str(HERE / "replay.lua"), provider.url]
    command += ["--", str(bodies), str(threads)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    line = next(x for x in result.stdout.splitlines() if x.startswith("{"))
    got: dict[str, Any] = json.loads(line)
    if got["refused"] or got["errors"]:
        raise SystemExit(f"not every request was answered with keys: {got}")
    if got["short"]:
        return None
    return Load(
        rate=got["answered"] / got["seconds"],
        p50=got["p50_us"] / 1e3,
        p99=got["p99_us"] / 1e3,
    )


def over_http(provider: Provider, td: SimTd, folder: Path, *, clients: int) -> Load:
    """Best of three; twice the bodies where a run had too few."""
    loads: list[Load] = []
    count = FIRST_BODIES
    while len(loads) < ROUNDS:
        bodies = folder / "bodies"
        prebuild(provider, td, bodies, count)
        load = wrk(provider, bodies, clients)
        if load is None:
            count *= 2
        else:
            loads.append(load)
    return best(loads)


def best(loads: list[Load]) -> Load:
    """The best rate, p50 and p99 of several runs."""
    return Load(
        rate=max(x.rate for x in loads),
        p50=min(x.p50 for x in loads),
        p99=min(x.p99 for x in loads),
    )


def _framed_client(address: tuple[str, int], frame: bytes, count: int) -> list[float]:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        with socket.create_connection(address, timeout=20) as link:
            link.sendall(frame)
            answer = link.makefile("rb")
            (length,) = struct.unpack(">I", answer.read(4))
            if len(answer.read(length)) != length:
                raise SystemExit("the framed protocol gave a short answer")
        times.append(time.perf_counter() - start)
    return times


def _framed_process(
    address: tuple[str, int], frame: bytes, clients: int, each: int
) -> list[float]:
    with ThreadPoolExecutor(clients) as pool:
        jobs = [
            pool.submit(_framed_client, address, frame, each) for _ in range(clients)
        ]
        return [seconds for job in jobs for seconds in job.result()]


def over_framed(provider: Provider, td: SimTd, *, clients: int, count: int) -> Load:
    """Best of three, by a client process of its own."""
    report_data = RecipientKey.generate(Kem.X25519).public_bytes().ljust(64, b"\0")
    payload = json.dumps(
        {"quote": list(td.evidence(report_data))}, separators=(",", ":")
    ).encode()
    frame = struct.pack(">I", len(payload)) + payload
    each = max(1, count // clients)
    loads = []
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for _ in range(ROUNDS):
            start = time.perf_counter()
            arguments = (provider.framed, frame, clients, each)
            times = pool.apply(_framed_process, arguments)
            elapsed = time.perf_counter() - start
            cuts = quantiles(times, n=100)
            loads.append(Load(len(times) / elapsed, cuts[49] * 1e3, cuts[98] * 1e3))
    return best(loads)


@contextmanager
def running(
    folder: Path, *, workers: int, quote_ms: float = 0.0
) -> Iterator[tuple[Scene, Provider, SimTd]]:
    """A provider that serves both ways in."""
    with Scene(folder, quote_latency_ms=quote_ms) as stage:
        provider = stage.provider(
            host={"workers": workers, "log": {"level": "warning"}},
            release={
                "nonce_life": NONCE_LIFE,
                "legacy": {"enabled": True, "derivation": "chain"},
            },
        )
        td = stage.world.intel.platform("machine-a").launch_td(TdImage())
        yield stage, provider, td


def rows_of(name: str, load: Load) -> list[Row]:
    """A load's figures."""
    return [
        figure(f"{name}: releases", load.rate, "1/s"),
        figure(f"{name}: p50", load.p50, "ms"),
        figure(f"{name}: p99", load.p99, "ms"),
    ]


def client_rows(stage: Scene, provider: Provider, td: SimTd) -> list[Row]:
    """The whole Python client, and the challenge alone."""
    with stage.client(provider, td) as client:
        client.keys(*DISK)
        start = time.perf_counter()
        for _ in range(50):
            client.keys(*DISK)
        whole = (time.perf_counter() - start) / 50
    asked = encode_json(
        ChallengeRequest(version=1, client_nonce=encode_base64url(bytes(32)))
    )
    with httpx.Client(base_url=provider.url, trust_env=False) as http:
        start = time.perf_counter()
        for _ in range(200):
            http.post(CHALLENGE_PATH, content=asked).raise_for_status()
        challenge = (time.perf_counter() - start) / 200
    return [
        figure("Python client, whole exchange", whole * 1e3, "ms"),
        figure("challenge, one client", challenge * 1e3, "ms"),
    ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--count", type=int, default=600, help="framed, a run")
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    arguments = parser.parse_args()
    wrk_path()
    rows: list[Row] = []
    rates: dict[tuple[str, int, int], float] = {}
    with tempfile.TemporaryDirectory() as name:
        for workers in (1, 2):
            folder = Path(name) / f"workers-{workers}"
            with running(folder, workers=workers) as (stage, provider, td):
                if workers == 1:
                    rows += client_rows(stage, provider, td)
                for clients in arguments.clients:
                    label = f"{clients} clients, {workers} workers"
                    note(f"HTTP, {label}")
                    load = over_http(provider, td, folder, clients=clients)
                    rates["http", clients, workers] = load.rate
                    rows += rows_of(f"HTTP, {label}", load)
                    note(f"framed TCP, {label}")
                    load = over_framed(
                        provider, td, clients=clients, count=arguments.count
                    )
                    rates["framed", clients, workers] = load.rate
                    rows += rows_of(f"framed TCP, {label}", load)
        most = max(arguments.clients)
        folder = Path(name) / "slow"
        with running(folder, workers=1, quote_ms=HARDWARE_QUOTE_MS) as running_slow:
            note("HTTP with quotes of 40 ms, one at a time")
            _, provider, slow_td = running_slow
            td = fast_twin(folder, slow_td)
            slow = over_http(provider, td, folder, clients=most)
    rows += rows_of(f"HTTP, {most} clients, 1 worker, quotes at 40 ms", slow)
    rows += [
        at_least(
            f"{way}: two workers / one, {most} clients",
            rates[way, most, 2] / rates[way, most, 1],
            "ratio",
            WORKERS_LIMIT,
        )
        for way in ("http", "framed")
    ]
    rows.append(
        at_least(
            "HTTP: quotes at 40 ms / instant",
            slow.rate / rates["http", most, 1],
            "ratio",
            LATENCY_LIMIT,
        )
    )
    return show("releases", rows, as_json=arguments.json)


def fast_twin(folder: Path, td: SimTd) -> SimTd:
    """The same TD without the latency, since its evidence is prebuilt, untimed."""
    platform = World.open(folder / "world").intel.platform("machine-a")
    return platform.launch_td(td.image)


if __name__ == "__main__":
    raise SystemExit(main())
