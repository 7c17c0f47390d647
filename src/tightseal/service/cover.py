# SPDX-License-Identifier: Apache-2.0
"""Where answers wait until others have seen their entry in the log.

The commit is done, and the answer is sealed in the journal: what is left costs no
thread of those that release. An answer waits on the event loop, for a bounded time and
among a bounded number, while threads of their own ask witnesses or the state for
everybody who waits at once. Who waits too long is refused, and may send the very same
request again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from tightseal.audit.merkle import inclusion_proof, verify_inclusion
from tightseal.audit.nodes import JournalNodes
from tightseal.errors import Code, ServiceError, TightsealError
from tightseal.model.logclass import LogClass, LogCover
from tightseal.release.hold import Held, not_covered
from tightseal.service.settings import WitnessSettings

__all__ = ["Desk", "LogCovers", "Waiting", "prove_entry"]

RETRY_SECONDS: Final = 1
"""When whoever waited too long is told to come back."""

log = structlog.get_logger("tightseal.cover")


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """An answer that waits.

    Attributes:
        held: the answer.
        done: gets it, covered.
        since: when it began to wait, by the monotonic clock.
    """

    held: Held
    done: Future[bytes] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)

    def finish(self, cover: LogCover, proof: bytes) -> bool:
        """Give out the answer; whether anybody still waited for it.

        Args:
            cover: what has seen the entry.
            proof: C2SP ``tlog-proof`` to the covering checkpoint, or empty bytes.
        """
        if not self.done.set_running_or_notify_cancel():
            return False
        try:
            self.done.set_result(self.held.complete(cover, proof))
        except TightsealError as e:
            self.done.set_exception(e)
        except Exception as e:  # noqa: BLE001  # whoever waits must learn of it
            self.done.set_exception(e)
        return True

    def fail(self, error: TightsealError) -> None:
        """Refuse for good."""
        if self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)


def prove_entry(
    held: Held, *, size: int, root: bytes, nodes: JournalNodes
) -> tuple[bytes, ...]:
    """Prove that the very entry of an answer is in a tree; the audit path.

    The journal's rows are the host's: leaf and root are what is believed.

    Raises:
        ServiceError: ``log_tampered``; ``journal_failed``.
    """
    path = inclusion_proof(held.index, size, nodes)
    try:
        verify_inclusion(
            held.promise.leaf, index=held.index, size=size, proof=path, root=root
        )
    except ServiceError as e:
        nodes.forget()
        detail = f"log: entry {held.index + 1} of a head of {size}: {e.detail}"
        raise ServiceError(Code.LOG_TAMPERED, detail) from e
    return path


class Desk(Protocol):
    """Whoever has answers of one class covered, on threads of its own."""

    @property
    def why(self) -> str:
        """What went wrong last, for whoever waited too long; empty for nothing."""
        ...

    def put(self, waiting: Waiting) -> None:
        """Take an answer in; never blocks."""
        ...

    def look(self) -> None:
        """Look whether whoever is asked answers at all; never blocks."""
        ...

    def close(self) -> None:
        """End the threads."""
        ...


class LogCovers:
    """Implements ``front.Cover``: one desk for each class above ``signed``.

    Args:
        desks: by class; a class without one is refused.
        settings: how long, and how many.
        on_covered: told the class, and how many seconds an answer waited.
    """

    def __init__(
        self,
        desks: Mapping[LogClass, Desk],
        settings: WitnessSettings,
        *,
        on_covered: Callable[[LogClass, float], None] = lambda _class, _seconds: None,
    ) -> None:
        self._desks = dict(desks)
        self._settings = settings
        self._on_covered = on_covered
        self._count = 0

    @property
    def waiting(self) -> int:
        """Answers that wait now."""
        return self._count

    async def wait(self, held: Held) -> bytes:
        """The answer, once it is covered; on the event loop.

        Raises:
            ServiceError: ``log_not_anchored`` or ``log_not_witnessed``, with
                ``retry_after``; ``log_tampered``.
        """
        kind = held.need.log_class
        desk = self._desks.get(kind)
        if desk is None:
            raise _later(held, "nobody is asked: host.witnesses.urls is empty")
        if self._count >= self._settings.max_waiting:
            raise _later(held, f"{self._count} answers wait already")
        waiting = Waiting(held)
        self._count += 1
        try:
            desk.put(waiting)
            async with asyncio.timeout(self._settings.wait_seconds):
                answer = await asyncio.wrap_future(waiting.done)
        except TimeoutError as e:
            why = desk.why or f"not within {self._settings.wait_seconds:g} s"
            raise _later(held, why) from e
        finally:
            self._count -= 1
        self._on_covered(kind, time.monotonic() - waiting.since)
        return answer

    def look(self) -> None:
        """See to it that health knows who answers; for the background thread."""
        for desk in self._desks.values():
            desk.look()

    def close(self) -> None:
        """End the threads; whoever waits is refused when its time is up."""
        for desk in self._desks.values():
            desk.close()


def _later(held: Held, why: str) -> ServiceError:
    error = not_covered(held.need, why)
    error.retry_after = RETRY_SECONDS
    return error
