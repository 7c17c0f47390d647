# SPDX-License-Identifier: Apache-2.0
"""What is dangerous in a document that is otherwise well formed.

Every finding has a stable id. A *danger* fails the check; *advice* does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from tightseal.model.claims import TcbStatus, Tee
from tightseal.model.keypath import IdentityKind, ProtocolClass
from tightseal.model.settings import PlatformRule
from tightseal.policy.compile import Policy, compile_policy
from tightseal.policy.document import Choice, ImageRules, TcbRules, WorkloadRules
from tightseal.policy.fields import CODE, DEBUG_BIT, OWNER_BOUND
from tightseal.policy.locate import Path, Position, show_path
from tightseal.policy.overlap import overlaps
from tightseal.policy.read import Parsed, Text
from tightseal.policy.selection import (
    Mask,
    Selector,
    Zero,
    compile_selector,
    exact_values,
)

__all__ = ["LINTS", "Finding", "LintId", "Severity", "lint"]

MAX_FINDINGS: Final = 1000
"""Most findings of one run."""


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
            "list of machines, or select an owner-bound measurement",
        ),
        LintId.RTMR3_LEFT_OUT: Lint(
            _D,
            "nothing names the application: select rtmr3 or an owner-bound measurement",
        ),
        LintId.CODE_UNPINNED: Lint(
            _D,
            "whoever replaces the code left free can imitate all later measurements: "
            "select it too",
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
    }
)
"""Every lint with its severity and its hint."""

_WEAK: Final = frozenset(
    {TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED}
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found.

    Attributes:
        id: what it is.
        severity: whether it fails the check.
        document: name of the document.
        position: line and column; ``None`` for a document without text.
        field: the field, such as ``workload[0].platform``.
        message: what was found.
        hint: what to do.
    """

    id: LintId
    severity: Severity
    document: str
    position: Position | None
    field: str
    message: str
    hint: str


def lint(documents: Sequence[Parsed], *, now: int) -> tuple[Finding, ...]:
    """Everything dangerous in documents that are to be one policy.

    At most ``MAX_FINDINGS``, in the order of documents and lines.

    Raises:
        SettingsError: ``policy_invalid``, where they cannot be compiled at all.
    """
    policy = compile_policy(documents)
    found: list[Finding] = []
    places: dict[str, tuple[Text, Path]] = {}
    for parsed in documents:
        for i, rules in enumerate(parsed.document.workload):
            path: Path = ("workload", i)
            places[f"{rules.tenant}/{rules.name}"] = (parsed.source, path)
            for lint_id, at, message in _workload(rules, now):
                if len(found) >= MAX_FINDINGS:
                    return tuple(found)
                found.append(_finding(parsed.source, (*path, *at), lint_id, message))
    found += _overlaps(policy, places, room=MAX_FINDINGS - len(found))
    return tuple(found)


_Found = Iterator[tuple[LintId, Path, str]]


def _finding(source: Text, path: Path, lint_id: LintId, message: str) -> Finding:
    return Finding(
        id=lint_id,
        severity=LINTS[lint_id].severity,
        document=source.name,
        position=source.position(path),
        field=show_path(path),
        message=message,
        hint=LINTS[lint_id].hint,
    )


def _overlaps(
    policy: Policy, places: Mapping[str, tuple[Text, Path]], *, room: int
) -> list[Finding]:
    found: list[Finding] = []
    for one, other in overlaps(policy.index, limit=room):
        source, path = places[str(other.workload)]
        message = f"{one} and {other} can fit the same evidence"
        found.append(_finding(source, path, LintId.WORKLOADS_OVERLAP, message))
    return found


def _workload(rules: WorkloadRules, now: int) -> _Found:
    if not rules.image:
        yield LintId.EMPTY_SET, (), "no image: nothing can carry this workload"
    if not rules.key:
        yield LintId.NO_KEYS, (), "no key: nothing can be asked for"
    if rules.single_verifier is Choice.ACCEPT and rules.tee is not Tee.SNP:
        message = "one verifier's word is enough for Intel evidence"
        yield LintId.ONE_VERIFIER, ("single_verifier",), message
    if (rules.trust_domain or "").startswith("simulated:"):
        yield LintId.SIMULATED, ("trust_domain",), "keys for a simulated world"
    for i, key in enumerate(rules.key):
        named = rules.identity is IdentityKind.NAMED
        if named and ProtocolClass.LEGACY in key.protocols:
            message = f"the named key {key.purpose} leaves over the legacy protocol"
            yield LintId.NAMED_LEGACY, ("key", i, "protocols"), message
    yield from _tcb(rules.tcb, now)
    yield from _images(rules, now)


