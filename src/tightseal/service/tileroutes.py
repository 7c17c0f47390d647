# SPDX-License-Identifier: Apache-2.0
"""Serves the provider's own log: C2SP tlog-tiles, below a prefix of its own.

What is served is what was published, with the cosignatures that were put there; it is
read on a thread of its own, so that whoever reads a whole log takes none from
workloads. The bytes of an answer are held from a budget until they are written.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tightseal.audit.tiles import CHECKPOINT_PATH, TILE_WIDTH, Tile
from tightseal.errors import Code, ServiceError
from tightseal.service.connections import ByteBudget, peer_of
from tightseal.service.front import Front, Request, ServedLog
from tightseal.service.pool import WorkPool
from tightseal.service.problem import SECURITY_HEADERS, problem
from tightseal.service.tilepaths import (
    CHECKPOINT_ROUTE,
    CHECKPOINT_TYPE,
    TILE_ROUTE,
    TILE_TYPE,
)

__all__ = ["log_routes"]

FULL_CACHE: Final = "public, max-age=31536000, immutable"
"""Of a full tile, which never changes."""

PARTIAL_CACHE: Final = "public, max-age=3600"
"""Of a partial tile: it never changes either, and is not asked for again."""

CHECKPOINT_CACHE: Final = "no-cache"

READS_WAITING: Final = 64
"""Most requests for tiles that wait for the thread, per worker."""

MAX_HELD_BYTES: Final = 32 << 20
"""Bytes of tiles that wait to be written, per worker: two of the longest bundles."""

PIECE_BYTES: Final = 1 << 16
"""Of an answer, at once: the next one waits until the connection took the last."""

Endpoint: TypeAlias = Callable[[HttpRequest], Awaitable[Response]]


def log_routes(front: Front) -> list[Route]:
    """The routes; without a log that is to be served they find nothing."""
    pool = WorkPool("log", threads=1, queue=READS_WAITING)
    endpoint = _endpoint(front, pool, ByteBudget(MAX_HELD_BYTES))
    tile_route = TILE_ROUTE.replace("{path}", "{path:path}")
    return [
        Route(CHECKPOINT_ROUTE, endpoint, methods=["GET"]),
        Route(tile_route, endpoint, methods=["GET"]),
    ]


def _endpoint(front: Front, pool: WorkPool, budget: ByteBudget) -> Endpoint:
    async def endpoint(http: HttpRequest) -> Response:
        source = peer_of(http.scope["client"])
        began = time.perf_counter()
        try:
            front.admission.door(source)
            path, cache = _named(front.log, http.path_params)
            data = None
            if path and front.log is not None:
                read = partial(front.log.source.read, path)
                data = await pool.submit(read, flow=front.admission.first(source))
            if data is None:
                _count(front, Code.NOT_FOUND.value, began)
                return problem(Code.NOT_FOUND)
            answer = HeldResponse(data, budget, cache=cache)
        except Exception as e:  # noqa: BLE001  # the boundary: all becomes a problem
            request = Request("log", source, front.metrics)
            return problem(request.refused(e), request_id=request.request_id)
        _count(front, "granted", began)
        return answer

    return endpoint


def _count(front: Front, outcome: str, began: float) -> None:
    """Counted, and not logged: the reading of a log is a thousand requests."""
    front.metrics.outcome("log", outcome, time.perf_counter() - began)


def _named(log: ServedLog | None, params: dict[str, str]) -> tuple[str, str]:
    """Path and caching of what is asked for; nothing where this log has no such."""
    if log is None or params["log_id"] != log.log_id:
        return "", ""
    if "path" not in params:
        return CHECKPOINT_PATH, CHECKPOINT_CACHE
    try:
        tile = Tile.parse(f"tile/{params['path']}")
    except ServiceError:
        return "", ""
    return tile.path, FULL_CACHE if tile.width == TILE_WIDTH else PARTIAL_CACHE


class HeldResponse(Response):
    """Bytes that are taken from a budget while they are written.

    Args:
        data: the answer.
        budget: that they count against.
        cache: how long others may keep it.

    Raises:
        ServiceError: ``overloaded``, where the budget has no room.
    """

    def __init__(self, data: bytes, budget: ByteBudget, *, cache: str) -> None:
        super().__init__()
        budget.take(len(data))
        self._data = data
        self._budget = budget
        is_note = cache == CHECKPOINT_CACHE
        self.raw_headers = [
            (b"content-type", (CHECKPOINT_TYPE if is_note else TILE_TYPE).encode()),
            (b"content-length", str(len(data)).encode()),
            (b"cache-control", cache.encode()),
            *(h for h in SECURITY_HEADERS if h[0] != b"cache-control"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, piece by piece."""
        del scope, receive
        data = self._data
        try:
            head = {"type": "http.response.start", "status": self.status_code}
            await send({**head, "headers": self.raw_headers})
            for at in range(0, max(1, len(data)), PIECE_BYTES):
                part = data[at : at + PIECE_BYTES]
                more = at + PIECE_BYTES < len(data)
                body = {"type": "http.response.body", "body": part, "more_body": more}
                await send(body)
        finally:
            self._budget.give_back(len(data))
