# SPDX-License-Identifier: Apache-2.0
"""The rules of a workload: each is judged on its own and leaves a reason."""

from __future__ import annotations

from typing import Final, Protocol

from tightseal.errors import Code
from tightseal.model.claims import Claims, PlatformIdentity, Tcb, Tee
from tightseal.model.keypath import IdentityKind
from tightseal.model.settings import ALWAYS_BOUND, LAUNCH_MEASUREMENTS, PlatformRule
from tightseal.policy.circumstances import Circumstances
from tightseal.policy.compiled import Image, LoggedEvent, Machine, TcbRule, Workload
from tightseal.policy.fields import OWNER_BOUND
from tightseal.policy.presented import Presented
from tightseal.policy.trace import Trace

__all__ = [
    "Judged",
    "in_dates",
    "judge_identity",
    "judge_image",
    "judge_kept_from_host",
    "judge_place",
    "judge_snp_tcb",
    "judge_tcb",
    "judge_verifiers",
    "judge_world",
    "of_world",
    "on_platform",
]


class Judged(Protocol):
    """What workloads and providers have in common: where they may run."""

    @property
    def tee(self) -> Tee:
        """Kind of TEE."""
        ...

    @property
    def trust_domain(self) -> str | None:
        """That evidence must chain to; ``None`` for any."""
        ...

    @property
    def one_verifier(self) -> bool:
        """Whether one verifier's word is enough."""
        ...

    @property
    def tcb(self) -> TcbRule:
        """The state of the platform that is good enough."""
        ...


_OPTIONS: Final = {
    "dynamic_platform": "dynamic_platform",
    "cached_keys": "cached_keys",
    "smt": "smt_enabled",
}


def in_dates(image: Image, now: int, circumstances: Circumstances) -> bool:
    """Whether an image counts now.

    It begins by signed time: a host that runs its clock ahead would let it in early.
    """
    begun = image.begins is None or image.begins <= circumstances.signed_time
    return begun and (image.ends is None or now < image.ends)


def on_platform(
    workload: Workload, claims: Claims, circumstances: Circumstances
) -> bool:
    """Whether the evidence comes from a platform that the workload may run on."""
    rule = workload.platform
    if rule is PlatformRule.ANY:
        return True
    if isinstance(rule, PlatformRule):
        return circumstances.provider_platform.same_machine(claims.platform)
    return any(_is_machine(machine, claims.platform) for machine in rule)


def _is_machine(machine: Machine, platform: PlatformIdentity) -> bool:
    return all(getattr(platform, name) == value for name, value in machine.ids)


def judge_image(
    image: Image,
    presented: Presented,
    circumstances: Circumstances,
    now: int,
    trace: Trace,
) -> None:
    """Measurements, events and dates of an image."""
    for name, selector in image.selectors:
        got = presented.values.get(name)
        trace.judge(
            Code.MEASUREMENTS_NOT_ACCEPTED,
            name,
            selector.expected(),
            "absent" if got is None else got.hex(),
            holds=selector.holds(got),
        )
    for event in image.logged:
        trace.judge(
            Code.MEASUREMENTS_NOT_ACCEPTED,
            f"{event.about} in {event.register}",
            " or ".join(sorted(digest.hex() for digest in event.digests)),
            _shown(event, presented),
            holds=event.holds(presented),
        )
    if image.begins is not None:
        trace.judge(
            Code.IMAGE_NOT_YET_VALID,
            "from",
            f"signed time of {image.begins} at least",
            str(circumstances.signed_time),
            holds=image.begins <= circumstances.signed_time,
        )
    if image.ends is not None:
        trace.judge(
            Code.IMAGE_EXPIRED,
            "until",
            f"before {image.ends}",
            str(now),
            holds=now < image.ends,
        )


def judge_kept_from_host(claims: Claims, trace: Trace) -> None:
    """That the host can neither read it nor move it."""
    trace.judge(
        Code.DEBUG_ENABLED,
        "debug",
        "false",
        "true" if claims.debug else "false",
        holds=not claims.debug,
    )
    trace.judge(
        Code.SNP_MIGRATABLE,
        "migration agent",
        "false",
        "true" if claims.migratable else "false",
        holds=not claims.migratable,
    )


def _shown(event: LoggedEvent, presented: Presented) -> str:
    digests = presented.digests(event.register)
    if digests is None:
        return "no event log" if presented.events is None else "not replayed"
    found = event.digests.intersection(digests)
    if found:
        return " and ".join(sorted(digest.hex() for digest in found))
    return f"not among {len(digests)} digests"


def of_world(judged: Judged, claims: Claims) -> bool:
    """Whether the evidence chains to the root that is named, where one is."""
    return judged.trust_domain in {None, str(claims.trust_domain)}


def judge_world(judged: Judged, claims: Claims, trace: Trace) -> None:
    """The trust domain alone."""
    if judged.trust_domain is not None:
        trace.judge(
            Code.TRUST_DOMAIN_MISMATCH,
            "trust domain",
            judged.trust_domain,
            str(claims.trust_domain),
            holds=of_world(judged, claims),
        )


