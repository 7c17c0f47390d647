# SPDX-License-Identifier: Apache-2.0
import dataclasses
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.model import exchange
from tightseal.model.exchange import (
    ChallengeBody,
    Kem,
    KeyFacts,
    PolicyInForce,
    Transcript,
    response_body,
)
from tightseal.model.generation import GenerationName
from tightseal.model.keypath import KeyPart, KeyRequest, KeyType
from tightseal.model.keyuse import KeyUse, Operation
from tightseal.model.provider import AttestedKeyBinding, ProviderIdentity
from tightseal.model.public_key import PublicKeyBody, PublicKeyQuestion
from tightseal.model.state import AnchorClass

BINDING = AttestedKeyBinding(
    identity=ProviderIdentity(
        tee="sgx",
        measurement=b"m" * 32,
        keyring_id=b"k" * 32,
        policy_root=None,
        settings_digest=b"s" * 64,
    ),
    public_key=b"p" * 32,
    not_before=1_800_000_000,
    not_after=1_800_086_400,
)
TRANSCRIPT = Transcript(
    binding=BINDING,
    nonce=b"n" * 56,
    kem=Kem.X25519,
    recipient_key=b"r" * 32,
    keys=(KeyRequest("disk"), KeyRequest("signing", "a", 64)),
)
CHALLENGE = ChallengeBody(
    binding=BINDING,
    nonce=b"n" * 56,
    client_nonce=b"c" * 32,
    expires_at=1_800_000_060,
    provider_evidence_hash=b"e" * 32,
)


IMPORT = KeyRequest("disk", create=True, imported=b"i" * 64)


def of_identity(**changed: Any) -> AttestedKeyBinding:
    identity = dataclasses.replace(BINDING.identity, **changed)
    return dataclasses.replace(BINDING, identity=identity)


IDENTITIES = [
    of_identity(tee="snp"),
    of_identity(measurement=b"M" * 32),
    of_identity(keyring_id=b"K" * 32),
    of_identity(policy_root=b"s" * 32),
    of_identity(settings_digest=b"S" * 64),
    dataclasses.replace(BINDING, public_key=b"P" * 32),
    dataclasses.replace(BINDING, tls_key_hash=b"t" * 32),
]
TRANSCRIPTS = [
    *(dataclasses.replace(TRANSCRIPT, binding=b) for b in IDENTITIES),
    *(
        dataclasses.replace(TRANSCRIPT, **changed)
        for changed in (
            {"nonce": b"N" * 56},
            {"kem": Kem.MLKEM768_X25519},
            {"recipient_key": b"R" * 32},
            {"keys": ()},
            {"keys": TRANSCRIPT.keys[:1]},
            {"keys": TRANSCRIPT.keys[::-1]},
            {"keys": (KeyRequest("disk2"), TRANSCRIPT.keys[1])},
            {"keys": (KeyRequest("disk", "x"), TRANSCRIPT.keys[1])},
            {"keys": (KeyRequest("disk", "", 16), TRANSCRIPT.keys[1])},
            {"keys": (KeyRequest("", "disk"), TRANSCRIPT.keys[1])},
            {
                "keys": (
                    KeyRequest("disk", part=KeyPart.PUBLIC),
                    TRANSCRIPT.keys[1],
                )
            },
            {"keys": (KeyRequest("disk", create=True), TRANSCRIPT.keys[1])},
            *(
                {"keys": (KeyRequest("disk", use=use), TRANSCRIPT.keys[1])}
                for use in (
                    KeyUse(Operation.SIGN, b"m"),
                    KeyUse(Operation.SIGN, b"M"),
                    KeyUse(Operation.AGREE, b"m"),
                    KeyUse(Operation.SIGN, b"m", b"c"),
                    KeyUse(Operation.SIGN, b"", b"m"),
                )
            ),
            *(
                {"keys": (replace(IMPORT, **changed), TRANSCRIPT.keys[1])}
                for changed in (
                    {},
                    {"imported": b"I" * 64},
                    {"use": KeyUse(Operation.SIGN, b"m")},
                )
            ),
            {"event_log_hash": b"t" * 32},
        )
    ),
]


def test_every_field_of_the_transcript_is_varied() -> None:
    for kind, base, varied in (
        (Transcript, TRANSCRIPT, TRANSCRIPTS),
        (ProviderIdentity, BINDING.identity, [b.identity for b in IDENTITIES]),
    ):
        for field in dataclasses.fields(kind):
            values = [getattr(v, field.name) for v in varied]
            assert any(v != getattr(base, field.name) for v in values), field.name


