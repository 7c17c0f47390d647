# SPDX-License-Identifier: Apache-2.0
"""The rules of a workload: each is judged on its own and leaves a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code
from tightseal.model.claims import Claims, PlatformIdentity, Tee, TrustDomain
from tightseal.model.keypath import Authority, IdentityKind, KeyRequest, ProtocolClass
from tightseal.model.settings import (
    ALWAYS_BOUND,
    LAUNCH_MEASUREMENTS,
    LegacyDerivation,
    PlatformRule,
)
from tightseal.policy.compile import Image, KeyRule, Machine, Workload
from tightseal.policy.fields import OWNER_BOUND
from tightseal.policy.trace import Trace

__all__ = [
    "Circumstances",
    "in_dates",
    "judge_identity",
    "judge_image",
    "judge_key",
    "judge_place",
    "judge_snp_tcb",
    "judge_tcb",
    "judge_verifiers",
    "on_platform",
]

_OPTIONS: Final = {
    "dynamic_platform": "dynamic_platform",
    "cached_keys": "cached_keys",
    "smt": "smt_enabled",
}


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a decision depends on besides claims and policy.

    Attributes:
        authority: policy root or settings digest; enters every key path.
        provider_platform: the provider's own platform, from its verified quote.
        provider_domain: the trust domain of the provider's own quote.
        protocol_class: the way in.
        generation: the generation of the root that keys are derived from.
        legacy_derivation: how the legacy protocol makes its key.
        root_simulated: whether the root itself is of a simulated platform.
    """

    authority: Authority
    provider_platform: PlatformIdentity
    provider_domain: TrustDomain
    protocol_class: ProtocolClass = ProtocolClass.V1
    generation: int = 0
    legacy_derivation: LegacyDerivation = LegacyDerivation.CHAIN
    root_simulated: bool = False

    @property
    def compatible(self) -> bool:
        """Whether the key is made by the compatible formula, which knows no path."""
        return (
            self.protocol_class is ProtocolClass.LEGACY
            and self.legacy_derivation is LegacyDerivation.COMPATIBLE
        )


def in_dates(image: Image, now: int) -> bool:
    """Whether an image counts at a time."""
    begun = image.begins is None or image.begins <= now
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


def judge_image(image: Image, claims: Claims, now: int, trace: Trace) -> None:
    """Measurements and dates of an image."""
    measurements = claims.measurements
    for name, selector in image.selectors:
        got = measurements.get(name)
        trace.judge(
            Code.MEASUREMENTS_NOT_ACCEPTED,
            name,
            selector.expected(),
            "absent" if got is None else got.hex(),
            holds=selector.holds(got),
        )
    if image.begins is not None:
        trace.judge(
            Code.IMAGE_NOT_YET_VALID,
            "from",
            f"not before {image.begins}",
            str(now),
            holds=image.begins <= now,
        )
    if image.ends is not None:
        trace.judge(
            Code.IMAGE_EXPIRED,
            "until",
            f"before {image.ends}",
            str(now),
            holds=now < image.ends,
        )


def judge_place(
    workload: Workload, claims: Claims, circumstances: Circumstances, trace: Trace
) -> None:
    """Trust domain and platform."""
    domain = str(claims.trust_domain)
    trace.judge(
        Code.TRUST_DOMAIN_MISMATCH,
        "trust domain",
        workload.trust_domain,
        domain,
        holds=workload.trust_domain == domain,
    )
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


def judge_verifiers(workload: Workload, claims: Claims, trace: Trace) -> None:
    """Whether enough verifiers judged the evidence."""
    trace.judge(
        Code.SINGLE_VERIFIER_NOT_ACCEPTED,
        "verifiers",
        "one at least" if workload.one_verifier else "two that agree",
        "one" if claims.single_verifier else "two that agree",
        holds=workload.one_verifier or not claims.single_verifier,
    )


def judge_tcb(workload: Workload, claims: Claims, now: int, trace: Trace) -> None:
    """Intel's judgement of the platform."""
    rule, tcb = workload.tcb, claims.tcb
    assert tcb is not None
    graced = bool(rule.grace) and now < rule.grace_until
    expected = rule.statuses_text
    if graced:
        expected += f", until {rule.grace_until} also {rule.grace_text}"
    trace.judge(
        Code.TCB_STATUS_NOT_ACCEPTED,
        "tcb status",
        expected,
        tcb.status.value,
        holds=tcb.status in rule.statuses or (graced and tcb.status in rule.grace),
    )
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


def judge_snp_tcb(workload: Workload, claims: Claims, trace: Trace) -> None:
    """AMD's component versions."""
    for name, least in workload.tcb.snp:
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


def judge_key(
    key: KeyRequest, workload: Workload, circumstances: Circumstances, trace: Trace
) -> None:
    """One key request."""
    rule = _key_rule(workload, key.purpose)
    trace.judge(
        Code.PURPOSE_NOT_ALLOWED,
        "purpose",
        " or ".join(known.purpose for known in workload.keys) or "none",
        key.purpose,
        holds=rule is not None,
    )
    if rule is None:
        return
    protocol = circumstances.protocol_class
    if circumstances.compatible:
        trace.judge(
            Code.PROTOCOL_NOT_ALLOWED,
            "identity of the compatible formula",
            IdentityKind.MEASURED.value,
            workload.identity.value,
            holds=workload.identity is IdentityKind.MEASURED,
        )
    trace.judge(
        Code.PROTOCOL_NOT_ALLOWED,
        f"protocol of {key.purpose}",
        " or ".join(sorted(rule.protocols)),
        protocol.value,
        holds=protocol in rule.protocols,
    )
    trace.judge(
        Code.KEY_LENGTH_NOT_ALLOWED,
        f"length of {key.purpose}",
        str(rule.length),
        str(key.length),
        holds=key.length == rule.length,
    )
    trace.judge(
        Code.KEY_LABEL_NOT_ALLOWED,
        f"label of {key.purpose}",
        " or ".join(
            repr(prefix if suffix is None else f"{prefix}*{suffix}")
            for prefix, suffix in rule.labels
        ),
        repr(key.label),
        holds=rule.allows_label(key.label),
    )


def _key_rule(workload: Workload, purpose: str) -> KeyRule | None:
    for rule in workload.keys:
        if rule.purpose == purpose:
            return rule
    return None
