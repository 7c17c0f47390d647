# SPDX-License-Identifier: Apache-2.0
"""Worked examples of the documentation, computed by the code that they explain."""

from __future__ import annotations

from typing import Final

from tightseal.cli.reference_tables import table
from tightseal.keys.chain import derive
from tightseal.keys.kdf import node_bytes, step
from tightseal.model.canonical import Value, labelled
from tightseal.model.claims import Tee
from tightseal.model.exchange import (
    ChallengeBody,
    Kem,
    KeyFacts,
    Transcript,
    quote_proof_report_data,
    response_body,
)
from tightseal.model.keypath import (
    Authority,
    IdentityKind,
    Kdf,
    KeyPart,
    KeyPath,
    KeyRequest,
    KeyType,
    ProtocolClass,
    WorkloadBinding,
)
from tightseal.model.labels import Label
from tightseal.model.provider import (
    AttestedKeyBinding,
    ProviderIdentity,
    sidecar_keyring_id,
)
from tightseal.model.secret import Secret

__all__ = ["exchange_example", "key_example"]

EVIDENCE: Final = b"evidence"
ISSUED_AT: Final = 1_790_000_000


def _binding() -> AttestedKeyBinding:
    return AttestedKeyBinding(
        identity=ProviderIdentity(
            tee="sgx",
            measurement=b"\x11" * 32,
            keyring_id=sidecar_keyring_id(),
            policy_root=None,
            settings_digest=b"\x22" * 64,
        ),
        public_key=b"\x33" * 32,
        not_before=ISSUED_AT,
        not_after=ISSUED_AT + 3720,
    )


def exchange_example() -> str:
    """Every value that an exchange commits to, for fixed inputs."""
    binding = _binding()
    nonce, envelope = b"\x44" * 56, b"\x77" * 80
    challenge = ChallengeBody(
        binding=binding,
        nonce=nonce,
        client_nonce=b"\x55" * 32,
        expires_at=ISSUED_AT + 120,
        provider_evidence_hash=b"\x66" * 32,
    )
    transcript = Transcript(
        binding=binding,
        nonce=nonce,
        kem=Kem.X25519,
        recipient_key=b"\x09" + bytes(31),
        keys=(KeyRequest("disk", "", 32),),
    )
    signed = response_body(
        transcript_hash=transcript.hash_with(EVIDENCE),
        envelopes=(envelope,),
        keys=(KeyFacts(KeyType.RAW, KeyPart.PRIVATE, 0),),
        entry_id=b"\x88" * 16,
        issued_at=ISSUED_AT,
        single_verifier=False,
        trust_domain="intel",
        policy=None,
        anchor=None,
    )
    rows = (
        ("keyring id of the sidecar", sidecar_keyring_id()),
        ("attested key hash", binding.key_hash()),
        ("report data of the provider's evidence", binding.report_data()),
        ("challenge: bytes signed", challenge.to_sign()),
        ("report data of the workload", transcript.report_data()),
        ("transcript hash", transcript.hash_with(EVIDENCE)),
        ("HPKE info of key 0", transcript.hpke_info(EVIDENCE, index=0)),
        ("response: bytes signed", signed),
        ("report data of a quote proof", quote_proof_report_data(signed)),
    )
    return table(("Value", "Hex"), ((n, f"`{v.hex()}`") for n, v in rows))


def key_example() -> str:
    """One key with every node above it; fails where the chain gives another."""
    root = Secret(bytes(range(16)))
    path = KeyPath(
        kdf=Kdf.HKDF_SHA256,
        trust_domain="intel",
        tenant="default",
        workload=WorkloadBinding(
            identity=IdentityKind.MEASURED,
            name=None,
            tee=Tee.SGX,
            attributes=(("attributes", b"\x05" + bytes(15)),),
            measurements=(("mrenclave", b"\x11" * 32),),
            authority=Authority("settings_digest", b"\x22" * 64),
        ),
        protocol_class=ProtocolClass.V1,
        generation=0,
        purpose="disk",
    )
    inner = node_bytes(path.kdf)
    levels: tuple[tuple[Label, Value, int], ...] = (
        (Label.KDF_TRUST_DOMAIN, [path.kdf.value, path.trust_domain], inner),
        (Label.KDF_TENANT, path.tenant, inner),
        (
            Label.KDF_WORKLOAD,
            [path.protocol_class.value, path.generation, path.workload.as_value()],
            inner,
        ),
        (Label.KDF_PURPOSE, path.purpose, inner),
        (Label.KDF_LABEL, [path.label, path.length], path.length),
    )
    rows = [("root", "", root.reveal().hex())]
    node = root
    for label, value, length in levels:
        node = step(path.kdf, parent=node, label=label, value=value, length=length)
        name = label.value.rpartition("/")[2]
        rows.append((name, labelled(label, value).hex(), node.reveal().hex()))
    if node != derive(root, path):
        message = "the worked example is not what the chain derives"
        raise ValueError(message)
    return table(
        ("Level", "`info`, hex", "Node, hex"),
        ((n, f"`{i}`" if i else "", f"`{k}`") for n, i, k in rows),
    )
