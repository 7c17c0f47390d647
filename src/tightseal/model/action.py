# SPDX-License-Identifier: Apache-2.0
"""Operator actions: one signed, replay-proof envelope for all that may be asked.

An action names the providers it is meant for (policy root and keyring), an id that no
provider does twice, and an end. Operators sign its canonical value; the file that they
pass around is of :mod:`tightseal.model.action_file`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias

from tightseal.model.canonical import Value, labelled
from tightseal.model.claims import Tee
from tightseal.model.keypath import (
    Authority,
    IdentityKind,
    Kdf,
    KeyPath,
    WorkloadBinding,
)
from tightseal.model.labels import Label
from tightseal.model.provider import ProviderIdentity, branch_keyring_id
from tightseal.model.slots import SlotClass
from tightseal.model.usage import key_record

__all__ = [
    "ACTION_ID_BYTES",
    "ACTION_VERSION",
    "GENERATION_ACTIONS",
    "KEYRING_ACTIONS",
    "KEYRING_ID_BYTES",
    "MAX_SIGNATURES",
    "POLICY_ROOT_BYTES",
    "PUBLIC_KEY_BYTES",
    "SIGNATURE_BYTES",
    "SLOT_ACTIONS",
    "Action",
    "ActionKind",
    "AdoptParameters",
    "InviteParameters",
    "KeyParameters",
    "KeySource",
    "KeyringParameters",
    "Parameters",
    "ProviderParts",
    "RevokeParameters",
    "Signature",
    "SignedAction",
    "SlotParameters",
]

ACTION_VERSION: Final = 1
ACTION_ID_BYTES: Final = 16
POLICY_ROOT_BYTES: Final = 32
KEYRING_ID_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
SETTINGS_DIGEST_BYTES: Final = 64
SLOT_ID_BYTES: Final = 16
"""Lengths of what an action holds, in bytes."""

MAX_REVOKED_SLOTS: Final = 16
"""Most slots that one revocation takes away."""

MAX_SIGNATURES: Final = 32
"""Most signatures of one action."""


class ActionKind(StrEnum):
    """What an operator may ask of a running provider."""

    ADOPT = "adopt"
    """A measured key goes on under a name."""

    RELEASE_PLATFORM = "release-platform"
    """The first platform is no longer the only one; the next to ask becomes it."""

    RESET_USAGE = "reset-usage"
    """Counting of a purpose's releases begins anew."""

    ROTATE_KEYRING = "rotate-keyring"
    """A new generation of the root is current from then on."""

    PREPARE_GENERATION = "prepare-generation"
    """The next generation is made; the next rotation takes it into use."""

    RETIRE_GENERATION = "retire-generation"
    """A generation that was prepared is withdrawn."""

    DESTROY_GENERATION = "destroy-generation"
    """The bytes of a retired generation are dropped."""

    ADD_SLOT = "add-slot"
    """The provider makes one more slot with what it has."""

    REMOVE_SLOT = "remove-slot"
    """A slot goes, where another one opens."""

    RENEW_SLOTS = "renew-slots"
    """Slots are made anew from what is there now."""

    INVITE_PROVIDER = "invite-provider"
    """Another provider may join; shown by the one that joins, never submitted."""

    REVOKE_PROVIDER = "revoke-provider"
    """A provider's slots go, and a new generation takes over from what it knew."""


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where a measured key is: the part of its path that adoption takes over.

    Trust domain, generation, protocol class, label, length and type are not in it: they
    stay those of the grant, so no adoption carries a key from one world, root or way in
    to another.

    Attributes:
        kdf: of the whole chain.
        tenant: that the key is derived under.
        purpose: likewise.
        tee: kind of TEE.
        attributes: those that always enter, by name; in the order of names.
        measurements: those that the key belongs to; likewise.
        authority: policy root or settings digest of then.
    """

    kdf: Kdf
    tenant: str
    purpose: str
    tee: Tee
    attributes: tuple[tuple[str, bytes], ...]
    measurements: tuple[tuple[str, bytes], ...]
    authority: Authority

    @classmethod
    def of(cls, path: KeyPath) -> KeySource:
        """The source of a measured key path."""
        binding = path.workload
        return cls(
            kdf=path.kdf,
            tenant=path.tenant,
            purpose=path.purpose,
            tee=binding.tee,
            attributes=tuple(sorted(binding.attributes)),
            measurements=tuple(sorted(binding.measurements)),
            authority=binding.authority,
        )

    def binding(self) -> WorkloadBinding:
        """The workload level of the key."""
        return WorkloadBinding(
            identity=IdentityKind.MEASURED,
            name=None,
            tee=self.tee,
            attributes=self.attributes,
            measurements=self.measurements,
            authority=self.authority,
        )

    def as_value(self) -> Value:
        """The source as a canonical value."""
        return {
            "kdf": self.kdf.value,
            "tenant": self.tenant,
            "purpose": self.purpose,
            "tee": self.tee.value,
            "attributes": dict(self.attributes),
            "measurements": dict(self.measurements),
            "authority": self.authority.as_value(),
        }


@dataclass(frozen=True, slots=True)
class KeyParameters:
    """A purpose of a workload: what ``release-platform`` and ``reset-usage`` need."""

    tenant: str
    workload: str
    purpose: str

    @property
    def record(self) -> str:
        """The name of the state record about this purpose."""
        return key_record(
            tenant=self.tenant, workload=self.workload, purpose=self.purpose
        )

    def as_value(self) -> Value:
        """The parameters as a canonical value."""
        return {
            "tenant": self.tenant,
            "workload": self.workload,
            "purpose": self.purpose,
        }


@dataclass(frozen=True, slots=True)
class AdoptParameters(KeyParameters):
    """What ``adopt`` needs.

    Attributes:
        tenant, workload, purpose: the name that the key goes on under.
        source: where it was.
        replaces: id of the action whose adoption this one takes the place of; ``None``
            where the name has none yet.
    """

    source: KeySource
    replaces: bytes | None = None

    def as_value(self) -> Value:
        """The parameters as a canonical value."""
        return {
            "tenant": self.tenant,
            "workload": self.workload,
            "purpose": self.purpose,
            "source": self.source.as_value(),
            "replaces": self.replaces,
        }


@dataclass(frozen=True, slots=True)
class KeyringParameters:
    """What a change of the keyring needs.

    Attributes:
        counter: that the keyring must have; an action that was done finds another one.
        generation: that is to be destroyed or withdrawn; else ``None``.
    """

    counter: int
    generation: int | None = None

    def as_value(self) -> Value:
        """The parameters as a canonical value."""
        return {"counter": self.counter, "generation": self.generation}


@dataclass(frozen=True, slots=True)
class SlotParameters:
    """What a change of slots needs.

    Attributes:
        counter: that the keyring must have; an action that was done finds another one.
        slot: id of the slot that goes or is made anew, 16 bytes; ``None`` for a new
            one, and to make every slot anew that opens.
        factors: classes of the new slot, in the order of ``SlotClass``; else none.
        label: of the new slot, for people.
        signer: whether the new slot is for every enclave of the signer.
    """

    counter: int
    slot: bytes | None = None
    factors: tuple[SlotClass, ...] = ()
    label: str = ""
    signer: bool = False

    def as_value(self) -> Value:
        """The parameters as a canonical value."""
        return {
            "counter": self.counter,
            "slot": self.slot,
            "factors": [factor.value for factor in self.factors],
            "label": self.label,
            "signer": self.signer,
        }


@dataclass(frozen=True, slots=True)
class ProviderParts:
    """What an invitation says of a provider; policy root and keyring are the action's.

    Attributes:
        tee: kind of TEE as text.
        measurement: MRENCLAVE (32 bytes) or SNP measurement (48 bytes).
        settings_digest: of the release settings that it decides by, 64 bytes.
    """

    tee: str
    measurement: bytes
    settings_digest: bytes

    @classmethod
    def of(cls, identity: ProviderIdentity) -> ProviderParts:
        """The parts of a whole identity that an invitation names."""
        return cls(identity.tee, identity.measurement, identity.settings_digest)

    def as_value(self) -> Value:
        """The parts as a canonical value."""
        return {
            "tee": self.tee,
            "measurement": self.measurement,
            "settings_digest": self.settings_digest,
        }


@dataclass(frozen=True, slots=True)
class InviteParameters:
    """What ``invite-provider`` needs: both sides, so that each can pin the other.

    Attributes:
        giver: the provider that hands the keyring over.
        joiner: the one that may take it.
        counter: that the giver's keyring has at least; an older copy of it, started on
            the same machine, would hand over roots that went out of use.
        tenant: the branch that crosses in place of the whole keyring; ``None`` for all.
    """

    giver: ProviderParts
    joiner: ProviderParts
    counter: int
    tenant: str | None = None

    def as_value(self) -> Value:
        """The parameters as a canonical value."""
        return {
            "giver": self.giver.as_value(),
            "joiner": self.joiner.as_value(),
            "counter": self.counter,
            "tenant": self.tenant,
        }


@dataclass(frozen=True, slots=True)
class RevokeParameters:
    """What ``revoke-provider`` needs.

    Attributes:
        counter: that the keyring must have; an action that was done finds another one.
        slots: ids of the slots that go.
        invitation: id of the invitation that the provider joined by; ``None`` for one
            that made the keyring.
    """

    counter: int
    slots: tuple[bytes, ...]
    invitation: bytes | None = None

    def as_value(self) -> Value:
        """The parameters as a canonical value."""
        return {
            "counter": self.counter,
            "slots": list(self.slots),
            "invitation": self.invitation,
        }


GENERATION_ACTIONS: Final = frozenset(
    {ActionKind.RETIRE_GENERATION, ActionKind.DESTROY_GENERATION}
)
"""Kinds that name a generation."""

KEYRING_ACTIONS: Final = GENERATION_ACTIONS | frozenset(
    {ActionKind.ROTATE_KEYRING, ActionKind.PREPARE_GENERATION}
)
"""Kinds that change generations; their parameters are ``KeyringParameters``."""

SLOT_ACTIONS: Final = frozenset(
    {ActionKind.ADD_SLOT, ActionKind.REMOVE_SLOT, ActionKind.RENEW_SLOTS}
)
"""Kinds that change slots; their parameters are ``SlotParameters``."""

Parameters: TypeAlias = (
    KeyParameters
    | AdoptParameters
    | KeyringParameters
    | SlotParameters
    | InviteParameters
    | RevokeParameters
)
"""``adopt`` has ``AdoptParameters``, every other kind about keys ``KeyParameters``."""


@dataclass(frozen=True, slots=True)
class Action:
    """What is asked, of whom, and until when.

    Attributes:
        kind: what is asked.
        policy_root: of the providers that it is meant for, 32 bytes.
        keyring_id: likewise; a constant in the sidecar shape.
        action_id: 16 random bytes; a provider does one id once.
        issued_at, expires_at: Unix seconds; from ``expires_at`` on it is refused.
        parameters: by kind.
    """

    kind: ActionKind
    policy_root: bytes
    keyring_id: bytes
    action_id: bytes
    issued_at: int
    expires_at: int
    parameters: Parameters

    def as_value(self) -> Value:
        """The action as a canonical value."""
        return {
            "version": ACTION_VERSION,
            "kind": self.kind.value,
            "policy_root": self.policy_root,
            "keyring_id": self.keyring_id,
            "action_id": self.action_id,
            "issued_at": self.issued_at,
            "expires_at": self.expires_at,
            "parameters": self.parameters.as_value(),
        }

    def giver(self, invite: InviteParameters) -> ProviderIdentity:
        """The whole identity of the provider that hands over."""
        return self._identity(invite.giver, self.keyring_id)

    def joiner(self, invite: InviteParameters) -> ProviderIdentity:
        """The whole identity of the provider that may join."""
        if invite.tenant is None:
            return self._identity(invite.joiner, self.keyring_id)
        branch = branch_keyring_id(self.keyring_id, invite.tenant)
        return self._identity(invite.joiner, branch)

    def _identity(self, parts: ProviderParts, keyring_id: bytes) -> ProviderIdentity:
        return ProviderIdentity(
            tee=parts.tee,
            measurement=parts.measurement,
            keyring_id=keyring_id,
            policy_root=self.policy_root,
            settings_digest=parts.settings_digest,
        )

    def to_sign(self) -> bytes:
        """What operators sign."""
        return labelled(Label.SIGN_ACTION, self.as_value())


@dataclass(frozen=True, slots=True)
class Signature:
    """An Ed25519 signature and the public key that it claims to be of."""

    key: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedAction:
    """An action and its signatures, none of which is checked yet."""

    action: Action
    signatures: tuple[Signature, ...] = ()

    def signed(self, signature: Signature) -> SignedAction:
        """With one more signature; an earlier one of the same key makes room."""
        others = tuple(s for s in self.signatures if s.key != signature.key)
        return replace(self, signatures=(*others, signature))
