# SPDX-License-Identifier: Apache-2.0
"""Checking a response and opening its envelopes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tightseal.errors import Code, KeyReleaseError, ProviderError, RequestError
from tightseal.guest.challenge import (
    CheckedChallenge,
    Tolerance,
    VerifierFor,
    check_claims,
    verified,
)
from tightseal.guest.pins import ProviderPin
from tightseal.model.claims import Vendor
from tightseal.model.exchange import (
    Transcript,
    quote_proof_report_data,
    response_body,
)
from tightseal.model.keypath import KeyRequest
from tightseal.model.provider import ProviderIdentity
from tightseal.model.secret import Secret
from tightseal.model.wire import (
    KeysResponse,
    ParsedKeysResponse,
    Proof,
    decode_json,
)

__all__ = [
    "RESPONSE_CHECKS",
    "Opener",
    "Question",
    "Receipt",
    "ReleasedKeys",
    "open_response",
]


class Opener(Protocol):
    """The private half of the recipient key."""

    def open(self, ciphertext: bytes, *, info: bytes) -> Secret:
        """Open an envelope; raises ``KeyReleaseError``."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked: a response must answer exactly this.

    Attributes:
        challenge: the checked challenge.
        transcript: what both sides agree on.
        evidence: the evidence that was sent.
        proof: how the response shall prove itself.
    """

    challenge: CheckedChallenge
    transcript: Transcript
    evidence: bytes
    proof: Proof


@dataclass(frozen=True, slots=True)
class Receipt:
    """What proves the release.

    Attributes:
        transcript_hash: 64 bytes.
        entry_id: names the entry in the provider's log, 16 bytes.
        issued_at: Unix seconds by the provider's clock.
        signed: the bytes that the signature covers.
        signature: Ed25519 by ``public_key``, checked.
        public_key: the attested key of the challenge.
        quote: the provider's evidence over ``signed``, checked; ``None`` where it was
            not asked for.
        single_verifier: whether one verifier alone judged the workload's evidence.
        trust_domain: of the exchange, as it stands in the key path.
    """

    transcript_hash: bytes
    entry_id: bytes
    issued_at: int
    signed: bytes
    signature: bytes
    public_key: bytes
    quote: bytes | None
    single_verifier: bool
    trust_domain: str


@dataclass(frozen=True, slots=True)
class ReleasedKeys:
    """The keys, and what proves their release. A context manager that wipes them.

    Attributes:
        receipt: the receipt.
        provider: who released them.
        simulated: whether the provider is of a simulated world.
        requests: what was asked for, in order.
    """

    receipt: Receipt
    provider: ProviderIdentity
    simulated: bool
    requests: tuple[KeyRequest, ...]
    _secrets: tuple[Secret, ...] = field(repr=False)

    def get(self, purpose: str, label: str = "") -> Secret:
        """The key of a purpose and label.

        Raises:
            KeyReleaseError: ``key_path_invalid``, where it was not asked for.
        """
        for request, secret in zip(self.requests, self._secrets, strict=True):
            if (request.purpose, request.label) == (purpose, label):
                return secret
        detail = f"no key {purpose!r} {label!r} was asked for"
        raise KeyReleaseError(Code.KEY_PATH_INVALID, detail)

    def wipe(self) -> None:
        """Overwrite the keys; see ``Secret`` for what Python cannot promise."""
        for secret in self._secrets:
            secret.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the checks look at."""

    response: ParsedKeysResponse
    signed: bytes
    question: Question
    pin: ProviderPin
    tolerance: Tolerance
    now: int


def open_response(
    body: bytes,
    *,
    question: Question,
    recipient: Opener,
    pin: ProviderPin,
    verifier_for: VerifierFor,
    tolerance: Tolerance,
    now: int,
) -> ReleasedKeys:
    """Check a response (``RESPONSE_CHECKS`` in order) and open its envelopes.

    Args:
        body: JSON of the response to ``POST /v1/keys``.
        question: what was asked.
        recipient: opens envelopes.
        pin: what the provider must be.
        verifier_for: makes the verifier of a quote proof.
        tolerance: of the clocks.
        now: Unix seconds by the guest's clock.

    Raises:
        ProviderError: ``response_invalid``, or, for a quote proof, what
            ``check_challenge`` raises.
        KeyReleaseError: ``envelope_invalid``.
    """
    try:
        response = decode_json(body, KeysResponse).parsed()
    except RequestError as e:
        raise _invalid(e.detail) from e
    signed = response_body(
        transcript_hash=response.transcript_hash,
        envelopes=response.envelopes,
        entry_id=response.entry_id,
        issued_at=response.issued_at,
        single_verifier=response.single_verifier,
        trust_domain=response.trust_domain,
    )
    answer = _Answer(
        response=response,
        signed=signed,
        question=question,
        pin=pin,
        tolerance=tolerance,
        now=now,
    )
    for _, check in RESPONSE_CHECKS:
        check(answer)
    if question.proof is Proof.QUOTE:
        _check_quote_proof(answer, verifier_for=verifier_for)
    secrets = _open_all(response.envelopes, question=question, recipient=recipient)
    return ReleasedKeys(
        receipt=_receipt(answer),
        provider=question.challenge.binding.identity,
        simulated=question.challenge.claims.trust_domain.simulated,
        requests=question.transcript.keys,
        _secrets=secrets,
    )


