# SPDX-License-Identifier: Apache-2.0
"""Every metric, as data: name, kind, unit, labels, what it means, what to do about it.

``Metrics`` makes its samples from this table, and the documentation prints it. Labels
are closed sets: nothing that a caller chooses becomes a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from tightseal.codes import Code
from tightseal.evidence.differences import DIFFERENCES
from tightseal.model.logclass import LogClass
from tightseal.model.state import AnchorClass
from tightseal.release.nodes import Standing

__all__ = [
    "LABELS",
    "METRICS",
    "SECONDS_BUCKETS",
    "UNEXPLAINED",
    "Kind",
    "LabelInfo",
    "MetricInfo",
    "SlotCondition",
]

Shared: TypeAlias = Literal["livesum", "livemin", "livemax", "max"]

UNEXPLAINED: Final = "unexplained"
"""The rule of a disagreement that no row of the table of differences explains."""

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


class Kind(StrEnum):
    """What Prometheus calls the type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class SlotCondition(StrEnum):
    """What is known of a slot of the keyring since the provider started."""

    OPENED = "opened"
    CLOSED = "closed"
    DAMAGED = "damaged"
    UNTRIED = "untried"


@dataclass(frozen=True, slots=True)
class LabelInfo:
    """A label, and all that it can be.

    Attributes:
        values: the closed set; empty where ``text`` alone says it.
        text: for the documentation, where the set is too long to print.
    """

    values: frozenset[str] = frozenset()
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInfo:
    """One metric.

    Attributes:
        name: as ``/metrics`` prints it.
        kind: of the samples.
        unit: of the value.
        meaning: what it counts or says.
        watch: what to look for, and what to do then.
        labels: their names.
        shared: how the values of several workers become one; gauges alone.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    watch: str
    labels: tuple[str, ...] = ()
    shared: Shared = "livemax"


def _set(*values: str) -> LabelInfo:
    return LabelInfo(frozenset(values))


LABELS: Final[dict[str, LabelInfo]] = {
    "anchor": _set(*AnchorClass),
    "code": LabelInfo(
        frozenset({"granted", *Code}), "`granted`, or a [code](../errors.md)"
    ),
    "condition": _set(*SlotCondition),
    "event": _set("granted", "leased", "refused"),
    "limit": _set(
        "failures_per_second",
        "platform_denials_per_minute",
        "platform_per_minute",
        "requests_per_second",
        "shared_failures_per_minute",
        "shared_verifications_per_minute",
        "tenant_per_minute",
        "workload_per_minute",
    ),
    "log_class": _set(LogClass.ANCHORED, LogClass.COSIGNED),
    "note": _set(
        "bundle_refused",
        "keyring_one_slot",
        "keyring_unanchored",
        "memory_not_locked",
        "node_log_in_use_twice",
        "nodes_clock_apart",
        "nodes_keyring_differs",
        "nodes_policy_differs",
        "nodes_settings_differ",
        "nodes_stale",
        "policy_expired",
        "slot_to_rewrap",
        "state_unanchored",
        "witnesses_missing",
    ),
    "outcome": _set("ahead", "cosigned", "failed", "forked"),
    "part": _set(
        "attested_key",
        "clock",
        "collateral",
        "journal",
        "keyring",
        "policy",
        "witnesses",
    ),
    "phase": _set("reading", "serving", "waiting"),
    "pool": _set("operator", "quote", "release"),
    "protocol": _set(
        "actions",
        "challenge",
        "handoff",
        "handoff_confirm",
        "info",
        "keys",
        "legacy",
        "log",
        "metrics",
        "policy",
        "public_key",
    ),
    "reason": _set("evicted", "full", "timeout"),
    "rule": LabelInfo(
        frozenset({UNEXPLAINED, *(d.rule for d in DIFFERENCES)}),
        f"`{UNEXPLAINED}`, or a [rule](../evidence.md) in which the verifiers differ",
    ),
    "standing": _set(*Standing),
    "stage": _set("attest", "decide", "derive", "record", "seal", "verify"),
    "transport": _set("framed", "http"),
    "version": LabelInfo(text="the one version of this program"),
}
"""Every label, and all that it can be."""


def _counter(
    name: str, meaning: str, watch: str, *labels: str, unit: str = "events"
) -> MetricInfo:
    return MetricInfo(
        name=name,
        kind=Kind.COUNTER,
        unit=unit,
        meaning=meaning,
        watch=watch,
        labels=labels,
    )


def _histogram(name: str, meaning: str, watch: str, *labels: str) -> MetricInfo:
    return MetricInfo(
        name=name,
        kind=Kind.HISTOGRAM,
        unit="seconds",
        meaning=meaning,
        watch=watch,
        labels=labels,
    )


def _gauge(
    name: str,
    unit: str,
    meaning: str,
    watch: str,
    *labels: str,
    shared: Shared = "livemax",
) -> MetricInfo:
    return MetricInfo(
        name=name,
        kind=Kind.GAUGE,
        unit=unit,
        meaning=meaning,
        watch=watch,
        labels=labels,
        shared=shared,
    )


METRICS: Final = (
    _counter(
        "tightseal_requests_total",
        "Requests by protocol and code",
        "Refusals by reason: see the code's remedy in the table of codes",
        "protocol",
        "code",
        unit="requests",
    ),
    _histogram(
        "tightseal_request_seconds",
        "Time from the whole request to its answer",
        "Rising without more requests: look at the stages, then at the journal's disk",
        "protocol",
    ),
    _histogram(
        "tightseal_stage_seconds",
        "Time of one step of a release",
        "Which step is slow: verify and derive are CPU, attest may be the platform's "
        "quote, record is the journal's disk",
        "stage",
    ),
    _counter(
        "tightseal_verifier_disagreements_total",
        "Evidence on which the verifiers disagreed, by rule",
        "Any unexplained one is a defect or an attack: keep the evidence, report it",
        "rule",
    ),
    _counter(
        "tightseal_connections_closed_total",
        "Connections closed by the provider's limits",
        "full or evicted rising: more clients than the limits of host.http or "
        "host.framed allow, or a flood",
        "transport",
        "reason",
        unit="connections",
    ),
    _counter(
        "tightseal_limits_total",
        "What limits by rate did: units granted, slices leased, requests refused",
        "refused rising: the log names who, the page on limits which setting to raise; "
        "leased near granted: the limit is small for this many nodes",
        "limit",
        "event",
    ),
    _gauge(
        "tightseal_connections",
        "connections",
        "Open connections by transport and phase",
        "Many that are reading and few that are serving: slow or half-open clients",
        "transport",
        "phase",
        shared="livesum",
    ),
    _gauge(
        "tightseal_queue_calls",
        "calls",
        "Calls that run or wait for a thread",
        "Near its limit: requests are about to be refused with overloaded",
        "pool",
        shared="livesum",
    ),
    _gauge(
        "tightseal_queue_limit",
        "calls",
        "Most calls that may run or wait for a thread",
        "Follows host.threads, host.queue and host.workers",
        "pool",
        shared="livesum",
    ),
    _gauge(
        "tightseal_ready",
        "0 or 1",
        "Whether a part of the provider is in order (1) or not (0)",
        "0: /readyz names the part, the code and the next step",
        "part",
        shared="livemin",
    ),
    _gauge(
        "tightseal_note",
        "0 or 1",
        "Whether /readyz has a note of this name (1) or no longer (0)",
        "1: /readyz says what it is and the next step; no key is kept back",
        "note",
    ),
    _gauge(
        "tightseal_looked_seconds",
        "Unix seconds",
        "When the parts were last looked at, by the host's clock",
        "Older than a minute: the background work is stuck, restart the provider",
        shared="livemin",
    ),
    _gauge(
        "tightseal_collateral_issued_seconds",
        "Unix seconds",
        "Unix time at which the newest collateral seen was issued",
        "Weeks old: the PCCS is not refreshed",
        shared="max",
    ),
    _gauge(
        "tightseal_policy_version",
        "version",
        "Version of the signed policy in force; 0 for the built-in one",
        "Different between providers for more than seconds: one does not see the store",
        shared="livemin",
    ),
    _gauge(
        "tightseal_policy_expires_seconds",
        "Unix seconds",
        "When the first signature of the policy in force expires; 0 for never",
        "Within a week: sign it anew and publish it",
        shared="livemin",
    ),
    _gauge(
        "tightseal_keyring_generation",
        "number",
        "Number of the current generation of the keyring; 0 without a keyring",
        "Different between providers of one keyring: one does not see the change",
        shared="livemin",
    ),
    _gauge(
        "tightseal_keyring_generation_activated_seconds",
        "Unix seconds",
        "Unix time at which the current generation of the keyring began",
        "Older than release.rotate_after_days: rotation by age is held up, see the log",
        shared="livemin",
    ),
    _gauge(
        "tightseal_keyring_counter",
        "changes",
        "Counter of the keyring's changes; 0 without a keyring",
        "Different between providers of one keyring, or falling: one has an old file",
        shared="livemin",
    ),
    _gauge(
        "tightseal_keyring_slots",
        "slots",
        "Slots of the keyring by what is known of them since the start",
        "damaged: mend it with another slot that opens. One slot in all: add another",
        "condition",
    ),
    _gauge(
        "tightseal_state_anchor",
        "0 or 1",
        "Which class of anchor would notice that the whole state was put back",
        "none or process at 1: an older copy can be put back unnoticed",
        "anchor",
    ),
    _gauge(
        "tightseal_journal_lag_seconds",
        "seconds",
        "Time that the last commit of the journal took",
        "Above a second: the journal's disk is slow, and so is every release",
    ),
    _gauge(
        "tightseal_journal_waiting",
        "entries",
        "Entries that wait for the journal's next commit",
        "Staying above some hundreds: the disk does not keep up",
        shared="livesum",
    ),
    _gauge(
        "tightseal_journal_bytes",
        "bytes",
        "Size of the journal's file and of what it has not merged yet",
        "Plan the disk by its growth: entries are never dropped",
    ),
    _gauge(
        "tightseal_journal_free_bytes",
        "bytes",
        "Free space where the journal lies",
        "Below 16 MiB nothing is released: make room, never by removing the journal",
    ),
    _gauge(
        "tightseal_log_entries",
        "entries",
        "Entries of the tamper-evident log",
        "Falling: the log was cut or put back, compare with witnesses",
    ),
    _gauge(
        "tightseal_log_published_entries",
        "entries",
        "Entries of the log that are published as tiles; 0 where host.log_tiles is "
        "not set",
        "Staying behind tightseal_log_entries: see log_not_published in the log",
    ),
    _gauge(
        "tightseal_nodes",
        "nodes",
        "Nodes over the same state, by what this one knows of them; itself among them",
        "stale: a node died or cannot write: tightseal nodes says which. Fewer serving "
        "than you run: one has another database",
        "standing",
    ),
    _gauge(
        "tightseal_node_silent_seconds",
        "seconds",
        "Longest time that a node which has not left wrote nothing, as this one saw it",
        "Above 90 a node counts as stale; rising at all nodes: the database takes no "
        "writes",
    ),
    _gauge(
        "tightseal_log_covered_entries",
        "entries",
        "Entries of the newest head that an answer was covered by; 0 where none waits",
        "Staying behind tightseal_log_entries while answers wait: see the log",
        "log_class",
    ),
    _gauge(
        "tightseal_log_waiting",
        "answers",
        "Answers that wait for their entry to be anchored or cosigned",
        "Near host.witnesses.max_waiting: witnesses or the state are too slow, or down",
        shared="livesum",
    ),
    _histogram(
        "tightseal_log_cover_seconds",
        "Time that an answer waited for its entry to be anchored or cosigned",
        "Near host.witnesses.wait_seconds: answers are about to be refused",
        "log_class",
    ),
    _counter(
        "tightseal_witness_answers_total",
        "What witnesses answered; ahead: asked again with a newer head",
        "forked at all: two trees of one log are about, keep both. failed rising: "
        "see witness_failed in the log",
        "outcome",
        unit="answers",
    ),
    _gauge(
        "tightseal_witnesses_needed",
        "witnesses",
        "How many witnesses must have cosigned, by the policy in force",
        "0: the policy names no witnesses",
        shared="livemin",
    ),
    _gauge(
        "tightseal_witnesses_answering",
        "witnesses",
        "How many of the witnesses that the policy names answered well of late",
        "Below tightseal_witnesses_needed: what has to be cosigned is not released",
        shared="livemin",
    ),
    _gauge(
        "tightseal_simulated",
        "0 or 1",
        "Whether simulated roots are accepted",
        "1 in production: take the provider out of service",
    ),
    _gauge(
        "tightseal_build_info",
        "always 1",
        "The version that runs, as a label",
        "Two versions outside of an upgrade: finish it",
        "version",
    ),
)
"""Every metric, in the order of the documentation."""
