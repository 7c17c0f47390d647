# SPDX-License-Identifier: Apache-2.0
"""Whether an operator action may be done: judged by the roles of the policy in force.

Six named checks, in this order: ``form``, ``provider``, ``time``, ``source``, ``role``,
``signatures``. Whether it was done before is for the state store to say; see
:mod:`tightseal.release.actions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tightseal.errors import Code, RequestError
from tightseal.model.action import (
    GENERATION_ACTIONS,
    KEYRING_ACTIONS,
    SLOT_ACTIONS,
    Action,
    ActionKind,
    AdoptParameters,
    InviteParameters,
    KeyringParameters,
    KeySource,
    RevokeParameters,
    Signature,
    SignedAction,
    SlotParameters,
)
from tightseal.model.claims import MEASUREMENT_NAMES
from tightseal.model.keypath import Authority
from tightseal.model.settings import ALWAYS_BOUND, LAUNCH_MEASUREMENTS
from tightseal.model.slots import SlotClass
from tightseal.policy.compiled import Role
from tightseal.policy.fields import MEASUREMENT_BYTES

__all__ = [
    "CHECKS",
    "CLOCK_SKEW_SECONDS",
    "MAX_LIFE_SECONDS",
    "AuthorisedAction",
    "authorise",
    "check_form",
    "verifies",
]

CHECKS: Final = ("form", "provider", "time", "source", "role", "signatures")
"""The checks in the order in which they are made; each error names its own."""

MAX_LIFE_SECONDS: Final = 7 * 86_400
"""Longest time from ``issued_at`` to ``expires_at``. It bounds how long a host can hold
an action back, and for how long one can be done again where the state went back."""

CLOCK_SKEW_SECONDS: Final = 300
"""How far an operator's clock may be ahead of ours."""

MAX_ROLES_IN_TEXT: Final = 4


@dataclass(frozen=True, slots=True)
class AuthorisedAction:
    """An action that enough holders of a role have signed. Made by ``authorise`` only.

    Attributes:
        action: to be done.
        role: that allows it.
        signers: public keys of the role whose signatures are valid, in order.
    """

    action: Action
    role: Role
    signers: tuple[bytes, ...]


def authorise(
    signed: SignedAction,
    *,
    roles: Sequence[Role],
    policy_root: bytes | None,
    keyring_id: bytes,
    now: int,
) -> AuthorisedAction:
    """Judge whether an action may be done, once.

    1. ``form``: parameters fit the kind; a source names every attribute that always
       enters, known measurements of the right length, and what was launched.
    2. ``provider``: it is meant for this policy root and this keyring.
    3. ``time``: issued before now, not expired, and lives at most
       ``MAX_LIFE_SECONDS``.
    4. ``source``: a key is adopted only from under this very policy root.
    5. ``role``: a role allows this kind for this tenant. A tenant's role adopts only
       from the tenant's own keys, and leaves the keyring alone.
    6. ``signatures``: as many different keys of one such role as its threshold have
       signed; what other keys signed, and what does not verify, counts for nothing.

    Not checked: that it was not done before, that the workload is in the policy, and
    that ``now`` is true beyond the floor its giver keeps.

    Args:
        signed: as it was parsed.
        roles: of the policy in force.
        policy_root: the pinned one; ``None`` where none is, which allows no action.
        keyring_id: our own.
        now: Unix seconds.

    Raises:
        RequestError: ``action_malformed``, ``action_provider_mismatch``,
            ``action_expired``, ``action_not_allowed``, ``action_undersigned``.
    """
    action = signed.action
    check_form(action)
    _check_provider(action, policy_root=policy_root, keyring_id=keyring_id)
    _check_time(action, now=now)
    _check_source_authority(action)
    allowing = _check_role(action, roles)
    role, signers = _check_signatures(signed, allowing)
    return AuthorisedAction(action, role, signers)


def verifies(action: Action, signature: Signature) -> bool:
    """Whether a signature is of the key that it names, whoever has that key."""
    try:
        key = Ed25519PublicKey.from_public_bytes(signature.key)
        key.verify(signature.signature, action.to_sign())
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


def check_form(action: Action) -> None:
    """Check ``form``; also for whoever is about to sign.

    Raises:
        RequestError: ``action_malformed``.
    """
    parameters, kind = action.parameters, action.kind
    forms = {
        AdoptParameters: kind is ActionKind.ADOPT,
        KeyringParameters: kind in KEYRING_ACTIONS,
        SlotParameters: kind in SLOT_ACTIONS,
        InviteParameters: kind is ActionKind.INVITE_PROVIDER,
        RevokeParameters: kind is ActionKind.REVOKE_PROVIDER,
    }
    fits = all((type(parameters) is form) == due for form, due in forms.items())
    if isinstance(parameters, KeyringParameters):
        named = action.kind in GENERATION_ACTIONS
        fits = fits and named == (parameters.generation is not None)
    if isinstance(parameters, SlotParameters):
        fits = fits and _slot_fits(kind, parameters)
    if not fits:
        detail = f"{action.kind.value} with {type(parameters).__name__}"
        raise _refused(Code.ACTION_MALFORMED, "form", detail)
    if isinstance(parameters, AdoptParameters):
        _check_source(parameters.source)


