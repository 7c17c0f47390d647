# SPDX-License-Identifier: Apache-2.0
"""What is dangerous in a document that is otherwise well formed.

Every finding has a stable id. A *danger* fails the check; *advice* does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tightseal.model.claims import TcbStatus, Tee
from tightseal.model.keypath import IdentityKind, ProtocolClass
from tightseal.model.settings import PlatformRule
from tightseal.policy.compile import compile_policy
from tightseal.policy.compiled import Image
from tightseal.policy.document import (
    Choice,
    Document,
    ImageRules,
    ProviderRules,
    TcbRules,
    WorkloadRules,
)
from tightseal.policy.eventlog.facts import LATE_EVENTS
from tightseal.policy.fields import CODE, DEBUG_BIT, EVENT_BASE, OWNER_BOUND
from tightseal.policy.lint_keys import lint_key
from tightseal.policy.lints import LINTS, LintId, Severity
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

__all__ = ["LINTS", "Finding", "LintId", "Severity", "lint", "tenants_overlap"]

MAX_FINDINGS: Final = 1000
"""Most findings of one run."""


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
    for parsed in documents:
        for lint_id, at, message in _document(parsed.document, now):
            if len(found) >= MAX_FINDINGS:
                return tuple(found)
            found.append(_finding(parsed.source, at, lint_id, message))
    pairs = overlaps(policy.index, limit=MAX_FINDINGS - len(found))
    return (*found, *_overlaps(documents, pairs))


def tenants_overlap(documents: Sequence[Parsed]) -> tuple[Finding, ...]:
    """Workloads of different tenants that one piece of evidence could fit both.

    Each of them gets nothing then, whoever of the two was there first. At most
    ``MAX_FINDINGS``; part of what :func:`lint` finds.

    Raises:
        SettingsError: ``policy_invalid``, as :func:`lint`.
    """
    index = compile_policy(documents).index
    pairs = overlaps(index, limit=MAX_FINDINGS, across_tenants=True)
    return _overlaps(documents, pairs)


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
    documents: Sequence[Parsed], pairs: Iterable[tuple[Image, Image]]
) -> tuple[Finding, ...]:
    places: dict[str, tuple[Text, Path]] = {
        f"{rules.tenant}/{rules.name}": (parsed.source, ("workload", i))
        for parsed in documents
        for i, rules in enumerate(parsed.document.workload)
    }
    found = []
    for one, other in pairs:
        source, path = places[str(other.workload)]
        message = f"{one} and {other} can fit the same evidence"
        if one.workload.tenant != other.workload.tenant:
            message += ", and are of different tenants"
        found.append(_finding(source, path, LintId.WORKLOADS_OVERLAP, message))
    return tuple(found)


def _document(document: Document, now: int) -> _Found:
    for i, rules in enumerate(document.workload):
        for lint_id, at, message in _workload(rules, now):
            yield lint_id, ("workload", i, *at), message
    for i, role in enumerate(document.role):
        if role.threshold == 1:
            message = f"one key alone acts as {role.name}"
            yield LintId.ROLE_OF_ONE, ("role", i, "threshold"), message
    for i, provider in enumerate(document.provider):
        for lint_id, at, message in _provider(provider, now):
            yield lint_id, ("provider", i, *at), message


def _provider(rules: ProviderRules, now: int) -> _Found:
    if rules.single_verifier is Choice.ACCEPT and rules.tee is not Tee.SNP:
        message = "one verifier's word is enough for Intel evidence"
        yield LintId.ONE_VERIFIER, ("single_verifier",), message
    if (rules.trust_domain or "").startswith("simulated:"):
        yield LintId.SIMULATED, ("trust_domain",), "a keyring for a simulated world"
    yield from _tcb(rules.tcb, now)


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
        for lint_id, at, message in lint_key(key, now):
            yield lint_id, ("key", i, *at), message
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
        if not image.measurements and not image.events:
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
    named = rules.identity is IdentityKind.NAMED
    yield from _application(rules, image, selectors)
    for group in CODE[rules.tee]:
        if not any(_pins(name, selectors.get(name)) for name in group):
            state = "masked" if set(group) & set(selectors) else "left out"
            yield LintId.CODE_UNPINNED, within, f"{' or '.join(group)} is {state}"
    field, bit = DEBUG_BIT[rules.tee]
    selector = selectors.get(field)
    if selector is not None and _wants_bit(selector, bit):
        message = f"{field} has the debug bit"
        yield LintId.DEBUG_SELECTED, (*within, field), message
    if named and field not in selectors:
        message = f"{field} is left out"
        yield LintId.ATTRIBUTES_UNPINNED, within, message
    for name in image.events:
        if name in LATE_EVENTS:
            message = f"{name} stands behind the boundary in most logs"
            yield LintId.LATE_EVENT, ("events", name), message
    for i, logged in enumerate(image.logged):
        if not _pins(logged.register, selectors.get(logged.register)):
            message = f"{logged.register} is selected by a logged digest alone"
            yield LintId.LOGGED_ALONE, ("logged", i, "register"), message


def _application(
    rules: WorkloadRules, image: ImageRules, selectors: Mapping[str, Selector]
) -> _Found:
    """Whether something names the application, and whose it is."""
    within: Path = ("measurements",)
    owners = ", ".join(OWNER_BOUND[rules.tee])
    owner = any(_names_one(selectors.get(name)) for name in OWNER_BOUND[rules.tee])
    composed, loose = _composed(image, selectors)
    # The compose file is what runs, the app id whose it is: one alone is not both.
    owned = owner or (composed and "app-id" in image.events)
    if rules.identity is IdentityKind.NAMED and _any_machine(rules) and not owned:
        message = f"named, on any platform, and none of {owners} selected{loose}"
        yield LintId.NAMED_ANYWHERE, within, message
    if rules.tee is Tee.TDX and "rtmr3" not in selectors and not owner and not composed:
        message = f"rtmr3 is left out and none of {owners} is selected{loose}"
        yield LintId.RTMR3_LEFT_OUT, within, message
    if isinstance(selectors.get("rtmr3"), Zero) and not owner:
        message = "rtmr3 must be all zero, so it names no application"
        yield LintId.RTMR3_ZERO, (*within, "rtmr3"), message


def _composed(image: ImageRules, selectors: Mapping[str, Selector]) -> tuple[bool, str]:
    """Whether events name the application; else why those selected do not.

    An app id is chosen by whoever deploys, so it names no code. And events are only as
    good as what measured them: firmware, kernel or initrd of somebody else's making
    writes any events, and any digest, into the registers behind it. For the same reason
    a logged digest counts for nothing here: in a register that is not pinned as a whole
    it may have been extended by what ran instead of what it stands for.
    """
    if not image.events:
        return False, ""
    if "compose-hash" not in image.events:
        return False, "; the events selected name no code, compose-hash would"
    free = [name for name in EVENT_BASE if not _names_one(selectors.get(name))]
    if free:
        return False, f"; {', '.join(free)} left free, so events can be made up"
    return True, ""


def _pins(name: str, selector: Selector | None) -> bool:
    """Whether a selector leaves no choice but its own list.

    All zero in a register says that nothing was measured into it; a launch measurement
    of zero is none.
    """
    if selector is None or not exact_values(selector):
        return False
    return not isinstance(selector, Zero) or name.startswith("rtmr")


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