def test_every_change_changes_what_is_committed_to() -> None:
    every = [TRANSCRIPT, *TRANSCRIPTS]
    assert len({t.report_data() for t in every}) == len(every)
    assert len({t.hash_with(b"evidence") for t in every}) == len(every)
    assert len({t.hpke_info(b"evidence", index=0) for t in every}) == len(every)
    assert len({t.import_info(b"evidence", index=0) for t in every}) == len(every)
    assert {len(t.report_data()) for t in every} == {64}


def test_protocol_version_is_committed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    before = TRANSCRIPT.report_data()
    monkeypatch.setattr(exchange, "PROTOCOL_VERSION", 2)
    assert TRANSCRIPT.report_data() != before


def test_evidence_and_index_enter_the_envelope() -> None:
    infos = {
        TRANSCRIPT.hpke_info(evidence, index=index)
        for evidence in (b"", b"evidence", b"evidence\0")
        for index in range(16)
    }
    assert len(infos) == 48
    imports = {
        TRANSCRIPT.import_info(evidence, index=index)
        for evidence in (b"", b"evidence", b"evidence\0")
        for index in range(16)
    }
    assert len(infos | imports) == 96
    assert TRANSCRIPT.hash_with(b"evidence") != TRANSCRIPT.report_data()


def test_attested_key_quote_commits_to_every_field_of_its_binding() -> None:
    every = [
        BINDING,
        *IDENTITIES,
        dataclasses.replace(BINDING, not_before=BINDING.not_before + 1),
        dataclasses.replace(BINDING, not_after=BINDING.not_after + 1),
    ]
    assert len({b.report_data() for b in every}) == len(every)
    assert TRANSCRIPT.report_data() not in {b.report_data() for b in every}


def test_challenge_signature_covers_every_field() -> None:
    every = [
        CHALLENGE,
        *(dataclasses.replace(CHALLENGE, binding=b) for b in IDENTITIES),
        *(
            dataclasses.replace(CHALLENGE, **changed)
            for changed in (
                {"nonce": b"N" * 56},
                {"client_nonce": b"C" * 32},
                {"expires_at": CHALLENGE.expires_at + 1},
                {"provider_evidence_hash": b"E" * 32},
                {"import_key": b"k" * 1216},
                {"import_key": b"K" * 1216},
            )
        ),
    ]
    assert len({c.to_sign() for c in every}) == len(every)


RAW = KeyFacts(KeyType.RAW, KeyPart.PRIVATE, 0)
POLICY = PolicyInForce(version=1, digest=b"d" * 32)


def body(**changed: Any) -> bytes:
    fields: dict[str, Any] = {
        "transcript_hash": b"h" * 64,
        "envelopes": (b"one", b"two"),
        "keys": (RAW, RAW),
        "entry_id": b"i" * 16,
        "issued_at": 1,
        "single_verifier": False,
        "trust_domain": "intel",
        "policy": POLICY,
        "anchor": AnchorClass.NONE,
    }
    return response_body(**fields | changed)


def test_response_signature_covers_every_field() -> None:
    every = [
        body(),
        body(transcript_hash=b"H" * 64),
        body(envelopes=(b"two", b"one")),
        body(envelopes=(b"onetwo",)),
        body(envelopes=(b"one", b"two", b"")),
        body(keys=(RAW,)),
        body(keys=(RAW, RAW, RAW)),
        body(keys=(dataclasses.replace(RAW, generation=1), RAW)),
        body(keys=(RAW, dataclasses.replace(RAW, generation=1))),
        body(keys=(dataclasses.replace(RAW, part=KeyPart.PUBLIC), RAW)),
        *(
            body(keys=(dataclasses.replace(RAW, key_type=kind), RAW))
            for kind in KeyType
            if kind is not KeyType.RAW
        ),
        *(body(keys=(dataclasses.replace(RAW, use=use), RAW)) for use in Operation),
        body(entry_id=b"I" * 16),
        body(issued_at=2),
        body(single_verifier=True),
        body(trust_domain="amd"),
        body(policy=None),
        body(policy=PolicyInForce(2, b"d" * 32)),
        body(policy=PolicyInForce(1, b"D" * 32)),
        body(anchor=None),
        *(body(anchor=a) for a in AnchorClass if a is not AnchorClass.NONE),
    ]
    assert len(set(every)) == len(every)


