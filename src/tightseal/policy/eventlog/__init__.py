# SPDX-License-Identifier: Apache-2.0
"""Event logs: what stands behind the runtime registers of a TD."""

from tightseal.policy.eventlog.facts import (
    BOOT_BOUNDARY,
    IDENTITY_EVENTS,
    EventFact,
    EventFacts,
    LogFormat,
)
from tightseal.policy.eventlog.replay import replay_event_log, replay_runtime_log

__all__ = [
    "BOOT_BOUNDARY",
    "IDENTITY_EVENTS",
    "EventFact",
    "EventFacts",
    "LogFormat",
    "replay_event_log",
    "replay_runtime_log",
]
