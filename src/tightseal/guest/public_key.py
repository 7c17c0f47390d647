# SPDX-License-Identifier: Apache-2.0
"""Public halves that a provider says to anybody: asking, and checking what it said.

An answer proves that the pinned provider, under a policy that publishes the purpose,
derives a pair with this public half. It does not prove that any workload holds the
private half, that it ever asked for it, or that the policy releases it to anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code, KeyReleaseError, ProviderError, RequestError
from tightseal.guest.pins import ProviderPin
from tightseal.guest.provider import (
    ProviderCollateral,
    Tolerance,
    check_claims,
    check_identity,
    check_lifetime,
    check_signature,
    verified,
)
from tightseal.keys.pairs import check_public_half
from tightseal.model.claims import Vendor
from tightseal.model.exchange import PolicyInForce
from tightseal.model.keypath import MAX_NAME_CHARS, KeyType
from tightseal.model.provider import ProviderIdentity
from tightseal.model.public_key import PublicKeyQuestion
from tightseal.model.wire import (
    ParsedPublicKey,
    PublicKeyRequest,
    PublicKeyResponse,
    decode_json,
    encode_json,
)

__all__ = [
    "PUBLIC_KEY_CHECKS",
    "KeyName",
    "PublicKey",
    "public_key_request",
    "verify_public_key",
]


@dataclass(frozen=True, slots=True)
class KeyName:
    """Whose public half: names in the provider's policy.

    Attributes:
        tenant, workload, purpose: printable ASCII, 1 to ``MAX_NAME_CHARS``.
        label: a sub-key; may be empty.

    Raises:
        RequestError: ``request_malformed``.
    """

    tenant: str
    workload: str
    purpose: str
    label: str = ""

    def __post_init__(self) -> None:
        """Refuse names before a provider is bothered with them."""
        for name in (self.tenant, self.workload, self.purpose, self.label):
            printable = name.isascii() and name.isprintable()
            if not printable or len(name) > MAX_NAME_CHARS:
                raise _malformed(f"{name!r}: at most {MAX_NAME_CHARS} printable ASCII")
        if not (self.tenant and self.workload and self.purpose):
            raise _malformed("tenant, workload or purpose is empty")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public half, checked; and what proves it.

    Attributes:
        name: whose.
        type: which kind of pair.
        public_key: raw 32 bytes, or 33 bytes SEC 1 compressed.
        generation: version of the root that the pair is derived from.
        trust_domain: as it stands in the key path.
        issued_at: Unix seconds by the provider's clock.
        policy: the signed policy that publishes it; ``None`` where none is signed.
        provider: who said so.
        simulated: whether the provider is of a simulated world.
        signed: the bytes that the signature covers.
        signature: Ed25519 by ``attested_key``, checked.
        attested_key: bound by the provider's evidence, 32 bytes.
    """

    name: KeyName
    type: KeyType
    public_key: bytes
    generation: int
    trust_domain: str
    issued_at: int
    policy: PolicyInForce | None
    provider: ProviderIdentity
    simulated: bool
    signed: bytes
    signature: bytes
    attested_key: bytes


@dataclass(frozen=True, slots=True)
class _Said:
    """What the checks look at."""

    answer: ParsedPublicKey
    name: KeyName
    client_nonce: bytes | None
    pin: ProviderPin
    tolerance: Tolerance
    now: int


def public_key_request(
    name: KeyName, *, client_nonce: bytes, collateral: bool
) -> bytes:
    """The body of ``POST /v1/public-key``.

    Args:
        name: whose public half.
        client_nonce: 32 random bytes, to be handed to :func:`verify_public_key`.
        collateral: whether the provider shall staple collateral.
    """
    question = PublicKeyQuestion(
        tenant=name.tenant,
        workload=name.workload,
        purpose=name.purpose,
        label=name.label,
        client_nonce=client_nonce,
    )
    return encode_json(PublicKeyRequest.of(question, collateral=collateral))


