# SPDX-License-Identifier: Apache-2.0
"""Checking a provider before any evidence is made for it.

Evidence names the workload and its machine, and a key sealed by a stranger would open
a disk that the stranger can read. So the provider proves itself first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tightseal.envelope.hpke import check_recipient_key
from tightseal.errors import Code, KeyReleaseError, ProviderError, RequestError
from tightseal.guest.pins import ProviderPin
from tightseal.guest.provider import (
    ProviderCollateral,
    Tolerance,
    VerifierFor,
    check_claims,
    check_identity,
    check_lifetime,
    check_signature,
    verified,
)
from tightseal.model.claims import Claims
from tightseal.model.exchange import ChallengeBody
from tightseal.model.importing import IMPORT_KEM
from tightseal.model.provider import AttestedKeyBinding
from tightseal.model.wire import (
    ChallengeResponse,
    ParsedChallenge,
    StapledJson,
    decode_json,
)

__all__ = [
    "CHALLENGE_CHECKS",
    "CheckedChallenge",
    "ProviderCollateral",
    "check_challenge",
]

MAX_CHALLENGE_SECONDS: Final = 600
"""Longest life of a challenge, from the moment it arrives."""


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
    import_key: bool


def check_challenge(
    body: bytes,
    *,
    client_nonce: bytes,
    pin: ProviderPin,
    verifier_for: VerifierFor,
    tls_key_hash: bytes | None,
    tolerance: Tolerance,
    now: int,
    import_key: bool = False,
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
        import_key: whether a key to seal imports to was asked for.

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
        import_key=import_key,
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
    check_identity(p.challenge.body.binding.identity, pin=p.pin)


def _lifetime(p: _Presented) -> None:
    check_lifetime(
        p.challenge.body.binding,
        now=p.now,
        tolerance=p.tolerance,
        code=Code.CHALLENGE_INVALID,
    )


def _expiry(p: _Presented) -> None:
    expires, skew = p.challenge.body.expires_at, p.tolerance.skew
    if not p.now - skew < expires <= p.now + skew + MAX_CHALLENGE_SECONDS:
        raise _challenge_invalid(f"the challenge expires at {expires}, now {p.now}")


def _tls_key(p: _Presented) -> None:
    wanted = p.challenge.body.binding.tls_key_hash
    if wanted is not None and wanted != p.tls_key_hash:
        detail = "TLS ends in the provider, and this connection has another key"
        raise _challenge_invalid(detail)


def _import_key(p: _Presented) -> None:
    key = p.challenge.body.import_key
    if (key is not None) != p.import_key:
        wanted = "was" if p.import_key else "was not"
        raise _challenge_invalid(f"a key for imports {wanted} asked for")
    if key is None:
        return
    try:
        check_recipient_key(IMPORT_KEM, key)
    except KeyReleaseError as e:
        raise _challenge_invalid(f"key for imports: {e.detail}") from e


def _signature(p: _Presented) -> None:
    body = p.challenge.body
    check_signature(
        body.binding.public_key,
        signature=p.challenge.signature,
        signed=body.to_sign(),
        code=Code.CHALLENGE_INVALID,
    )


CHALLENGE_CHECKS: Final[tuple[tuple[str, Callable[[_Presented], None]], ...]] = (
    ("client_nonce", _client_nonce),
    ("not_simulated", _not_simulated),
    ("identity", _identity),
    ("attested_key_lifetime", _lifetime),
    ("challenge_expiry", _expiry),
    ("tls_key", _tls_key),
    ("import_key", _import_key),
    ("signature", _signature),
)
"""The checks before the provider's evidence is looked at, in order."""


def _challenge_invalid(detail: str) -> ProviderError:
    return ProviderError(Code.CHALLENGE_INVALID, detail)
