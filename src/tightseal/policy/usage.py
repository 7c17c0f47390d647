# SPDX-License-Identifier: Apache-2.0
"""What a usage rule remembers, and how one more release is counted.

All of it is arithmetic on values. A record outlives policies: it is judged by the rule
of the day, and a rule that was lowered below what was counted refuses until it fits.

Time is the time of the record: the newest that it has seen. A clock that went back
frees nothing, and one that runs ahead borrows from hours to come. So a host can choose
which hours are used, and no hour of its clock ever holds more than ``per_hour``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tightseal.errors import Code, ServiceError
from tightseal.model.claims import PlatformIdentity
from tightseal.model.usage import MAX_PER_HOUR, UsageRule
from tightseal.policy.trace import Trace
from tightseal.policy.usagerecord import (
    HOUR,
    MAX_TAGS,
    MAX_TIME,
    TAG_BYTES,
    UsageRecord,
    machine_of,
    show_machine,
)

__all__ = ["UsageRecord", "count", "reset", "without_platform"]

_NOTHING: Final = UsageRecord(total=0, latest=0, recent=())


def count(
    record: UsageRecord | None,
    rule: UsageRule,
    *,
    platform: PlatformIdentity,
    tag: bytes | None,
    now: int,
    purpose: str = "",
    times: int = 1,
) -> UsageRecord:
    """Count one release, or several at once, if the rule allows all of them.

    1. Where the first platform is the only one: the platform is known, and is that
       one or the first.
    2. A request with a known tag was counted before: the same record again. It binds
       no platform either, should the first have been released since.
    3. ``total`` is not used up.
    4. Fewer than ``per_hour`` releases lie in the 3600 seconds that end now.

    Of several, the last one must find it so.

    Args:
        record: what was counted so far; ``None`` for nothing.
        rule: of the policy in force.
        platform: of the verified claims.
        tag: ``TAG_BYTES`` over the whole request, ``None`` where requests of its
            protocol cannot be told apart.
        now: Unix seconds, by the host's clock.
        purpose: of the key; for texts.
        times: how many; at most ``MAX_KEY_REQUESTS``.

    Returns:
        the record to keep, or the very object ``record`` where nothing changes.

    Raises:
        PolicyError: ``platform_unknown``, ``usage_platform_bound``,
            ``usage_limit_reached``; ``reasons`` holds every rule judged.
        ServiceError: ``internal``, where tag or time are none.
    """
    if tag is not None and len(tag) != TAG_BYTES:
        raise ServiceError(Code.INTERNAL, f"tag of {len(tag)} bytes")
    _require_time(now)
    trace = Trace(stop=True)
    held = _NOTHING if record is None else record
    bound = held.platform
    if rule.first_platform:
        bound = _judge_platform(trace, bound, platform, purpose)
    if record is not None and tag in record.tags:
        return record
    time = max(now, held.latest)
    recent = tuple(at for at in held.recent if at > time - HOUR)
    more = times - 1
    at_once = f", for {times} at once" if more else ""
    if rule.total is not None:
        trace.judge(
            Code.USAGE_LIMIT_REACHED,
            _name("total", purpose),
            f"fewer than {rule.total} releases so far{at_once}",
            f"{held.total}; more after a signed reset or under a higher limit",
            holds=held.total + more < rule.total,
        )
    if rule.per_hour is not None:
        trace.judge(
            Code.USAGE_LIMIT_REACHED,
            _name("per_hour", purpose),
            f"fewer than {rule.per_hour} releases in {HOUR} s{at_once}",
            _show_recent(recent, rule.per_hour, time=time, now=now),
            holds=len(recent) + more < rule.per_hour,
        )
    return UsageRecord(
        total=held.total + times,
        latest=time,
        recent=(*recent, *[time] * times)[-MAX_PER_HOUR:],
        platform=bound,
        tags=held.tags if tag is None else (*held.tags, tag)[-MAX_TAGS:],
    )


def without_platform(record: UsageRecord, *, now: int) -> UsageRecord:
    """Release the first platform: the next one that asks becomes it.

    Nothing else changes; tags stay, so a retry of the old platform's last request is
    no request that would bind it anew.
    """
    del now
    return replace(record, platform=None)


def reset(record: UsageRecord, *, now: int) -> UsageRecord:
    """Begin the total anew, and forgive a clock that ran ahead.

    The last hour stays counted, so the hourly limit is not filled up again: releases
    recorded ahead of ``now`` are taken to have been made now. The first platform and
    the tags stay.

    Args:
        record: what was counted so far.
        now: Unix seconds, inside the life of the signed action that asks for this;
            else a host could choose how much is forgiven.

    Raises:
        ServiceError: ``internal``, where ``now`` is no time.
    """
    _require_time(now)
    latest = min(record.latest, now)
    recent = tuple(min(time, now) for time in record.recent)
    return replace(record, total=0, latest=latest, recent=recent)


def _judge_platform(
    trace: Trace,
    bound: PlatformIdentity | None,
    platform: PlatformIdentity,
    purpose: str,
) -> PlatformIdentity:
    """The platform to keep."""
    rule = _name("first_platform", purpose)
    machine = machine_of(platform)
    if machine is None:
        expected = "a platform that its certificates identify"
        raise trace.refused(
            Code.PLATFORM_UNKNOWN, rule, expected=expected, got="unknown"
        )
    trace.judge(
        Code.USAGE_PLATFORM_BOUND,
        rule,
        "any, as the first" if bound is None else show_machine(bound),
        show_machine(machine),
        holds=bound is None or bound.same_machine(machine),
    )
    return machine if bound is None else bound


def _show_recent(recent: tuple[int, ...], per_hour: int, *, time: int, now: int) -> str:
    if len(recent) < per_hour:
        return str(len(recent))
    text = f"{len(recent)}; the next is possible at {recent[-per_hour] + HOUR}"
    if time == now:
        return text
    return f"{text}; the clock says {now}, and was at {time} before"


def _name(rule: str, purpose: str) -> str:
    return f"usage.{rule} of {purpose}" if purpose else f"usage.{rule}"


def _require_time(now: int) -> None:
    if not 0 <= now <= MAX_TIME:
        raise ServiceError(Code.INTERNAL, f"no time: {now}")
