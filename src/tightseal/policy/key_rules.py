# SPDX-License-Identifier: Apache-2.0
"""The rules of one key request, and what a release of it must be counted as."""

from __future__ import annotations

from collections import Counter

from tightseal.errors import Code
from tightseal.model.generation import GenerationName, Generations
from tightseal.model.grant import WrappedUse
from tightseal.model.keypath import IdentityKind, KeyPart, KeyRequest
from tightseal.model.keyuse import KeyUse
from tightseal.model.logclass import LogClass, highest
from tightseal.model.usage import (
    UsageDemand,
    UsageRule,
    key_record,
    wrapped_record,
)
from tightseal.policy.circumstances import Circumstances
from tightseal.policy.compiled import Image, KeyRule, Workload
from tightseal.policy.document import Reach
from tightseal.policy.presented import Presented
from tightseal.policy.trace import Trace

__all__ = [
    "demands",
    "judge_cedar",
    "judge_key",
    "log_class_of",
    "record_of",
    "wrapped_use",
]


def judge_key(
    key: KeyRequest,
    workload: Workload,
    circumstances: Circumstances,
    now: int,
    trace: Trace,
) -> None:
    """Purpose, protocol, length, part or use, label and windows of one key request."""
    rule = workload.key_rule(key.purpose)
    trace.judge(
        Code.PURPOSE_NOT_ALLOWED,
        "purpose",
        _purposes(workload),
        key.purpose,
        holds=rule is not None,
    )
    if rule is None:
        return
    if circumstances.compatible:
        trace.judge(
            Code.PROTOCOL_NOT_ALLOWED,
            "identity of the compatible formula",
            IdentityKind.MEASURED.value,
            workload.identity.value,
            holds=workload.identity is IdentityKind.MEASURED,
        )
    protocol = circumstances.protocol_class
    trace.judge(
        Code.PROTOCOL_NOT_ALLOWED,
        f"protocol of {key.purpose}",
        " or ".join(sorted(rule.protocols)),
        protocol.value,
        holds=protocol in rule.protocols,
    )
    _judge_form(key, rule, trace)
    _judge_create(key, rule, trace)
    _judge_generation(key, rule, circumstances.generations, trace)
    if key.part is KeyPart.PRIVATE:
        _judge_usage(rule, circumstances.signed_time, now, trace)
    if _seen_by_others(key, rule):
        expected = f"{rule.log_class.value}, before it leaves"
        trace.note(f"log of {key.purpose}", expected, "awaited at the release")
    if rule.adopted:
        expected = "an action has put it under this name"
        trace.note(f"adoption of {key.purpose}", expected, "looked up at the release")
    if rule.wrapped:
        expected = "there is none yet" if key.create else "it was created"
        trace.note(f"key of {key.purpose}", expected, "looked up at the release")


def _purposes(workload: Workload) -> str:
    if workload.every_key is not None:
        return "any"
    return " or ".join(known.purpose for known in workload.keys) or "none"


def _judge_create(key: KeyRequest, rule: KeyRule, trace: Trace) -> None:
    """Only what is kept can be created, and by whoever may then have all of it."""
    if not key.create:
        return
    kind = "wrapped" if rule.wrapped else "derived"
    trace.judge(
        Code.CREATE_NOT_ALLOWED,
        f"create of {key.purpose}",
        f"the {KeyPart.PRIVATE.value} part of a wrapped key",
        f"the {key.part.value} part of a {kind} key",
        holds=rule.wrapped and key.part is KeyPart.PRIVATE,
    )
    if key.imported is not None:
        trace.judge(
            Code.IMPORT_NOT_ALLOWED,
            f"import of {key.purpose}",
            "a purpose that imports",
            "one that does" if rule.imports else "one that does not",
            holds=rule.imports,
        )


def _judge_generation(
    key: KeyRequest, rule: KeyRule, generations: Generations, trace: Trace
) -> None:
    """Which version of the root; older ones are for data that was not moved yet."""
    if rule.wrapped:
        trace.judge(
            Code.GENERATION_NOT_ALLOWED,
            f"generation of {key.purpose}",
            f"{GenerationName.CURRENT.value}, as a wrapped key is the same under all",
            str(key.generation),
            holds=key.generation is GenerationName.CURRENT,
        )
        return
    number = generations.number(key.generation)
    trace.judge(
        Code.GENERATION_UNKNOWN,
        f"generation of {key.purpose}",
        str(generations),
        str(key.generation),
        holds=number is not None,
    )
    if rule.reach is Reach.ANY or number is None:
        return
    within = [generations.current]
    if rule.reach is Reach.PREVIOUS and generations.previous is not None:
        within.append(generations.previous)
    trace.judge(
        Code.GENERATION_NOT_ALLOWED,
        f"reach of {key.purpose}",
        rule.reach.value,
        str(key.generation),
        holds=number in within,
    )


