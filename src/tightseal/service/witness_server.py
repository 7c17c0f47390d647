# SPDX-License-Identifier: Apache-2.0
"""Serves a witness: the provider's own bounds of connections and times, and no TLS.

Anybody may connect to a witness, and a log whose releases wait for it stands still when
it does. So who says nothing, or too slowly, is closed, and keeps nobody else out.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Final

import structlog
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from tightseal.audit.witness import MAX_SUBMISSION_BYTES
from tightseal.errors import Code, SettingsError
from tightseal.service.accept import Acceptor
from tightseal.service.connections import (
    SWEEP_SECONDS,
    ByteBudget,
    ConnectionTable,
    Phase,
)
from tightseal.service.doorway import Doorway
from tightseal.service.http_guard import HttpGuard, server_config
from tightseal.service.listen_settings import HttpSettings

__all__ = ["LIMITS", "serve"]

LIMITS: Final = HttpSettings(
    max_connections=256,
    max_per_peer=64,
    head_seconds=5.0,
    body_seconds=10.0,
    request_seconds=25.0,
    write_seconds=10.0,
    idle_seconds=30.0,
)
"""Connections and times of a witness."""

MAX_HELD_BYTES: Final = LIMITS.max_connections * MAX_SUBMISSION_BYTES
BACKLOG: Final = 256
DRAIN_SECONDS: Final = 5.0
"""For requests that are being answered when a signal comes."""

log = structlog.get_logger("tightseal.witness")


def serve(app: ASGIApp, *, host: str, port: int, limits: HttpSettings = LIMITS) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        app: of the witness.
        host: address to listen on, IPv4 or IPv6.
        port: likewise.
        limits: of connections and times.

    Raises:
        SettingsError: ``settings_invalid``, where the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as e:
        detail = f"witness: {host} port {port}: {e.strerror}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    listener.setblocking(False)
    asyncio.run(_serve(app, listener, limits))


async def _serve(app: ASGIApp, listener: socket.socket, limits: HttpSettings) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    table = ConnectionTable(
        max_total=limits.max_connections, max_per_peer=limits.max_per_peer
    )
    config = server_config(app)
    config.timeout_keep_alive = int(limits.idle_seconds) + 1
    config.load()
    guard = HttpGuard(
        limits=limits,
        table=table,
        config=config,
        state=ServerState(),
        simulated=False,
        # Nobody has to be known to a witness, and nobody waits to be let in.
        doorway=Doorway(loop, pressed=lambda: False, known=lambda _source: True),
        budget=ByteBudget(MAX_HELD_BYTES),
    )
    acceptor = Acceptor(listener, protocol=guard.protocol, table=table, shared=False)
    acceptor.start()
    log.info("witness_listening", port=listener.getsockname()[1])
    while not ended.is_set():
        table.sweep(loop.time())
        await _passed(ended, SWEEP_SECONDS)
    acceptor.stop()
    until = loop.time() + DRAIN_SECONDS
    while table.count(Phase.SERVING) and loop.time() < until:
        table.sweep(loop.time())
        await asyncio.sleep(SWEEP_SECONDS)
    for connection in table:
        connection.evict()


async def _passed(ended: asyncio.Event, seconds: float) -> None:
    """Wait for the event, or so long."""
    try:
        await asyncio.wait_for(ended.wait(), seconds)
    except TimeoutError:
        return
