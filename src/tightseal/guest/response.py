# SPDX-License-Identifier: Apache-2.0
"""Checking a response and opening its envelopes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from tightseal.errors import (
    Code,
    KeyReleaseError,
    ProviderError,
    RequestError,
)
from tightseal.guest.challenge import CheckedChallenge
from tightseal.guest.logterms import (
    LogTerms,
    check_cover,
    check_log_terms,
    check_logged,
)
from tightseal.guest.pins import ProviderPin
from tightseal.guest.provider import (
    Tolerance,
    VerifierFor,
    check_claims,
    check_signature,
    verified,
)
from tightseal.guest.released import Receipt, ReleasedKey, ReleasedKeys
from tightseal.keys.pairs import PRIVATE_BYTES, check_public_half
from tightseal.model.claims import Vendor
from tightseal.model.exchange import KeyFacts, Transcript, quote_proof_report_data
from tightseal.model.generation import Generation, GenerationName
from tightseal.model.keypath import KeyPart, KeyRequest, KeyType
from tightseal.model.keyuse import SHARED_SECRET_BYTES, SIGNATURE_BYTES, Operation
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
    "ReleasedKey",
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


_RESULT_BYTES: Final[Mapping[Operation, int]] = MappingProxyType(
    {Operation.SIGN: SIGNATURE_BYTES, Operation.AGREE: SHARED_SECRET_BYTES}
)
"""Lengths of results; what is unwrapped has the length that was sealed."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the checks look at."""

    response: ParsedKeysResponse
    signed: bytes
    question: Question
    pin: ProviderPin
    tolerance: Tolerance
    now: int
    log: LogTerms | None = None


