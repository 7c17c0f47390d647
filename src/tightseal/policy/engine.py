# SPDX-License-Identifier: Apache-2.0
"""Claims to grant, by policy documents.

The rules are judged in this order: debug, migration, the world, the workload
(measurements, events, dates, trust domain, platform), verifiers, TCB, identity, keys,
Cedar. A decision stops at the first no; an explanation judges them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code
from tightseal.model.claims import Claims, TrustDomain
from tightseal.model.grant import Grant, Reason
from tightseal.model.keypath import IdentityKind, KeyRequest
from tightseal.policy.circumstances import Circumstances
from tightseal.policy.compiled import Image, KeyRule, Policy, Workload
from tightseal.policy.eventlog.facts import EventFacts
from tightseal.policy.key_rules import (
    demands,
    judge_cedar,
    judge_key,
    log_class_of,
    record_of,
    wrapped_use,
)
from tightseal.policy.paths import key_path, measured_binding, named_binding
from tightseal.policy.presented import Presented, present
from tightseal.policy.rules import (
    in_dates,
    judge_identity,
    judge_image,
    judge_kept_from_host,
    judge_place,
    judge_snp_tcb,
    judge_tcb,
    judge_verifiers,
    of_world,
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
    events: EventFacts | None = None,
) -> Grant:
    """Decide whether these claims get these keys.

    Usage is not counted here: the grant says what must be, before a key leaves.

    Not checked: that ``claims`` come from verified evidence, that it answers a
    challenge, that ``events`` were replayed against these very claims, and that ``now``
    is true beyond the floor its giver keeps.

    Args:
        claims: from verified evidence.
        keys: the key requests, in order; at least one.
        policy: compiled documents, or the built-in policy.
        circumstances: the provider's own verified identity and the way in.
        now: Unix seconds.
        events: what the event log proves; ``None`` where none was sent.

    Returns:
        the grant, with one key path for each request.

    Raises:
        PolicyError: with the code of the first rule that says no; ``reasons`` holds
            every rule judged, that one last.
    """
    trace = Trace(stop=True)
    image = _judge(present(claims, events), keys, policy, circumstances, now, trace)
    if image is None or not keys:
        raise trace.refused(
            Code.PURPOSE_NOT_ALLOWED, "keys", expected="one at least", got="none"
        )
    workload = image.workload
    if workload.identity is IdentityKind.NAMED:
        binding = named_binding(workload, circumstances)
    else:
        binding = measured_binding(workload, claims, circumstances)
    domain = str(_weaker(claims.trust_domain, circumstances.provider_domain))
    chosen = [(key, _rule(workload, key)) for key in keys]
    return Grant(
        paths=tuple(
            key_path(
                key,
                rule,
                workload=workload,
                binding=binding,
                trust_domain=domain,
                circumstances=circumstances,
            )
            for key, rule in chosen
        ),
        reasons=tuple(trace.reasons),
        workload=str(workload) if workload.name else "",
        image=image.label,
        usage=demands(workload, keys),
        adopted=tuple(
            record_of(workload, rule) if rule.adopted else None for _, rule in chosen
        ),
        wrapped=tuple(wrapped_use(workload, rule, key) for key, rule in chosen),
        log_class=log_class_of(workload, keys),
    )


def explain(
    claims: Claims,
    *,
    keys: tuple[KeyRequest, ...],
    policy: Policy,
    circumstances: Circumstances,
    now: int,
    events: EventFacts | None = None,
) -> Explanation:
    """Judge every rule, also after the first no; for operators, never for workloads.

    Without ``keys``, everything but the keys is judged. Where no image fits, the rules
    judged are those of the nearest one.
    """
    trace = Trace(stop=False)
    _judge(present(claims, events), keys, policy, circumstances, now, trace)
    image = trace.image
    return Explanation(
        granted=trace.code is None,
        code=trace.code,
        workload=None if image is None else str(image.workload),
        image=None if image is None else image.label,
        nearest=trace.nearest,
        reasons=tuple(trace.reasons),
    )


def _rule(workload: Workload, key: KeyRequest) -> KeyRule:
    rule = workload.key_rule(key.purpose)
    assert rule is not None, "judged before"
    return rule


def _judge(
    presented: Presented,
    keys: tuple[KeyRequest, ...],
    policy: Policy,
    circumstances: Circumstances,
    now: int,
    trace: Trace,
) -> Image | None:
    claims = presented.claims
    judge_kept_from_host(claims, trace)
    _judge_world(claims, circumstances, trace)
    images = _choose(presented, policy, circumstances, now, trace)
    if not images:
        return None
    image = trace.image = images[0]
    workload = image.workload
    judge_image(image, presented, circumstances, now, trace)
    judge_place(workload, claims, circumstances, trace)
    judge_verifiers(workload, claims, trace)
    judge_tcb(workload, claims, now, trace)
    judge_snp_tcb(workload, claims, trace)
    judge_identity(workload, image, claims, trace)
    for key in keys:
        judge_key(key, workload, circumstances, now, trace)
    for key in keys:
        judge_cedar(key, images, presented, circumstances, now, trace)
    return image


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
    presented: Presented,
    policy: Policy,
    circumstances: Circumstances,
    now: int,
    trace: Trace,
) -> tuple[Image, ...]:
    """The images that fit; else the one whose rules are to say why none does."""
    claims = presented.claims
    if claims.tee in policy.everyone:
        return (policy.everyone[claims.tee],)
    alike = policy.index.matching(presented)
    fitting = [
        image
        for image in alike
        if in_dates(image, now, circumstances)
        and of_world(image.workload, claims)
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
        return tuple(sorted(fitting, key=lambda image: image.label))
    if alike:
        return (min(alike, key=lambda m: _misfits(m, claims, circumstances, now)),)
    nearest = policy.index.nearest(presented)
    if nearest is None:
        trace.judge(
            Code.MEASUREMENTS_NOT_ACCEPTED,
            "workload",
            f"an image of a {claims.tee.value} workload",
            "none has any measurement of this evidence",
            holds=False,
        )
        return ()
    trace.nearest = _difference(nearest, presented)
    return (nearest,)


def _misfits(
    image: Image, claims: Claims, circumstances: Circumstances, now: int
) -> tuple[int, str, str, str]:
    wrong = (
        (not in_dates(image, now, circumstances))
        + (not of_world(image.workload, claims))
        + (not on_platform(image.workload, claims, circumstances))
    )
    return (wrong, image.workload.tenant, image.workload.name, image.label)


def _difference(image: Image, presented: Presented) -> str:
    """What keeps the nearest image from fitting: "rtmr2 differs; ..."."""
    wrong = image.misfits(presented)
    if not wrong:
        return ""  # Only its platform is another one, and its own rule says so.
    verb = "differs" if len(wrong) == 1 else "differ"
    listed = ", ".join(wrong[:MAX_NAMED_IN_TEXT])
    return f"{listed} {verb}; all else matches {image}"


def _weaker(evidence: TrustDomain, provider: TrustDomain) -> TrustDomain:
    """The weaker of two roots: a simulated one makes the whole exchange simulated."""
    return evidence if evidence.simulated or not provider.simulated else provider
