# SPDX-License-Identifier: Apache-2.0
"""Asks a witness for its cosignature: C2SP tlog-witness, the log's side."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeAlias

import httpx

from tightseal.audit.checkpoint import parse_number
from tightseal.audit.witness import Submission
from tightseal.errors import Code, ProviderError, ServiceError
from tightseal.guest.http import Bounds, provider_url
from tightseal.service.witness import ADD_CHECKPOINT_PATH, SIZE_CONTENT_TYPE

__all__ = ["AheadError", "Consistency", "WitnessClient"]

MAX_ANSWER_BYTES: Final = 65_536
"""Longest answer of a witness that is read."""

_ATTEMPTS: Final = 3
_OK: Final = 200
_CONFLICT: Final = 409
_UNPROCESSABLE: Final = 422

Consistency: TypeAlias = Callable[[int], tuple[bytes, ...]]
"""Proves that the tree of a size is the beginning of the one that is submitted."""


class AheadError(ServiceError):
    """The witness saw a larger tree than the one that was submitted.

    A newer head of the same log may do; where there is none, the log is forked.

    Attributes:
        latest: the size that it saw.
    """

    def __init__(self, latest: int, size: int) -> None:
        detail = f"the witness saw {latest} entries, and {size} are there"
        super().__init__(Code.LOG_FORKED, detail)
        self.latest = latest


class WitnessClient:
    """One witness, and how far it has seen the log. For one thread.

    Environment variables for proxies are ignored, and redirects are not followed.

    Args:
        url: submission prefix.
        bounds: of one request.
        transport: replaces the network in tests.

    Raises:
        SettingsError: ``settings_invalid``, for the address.
    """

    def __init__(
        self,
        url: str,
        *,
        bounds: Bounds,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._path = f"{provider_url(url)}{ADD_CHECKPOINT_PATH}"
        self._bounds = bounds
        self._seen = 0
        self._http = httpx.Client(
            timeout=bounds.timeout(),
            headers={"accept-encoding": "identity"},
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )

    def submit(self, checkpoint: bytes, *, size: int, prove: Consistency) -> bytes:
        """The signature lines that the witness answers with; nothing is checked.

        Args:
            checkpoint: the signed note.
            size: of its tree.
            prove: makes proofs from smaller trees of this log.

        Raises:
            AheadError: it saw a larger tree.
            ServiceError: ``log_forked``, where it saw another tree;
                ``provider_unreachable``, ``provider_refused``, ``response_invalid``;
                what ``prove`` raises.
        """
        if self._seen > size:
            # Asked anew: it may have forgotten.
            self._seen = 0
        for _ in range(_ATTEMPTS):
            if self._seen > size:
                raise AheadError(self._seen, size)
            body = Submission(self._seen, prove(self._seen), checkpoint).encode()
            status, kind, answer = self._post(body)
            if status == _OK:
                self._seen = size
                return answer
            elsewhere = status == _CONFLICT and kind == SIZE_CONTENT_TYPE
            same = status == _CONFLICT and not elsewhere and self._seen == size
            if status == _UNPROCESSABLE or same:
                seen, self._seen = self._seen, 0
                detail = f"the witness saw {seen} entries that {size} do not go on from"
                raise ServiceError(Code.LOG_FORKED, detail)
            if not elsewhere:
                detail = f"the witness answered {status}"
                raise ProviderError(Code.PROVIDER_REFUSED, detail)
            text = answer.decode("ascii", "replace").removesuffix("\n")
            self._seen = parse_number(text)
        raise ProviderError(Code.PROVIDER_REFUSED, "others keep submitting; try again")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _post(self, body: bytes) -> tuple[int, str, bytes]:
        deadline = time.monotonic() + self._bounds.total
        answer = bytearray()
        try:
            with self._http.stream("POST", self._path, content=body) as reply:
                for part in reply.iter_raw():
                    answer += part
                    late = time.monotonic() > deadline
                    if late or len(answer) > MAX_ANSWER_BYTES:
                        detail = "the witness's answer is too long, or too slow"
                        raise ProviderError(Code.RESPONSE_INVALID, detail)
        except httpx.HTTPError as e:
            detail = f"{type(e).__name__}: {e}"
            raise ProviderError(Code.PROVIDER_UNREACHABLE, detail) from e
        kind = str(reply.headers.get("content-type", "")).partition(";")[0].strip()
        return reply.status_code, kind, bytes(answer)
