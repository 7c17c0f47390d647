# SPDX-License-Identifier: Apache-2.0
"""Everything that a collateral service can do wrong, on demand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

__all__ = ["Fault", "Faults"]

_FOREVER: Final = 1 << 30
_TRICKLE_SECONDS: Final = 0.05


class Fault(StrEnum):
    """Ways to fail; each spoils a good answer or stands in its place."""

    OUTAGE = "outage"
    SERVER_ERROR = "server_error"
    NOT_FOUND = "not_found"
    RATE_LIMITED = "rate_limited"
    HANGING = "hanging"
    TRICKLING = "trickling"
    TRUNCATED = "truncated"
    OVERSIZE = "oversize"
    REDIRECT = "redirect"
    COMPRESSED = "compressed"
    NO_CHAIN = "no_chain"
    BAD_CHAIN = "bad_chain"
    GARBAGE = "garbage"
    REFORMATTED = "reformatted"


@dataclass(slots=True)
class _Plan:
    fault: Fault
    left: int
    path: str


class Faults:
    """A plan of faults, shared by a server and the test that drives it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plans: list[_Plan] = []
        self.paths: list[str] = []

    def plan(self, fault: Fault, *, times: int = _FOREVER, path: str = "") -> None:
        """Spoil the next ``times`` answers to paths that contain ``path``."""
        with self._lock:
            self._plans.append(_Plan(fault, times, path))

    def clear(self) -> None:
        """Behave from now on, and forget who asked for what."""
        with self._lock:
            self._plans.clear()
            self.paths.clear()

    def take(self, path: str) -> Fault | None:
        """Count a request, and say how its answer is to be spoilt."""
        with self._lock:
            self.paths.append(path)
            for plan in self._plans:
                if plan.left > 0 and plan.path in path:
                    plan.left -= 1
                    return plan.fault
        return None

    async def answer(
        self, request: Request, good: Callable[[], Awaitable[Response]]
    ) -> Response:
        """The answer that ``good`` makes, spoilt as planned."""
        fault = self.take(request.url.path)
        if fault is None:
            return await good()
        early = _in_its_place(fault)
        if early is not None:
            return early
        if fault is Fault.HANGING:
            await asyncio.sleep(3600)
        return _spoilt(fault, await good())


def _in_its_place(fault: Fault) -> Response | None:
    if fault is Fault.RATE_LIMITED:
        return PlainTextResponse("slow down", 429, headers={"Retry-After": "1"})
    if fault is Fault.REDIRECT:
        return Response(status_code=302, headers={"Location": "http://127.0.0.1:1/"})
    statuses = {Fault.OUTAGE: 503, Fault.SERVER_ERROR: 500, Fault.NOT_FOUND: 404}
    if fault in statuses:
        return PlainTextResponse(fault.value, statuses[fault])
    return None


def _spoilt(fault: Fault, good: Response) -> Response:
    body = bytes(good.body)
    headers = {
        name: value
        for name, value in good.headers.items()
        if name not in ("content-length", "content-type")
    }
    chain = next((name for name in headers if name.endswith("issuer-chain")), None)
    if fault is Fault.TRICKLING:
        return StreamingResponse(_trickle(body), headers=headers)
    if fault is Fault.TRUNCATED:
        return _Truncated(body, headers=headers)
    if fault is Fault.OVERSIZE:
        return Response(b"0" * (2 << 20), headers=headers)
    if fault is Fault.COMPRESSED:
        headers["Content-Encoding"] = "gzip"
    if fault is Fault.NO_CHAIN and chain is not None:
        del headers[chain]
    if fault is Fault.BAD_CHAIN and chain is not None:
        headers[chain] = "-----BEGIN%20CERTIFICATE-----%0AAAAA"
    if fault is Fault.GARBAGE:
        body = b"<html>not what you asked for</html>"
    if fault is Fault.REFORMATTED:
        body = body.replace(b'":', b'": ')
    return Response(body, headers=headers)


async def _trickle(body: bytes) -> AsyncIterator[bytes]:
    for at in range(len(body)):
        yield body[at : at + 1]
        await asyncio.sleep(_TRICKLE_SECONDS)


class _Truncated(Response):
    """Announces its whole length and ends halfway."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": self.raw_headers,
            }
        )
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half})
