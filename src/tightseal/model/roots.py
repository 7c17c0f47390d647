# SPDX-License-Identifier: Apache-2.0
"""The roots that evidence may chain to, as values handed to the verifiers."""

from __future__ import annotations

from dataclasses import dataclass, field

from tightseal.model.claims import TrustDomain

__all__ = ["TrustedRoot", "TrustedRoots"]


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """A root public key that evidence may chain to.

    Attributes:
        trust_domain: the domain that a chain to this key belongs to.
        name: for people, such as ``Intel SGX Root CA`` or ``ARK-Milan``.
        product: the AMD product line, empty for Intel.
        spki: DER SubjectPublicKeyInfo.
        certificate: DER of the root certificate, where it is known; dcap-qvl needs it
            for simulated roots.
    """

    trust_domain: TrustDomain
    name: str
    spki: bytes
    product: str = ""
    certificate: bytes | None = None


@dataclass(frozen=True, slots=True)
class TrustedRoots:
    """The roots that are switched on.

    Simulated roots are here only where a release setting or ``--root-ca`` put them.
    """

    intel: tuple[TrustedRoot, ...] = field(default=())
    amd: tuple[TrustedRoot, ...] = field(default=())
