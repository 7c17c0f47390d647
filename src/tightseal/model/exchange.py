# SPDX-License-Identifier: Apache-2.0
"""The exchange, version 1: what report data, signatures and HPKE info commit to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tightseal.model.canonical import Value, digest, labelled
from tightseal.model.generation import MAX_GENERATION
from tightseal.model.keypath import KeyPart, KeyPath, KeyRequest, KeyType
from tightseal.model.keyuse import Operation
from tightseal.model.labels import Label
from tightseal.model.provider import AttestedKeyBinding
from tightseal.model.state import AnchorClass

__all__ = [
    "CLIENT_NONCE_BYTES",
    "MAX_GENERATION",
    "MAX_KEY_REQUESTS",
    "PROTOCOL_VERSION",
    "ChallengeBody",
    "Kem",
    "KeyFacts",
    "PolicyInForce",
    "Transcript",
    "hpke_info",
    "quote_proof_report_data",
    "response_body",
]

PROTOCOL_VERSION: Final = 1
CLIENT_NONCE_BYTES: Final = 32
MAX_KEY_REQUESTS: Final = 16
"""Most keys in one exchange."""


class Kem(StrEnum):
    """Key encapsulation of the envelope; the suite's AEAD and KDF are fixed by it."""

    MLKEM768_X25519 = "mlkem768-x25519"
    X25519 = "x25519"


@dataclass(frozen=True, slots=True)
class ChallengeBody:
    """What the provider signs before a workload makes evidence.

    Attributes:
        binding: the provider's identity and attested key.
        nonce: the provider's MACed nonce.
        client_nonce: 32 bytes that the workload sent; makes the challenge fresh to it.
        expires_at: Unix seconds after which the nonce is refused.
        provider_evidence_hash: SHA-256 of the provider's evidence in the challenge.
        import_key: what existing keys are sealed to, 1216 bytes; ``None`` where it was
            not asked for.
    """

    binding: AttestedKeyBinding
    nonce: bytes
    client_nonce: bytes
    expires_at: int
    provider_evidence_hash: bytes
    import_key: bytes | None = None

    def to_sign(self) -> bytes:
        """The bytes that the attested key signs; seven members with an import key."""
        value: list[Value] = [
            PROTOCOL_VERSION,
            self.binding.as_value(),
            self.nonce,
            self.client_nonce,
            self.expires_at,
            self.provider_evidence_hash,
        ]
        if self.import_key is not None:
            value.append(self.import_key)
        return labelled(Label.SIGN_CHALLENGE, value)


@dataclass(frozen=True, slots=True)
class Transcript:
    """What both sides agree on; the workload's report data is its digest.

    Attributes:
        binding: identity and attested key, as the challenge gave them.
        nonce: the provider's nonce.
        kem: the envelope's KEM.
        recipient_key: raw public key, 32 bytes (X25519) or 1216 bytes (ML-KEM-768
            encapsulation key, then X25519).
        keys: the key requests, in order.
        event_log_hash: SHA-256 of the event log sent along, or ``None``.
    """

    binding: AttestedKeyBinding
    nonce: bytes
    kem: Kem
    recipient_key: bytes
    keys: tuple[KeyRequest, ...]
    event_log_hash: bytes | None = None

    def as_value(self) -> Value:
        """The transcript as a canonical value."""
        return [
            PROTOCOL_VERSION,
            self.binding.identity.as_value(),
            self.binding.key_hash(),
            self.nonce,
            self.kem.value,
            self.recipient_key,
            [k.as_value() for k in self.keys],
            self.event_log_hash,
            self.binding.tls_key_hash,
        ]

    def report_data(self) -> bytes:
        """The 64 bytes that the workload's evidence must carry."""
        return digest(Label.REPORT_WORKLOAD, self.as_value())

    def hash_with(self, evidence: bytes) -> bytes:
        """SHA-512 over the transcript and the evidence that answered it; 64 bytes."""
        return digest(
            Label.TRANSCRIPT, [self.as_value(), hashlib.sha256(evidence).digest()]
        )

    def hpke_info(self, evidence: bytes, *, index: int) -> bytes:
        """HPKE ``info`` of the envelope of key ``index`` of this exchange."""
        return hpke_info(self.hash_with(evidence), index=index)

    def import_info(self, evidence: bytes, *, index: int) -> bytes:
        """HPKE ``info`` of the key that request ``index`` of this exchange imports."""
        return labelled(Label.HPKE_IMPORT, [self.hash_with(evidence), index])


