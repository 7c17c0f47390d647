# SPDX-License-Identifier: Apache-2.0
"""Which allowances a release or a denial counts against, by the release settings.

All of it is read from verified claims and the grant. An exchange counts once, however
many keys it asks for; ``usage`` of a policy document counts each of them.
"""

from __future__ import annotations

import hashlib
from typing import Final

from tightseal.model.canonical import encode
from tightseal.model.claims import Claims
from tightseal.model.grant import Grant
from tightseal.model.settings import LimitSettings
from tightseal.policy.usagerecord import machine_of, show_machine
from tightseal.release.leaserecord import Allowance

__all__ = ["denial_limits", "release_limits"]

UNIDENTIFIED: Final = "unidentified"
"""The one subject of all platforms without an identity of their own, such as SNP chips
whose host masks the chip id. Else masking it would be a way around the limit."""


def denial_limits(limits: LimitSettings, claims: Claims) -> tuple[Allowance, ...]:
    """What a denial of authentic evidence counts against."""
    most = limits.platform_denials_per_minute
    if not most:
        return ()
    return (Allowance("platform_denials_per_minute", _platform(claims), most),)


def release_limits(
    limits: LimitSettings, claims: Claims, grant: Grant
) -> tuple[Allowance, ...]:
    """What a release counts against: platform, workload and tenant."""
    tenant = grant.paths[0].tenant
    found = (
        ("platform_per_minute", _platform(claims), limits.platform_per_minute),
        ("workload_per_minute", _workload(grant), limits.workload_per_minute),
        ("tenant_per_minute", (tenant,), limits.tenant_per_minute),
    )
    return tuple(Allowance(name, who, most) for name, who, most in found if most)


def _platform(claims: Claims) -> tuple[str, ...]:
    machine = machine_of(claims.platform)
    shown = UNIDENTIFIED if machine is None else show_machine(machine)
    return (claims.trust_domain.vendor.value, shown)


def _workload(grant: Grant) -> tuple[str, ...]:
    """Its name in the policy; without one, a digest of what the keys belong to."""
    if grant.workload:
        return ("named", grant.workload)
    path = grant.paths[0]
    binding = encode([path.tenant, path.workload.as_value()])
    return ("measured", hashlib.sha256(binding).hexdigest())
