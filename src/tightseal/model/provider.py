# SPDX-License-Identifier: Apache-2.0
"""Who the provider is: four parts, pinned by clients and committed to by its quote."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tightseal.model.canonical import Value, digest, labelled
from tightseal.model.labels import Label

__all__ = [
    "AttestedKeyBinding",
    "ProviderIdentity",
    "branch_keyring_id",
    "sidecar_keyring_id",
]


def sidecar_keyring_id() -> bytes:
    """The keyring id of the sidecar shape, which has no keyring; 32 bytes.

    A constant, so that a workload's image can pin it on every machine.
    """
    return hashlib.sha256(labelled(Label.KEYRING_SIDECAR, None)).digest()


def branch_keyring_id(parent: bytes, tenant: str) -> bytes:
    """The keyring id of a tenant's branch of a keyring, 32 bytes.

    Known from the parent's, so that images can pin it before the branch was handed
    over; another one, so that no client takes a subordinate for the whole.
    """
    return hashlib.sha256(labelled(Label.KEYRING_BRANCH, [parent, tenant])).digest()


@dataclass(frozen=True, slots=True)
class ProviderIdentity:
    """Measurement, keyring id, policy root and settings digest.

    Attributes:
        tee: the provider's TEE kind as text.
        measurement: SGX MRENCLAVE (32 bytes), SNP measurement or TDX MRTD (48 bytes).
        keyring_id: 32 bytes.
        policy_root: 32 bytes, or ``None`` where no policy root is pinned.
        settings_digest: SHA-512 over the release settings, 64 bytes.
    """

    tee: str
    measurement: bytes
    keyring_id: bytes
    policy_root: bytes | None
    settings_digest: bytes

    def as_value(self) -> Value:
        """The four parts as a canonical value."""
        return [
            self.tee,
            self.measurement,
            self.keyring_id,
            self.policy_root,
            self.settings_digest,
        ]


@dataclass(frozen=True, slots=True)
class AttestedKeyBinding:
    """What the provider's quote commits to: its identity, its key, and its lifetime.

    Attributes:
        identity: the provider's four-part identity.
        public_key: Ed25519 public key, 32 bytes.
        not_before, not_after: Unix seconds; the host's clock, so a bound on age and
            no proof of time.
        tls_key_hash: SHA-256 of the TLS key's SPKI where TLS ends in the provider.
    """

    identity: ProviderIdentity
    public_key: bytes
    not_before: int
    not_after: int
    tls_key_hash: bytes | None = None

    def as_value(self) -> Value:
        """The binding as a canonical value."""
        return [
            1,
            self.identity.as_value(),
            self.public_key,
            self.not_before,
            self.not_after,
            self.tls_key_hash,
        ]

    def report_data(self) -> bytes:
        """The 64 bytes of report data that the provider's quote must carry."""
        return digest(Label.REPORT_ATTESTED_KEY, self.as_value())

    def key_hash(self) -> bytes:
        """SHA-256 of the attested public key, 32 bytes."""
        return hashlib.sha256(self.public_key).digest()
