# SPDX-License-Identifier: Apache-2.0
"""The JSON of the HTTP API: strict, bounded, and the same value back."""

import base64
import hashlib
import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from use_strategies import USES

from tightseal.errors import CODES, Code, EvidenceError, RequestError
from tightseal.model import wire
from tightseal.model.base64url import (
    base64url_chars,
    decode_base64url,
    encode_base64url,
)
from tightseal.model.collateral import IntelCollateral, SnpCertificates
from tightseal.model.exchange import ChallengeBody, Kem, KeyFacts, PolicyInForce
from tightseal.model.keypath import KeyPart, KeyRequest, KeyType
from tightseal.model.keyuse import Operation
from tightseal.model.provider import AttestedKeyBinding, ProviderIdentity
from tightseal.model.public_key import PublicKeyBody, PublicKeyQuestion
from tightseal.model.state import AnchorClass

bytes32 = st.binary(min_size=32, max_size=32)
bytes64 = st.binary(min_size=64, max_size=64)
seconds = st.integers(0, 253_402_300_799)
names = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=128)

identities = st.builds(
    ProviderIdentity,
    tee=st.sampled_from(["sgx", "tdx", "snp"]),
    measurement=st.binary(min_size=32, max_size=48),
    keyring_id=bytes32,
    policy_root=st.none() | bytes32,
    settings_digest=bytes64,
)
bindings = st.builds(
    AttestedKeyBinding,
    identity=identities,
    public_key=bytes32,
    not_before=seconds,
    not_after=seconds,
    tls_key_hash=st.none() | bytes32,
)
intel = st.builds(
    IntelCollateral,
    pck_crl_issuer_chain=st.text(max_size=20),
    root_ca_crl=st.binary(max_size=20),
    pck_crl=st.binary(max_size=20),
    tcb_info_issuer_chain=st.text(max_size=20),
    tcb_info=st.text(max_size=20),
    tcb_info_signature=bytes64,
    qe_identity_issuer_chain=st.text(max_size=20),
    qe_identity=st.text(max_size=20),
    qe_identity_signature=bytes64,
    pck_certificate_chain=st.none() | st.text(max_size=20),
)
snp = st.builds(
    SnpCertificates,
    signer=st.binary(min_size=1, max_size=20),
    intermediate=st.binary(min_size=1, max_size=20),
    root=st.none() | st.binary(min_size=1, max_size=20),
    crl=st.none() | st.binary(min_size=1, max_size=20),
)
keys_requests = st.builds(
    wire.ParsedKeysRequest,
    nonce=st.binary(min_size=16, max_size=128),
    binding_key_hash=bytes32,
    kem=st.sampled_from(list(Kem)),
    recipient_key=st.binary(min_size=1, max_size=2048),
    keys=st.lists(
        st.builds(
            KeyRequest,
            purpose=names.filter(bool),
            label=names,
            length=st.integers(16, 64),
            part=st.sampled_from(KeyPart),
        )
        | st.builds(KeyRequest, purpose=names.filter(bool), use=USES)
        | st.builds(
            KeyRequest,
            purpose=names.filter(bool),
            create=st.just(True),
            imported=bytes64,
        ),
        min_size=1,
        max_size=16,
    ).map(tuple),
    event_log=st.none() | st.binary(max_size=100),
    evidence=st.binary(min_size=1, max_size=100),
    proof=st.sampled_from(list(wire.Proof)),
).map(
    lambda asked: replace(
        asked,
        imports=tuple(None if k.imported is None else b"sealed" for k in asked.keys)
        if any(k.imported for k in asked.keys)
        else (),
    )
)
generations = st.integers(0, (1 << 32) - 1)
policies = st.builds(
    PolicyInForce, version=st.integers(0, (1 << 53) - 1), digest=bytes32
)
keys_responses = st.builds(
    wire.ParsedKeysResponse,
    envelopes=st.lists(
        st.binary(min_size=1, max_size=2048), min_size=1, max_size=16
    ).map(tuple),
    keys=st.lists(
        st.builds(
            KeyFacts,
            key_type=st.sampled_from(KeyType),
            part=st.sampled_from(KeyPart),
            generation=generations,
            use=st.none() | st.sampled_from(Operation),
        ),
        min_size=1,
        max_size=16,
    ).map(tuple),
    transcript_hash=bytes64,
    entry_id=st.binary(min_size=16, max_size=16),
    issued_at=seconds,
    signature=bytes64,
    public_key=bytes32,
    single_verifier=st.booleans(),
    trust_domain=st.text(max_size=100),
    policy=st.none() | policies,
    anchor=st.none() | st.sampled_from(AnchorClass),
    quote=st.none() | st.binary(min_size=1, max_size=100),
)
questions = st.builds(
    PublicKeyQuestion,
    tenant=names.filter(bool),
    workload=names.filter(bool),
    purpose=names.filter(bool),
    label=names,
    client_nonce=bytes32,
)


