# SPDX-License-Identifier: Apache-2.0
"""Problem documents (RFC 9457) and the headers of every HTTP response."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from tightseal.errors import Code, TightsealError
from tightseal.model import wire

__all__ = [
    "RETRY_AFTER_SECONDS",
    "SIMULATED_HEADER",
    "json_response",
    "problem",
    "raw_problem",
]

RETRY_AFTER_SECONDS: Final = 1
"""What is said where the error does not say when to come back."""

_TRY_AGAIN: Final = frozenset({429, 503})
JSON_CONTENT_TYPE: Final = "application/json"

SIMULATED_HEADER: Final = (b"tightseal-simulated", b"true")
"""On every response of a provider that accepts simulated roots."""

SECURITY_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""Responses hold envelopes: nothing may keep, frame or guess at them."""


def json_response(
    body: bytes,
    *,
    status: int = 200,
    content_type: str = JSON_CONTENT_TYPE,
    request_id: str | None = None,
) -> Response:
    """A response with the headers that every response has."""
    response = Response(status_code=status)
    response.body = body
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        *SECURITY_HEADERS,
    ]
    if request_id is not None:
        headers.append((b"x-request-id", request_id.encode()))
    response.raw_headers = headers
    return response


def problem(
    error: TightsealError | Code, *, request_id: str | None = None, close: bool = False
) -> Response:
    """The problem document of an error: code and public sentence, never the detail.

    Args:
        error: what was raised, or a bare code.
        request_id: names the line in the provider's log.
        close: whether the connection ends here, because the rest of the request was
            not read.
    """
    document = wire.Problem.of(error, instance=_instance(request_id))
    response = json_response(
        wire.encode_json(document),
        status=document.status,
        content_type=wire.PROBLEM_CONTENT_TYPE,
        request_id=request_id,
    )
    if document.status in _TRY_AGAIN:
        known = error.retry_after if isinstance(error, TightsealError) else None
        seconds = RETRY_AFTER_SECONDS if known is None else known
        response.raw_headers.append((b"retry-after", str(seconds).encode()))
    if close:
        response.raw_headers.append((b"connection", b"close"))
    return response


def raw_problem(error: TightsealError | Code, *, simulated: bool) -> bytes:
    """The same as bytes of HTTP/1.1, for a request that never reached the routes."""
    response = problem(error, close=True)
    if simulated:
        response.raw_headers.append(SIMULATED_HEADER)
    phrase = HTTPStatus(response.status_code).phrase
    lines = [f"HTTP/1.1 {response.status_code} {phrase}".encode()]
    lines += [b"%b: %b" % header for header in response.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(response.body)])


def _instance(request_id: str | None) -> str | None:
    return None if request_id is None else f"urn:tightseal:request:{request_id}"
