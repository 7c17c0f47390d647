# SPDX-License-Identifier: Apache-2.0
"""The HTTP API's JSON, requests and responses; the first byte says which."""

from fuzz_scenes import cast

from tightseal.model import wire
from tightseal.model.exchange import (
    ChallengeBody,
    Kem,
    KeyFacts,
    LogPromise,
    PolicyInForce,
)
from tightseal.model.keypath import KeyPart, KeyRequest, KeyType
from tightseal.model.keyuse import KeyUse, Operation
from tightseal.model.provider import AttestedKeyBinding, ProviderIdentity
from tightseal.model.public_key import PublicKeyBody, PublicKeyQuestion
from tightseal.model.state import AnchorClass
from tightseal.model.wire_collateral import IntelCollateralJson, SnpCertificatesJson

KINDS = (
    wire.ChallengeRequest,
    wire.ChallengeResponse,
    wire.KeysRequest,
    wire.KeysResponse,
    wire.Problem,
    wire.InfoResponse,
    wire.PublicKeyRequest,
    wire.PublicKeyResponse,
)


def _challenge() -> wire.ParsedChallenge:
    identity = ProviderIdentity("sgx", b"m" * 32, b"k" * 32, b"r" * 32, b"s" * 64)
    binding = AttestedKeyBinding(
        identity=identity,
        public_key=b"p" * 32,
        not_before=1,
        not_after=2,
        tls_key_hash=b"t" * 32,
    )
    collateral = cast().drafts[0].whole_collateral()
    return wire.ParsedChallenge(
        body=ChallengeBody(binding, b"n" * 56, b"c" * 32, 1_800_000_060, b"e" * 32),
        signature=b"s" * 64,
        provider_evidence=b"evidence",
        stapled=IntelCollateralJson.of(collateral),
        simulated=True,
    )


def _public_key(challenge: wire.ParsedChallenge) -> wire.ParsedPublicKey:
    body = PublicKeyBody(
        binding=challenge.body.binding,
        question=PublicKeyQuestion("acme", "web", "signing", "a", b"c" * 32),
        key_type=KeyType.P256,
        generation=1,
        public_key=b"\2" * 33,
        trust_domain="intel",
        issued_at=1,
        policy=PolicyInForce(7, b"d" * 32),
        provider_evidence_hash=b"e" * 32,
    )
    return wire.ParsedPublicKey(body, b"s" * 64, b"evidence", None, simulated=False)


def seeds() -> list[bytes]:
    request = wire.ParsedKeysRequest(
        nonce=b"n" * 56,
        binding_key_hash=b"h" * 32,
        kem=Kem.X25519,
        recipient_key=b"r" * 32,
        keys=(
            KeyRequest("disk"),
            KeyRequest("signing", "a", 64),
            KeyRequest("signing", use=KeyUse(Operation.UNWRAP, b"e" * 80, b"c")),
            KeyRequest("disk", "b", create=True, imported=b"i" * 64),
        ),
        event_log=b"[]",
        evidence=b"evidence",
        proof=wire.Proof.QUOTE,
        imports=(None, None, None, b"sealed"),
    )
    response = wire.ParsedKeysResponse(
        envelopes=(b"e" * 80,),
        keys=(KeyFacts(KeyType.ED25519, KeyPart.PUBLIC, 0),),
        transcript_hash=b"t" * 64,
        entry_id=b"i" * 16,
        issued_at=1,
        signature=b"s" * 64,
        public_key=b"p" * 32,
        single_verifier=False,
        trust_domain="intel",
        policy=PolicyInForce(7, b"d" * 32),
        anchor=AnchorClass.NONE,
        quote=b"quote",
        logged=LogPromise("log+0a0b0c0d+AQ==", b"l" * 32),
        log_proof=b"c2sp.org/tlog-proof@v1",
    )
    nonce = b'{"version":1,"client_nonce":"' + b"A" * 43 + b'","collateral":true}'
    problem = b'{"type":"t","title":"t","status":400,"code":"c","instance":null}'
    challenge = _challenge()
    public_key = _public_key(challenge)
    asked = wire.PublicKeyRequest.of(public_key.body.question, collateral=True)
    bodies = (
        nonce,
        wire.encode_json(wire.ChallengeResponse.of(challenge)),
        wire.encode_json(wire.KeysRequest.of(request)),
        wire.encode_json(wire.KeysResponse.of(response)),
        problem,
    )
    public = (
        wire.encode_json(asked),
        wire.encode_json(wire.PublicKeyResponse.of(public_key)),
    )
    whole = [*enumerate(bodies), *enumerate(public, start=6)]
    return [bytes([at]) + body for at, body in whole]


def one(data: bytes) -> None:
    kind = KINDS[data[0] % len(KINDS)] if data else KINDS[0]
    value = wire.decode_json(data[1:], kind)
    assert wire.decode_json(wire.encode_json(value), kind) == value
    if isinstance(value, (wire.Problem, wire.InfoResponse)):
        return
    parsed = value.parsed()  # type: ignore[attr-defined]
    if isinstance(parsed, wire.ParsedKeysRequest):
        assert wire.KeysRequest.of(parsed).parsed() == parsed
    if isinstance(parsed, wire.ParsedPublicKey):
        again = wire.PublicKeyResponse.of(parsed).parsed()
        assert again.body.to_sign() == parsed.body.to_sign()
    if isinstance(parsed, wire.ParsedChallenge) and parsed.stapled is not None:
        assert isinstance(parsed.stapled, IntelCollateralJson | SnpCertificatesJson)
        parsed.stapled.parsed()