@given(data=st.binary(max_size=100))
def test_base64url_comes_back(data: bytes) -> None:
    text = encode_base64url(data)
    assert len(text) == base64url_chars(len(data))
    assert decode_base64url(text, field="x", max_bytes=100) == data


@given(
    text=st.text(
        st.sampled_from("ABCabc012-_+/=\n \u00e9") | st.characters(), max_size=12
    )
)
def test_a_value_has_one_text(text: str) -> None:
    try:
        data = decode_base64url(text, field="x", max_bytes=100)
    except RequestError as e:
        assert e.code is Code.REQUEST_MALFORMED  # noqa: PT017
        return
    assert encode_base64url(data) == text


@pytest.mark.parametrize(
    "text",
    [
        "QQ==",
        "QQ=",
        "QR",
        "QUJ",
        "A",
        "AAAAA",
        "QQ\n",
        " QQ",
        "Q Q",
        "+/8",
        "QQ\N{FULLWIDTH LATIN CAPITAL LETTER A}",
    ],
    ids=[
        "padded",
        "half_padded",
        "trailing_bits",
        "trailing_bits_of_two",
        "one_character",
        "five_characters",
        "newline",
        "leading_space",
        "inner_space",
        "other_alphabet",
        "other_script",
    ],
)
def test_base64url_refused(text: str) -> None:
    with pytest.raises(RequestError):
        decode_base64url(text, field="x", max_bytes=100)


@pytest.mark.parametrize(("length", "fits"), [(0, False), (1, True), (3, True)])
def test_base64url_lengths(length: int, fits: bool) -> None:  # noqa: FBT001
    text = encode_base64url(bytes(length))
    if fits:
        decode_base64url(text, field="x", min_bytes=1, max_bytes=3)
    else:
        with pytest.raises(RequestError):
            decode_base64url(text, field="x", min_bytes=1, max_bytes=3)
    with pytest.raises(RequestError):
        decode_base64url(encode_base64url(bytes(4)), field="x", max_bytes=3)


@given(request=keys_requests)
def test_keys_request_comes_back(request: wire.ParsedKeysRequest) -> None:
    body = wire.encode_json(wire.KeysRequest.of(request))
    assert wire.decode_json(body, wire.KeysRequest).parsed() == request


@given(response=keys_responses)
def test_keys_response_comes_back(response: wire.ParsedKeysResponse) -> None:
    body = wire.encode_json(wire.KeysResponse.of(response))
    assert wire.decode_json(body, wire.KeysResponse).parsed() == response


@given(question=questions, collateral=st.booleans())
def test_public_key_request_comes_back(
    *, question: PublicKeyQuestion, collateral: bool
) -> None:
    request = wire.PublicKeyRequest.of(question, collateral=collateral)
    again = wire.decode_json(wire.encode_json(request), wire.PublicKeyRequest)
    assert again == request
    assert again.parsed() == question


@given(
    body=st.builds(
        PublicKeyBody,
        binding=bindings,
        question=questions,
        key_type=st.sampled_from(KeyType),
        generation=generations,
        public_key=st.binary(min_size=32, max_size=33),
        trust_domain=st.text(max_size=100),
        issued_at=seconds,
        policy=st.none() | policies,
        provider_evidence_hash=st.just(hashlib.sha256(b"evidence").digest()),
    ),
    signature=bytes64,
    staple=st.none() | snp.map(wire.SnpCertificatesJson.of),
    simulated=st.booleans(),
)
def test_public_key_response_comes_back(
    *,
    body: PublicKeyBody,
    signature: bytes,
    staple: wire.StapledJson | None,
    simulated: bool,
) -> None:
    parsed = wire.ParsedPublicKey(body, signature, b"evidence", staple, simulated)
    text = wire.encode_json(wire.PublicKeyResponse.of(parsed))
    assert wire.decode_json(text, wire.PublicKeyResponse).parsed() == parsed


