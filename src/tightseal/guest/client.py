# SPDX-License-Identifier: Apache-2.0
"""The client of a workload: checks the provider, makes evidence, opens its keys."""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Self

import httpx

from tightseal.errors import ProviderError
from tightseal.guest.attested_tls import TlsTrust, trust_context
from tightseal.guest.exchange import Exchange, Terms
from tightseal.guest.http import (
    HEADERS,
    LIMITS,
    Answer,
    Bounds,
    about,
    content_type,
    judge,
    max_bytes,
    platform_of,
    provider_url,
    request_id,
    retry_after,
    tls_key_hash,
    too_large,
    unreachable,
    wait_before,
    worth_repeating,
)
from tightseal.guest.importing import same_key
from tightseal.guest.public_key import (
    KeyName,
    PublicKey,
    public_key_request,
    verify_public_key,
)
from tightseal.guest.released import ReleasedKeys
from tightseal.guest.using import signature_of, use_request
from tightseal.model.exchange import CLIENT_NONCE_BYTES
from tightseal.model.generation import Generation, GenerationName
from tightseal.model.keypath import DEFAULT_KEY_BYTES, KeyPart, KeyRequest
from tightseal.model.keyuse import KeyUse, Operation
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
        tls: how the provider's certificate is judged, or a context of one's own;
            by default public CAs count.
        transport: replaces the network in tests.

    Raises:
        SettingsError: ``settings_invalid``, for the address or for ``tls``.
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
        tls: ssl.SSLContext | TlsTrust | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._source = source
        self._terms = terms
        self._bounds = bounds or Bounds()
        self._clock = clock
        self._sleep = sleep
        self._monotonic = monotonic
        address = provider_url(url)
        self._http = httpx.Client(
            base_url=address,
            headers=HEADERS,
            timeout=self._bounds.timeout(),
            limits=LIMITS,
            follow_redirects=False,
            trust_env=False,
            verify=trust_context(
                tls,
                url=address,
                pin=terms.pin,
                collateral=terms.collateral,
                clock=clock,
                tolerance=terms.tolerance,
            ),
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
        exchange = Exchange(self._terms, requests, proof=proof, event_log=event_log)
        return self._released(exchange)

    def _released(self, exchange: Exchange) -> ReleasedKeys:
        try:
            source = platform_of(self._source)
            answer = self._post(CHALLENGE_PATH, exchange.challenge_request())
            with about(answer):
                report_data = exchange.check_challenge(
                    answer.body, tls_key_hash=answer.tls_key_hash, now=self._clock()
                )
            evidence = source.evidence(report_data)
            answer = self._post(KEYS_PATH, exchange.keys_request(evidence))
            with about(answer):
                keys = exchange.open_response(answer.body, now=self._clock())
            return replace(keys, request_id=answer.request_id)
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

    def import_key(
        self,
        purpose: str,
        key: Secret,
        label: str = "",
        *,
        proof: Proof = Proof.ATTESTED_KEY,
        event_log: bytes | None = None,
    ) -> ReleasedKeys:
        """Hand an existing key over, to be kept under this purpose from now on.

        It travels sealed to the provider that was checked, and the evidence commits to
        it. The answer holds it again: what is kept is what was given.

        Args:
            purpose: of a wrapped key that is not there yet, and that may be imported.
            key: 16 to 64 bytes; of a pair the private half. Not wiped here.
            label: of the sub-key.
            proof: as of :meth:`keys`.
            event_log: likewise.

        Raises:
            ProviderError: as :meth:`keys`; ``response_invalid``, where another key came
                back.
            TightsealError: as :meth:`keys`.
        """
        request = KeyRequest(purpose, label, len(key), create=True)
        exchange = Exchange(
            self._terms,
            (request,),
            proof=proof,
            event_log=event_log,
            imports=(key,),
        )
        return same_key(self._released(exchange), key)

    def sign(
        self,
        purpose: str,
        message: bytes,
        label: str = "",
        *,
        public: bytes | None = None,
        generation: Generation = GenerationName.CURRENT,
        create: bool = False,
    ) -> bytes:
        """Have a message signed with a key that stays in the provider; 64 bytes.

        Ed25519, or r and s of ECDSA over SHA-256, by the type that the policy says.

        Args:
            purpose: of the pair.
            message: at most ``MAX_USE_INPUT_BYTES``.
            label: of the sub-key.
            public: the public half, where it is known: the signature is checked.
            generation: which version of the root.
            create: make a wrapped pair first, as of :meth:`key`.

        Raises:
            ProviderError: as :meth:`keys`; ``response_invalid`` where the signature is
                not of ``public``.
            TightsealError: as :meth:`keys`.
        """
        request = use_request(
            KeyUse(Operation.SIGN, message),
            purpose,
            label,
            generation=generation,
            create=create,
        )
        with self.keys(request) as keys:
            return signature_of(keys, request, public=public)

    def agree(
        self,
        purpose: str,
        peer: bytes,
        label: str = "",
        *,
        generation: Generation = GenerationName.CURRENT,
        create: bool = False,
    ) -> Secret:
        """Have a key agree with a peer's public key; the raw shared secret, 32 bytes.

        Run a KDF over it with both public keys. Raises as :meth:`keys`.
        """
        request = use_request(
            KeyUse(Operation.AGREE, peer),
            purpose,
            label,
            generation=generation,
            create=create,
        )
        return self.keys(request).result(request)

    def unwrap(
        self,
        purpose: str,
        envelope: bytes,
        label: str = "",
        *,
        context: bytes = b"",
        generation: Generation = GenerationName.CURRENT,
    ) -> Secret:
        """Have an envelope of ``guest.using.seal_for`` opened; 16 to 64 bytes.

        Args:
            purpose: of an ``x25519`` pair.
            envelope: 64 to 112 bytes.
            label: of the sub-key.
            context: as its sender named it.
            generation: which version of the root.

        Raises:
            TightsealError: as :meth:`keys`.
        """
        use = KeyUse(Operation.UNWRAP, envelope, context)
        request = use_request(use, purpose, label, generation=generation)
        return self.keys(request).result(request)

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
        with about(answer):
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
                wait = wait_before(e, delay=delay, bounds=self._bounds)
            self._sleep(wait)
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
                    retry_after=retry_after(response),
                    request_id=request_id(response),
                )
        except httpx.HTTPError as e:
            raise unreachable(path, e) from e
        return judge(path, answer)
