# SPDX-License-Identifier: Apache-2.0
"""The client of a workload, for asyncio; the same exchange as the blocking one."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Self

import httpx

from tightseal.errors import ProviderError
from tightseal.guest.exchange import Exchange, Terms
from tightseal.guest.http import (
    HEADERS,
    LIMITS,
    Answer,
    Bounds,
    content_type,
    judge,
    max_bytes,
    platform_of,
    provider_url,
    tls_key_hash,
    too_large,
    unreachable,
    worth_repeating,
)
from tightseal.guest.public_key import (
    KeyName,
    PublicKey,
    public_key_request,
    verify_public_key,
)
from tightseal.guest.released import ReleasedKeys
from tightseal.model.exchange import CLIENT_NONCE_BYTES
from tightseal.model.generation import Generation, GenerationName
from tightseal.model.keypath import DEFAULT_KEY_BYTES, KeyPart, KeyRequest
from tightseal.model.ports import Clock, EvidenceSource
from tightseal.model.secret import Secret
from tightseal.model.wire import CHALLENGE_PATH, KEYS_PATH, PUBLIC_KEY_PATH, Proof

__all__ = ["AsyncClient"]


class AsyncClient:
    """Asks one provider for the keys of this workload, without blocking the loop.

    Evidence is made and verified in a thread: platforms block. A thread cannot be
    stopped, so a cancelled exchange ends only when its platform has answered.

    Args:
        url: the provider's address.
        source: makes this workload's evidence; not needed for public halves.
        terms: pin, verifier of the provider's evidence, KEM.
        bounds: timeouts and retries.
        clock: Unix seconds.
        sleep: waits between tries.
        tls: for providers with a certificate of their own; else public CAs count.
        transport: replaces the network in tests.

    Raises:
        SettingsError: ``settings_invalid``, for the address.
    """

    def __init__(
        self,
        url: str,
        *,
        source: EvidenceSource | None = None,
        terms: Terms,
        bounds: Bounds | None = None,
        clock: Clock = lambda: int(time.time()),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        tls: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._source = source
        self._terms = terms
        self._bounds = bounds or Bounds()
        self._clock = clock
        self._sleep = sleep
        self._http = httpx.AsyncClient(
            base_url=provider_url(url),
            headers=HEADERS,
            timeout=self._bounds.timeout(),
            limits=LIMITS,
            follow_redirects=False,
            trust_env=False,
            verify=True if tls is None else tls,
            transport=transport,
        )

    async def keys(
        self,
        *requests: KeyRequest,
        proof: Proof = Proof.ATTESTED_KEY,
        event_log: bytes | None = None,
    ) -> ReleasedKeys:
        """Get keys; see :meth:`tightseal.guest.client.Client.keys`.

        Raises:
            TightsealError: as the blocking client.
        """
        source = platform_of(self._source)
        exchange = Exchange(self._terms, requests, proof=proof, event_log=event_log)
        try:
            answer = await self._post(CHALLENGE_PATH, exchange.challenge_request())
            check = partial(
                exchange.check_challenge,
                answer.body,
                tls_key_hash=answer.tls_key_hash,
                now=self._clock(),
            )
            report_data = await asyncio.to_thread(check)
            evidence = await asyncio.to_thread(source.evidence, report_data)
            answer = await self._post(KEYS_PATH, exchange.keys_request(evidence))
            finish = partial(exchange.open_response, answer.body, now=self._clock())
            return await asyncio.to_thread(finish)
        finally:
            exchange.wipe()

    async def key(
        self,
        purpose: str,
        label: str = "",
        *,
        length: int = DEFAULT_KEY_BYTES,
        part: KeyPart = KeyPart.PRIVATE,
        generation: Generation = GenerationName.CURRENT,
        create: bool = False,
    ) -> Secret:
        """Get one key, without its receipt; raises as :meth:`keys`.

        With ``create`` a wrapped key is made, which must not be there yet. Where the
        answer was lost for good, a second ``create`` is refused with ``key_exists``:
        open the key then.
        """
        request = KeyRequest(purpose, label, length, part, generation, create)
        released = await self.keys(request)
        return released.get(purpose, label, generation=generation)

    async def public_key(
        self, tenant: str, workload: str, purpose: str, label: str = ""
    ) -> PublicKey:
        """Get the public half of a published pair, without evidence.

        What the answer proves: see :mod:`tightseal.guest.public_key`.

        Raises:
            ProviderError: as :meth:`keys`.
            RequestError: the names are out of bounds.
        """
        name = KeyName(tenant, workload, purpose, label)
        nonce = secrets.token_bytes(CLIENT_NONCE_BYTES)
        collateral = self._terms.collateral
        asked = public_key_request(
            name, client_nonce=nonce, collateral=collateral.wants_stapled
        )
        answer = await self._post(PUBLIC_KEY_PATH, asked)
        check = partial(
            verify_public_key,
            answer.body,
            name=name,
            client_nonce=nonce,
            pin=self._terms.pin,
            collateral=collateral,
            now=self._clock(),
            tolerance=self._terms.tolerance,
        )
        return await asyncio.to_thread(check)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _post(self, path: str, body: bytes) -> Answer:
        """Send, and send the very same bytes again where the connection failed."""
        for delay in self._bounds.delays():
            try:
                return await self._once(path, body)
            except ProviderError as e:
                if not worth_repeating(e):
                    raise
            await self._sleep(delay)
        return await self._once(path, body)

    async def _once(self, path: str, body: bytes) -> Answer:
        try:
            async with (
                asyncio.timeout(self._bounds.total),
                self._http.stream("POST", path, content=body) as response,
            ):
                # Now: with the last byte of the body the connection may be gone.
                peer = tls_key_hash(response)
                data = bytearray()
                async for part in response.aiter_raw():
                    data += part
                    if len(data) > max_bytes(path):
                        raise too_large(path)
                answer = Answer(
                    status=response.status_code,
                    content_type=content_type(response),
                    body=bytes(data),
                    tls_key_hash=peer,
                )
        except (httpx.HTTPError, TimeoutError) as e:
            raise unreachable(path, e) from e
        return judge(path, answer)
