# SPDX-License-Identifier: Apache-2.0
"""httpx over connections that obey a deadline, whatever the peer trickles.

httpx bounds every single read; a peer that sends a byte before each runs out, in the
headers too, would hold us for as long as it likes. Name resolution is the system's and
not bounded here.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any

import httpcore
import httpx

__all__ = ["BoundedBackend", "BoundedTransport", "Deadline"]


class Deadline(threading.local):
    """When the GET of this thread has to be over, by the monotonic clock."""

    at: float | None = None


class _BoundedStream(httpcore.NetworkStream):
    """A stream whose every wait ends at the deadline, whatever the peer trickles."""

    def __init__(
        self, inner: httpcore.NetworkStream, left: Callable[[float | None], float]
    ) -> None:
        self._inner = inner
        self._left = left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        inner = self._inner.start_tls(ssl_context, server_hostname, self._left(timeout))
        return _BoundedStream(inner, self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class BoundedBackend(httpcore.NetworkBackend):
    """Makes bounded streams; the deadline belongs to the thread that asks."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._inner = httpcore.SyncBackend()
        self._monotonic = monotonic
        self.deadline = Deadline()

    def _left(self, timeout: float | None) -> float:
        at = self.deadline.at
        if at is None:
            message = "a read outside of a GET"
            raise httpcore.ReadTimeout(message)
        left = at - self._monotonic()
        if left <= 0:
            message = "the time for this GET is over"
            raise httpcore.ReadTimeout(message)
        return left if timeout is None else min(left, timeout)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect within the deadline; the stream stays within it."""
        inner = self._inner.connect_tcp(
            host, port, self._left(timeout), local_address, socket_options
        )
        return _BoundedStream(inner, self._left)


class BoundedTransport(httpx.BaseTransport):
    """httpx over a connection pool whose streams obey the deadline."""

    def __init__(self, backend: BoundedBackend, context: ssl.SSLContext) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=16,
            max_keepalive_connections=4,
            keepalive_expiry=5.0,
            network_backend=backend,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; raises httpcore's own errors."""
        answer = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Body(answer),
            extensions=answer.extensions,
        )

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()


class _Body(httpx.SyncByteStream):
    """Hands the body through and gives the connection back."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Any:
        yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()
