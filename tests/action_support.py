# SPDX-License-Identifier: Apache-2.0
"""Operators, roles and actions that tests of several folders share."""

from dataclasses import replace
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tightseal.model.action import (
    GENERATION_ACTIONS,
    KEYRING_ACTIONS,
    SLOT_ACTIONS,
    Action,
    ActionKind,
    AdoptParameters,
    InviteParameters,
    KeyParameters,
    KeyringParameters,
    KeySource,
    Parameters,
    ProviderParts,
    RevokeParameters,
    Signature,
    SignedAction,
    SlotParameters,
)
from tightseal.model.claims import Tee
from tightseal.model.keypath import Authority, Kdf
from tightseal.model.provider import sidecar_keyring_id
from tightseal.model.slots import SlotClass
from tightseal.policy.actions import AuthorisedAction, authorise, verifies
from tightseal.policy.compiled import Role

NOW = 1_790_000_000
HOUR = 3600
ROOT = b"r" * 32
KEYRING = sidecar_keyring_id()
OURS = Authority("policy_root", ROOT)
BEFORE = Authority("settings_digest", b"s" * 64)
DISK = KeyParameters("acme", "database", "disk")


@cache
def key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


def public(name: str) -> bytes:
    return key(name).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def source(**changes: Any) -> KeySource:
    base = KeySource(
        kdf=Kdf.HKDF_SHA256,
        tenant="acme",
        purpose="disk",
        tee=Tee.TDX,
        attributes=(("td_attributes", bytes(8)), ("xfam", b"\xe7" + bytes(7))),
        measurements=(("mrtd", b"m" * 48), ("rtmr3", bytes(48))),
        authority=OURS,
    )
    return replace(base, **changes)


def adopt(replaces: bytes | None = None, **changes: Any) -> AdoptParameters:
    """Parameters that adopt ``source(**changes)`` as acme's disk."""
    return AdoptParameters("acme", "database", "disk", source(**changes), replaces)


def parts(fill: bytes) -> ProviderParts:
    return ProviderParts("sgx", fill * 32, fill * 64)


def parameters_of(kind: ActionKind) -> Parameters:
    if kind is ActionKind.ADOPT:
        return adopt()
    if kind is ActionKind.INVITE_PROVIDER:
        return InviteParameters(parts(b"g"), parts(b"j"), 7)
    if kind is ActionKind.REVOKE_PROVIDER:
        return RevokeParameters(7, (b"s" * 16,), b"i" * 16)
    if kind in GENERATION_ACTIONS:
        return KeyringParameters(7, 2)
    if kind in SLOT_ACTIONS:
        added = kind is ActionKind.ADD_SLOT
        return SlotParameters(
            7,
            slot=None if added else b"s" * 16,
            factors=(SlotClass.SGX, SlotClass.TPM2) if added else (),
            label="second" if added else "",
        )
    return KeyringParameters(7) if kind in KEYRING_ACTIONS else DISK


def action(kind: ActionKind = ActionKind.RESET_USAGE, **changes: Any) -> Action:
    base = Action(
        kind=kind,
        policy_root=ROOT,
        keyring_id=KEYRING,
        action_id=b"i" * 16,
        issued_at=NOW - HOUR,
        expires_at=NOW + HOUR,
        parameters=parameters_of(kind),
    )
    return replace(base, **changes)


def signature(asked: Action, name: str) -> Signature:
    return Signature(public(name), key(name).sign(asked.to_sign()))


def signed(asked: Action, *names: str) -> SignedAction:
    return SignedAction(asked, tuple(signature(asked, name) for name in names))


def role(**changes: Any) -> Role:
    base = Role(
        name="operators",
        tenant=None,
        threshold=1,
        keys=frozenset({public("alice"), public("bob"), public("carol")}),
        actions=frozenset(ActionKind),
    )
    return replace(base, **changes)


def judged(
    asked: SignedAction, *roles: Role, now: int = NOW, **changes: Any
) -> AuthorisedAction:
    provider: dict[str, Any] = {"policy_root": ROOT, "keyring_id": KEYRING}
    return authorise(asked, roles=roles or (role(),), now=now, **provider | changes)


def verifies_all(asked: SignedAction) -> list[bool]:
    return [verifies(asked.action, signature) for signature in asked.signatures]
