# SPDX-License-Identifier: Apache-2.0
"""What every answer of a provider must hold: whose it is, by its pin and its evidence.

The steps of these checks stand in lists of their own, one for each kind of answer: see
:mod:`tightseal.guest.challenge` and :mod:`tightseal.guest.public_key`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tightseal.errors import (
    Code,
    CollateralError,
    EvidenceError,
    ProviderError,
    RequestError,
)
from tightseal.guest.pins import ProviderPin
from tightseal.model.claims import Claims
from tightseal.model.ports import Verifier
from tightseal.model.provider import AttestedKeyBinding, ProviderIdentity
from tightseal.model.wire import StapledJson
from tightseal.platform.attested import own_measurement_of

__all__ = [
    "ProviderCollateral",
    "Tolerance",
    "VerifierFor",
    "check_claims",
    "check_identity",
    "check_lifetime",
    "check_signature",
    "verified",
]

MAX_ATTESTED_KEY_SECONDS: Final = 2 * 86_400
"""Longest life of an attested key that a client accepts."""

VerifierFor: TypeAlias = Callable[[StapledJson | None], Verifier]
"""A verifier for the provider's evidence, given what the provider stapled."""


@dataclass(frozen=True, slots=True)
class ProviderCollateral:
    """Where the guest gets the collateral of its provider's evidence.

    Made by :mod:`tightseal.guest.collateral`.

    Attributes:
        verifier_for: makes the verifier of the provider's evidence.
        wants_stapled: whether the provider is asked to send collateral along.
    """

    verifier_for: VerifierFor
    wants_stapled: bool = False

    @classmethod
    def behind(cls, verifier: Verifier) -> ProviderCollateral:
        """Collateral that a ready verifier has by itself; nothing is stapled."""
        return cls(lambda _stapled: verifier)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a guest's clock and the provider's may be apart.

    Both clocks are hosts', so this bounds mistakes and old recordings, not hosts: what
    makes a challenge fresh is the client nonce that it signs.

    Attributes:
        skew: seconds.
    """

    skew: int = 300


def check_identity(identity: ProviderIdentity, *, pin: ProviderPin) -> None:
    """Compare every part that the pin names; all four, or all but the settings digest.

    Only what the provider says of itself: see :func:`check_claims` for its evidence.

    Raises:
        ProviderError: ``provider_identity_mismatch``, naming the part.
    """
    for part in fields(pin.identity):
        came, wanted = getattr(identity, part.name), getattr(pin.identity, part.name)
        if came != wanted:
            detail = f"{part.name}: expected {_shown(wanted)}, got {_shown(came)}"
            raise ProviderError(Code.PROVIDER_IDENTITY_MISMATCH, detail)


def check_lifetime(
    binding: AttestedKeyBinding, *, now: int, tolerance: Tolerance, code: Code
) -> None:
    """Check that the attested key is short-lived, and alive.

    Raises:
        ProviderError: with ``code``.
    """
    start, end, skew = binding.not_before, binding.not_after, tolerance.skew
    if not 0 < end - start <= MAX_ATTESTED_KEY_SECONDS:
        raise ProviderError(code, f"attested key lives from {start} to {end}")
    if not start - skew <= now <= end + skew:
        raise ProviderError(code, f"attested key: {start} to {end}, now {now}")


def check_signature(
    public_key: bytes, *, signature: bytes, signed: bytes, code: Code
) -> None:
    """Check an Ed25519 signature by an attested key.

    Raises:
        ProviderError: with ``code``.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signed)
    except (InvalidSignature, ValueError) as e:
        detail = "the signature is not by the attested key"
        raise ProviderError(code, detail) from e


def verified(
    evidence: bytes,
    *,
    verifier_for: VerifierFor,
    stapled: StapledJson | None,
    now: int,
) -> Claims:
    """The claims of the provider's evidence.

    Raises:
        ProviderError: ``provider_unverified``, with the verifier's own code.
    """
    try:
        return verifier_for(stapled)(evidence, now=now)
    except (EvidenceError, CollateralError, RequestError) as e:
        detail = f"{e.code.value}: {e.detail}"
        raise ProviderError(Code.PROVIDER_UNVERIFIED, detail) from e


def check_claims(claims: Claims, *, pin: ProviderPin, report_data: bytes) -> None:
    """Check that verified evidence speaks for the pinned provider.

    Args:
        claims: of the provider's evidence.
        pin: what the provider must be.
        report_data: 64 bytes that the evidence must carry.

    Raises:
        ProviderError: ``provider_simulated``, ``provider_unverified``,
            ``provider_debug`` or ``provider_identity_mismatch``.
    """
    domain, tcb = claims.trust_domain, claims.tcb
    if domain.simulated and not pin.allow_simulated:
        raise ProviderError(Code.PROVIDER_SIMULATED, f"its evidence is of {domain}")
    if str(domain) not in pin.trust_domains:
        expected = sorted(pin.trust_domains)
        raise _unverified(f"trust domain {domain}, expected one of {expected}")
    if not claims.report_data_bound or claims.report_data != report_data:
        raise _unverified("its evidence does not commit to this attested key")
    if claims.debug:
        raise ProviderError(Code.PROVIDER_DEBUG, "its evidence allows debugging")
    if claims.migratable:
        raise _unverified("its evidence lets a migration agent move it")
    if claims.tee.value != pin.identity.tee:
        detail = f"evidence of {claims.tee.value}, expected {pin.identity.tee}"
        raise ProviderError(Code.PROVIDER_IDENTITY_MISMATCH, detail)
    measurement = own_measurement_of(claims)
    if measurement != pin.identity.measurement:
        wanted = _shown(pin.identity.measurement)
        detail = f"evidence measures {_shown(measurement)}, expected {wanted}"
        raise ProviderError(Code.PROVIDER_IDENTITY_MISMATCH, detail)
    if tcb is not None and tcb.status not in pin.accepted_tcb:
        accepted = sorted(s.value for s in pin.accepted_tcb)
        raise _unverified(f"TCB status {tcb.status.value}, accepted {accepted}")


def _shown(value: object) -> str:
    """Identities are public; the whole of one helps whoever wrote the pin."""
    return value.hex() if isinstance(value, bytes) else str(value)


def _unverified(detail: str) -> ProviderError:
    return ProviderError(Code.PROVIDER_UNVERIFIED, detail)
