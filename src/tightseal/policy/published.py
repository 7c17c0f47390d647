# SPDX-License-Identifier: Apache-2.0
"""Public halves that anybody may have, without evidence."""

from __future__ import annotations

from tightseal.errors import Code
from tightseal.model.grant import Grant
from tightseal.model.keypath import KeyPart, KeyRequest, ProtocolClass
from tightseal.policy.circumstances import Circumstances
from tightseal.policy.compiled import Policy, Workload
from tightseal.policy.key_rules import judge_key, record_of, wrapped_use
from tightseal.policy.paths import key_path, named_binding
from tightseal.policy.trace import Trace

__all__ = ["grant_published"]


def grant_published(
    policy: Policy,
    *,
    tenant: str,
    workload: str,
    purpose: str,
    label: str,
    circumstances: Circumstances,
    now: int,
) -> Grant:
    """The path of a public half that a named workload publishes.

    It is the path of the workload's own key. Nothing is known of who asks, so nothing
    is judged of them: neither measurements and dates nor Cedar.

    Args:
        policy: in force.
        tenant: whose workload it is.
        workload: its name.
        purpose: of the pair.
        label: of the sub-key; may be empty.
        circumstances: the provider's own; ``protocol_class`` is v1.
        now: Unix seconds.

    Raises:
        PolicyError: ``purpose_not_allowed`` where there is no such workload or purpose,
            or it is not published; ``trust_domain_mismatch`` where its evidence belongs
            to another world than the provider; ``key_label_not_allowed``,
            ``protocol_not_allowed``.
    """
    trace = Trace(stop=True)
    found = policy.named(tenant, workload)
    rule = None if found is None else found.key_rule(purpose)
    if found is None or rule is None or not rule.published:
        # One answer for all three: the names of a policy are not for everybody.
        raise trace.refused(
            Code.PURPOSE_NOT_ALLOWED,
            "published",
            expected="a purpose that a named workload publishes",
            got=f"{tenant}/{workload} {purpose}",
        )
    domain = _domain(found, circumstances, trace)
    assert rule.length is not None, "a purpose by name has a length"
    key = KeyRequest(purpose, label, rule.length, KeyPart.PUBLIC)
    judge_key(key, found, circumstances, now, trace)
    path = key_path(
        key,
        rule,
        workload=found,
        binding=named_binding(found, circumstances),
        trust_domain=domain,
        circumstances=circumstances,
    )
    return Grant(
        paths=(path,),
        reasons=tuple(trace.reasons),
        workload=str(found),
        adopted=(record_of(found, rule) if rule.adopted else None,),
        wrapped=(wrapped_use(found, rule, key),),
    )


def _domain(workload: Workload, circumstances: Circumstances, trace: Trace) -> str:
    """The workload's trust domain, where the provider serves its world at all."""
    ours, theirs = circumstances.provider_domain, workload.trust_domain or ""
    simulated = theirs not in {"intel", "amd"}
    trace.judge(
        Code.TRUST_DOMAIN_MISMATCH,
        "provider's domain",
        str(ours),
        theirs,
        holds=theirs == str(ours) if ours.simulated else not simulated,
    )
    trace.judge(
        Code.PROTOCOL_NOT_ALLOWED,
        "way in",
        ProtocolClass.V1.value,
        circumstances.protocol_class.value,
        holds=circumstances.protocol_class is ProtocolClass.V1,
    )
    return theirs
