# SPDX-License-Identifier: Apache-2.0
"""Two key paths: what a policy grants, and what a measured sidecar had."""

from dataclasses import replace
from typing import Any

import action_support as support
from tightseal.keys.chain import derive
from tightseal.model.claims import Tee
from tightseal.model.keypath import (
    Authority,
    IdentityKind,
    Kdf,
    KeyPath,
    ProtocolClass,
    WorkloadBinding,
)
from tightseal.model.secret import Secret


def granted(**changes: Any) -> KeyPath:
    """The path that a policy grants under the name."""
    base = KeyPath(
        kdf=Kdf.HKDF_SHA512,
        trust_domain="intel",
        tenant="acme",
        workload=WorkloadBinding(
            identity=IdentityKind.NAMED,
            name="database",
            tee=Tee.TDX,
            attributes=(),
            measurements=(),
            authority=Authority("policy_root", support.ROOT),
        ),
        protocol_class=ProtocolClass.V1,
        generation=0,
        purpose="disk",
        label="a",
    )
    return replace(base, **changes)


def measured(**changes: Any) -> KeyPath:
    """The path that the key had before it was adopted."""
    binding = WorkloadBinding(
        identity=IdentityKind.MEASURED,
        name=None,
        tee=Tee.TDX,
        attributes=support.source().attributes,
        measurements=support.source().measurements,
        authority=support.OURS,
    )
    return granted(kdf=Kdf.HKDF_SHA256, workload=binding, **changes)


def key_of(path: KeyPath) -> bytes:
    return derive(Secret(bytes(range(32))), path).reveal()
