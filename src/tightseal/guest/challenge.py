# SPDX-License-Identifier: Apache-2.0
"""Checking a provider before any evidence is made for it.

Evidence names the workload and its machine, and a key sealed by a stranger would open
a disk that the stranger can read. So the provider proves itself first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from tightseal.model.exchange import ChallengeBody
from tightseal.model.ports import Verifier
from tightseal.model.provider import AttestedKeyBinding
from tightseal.model.wire import (
    ChallengeResponse,
    ParsedChallenge,
    StapledJson,
    decode_json,
)
from tightseal.platform.attested import own_measurement_of

__all__ = [
    "CHALLENGE_CHECKS",
    "CheckedChallenge",
    "ProviderCollateral",
    "Tolerance",
    "VerifierFor",
    "check_challenge",
    "check_claims",
    "verified",
]

MAX_ATTESTED_KEY_SECONDS: Final = 2 * 86_400
"""Longest life of an attested key that a client accepts."""

MAX_CHALLENGE_SECONDS: Final = 600
"""Longest life of a challenge, from the moment it arrives."""

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


@dataclass(frozen=True, slots=True)
class CheckedChallenge:
    """A challenge from the pinned provider.

    Attributes:
        body: what was signed.
        claims: what the provider's evidence says.
        stapled: collateral that came along; a quote proof is judged with the same.
        checked_at: Unix seconds by the guest's clock.
    """

    body: ChallengeBody
    claims: Claims
    stapled: StapledJson | None
    checked_at: int

    @property
    def binding(self) -> AttestedKeyBinding:
        """The provider's identity and attested key."""
        return self.body.binding


@dataclass(frozen=True, slots=True)
class _Presented:
    """What the checks look at."""

    challenge: ParsedChallenge
    client_nonce: bytes
    pin: ProviderPin
    tls_key_hash: bytes | None
    tolerance: Tolerance
    now: int


def check_challenge(
    body: bytes,
    *,
    client_nonce: bytes,
    pin: ProviderPin,
    verifier_for: VerifierFor,
    tls_key_hash: bytes | None,
    tolerance: Tolerance,
    now: int,
) -> CheckedChallenge:
    """Check a challenge: form, ``CHALLENGE_CHECKS`` in order, the provider's evidence.

    Does not check that the provider's machine is any particular one, nor AMD's TCB
    versions, nor anything about the provider but what the pin names.

    Args:
        body: JSON of the response to ``POST /v1/challenge``.
        client_nonce: 32 bytes that were sent.
        pin: what the provider must be.
        verifier_for: makes the verifier of the provider's evidence.
        tls_key_hash: SHA-256 of the SPKI of the TLS key of the connection, if any.
        tolerance: of the clocks.
        now: Unix seconds by the guest's clock.

    Raises:
        ProviderError: ``challenge_invalid``, ``provider_identity_mismatch``,
            ``provider_unverified``, ``provider_simulated`` or ``provider_debug``.
    """
    try:
        challenge = decode_json(body, ChallengeResponse).parsed()
    except RequestError as e:
        raise ProviderError(Code.CHALLENGE_INVALID, e.detail) from e
    presented = _Presented(
        challenge=challenge,
        client_nonce=client_nonce,
        pin=pin,
        tls_key_hash=tls_key_hash,
        tolerance=tolerance,
        now=now,
    )
    for _, check in CHALLENGE_CHECKS:
        check(presented)
    claims = verified(
        challenge.provider_evidence,
        verifier_for=verifier_for,
        stapled=challenge.stapled,
        now=now,
    )
    check_claims(claims, pin=pin, report_data=challenge.body.binding.report_data())
    return CheckedChallenge(
        body=challenge.body,
        claims=claims,
        stapled=challenge.stapled,
        checked_at=now,
    )


def _client_nonce(p: _Presented) -> None:
    if p.challenge.body.client_nonce != p.client_nonce:
        raise _challenge_invalid("the client nonce is not the one that was sent")


def _not_simulated(p: _Presented) -> None:
    # Only what the provider says of itself; its evidence decides below.
    if p.challenge.simulated and not p.pin.allow_simulated:
        detail = "the provider says that it is simulated; the pin does not allow it"
        raise ProviderError(Code.PROVIDER_SIMULATED, detail)


def _identity(p: _Presented) -> None:
    got, expected = p.challenge.body.binding.identity, p.pin.identity
    for part in ("tee", "measurement", "keyring_id", "policy_root", "settings_digest"):
        came, wanted = getattr(got, part), getattr(expected, part)
        if came != wanted:
            detail = f"{part}: expected {_shown(wanted)}, got {_shown(came)}"
            raise ProviderError(Code.PROVIDER_IDENTITY_MISMATCH, detail)


def _lifetime(p: _Presented) -> None:
    binding, skew = p.challenge.body.binding, p.tolerance.skew
    start, end = binding.not_before, binding.not_after
    if not 0 < end - start <= MAX_ATTESTED_KEY_SECONDS:
        raise _challenge_invalid(f"attested key lives from {start} to {end}")
    if not start - skew <= p.now <= end + skew:
        raise _challenge_invalid(f"attested key: {start} to {end}, now {p.now}")


def _expiry(p: _Presented) -> None:
    expires, skew = p.challenge.body.expires_at, p.tolerance.skew
    if not p.now - skew < expires <= p.now + skew + MAX_CHALLENGE_SECONDS:
        raise _challenge_invalid(f"the challenge expires at {expires}, now {p.now}")


def _tls_key(p: _Presented) -> None:
    wanted = p.challenge.body.binding.tls_key_hash
    if wanted is not None and wanted != p.tls_key_hash:
        detail = "TLS ends in the provider, and this connection has another key"
        raise _challenge_invalid(detail)


def _signature(p: _Presented) -> None:
    body = p.challenge.body
    try:
        key = Ed25519PublicKey.from_public_bytes(body.binding.public_key)
        key.verify(p.challenge.signature, body.to_sign())
    except (InvalidSignature, ValueError) as e:
        raise _challenge_invalid("the signature is not by the attested key") from e


CHALLENGE_CHECKS: Final[tuple[tuple[str, Callable[[_Presented], None]], ...]] = (
    ("client_nonce", _client_nonce),
    ("not_simulated", _not_simulated),
    ("identity", _identity),
    ("attested_key_lifetime", _lifetime),
    ("challenge_expiry", _expiry),
    ("tls_key", _tls_key),
    ("signature", _signature),
)
"""The checks before the provider's evidence is looked at, in order."""


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


def _challenge_invalid(detail: str) -> ProviderError:
    return ProviderError(Code.CHALLENGE_INVALID, detail)


def _unverified(detail: str) -> ProviderError:
    return ProviderError(Code.PROVIDER_UNVERIFIED, detail)
