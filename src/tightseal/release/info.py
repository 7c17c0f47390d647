# SPDX-License-Identifier: Apache-2.0
"""What a provider says of itself, unsigned: for people, and for writing a pin."""

from __future__ import annotations

from tightseal.model import wire
from tightseal.model.exchange import Kem
from tightseal.model.logclass import AuditLogSettings
from tightseal.model.ports import KeyRoots
from tightseal.platform.attested import AttestedKey
from tightseal.release.keyring import KeyringKeeper
from tightseal.release.memory import Memory
from tightseal.release.policy import InForce

__all__ = ["describe"]


def describe(
    key: AttestedKey, *, in_force: InForce, roots: KeyRoots, memory: Memory | None
) -> wire.InfoResponse:
    """Identity, world, policy, anchor and keyring."""
    said = in_force.said()
    return wire.InfoResponse(
        versions=[1],
        identity=wire.ProviderIdentityJson.of(key.binding.identity),
        trust_domain=str(key.trust_domain),
        simulated=key.trust_domain.simulated,
        kems=[kem.value for kem in Kem],
        legacy=in_force.settings.legacy.enabled,
        policy=None if said is None else wire.PolicyJson.of(said),
        anchor=None if memory is None else memory.anchor,
        keyring=_keyring(roots),
        log=_log(in_force.settings.audit_log),
    )


def _keyring(roots: KeyRoots) -> wire.KeyringJson | None:
    if not isinstance(roots, KeyringKeeper):
        return None
    counter = roots.keyring.header.counter
    return wire.KeyringJson(roots.generations().current, counter)


def _log(rules: AuditLogSettings) -> wire.LogRulesJson:
    return wire.LogRulesJson(rules.least, list(rules.witnesses), rules.threshold)
