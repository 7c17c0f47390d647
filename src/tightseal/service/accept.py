# SPDX-License-Identifier: Apache-2.0
"""Accepting connections: shared fairly by workers, and never ended by an error.

An accept error, such as running out of file descriptors, makes room, waits and goes on;
a provider that stopped accepting would lock every workload out until somebody noticed.

With TLS, a connection has a place in the table from its first byte: half-open
handshakes count against their peer, end in time, and go first where it gets full.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog

from tightseal.service.connections import ConnectionTable, Phase, peer_of

__all__ = ["Acceptor", "Handshakes"]

FIRST_BACK_OFF_SECONDS: Final = 0.05
LAST_BACK_OFF_SECONDS: Final = 1.0

DEFER_SECONDS: Final = 0.0002
MAX_DEFERRALS: Final = 10
"""A worker waits this long per open connection, and at most ten times, before it takes
another: of workers that share a socket, the one with least to do comes first."""

MAX_LAST: Final = 4096
"""Most connections that are still taken when told to stop: as many as may wait."""

SHUTDOWN_SECONDS: Final = 2.0
"""How long a peer may take to answer the end of TLS before the socket is closed."""

_TRANSIENT: Final = {
    errno.EAGAIN,
    errno.EINTR,
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.EPERM,
}

log = structlog.get_logger("tightseal.accept")


@dataclass(frozen=True, slots=True)
class Handshakes:
    """How connections of a listener begin with TLS.

    Attributes:
        context: what the next connection is accepted with.
        protocol: makes the protocol of one connection, given what it calls as soon as
            it takes a place in the table of its own.
        seconds: from connect to the end of the handshake.
    """

    context: Callable[[], ssl.SSLContext]
    protocol: Callable[[Callable[[], None]], asyncio.Protocol]
    seconds: float


class _Handshake:
    """A connection that is no request yet, in the table; whoever is late is dropped."""

    def __init__(self, address: object) -> None:
        self.phase = Phase.WAITING
        self.deadline = float("inf")
        self.peer = peer_of(address)
        self.task: asyncio.Task[None] | None = None

    def expire(self) -> None:
        """Drop it: there is nobody yet to tell anything."""
        self.evict()

    def evict(self) -> None:
        """Drop it, to make room."""
        if self.task is not None:
            self.task.cancel()


class Acceptor:
    """Takes connections from one listening socket and gives each a protocol.

    Args:
        listener: bound and listening; shared between workers.
        protocol: makes the protocol of one connection.
        table: the connections of this transport.
        shared: whether other workers accept from the same socket.
        handshakes: where connections begin with TLS.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        protocol: Callable[[], asyncio.Protocol],
        table: ConnectionTable,
        shared: bool,
        handshakes: Handshakes | None = None,
    ) -> None:
        self._listener = listener
        self._handshakes = handshakes
        self._protocol = protocol
        self._table = table
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._back_off = FIRST_BACK_OFF_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin to accept."""
        self._listener.setblocking(False)
        self._resume()

    def stop(self) -> None:
        """Accept no more; open connections stay.

        Who has already connected is taken: closing the socket would reset them, where
        the next ones are refused and go elsewhere.
        """
        if self._stopped:
            return
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listener.fileno())
        for _ in range(MAX_LAST):
            if not self._accept_one():
                break
        self._listener.close()

    def _resume(self) -> None:
        self._timer = None
        if not self._stopped:
            self._loop.add_reader(self._listener.fileno(), self._readable)

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._timer = self._loop.call_later(seconds, then)

    def _readable(self) -> None:
        busy = min(len(self._table), MAX_DEFERRALS)
        if self._shared and busy:
            self._pause(busy * DEFER_SECONDS, self._accept_then_resume)
        else:
            self._accept_one()

    def _accept_then_resume(self) -> None:
        self._resume()
        if not self._stopped:
            self._accept_one()

    def _accept_one(self) -> bool:
        """Take the next connection; whether there was one."""
        try:
            connection, address = self._listener.accept()
        except OSError as e:
            if e.errno not in _TRANSIENT and not self._stopped:
                self._make_room(e)
            return False
        self._back_off = FIRST_BACK_OFF_SECONDS
        connection.setblocking(False)
        if self._handshakes is None:
            self._begin(self._connect(connection))
            return True
        handshake = _Handshake(address)
        if not self._table.admit(handshake):
            connection.close()
            return True
        handshake.deadline = self._loop.time() + self._handshakes.seconds
        handshake.task = self._begin(
            self._shake(connection, handshake, self._handshakes)
        )
        return True

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _make_room(self, error: OSError) -> None:
        log.warning("accept_failed", error=error.strerror, open=len(self._table))
        self._table.evict_oldest()
        if self._timer is not None:
            self._timer.cancel()
        self._pause(self._back_off, self._resume)
        self._back_off = min(self._back_off * 2, LAST_BACK_OFF_SECONDS)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError as e:
            log.debug("connection_lost_early", error=e.strerror)
            connection.close()

    async def _shake(
        self, connection: socket.socket, handshake: _Handshake, how: Handshakes
    ) -> None:
        leave = partial(self._table.drop, handshake)
        try:
            await self._loop.connect_accepted_socket(
                partial(how.protocol, leave),
                connection,
                ssl=how.context(),
                ssl_handshake_timeout=how.seconds,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except OSError as e:
            log.debug("handshake_failed", error=type(e).__name__)
            connection.close()
        finally:
            leave()
