# SPDX-License-Identifier: Apache-2.0
"""Who may have work done, and in which order: the work budget of one worker.

A request pays at every step before more is spent on it:

1. at the door, before its body is read: requests of its source;
2. after the cheap checks (size, form, nonce, what the evidence says of itself), before
   anything is verified: as much as a failure costs. What ends well gets it back.

What evidence claims before it is verified is a hint. Here it means something together
with its source alone: nobody is charged, delayed or shut out because somebody else, at
another address, claims his platform.

A pair of source and claimed platform that verified well of late is *known*. It pays
from a bucket of its own, so that others behind the same address do not use up what it
needs; it shares the reserved part of the threads with other known pairs, tenant by
tenant. Everybody else takes turns with all other sources for the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from tightseal.errors import (
    Code,
    CollateralError,
    EvidenceError,
    RequestError,
    ServiceError,
    retry_later,
)
from tightseal.release.leaserecord import Allowance
from tightseal.release.leases import Leases, Taken
from tightseal.service.buckets import Buckets, Standing
from tightseal.service.fairqueue import QUANTUM, Flow
from tightseal.service.listen_settings import HostLimits

__all__ = [
    "CHEAP",
    "COSTLY",
    "FAILED",
    "GOOD",
    "MALFORMED",
    "Admission",
    "OnLimit",
    "SharedLimits",
    "Ticket",
    "is_failure",
]

FAILED: Final = 100
"""Units that evidence costs which did not verify."""

MALFORMED: Final = 10
"""Units of a request that a cheap check refused."""

GOOD: Final = 1
"""Units of evidence that verified, whatever the policy said of it."""

CHEAP: Final = 1
COSTLY: Final = QUANTUM
"""Turns of a queue: one verification is worth this many cheap checks."""

REQUEST_BURST_SECONDS: Final = 2
"""Requests of so many seconds may come at once."""

OnLimit: TypeAlias = Callable[[str, str, str], None]
"""Told of a limit by its setting, the source, and ``refused``."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request on its way to the verifiers.

    Attributes:
        source: the share that the connection counts against.
        claim: the claimed platform, hex; a hint.
        flow: where it waits.
    """

    source: str
    claim: str
    flow: Flow

    @property
    def known(self) -> bool:
        """Whether the pair verified well of late."""
        return self.flow.known


class Admission:
    """The buckets and the standing of one worker. Used on the event loop only.

    Args:
        limits: host settings.
        on_limit: told of refusals, for metrics; must not raise.
        monotonic: seconds since any moment.
    """

    def __init__(
        self,
        limits: HostLimits,
        *,
        on_limit: OnLimit = lambda _limit, _source, _event: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        requests = limits.requests_per_second
        failures = limits.failures_per_second
        burst = limits.failure_burst * FAILED
        self._limits = limits
        self._on_limit = on_limit
        self._monotonic = monotonic
        self._requests = Buckets(
            rate=requests, burst=max(1.0, requests * REQUEST_BURST_SECONDS)
        )
        self._sources = Buckets(rate=failures * FAILED, burst=burst)
        self._pairs = Buckets(rate=failures * FAILED, burst=burst)
        self._standing = Standing(seconds=limits.known_seconds)

    def door(self, source: str) -> None:
        """Let a request in whose body was not read yet.

        A source that owes for failures is turned away here, unless somebody known is
        behind it: then the claim has to be seen first.

        Raises:
            ServiceError: ``rate_limited``.
        """
        now = self._monotonic()
        wait = self._requests.take(source, 1, now=now)
        if wait:
            raise self._refused("requests_per_second", source, wait)
        if self._standing.has(source):
            return
        wait = self._sources.wait(source, MALFORMED, now=now)
        if wait:
            raise self._refused("failures_per_second", source, wait)

    def known(self, source: str) -> bool:
        """Whether somebody known is behind a source."""
        return self._standing.has(source)

    def first(self, source: str) -> Flow:
        """Where a request waits before anything is known of its evidence."""
        return Flow(known=self.known(source), group=source)

    def malformed(self, source: str) -> None:
        """Charge for a request that a cheap check refused."""
        self._sources.charge(source, MALFORMED, now=self._monotonic())

    def enter(self, source: str, claim: bytes) -> Ticket:
        """Let a request go to the verifiers; it pays as for a failure, or little.

        Raises:
            ServiceError: ``rate_limited``.
        """
        now = self._monotonic()
        text = claim.hex()
        tenant = self._standing.tenant(source, text, now=now) if claim else None
        if tenant is not None:
            if not self._pairs.take(_pair(source, text), GOOD, now=now):
                return Ticket(source, text, Flow(True, tenant, f"{source} {text}"))
            self._standing.spoil(source, text)
        wait = self._sources.take(source, FAILED, now=now)
        if wait:
            raise self._refused("failures_per_second", source, wait)
        return Ticket(source, text, Flow(False, source, text))

    def ended(
        self, ticket: Ticket, error: BaseException | None, *, tenant: str | None = None
    ) -> None:
        """Settle what a request cost, once its outcome is known.

        Args:
            ticket: of ``enter``.
            error: what came of it; ``None`` for a release.
            tenant: that was released to.
        """
        now = self._monotonic()
        if is_failure(error):
            if ticket.known:
                self._fail_known(ticket, now=now)
            return
        if not ticket.known:
            self._sources.charge(ticket.source, GOOD - FAILED, now=now)
        good = error is None and tenant is not None and bool(ticket.claim)
        if good and self._limits.known_seconds:
            self._standing.good(
                ticket.source, ticket.claim, tenant=tenant or "", now=now
            )

    def shared(self, source: str) -> tuple[Allowance | None, Allowance | None]:
        """What counts over all nodes: the verification, and its failure."""
        limits = self._limits
        every, failed = (
            limits.shared_verifications_per_minute,
            limits.shared_failures_per_minute,
        )
        return (
            Allowance("shared_verifications_per_minute", (source,), every)
            if every
            else None,
            Allowance("shared_failures_per_minute", (source,), failed)
            if failed
            else None,
        )

    def _fail_known(self, ticket: Ticket, *, now: float) -> None:
        pair = _pair(ticket.source, ticket.claim)
        self._pairs.charge(pair, FAILED, now=now)
        if self._pairs.wait(pair, GOOD, now=now):
            self._standing.spoil(ticket.source, ticket.claim)

    def _refused(self, limit: str, source: str, wait: int) -> ServiceError:
        self._on_limit(limit, source, "refused")
        detail = f"{limit}: {source} has to wait {wait} s"
        return retry_later(Code.RATE_LIMITED, detail, seconds=wait)


@dataclass(frozen=True, slots=True)
class SharedLimits:
    """Counts verifications and failures of a source over all nodes; on a thread.

    Attributes:
        leases: what this node holds.
        every, failed: of ``Admission.shared``.
    """

    leases: Leases
    every: Allowance | None
    failed: Allowance | None

    def enter(self, *, now: int) -> Taken | None:
        """Take one of each; the failure is given back by ``ended``.

        Raises:
            ServiceError: ``rate_limited``; what the store raises.
        """
        both = tuple(a for a in (self.every, self.failed) if a is not None)
        return self.leases.take(both, now=now)

    def ended(self, taken: Taken | None, error: BaseException | None) -> None:
        """Give the failure back where there was none."""
        if taken is None or self.failed is None or is_failure(error):
            return
        self.leases.give_back(Taken(taken.epoch, (self.failed,)))


def is_failure(error: BaseException | None) -> bool:
    """Whether whoever sent the evidence is at fault: it did not verify.

    Not a denial, since then it did; nor what fails on our side, such as collateral that
    cannot be had. That the vendor knows no such platform is no fault of ours: whoever
    invents chips makes the provider ask for each of them.
    """
    if isinstance(error, CollateralError):
        return error.code is Code.COLLATERAL_NOT_FOUND
    return isinstance(error, EvidenceError | RequestError)


def _pair(source: str, claim: str) -> str:
    return f"{source} {claim}"
