# SPDX-License-Identifier: Apache-2.0
"""A request between its cheap checks and its costly ones.

Whoever calls the pipeline may let a request wait here, in an order of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from tightseal.audit.journal import RECORD_SECONDS, given_up
from tightseal.envelope.hpke import Recipient
from tightseal.errors import Code, EvidenceError, RequestError
from tightseal.evidence.claimed import claimed
from tightseal.model.claims import Claims
from tightseal.model.exchange import Transcript
from tightseal.model.ports import NonceRedemption
from tightseal.model.wire import ParsedKeysRequest
from tightseal.platform.attested import AttestedKey
from tightseal.policy.eventlog import EventFacts, replay_event_log
from tightseal.release.hold import Held, not_covered

__all__ = [
    "Admitted",
    "Begun",
    "Entering",
    "Finished",
    "claim_of",
    "replayed",
    "require_answer",
    "require_at_most",
]


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer, and what was verified on the way.

    Attributes:
        body: JSON of the response; empty where it is held.
        tenant: that the keys belong to; ``None`` where nothing was verified, as for a
            retry that is answered from the journal.
        held: the response, where others have to see its entry in the log first.
    """

    body: bytes
    tenant: str | None = None
    held: Held | None = None

    def ready(self) -> bytes:
        """The response, where it waits for nobody.

        Raises:
            ServiceError: ``log_not_anchored`` or ``log_not_witnessed``.
        """
        if self.held is not None:
            raise not_covered(self.held.need, "nobody waits for it here")
        return self.body


@dataclass(frozen=True, slots=True)
class Entering:
    """An answer whose entry waits for the journal's commit; nothing may leave before.

    Attributes:
        done: what the journal keeps, once that is durable.
        give: makes the answer of it.
    """

    done: Future[bytes]
    give: Callable[[bytes], Finished]

    def wait(self) -> Finished:
        """The answer, once its entry is durable.

        Raises:
            EvidenceError, ServiceError: as of ``Recorder.record``, and of ``give``.
        """
        try:
            return self.give(self.done.result(timeout=RECORD_SECONDS))
        except TimeoutError as e:
            raise given_up(self.done) from e


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that passed the cheap checks.

    Attributes:
        request: in its parts.
        redemption: of its nonce.
        key: the attested key that its challenge was signed by.
        recipient: what keys are sealed to.
        transcript: what both sides agree on.
        report_data: what the evidence has to carry, 64 bytes.
    """

    request: ParsedKeysRequest
    redemption: NonceRedemption
    key: AttestedKey
    recipient: Recipient
    transcript: Transcript
    report_data: bytes


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that passed every cheap check.

    Attributes:
        claim: the platform that its evidence claims, unverified; empty where there is
            nothing to verify, or nothing to read.
        finish: makes the costly checks and answers; takes Unix seconds. It does not
            wait for the journal.
        answered: whether there is nothing costly left.
    """

    claim: bytes
    finish: Callable[[int], Finished | Entering]
    answered: bool = False

    def answer(self, now: int) -> Finished:
        """``finish``, and wait for the journal where that is needed."""
        outcome = self.finish(now)
        return outcome.wait() if isinstance(outcome, Entering) else outcome

    @classmethod
    def done(cls, finished: Finished) -> Begun:
        """A request that is answered already."""
        return cls(b"", lambda _now: finished, answered=True)


def claim_of(evidence: bytes, *, expected: bytes) -> bytes:
    """The platform that evidence claims, a hint; empty where it is not readable.

    Evidence of another exchange is refused by its own word, before any signature is
    looked at. What answers by its own word is judged by the verified claims once more.
    """
    try:
        said = claimed(evidence)
    except EvidenceError:
        # The verifier refuses it, with the check that failed.
        return b""
    if said.report_data is not None and said.report_data != expected:
        raise _other_report_data(expected=expected, got=said.report_data)
    return said.platform


def replayed(event_log: bytes | None, claims: Claims) -> EventFacts | None:
    """What the event log proves, where one came along."""
    return None if event_log is None else replay_event_log(event_log, claims)


def require_answer(claims: Claims, *, expected: bytes) -> None:
    """The evidence must commit to this very exchange."""
    if not claims.report_data_bound:
        detail = "a paravisor chose the report data, so it binds no recipient key"
        raise EvidenceError(Code.REPORT_DATA_UNBOUND, detail)
    if claims.report_data != expected:
        raise _other_report_data(expected=expected, got=claims.report_data)


def _other_report_data(*, expected: bytes, got: bytes) -> EvidenceError:
    detail = f"report data: expected {expected.hex()[:32]}…, got {got.hex()[:32]}…"
    return EvidenceError(Code.REPORT_DATA_MISMATCH, detail)


def require_at_most(what: str, got: int, limit: int) -> None:
    """Refuse what is longer than settings allow: ``request_too_large``."""
    if got > limit:
        detail = f"{what}: {got}, at most {limit}"
        raise RequestError(Code.REQUEST_TOO_LARGE, detail)
