# SPDX-License-Identifier: Apache-2.0
"""What operators hear of limits: a count of every refusal, and a line now and then.

A flood is not answered with a flood of log lines: a subject that ran out is named once
a minute.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from tightseal.release.leaserecord import Allowance
from tightseal.service.metrics import Metrics

__all__ = ["limit_heard", "source_heard"]

QUIET_SECONDS: Final = 60.0
MAX_NAMED: Final = 1024
"""Most subjects that it is remembered of that they were named."""

log = structlog.get_logger("tightseal.limits")


class _Named:
    """Says of each subject once in ``QUIET_SECONDS`` that it ran out. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._last: OrderedDict[tuple[str, str], float] = OrderedDict()

    def say(self, limit: str, subject: str) -> None:
        now = self._monotonic()
        key = (limit, subject)
        with self._lock:
            last = self._last.get(key)
            if last is not None and now - last < QUIET_SECONDS:
                return
            self._last[key] = now
            self._last.move_to_end(key)
            if len(self._last) > MAX_NAMED:
                self._last.popitem(last=False)
        log.warning("limit_reached", limit=limit, subject=subject)


def limit_heard(metrics: Metrics) -> Callable[[Allowance, str], None]:
    """What ``Leases`` tells."""
    named = _Named()

    def heard(allowance: Allowance, event: str) -> None:
        metrics.limit(allowance.limit_name, event)
        if event == "refused":
            named.say(allowance.limit_name, "/".join(allowance.subject))

    return heard


def source_heard(metrics: Metrics) -> Callable[[str, str, str], None]:
    """What ``Admission`` tells."""
    named = _Named()

    def heard(limit: str, source: str, event: str) -> None:
        metrics.limit(limit, event)
        named.say(limit, source)

    return heard
