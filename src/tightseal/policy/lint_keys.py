# SPDX-License-Identifier: Apache-2.0
"""What is dangerous, or not what it looks like, in the keys of a workload."""

from __future__ import annotations

from collections.abc import Iterator

from tightseal.model.keypath import KeyPart, ProtocolClass
from tightseal.model.logclass import LogClass
from tightseal.policy.document import Choice, KeyRules, UsageRules
from tightseal.policy.lints import LintId
from tightseal.policy.locate import Path

__all__ = ["lint_key"]


def lint_key(key: KeyRules, now: int) -> Iterator[tuple[LintId, Path, str]]:
    """Everything found in one purpose, with paths below it."""
    several = len(key.labels) > 1 or any("*" in label for label in key.labels)
    if key.published and any("*" in label for label in key.labels):
        message = f"every label of {key.purpose} that a pattern fits is published"
        yield LintId.PUBLISHED_LABELS, ("labels",), message
    yield from _uses(key)
    if key.log is not LogClass.SIGNED and ProtocolClass.LEGACY in key.protocols:
        message = f"{key.purpose} waits to be {key.log.value}, over the legacy protocol"
        yield LintId.LOG_LEGACY, ("log",), message
    usage = key.usage
    if usage is None:
        return
    for i, window in enumerate(usage.windows):
        if window.until is not None and window.until.timestamp() <= now:
            message = f"the window ended on {window.until.isoformat()}"
            yield LintId.WINDOW_ENDED, ("usage", "windows", i, "until"), message
    if not _counts(usage):
        return
    if usage.without_anchor is Choice.ACCEPT:
        message = f"usage of {key.purpose} is counted where going back goes unnoticed"
        yield LintId.USAGE_WITHOUT_ANCHOR, ("usage", "without_anchor"), message
    else:
        message = f"usage of {key.purpose} is counted only under an anchor"
        yield LintId.USAGE_UNANCHORED, ("usage",), message
    if several and (usage.per_hour is not None or usage.total is not None):
        message = f"all labels of {key.purpose} are counted together"
        yield LintId.USAGE_SHARED, ("usage",), message
    if ProtocolClass.LEGACY in key.protocols:
        message = f"releases of {key.purpose} over the legacy protocol are counted"
        yield LintId.USAGE_LEGACY, ("protocols",), message


def _uses(key: KeyRules) -> Iterator[tuple[LintId, Path, str]]:
    if key.uses and KeyPart.PRIVATE in key.parts:
        message = f"the private part of {key.purpose} may leave all the same"
        yield LintId.USES_BESIDE_PRIVATE, ("parts",), message
    if len(set(key.uses)) > 1:
        uses = " and ".join(sorted(set(key.uses)))
        message = f"one pair of {key.purpose} is there to {uses}"
        yield LintId.USES_MIXED, ("uses",), message


def _counts(usage: UsageRules) -> bool:
    limits = (usage.per_hour, usage.total)
    return usage.first_platform or any(limit is not None for limit in limits)