PUBLIC = PublicKeyBody(
    binding=BINDING,
    question=PublicKeyQuestion("acme", "web", "signing", "a", b"c" * 32),
    key_type=KeyType.X25519,
    generation=0,
    public_key=b"u" * 32,
    trust_domain="intel",
    issued_at=1,
    policy=POLICY,
    provider_evidence_hash=b"e" * 32,
)
QUESTIONS = [
    dataclasses.replace(PUBLIC.question, **changed)
    for changed in (
        {"tenant": "acm"},
        {"workload": "web2"},
        {"purpose": "sign"},
        {"label": ""},
        {"client_nonce": b"C" * 32},
        # the same letters, cut elsewhere
        {"tenant": "acmew", "workload": "eb"},
        {"purpose": "signinga", "label": ""},
    )
]
PUBLICS = [
    *(dataclasses.replace(PUBLIC, binding=b) for b in IDENTITIES),
    *(dataclasses.replace(PUBLIC, question=q) for q in QUESTIONS),
    *(
        dataclasses.replace(PUBLIC, **changed)
        for changed in (
            {"key_type": KeyType.ED25519},
            {"generation": 1},
            {"public_key": b"U" * 32},
            {"trust_domain": "amd"},
            {"issued_at": 2},
            {"policy": None},
            {"policy": PolicyInForce(2, b"d" * 32)},
            {"policy": PolicyInForce(1, b"D" * 32)},
            {"provider_evidence_hash": b"E" * 32},
        )
    ),
]


def test_public_key_signature_covers_every_field() -> None:
    for field in dataclasses.fields(PublicKeyBody):
        values = [getattr(v, field.name) for v in PUBLICS]
        assert any(v != getattr(PUBLIC, field.name) for v in values), field.name
    for field in dataclasses.fields(PublicKeyQuestion):
        values = [getattr(v, field.name) for v in QUESTIONS]
        assert any(v != getattr(PUBLIC.question, field.name) for v in values)
    every = [PUBLIC, *PUBLICS]
    assert len({p.to_sign() for p in every}) == len(every)


def test_signatures_of_one_kind_are_none_of_another() -> None:
    signed = [body(), PUBLIC.to_sign(), CHALLENGE.to_sign()]
    assert len({s[:40] for s in signed}) == 3


NAMES = st.text(max_size=12)


USES = st.builds(
    KeyUse, st.sampled_from(Operation), st.binary(max_size=3), st.binary(max_size=3)
)
REQUESTS = st.builds(
    KeyRequest,
    NAMES,
    NAMES,
    st.integers(16, 64),
    st.sampled_from(KeyPart),
    st.sampled_from(GenerationName) | st.integers(0, 3),
    st.booleans(),
    st.none() | USES,
    st.none() | st.binary(max_size=3),
)


@given(st.lists(REQUESTS, max_size=4), st.lists(REQUESTS, max_size=4))
def test_key_requests_are_framed(
    one: list[KeyRequest], other: list[KeyRequest]
) -> None:
    first = dataclasses.replace(TRANSCRIPT, keys=tuple(one)).report_data()
    second = dataclasses.replace(TRANSCRIPT, keys=tuple(other)).report_data()
    assert (first == second) is (one == other)


def test_without_a_use_a_request_is_written_as_before() -> None:
    asked = KeyRequest("disk", "a", 32)
    assert asked.as_value() == ["disk", "a", 32, "private", "current", False]
    use = KeyUse(Operation.UNWRAP, b"e", b"c")
    with_use = dataclasses.replace(asked, use=use).as_value()
    assert with_use == [*asked.as_value(), ["unwrap", b"e", b"c"]]
    imported = dataclasses.replace(asked, imported=b"c").as_value()
    assert imported == [*asked.as_value(), None, b"c"]
    assert RAW.as_value() == ["raw", "private", 0]


QUESTION = st.builds(PublicKeyQuestion, NAMES, NAMES, NAMES, NAMES, st.just(b"c" * 32))


@given(QUESTION, QUESTION)
def test_questions_for_public_halves_are_framed(
    one: PublicKeyQuestion, other: PublicKeyQuestion
) -> None:
    first = dataclasses.replace(PUBLIC, question=one).to_sign()
    second = dataclasses.replace(PUBLIC, question=other).to_sign()
    assert (first == second) is (one == other)
