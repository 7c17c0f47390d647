# SPDX-License-Identifier: Apache-2.0
"""What both transports need of the provider, and how they report an outcome."""

from __future__ import annotations

import itertools
import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from tightseal.audit.tiles import TileSource
from tightseal.errors import Code, RequestError, ServiceError, TightsealError
from tightseal.model import wire
from tightseal.model.claims import Check, Outcome
from tightseal.model.grant import Reason
from tightseal.model.ports import Clock
from tightseal.model.settings import ReleaseSettings
from tightseal.model.wire_operator import ActionDone, PolicyAccepted
from tightseal.release.begun import Begun, Finished
from tightseal.release.hold import Held
from tightseal.release.leases import Leases
from tightseal.service.admission import Admission
from tightseal.service.connections import ByteBudget
from tightseal.service.health import Health
from tightseal.service.listen_settings import HostLimits
from tightseal.service.logs import error_fields
from tightseal.service.membership import Membership
from tightseal.service.metrics import Metrics
from tightseal.service.pool import WorkPool
from tightseal.service.settings import Settings
from tightseal.service.tls import ServerTls

__all__ = ["Answer", "Front", "Provider", "Request", "ServedLog"]

SERVER_FAULT: int = 500

log = structlog.get_logger("tightseal.request")


class Answer(Protocol):
    """What the legacy protocol answers."""

    @property
    def encrypted_key(self) -> bytes:
        """Sealed box, 80 bytes."""

    @property
    def provider_quote(self) -> bytes:
        """The provider's quote over the hash of the sealed box."""

    @property
    def tenant(self) -> str:
        """The tenant that the key belongs to; not sent."""

    @property
    def held(self) -> Held | None:
        """What has to see its entry in the log before any of it is sent."""


class Provider(Protocol):
    """The pipeline as the transports see it; called from worker threads."""

    def challenge(
        self, request: wire.ChallengeRequest, *, now: int
    ) -> wire.ChallengeResponse:
        """Sign a challenge."""

    def begin(self, body: bytes, *, now: int) -> Begun:
        """Make the cheap checks of evidence that asks for keys, JSON to JSON."""

    def legacy(self, quote: bytes, *, now: int) -> Answer:
        """Answer a quote of the legacy protocol."""

    def info(self, *, now: int) -> wire.InfoResponse:
        """Who the provider is."""

    def public_key(
        self, request: wire.PublicKeyRequest, *, now: int
    ) -> wire.PublicKeyResponse:
        """The public half of a published key."""

    def settings(self) -> ReleaseSettings:
        """The release settings in force."""

    def publish(self, bundle: bytes, *, now: int) -> PolicyAccepted:
        """Take a signed bundle."""

    def admit(self, action: bytes, *, now: int) -> None:
        """Refuse an action that no role of the policy signed; changes nothing."""

    def act(self, action: bytes, *, now: int) -> ActionDone:
        """Do what a signed action asks for."""

    def hand_over(self, body: bytes, *, now: int) -> Finished:
        """Answer an invited provider with the keyring, JSON to JSON."""

    def confirm_handoff(self, body: bytes, *, now: int) -> bytes:
        """Take the word of a provider that joined, JSON to JSON."""


class Cover(Protocol):
    """Where answers wait for others to see their entry in the log."""

    async def wait(self, held: Held) -> bytes:
        """The answer, covered; for a bounded time."""
        ...


@dataclass(frozen=True, slots=True)
class ServedLog:
    """The provider's own log as it is served.

    Attributes:
        log_id: hex; the last part of the origin.
        source: where the published tiles are; used by one thread.
    """

    log_id: str
    source: TileSource


