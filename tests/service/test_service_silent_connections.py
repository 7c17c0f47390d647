# SPDX-License-Identifier: Apache-2.0
"""Ten thousand connections that say nothing: memory flat, other clients served."""

import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from service_harness import HARNESS, ask_framed, ask_http, scripted_settings
from test_service_framed import GOLDEN_RESPONSE

from tightseal.service.listen_settings import FramedSettings, HttpSettings

WANTED = 10_000
MAX_GROWTH_BYTES = 48 << 20
"""Growth allowed while connections come and go; what may be open at once is bounded."""

PAGE = resource.getpagesize()


@pytest.fixture
def many_files() -> Iterator[int]:
    """Raise the limit of open files as far as it goes, for this test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = WANTED + 500
    able = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, able), hard))
    yield min(WANTED, max(soft, able) - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[int, list[int]]]:
    """A scripted provider in a process of its own: its pid and two ports."""
    settings = scripted_settings(
        http=HttpSettings(head_seconds=30), framed=FramedSettings(first_byte_seconds=25)
    )
    arguments = [sys.executable, str(HARNESS), msgspec.json.encode(settings).decode()]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        ports = json.loads(process.stdout.readline())
        yield process.pid, ports
        process.kill()


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


@pytest.mark.parametrize("transport", [0, 1], ids=["http", "framed"])
def test_silent_connections_cost_little_and_shut_nobody_out(
    server: tuple[int, list[int]], many_files: int, transport: int
) -> None:
    pid, ports = server
    port = ports[transport]
    silent: list[socket.socket] = []

    def good_client_is_served() -> float:
        start = time.monotonic()
        answer = ask_http(ports[0], "POST", "/v1/keys", b"{}")
        assert answer.status == 200
        assert ask_framed(ports[1], b'{"quote":[1]}') == GOLDEN_RESPONSE
        return time.monotonic() - start

    good_client_is_served()
    before = resident(pid)
    slowest = 0.0
    try:
        for number in range(many_files):
            silent.append(socket.create_connection(("127.0.0.1", port), timeout=10))
            if number % 500 == 499:
                slowest = max(slowest, good_client_is_served())
        grown = resident(pid) - before
        slowest = max(slowest, good_client_is_served())
    finally:
        for connection in silent:
            connection.close()
    assert grown < MAX_GROWTH_BYTES
    assert slowest < 5
    if many_files < WANTED:
        pytest.skip(f"passed with {many_files}: the limit of open files allows no more")
