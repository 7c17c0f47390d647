# SPDX-License-Identifier: Apache-2.0
"""The way of a request with evidence: cheap checks, admission, verification.

Both transports go it. Each of the two steps waits for a thread in its own turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from tightseal.audit.journal import RECORD_SECONDS, given_up
from tightseal.errors import EvidenceError, KeyReleaseError, RequestError
from tightseal.release.begun import Begun, Entering, Finished
from tightseal.service.admission import CHEAP, COSTLY, SharedLimits
from tightseal.service.front import Front
from tightseal.service.pool import WorkPool

__all__ = ["admitted"]

_CALLERS_FAULT = (EvidenceError, RequestError, KeyReleaseError)


async def admitted(
    front: Front, pool: WorkPool, source: str, begin: Callable[[], Begun]
) -> Finished:
    """Make the cheap checks, then let the request wait its turn for the costly ones.

    Args:
        front: the worker.
        pool: where both run.
        source: the share that the connection counts against.
        begin: makes the cheap checks, on a thread.

    Raises:
        ServiceError: ``rate_limited`` or ``overloaded``, with ``retry_after``.
        TightsealError: what the steps raise.
    """
    admission = front.admission
    try:
        begun = await pool.submit(begin, flow=admission.first(source), cost=CHEAP)
    except _CALLERS_FAULT:
        admission.malformed(source)
        raise
    if begun.answered:
        # A retry that the journal knows: nothing is left to do, or to pay for.
        return begun.answer(0)
    ticket = admission.enter(source, begun.claim)
    every, failed = admission.shared(source)
    shared = SharedLimits(front.leases, every, failed)
    error: BaseException | None = None
    tenant = None
    try:
        outcome = await pool.submit(
            partial(_finish, front, begun, shared),
            flow=ticket.flow,
            cost=COSTLY,
        )
        finished = await _entered(outcome)
        tenant = finished.tenant
    except BaseException as e:
        error = e
        raise
    finally:
        admission.ended(ticket, error, tenant=tenant)
    return finished


async def _entered(outcome: Finished | Entering) -> Finished:
    """The answer, once its entry is durable.

    No thread waits for that: the next request is verified meanwhile, and one commit
    takes the entries of both.
    """
    if isinstance(outcome, Finished):
        return outcome
    loop = asyncio.get_running_loop()
    durable = asyncio.Event()

    def tell(_done: object) -> None:
        # The loop may be gone: the provider stops, and nobody is answered any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(durable.set)

    outcome.done.add_done_callback(tell)
    try:
        await asyncio.wait_for(durable.wait(), RECORD_SECONDS)
    except TimeoutError as e:
        raise given_up(outcome.done) from e
    return outcome.give(outcome.done.result())


def _finish(front: Front, begun: Begun, shared: SharedLimits) -> Finished | Entering:
    """On a thread: what is counted over all nodes, then everything that costs."""
    now = front.clock()
    taken = shared.enter(now=now)
    error: BaseException | None = None
    try:
        return begun.finish(now)
    except BaseException as e:
        error = e
        raise
    finally:
        shared.ended(taken, error)
