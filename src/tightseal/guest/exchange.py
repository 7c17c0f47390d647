# SPDX-License-Identifier: Apache-2.0
"""The exchange as the workload sees it, without I/O: bytes in, bytes out, in order.

``challenge_request`` → ``check_challenge`` → (evidence is made) → ``keys_request`` →
``open_response``. The clients carry the bytes.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import msgspec

from tightseal.envelope.hpke import RecipientKey
from tightseal.errors import Code, RequestError, ServiceError
from tightseal.guest.challenge import CheckedChallenge, check_challenge
from tightseal.guest.importing import Import, committed, sealed_imports
from tightseal.guest.logterms import LogTerms
from tightseal.guest.provider import ProviderCollateral, Tolerance
from tightseal.guest.released import ReleasedKeys
from tightseal.guest.response import Question, open_response
from tightseal.keys.pairs import PRIVATE_BYTES
from tightseal.model.base64url import encode_base64url
from tightseal.model.exchange import (
    CLIENT_NONCE_BYTES,
    MAX_KEY_REQUESTS,
    PROTOCOL_VERSION,
    Kem,
    Transcript,
)
from tightseal.model.generation import MAX_GENERATION, Generation, GenerationName
from tightseal.model.keypath import (
    MAX_KEY_BYTES,
    MAX_NAME_CHARS,
    MIN_KEY_BYTES,
    KeyPart,
    KeyRequest,
)
from tightseal.model.keyuse import KeyUse
from tightseal.model.wire import (
    MAX_EVENT_LOG_BYTES,
    MAX_EVIDENCE_BYTES,
    ChallengeRequest,
    KeysRequest,
    ParsedKeysRequest,
    Proof,
    encode_json,
)

if TYPE_CHECKING:
    from tightseal.guest.pins import ProviderPin
    from tightseal.model.secret import Secret

__all__ = ["Exchange", "Terms", "check_requests"]


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a workload talks to its provider.

    Attributes:
        pin: what the provider must be.
        collateral: judges the provider's evidence, and says whether the provider is
            asked to staple.
        kem: of the envelope.
        tolerance: of the clocks.
        log: who must have seen the provider's log; ``None`` for nobody.
    """

    pin: ProviderPin
    collateral: ProviderCollateral
    kem: Kem = Kem.MLKEM768_X25519
    tolerance: Tolerance = field(default_factory=Tolerance)
    log: LogTerms | None = field(default=None, kw_only=True)


def check_requests(keys: tuple[KeyRequest, ...]) -> None:
    """Check key requests before a provider is bothered with them.

    Raises:
        RequestError: ``request_malformed``.
    """
    if not 1 <= len(keys) <= MAX_KEY_REQUESTS:
        raise _malformed(f"{len(keys)} keys, expected 1 to {MAX_KEY_REQUESTS}")
    for key in keys:
        _check_request(key)
    if len({(k.purpose, k.label, k.generation, k.use) for k in keys}) != len(keys):
        raise _malformed("a purpose and label is asked for twice")


def _check_request(key: KeyRequest) -> None:
    if not MIN_KEY_BYTES <= key.length <= MAX_KEY_BYTES:
        bounds = f"{MIN_KEY_BYTES} to {MAX_KEY_BYTES}"
        raise _malformed(f"length {key.length}, expected {bounds}")
    if key.use is not None:
        _check_use(key, key.use)
    if key.create and key.part is KeyPart.PUBLIC:
        raise _malformed("a key is created whole, not by its public half")
    if key.part is KeyPart.PUBLIC and key.length != PRIVATE_BYTES:
        detail = f"the public half of a pair goes by the length {PRIVATE_BYTES}"
        raise _malformed(f"length {key.length}: {detail}")
    for name in (key.purpose, key.label):
        printable = name.isascii() and name.isprintable()
        if not printable or len(name) > MAX_NAME_CHARS:
            raise _malformed(f"{name!r}: at most {MAX_NAME_CHARS} printable ASCII")
    if not key.purpose:
        raise _malformed("a purpose is empty")
    if key.imported is not None and not key.create:
        raise _malformed("an import is of a key that is to be created")
    _check_generation(key.generation)


def _check_use(key: KeyRequest, use: KeyUse) -> None:
    if key.part is not KeyPart.PRIVATE:
        raise _malformed("a use is of the private half, not of the public one")
    if key.length != PRIVATE_BYTES:
        raise _malformed(f"length {key.length}: a pair goes by {PRIVATE_BYTES}")
    use.check()


def _check_generation(asked: Generation) -> None:
    if isinstance(asked, GenerationName):
        return
    if not 0 <= asked <= MAX_GENERATION:
        raise _malformed(f"generation {asked}, expected 0 to {MAX_GENERATION}")


