# SPDX-License-Identifier: Apache-2.0
"""What operators scrape: outcomes, times, connections, disagreements, collateral.

With several workers each keeps its samples in memory-mapped files of the run folder,
and whichever worker is asked answers for all. Labels are closed sets (codes, stages,
rules): nothing that a caller chooses becomes a label.

The library is imported late: on its first import it decides whether samples are shared.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Histogram

__all__ = ["CONTENT_TYPE", "Metrics", "prepare_shared", "worker_died"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SHARED_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
SECONDS_BUCKETS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    1.0,
    5.0,
    25.0,
)


def prepare_shared(folder: Path) -> None:
    """Make the folder that workers share, empty; call before starting any of them."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for stale in folder.glob("*.db"):
        stale.unlink(missing_ok=True)
    os.environ[SHARED_VARIABLE] = str(folder)


def worker_died(pid: int) -> None:
    """Drop the gauges of a worker that is gone; its counters stay."""
    from prometheus_client import multiprocess  # noqa: PLC0415

    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


class Metrics:
    """Every metric of one worker, in a registry of its own."""

    def __init__(self) -> None:
        from prometheus_client import (  # noqa: PLC0415
            CollectorRegistry,
            Counter,
            Gauge,
            Histogram,
            disable_created_metrics,
        )

        disable_created_metrics()  # type: ignore[no-untyped-call]

        own = CollectorRegistry()
        self._registry = own
        self._outcomes = Counter(
            "tightseal_requests",
            "Requests by protocol and code",
            ("protocol", "code"),
            registry=own,
        )
        self._stages = Histogram(
            "tightseal_stage_seconds",
            "Time of one step of a release",
            ("stage",),
            registry=own,
            buckets=SECONDS_BUCKETS,
        )
        self._stage_children: dict[str, Histogram] = {}
        self._requests = Histogram(
            "tightseal_request_seconds",
            "Time from the whole request to its answer",
            ("protocol",),
            registry=own,
            buckets=SECONDS_BUCKETS,
        )
        self._disagreements = Counter(
            "tightseal_verifier_disagreements",
            "Evidence on which the verifiers disagreed, by rule",
            ("rule",),
            registry=own,
        )
        self._closed = Counter(
            "tightseal_connections_closed",
            "Connections closed by the provider's limits",
            ("transport", "reason"),
            registry=own,
        )
        self._open = Gauge(
            "tightseal_connections",
            "Open connections by transport and phase",
            ("transport", "phase"),
            registry=own,
            multiprocess_mode="livesum",
        )
        self._ready = Gauge(
            "tightseal_ready",
            "Whether a part of the provider is in order (1) or not (0)",
            ("part",),
            registry=own,
            multiprocess_mode="livemin",
        )
        self._collateral_age = Gauge(
            "tightseal_collateral_issued_seconds",
            "Unix time at which the newest collateral seen was issued",
            registry=own,
            multiprocess_mode="max",
        )
        self._journal_lag = Gauge(
            "tightseal_journal_lag_seconds",
            "Time that the last commit of the journal took",
            registry=own,
            multiprocess_mode="livemax",
        )

    def outcome(self, protocol: str, code: str, seconds: float) -> None:
        """Count one answered request."""
        self._outcomes.labels(protocol, code).inc()
        self._requests.labels(protocol).observe(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure one step of a release."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self._stage(name).observe(spent)
            if name == "record":
                self._journal_lag.set(spent)

    def _stage(self, name: str) -> Histogram:
        # Looking a label up costs more than measuring with it.
        child = self._stage_children.get(name)
        if child is None:
            child = self._stage_children[name] = self._stages.labels(name)
        return child

    def disagreement(self, rule: str) -> None:
        """Count evidence that the verifiers judged differently."""
        self._disagreements.labels(rule).inc()

    def closed(self, transport: str, reason: str) -> None:
        """Count a connection that a limit closed."""
        self._closed.labels(transport, reason).inc()

    def connections(self, transport: str, phase: str, count: int) -> None:
        """Note how many connections are in a phase."""
        self._open.labels(transport, phase).set(count)

    def ready(self, part: str, *, ok: bool) -> None:
        """Note whether a part of the provider is in order."""
        self._ready.labels(part).set(1 if ok else 0)

    def collateral_issued(self, when: int) -> None:
        """Note the issue date of the newest collateral seen, Unix seconds."""
        self._collateral_age.set(when)

    def render(self) -> bytes:
        """The exposition text of this worker, or of all where samples are shared."""
        from prometheus_client import generate_latest  # noqa: PLC0415

        return generate_latest(self._whole())

    def _whole(self) -> CollectorRegistry:
        if SHARED_VARIABLE not in os.environ:
            return self._registry
        from prometheus_client import CollectorRegistry, multiprocess  # noqa: PLC0415

        shared = CollectorRegistry()
        multiprocess.MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        return shared
