# SPDX-License-Identifier: Apache-2.0
"""Clients that vanish without a word, by the thousand, while good ones go on."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_bodies import challenge_request
from fault_support import (
    MACHINES,
    MANY,
    Counts,
    Drill,
    Watch,
    drill,
    port_of,
    resident,
    until,
)

TABLE = 64
"""Connections that the provider may have open."""

TCP_REPAIR = 19
"""Linux, ``tcp.h``: a socket in repair mode is closed without FIN and without RST."""

ADDRESSES = 50
KEPT = 500
"""Connections that stay and do nothing, where a vanished peer cannot be made."""

MAX_GROWTH_BYTES = 32 << 20


def beginnings() -> list[bytes]:
    """How far a client came before it was gone."""
    whole = challenge_request()
    head = whole.index(b"\r\n\r\n") + 4
    return [b"", whole[:20], whole[: head + 3], whole]


class Vanishing:
    """Makes half-open connections; keeps the last ones where it may not."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._kept: list[socket.socket] = []
        self.made = 0
        self.silently = 0

    def make(self, sent: bytes) -> None:
        """Connect, send so much, and be gone."""
        made = socket.socket()
        made.bind((f"127.5.0.{self.made % ADDRESSES + 1}", 0))
        made.settimeout(10)
        made.connect(("127.0.0.1", self._port))
        self.made += 1
        if sent:
            made.sendall(sent)
        try:
            made.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        except OSError:
            # Without CAP_NET_ADMIN: one that neither reads nor writes any more.
            self._kept.append(made)
            if len(self._kept) > KEPT:
                self._kept.pop(0).close()
            return
        made.close()
        self.silently += 1

    def close(self) -> None:
        for kept in self._kept:
            kept.close()


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * KEPT
    able = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, able), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_half_open_connections_shut_nobody_out(tmp_path: Path) -> None:
    half_open(tmp_path, connections=6 * TABLE, total=6)


@pytest.mark.soak
@pytest.mark.usefixtures("many_files")
def test_half_open_connections_for_long(tmp_path: Path) -> None:
    half_open(tmp_path, connections=20_000, total=200, machines=MANY).say()


def half_open(
    tmp_path: Path, *, connections: int, total: int, machines: int = MACHINES
) -> Counts:
    counts = Counts("half-open connections")
    host = {
        "log": {"level": "error"},
        "http": {"max_connections": TABLE, "max_per_peer": TABLE // 2},
    }
    with drill(tmp_path, total=total, host=host, machines=machines) as run:
        port = port_of(run.provider)
        with Watch(port) as watch:
            run.more(5)
            memory = resident(run.provider.process.pid)
            vanishing = Vanishing(port)
            try:
                vanish(run, vanishing, connections)
                run.more(5)
            finally:
                vanishing.close()
            until(lambda: watch.ready, "readiness")
            grown = resident(run.provider.process.pid) - memory
            until(lambda: established(port) <= TABLE, "the end of what vanished")
            run.use_up()
        run.judge(tmp_path, counts)
        counts.named_by_readyz = sorted(watch.troubles)
    counts.more |= {
        "half_open": vanishing.made,
        "without_a_word": vanishing.silently,
        "memory_grown": grown,
    }
    assert vanishing.made == connections
    assert not counts.named_by_readyz
    assert grown < MAX_GROWTH_BYTES, counts
    # Our client tries again where its idle connection had to make room.
    assert counts.connection_errors <= counts.granted // 10, counts
    return counts


def vanish(run: Drill, vanishing: Vanishing, connections: int) -> None:
    """Half of them at once; the others while good clients go on in between."""
    kinds: list[bytes] = beginnings()
    for number in range(connections):
        vanishing.make(kinds[number % len(kinds)])
        if number > connections // 2 and number % (4 * TABLE) == 0:
            run.more(5)


def established(port: int) -> int:
    """Connections of a port that its kernel still believes in."""
    wanted = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    is_open: Callable[[list[str]], bool] = lambda f: (  # noqa: E731
        f[1].endswith(wanted) and f[3] == "01"
    )
    return sum(is_open(line.split()) for line in lines)