@given(
    binding=bindings,
    nonce=st.binary(min_size=16, max_size=128),
    client_nonce=bytes32,
    expires_at=seconds,
    evidence=st.binary(min_size=1, max_size=100),
    signature=bytes64,
    staple=st.none() | intel | snp,
    simulated=st.booleans(),
)
def test_challenge_comes_back(
    *,
    binding: AttestedKeyBinding,
    nonce: bytes,
    client_nonce: bytes,
    expires_at: int,
    evidence: bytes,
    signature: bytes,
    staple: IntelCollateral | SnpCertificates | None,
    simulated: bool,
) -> None:
    stapled: wire.StapledJson | None = None
    if isinstance(staple, IntelCollateral):
        stapled = wire.IntelCollateralJson.of(staple)
    elif isinstance(staple, SnpCertificates):
        stapled = wire.SnpCertificatesJson.of(staple)
    parsed = wire.ParsedChallenge(
        body=ChallengeBody(
            binding=binding,
            nonce=nonce,
            client_nonce=client_nonce,
            expires_at=expires_at,
            provider_evidence_hash=hashlib.sha256(evidence).digest(),
        ),
        signature=signature,
        provider_evidence=evidence,
        stapled=stapled,
        simulated=simulated,
    )
    body = wire.encode_json(wire.ChallengeResponse.of(parsed))
    again = wire.decode_json(body, wire.ChallengeResponse).parsed()
    assert again == parsed
    assert (again.stapled and again.stapled.parsed()) == staple


def test_stapled_collateral_has_the_fields_of_quote_collateral_v3() -> None:
    fields = msgspec.json.schema(wire.IntelCollateralJson)["$defs"][
        "IntelCollateralJson"
    ]["properties"]
    assert set(fields) == {
        "kind",
        "pck_crl_issuer_chain",
        "root_ca_crl",
        "pck_crl",
        "tcb_info_issuer_chain",
        "tcb_info",
        "tcb_info_signature",
        "qe_identity_issuer_chain",
        "qe_identity",
        "qe_identity_signature",
        "pck_certificate_chain",
    }


GOOD: dict[str, Any] = {
    "version": 1,
    "nonce": encode_base64url(bytes(56)),
    "binding_key_hash": encode_base64url(bytes(32)),
    "kem": "x25519",
    "recipient_key": encode_base64url(bytes(32)),
    "keys": [{"purpose": "disk"}],
    "evidence": encode_base64url(b"evidence"),
}


def parsed(**changes: Any) -> wire.ParsedKeysRequest:
    fields = {k: v for k, v in (GOOD | changes).items() if v is not ...}
    body = json.dumps(fields).encode()
    return wire.decode_json(body, wire.KeysRequest).parsed()


def test_defaults_of_a_keys_request() -> None:
    request = parsed()
    assert request.proof is wire.Proof.ATTESTED_KEY
    assert request.event_log is None
    assert request.keys == (KeyRequest("disk", "", 32, KeyPart.PRIVATE),)
    assert request.keys[0].create is False


def test_a_key_request_says_whether_it_creates() -> None:
    request = parsed(keys=[{"purpose": "disk", "create": True}])
    assert request.keys == (KeyRequest("disk", create=True),)
    assert wire.KeyItem.of(request.keys[0]).parsed() == request.keys[0]


def test_an_empty_event_log_is_not_an_absent_one() -> None:
    assert parsed(event_log="").event_log == b""
    assert parsed(event_log=None).event_log is None


CASES: list[tuple[str, dict[str, Any]]] = [
    *[(f"without_{name}", {name: ...}) for name in GOOD],
    *[(f"{name}_is_null", {name: None}) for name in GOOD],
    *[(f"{name}_is_a_number", {name: 7}) for name in GOOD],
    ("unknown_field", {"polcy": "x"}),
    ("version_true", {"version": True}),
    ("version_float", {"version": 1.5}),
    ("kem_unknown", {"kem": "kyber"}),
    ("proof_unknown", {"proof": "none"}),
    ("nonce_short", {"nonce": encode_base64url(bytes(15))}),
    ("nonce_long", {"nonce": encode_base64url(bytes(129))}),
    ("hash_short", {"binding_key_hash": encode_base64url(bytes(31))}),
    ("hash_long", {"binding_key_hash": encode_base64url(bytes(33))}),
    ("hash_padded", {"binding_key_hash": base64.b64encode(bytes(32)).decode()}),
    ("recipient_empty", {"recipient_key": ""}),
    ("recipient_long", {"recipient_key": encode_base64url(bytes(2049))}),
    ("evidence_empty", {"evidence": ""}),
    ("evidence_long", {"evidence": encode_base64url(bytes((1 << 20) + 1))}),
    ("no_keys", {"keys": []}),
    ("seventeen_keys", {"keys": [{"purpose": "disk"}] * 17}),
    ("key_unknown_field", {"keys": [{"purpose": "disk", "lable": "x"}]}),
    ("purpose_empty", {"keys": [{"purpose": ""}]}),
    ("purpose_long", {"keys": [{"purpose": "d" * 129}]}),
    ("purpose_newline", {"keys": [{"purpose": "disk\n"}]}),
    ("purpose_only_newline", {"keys": [{"purpose": "\n"}]}),
    ("purpose_nul", {"keys": [{"purpose": "di\0sk"}]}),
    ("purpose_not_ascii", {"keys": [{"purpose": "d\u00efsk"}]}),
    ("label_long", {"keys": [{"purpose": "disk", "label": "l" * 129}]}),
    ("label_newline", {"keys": [{"purpose": "disk", "label": "\n"}]}),
    ("length_short", {"keys": [{"purpose": "disk", "length": 15}]}),
    ("length_long", {"keys": [{"purpose": "disk", "length": 65}]}),
    ("length_text", {"keys": [{"purpose": "disk", "length": "32"}]}),
    ("length_float", {"keys": [{"purpose": "disk", "length": 32.5}]}),
    ("part_unknown", {"keys": [{"purpose": "disk", "part": "both"}]}),
    ("part_null", {"keys": [{"purpose": "disk", "part": None}]}),
    ("part_upper_case", {"keys": [{"purpose": "disk", "part": "Public"}]}),
    ("create_text", {"keys": [{"purpose": "disk", "create": "true"}]}),
    ("create_number", {"keys": [{"purpose": "disk", "create": 1}]}),
    ("create_null", {"keys": [{"purpose": "disk", "create": None}]}),
    ("type_asked_for", {"keys": [{"purpose": "disk", "type": "ed25519"}]}),
]


