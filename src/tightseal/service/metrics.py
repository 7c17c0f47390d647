# SPDX-License-Identifier: Apache-2.0
"""What operators scrape; every metric stands in :mod:`tightseal.service.metricinfo`.

With several workers each keeps its samples in memory-mapped files of the run folder,
and whichever worker is asked answers for all. Labels are closed sets (codes, stages,
rules): nothing that a caller chooses becomes a label.

The library is imported late: on its first import it decides whether samples are shared.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tightseal._version import __version__
from tightseal.codes import Code
from tightseal.errors import ServiceError
from tightseal.model.logclass import LogClass
from tightseal.model.state import AnchorClass
from tightseal.release.nodes import Standing
from tightseal.service.metricinfo import (
    LABELS,
    METRICS,
    SECONDS_BUCKETS,
    UNEXPLAINED,
    Kind,
    SlotCondition,
)

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["CONTENT_TYPE", "Metrics", "prepare_shared", "worker_died"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SHARED_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"

RESERVED_BYTES: Final = 256 << 10
"""Of each file of a worker: more than all series with all their labels take."""


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


def _reserve_files() -> None:
    """Give this worker's files their room before they are mapped into memory.

    A write to a mapped page that the disk has no room for ends the process (SIGBUS);
    here it is an error.

    Raises:
        ServiceError: ``journal_failed``: they lie on the journal's disk.
    """
    folder = os.environ.get(SHARED_VARIABLE)
    if not folder:
        return
    kinds = {f"gauge_{m.shared}" for m in METRICS if m.kind is Kind.GAUGE}
    for kind in ("counter", "histogram", *sorted(kinds)):
        path = Path(folder) / f"{kind}_{os.getpid()}.db"
        try:
            with path.open("xb") as reserved:
                reserved.write(bytes(RESERVED_BYTES))
        except FileExistsError:
            continue
        except OSError as e:
            path.unlink(missing_ok=True)
            detail = f"no room for the metrics of a worker: {path}: {e.strerror}"
            raise ServiceError(Code.JOURNAL_FAILED, detail) from e


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
        _reserve_files()

        own = CollectorRegistry()
        self._registry = own
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for m in METRICS:
            if m.kind is Kind.COUNTER:
                self._counters[m.name] = Counter(
                    m.name, m.meaning, m.labels, registry=own
                )
            elif m.kind is Kind.GAUGE:
                self._gauges[m.name] = Gauge(
                    m.name,
                    m.meaning,
                    m.labels,
                    registry=own,
                    multiprocess_mode=m.shared,
                )
            else:
                self._histograms[m.name] = Histogram(
                    m.name, m.meaning, m.labels, registry=own, buckets=SECONDS_BUCKETS
                )
        self._stage_children: dict[str, Histogram] = {}
        self._noted: set[str] = set()
        self._set("tightseal_build_info", 1, __version__)
        self._begin()

    def _begin(self) -> None:
        """Show at zero what is alarming when it happens once.

        A series that begins at one has not increased, as Prometheus sees it.
        """
        for protocol in LABELS["protocol"].values:
            for code in (Code.INTERNAL, Code.OVERLOADED):
                self._counters["tightseal_requests_total"].labels(protocol, code)
        name = "tightseal_verifier_disagreements_total"
        self._counters[name].labels(UNEXPLAINED)
        self._counters["tightseal_witness_answers_total"].labels("forked")

    def outcome(self, protocol: str, code: str, seconds: float) -> None:
        """Count one answered request."""
        self._count("tightseal_requests_total", protocol, code)
        self._histograms["tightseal_request_seconds"].labels(protocol).observe(seconds)

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
                self._set("tightseal_journal_lag_seconds", spent)

    def _stage(self, name: str) -> Histogram:
        # Looking a label up costs more than measuring with it.
        child = self._stage_children.get(name)
        if child is None:
            child = self._histograms["tightseal_stage_seconds"].labels(name)
            self._stage_children[name] = child
        return child

    def disagreement(self, rule: str) -> None:
        """Count evidence that the verifiers judged differently."""
        self._count("tightseal_verifier_disagreements_total", rule)

    def closed(self, transport: str, reason: str) -> None:
        """Count a connection that a limit closed."""
        self._count("tightseal_connections_closed_total", transport, reason)

    def connections(self, transport: str, phase: str, count: int) -> None:
        """Note how many connections are in a phase."""
        self._set("tightseal_connections", count, transport, phase)

    def limit(self, limit: str, event: str) -> None:
        """Count what a limit by rate did: ``granted``, ``refused`` or ``leased``."""
        self._count("tightseal_limits_total", limit, event)

    def queue(self, pool: str, calls: int, limit: int) -> None:
        """Note how many calls a pool of threads has, and may have."""
        self._set("tightseal_queue_calls", calls, pool)
        self._set("tightseal_queue_limit", limit, pool)

    def ready(self, part: str, *, ok: bool) -> None:
        """Note whether a part of the provider is in order."""
        self._set("tightseal_ready", ok, part)

    def notes(self, names: Iterable[str]) -> None:
        """Note which notes readiness has now; those that it had before are at 0."""
        now = set(names)
        self._noted |= now
        for name in self._noted:
            self._set("tightseal_note", name in now, name)

    def looked(self, when: int, *, simulated: bool) -> None:
        """Note when the parts were looked at, Unix seconds."""
        self._set("tightseal_looked_seconds", when)
        self._set("tightseal_simulated", simulated)

    def collateral_issued(self, when: int) -> None:
        """Note the issue date of the newest collateral seen, Unix seconds."""
        self._set("tightseal_collateral_issued_seconds", when)

    def policy(self, version: int | None, expires_at: int | None) -> None:
        """Note which policy is in force, and until when."""
        self._set("tightseal_policy_version", version or 0)
        self._set("tightseal_policy_expires_seconds", expires_at or 0)

    def generation(self, number: int, activated_at: int | None) -> None:
        """Note which generation of the keyring is current, and since when."""
        self._set("tightseal_keyring_generation", number)
        self._set("tightseal_keyring_generation_activated_seconds", activated_at or 0)

    def keyring(self, counter: int, slots: Mapping[SlotCondition, int]) -> None:
        """Note the keyring's counter, and what is known of its slots."""
        self._set("tightseal_keyring_counter", counter)
        for condition in SlotCondition:
            self._set("tightseal_keyring_slots", slots.get(condition, 0), condition)

    def anchor(self, in_use: AnchorClass) -> None:
        """Note what would notice that the whole state was put back."""
        for anchor in AnchorClass:
            self._set("tightseal_state_anchor", anchor is in_use, anchor)

    def nodes(self, count: Mapping[Standing, int], silent: int) -> None:
        """Note how many nodes there are of each standing, and the longest silence."""
        for standing in Standing:
            self._set("tightseal_nodes", count.get(standing, 0), standing)
        self._set("tightseal_node_silent_seconds", silent)

    def journal(
        self, *, entries: int, published: int, waiting: int, size: int, free: int
    ) -> None:
        """Note the size of the journal: entries in it and before it, bytes, room."""
        self._set("tightseal_log_entries", entries)
        self._set("tightseal_log_published_entries", published)
        self._set("tightseal_journal_waiting", waiting)
        self._set("tightseal_journal_bytes", size)
        self._set("tightseal_journal_free_bytes", free)

    def log_cover(
        self,
        *,
        waiting: int,
        cosigned: int,
        anchored: int,
        needed: int,
        answering: int,
    ) -> None:
        """Note how many answers wait for others, and who answers."""
        self._set("tightseal_log_waiting", waiting)
        self._set("tightseal_log_covered_entries", cosigned, LogClass.COSIGNED)
        self._set("tightseal_log_covered_entries", anchored, LogClass.ANCHORED)
        self._set("tightseal_witnesses_needed", needed)
        self._set("tightseal_witnesses_answering", answering)

    def log_covered(self, log_class: LogClass, seconds: float) -> None:
        """Note how long an answer waited."""
        self._histograms["tightseal_log_cover_seconds"].labels(log_class).observe(
            seconds
        )

    def witness_answer(self, outcome: str) -> None:
        """Count what a witness answered."""
        self._count("tightseal_witness_answers_total", outcome)

    def render(self) -> bytes:
        """The exposition text of this worker, or of all where samples are shared."""
        from prometheus_client import generate_latest  # noqa: PLC0415

        return generate_latest(self._whole())

    def _count(self, name: str, *labels: str) -> None:
        self._counters[name].labels(*labels).inc()

    def _set(self, name: str, value: float, *labels: str) -> None:
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set(value)

    def _whole(self) -> CollectorRegistry:
        if SHARED_VARIABLE not in os.environ:
            return self._registry
        from prometheus_client import CollectorRegistry, multiprocess  # noqa: PLC0415

        shared = CollectorRegistry()
        multiprocess.MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        return shared
