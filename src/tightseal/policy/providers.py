# SPDX-License-Identifier: Apache-2.0
"""Whether another provider may be handed the keyring: judged by the policy in force.

What it says of itself counts for nothing here; only claims of verified evidence do.
That it was invited is another question, see :mod:`tightseal.policy.actions`.
"""

from __future__ import annotations

from tightseal.errors import Code
from tightseal.model.claims import Claims
from tightseal.policy.compiled import Policy, ProviderRule
from tightseal.policy.fields import PROVIDER_MEASUREMENT
from tightseal.policy.rules import (
    judge_kept_from_host,
    judge_snp_tcb,
    judge_tcb,
    judge_verifiers,
    judge_world,
)
from tightseal.policy.trace import Trace

__all__ = ["judge_provider"]


def judge_provider(policy: Policy, claims: Claims, *, now: int) -> ProviderRule:
    """The rule that lets a provider of these claims have the keyring.

    1. the host can neither read nor move it        ``debug_enabled``,
                                                    ``snp_migratable``
    2. a rule names its TEE and its measurement     ``provider_not_allowed``
    3. its evidence chains to the rule's world      ``trust_domain_mismatch``
    4. enough verifiers judged it                   ``single_verifier_not_accepted``
    5. the state of its platform is good enough     ``tcb_status_not_accepted`` ...

    Args:
        policy: in force.
        claims: of the provider's evidence.
        now: Unix seconds.

    Raises:
        PolicyError: as the list says, with every rule that was judged.
    """
    trace = Trace(stop=True)
    judge_kept_from_host(claims, trace)
    name = PROVIDER_MEASUREMENT.get(claims.tee, "")
    value = claims.measurements.get(name)
    found = [
        rule
        for rule in policy.providers
        if rule.tee is claims.tee and value in rule.measurements
    ]
    trace.judge(
        Code.PROVIDER_NOT_ALLOWED,
        "provider",
        f"one of {len(policy.providers)} that the policy names",
        f"{claims.tee.value} {'absent' if value is None else value.hex()}",
        holds=bool(found),
    )
    for rule in found[1:]:
        # Two rules may name one measurement; the first that lets it in decides.
        tried = Trace(stop=False)
        _judge(rule, claims, now, tried)
        if tried.code is None:
            return rule
    _judge(found[0], claims, now, trace)
    return found[0]


def _judge(rule: ProviderRule, claims: Claims, now: int, trace: Trace) -> None:
    judge_world(rule, claims, trace)
    judge_verifiers(rule, claims, trace)
    judge_tcb(rule, claims, now, trace)
    judge_snp_tcb(rule, claims, trace)