@pytest.mark.parametrize("changes", [c[1] for c in CASES], ids=[c[0] for c in CASES])
def test_keys_request_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        parsed(**changes)
    assert caught.value.code is Code.REQUEST_MALFORMED


PUBLIC: dict[str, Any] = {
    "version": 1,
    "tenant": "acme",
    "workload": "web",
    "purpose": "signing",
    "client_nonce": encode_base64url(bytes(32)),
}
PUBLIC_CASES: list[tuple[str, dict[str, Any]]] = [
    *[(f"without_{name}", {name: ...}) for name in PUBLIC],
    *[(f"{name}_is_null", {name: None}) for name in PUBLIC],
    ("unknown_field", {"evidence": "AAAA"}),
    ("version_two", {"version": 2}),
    ("tenant_empty", {"tenant": ""}),
    ("workload_empty", {"workload": ""}),
    ("workload_newline", {"workload": "web\n"}),
    ("tenant_long", {"tenant": "t" * 129}),
    ("label_not_ascii", {"label": "\u00e9"}),
    ("nonce_short", {"client_nonce": encode_base64url(bytes(31))}),
    ("nonce_long", {"client_nonce": encode_base64url(bytes(33))}),
    ("collateral_text", {"collateral": "yes"}),
]


@pytest.mark.parametrize(
    "changes", [c[1] for c in PUBLIC_CASES], ids=[c[0] for c in PUBLIC_CASES]
)
def test_public_key_request_refused(changes: dict[str, Any]) -> None:
    fields = {k: v for k, v in (PUBLIC | changes).items() if v is not ...}
    with pytest.raises(RequestError) as caught:
        wire.decode_json(json.dumps(fields).encode(), wire.PublicKeyRequest).parsed()
    assert caught.value.code is Code.REQUEST_MALFORMED


@pytest.mark.parametrize(
    "kind",
    [
        wire.ChallengeRequest,
        wire.ChallengeResponse,
        wire.KeysRequest,
        wire.KeysResponse,
        wire.PublicKeyRequest,
        wire.PublicKeyResponse,
        wire.Problem,
    ],
)
def test_every_body_has_a_bound(kind: type[msgspec.Struct]) -> None:
    body = b'"' + b" " * (8 << 20) + b'"'
    with pytest.raises(RequestError) as caught:
        wire.decode_json(body, kind)
    assert caught.value.code is Code.REQUEST_TOO_LARGE


@given(body=st.binary(max_size=200))
@pytest.mark.parametrize(
    "kind", [wire.ChallengeRequest, wire.KeysRequest, wire.PublicKeyRequest]
)
def test_any_bytes_are_refused_in_words(
    kind: type[msgspec.Struct], body: bytes
) -> None:
    with pytest.raises(RequestError):
        wire.decode_json(body, kind)


@pytest.mark.parametrize("code", list(Code))
def test_a_problem_says_no_more_than_its_code(code: Code) -> None:
    problem = wire.Problem.of(EvidenceError(code, "operators only"), instance="i")
    assert problem.type == f"urn:tightseal:error:{code.value}"
    assert (problem.title, problem.status) == (CODES[code].public, CODES[code].status)
    assert b"operators only" not in wire.encode_json(problem)
    body = wire.encode_json(problem)
    assert wire.decode_json(body, wire.Problem) == problem


def test_the_same_struct_gives_the_same_bytes() -> None:
    first, second = parsed(), parsed()
    one = wire.encode_json(wire.KeysRequest.of(first))
    assert one == wire.encode_json(wire.KeysRequest.of(second))
