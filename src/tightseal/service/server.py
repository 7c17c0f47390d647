# SPDX-License-Identifier: Apache-2.0
"""One worker: its event loop, both transports, and an orderly end."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial

import structlog
import uvloop
from uvicorn.server import ServerState

from tightseal.service.accept import Acceptor, Handshakes
from tightseal.service.connections import SWEEP_SECONDS, ConnectionTable, Phase
from tightseal.service.doorway import Doorway
from tightseal.service.framed import FramedProtocol
from tightseal.service.front import Front
from tightseal.service.http import http_app
from tightseal.service.http_guard import HttpGuard, server_config
from tightseal.service.problem import SIMULATED_HEADER

__all__ = ["Listeners", "Worker", "run_worker"]

DRAIN_POLL_SECONDS = 0.05
SETTLE_POLLS = 4
"""For so many polls what connected just before the end may still begin a request. By
polls, not by time: each lets the loop read what has come, however slow the host is."""

FINISH_SECONDS = 3.0
"""How long the last words to state and tiles may take."""

CLOSE_HEADER = (b"connection", b"close")
BACKGROUND_SECONDS = 2.0
"""How long the background thread may take to notice the end; it is a daemon."""

log = structlog.get_logger("tightseal.worker")


@dataclass(frozen=True, slots=True)
class Listeners:
    """Bound sockets, shared by all workers.

    Attributes:
        http: of the HTTP API.
        framed: of the framed TCP protocol; ``None`` where it is switched off.
        shared: whether several workers accept from them.
    """

    http: socket.socket
    framed: socket.socket | None
    shared: bool

    def close(self) -> None:
        """Close this process's own hold on them; others may still accept."""
        self.http.close()
        if self.framed is not None:
            self.framed.close()


