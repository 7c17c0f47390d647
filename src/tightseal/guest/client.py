# SPDX-License-Identifier: Apache-2.0
"""The client of a workload: checks the provider, makes evidence, opens its keys."""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable
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

__all__ = ["Client"]


class Client:
    """Asks one provider for the keys of this workload.

    Blocking; one exchange at a time. Environment variables for proxies are ignored and
    redirects are not followed: both would be the host's choice.

    Args:
        url: the provider's address.
        source: makes this workload's evidence; not needed for public halves.
        terms: pin, verifier of the provider's evidence, KEM.
        bounds: timeouts and retries.
        clock: Unix seconds.
        sleep: waits between tries.
        monotonic: seconds, for the total time of a request.
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
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        tls: ssl.SSLContext | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._source = source
        self._terms = terms
        self._bounds = bounds or Bounds()
        self._clock = clock
        self._sleep = sleep
        self._monotonic = monotonic
        self._http = httpx.Client(
            base_url=provider_url(url),
            headers=HEADERS,
            timeout=self._bounds.timeout(),
            limits=LIMITS,
            follow_redirects=False,
            trust_env=False,
            verify=True if tls is None else tls,
            transport=transport,
        )

    def keys(
        self,
        *requests: KeyRequest,
        proof: Proof = Proof.ATTESTED_KEY,
        event_log: bytes | None = None,
    ) -> ReleasedKeys:
        """Get keys: challenge, check of the provider, evidence, response, envelopes.

        Raises:
            ProviderError: the provider cannot be trusted, reached, or refused
                (``RefusedError``, with the provider's code).
            PlatformError: this platform made no evidence.
            RequestError: the key requests or the event log are out of bounds.
            KeyReleaseError: ``envelope_invalid`` or ``kem_unsupported``.
        """
        source = platform_of(self._source)
        exchange = Exchange(self._terms, requests, proof=proof, event_log=event_log)
        try:
            answer = self._post(CHALLENGE_PATH, exchange.challenge_request())
            report_data = exchange.check_challenge(
                answer.body, tls_key_hash=answer.tls_key_hash, now=self._clock()
            )
            evidence = source.evidence(report_data)
            answer = self._post(KEYS_PATH, exchange.keys_request(evidence))
            return exchange.open_response(answer.body, now=self._clock())
        finally:
            exchange.wipe()

    def key(
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
        released = self.keys(request)
        return released.get(purpose, label, generation=generation)

    def public_key(
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
        answer = self._post(PUBLIC_KEY_PATH, asked)
        return verify_public_key(
            answer.body,
            name=name,
            client_nonce=nonce,
            pin=self._terms.pin,
            collateral=collateral,
            now=self._clock(),
            tolerance=self._terms.tolerance,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _post(self, path: str, body: bytes) -> Answer:
        """Send, and send the very same bytes again where the connection failed."""
        for delay in self._bounds.delays():
            try:
                return self._once(path, body)
            except ProviderError as e:
                if not worth_repeating(e):
                    raise
            self._sleep(delay)
        return self._once(path, body)

    def _once(self, path: str, body: bytes) -> Answer:
        deadline = self._monotonic() + self._bounds.total
        try:
            with self._http.stream("POST", path, content=body) as response:
                # Now: with the last byte of the body the connection may be gone.
                peer = tls_key_hash(response)
                data = bytearray()
                for part in response.iter_raw():
                    data += part
                    if len(data) > max_bytes(path):
                        raise too_large(path)
                    # Each piece has its own timeout; a trickle would never meet it.
                    if self._monotonic() > deadline:
                        late = TimeoutError(f"over {self._bounds.total} s")
                        raise unreachable(path, late)
                answer = Answer(
                    status=response.status_code,
                    content_type=content_type(response),
                    body=bytes(data),
                    tls_key_hash=peer,
                )
        except httpx.HTTPError as e:
            raise unreachable(path, e) from e
        return judge(path, answer)