def open_response(
    body: bytes,
    *,
    question: Question,
    recipient: Opener,
    pin: ProviderPin,
    verifier_for: VerifierFor,
    tolerance: Tolerance,
    now: int,
    log: LogTerms | None = None,
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
        log: who must have seen the log; ``None`` for nobody.

    Raises:
        ProviderError: ``response_invalid``; ``log_class_too_low``; for a quote proof
            what ``check_challenge`` raises.
        KeyReleaseError: ``envelope_invalid``.
    """
    try:
        response = decode_json(body, KeysResponse).parsed()
    except RequestError as e:
        raise _invalid(e.detail) from e
    answer = _Answer(
        response=response,
        signed=response.signed_body(),
        question=question,
        pin=pin,
        tolerance=tolerance,
        now=now,
        log=log,
    )
    for _, check in RESPONSE_CHECKS:
        check(answer)
    if question.proof is Proof.QUOTE:
        _check_quote_proof(answer, verifier_for=verifier_for)
    return ReleasedKeys(
        receipt=_receipt(answer),
        provider=question.challenge.binding.identity,
        simulated=question.challenge.claims.trust_domain.simulated,
        keys=_open_all(response, question=question, recipient=recipient),
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


def _facts(a: _Answer) -> None:
    """What the envelopes are said to hold must fit what was asked for.

    The type is for policy to decide; that it goes with part and length is not.
    """
    facts, requests = a.response.keys, a.question.transcript.keys
    if len(facts) != len(requests):
        raise _invalid(f"facts of {len(facts)} keys, expected {len(requests)}")
    for index, (fact, request) in enumerate(zip(facts, requests, strict=True)):
        if fact.part is not request.part:
            detail = f"{fact.part.value} part, asked for {request.part.value}"
            raise _invalid(f"key {index}: {detail}")
        wanted = None if request.use is None else request.use.operation
        if fact.use is not wanted:
            got, expected = fact.use or "the key", wanted or "the key"
            raise _invalid(f"key {index}: {got}, asked for {expected}")
        if fact.use is not None and fact.use not in fact.key_type.operations:
            detail = f"{fact.key_type.value} does not {fact.use.value}"
            raise _invalid(f"key {index}: {detail}")
        if fact.key_type is KeyType.RAW and fact.part is KeyPart.PUBLIC:
            raise _invalid(f"key {index}: the public half of a raw key")
        if fact.key_type is not KeyType.RAW and request.length != PRIVATE_BYTES:
            detail = f"a pair, asked for {request.length} bytes"
            raise _invalid(f"key {index}: {detail}")


def _generations(a: _Answer) -> None:
    """A generation asked for by number is that one; an older one has a lower number."""
    said: dict[Generation, int] = {}
    facts, requests = a.response.keys, a.question.transcript.keys
    for fact, request in zip(facts, requests, strict=True):
        asked, got = request.generation, fact.generation
        by_number = not isinstance(asked, GenerationName)
        if (by_number and got != asked) or said.setdefault(asked, got) != got:
            raise _invalid(f"generation {got}, asked for {asked}")
    current = said.get(GenerationName.CURRENT)
    previous = said.get(GenerationName.PREVIOUS)
    if current is not None and previous is not None and previous >= current:
        raise _invalid(f"generation {previous} before the current {current}")


def _signature(a: _Answer) -> None:
    check_signature(
        a.response.public_key,
        signature=a.response.signature,
        signed=a.signed,
        code=Code.RESPONSE_INVALID,
    )


def _logged(a: _Answer) -> None:
    """What the provider promised under its attested key, its log must have.

    That others see the same log is for its witnesses to say.
    """
    promise = a.response.logged
    if promise is None:
        return
    proof = check_logged(promise, a.response.log_proof)
    if a.response.log_cover is not None:
        check_cover(
            a.response.log_cover,
            promise=promise,
            proof=proof,
            transcript_hash=a.response.transcript_hash,
            public_key=a.response.public_key,
        )


def _log_class(a: _Answer) -> None:
    """Who else has seen the log, where the workload asks for that."""
    if a.log is not None:
        check_log_terms(
            a.log,
            promise=a.response.logged,
            proof=a.response.log_proof,
            cover=a.response.log_cover,
        )


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
    ("key_facts", _facts),
    ("generations", _generations),
    ("signature", _signature),
    ("log_inclusion", _logged),
    ("log_class", _log_class),
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
    response: ParsedKeysResponse, *, question: Question, recipient: Opener
) -> tuple[ReleasedKey, ...]:
    """Open every envelope, or none: what was opened is wiped on a failure."""
    opened: list[ReleasedKey] = []
    transcript = question.transcript
    try:
        for index, (envelope, fact, request) in enumerate(
            zip(response.envelopes, response.keys, transcript.keys, strict=True)
        ):
            info = transcript.hpke_info(question.evidence, index=index)
            secret = recipient.open(envelope, info=info)
            opened.append(
                ReleasedKey(
                    request=request,
                    type=fact.key_type,
                    generation=fact.generation,
                    secret=secret,
                )
            )
            _check_opened(secret, fact, request, index=index)
    except BaseException:
        for key in opened:
            key.secret.wipe()
        raise
    return tuple(opened)


def _check_opened(
    secret: Secret, fact: KeyFacts, request: KeyRequest, *, index: int
) -> None:
    """What came out of an envelope must be what it is said to hold."""
    if fact.use is not None:
        expected = _RESULT_BYTES.get(fact.use, len(secret))
        if len(secret) != expected:
            detail = f"key {index}: result of {len(secret)} bytes, not {expected}"
            raise _invalid(detail)
    elif fact.part is KeyPart.PUBLIC:
        try:
            check_public_half(secret.reveal(), fact.key_type)
        except KeyReleaseError as e:
            raise _invalid(f"key {index}: {e.detail}") from e
    elif len(secret) != request.length:
        detail = f"key {index}: {len(secret)} bytes, asked for {request.length}"
        raise _invalid(detail)


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
        policy=response.policy,
        anchor=response.anchor,
        logged=response.logged,
        log_proof=response.log_proof,
        log_cover=response.log_cover,
    )


def _invalid(detail: str) -> ProviderError:
    return ProviderError(Code.RESPONSE_INVALID, detail)
