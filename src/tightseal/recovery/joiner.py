# SPDX-License-Identifier: Apache-2.0
"""What a provider that joins is, and the invitation that it joins by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tightseal.errors import Code, KeyReleaseError, PolicyError, RequestError
from tightseal.guest.provider import ProviderCollateral, Tolerance
from tightseal.keys.keyring import KeyringFile, Terms
from tightseal.model.action import Action, ActionKind, InviteParameters
from tightseal.model.action_file import parse_action
from tightseal.model.exchange import Kem
from tightseal.model.handoff import invitation_hash
from tightseal.model.ports import Clock, EvidenceSource
from tightseal.model.provider import ProviderIdentity
from tightseal.model.slots import SlotKey
from tightseal.policy.actions import authorise
from tightseal.policy.compiled import Policy

__all__ = ["Invited", "Joiner", "read_invitation", "require_counter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joiner:
    """What a provider that joins is and has.

    Attributes:
        platform: makes its evidence.
        tee, measurement: as the platform reports of this process.
        settings_digest: of the release settings that it will decide by.
        policy: of a bundle that was verified under the pinned policy root.
        policy_version: of that bundle.
        terms: under which it opens keyrings; ``policy_root`` is pinned.
        slot_keys: what can make and open slots here.
        own: those of them that a slot is made of.
        collateral: judges the giver's evidence.
        file: where the keyring shall lie.
        clock: Unix seconds.
        kem: of the envelope.
        tolerance: of the clocks.
    """

    platform: EvidenceSource
    tee: str
    measurement: bytes
    settings_digest: bytes
    policy: Policy
    policy_version: int
    terms: Terms
    slot_keys: Sequence[SlotKey]
    own: Sequence[SlotKey]
    collateral: ProviderCollateral
    file: KeyringFile
    clock: Clock
    kem: Kem = Kem.MLKEM768_X25519
    tolerance: Tolerance = field(default_factory=Tolerance)

    def identity(self, keyring_id: bytes) -> ProviderIdentity:
        """Who it will be, with that keyring."""
        return ProviderIdentity(
            tee=self.tee,
            measurement=self.measurement,
            keyring_id=keyring_id,
            policy_root=self.terms.policy_root,
            settings_digest=self.settings_digest,
        )


@dataclass(frozen=True, slots=True)
class Invited:
    """An invitation that is for us.

    Attributes:
        action: that operators signed.
        invite: its parameters.
        data: its file.
        hash: as of ``model.handoff.invitation_hash``.
    """

    action: Action
    invite: InviteParameters
    data: bytes
    hash: bytes

    @property
    def giver(self) -> ProviderIdentity:
        """Who hands over."""
        return self.action.giver(self.invite)

    @property
    def joiner(self) -> ProviderIdentity:
        """Who may join."""
        return self.action.joiner(self.invite)


def require_counter(counter: int, invite: InviteParameters) -> None:
    """Refuse a keyring that is older than the one that operators saw.

    Raises:
        KeyReleaseError: ``keyring_rolled_back``.
    """
    if counter < invite.counter:
        detail = f"keyring: counter {counter}, the invitation is for {invite.counter}"
        raise KeyReleaseError(Code.KEYRING_ROLLED_BACK, f"{detail} at least")


def read_invitation(joiner: Joiner, data: bytes) -> Invited:
    """Read an invitation, and judge it by our own policy.

    1. a role of the policy signed it, for the pinned policy root, and it has not
       expired: see ``policy.actions.authorise``
    2. it is an invitation                  ``action_not_allowed``
    3. it is for us, in all four parts      ``peer_identity_mismatch``

    Not checked: whether it was used before, which the giver knows.

    Raises:
        RequestError: 1 and 2.
        PolicyError: 3.
    """
    signed = parse_action(data)
    action = signed.action
    authorise(
        signed,
        roles=joiner.policy.roles,
        policy_root=joiner.terms.policy_root,
        # Which keyring it is, operators say here; a pinned one is compared below.
        keyring_id=action.keyring_id,
        now=joiner.clock(),
    )
    invite = action.parameters
    if action.kind is not ActionKind.INVITE_PROVIDER or not isinstance(
        invite, InviteParameters
    ):
        detail = f"expected an invitation, got {action.kind.value}"
        raise RequestError(Code.ACTION_NOT_ALLOWED, detail)
    invited = Invited(action, invite, data, invitation_hash(signed))
    _require_ours(joiner, invited)
    return invited


def _require_ours(joiner: Joiner, invited: Invited) -> None:
    wanted = invited.joiner
    pinned = joiner.terms.keyring_id
    ours = joiner.identity(wanted.keyring_id if pinned is None else pinned)
    for part in ("tee", "measurement", "keyring_id", "policy_root", "settings_digest"):
        expected, got = getattr(wanted, part), getattr(ours, part)
        if expected != got:
            detail = f"{part}: the invitation is for {_shown(expected)}, we have"
            raise PolicyError(Code.PEER_IDENTITY_MISMATCH, f"{detail} {_shown(got)}")


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
