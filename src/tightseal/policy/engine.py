# SPDX-License-Identifier: Apache-2.0
"""Claims to grant, by policy documents.

The rules are judged in this order: debug, migration, the world, the workload
(measurements, dates, trust domain, platform), verifiers, TCB, identity, keys. A
decision stops at the first no; an explanation judges them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code
from tightseal.model.claims import Claims, TrustDomain
from tightseal.model.grant import Grant, Reason
from tightseal.model.keypath import (
    IdentityKind,
    KeyPath,
    KeyRequest,
    WorkloadBinding,
)
from tightseal.model.settings import ALWAYS_BOUND
from tightseal.policy.compile import Image, Policy, Workload
from tightseal.policy.rules import (
    Circumstances,
    in_dates,
    judge_identity,
    judge_image,
    judge_key,
    judge_place,
    judge_snp_tcb,
    judge_tcb,
    judge_verifiers,
    on_platform,
)
from tightseal.policy.trace import Trace

__all__ = ["Circumstances", "Explanation", "decide", "explain"]

MAX_NAMED_IN_TEXT: Final = 8
"""Most workloads or measurements that a text names."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Every rule of a decision.

    Attributes:
        granted: whether the claims get the keys.
        code: of the first rule that said no.
        workload: ``tenant/name`` of the workload that was judged, or of the nearest.
        image: the label of its image, likewise.
        nearest: what keeps the nearest image from fitting, in words; empty where an
            image fits, or where nothing is alike.
        reasons: every rule, none left out after the first no.
    """

    granted: bool
    code: Code | None
    workload: str | None
    image: str | None
    nearest: str
    reasons: tuple[Reason, ...]


def decide(
    claims: Claims,
    *,
    keys: tuple[KeyRequest, ...],
    policy: Policy,
    circumstances: Circumstances,
    now: int,
) -> Grant:
    """Decide whether these claims get these keys.

    Not checked: that ``claims`` come from verified evidence, that it answers a
    challenge, and that ``now`` is true beyond the floor its giver keeps.

    Args:
        claims: from verified evidence.
        keys: the key requests, in order; at least one.
        policy: compiled documents.
        circumstances: the provider's own verified identity and the way in.
        now: Unix seconds.

    Returns:
        the grant, with one key path for each request.

    Raises:
        PolicyError: with the code of the first rule that says no; ``reasons`` holds
            every rule judged, that one last.
    """
    trace = Trace(stop=True)
    workload = _judge(claims, keys, policy, circumstances, now, trace)
    rules = {rule.purpose: rule for rule in workload.keys} if workload else {}
    if workload is None or not keys:
        raise trace.refused(
            Code.PURPOSE_NOT_ALLOWED, "keys", expected="one at least", got="none"
        )
    binding = _binding(claims, workload, circumstances)
    domain = str(_weaker(claims.trust_domain, circumstances.provider_domain))
    paths = tuple(
        KeyPath(
            kdf=rules[key.purpose].kdf,
            trust_domain=domain,
            tenant=workload.tenant,
            workload=binding,
            protocol_class=circumstances.protocol_class,
            generation=circumstances.generation,
            purpose=key.purpose,
            label=key.label,
            length=key.length,
        )
        for key in keys
    )
    return Grant(paths=paths, reasons=tuple(trace.reasons))


def explain(
    claims: Claims,
    *,
    keys: tuple[KeyRequest, ...],
    policy: Policy,
    circumstances: Circumstances,
    now: int,
) -> Explanation:
    """Judge every rule, also after the first no; for operators, never for workloads.

    Without ``keys``, everything but the keys is judged. Where no image fits, the rules
    judged are those of the nearest one.
    """
    trace = Trace(stop=False)
    _judge(claims, keys, policy, circumstances, now, trace)
    image = trace.image
    return Explanation(
        granted=trace.code is None,
        code=trace.code,
        workload=None if image is None else str(image.workload),
        image=None if image is None else image.label,
        nearest=trace.nearest,
        reasons=tuple(trace.reasons),
    )


def _judge(
    claims: Claims,
    keys: tuple[KeyRequest, ...],
    policy: Policy,
    circumstances: Circumstances,
    now: int,
    trace: Trace,
) -> Workload | None:
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
    _judge_world(claims, circumstances, trace)
    image = _choose(claims, policy, circumstances, now, trace)
    trace.image = image
    if image is None:
        return None
    workload = image.workload
    judge_image(image, claims, now, trace)
    judge_place(workload, claims, circumstances, trace)
    judge_verifiers(workload, claims, trace)
    if claims.tcb is not None:
        judge_tcb(workload, claims, now, trace)
    judge_snp_tcb(workload, claims, trace)
    judge_identity(workload, image, claims, trace)
    for key in keys:
        judge_key(key, workload, circumstances, trace)
    return workload


def _judge_world(claims: Claims, circumstances: Circumstances, trace: Trace) -> None:
    """Keys never cross between a simulated world and another domain."""
    ours, theirs = circumstances.provider_domain, claims.trust_domain
    trace.judge(
        Code.TRUST_DOMAIN_MISMATCH,
        "provider's domain",
        str(ours),
        str(theirs),
        holds=ours.simulated == theirs.simulated
        and (not ours.simulated or ours.root_key_id == theirs.root_key_id),
    )
    if circumstances.compatible:
        # The formula leaves the domain out: a host that signs simulated quotes would
        # get the key of the real workload.
        trace.judge(
            Code.TRUST_DOMAIN_MISMATCH,
            "root of the compatible formula",
            "simulated" if ours.simulated else "of hardware",
            "simulated" if circumstances.root_simulated else "of hardware",
            holds=ours.simulated == circumstances.root_simulated,
        )


# -- which workload ---------------------------------------------------------------


def _choose(
    claims: Claims,
    policy: Policy,
    circumstances: Circumstances,
    now: int,
    trace: Trace,
) -> Image | None:
    """The image that fits; else the one whose rules are to say why none does."""
    alike = policy.index.matching(claims)
    fitting = [
        image
        for image in alike
        if in_dates(image, now)
        and image.workload.trust_domain == str(claims.trust_domain)
        and on_platform(image.workload, claims, circumstances)
    ]
    if fitting:
        names = {str(image.workload) for image in fitting}
        if len(names) > 1:
            listed = sorted(names)
            shown = ", ".join(listed[:MAX_NAMED_IN_TEXT])
            more = len(listed) - MAX_NAMED_IN_TEXT
            got = f"{shown} and {more} more" if more > 0 else shown
            trace.judge(Code.WORKLOAD_AMBIGUOUS, "workload", "one", got, holds=False)
        return fitting[0]
    if alike:
        return min(alike, key=lambda m: _misfits(m, claims, circumstances, now))
    nearest = policy.index.nearest(claims)
    if nearest is None:
        trace.judge(
            Code.MEASUREMENTS_NOT_ACCEPTED,
            "workload",
            f"an image of a {claims.tee.value} workload",
            "none has any measurement of this evidence",
            holds=False,
        )
        return None
    trace.nearest = _difference(nearest, claims)
    return nearest


def _misfits(
    image: Image, claims: Claims, circumstances: Circumstances, now: int
) -> tuple[int, str, str, str]:
    wrong = (
        (not in_dates(image, now))
        + (image.workload.trust_domain != str(claims.trust_domain))
        + (not on_platform(image.workload, claims, circumstances))
    )
    return (wrong, image.workload.tenant, image.workload.name, image.label)


def _difference(image: Image, claims: Claims) -> str:
    """What keeps the nearest image from fitting: "rtmr2 differs; ..."."""
    wrong = [
        name
        for name, selector in image.selectors
        if not selector.holds(claims.measurements.get(name))
    ]
    if not wrong:
        return ""  # Only its platform is another one, and its own rule says so.
    verb = "differs" if len(wrong) == 1 else "differ"
    listed = ", ".join(wrong[:MAX_NAMED_IN_TEXT])
    return f"{listed} {verb}; all else matches {image}"


# -- what a key belongs to --------------------------------------------------------


def _binding(
    claims: Claims, workload: Workload, circumstances: Circumstances
) -> WorkloadBinding:
    """Name alone, or measurements and attributes; the tenant is a level of its own."""
    if workload.identity is IdentityKind.NAMED:
        return WorkloadBinding(
            identity=IdentityKind.NAMED,
            name=workload.name,
            tee=workload.tee,
            attributes=(),
            measurements=(),
            authority=circumstances.authority,
        )
    values = claims.measurements
    return WorkloadBinding(
        identity=IdentityKind.MEASURED,
        name=None,
        tee=workload.tee,
        attributes=tuple((n, values[n]) for n in ALWAYS_BOUND[workload.tee]),
        measurements=tuple((n, values[n]) for n in workload.binds),
        authority=circumstances.authority,
    )


def _weaker(evidence: TrustDomain, provider: TrustDomain) -> TrustDomain:
    """The weaker of two roots: a simulated one makes the whole exchange simulated."""
    return evidence if evidence.simulated or not provider.simulated else provider