def judge_place(
    workload: Workload, claims: Claims, circumstances: Circumstances, trace: Trace
) -> None:
    """Trust domain and platform."""
    judge_world(workload, claims, trace)
    rule = workload.platform
    if rule is PlatformRule.ANY:
        return
    theirs = claims.platform
    known = theirs.ppid is not None or theirs.chip_id is not None
    trace.judge(
        Code.PLATFORM_MISMATCH if known else Code.PLATFORM_UNKNOWN,
        "platform",
        f"the provider's own ({_show(circumstances.provider_platform)})"
        if isinstance(rule, PlatformRule)
        else f"one of {len(rule)} listed",
        _show(theirs),
        holds=on_platform(workload, claims, circumstances),
    )


def _show(platform: PlatformIdentity) -> str:
    parts = [
        f"{name} {value.hex()}"
        for name, value in (
            ("ppid", platform.ppid),
            ("piid", platform.piid),
            ("chip id", platform.chip_id),
        )
        if value is not None
    ]
    return ", ".join(parts) or "unknown"


def judge_verifiers(judged: Judged, claims: Claims, trace: Trace) -> None:
    """Whether enough verifiers judged the evidence."""
    trace.judge(
        Code.SINGLE_VERIFIER_NOT_ACCEPTED,
        "verifiers",
        "one at least" if judged.one_verifier else "two that agree",
        "one" if claims.single_verifier else "two that agree",
        holds=judged.one_verifier or not claims.single_verifier,
    )


def judge_tcb(judged: Judged, claims: Claims, now: int, trace: Trace) -> None:
    """Intel's judgement of the platform; AMD makes none."""
    if judged.tee is Tee.SNP:
        return
    rule, tcb = judged.tcb, claims.tcb
    graced = bool(rule.grace) and now < rule.grace_until
    expected = rule.statuses_text
    if graced:
        expected += f", until {rule.grace_until} also {rule.grace_text}"
    trace.judge(
        Code.TCB_STATUS_NOT_ACCEPTED,
        "tcb status",
        expected,
        "absent" if tcb is None else tcb.status.value,
        holds=tcb is not None
        and (tcb.status in rule.statuses or (graced and tcb.status in rule.grace)),
    )
    if tcb is not None:
        _judge_tcb_details(rule, tcb, trace)


def _judge_tcb_details(rule: TcbRule, tcb: Tcb, trace: Trace) -> None:
    if rule.refused or rule.tolerated is not None:
        wrong = tcb.advisory_ids & rule.refused
        if rule.tolerated is not None:
            wrong |= tcb.advisory_ids - rule.tolerated
        trace.judge(
            Code.TCB_ADVISORY_NOT_ACCEPTED,
            "advisories",
            "none that is refused or not tolerated",
            ", ".join(sorted(wrong)) or "none of those",
            holds=not wrong,
        )
    least = rule.rules.minimum_evaluation
    if least:
        trace.judge(
            Code.TCB_EVALUATION_TOO_OLD,
            "tcb evaluation",
            f"at least {least}",
            str(tcb.evaluation_number),
            holds=tcb.evaluation_number >= least,
        )
    for name in rule.options:
        said: bool | None = getattr(tcb, _OPTIONS[name])
        trace.judge(
            Code.PLATFORM_OPTION_NOT_ACCEPTED,
            name,
            "no",
            "not said" if said is None else ("yes" if said else "no"),
            holds=said is False,
        )


def judge_snp_tcb(judged: Judged, claims: Claims, trace: Trace) -> None:
    """AMD's component versions."""
    for name, least in judged.tcb.snp:
        got: int | None = getattr(claims.snp_tcb, name, None)
        trace.judge(
            Code.TCB_STATUS_NOT_ACCEPTED,
            f"snp tcb {name}",
            f"at least {least}",
            "absent" if got is None else str(got),
            holds=got is not None and got >= least,
        )


def judge_identity(
    workload: Workload, image: Image, claims: Claims, trace: Trace
) -> None:
    """A measured key must belong to something; a named one belongs to its name."""
    if workload.identity is IdentityKind.NAMED:
        trace.note("identity", f"named {workload}", f"by {image}")
        return
    measurements = claims.measurements
    bound = (*workload.binds, *ALWAYS_BOUND[workload.tee])
    absent = [name for name in bound if measurements.get(name) is None]
    trace.judge(
        Code.MEASUREMENT_UNAVAILABLE,
        "bound measurements",
        "present",
        ", ".join(absent) + " absent" if absent else "present",
        holds=not absent,
    )
    launch = [n for n in workload.binds if n in LAUNCH_MEASUREMENTS[workload.tee]]
    binding = [name for name in launch if any(measurements.get(name, b""))]
    trace.judge(
        Code.IDENTITY_UNBOUND,
        "identity",
        f"{' or '.join(launch) or 'what was launched'}, not all zero",
        ", ".join(binding) or "none",
        holds=bool(binding),
    )
    if workload.tee is Tee.TDX and "rtmr3" not in workload.binds:
        owner = [
            name
            for name in OWNER_BOUND[Tee.TDX]
            if name in workload.binds and any(measurements.get(name, b""))
        ]
        trace.judge(
            Code.IDENTITY_UNBOUND,
            "rtmr3 left out",
            "an owner-bound measurement that is not all zero",
            ", ".join(owner) or "none",
            holds=bool(owner),
        )
