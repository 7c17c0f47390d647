# SPDX-License-Identifier: Apache-2.0
"""From a rule to the key path: what a key belongs to."""

from __future__ import annotations

from tightseal.model.claims import Claims
from tightseal.model.keypath import (
    IdentityKind,
    KeyPath,
    KeyRequest,
    WorkloadBinding,
)
from tightseal.model.settings import ALWAYS_BOUND
from tightseal.policy.circumstances import Circumstances
from tightseal.policy.compiled import KeyRule, Workload

__all__ = ["key_path", "measured_binding", "named_binding"]


def named_binding(workload: Workload, circumstances: Circumstances) -> WorkloadBinding:
    """The name alone; the tenant is a level of its own."""
    return WorkloadBinding(
        identity=IdentityKind.NAMED,
        name=workload.name,
        tee=workload.tee,
        attributes=(),
        measurements=(),
        authority=circumstances.authority,
    )


def measured_binding(
    workload: Workload, claims: Claims, circumstances: Circumstances
) -> WorkloadBinding:
    """Measurements and attributes, which the rules have found to be there."""
    values = claims.measurements
    return WorkloadBinding(
        identity=IdentityKind.MEASURED,
        name=None,
        tee=workload.tee,
        attributes=tuple((n, values[n]) for n in ALWAYS_BOUND[workload.tee]),
        measurements=tuple((n, values[n]) for n in workload.binds),
        authority=circumstances.authority,
    )


def key_path(
    key: KeyRequest,
    rule: KeyRule,
    *,
    workload: Workload,
    binding: WorkloadBinding,
    trust_domain: str,
    circumstances: Circumstances,
) -> KeyPath:
    """The path of a request that its rule allows; the part asked for is not in it."""
    # A wrapped key is granted under the current one; its record says which it has.
    generation = circumstances.generations.number(key.generation)
    assert generation is not None, "judged before"
    return KeyPath(
        kdf=rule.kdf,
        trust_domain=trust_domain,
        tenant=workload.tenant,
        workload=binding,
        protocol_class=circumstances.protocol_class,
        generation=generation,
        purpose=key.purpose,
        label=key.label,
        length=key.length,
        key_type=rule.key_type,
    )
