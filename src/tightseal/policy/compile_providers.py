# SPDX-License-Identifier: Apache-2.0
"""The providers of a document, checked beyond their types."""

from __future__ import annotations

from tightseal.policy.compile_tcb import compile_tcb
from tightseal.policy.compile_world import one_verifier, trust_domain_of
from tightseal.policy.compiled import ProviderRule
from tightseal.policy.document import ProviderRules
from tightseal.policy.fields import MEASUREMENT_BYTES, PROVIDER_MEASUREMENT
from tightseal.policy.locate import Path
from tightseal.policy.read import FieldFault

__all__ = ["compile_provider"]


def compile_provider(rules: ProviderRules, path: Path) -> ProviderRule:
    """Make the rule of a provider.

    Raises:
        FieldFault: a TD; a measurement of another length, all zero, or that stands
            twice; a trust domain or TCB rules that do not fit the TEE.
    """
    if rules.tee not in PROVIDER_MEASUREMENT:
        message = "a TD's measurement leaves out its kernel and software"
        raise FieldFault((*path, "tee"), message)
    size = MEASUREMENT_BYTES[PROVIDER_MEASUREMENT[rules.tee]]
    values: list[bytes] = []
    for i, text in enumerate(rules.measurements):
        value = bytes.fromhex(text)
        if len(value) != size or not any(value):
            message = f"expected {size} bytes of hex, not all zero, got {len(value)}"
            raise FieldFault((*path, "measurements", i), message)
        if value in values:
            raise FieldFault((*path, "measurements", i), "stands twice")
        values.append(value)
    return ProviderRule(
        name=rules.name,
        tee=rules.tee,
        measurements=frozenset(values),
        trust_domain=trust_domain_of(rules.trust_domain, rules.tee, path),
        one_verifier=one_verifier(rules.single_verifier, rules.tee),
        tcb=compile_tcb(rules.tcb, rules.tee, (*path, "tcb")),
    )
