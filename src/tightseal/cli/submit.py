# SPDX-License-Identifier: Apache-2.0
"""Hand something signed to a running provider, and read what it says.

What is sent vouches for itself, so neither the way nor the provider has to be trusted
with it. The answer is the provider's word alone.
"""

from __future__ import annotations

import time
from typing import Final, TypeVar

import httpx
import msgspec

from tightseal.errors import CODES, Code, ProviderError, RequestError
from tightseal.guest.attested_tls import unattested
from tightseal.guest.http import LIMITS, Bounds, provider_url, request_id
from tightseal.model.tls import TlsTrust
from tightseal.model.wire import (
    MAX_PROBLEM_BYTES,
    PROBLEM_CONTENT_TYPE,
    Problem,
    decode_json,
)

__all__ = ["submit"]

BOUNDS: Final = Bounds(read=60.0, write=60.0, total=120.0, attempts=1)
"""A provider verifies and stores a whole bundle before it answers."""

MAX_ANSWER_BYTES: Final = 65_536
"""Longest answer that is read."""

_OK: Final = 200
_T = TypeVar("_T", bound=msgspec.Struct)


def submit(
    provider: str,
    path: str,
    body: bytes,
    kind: type[_T],
    *,
    content_type: str,
    tls: TlsTrust = TlsTrust.PUBLIC_CA,
) -> _T:
    """Send once, and read the answer.

    Args:
        provider: its address, such as ``http://10.0.2.2:3442``.
        path: such as ``/v1/policy``.
        body: what is signed.
        kind: of the answer.
        content_type: of the body.
        tls: how its certificate is judged; there is no pin.

    Raises:
        SettingsError: ``settings_invalid``, where the address is none, or for attested
            TLS.
        ProviderError: ``provider_refused`` with its code and what to do;
            ``provider_unreachable``; ``response_invalid``.
    """
    url = provider_url(provider)
    verify = unattested(tls)
    headers = {
        "content-type": content_type,
        "accept": "application/json, application/problem+json",
        # A compressed answer could unpack to any size.
        "accept-encoding": "identity",
    }
    deadline = time.monotonic() + BOUNDS.total
    answer = bytearray()
    try:
        with (
            httpx.Client(
                base_url=url,
                headers=headers,
                timeout=BOUNDS.timeout(),
                limits=LIMITS,
                follow_redirects=False,
                trust_env=False,
                verify=verify,
            ) as http,
            http.stream("POST", path, content=body) as response,
        ):
            for part in response.iter_raw():
                answer += part
                if len(answer) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                    detail = f"{path}: the answer is too long, or too slow"
                    raise ProviderError(Code.RESPONSE_INVALID, detail)
    except httpx.HTTPError as e:
        detail = f"{provider}{path}: {type(e).__name__}: {e}"
        raise ProviderError(Code.PROVIDER_UNREACHABLE, detail) from e
    try:
        return _judged(path, response, bytes(answer), kind)
    except ProviderError as e:
        e.request_id = request_id(response)
        raise


def _judged(path: str, response: httpx.Response, body: bytes, kind: type[_T]) -> _T:
    given = str(response.headers.get("content-type", "")).partition(";")[0].strip()
    if given == PROBLEM_CONTENT_TYPE:
        raise _refused(path, body)
    if response.status_code != _OK or given != "application/json":
        detail = f"{path}: status {response.status_code}, content type {given!r}"
        raise ProviderError(Code.RESPONSE_INVALID, detail)
    try:
        return decode_json(body, kind, max_bytes=MAX_ANSWER_BYTES)
    except RequestError as e:
        raise ProviderError(Code.RESPONSE_INVALID, f"{path}: {e.detail}") from e


def _refused(path: str, body: bytes) -> ProviderError:
    try:
        problem = decode_json(body, Problem, max_bytes=MAX_PROBLEM_BYTES)
    except RequestError as e:
        return ProviderError(Code.RESPONSE_INVALID, f"{path}: problem: {e.detail}")
    instance = f" ({problem.instance})" if problem.instance else ""
    if problem.code not in set(Code):
        detail = f"{path}: {problem.code}: {problem.title}{instance}"
        return ProviderError(Code.PROVIDER_REFUSED, detail)
    info = CODES[Code(problem.code)]
    detail = f"{path}: {problem.code}: {info.public} {info.remedy}{instance}"
    return ProviderError(Code.PROVIDER_REFUSED, detail)