def _judge_form(key: KeyRequest, rule: KeyRule, trace: Trace) -> None:
    trace.judge(
        Code.KEY_LENGTH_NOT_ALLOWED,
        f"length of {key.purpose}",
        "any" if rule.length is None else str(rule.length),
        str(key.length),
        holds=rule.length in {None, key.length},
    )
    if key.use is None:
        trace.judge(
            Code.KEY_PART_NOT_ALLOWED,
            f"part of {key.purpose}",
            f"{' or '.join(sorted(rule.parts))} ({rule.key_type.value})",
            key.part.value,
            holds=key.part in rule.parts,
        )
    else:
        _judge_use(key, key.use, rule, trace)
    trace.judge(
        Code.KEY_LABEL_NOT_ALLOWED,
        f"label of {key.purpose}",
        "any" if rule.labels is None else _patterns(rule.labels),
        repr(key.label),
        holds=rule.allows_label(key.label),
    )


def _judge_use(key: KeyRequest, use: KeyUse, rule: KeyRule, trace: Trace) -> None:
    """The private part stays: what may be done with it stands for what may leave."""
    trace.judge(
        Code.USE_NOT_ALLOWED,
        f"use of {key.purpose}",
        f"{' or '.join(sorted(rule.uses)) or 'none'} ({rule.key_type.value})",
        f"{use.operation.value} with the {key.part.value} part",
        holds=use.operation in rule.uses and key.part is KeyPart.PRIVATE,
    )


def _patterns(labels: tuple[tuple[str, str | None], ...]) -> str:
    return " or ".join(
        repr(prefix if suffix is None else f"{prefix}*{suffix}")
        for prefix, suffix in labels
    )


def _judge_usage(rule: KeyRule, signed_time: int, now: int, trace: Trace) -> None:
    """Windows are judged here; what is counted, where the release is."""
    if rule.windows:
        trace.judge(
            Code.USAGE_WINDOW_CLOSED,
            f"windows of {rule.purpose}",
            " or ".join(str(window) for window in rule.windows),
            f"{now}, by signed time {signed_time}",
            holds=any(
                window.holds(signed_time=signed_time, now=now)
                for window in rule.windows
            ),
        )
    if rule.usage is not None:
        expected = _limits(rule.usage)
        trace.note(f"usage of {rule.purpose}", expected, "counted at the release")


def _limits(usage: UsageRule) -> str:
    limits = []
    if usage.per_hour is not None:
        limits.append(f"at most {usage.per_hour} in 3600 seconds")
    if usage.total is not None:
        limits.append(f"at most {usage.total} ever")
    if usage.first_platform:
        limits.append("the first platform alone")
    if not usage.without_anchor:
        limits.append("state with an anchor")
    return ", ".join(limits)


def judge_cedar(
    key: KeyRequest,
    images: tuple[Image, ...],
    presented: Presented,
    circumstances: Circumstances,
    now: int,
    trace: Trace,
) -> None:
    """The workload's Cedar policies, which may only say no to what is granted.

    Where several images fit, one that they allow is enough: else an image less could
    mean a key more.
    """
    workload = images[0].workload
    cedar = workload.cedar
    if cedar is None:
        return
    allowed = any(
        cedar.allows(
            claims=presented.claims,
            events=presented.events,
            workload=workload.name,
            tenant=workload.tenant,
            image=image.label,
            key=key,
            protocol=circumstances.protocol_class,
            now=now,
        )
        for image in images
    )
    trace.judge(
        Code.CEDAR_NOT_ALLOWED,
        f"cedar for {key.purpose}",
        "allow",
        "allow" if allowed else "deny",
        holds=allowed,
    )


def demands(
    workload: Workload, keys: tuple[KeyRequest, ...]
) -> tuple[UsageDemand, ...]:
    """What must be counted before these keys leave; public parts count for nothing.

    All that leaves of one purpose counts as one release, and every use as one more.
    """
    releases = {k.purpose for k in keys if k.part is KeyPart.PRIVATE and k.use is None}
    uses = Counter(k.purpose for k in keys if k.use is not None)
    found = []
    for rule in workload.keys:
        times = (rule.purpose in releases) + uses[rule.purpose]
        if rule.usage is not None and times:
            record = record_of(workload, rule)
            found.append(UsageDemand(rule.purpose, record, rule.usage, times))
    return tuple(found)


def log_class_of(workload: Workload, keys: tuple[KeyRequest, ...]) -> LogClass:
    """Who must have seen the entry of this release; public parts ask for nobody."""
    rules = ((key, workload.key_rule(key.purpose)) for key in keys)
    return highest(
        rule.log_class
        for key, rule in rules
        if rule is not None and _seen_by_others(key, rule)
    )


def _seen_by_others(key: KeyRequest, rule: KeyRule) -> bool:
    asks = rule.log_class is not LogClass.SIGNED
    return asks and key.part is KeyPart.PRIVATE


def record_of(workload: Workload, rule: KeyRule) -> str:
    """The name of the records about a purpose."""
    return key_record(
        tenant=workload.tenant, workload=workload.name, purpose=rule.purpose
    )


def wrapped_use(
    workload: Workload, rule: KeyRule, key: KeyRequest
) -> WrappedUse | None:
    """The record of a wrapped key, and what is asked of it; ``None`` for others."""
    if not rule.wrapped:
        return None
    record = wrapped_record(
        tenant=workload.tenant,
        workload=workload.name,
        purpose=rule.purpose,
        label=key.label,
    )
    imported = key.imported is not None
    return WrappedUse(record, create=key.create, imported=imported)