def verify_public_key(
    body: bytes,
    *,
    name: KeyName,
    client_nonce: bytes | None,
    pin: ProviderPin,
    collateral: ProviderCollateral,
    now: int,
    tolerance: Tolerance | None = None,
) -> PublicKey:
    """Check an answer: form, ``PUBLIC_KEY_CHECKS`` in order, the provider's evidence.

    The connection that it came by does not count: what is said is signed, and secret to
    nobody. Does not check the provider's machine, nor anything that the pin leaves out.

    Args:
        body: JSON of the response to ``POST /v1/public-key``.
        name: whose public half it must be.
        client_nonce: 32 bytes that were sent. ``None`` for an answer that somebody else
            got and kept: it may be as old as the attested key's life around ``now``.
        pin: what the provider must be.
        collateral: judges the provider's evidence.
        now: Unix seconds by the caller's clock; for a kept answer, as of when.
        tolerance: of the clocks.

    Raises:
        ProviderError: ``response_invalid``, ``provider_identity_mismatch``,
            ``provider_unverified``, ``provider_simulated`` or ``provider_debug``.
    """
    try:
        answer = decode_json(body, PublicKeyResponse).parsed()
    except RequestError as e:
        raise _invalid(e.detail) from e
    said = _Said(
        answer=answer,
        name=name,
        client_nonce=client_nonce,
        pin=pin,
        tolerance=tolerance or Tolerance(),
        now=now,
    )
    for _, check in PUBLIC_KEY_CHECKS:
        check(said)
    claims = verified(
        answer.provider_evidence,
        verifier_for=collateral.verifier_for,
        stapled=answer.stapled,
        now=now,
    )
    check_claims(claims, pin=pin, report_data=answer.body.binding.report_data())
    return _public_key(answer, name=name, simulated=claims.trust_domain.simulated)


def _public_key(
    answer: ParsedPublicKey, *, name: KeyName, simulated: bool
) -> PublicKey:
    body = answer.body
    return PublicKey(
        name=name,
        type=body.key_type,
        public_key=body.public_key,
        generation=body.generation,
        trust_domain=body.trust_domain,
        issued_at=body.issued_at,
        policy=body.policy,
        provider=body.binding.identity,
        simulated=simulated,
        signed=body.to_sign(),
        signature=answer.signature,
        attested_key=body.binding.public_key,
    )


def _question(s: _Said) -> None:
    asked = s.answer.body.question
    if s.client_nonce is not None and asked.client_nonce != s.client_nonce:
        raise _invalid("the client nonce is not the one that was sent")
    for part in ("tenant", "workload", "purpose", "label"):
        came, wanted = getattr(asked, part), getattr(s.name, part)
        if came != wanted:
            raise _invalid(f"{part}: asked for {wanted!r}, answered {came!r}")


def _not_simulated(s: _Said) -> None:
    # Both are the provider's words; its evidence decides below.
    domain = s.answer.body.trust_domain
    simulated = s.answer.simulated or domain.startswith(Vendor.SIMULATED.value)
    if simulated and not s.pin.allow_simulated:
        detail = f"the key is of {domain}; the pin does not allow simulated ones"
        raise ProviderError(Code.PROVIDER_SIMULATED, detail)


def _identity(s: _Said) -> None:
    check_identity(s.answer.body.binding.identity, pin=s.pin)


def _lifetime(s: _Said) -> None:
    check_lifetime(
        s.answer.body.binding,
        now=s.now,
        tolerance=s.tolerance,
        code=Code.RESPONSE_INVALID,
    )


def _time(s: _Said) -> None:
    body, skew = s.answer.body, s.tolerance.skew
    if not body.binding.not_before - skew <= body.issued_at <= s.now + skew:
        raise _invalid(f"issued at {body.issued_at}, now {s.now}")


def _signature(s: _Said) -> None:
    body = s.answer.body
    check_signature(
        body.binding.public_key,
        signature=s.answer.signature,
        signed=body.to_sign(),
        code=Code.RESPONSE_INVALID,
    )


def _public_half(s: _Said) -> None:
    body = s.answer.body
    try:
        check_public_half(body.public_key, body.key_type)
    except KeyReleaseError as e:
        raise _invalid(e.detail) from e


PUBLIC_KEY_CHECKS: Final[tuple[tuple[str, Callable[[_Said], None]], ...]] = (
    ("question", _question),
    ("not_simulated", _not_simulated),
    ("identity", _identity),
    ("attested_key_lifetime", _lifetime),
    ("issue_time", _time),
    ("signature", _signature),
    ("public_half", _public_half),
)
"""The checks before the provider's evidence is looked at, in order."""


def _invalid(detail: str) -> ProviderError:
    return ProviderError(Code.RESPONSE_INVALID, detail)


def _malformed(detail: str) -> RequestError:
    return RequestError(Code.REQUEST_MALFORMED, detail)
