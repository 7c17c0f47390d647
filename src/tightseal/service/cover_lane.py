# SPDX-License-Identifier: Apache-2.0
"""One witness that is asked for cosignatures, with the thread that asks it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from tightseal.audit.merkle import consistency_proof
from tightseal.audit.note import SignatureLine, parse_signature_lines
from tightseal.errors import Code, ServiceError, TightsealError
from tightseal.guest.http import Bounds
from tightseal.service.cover_head import CosignedHead
from tightseal.service.logs import error_fields
from tightseal.service.witness_client import WitnessClient

__all__ = ["Lane", "LaneAnswer", "WitnessState"]

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
"""Seconds until a witness that failed is asked again; doubles from the first."""

PROBE_SECONDS: Final = 20.0
"""How often a witness is asked though nobody waits, so that health knows."""

STALE_SECONDS: Final = 60.0
"""A good answer older than this does not say that a witness answers."""

_MOST_FAILURES: Final = 16

log = structlog.get_logger("tightseal.cover")


@dataclass(frozen=True, slots=True)
class LaneAnswer:
    """What came of one request to a witness."""

    lane: Lane
    asked: CosignedHead
    lines: tuple[SignatureLine, ...] = ()
    error: TightsealError | None = None


@dataclass(frozen=True, slots=True)
class WitnessState:
    """What is known of one witness; for health.

    Attributes:
        url: where it is asked.
        keys: verifier keys that it answered with, of those that were named.
        answers: whether its last answer was good, and is not long ago.
        error: of its last answer, where it was bad.
    """

    url: str
    keys: frozenset[str]
    answers: bool
    error: str


class Lane:
    """One witness, with the thread that asks it.

    All but that thread's own work is for the thread that decides.

    Args:
        url: submission prefix.
        bounds: of one request.
        tell: takes what came of each request; called on the thread that asks.

    Attributes:
        busy: whether a request is under way.
        not_before: when it may be asked again, by the monotonic clock.
        ahead: entries that it saw, where they were more than it was shown.
        signed: the head that it cosigned last.
    """

    def __init__(
        self, url: str, bounds: Bounds, tell: Callable[[LaneAnswer], None]
    ) -> None:
        self.url = url
        self._client = WitnessClient(url, bounds=bounds)
        self._tell = tell
        self._jobs: queue.SimpleQueue[CosignedHead | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.busy = False
        self._failures = 0
        self.not_before = 0.0
        self.ahead = 0
        self.signed: CosignedHead | None = None
        self._asked_at: float | None = None
        self._good_at: float | None = None
        self._keys: frozenset[str] = frozenset()
        self.error = ""

    def ask(self, job: CosignedHead, now: float) -> None:
        """Have a head cosigned."""
        self.busy, self._asked_at = True, now
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="log-witness", daemon=True
            )
            self._thread.start()
        self._jobs.put(job)

    def failed(self, why: str, now: float) -> None:
        """Wait before the next time."""
        self.error = why
        self.not_before = now + min(FIRST_PAUSE * 2**self._failures, LONGEST_PAUSE)
        self._failures = min(self._failures + 1, _MOST_FAILURES)

    def good(self, asked: CosignedHead, keys: frozenset[str], now: float) -> None:
        """It cosigned, by keys that are named."""
        self.signed, self._keys, self._good_at = asked, keys, now
        self.error, self._failures, self.ahead = "", 0, 0

    def due(self, now: float) -> bool:
        """Whether it was not asked for long."""
        return self._asked_at is None or now - self._asked_at >= PROBE_SECONDS

    def state(self, now: float) -> WitnessState:
        """For health."""
        recent = self._good_at is not None and now - self._good_at < STALE_SECONDS
        return WitnessState(self.url, self._keys, recent and not self.error, self.error)

    def close(self) -> None:
        """End the thread, once it has its answer."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._tell(self._asked(job))
        self._client.close()

    def _asked(self, job: CosignedHead) -> LaneAnswer:
        try:
            answer = self._client.submit(
                job.note.encode(),
                size=job.size,
                prove=lambda old: consistency_proof(old, job.size, job.nodes),
            )
            return LaneAnswer(self, job, parse_signature_lines(answer))
        except TightsealError as e:
            return LaneAnswer(self, job, error=e)
        except Exception as e:  # noqa: BLE001  # the thread must outlive one answer
            log.error("witness_not_asked", **error_fields(e))  # noqa: TRY400
            wrapped = ServiceError(Code.INTERNAL, type(e).__name__)
            return LaneAnswer(self, job, error=wrapped)
