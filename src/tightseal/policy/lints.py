# SPDX-License-Identifier: Apache-2.0
"""The table of lints: stable ids, how bad each is, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

__all__ = ["LINTS", "Lint", "LintId", "Severity"]


class Severity(StrEnum):
    """Whether a finding fails the check."""

    DANGER = "danger"
    ADVICE = "advice"


class LintId(StrEnum):
    """Every finding. Ids are added, never renamed or reused."""

    NAMED_ANYWHERE = "named-anywhere"
    RTMR3_LEFT_OUT = "rtmr3-left-out"
    CODE_UNPINNED = "code-unpinned"
    DEBUG_SELECTED = "debug-selected"
    EMPTY_SET = "empty-set"
    IMAGE_EXPIRED = "image-expired"
    GRACE_ENDED = "grace-ended"
    WORKLOADS_OVERLAP = "workloads-overlap"
    DUPLICATE_LABEL = "duplicate-label"
    NO_KEYS = "no-keys"
    RTMR3_ZERO = "rtmr3-zero"
    NAMED_LEGACY = "named-legacy"
    ATTRIBUTES_UNPINNED = "attributes-unpinned"
    WEAK_STATUS = "weak-status"
    ONE_VERIFIER = "one-verifier"
    SIMULATED = "simulated"
    LATE_EVENT = "late-event"
    LOGGED_ALONE = "logged-alone"
    USAGE_WITHOUT_ANCHOR = "usage-without-anchor"
    USAGE_UNANCHORED = "usage-unanchored"
    USAGE_SHARED = "usage-shared"
    USAGE_LEGACY = "usage-legacy"
    WINDOW_ENDED = "window-ended"
    PUBLISHED_LABELS = "published-labels"
    USES_BESIDE_PRIVATE = "uses-beside-private"
    USES_MIXED = "uses-mixed"
    ROLE_OF_ONE = "role-of-one"
    LOG_LEGACY = "log-legacy"


@dataclass(frozen=True, slots=True)
class Lint:
    """What a lint means: how bad, and what to do about it."""

    severity: Severity
    hint: str


_D, _A = Severity.DANGER, Severity.ADVICE

LINTS: Final[Mapping[LintId, Lint]] = MappingProxyType(
    {
        LintId.NAMED_ANYWHERE: Lint(
            _D,
            "attestation proves what runs, not who runs it: set platform to same or a "
            "list of machines, or select an owner-bound measurement (or the events "
            "compose-hash and app-id, on pinned code)",
        ),
        LintId.RTMR3_LEFT_OUT: Lint(
            _D,
            "nothing names the application: select rtmr3, an owner-bound measurement, "
            "or the event compose-hash with mrtd, rtmr0, rtmr1 and rtmr2",
        ),
        LintId.CODE_UNPINNED: Lint(
            _D,
            "whoever replaces the code left free can imitate all later measurements: "
            "select its value too; a logged digest in it pins nothing",
        ),
        LintId.DEBUG_SELECTED: Lint(
            _D, "debug is always refused: clear the debug bit of the value"
        ),
        LintId.EMPTY_SET: Lint(_D, "add an image, or a measurement to the image"),
        LintId.IMAGE_EXPIRED: Lint(_D, "remove the image, or move its until"),
        LintId.GRACE_ENDED: Lint(_D, "remove the grace table, or move its until"),
        LintId.WORKLOADS_OVERLAP: Lint(
            _D,
            "evidence that fits both gets nothing: let one measurement, platform or "
            "date tell them apart",
        ),
        LintId.DUPLICATE_LABEL: Lint(
            _D, "give every image of a workload its own label"
        ),
        LintId.NO_KEYS: Lint(_D, "add a [[workload.key]] table with a purpose"),
        LintId.RTMR3_ZERO: Lint(
            _A,
            "right where firmware and kernel hold all that runs; else let the boot "
            "extend rtmr3 with the application",
        ),
        LintId.NAMED_LEGACY: Lint(
            _A, "the legacy protocol has no nonce: prefer protocols = ['v1']"
        ),
        LintId.ATTRIBUTES_UNPINNED: Lint(
            _A, "a named key outlives attributes: select those that must not change"
        ),
        LintId.WEAK_STATUS: Lint(
            _A, "accept it for a while instead: [workload.tcb.grace] with until"
        ),
        LintId.ONE_VERIFIER: Lint(
            _A, "a mistake of one verifier is enough: leave single_verifier out"
        ),
        LintId.SIMULATED: Lint(
            _A, "for development; leave it out of documents for production"
        ),
        LintId.LATE_EVENT: Lint(
            _A,
            "dstack measures it after the boundary, where it is no identity and fits "
            "nothing: select rtmr0 to rtmr2",
        ),
        LintId.LOGGED_ALONE: Lint(
            _A,
            "what runs later can extend a register with any digest: select the "
            "register's value too",
        ),
        LintId.USAGE_WITHOUT_ANCHOR: Lint(
            _A,
            "whoever puts the whole state back starts counting there: refuse, and give "
            "the state an anchor",
        ),
        LintId.USAGE_UNANCHORED: Lint(
            _A,
            "no anchor of this version outlives a restart, so nothing is released yet: "
            'without_anchor = "accept" counts all the same',
        ),
        LintId.USAGE_SHARED: Lint(
            _A, "give a purpose of its own to what must be counted apart"
        ),
        LintId.USAGE_LEGACY: Lint(
            _A,
            "its requests have no nonce, so each retry counts: prefer protocols = "
            "['v1']",
        ),
        LintId.WINDOW_ENDED: Lint(_A, "remove the window, or move its until"),
        LintId.PUBLISHED_LABELS: Lint(
            _A, "anybody may ask for any of these labels: name the labels in use"
        ),
        LintId.USES_BESIDE_PRIVATE: Lint(
            _A, 'to keep the key in the provider, say parts = ["public"]'
        ),
        LintId.USES_MIXED: Lint(
            _A, "a pair should serve one use: give each a purpose of its own"
        ),
        LintId.ROLE_OF_ONE: Lint(
            _A, "whoever gets hold of one key can act alone: raise the threshold"
        ),
        LintId.LOG_LEGACY: Lint(
            _A,
            "its answers have no receipt, and a retry waits anew under an entry of its "
            "own: prefer protocols = ['v1']",
        ),
    }
)
"""Every lint with its severity and its hint."""