def _tcb(rules: TcbRules, now: int) -> _Found:
    for i, status in enumerate(rules.statuses):
        if status in _WEAK:
            message = f"{status.value} is accepted for ever"
            yield LintId.WEAK_STATUS, ("tcb", "statuses", i), message
    if rules.grace is not None and rules.grace.until.timestamp() <= now:
        message = f"the grace period ended on {rules.grace.until.isoformat()}"
        yield LintId.GRACE_ENDED, ("tcb", "grace", "until"), message


def _images(rules: WorkloadRules, now: int) -> _Found:
    labels: set[str] = set()
    for i, image in enumerate(rules.image):
        at: Path = ("image", i)
        if image.label in labels:
            message = f"another image is labelled {image.label}"
            yield LintId.DUPLICATE_LABEL, (*at, "label"), message
        labels.add(image.label)
        if image.until is not None and image.until.timestamp() <= now:
            message = f"image {image.label} ended on {image.until.isoformat()}"
            yield LintId.IMAGE_EXPIRED, (*at, "until"), message
        if not image.measurements:
            message = f"image {image.label} selects nothing, so nothing fits it"
            yield LintId.EMPTY_SET, (*at, "measurements"), message
            continue
        for lint_id, path, message in _selected(rules, image):
            yield lint_id, (*at, *path), f"image {image.label}: {message}"


def _selected(rules: WorkloadRules, image: ImageRules) -> _Found:
    selectors = {
        name: compile_selector(name, rule, ())
        for name, rule in image.measurements.items()
    }
    within: Path = ("measurements",)
    owner = any(_names_one(selectors.get(name)) for name in OWNER_BOUND[rules.tee])
    named = rules.identity is IdentityKind.NAMED
    owners = ", ".join(OWNER_BOUND[rules.tee])
    if named and _any_machine(rules) and not owner:
        message = f"named, on any platform, and none of {owners} selected"
        yield LintId.NAMED_ANYWHERE, within, message
    if rules.tee is Tee.TDX and "rtmr3" not in selectors and not owner:
        message = f"rtmr3 is left out and none of {owners} is selected"
        yield LintId.RTMR3_LEFT_OUT, within, message
    if isinstance(selectors.get("rtmr3"), Zero) and not owner:
        message = "rtmr3 must be all zero, so it names no application"
        yield LintId.RTMR3_ZERO, (*within, "rtmr3"), message
    for group in CODE[rules.tee]:
        if not any(name in selectors for name in group):
            message = f"{' or '.join(group)} is left out"
            yield LintId.CODE_UNPINNED, within, message
    field, bit = DEBUG_BIT[rules.tee]
    selector = selectors.get(field)
    if selector is not None and _wants_bit(selector, bit):
        message = f"{field} has the debug bit"
        yield LintId.DEBUG_SELECTED, (*within, field), message
    if named and field not in selectors:
        message = f"{field} is left out"
        yield LintId.ATTRIBUTES_UNPINNED, within, message


def _any_machine(rules: WorkloadRules) -> bool:
    """Whether the platform rule names no machine; a family of platforms is none."""
    if isinstance(rules.platform, PlatformRule):
        return rules.platform is PlatformRule.ANY
    return any(
        entry.ppid is None and entry.piid is None and entry.chip_id is None
        for entry in rules.platform
    )


def _names_one(selector: Selector | None) -> bool:
    """Whether a selector requires values that somebody set."""
    return bool(
        selector is not None
        and not isinstance(selector, Zero)
        and exact_values(selector)
    )


def _wants_bit(selector: Selector, bit: int) -> bool:
    if isinstance(selector, Mask):
        value = selector.value.to_bytes(selector.length, "big")
        return bool(int.from_bytes(value, "little") & bit)
    return any(int.from_bytes(v, "little") & bit for v in exact_values(selector))
