# SPDX-License-Identifier: Apache-2.0
"""A tenant's branch of the key chain, in place of the root of everything."""

from __future__ import annotations

from tightseal.model.secret import Secret

__all__ = ["BranchRoot"]


class BranchRoot(Secret):
    """The node of the chain at a tenant's level: a provider of one tenant has no more.

    It leads to the same keys as the root above it, for this tenant in this trust domain
    by ``hkdf-sha256``, and to nothing else. The root cannot be computed from it.

    Args:
        data: 32 bytes.
        trust_domain: that the node is of.
        tenant: likewise.
    """

    __slots__ = ("tenant", "trust_domain")

    def __init__(
        self, data: bytes | bytearray, *, trust_domain: str, tenant: str
    ) -> None:
        super().__init__(data)
        self.trust_domain = trust_domain
        self.tenant = tenant