def _public_key(a: _Answer) -> None:
    if a.response.public_key != a.question.challenge.binding.public_key:
        raise _invalid("signed by another key than the challenge")


def _transcript(a: _Answer) -> None:
    expected = a.question.transcript.hash_with(a.question.evidence)
    if a.response.transcript_hash != expected:
        raise _invalid("the transcript hash is of another exchange")


def _count(a: _Answer) -> None:
    got, expected = len(a.response.envelopes), len(a.question.transcript.keys)
    if got != expected:
        raise _invalid(f"{got} envelopes, expected {expected}")


def _signature(a: _Answer) -> None:
    try:
        key = Ed25519PublicKey.from_public_bytes(a.response.public_key)
        key.verify(a.response.signature, a.signed)
    except (InvalidSignature, ValueError) as e:
        raise _invalid("the signature is not by the attested key") from e


def _time(a: _Answer) -> None:
    issued, skew = a.response.issued_at, a.tolerance.skew
    if not a.question.challenge.checked_at - skew <= issued <= a.now + skew:
        raise _invalid(f"issued at {issued}, now {a.now}")


def _not_simulated(a: _Answer) -> None:
    simulated = a.response.trust_domain.startswith(Vendor.SIMULATED.value)
    if simulated and not a.pin.allow_simulated:
        detail = f"the exchange is of {a.response.trust_domain}"
        raise ProviderError(Code.PROVIDER_SIMULATED, detail)


RESPONSE_CHECKS: Final[tuple[tuple[str, Callable[[_Answer], None]], ...]] = (
    ("public_key", _public_key),
    ("transcript", _transcript),
    ("envelope_count", _count),
    ("signature", _signature),
    ("issue_time", _time),
    ("not_simulated", _not_simulated),
)
"""The checks before an envelope is opened, in order."""


def _check_quote_proof(a: _Answer, *, verifier_for: VerifierFor) -> None:
    """The quote over this one response, by the machine that made the challenge."""
    quote, challenge = a.response.quote, a.question.challenge
    if quote is None:
        raise _invalid("a quote over the response was asked for, and none came")
    claims = verified(
        quote, verifier_for=verifier_for, stapled=challenge.stapled, now=a.now
    )
    check_claims(claims, pin=a.pin, report_data=quote_proof_report_data(a.signed))
    before = challenge.claims
    if claims.trust_domain != before.trust_domain:
        raise _invalid("the quote is of another trust domain than the challenge")
    # Evidence under a VLEK names no machine at all.
    named = before.platform.ppid is not None or before.platform.chip_id is not None
    if named and not claims.platform.same_machine(before.platform):
        raise _invalid("the quote is of another machine than the challenge")


def _open_all(
    envelopes: tuple[bytes, ...], *, question: Question, recipient: Opener
) -> tuple[Secret, ...]:
    """Open every envelope, or none: what was opened is wiped on a failure."""
    opened: list[Secret] = []
    transcript = question.transcript
    try:
        pairs = zip(envelopes, transcript.keys, strict=True)
        for index, (envelope, request) in enumerate(pairs):
            info = transcript.hpke_info(question.evidence, index=index)
            secret = recipient.open(envelope, info=info)
            opened.append(secret)
            if len(secret) != request.length:
                detail = f"key {index}: {len(secret)} bytes, asked for {request.length}"
                raise _invalid(detail)
    except BaseException:
        for secret in opened:
            secret.wipe()
        raise
    return tuple(opened)


def _receipt(a: _Answer) -> Receipt:
    response = a.response
    return Receipt(
        transcript_hash=response.transcript_hash,
        entry_id=response.entry_id,
        issued_at=response.issued_at,
        signed=a.signed,
        signature=response.signature,
        public_key=response.public_key,
        quote=response.quote if a.question.proof is Proof.QUOTE else None,
        single_verifier=response.single_verifier,
        trust_domain=response.trust_domain,
    )


def _invalid(detail: str) -> ProviderError:
    return ProviderError(Code.RESPONSE_INVALID, detail)