@dataclass(frozen=True, slots=True)
class Front:
    """One worker's provider with all that its transports share.

    Attributes:
        provider: the pipeline.
        clock: Unix seconds; may refuse with ``clock_behind``.
        settings: both kinds.
        metrics, health: of this worker.
        pool: threads that verify and release.
        quote_pool: threads for requests that wait for a quote of the platform, which
            come one at a time; so that those never hold up the others.
        operator_pool: the thread that takes bundles and actions, one after another.
        budget: request bytes held at once.
        operator_budget: bytes of bundles and actions held at once.
        admission: who waits, and for how long.
        leases: limits that hold over all nodes, as far as this one holds them.
        tls: of the HTTP API; ``None`` where TLS does not end here.
        log: the own log, where it is served.
        nodes: those over the same state; ``None`` where there is no state.
        cover: lets answers wait for others to see their entry in the log.
    """

    provider: Provider
    clock: Clock
    settings: Settings
    metrics: Metrics
    health: Health
    pool: WorkPool
    quote_pool: WorkPool
    operator_pool: WorkPool
    budget: ByteBudget
    operator_budget: ByteBudget
    admission: Admission = field(default_factory=lambda: Admission(HostLimits()))
    leases: Leases = field(default_factory=lambda: Leases(None))
    tls: ServerTls | None = None
    log: ServedLog | None = None
    nodes: Membership | None = None
    cover: Cover | None = None

    async def covered(self, finished: Finished) -> bytes:
        """The answer, once whoever has to see its entry in the log has seen it.

        No thread waits. Whoever comes from here holds no more of the request.

        Raises:
            ServiceError: ``log_not_anchored`` or ``log_not_witnessed``, with
                ``retry_after``: the same request may be sent again.
        """
        if finished.held is None or self.cover is None:
            return finished.ready()
        return await self.cover.wait(finished.held)

    def pools(self) -> tuple[WorkPool, ...]:
        """Every pool of threads."""
        return self.pool, self.quote_pool, self.operator_pool

    def pressed(self) -> bool:
        """Whether strangers are a flood; on the event loop only."""
        return any(p.pressed or p.crowded for p in (self.pool, self.quote_pool))


_PREFIX = secrets.token_hex(4)
_NUMBERS = itertools.count(1)


@dataclass(slots=True)
class Request:
    """One request from its last byte to its outcome, for log and metrics.

    Attributes:
        protocol: ``challenge``, ``keys``, ``legacy`` or another path's name.
        peer: the share that the connection counts against.
        request_id: in the log line and in what the caller gets.
    """

    protocol: str
    peer: str
    metrics: Metrics
    request_id: str = field(
        default_factory=lambda: f"{_PREFIX}-{next(_NUMBERS):x}",
    )
    started: float = field(default_factory=time.perf_counter)

    def granted(self) -> None:
        """Report success."""
        seconds = self._count("granted")
        log.info("answered", seconds=round(seconds, 6), **self._fields())

    def refused(self, error: BaseException) -> TightsealError:
        """Report a refusal, and give the error that the caller may learn of."""
        if not isinstance(error, TightsealError):
            log.error("internal_error", **self._fields(), **error_fields(error))
            self._count(Code.INTERNAL.value)
            return ServiceError(Code.INTERNAL, type(error).__qualname__)
        fields = self._fields() | {
            "code": error.code.value,
            "detail": error.detail,
            "seconds": round(self._count(error.code.value), 6),
        }
        fields |= _trace(error)
        if error.code is Code.RATE_LIMITED:
            # Who is limited was said once; a line for each of a flood is a flood.
            log.debug("refused", **fields)
        elif isinstance(error, RequestError):
            log.info("refused", **fields)
        elif error.code is Code.OVERLOADED or error.info.status < SERVER_FAULT:
            log.warning("refused", **fields)
        else:
            log.error("refused", **fields)
        return error

    def _count(self, code: str) -> float:
        seconds = time.perf_counter() - self.started
        self.metrics.outcome(self.protocol, code, seconds)
        return seconds

    def _fields(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol,
            "peer": self.peer,
            "request_id": self.request_id,
        }


def _trace(error: TightsealError) -> dict[str, Any]:
    """The check that failed and every rule that was judged, for the operator."""
    trace: dict[str, Any] = {}
    failed = [
        f"{c.name} ({c.spec})"
        for c in error.checks
        if isinstance(c, Check) and c.outcome is Outcome.FAILED
    ]
    if failed:
        trace["failed_checks"] = failed
    judged = [r for r in getattr(error, "reasons", ()) if isinstance(r, Reason)]
    if judged:
        trace["reasons"] = [_told(r) for r in judged if not r.satisfied]
        trace["rules_that_hold"] = [_told(r) for r in judged if r.satisfied]
    return trace


def _told(reason: Reason) -> str:
    return f"{reason.rule}: expected {reason.expected}, got {reason.got}"