def _slot_fits(kind: ActionKind, parameters: SlotParameters) -> bool:
    """A new slot has classes, in their one order; what is there has an id."""
    if kind is not ActionKind.ADD_SLOT:
        bare = SlotParameters(parameters.counter, parameters.slot)
        must_name = kind is ActionKind.REMOVE_SLOT
        return parameters == bare and (parameters.slot is not None or not must_name)
    factors = parameters.factors
    ordered = tuple(name for name in SlotClass if name in factors)
    return parameters.slot is None and bool(factors) and factors == ordered


def _check_source(source: KeySource) -> None:
    """Only what a measured key was ever derived from; else nothing would be found."""
    always = tuple(sorted(ALWAYS_BOUND[source.tee]))
    names = tuple(name for name, _ in source.attributes)
    if names != always:
        detail = f"attributes: expected {', '.join(always)}, got {', '.join(names)}"
        raise _refused(Code.ACTION_MALFORMED, "form", detail)
    known = MEASUREMENT_NAMES[source.tee]
    for name, value in (*source.attributes, *source.measurements):
        if name not in known:
            detail = f"{name} is no measurement of {source.tee.value}"
            raise _refused(Code.ACTION_MALFORMED, "form", detail)
        if len(value) != MEASUREMENT_BYTES[name]:
            expected = f"expected {MEASUREMENT_BYTES[name]} bytes, got {len(value)}"
            raise _refused(Code.ACTION_MALFORMED, "form", f"{name}: {expected}")
    launch = LAUNCH_MEASUREMENTS[source.tee]
    if not any(name in launch and any(value) for name, value in source.measurements):
        detail = f"measurements: expected {' or '.join(launch)}, not all zero"
        raise _refused(Code.ACTION_MALFORMED, "form", detail)


def _check_provider(
    action: Action, *, policy_root: bytes | None, keyring_id: bytes
) -> None:
    for name, expected, got in (
        ("policy root", policy_root, action.policy_root),
        ("keyring", keyring_id, action.keyring_id),
    ):
        if expected != got:
            ours = "none" if expected is None else expected.hex()
            detail = f"{name}: expected {ours}, got {got.hex()}"
            raise _refused(Code.ACTION_PROVIDER_MISMATCH, "provider", detail)


def _check_time(action: Action, *, now: int) -> None:
    issued, expires = action.issued_at, action.expires_at
    if not 0 < expires - issued <= MAX_LIFE_SECONDS:
        detail = f"lives {expires - issued} s, expected 1 to {MAX_LIFE_SECONDS}"
        raise _refused(Code.ACTION_EXPIRED, "time", detail)
    if issued > now + CLOCK_SKEW_SECONDS:
        raise _refused(Code.ACTION_EXPIRED, "time", f"issued at {issued}, now {now}")
    if now >= expires:
        raise _refused(Code.ACTION_EXPIRED, "time", f"expired at {expires}, now {now}")


def _check_source_authority(action: Action) -> None:
    """Keys under another policy, or none, are not ours to give away.

    Else a host starts the genuine image with a policy root of its own, signs as its
    operator, and adopts the keys of the provider that ran there before.
    """
    if not isinstance(action.parameters, AdoptParameters):
        return
    authority = action.parameters.source.authority
    ours = Authority("policy_root", action.policy_root)
    if authority != ours:
        detail = f"expected keys under {_told(ours)}, got {_told(authority)}"
        raise _refused(Code.ACTION_NOT_ALLOWED, "source", detail)


def _told(authority: Authority) -> str:
    return f"{authority.kind} {authority.value.hex()}"


def _check_role(action: Action, roles: Sequence[Role]) -> list[Role]:
    """The roles that allow it, which is not yet to say that they signed."""
    tenants = _tenants(action)
    allowing = [
        role
        for role in roles
        if action.kind in role.actions
        and (role.tenant is None or tenants == {role.tenant})
    ]
    if not allowing:
        named = " and ".join(sorted(tenants)) or "every tenant"
        detail = f"no role of the policy allows {action.kind.value} for {named}"
        raise _refused(Code.ACTION_NOT_ALLOWED, "role", detail)
    return allowing


def _tenants(action: Action) -> set[str]:
    """Whose keys it is about; a change of the keyring is about everybody's."""
    parameters = action.parameters
    if isinstance(parameters, KeyringParameters | SlotParameters | RevokeParameters):
        return set()
    if isinstance(parameters, InviteParameters):
        # A tenant's operators may give their own branch away, and nobody else's.
        return set() if parameters.tenant is None else {parameters.tenant}
    if isinstance(parameters, AdoptParameters):
        # Else a tenant's operators would help themselves to another tenant's keys.
        return {parameters.tenant, parameters.source.tenant}
    return {parameters.tenant}


def _check_signatures(
    signed: SignedAction, allowing: Sequence[Role]
) -> tuple[Role, tuple[bytes, ...]]:
    """The first role with enough keys that signed."""
    keys = frozenset[bytes]().union(*(role.keys for role in allowing))
    valid = {
        signature.key
        for signature in signed.signatures
        if signature.key in keys and verifies(signed.action, signature)
    }
    for role in allowing:
        signers = role.keys & valid
        if len(signers) >= max(1, role.threshold):
            return role, tuple(sorted(signers))
    counted = [
        f"{len(role.keys & valid)} of {role.threshold} of role {role}"
        for role in allowing[:MAX_ROLES_IN_TEXT]
    ]
    detail = f"signed by {'; '.join(counted)}"
    raise _refused(Code.ACTION_UNDERSIGNED, "signatures", detail)


def _refused(code: Code, check: str, detail: str) -> RequestError:
    return RequestError(code, f"{check}: {detail}")
