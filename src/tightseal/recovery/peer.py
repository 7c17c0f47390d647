# SPDX-License-Identifier: Apache-2.0
"""The other provider over HTTP: one connection, one exchange.

What is handed over is bound to evidence and not to the connection, so the way does not
have to be trusted. A request that failed on the way is not sent again by itself: the
joiner starts over, with the same invitation.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Final, Self

import httpx

from tightseal.errors import Code, ProviderError
from tightseal.guest.attested_tls import unattested
from tightseal.guest.http import (
    HEADERS,
    Answer,
    Bounds,
    content_type,
    judge_by,
    provider_url,
    request_id,
    tls_key_hash,
    unreachable,
)
from tightseal.model.tls import TlsTrust
from tightseal.model.wire import CHALLENGE_PATH
from tightseal.model.wire_fields import MAX_CHALLENGE_RESPONSE_BYTES, MAX_PROBLEM_BYTES
from tightseal.model.wire_handoff import (
    CONFIRM_PATH,
    HANDOFF_PATH,
    MAX_HANDOFF_RESPONSE_BYTES,
)

__all__ = ["HttpGiver"]

BOUNDS: Final = Bounds(read=60.0, write=60.0, total=120.0, attempts=1)
"""A provider may have to fetch collateral of the other's platform first."""

_ONE: Final = httpx.Limits(max_connections=1, max_keepalive_connections=1)


class HttpGiver:
    """Implements ``recovery.meeting.Giver``.

    Environment variables for proxies are ignored and redirects are not followed.

    Args:
        url: the provider's address.
        tls: how its certificate is judged, or a context of one's own; by default
            public CAs count. The exchange compares the key in any case.
        monotonic: seconds, for the total time of a request.
        transport: replaces the network in tests.

    Raises:
        SettingsError: ``settings_invalid``, for the address.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: ssl.SSLContext | TlsTrust | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._monotonic = monotonic
        self._http = httpx.Client(
            base_url=provider_url(url),
            headers=HEADERS,
            timeout=BOUNDS.timeout(),
            limits=_ONE,
            follow_redirects=False,
            trust_env=False,
            verify=tls if isinstance(tls, ssl.SSLContext) else unattested(tls),
            transport=transport,
        )

    def challenge(self, body: bytes) -> tuple[bytes, bytes | None]:
        """As of ``Giver``."""
        answer = self._post(CHALLENGE_PATH, body, MAX_CHALLENGE_RESPONSE_BYTES)
        return answer.body, answer.tls_key_hash

    def hand_over(self, body: bytes) -> bytes:
        """As of ``Giver``."""
        return self._post(HANDOFF_PATH, body, MAX_HANDOFF_RESPONSE_BYTES).body

    def confirm(self, body: bytes) -> bytes:
        """As of ``Giver``."""
        return self._post(CONFIRM_PATH, body, MAX_PROBLEM_BYTES).body

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _post(self, path: str, body: bytes, limit: int) -> Answer:
        deadline = self._monotonic() + BOUNDS.total
        data = bytearray()
        try:
            with self._http.stream("POST", path, content=body) as response:
                # Now: with the last byte of the body the connection may be gone.
                peer = tls_key_hash(response)
                for part in response.iter_raw():
                    data += part
                    if len(data) > limit or self._monotonic() > deadline:
                        detail = f"{path}: the answer is too long, or too slow"
                        raise ProviderError(Code.HANDOFF_INVALID, detail)
        except httpx.HTTPError as e:
            raise unreachable(path, e) from e
        answer = Answer(
            status=response.status_code,
            content_type=content_type(response),
            body=bytes(data),
            tls_key_hash=peer,
            request_id=request_id(response),
        )
        return judge_by(path, answer, malformed=Code.HANDOFF_INVALID)