class Worker:
    """Serves both transports until told to stop."""

    def __init__(self, front: Front, listeners: Listeners) -> None:
        self._front = front
        self._listeners = listeners
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._draining = False
        self._acceptors: list[Acceptor] = []
        self._tables: dict[str, ConnectionTable] = {}
        self._state = ServerState()
        self._doorway = Doorway(
            self._loop,
            pressed=front.pressed,
            known=front.admission.known,
        )

    def drain(self) -> None:
        """Say that the end comes, so that balancers send no more; then begin it.

        Readiness says so for ``host.drain_notice_seconds``, while every request is
        still answered, on connections that close after it. Called once more, the end
        begins at once. Callable from a signal handler of the loop.
        """
        if self._draining:
            self._stop.set()
            return
        self._begin_draining()
        notice = self._front.settings.host.drain_notice_seconds
        log.info("draining", notice_seconds=notice)
        self._loop.call_later(notice, self._stop.set)

    def stop(self) -> None:
        """Begin the orderly end; callable from a signal handler of the loop."""
        self._begin_draining()
        self._stop.set()

    def _begin_draining(self) -> None:
        self._draining = True
        self._front.health.drain()
        self._set_headers()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until :meth:`stop`, then drain for a bounded time."""
        self._serve_http()
        if self._listeners.framed is not None:
            self._serve_framed(self._listeners.framed)
        sweeper = self._loop.create_task(self._sweep())
        on_ready()
        try:
            await self._stop.wait()
            await self._drain()
        finally:
            sweeper.cancel()
            self._front.pool.shutdown()
            self._front.quote_pool.shutdown()
            self._front.operator_pool.shutdown()

    def _serve_http(self) -> None:
        limits = self._front.settings.host.http
        table = self._table("http", limits.max_connections, limits.max_per_peer)
        config = server_config(http_app(self._front))
        config.timeout_keep_alive = int(limits.idle_seconds) + 1
        config.load()
        self._set_headers()
        guard = HttpGuard(
            limits,
            table,
            config,
            self._state,
            self._front.settings.simulated,
            self._doorway,
            self._front.budget,
        )
        tls = self._front.tls
        handshakes = None
        if tls is not None:
            handshakes = Handshakes(
                context=lambda: tls.context,
                protocol=guard.protocol_after,
                seconds=limits.head_seconds,
            )
        self._accept(self._listeners.http, guard.protocol, table, handshakes)

    def _serve_framed(self, listener: socket.socket) -> None:
        limits = self._front.settings.host.framed
        table = self._table("framed", limits.max_connections, limits.max_per_peer)
        self._accept(listener, partial(FramedProtocol, self._front, table), table)

    def _table(self, name: str, total: int, per_peer: int) -> ConnectionTable:
        table = ConnectionTable(
            max_total=total,
            max_per_peer=per_peer,
            on_closed=partial(self._front.metrics.closed, name),
            known=self._front.admission.known,
        )
        self._tables[name] = table
        return table

    def _accept(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        table: ConnectionTable,
        handshakes: Handshakes | None = None,
    ) -> None:
        acceptor = Acceptor(
            listener,
            protocol=protocol,
            table=table,
            shared=self._listeners.shared,
            handshakes=handshakes,
        )
        acceptor.start()
        self._acceptors.append(acceptor)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._set_headers()
            for name, table in self._tables.items():
                table.sweep(self._loop.time())
                for phase in Phase:
                    count = table.count(phase)
                    self._front.metrics.connections(name, phase.name.lower(), count)
            for pool in self._front.pools():
                self._front.metrics.queue(pool.name, pool.in_flight, pool.limit)

    def _set_headers(self) -> None:
        """The headers that the HTTP server puts on every response, its own too."""
        headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
        if self._front.settings.simulated:
            headers.append(SIMULATED_HEADER)
        if self._draining:
            headers.append(CLOSE_HEADER)
        self._state.default_headers = headers

    async def _drain(self) -> None:
        for acceptor in self._acceptors:
            acceptor.stop()
        self._doorway.open()
        until = self._loop.time() + self._front.settings.host.drain_seconds
        polls = 0
        # At least once: what was accepted last is in no table yet.
        while not polls or (self._open() and self._loop.time() < until):
            await asyncio.sleep(DRAIN_POLL_SECONDS)
            polls += 1
            if polls >= SETTLE_POLLS:
                # Each time: a connection may come to rest after its answer.
                for table in self._tables.values():
                    _close_idle(table)
        left = self._open()
        log.info("drained", cut_off=left)
        for table in self._tables.values():
            for connection in table:
                connection.evict()
        # What was just cut off closes in the loop's next turn.
        await asyncio.sleep(DRAIN_POLL_SECONDS)

    def _open(self) -> int:
        """How many connections there are."""
        return sum(map(len, self._tables.values()))


def _close_idle(table: ConnectionTable) -> None:
    for connection in table:
        if connection.phase is Phase.WAITING:
            connection.expire()


def run_worker(
    front: Front,
    listeners: Listeners,
    *,
    background: Callable[[threading.Event], None],
    attach: Callable[[asyncio.AbstractEventLoop, Worker], None],
    on_ready: Callable[[], None],
    finish: Callable[[], None] = lambda: None,
) -> None:
    """Run one worker in this thread until it is told to stop.

    Args:
        front: the provider and what its transports share.
        listeners: where to accept.
        background: what a thread of its own does until its event is set.
        attach: connects signals or the supervisor with the worker's ``stop``.
        on_ready: called when the worker accepts connections.
        finish: called after an orderly end, once nothing is served any more.
    """
    ended = threading.Event()
    thread = threading.Thread(
        target=background, args=(ended,), name="background", daemon=True
    )

    async def main() -> None:
        worker = Worker(front, listeners)
        attach(asyncio.get_running_loop(), worker)
        thread.start()
        await worker.run(on_ready)

    try:
        uvloop.run(main())
    finally:
        ended.set()
        if thread.is_alive():
            thread.join(BACKGROUND_SECONDS)
    # On a thread: a database that does not answer must not hold the end up.
    last = threading.Thread(target=finish, name="finish", daemon=True)
    last.start()
    last.join(FINISH_SECONDS)
