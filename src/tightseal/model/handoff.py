# SPDX-License-Identifier: Apache-2.0
"""The handoff of a keyring: what report data, signatures and HPKE info commit to.

The joiner answers a challenge of the giver, as a workload does, with evidence over a
transcript of its own: who gives, who joins, by which invitation, and which key is to
receive. So what is authorised is what receives, whatever carries the bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from tightseal.model.action import SignedAction
from tightseal.model.canonical import Value, digest, labelled
from tightseal.model.exchange import Kem, PolicyInForce
from tightseal.model.labels import Label
from tightseal.model.provider import AttestedKeyBinding, ProviderIdentity

__all__ = [
    "CONFIRM_KEY_BYTES",
    "HANDOFF_VERSION",
    "HandoffBody",
    "HandoffTranscript",
    "confirmation",
    "invitation_hash",
]

HANDOFF_VERSION: Final = 1
CONFIRM_KEY_BYTES: Final = 32
"""Length of the joiner's Ed25519 key for this one handoff."""


def invitation_hash(invitation: SignedAction) -> bytes:
    """SHA-256 over what the operators signed, 32 bytes; signatures are not in it."""
    value = invitation.action.as_value()
    return hashlib.sha256(labelled(Label.INVITATION, value)).digest()


@dataclass(frozen=True, slots=True)
class HandoffTranscript:
    """What both sides agree on; the joiner's report data is its digest.

    Attributes:
        binding: the giver's identity and attested key, as its challenge gave them.
        nonce: the giver's.
        joiner: the joiner's identity, with the keyring id that it will have.
        invitation: as of :func:`invitation_hash`.
        kem: of the envelope.
        recipient_key: raw public key that receives.
        confirm_key: Ed25519 public key that will say how it went, 32 bytes.
        rehearsal: whether everything is checked and nothing crosses.
    """

    binding: AttestedKeyBinding
    nonce: bytes
    joiner: ProviderIdentity
    invitation: bytes
    kem: Kem
    recipient_key: bytes
    confirm_key: bytes
    rehearsal: bool

    def as_value(self) -> Value:
        """The transcript as a canonical value."""
        return [
            HANDOFF_VERSION,
            self.binding.identity.as_value(),
            self.binding.key_hash(),
            self.nonce,
            self.joiner.as_value(),
            self.invitation,
            self.kem.value,
            self.recipient_key,
            self.confirm_key,
            self.rehearsal,
            self.binding.tls_key_hash,
        ]

    def report_data(self) -> bytes:
        """The 64 bytes that the joiner's evidence must carry."""
        return digest(Label.REPORT_HANDOFF, self.as_value())

    def hash_with(self, evidence: bytes) -> bytes:
        """SHA-512 over the transcript and the evidence that answered it; 64 bytes."""
        return digest(
            Label.HANDOFF, [self.as_value(), hashlib.sha256(evidence).digest()]
        )

    def hpke_info(self, evidence: bytes) -> bytes:
        """HPKE ``info`` of the envelope with the keyring key."""
        return labelled(Label.HPKE_HANDOFF, self.hash_with(evidence))


@dataclass(frozen=True, slots=True)
class HandoffBody:
    """What the giver signs over a handoff.

    Attributes:
        transcript_hash: with the joiner's evidence, 64 bytes.
        envelope: the keyring key, sealed to the joiner; empty in a rehearsal.
        payload: what it opens (see ``keys.keyring.handed``); empty in a rehearsal.
        policy: the signed policy that the giver decided by.
        entry_id: of the giver's journal, 16 bytes.
        issued_at: Unix seconds by the giver's clock.
    """

    transcript_hash: bytes
    envelope: bytes
    payload: bytes
    policy: PolicyInForce
    entry_id: bytes
    issued_at: int

    def to_sign(self) -> bytes:
        """The bytes that the giver's attested key signs."""
        return labelled(
            Label.SIGN_HANDOFF,
            [
                HANDOFF_VERSION,
                self.transcript_hash,
                hashlib.sha256(self.envelope).digest(),
                hashlib.sha256(self.payload).digest(),
                self.policy.as_value(),
                self.entry_id,
                self.issued_at,
            ],
        )


def confirmation(
    transcript_hash: bytes, keyring: bytes, slots: tuple[bytes, ...]
) -> bytes:
    """What the joiner signs once its own slots have opened what it wrote.

    Args:
        transcript_hash: of the handoff, 64 bytes.
        keyring: the file that it wrote.
        slots: ids of the slots that it made.
    """
    file_hash = hashlib.sha256(keyring).digest()
    value: list[Value] = [HANDOFF_VERSION, transcript_hash, file_hash, list(slots)]
    return labelled(Label.SIGN_HANDOFF_CONFIRM, value)