class Exchange:
    """One exchange; its steps are called once, in order.

    Args:
        terms: pin, verifier, KEM.
        keys: the key requests.
        proof: how the response shall prove itself.
        event_log: sent along and bound into the evidence.
        imports: for each key request the existing key that it hands over, or ``None``;
            empty where none does. Not wiped here.
        entropy: random bytes; replaced in tests.

    Raises:
        RequestError: ``request_malformed``, for key requests or event log.
    """

    def __init__(
        self,
        terms: Terms,
        keys: tuple[KeyRequest, ...],
        *,
        proof: Proof = Proof.ATTESTED_KEY,
        event_log: bytes | None = None,
        imports: tuple[Secret | None, ...] = (),
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._imports = tuple(
            None if key is None else Import.of(key, entropy) for key in imports
        )
        keys = committed(keys, self._imports)
        check_requests(keys)
        if event_log is not None and len(event_log) > MAX_EVENT_LOG_BYTES:
            raise _malformed(f"event log: {len(event_log)} bytes")
        self._terms = terms
        self._keys = keys
        self._proof = proof
        self._event_log = event_log
        self._client_nonce: Final = entropy(CLIENT_NONCE_BYTES)
        self._recipient: RecipientKey | None = None
        self._question: Question | None = None

    def challenge_request(self) -> bytes:
        """The body of ``POST /v1/challenge``."""
        return encode_json(
            ChallengeRequest(
                version=PROTOCOL_VERSION,
                client_nonce=encode_base64url(self._client_nonce),
                collateral=self._terms.collateral.wants_stapled,
                import_key=True if any(self._imports) else msgspec.UNSET,
            )
        )

    def check_challenge(
        self, body: bytes, *, tls_key_hash: bytes | None = None, now: int
    ) -> bytes:
        """Check the provider; only then is there report data to make evidence over.

        Returns:
            64 bytes of report data.

        Raises:
            ProviderError: see :func:`tightseal.guest.challenge.check_challenge`.
            KeyReleaseError: ``kem_unsupported``.
        """
        challenge = check_challenge(
            body,
            client_nonce=self._client_nonce,
            pin=self._terms.pin,
            verifier_for=self._terms.collateral.verifier_for,
            tls_key_hash=tls_key_hash,
            tolerance=self._terms.tolerance,
            now=now,
            import_key=any(self._imports),
        )
        self._recipient = RecipientKey.generate(self._terms.kem)
        transcript = self._transcript(challenge, self._recipient)
        self._question = Question(challenge, transcript, b"", self._proof)
        return transcript.report_data()

    def keys_request(self, evidence: bytes) -> bytes:
        """The body of ``POST /v1/keys``; to be repeated byte for byte, if at all.

        Raises:
            RequestError: ``request_malformed``, for evidence over the bound.
        """
        question = self._asked()
        if not 1 <= len(evidence) <= MAX_EVIDENCE_BYTES:
            raise _malformed(f"evidence: {len(evidence)} bytes")
        self._question = replace(question, evidence=evidence)
        transcript = question.transcript
        parsed = ParsedKeysRequest(
            nonce=transcript.nonce,
            binding_key_hash=transcript.binding.key_hash(),
            kem=transcript.kem,
            recipient_key=transcript.recipient_key,
            keys=transcript.keys,
            event_log=self._event_log,
            evidence=evidence,
            proof=self._proof,
            imports=sealed_imports(
                self._imports,
                to=question.challenge.body.import_key,
                transcript=transcript,
                evidence=evidence,
            ),
        )
        return encode_json(KeysRequest.of(parsed))

    def open_response(self, body: bytes, *, now: int) -> ReleasedKeys:
        """Check the response and open its envelopes.

        Raises:
            ProviderError: see :func:`tightseal.guest.response.open_response`.
            KeyReleaseError: ``envelope_invalid``.
        """
        question = self._asked()
        if self._recipient is None or not question.evidence:
            raise _out_of_order()
        return open_response(
            body,
            question=question,
            recipient=self._recipient,
            pin=self._terms.pin,
            verifier_for=self._terms.collateral.verifier_for,
            tolerance=self._terms.tolerance,
            now=now,
            log=self._terms.log,
        )

    def wipe(self) -> None:
        """Drop the recipient's private key and what was to be imported."""
        for imported in self._imports:
            if imported is not None:
                imported.wipe()
        if self._recipient is not None:
            self._recipient.wipe()
        self._recipient = None

    def _transcript(
        self, challenge: CheckedChallenge, recipient: RecipientKey
    ) -> Transcript:
        log = self._event_log
        return Transcript(
            binding=challenge.binding,
            nonce=challenge.body.nonce,
            kem=self._terms.kem,
            recipient_key=recipient.public_bytes(),
            keys=self._keys,
            event_log_hash=None if log is None else hashlib.sha256(log).digest(),
        )

    def _asked(self) -> Question:
        if self._question is None:
            raise _out_of_order()
        return self._question


def _out_of_order() -> ServiceError:
    return ServiceError(Code.INTERNAL, "the steps of an exchange are out of order")


def _malformed(detail: str) -> RequestError:
    return RequestError(Code.REQUEST_MALFORMED, detail)
