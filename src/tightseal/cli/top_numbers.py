# SPDX-License-Identifier: Apache-2.0
"""From readings of providers to what ``tightseal top`` shows of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from tightseal.cli.top_sample import Buckets, Reading, difference, quantile
from tightseal.service.health import Note, Part

__all__ = ["Numbers", "merged", "refusals_of", "stages_of"]

RELEASING: Final = frozenset({"keys", "legacy"})
"""Protocols whose grants are releases."""

GRANTED: Final = "granted"
HALF: Final = 0.5
NEARLY_ALL: Final = 0.99
_REQUESTS: Final = "tightseal_requests_total"
_REQUEST_BUCKETS: Final = "tightseal_request_seconds_bucket"
_STAGE_BUCKETS: Final = "tightseal_stage_seconds_bucket"


@dataclass(frozen=True, slots=True)
class Numbers:
    """A provider as it is now, and what it did since the reading before.

    Attributes:
        now: the last reading.
        change: of counters since the one before.
        seconds: between the two; ``None`` where there was none before.
    """

    now: Reading
    change: Reading
    seconds: float | None

    @classmethod
    def between(cls, now: Reading, before: Reading | None) -> Numbers:
        """Of two readings; the earlier one counts only where it has values."""
        usable = before if before is not None and before.error is None else None
        change = difference(now, usable)
        return cls(now, change, None if usable is None else max(change.at, 1e-9))

    @property
    def ready(self) -> bool:
        """Whether the provider says that it is."""
        return self.now.readiness is not None and self.now.readiness.ready

    def broken(self) -> list[Part]:
        """Parts that are not in order."""
        told = self.now.readiness
        return [] if told is None else [part for part in told.parts if not part.ok]

    def notes(self) -> list[Note]:
        """What it says besides."""
        return [] if self.now.readiness is None else self.now.readiness.notes

    def version(self) -> str | None:
        """What it runs."""
        for labels, _ in self.now.each("tightseal_build_info"):
            return labels.get("version")
        return None

    def whole(self, name: str) -> int | None:
        """A gauge that is a whole number."""
        value = self.now.value(name)
        return None if value is None else int(value)

    def releases(self) -> float | None:
        """Granted, a second."""
        return self._rate(
            value
            for labels, value in self.change.each(_REQUESTS)
            if labels.get("protocol") in RELEASING and labels.get("code") == GRANTED
        )

    def requests(self) -> float | None:
        """Answered, a second."""
        return self._rate(value for _, value in self.change.each(_REQUESTS))

    def latency(self) -> Buckets:
        """Of requests for keys."""
        return _buckets(self.change, _REQUEST_BUCKETS, "protocol").get(
            "keys", Counter()
        )

    def queue(self) -> dict[str, tuple[int, int]]:
        """Calls in each pool of threads, and the most there may be."""
        limits = {
            labels.get("pool", ""): int(value)
            for labels, value in self.now.each("tightseal_queue_limit")
        }
        return {
            pool: (int(value), limits.get(pool, 0))
            for labels, value in self.now.each("tightseal_queue_calls")
            for pool in [labels.get("pool", "")]
        }

    def document(self) -> dict[str, Any]:
        """As ``--json`` has it; every field is always there."""
        error, latency = self.now.error, self.latency()
        return {
            "provider": self.now.url,
            "error": error and {"code": error.code.value, "detail": error.detail},
            "version": self.version(),
            "simulated": _truth(self.now.value("tightseal_simulated")),
            "ready": self.ready,
            "not_in_order": [_plain(part) for part in self.broken()],
            "notes": [_plain(note) for note in self.notes()],
            "releases_per_second": self.releases(),
            "requests_per_second": self.requests(),
            "refusals": refusals_of([self]),
            "seconds": {
                "p50": quantile(HALF, latency),
                "p99": quantile(NEARLY_ALL, latency),
            },
            "stages": stages_of([self]),
            "queue": {
                pool: {"calls": calls, "limit": limit}
                for pool, (calls, limit) in sorted(self.queue().items())
            },
            "generation": self.whole("tightseal_keyring_generation"),
            "keyring_counter": self.whole("tightseal_keyring_counter"),
            "policy_version": self.whole("tightseal_policy_version"),
            "policy_expires_at": self.whole("tightseal_policy_expires_seconds"),
            "log_entries": self.whole("tightseal_log_entries"),
            "journal_bytes": self.whole("tightseal_journal_bytes"),
            "journal_lag_seconds": self.now.value("tightseal_journal_lag_seconds"),
            "collateral_issued_at": self.whole("tightseal_collateral_issued_seconds"),
        }

    def _rate(self, values: Iterable[float]) -> float | None:
        return None if self.seconds is None else sum(values) / self.seconds


def refusals_of(providers: Iterable[Numbers]) -> dict[str, dict[str, float | None]]:
    """By code, the most first: since the start, and a second."""
    totals: dict[str, int] = defaultdict(int)
    recent: dict[str, float] = defaultdict(float)
    known = False
    for one in providers:
        for labels, value in one.now.each(_REQUESTS):
            totals[labels.get("code", "")] += int(value)
        if one.seconds is not None:
            known = True
            for labels, value in one.change.each(_REQUESTS):
                recent[labels.get("code", "")] += value / one.seconds
    return {
        code: {"total": total, "per_second": recent[code] if known else None}
        for code, total in sorted(totals.items(), key=lambda item: (-item[1], item[0]))
        if code != GRANTED and total
    }


def stages_of(providers: Iterable[Numbers]) -> dict[str, dict[str, float | None]]:
    """By stage: seconds within which half and nearly all ended."""
    found: dict[str, Buckets] = {}
    for one in providers:
        for stage, buckets in _buckets(one.change, _STAGE_BUCKETS, "stage").items():
            found.setdefault(stage, Counter()).update(buckets)
    return {
        stage: {"p50": quantile(HALF, b), "p99": quantile(NEARLY_ALL, b)}
        for stage, b in sorted(found.items())
    }


def merged(providers: Iterable[Numbers]) -> Buckets:
    """Times of requests for keys, of all providers."""
    found: Buckets = Counter()
    for one in providers:
        found.update(one.latency())
    return found


def _buckets(reading: Reading, name: str, label: str) -> dict[str, Buckets]:
    found: dict[str, Buckets] = {}
    for labels, value in reading.each(name):
        with suppress(ValueError):
            bound = float(labels.get("le", ""))
            found.setdefault(labels.get(label, ""), Counter())[bound] = int(value)
    return found


def _truth(value: float | None) -> bool | None:
    return None if value is None else bool(value)


def _plain(told: Part | Note) -> dict[str, Any]:
    return {name: getattr(told, name) for name in told.__struct_fields__}