def hpke_info(transcript_hash: bytes, *, index: int) -> bytes:
    """HPKE ``info`` of the envelope of key ``index`` of the exchange of that hash."""
    return labelled(Label.HPKE_INFO, [transcript_hash, index])


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What an envelope holds; the key request does not say all of it.

    Attributes:
        key_type: raw bytes, or which kind of pair; policy decides it.
        part: the key itself, or the public half of a pair.
        generation: version of the root that it was derived from, or is wrapped under.
        use: the envelope holds no key but the result of this operation with it;
            ``None`` for a key.
    """

    key_type: KeyType
    part: KeyPart
    generation: int
    use: Operation | None = None

    @classmethod
    def of(cls, path: KeyPath, request: KeyRequest) -> KeyFacts:
        """The facts of a key that is derived along ``path`` for ``request``."""
        use = None if request.use is None else request.use.operation
        return cls(path.key_type, request.part, path.generation, use)

    def as_value(self) -> Value:
        """The facts as a canonical value; without a use it has three members."""
        value: list[Value] = [self.key_type.value, self.part.value, self.generation]
        return value if self.use is None else [*value, self.use.value]


@dataclass(frozen=True, slots=True)
class PolicyInForce:
    """The signed policy that a decision was made under.

    Attributes:
        version: of the bundle; only rises.
        digest: SHA-256 of the bundle, 32 bytes.
    """

    version: int
    digest: bytes

    def as_value(self) -> Value:
        """Version and digest as a canonical value."""
        return [self.version, self.digest]


@dataclass(frozen=True, slots=True)
class LogPromise:
    """Where a release is logged: said under the attested key, before it is logged.

    Attributes:
        key: the verifier key of the provider's log (C2SP signed-note), which the
            attested key so certifies.
        leaf: hash of the release's entry, 32 bytes; a proof in the response shows that
            the log has it.
    """

    key: str
    leaf: bytes

    def as_value(self) -> Value:
        """Key and leaf as a canonical value."""
        return [self.key, self.leaf]


def response_body(
    *,
    transcript_hash: bytes,
    envelopes: tuple[bytes, ...],
    keys: tuple[KeyFacts, ...],
    entry_id: bytes,
    issued_at: int,
    single_verifier: bool,
    trust_domain: str,
    policy: PolicyInForce | None,
    anchor: AnchorClass | None,
    logged: LogPromise | None = None,
) -> bytes:
    """The bytes that the attested key signs over a response.

    Args:
        transcript_hash: of ``Transcript.hash_with``, 64 bytes.
        envelopes: the ciphertexts, in the order of the key requests.
        keys: what each envelope holds, in the same order.
        entry_id: names the journal entry, 16 bytes.
        issued_at: Unix seconds by the provider's clock.
        single_verifier: whether one verifier alone judged the workload's evidence.
        trust_domain: of the exchange, as it stands in the key path.
        policy: the signed policy in force; ``None`` where none is signed.
        anchor: what notices that the provider's whole state was put back; ``None``
            where the release depended on no state.
        logged: where the release is logged; left out of the bytes where it is ``None``.
    """
    hashes: list[Value] = [hashlib.sha256(e).digest() for e in envelopes]
    said: list[Value] = [
        [k.as_value() for k in keys],
        entry_id,
        issued_at,
        single_verifier,
        trust_domain,
        None if policy is None else policy.as_value(),
        None if anchor is None else anchor.value,
    ]
    if logged is not None:
        said.append(logged.as_value())
    return labelled(Label.SIGN_RESPONSE, [transcript_hash, hashes, *said])


def quote_proof_report_data(signed_body: bytes) -> bytes:
    """Report data of the provider's quote over one response; 64 bytes.

    Args:
        signed_body: the bytes of ``response_body`` for that response.
    """
    return digest(Label.REPORT_QUOTE_PROOF, signed_body)
