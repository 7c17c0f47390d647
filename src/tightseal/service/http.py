# SPDX-License-Identifier: Apache-2.0
"""HTTP API v1: routes, bounded bodies, and the way to the worker threads.

The event loop reads and writes; decoding, verifying and releasing happen on threads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from tightseal.errors import (
    Code,
    RequestError,
    ServiceError,
    SettingsError,
    TightsealError,
)
from tightseal.model import wire
from tightseal.model.wire_handoff import (
    CONFIRM_PATH,
    HANDOFF_PATH,
    MAX_CONFIRM_BYTES,
    MAX_HANDOFF_REQUEST_BYTES,
)
from tightseal.model.wire_nodes import NODES_PATH
from tightseal.model.wire_operator import ACTIONS_PATH, MAX_ACTION_BYTES, POLICY_PATH
from tightseal.policy.bundle.archive import MAX_BUNDLE_BYTES
from tightseal.release.begun import Begun, Finished
from tightseal.service.admission import COSTLY
from tightseal.service.admitted import admitted
from tightseal.service.connections import ByteBudget, peer_of
from tightseal.service.fairqueue import Flow
from tightseal.service.front import Front, Request
from tightseal.service.membership import ALONE
from tightseal.service.metrics import CONTENT_TYPE
from tightseal.service.openapi import openapi_document
from tightseal.service.pool import WorkPool
from tightseal.service.problem import json_response, problem
from tightseal.service.tileroutes import log_routes

__all__ = ["http_app"]

METHOD_NOT_ALLOWED: Final = 405
NOT_READY: Final = 503

ALIVE: Final = b'{"alive":true}'

SCRAPES_WAITING: Final = 4
"""Most requests for metrics that wait; anybody may ask, and one costs milliseconds."""

QUOTE_PROOF_HINT: Final = b'"quote"'
"""Bytes that only a request with ``"proof":"quote"`` has. A hint for choosing threads,
not a decision: a request that hides from it is served all the same."""

Endpoint: TypeAlias = Callable[[HttpRequest], Awaitable[Response]]
Work: TypeAlias = Callable[[bytes], bytes | Finished]


def http_app(front: Front) -> Starlette:
    """The application of one worker."""
    routes = [
        Route(wire.CHALLENGE_PATH, _challenge(front), methods=["POST"]),
        Route(wire.KEYS_PATH, _keys(front), methods=["POST"]),
        Route(wire.PUBLIC_KEY_PATH, _public_key(front), methods=["POST"]),
        Route(POLICY_PATH, _policy(front), methods=["POST"]),
        Route(ACTIONS_PATH, _actions(front), methods=["POST"]),
        Route(HANDOFF_PATH, _handoff(front), methods=["POST"]),
        Route(CONFIRM_PATH, _confirm(front), methods=["POST"]),
        Route("/v1/info", _info(front), methods=["GET"]),
        Route("/v1/openapi.json", _constant(openapi_document()), methods=["GET"]),
        Route("/healthz", _constant(ALIVE), methods=["GET"]),
        Route("/readyz", _ready(front), methods=["GET"]),
    ]
    if front.settings.host.http.metrics:
        routes.append(Route("/metrics", _metrics(front), methods=["GET"]))
        routes.append(Route(NODES_PATH, _nodes(front), methods=["GET"]))
    routes += log_routes(front)
    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_route})
    # A redirect would name whatever host the request named.
    app.router.redirect_slashes = False
    return app


def _challenge(front: Front) -> Endpoint:
    encoder = msgspec.json.Encoder()

    def work(body: bytes) -> bytes:
        request = wire.decode_json(
            body, wire.ChallengeRequest, max_bytes=wire.MAX_CHALLENGE_REQUEST_BYTES
        )
        return encoder.encode(front.provider.challenge(request, now=front.clock()))

    return _post(front, _Way("challenge", work, wire.MAX_CHALLENGE_REQUEST_BYTES))


def _keys(front: Front) -> Endpoint:
    def begin(body: bytes) -> Begun:
        return front.provider.begin(body, now=front.clock())

    way = _Way("keys", _no_work, partial(_keys_limit, front), begin=begin)
    return _post(front, way)


def _no_work(_body: bytes) -> bytes:
    raise ServiceError(Code.INTERNAL, "a request in two steps was made in one")


def _keys_limit(front: Front) -> int:
    """The release settings may allow less than the wire format, never more."""
    limits = front.provider.settings().limits
    binary = limits.max_evidence_bytes + limits.max_event_log_bytes
    most = binary * 4 // 3 + wire.MAX_USES_CHARS + 32768
    return min(wire.MAX_KEYS_REQUEST_BYTES, most)


def _public_key(front: Front) -> Endpoint:
    def work(body: bytes) -> bytes:
        request = wire.decode_json(
            body, wire.PublicKeyRequest, max_bytes=wire.MAX_PUBLIC_KEY_REQUEST_BYTES
        )
        answer = front.provider.public_key(request, now=front.clock())
        return wire.encode_json(answer)

    return _post(front, _Way("public_key", work, wire.MAX_PUBLIC_KEY_REQUEST_BYTES))


def _policy(front: Front) -> Endpoint:
    def work(body: bytes) -> bytes:
        return msgspec.json.encode(front.provider.publish(body, now=front.clock()))

    return _post(
        front, _Way("policy", work, MAX_BUNDLE_BYTES, operator=True, long=True)
    )


def _actions(front: Front) -> Endpoint:
    def work(body: bytes) -> bytes:
        return msgspec.json.encode(front.provider.act(body, now=front.clock()))

    def admit(body: bytes) -> None:
        front.provider.admit(body, now=front.clock())

    way = _Way("actions", work, MAX_ACTION_BYTES, operator=True, admit=admit)
    return _post(front, way)


def _handoff(front: Front) -> Endpoint:
    def work(body: bytes) -> Finished:
        return front.provider.hand_over(body, now=front.clock())

    # Not on the operators' thread: its evidence may wait for collateral, and a
    # revocation must not wait for it.
    way = _Way("handoff", work, MAX_HANDOFF_REQUEST_BYTES, costly=True)
    return _post(front, way)


def _confirm(front: Front) -> Endpoint:
    def work(body: bytes) -> bytes:
        return front.provider.confirm_handoff(body, now=front.clock())

    way = _Way("handoff_confirm", work, MAX_CONFIRM_BYTES, operator=True, long=True)
    return _post(front, way)


@dataclass(frozen=True, slots=True)
class _Way:
    """What one path does with a body.

    Attributes:
        name: in logs and metrics.
        work: from body to answer, on a thread.
        limit: longest body, or what says it.
        operator: whether it is one of the operators' paths: what they ask for takes
            long, and must not take threads from workloads.
        long: whether bodies are so long that they have a budget of their own. It is not
            shared with actions: anybody may begin to send a bundle.
        begin: the cheap half, where there is a costly one; in place of ``work``.
        costly: whether evidence is verified, which is paid for as a workload's is:
            an invitation is no secret, and can be sent again and again.
        admit: raises, on a thread of workloads, unless the operators signed this. Then
            it goes before what anybody may send to their thread.
    """

    name: str
    work: Work
    limit: int | Callable[[], int]
    operator: bool = False
    long: bool = False
    begin: Callable[[bytes], Begun] | None = None
    costly: bool = False
    admit: Callable[[bytes], None] | None = None

    def most(self) -> int:
        return self.limit if isinstance(self.limit, int) else self.limit()


def _post(front: Front, way: _Way) -> Endpoint:
    budget = front.operator_budget if way.long else front.budget

    async def endpoint(http: HttpRequest) -> Response:
        source = peer_of(http.scope["client"])
        request = Request(way.name, source, front.metrics)
        body = b""
        whole = False
        try:
            front.admission.door(source)
            body = await _read_body(http, limit=way.most(), budget=budget)
            whole = True
            pool = front.operator_pool if way.operator else _pool_for(front, body)
            finished = await _answer(front, pool, way, source, body)
            # What waits for others must not hold memory from those who need not.
            budget.give_back(len(body))
            body = b""
            answer = await front.covered(finished)
        except ClientDisconnect:
            gone = RequestError(Code.REQUEST_TIMEOUT, "the body did not arrive")
            request.refused(gone)
            return problem(gone)
        except Exception as e:  # noqa: BLE001  # the boundary: all becomes a problem
            # What is wrong with a bundle is one of settings.
            faulty = isinstance(e, RequestError | SettingsError)
            if faulty and (way.begin is None or not whole):
                front.admission.malformed(source)
            public = request.refused(e)
            return problem(public, request_id=request.request_id, close=not whole)
        finally:
            budget.give_back(len(body))
        request.granted()
        return json_response(answer, request_id=request.request_id)

    return endpoint


async def _answer(
    front: Front, pool: WorkPool, way: _Way, source: str, body: bytes
) -> Finished:
    if way.begin is None:
        flow = front.admission.first(source)
        if way.admit is not None:
            admit = partial(way.admit, body)
            # Its signatures are as many as an action may have.
            await front.pool.submit(admit, flow=flow, cost=COSTLY)
            flow = Flow(known=True, group=way.name)
        done = await _worked(front, pool, way, source, body, flow)
        return Finished(done) if isinstance(done, bytes) else done
    return await admitted(front, pool, source, partial(way.begin, body))


async def _worked(
    front: Front, pool: WorkPool, way: _Way, source: str, body: bytes, flow: Flow
) -> bytes | Finished:
    work = partial(way.work, body)
    if not way.costly:
        return await pool.submit(work, flow=flow)
    ticket = front.admission.enter(source, b"")
    error: BaseException | None = None
    try:
        return await pool.submit(work, flow=ticket.flow, cost=COSTLY)
    except BaseException as e:
        error = e
        raise
    finally:
        front.admission.ended(ticket, error)


def _pool_for(front: Front, body: bytes) -> WorkPool:
    return front.quote_pool if QUOTE_PROOF_HINT in body else front.pool


async def _read_body(http: HttpRequest, *, limit: int, budget: ByteBudget) -> bytes:
    """The whole body, holding its bytes from the budget until the caller is done.

    Raises:
        RequestError: ``request_too_large``, by the claimed or the real length.
        ServiceError: ``overloaded``.
        ClientDisconnect: the connection ended before the body.
    """
    claimed = http.headers.get("content-length", "0")
    if int(claimed) > limit:
        detail = f"body of {claimed} bytes claimed, at most {limit}"
        raise RequestError(Code.REQUEST_TOO_LARGE, detail)
    body = bytearray()
    try:
        async for chunk in http.stream():
            if len(body) + len(chunk) > limit:
                detail = f"body longer than {limit} bytes"
                raise RequestError(Code.REQUEST_TOO_LARGE, detail)
            budget.take(len(chunk))
            body += chunk
    except BaseException:
        budget.give_back(len(body))
        raise
    return bytes(body)


def _info(front: Front) -> Endpoint:
    async def endpoint(http: HttpRequest) -> Response:
        source = peer_of(http.scope["client"])
        request = Request("info", source, front.metrics)
        try:
            front.admission.door(source)
            info = await front.pool.submit(
                lambda: front.provider.info(now=front.clock()),
                flow=front.admission.first(source),
            )
        except Exception as e:  # noqa: BLE001  # the boundary: all becomes a problem
            return problem(request.refused(e), request_id=request.request_id)
        return json_response(msgspec.json.encode(info))

    return endpoint


def _ready(front: Front) -> Endpoint:
    async def endpoint(_http: HttpRequest) -> Response:
        readiness = front.health.last()
        try:
            front.clock()
        except TightsealError as e:
            # The clock costs nothing to ask, so this part is never a look behind.
            readiness = readiness.broken_by("clock", e)
        status = 200 if readiness.ready else NOT_READY
        return json_response(msgspec.json.encode(readiness), status=status)

    return endpoint


def _nodes(front: Front) -> Endpoint:
    async def endpoint(_http: HttpRequest) -> Response:
        # What the background found last: asking makes nobody work.
        return json_response(ALONE if front.nodes is None else front.nodes.told)

    return endpoint


def _metrics(front: Front) -> Endpoint:
    # A thread of its own: metrics are needed most while the others are full.
    pool = WorkPool("metrics", threads=1, queue=SCRAPES_WAITING)

    async def endpoint(http: HttpRequest) -> Response:
        try:
            text = await pool.submit(front.metrics.render)
        except Exception as e:  # noqa: BLE001  # the boundary: all becomes a problem
            request = Request("metrics", peer_of(http.scope["client"]), front.metrics)
            return problem(request.refused(e), request_id=request.request_id)
        return json_response(text, content_type=CONTENT_TYPE)

    return endpoint


def _constant(body: bytes) -> Endpoint:
    async def endpoint(_http: HttpRequest) -> Response:
        return json_response(body)

    return endpoint


async def _no_route(_http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    wrong_method = error.status_code == METHOD_NOT_ALLOWED
    response = problem(Code.METHOD_NOT_ALLOWED if wrong_method else Code.NOT_FOUND)
    for name, value in (error.headers or {}).items():
        response.raw_headers.append((name.lower().encode(), value.encode()))
    # A body that nobody reads must not be waited for.
    response.raw_headers.append((b"connection", b"close"))
    return response
