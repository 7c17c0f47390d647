# SPDX-License-Identifier: Apache-2.0
"""Time and size limits of HTTP connections, which the server itself leaves open.

A connection has a bounded time for a whole request head, a whole body, the answer, the
writing of it, and for idling; a bounded head and a bounded pipeline; and a place in the
connection table. What is late is told so with a problem document and closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from tightseal.errors import Code, ServiceError
from tightseal.service.connections import ByteBudget, ConnectionTable, Phase, peer_of
from tightseal.service.doorway import PATHS, Doorway
from tightseal.service.listen_settings import HttpSettings
from tightseal.service.problem import raw_problem

__all__ = ["GuardedHttpProtocol", "HttpGuard"]

MAX_PIPELINED: Final = 4
"""Requests that may be sent ahead on one connection; each holds memory."""


@dataclass(frozen=True, slots=True)
class HttpGuard:
    """What the connections of one worker share.

    Attributes:
        limits: times and sizes.
        table: the connections.
        config, state: of the HTTP server.
        simulated: whether every response says so.
        doorway: where strangers' requests wait in a flood.
        budget: request bytes held at once.
    """

    limits: HttpSettings
    table: ConnectionTable
    config: Config
    state: ServerState
    simulated: bool
    doorway: Doorway
    budget: ByteBudget

    def protocol(self) -> GuardedHttpProtocol:
        """A protocol for one connection."""
        return GuardedHttpProtocol(self)

    def protocol_after(self, leave: Callable[[], None]) -> GuardedHttpProtocol:
        """A protocol that calls ``leave`` before it takes its place in the table."""
        return GuardedHttpProtocol(self, leave)


class GuardedHttpProtocol(HttpToolsProtocol):
    """The server's HTTP/1.1 protocol, inside limits."""

    def __init__(
        self, guard: HttpGuard, leave: Callable[[], None] = lambda: None
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(guard.config, guard.state, {}, loop)
        self._limits = guard.limits
        self._table = guard.table
        self._leave = leave
        self._simulated = guard.simulated
        self._head_bytes = 0
        self._refusal = Code.REQUEST_MALFORMED
        self._cycles: list[RequestResponseCycle] = []
        self._doorway = guard.doorway
        self._budget = guard.budget
        self._held: RequestResponseCycle | None = None
        self._held_bytes = 0
        self.phase = Phase.WAITING
        self.peer = ""
        self.deadline = loop.time() + guard.limits.head_seconds

    # -- asyncio ------------------------------------------------------------------

    def connection_made(  # type: ignore[override]
        self, transport: asyncio.Transport
    ) -> None:
        """Take a place in the table, or leave at once."""
        super().connection_made(transport)
        self.peer = peer_of(transport.get_extra_info("peername"))
        self._leave()
        if not self._table.admit(self):
            transport.write(self._problem(Code.OVERLOADED))
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless the connection is already being closed."""
        if self.transport.is_closing():
            return
        if self.phase is Phase.WAITING:
            self._enter(Phase.READING, self._limits.head_seconds)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the table; no answer is written any more."""
        self._table.drop(self)
        self._doorway.leave(self)
        self._forget_held()
        self._silence()
        super().connection_lost(exc)

    # -- parser -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin to count the head of a request."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count the address, which may come in parts."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header; what it costs in memory is more than its bytes."""
        self._count_head(len(name) + len(value) + 32)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Give the body its time, and refuse a long pipeline."""
        if len(self.pipeline) >= MAX_PIPELINED:
            message = "too many requests sent ahead"
            raise ValueError(message)
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self._cycles = [*filter(_unanswered, self._cycles), self.cycle]
        if self.phase is Phase.READING:
            self._enter(Phase.READING, self._limits.body_seconds)

    def on_message_complete(self) -> None:
        """Give the answer its time."""
        super().on_message_complete()
        if self._held is not None:
            self._wait()
        elif self.phase is Phase.READING:
            self._enter(Phase.SERVING, self._limits.request_seconds)

    def on_body(self, body: bytes) -> None:
        """Let the request wait where it is longer than what is read ahead."""
        super().on_body(body)
        if self._held is not None and len(self._held.body) > HIGH_WATER_LIMIT:
            self._wait()

    def on_response_complete(self) -> None:
        """Give the next request its time, or the writing of the last response."""
        self._doorway.leave(self)
        super().on_response_complete()
        if self.transport.is_closing():
            self._enter(Phase.SERVING, self._limits.write_seconds)
        elif self.cycle.response_complete:
            self._enter(Phase.WAITING, self._limits.idle_seconds)
        elif self.cycle.more_body:
            self._enter(Phase.READING, self._limits.body_seconds)
        else:
            self._enter(Phase.SERVING, self._limits.request_seconds)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP request, in the form of every other refusal."""
        del msg
        self._refuse(self._refusal)

    # -- the doorway --------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin to work on a request, or let it wait."""
        waits = cycle.scope["path"] in PATHS and self._doorway.closed_to(self.peer)
        if not waits:
            super()._start_asgi_task(cycle, app)
            return
        self._held = cycle
        if not cycle.more_body:
            self._wait()

    def _wait(self) -> None:
        """Wait for the turn, with what came of the request; others may evict it."""
        if self._held is None or self._held_bytes:
            return
        count = len(self._held.body) + 1
        try:
            self._budget.take(count)
        except ServiceError:
            self._refuse(Code.OVERLOADED)
            return
        self._held_bytes = count
        self._enter(Phase.READING, self._limits.request_seconds)
        self._doorway.wait(self)

    def let_in(self) -> None:
        """As of ``Waiting``."""
        cycle = self._held
        self._forget_held()
        if cycle is None or self.transport.is_closing():
            self._doorway.leave(self)
            return
        if cycle.more_body:
            self._enter(Phase.READING, self._limits.body_seconds)
        else:
            self._enter(Phase.SERVING, self._limits.request_seconds)
        super()._start_asgi_task(cycle, self.app)

    def _forget_held(self) -> None:
        self._budget.give_back(self._held_bytes)
        self._held, self._held_bytes = None, 0

    # -- the table ----------------------------------------------------------------

    def expire(self) -> None:
        """Refuse what is late; abort who does not take the answer."""
        midway = any(c.response_started for c in filter(_unanswered, self._cycles))
        if self.transport.is_closing() or midway:
            self.transport.abort()
        elif self.phase is Phase.WAITING:
            self.transport.close()
            self._enter(Phase.SERVING, self._limits.write_seconds)
        elif self.phase is Phase.READING and not self._held_bytes:
            self._refuse(Code.REQUEST_TIMEOUT)
        else:
            self._refuse(Code.OVERLOADED)

    def evict(self) -> None:
        """Close at once, to make room."""
        self.transport.abort()

    def _refuse(self, code: Code) -> None:
        # Whatever the application still sends must not follow our own answer.
        self._silence()
        self.transport.write(self._problem(code))
        self.transport.close()
        self._enter(Phase.SERVING, self._limits.write_seconds)

    def _silence(self) -> None:
        """Drop the answers to come: the server itself knows of the last request only.

        The one that is being answered can be an earlier one of a pipeline.
        """
        for cycle in filter(_unanswered, self._cycles):
            cycle.disconnected = True
            cycle.message_event.set()

    def _problem(self, code: Code) -> bytes:
        return raw_problem(code, simulated=self._simulated)

    def _enter(self, phase: Phase, seconds: float) -> None:
        self._table.move(self, phase, deadline=self.loop.time() + seconds)

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > self._limits.max_head_bytes:
            self._refusal = Code.REQUEST_TOO_LARGE
            message = f"head longer than {self._limits.max_head_bytes} bytes"
            raise ValueError(message)


def _unanswered(cycle: RequestResponseCycle) -> bool:
    return not cycle.response_complete


def server_config(app: Any) -> Config:
    """The HTTP server's own settings: no sockets, signals or logs of its own."""
    return Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )
