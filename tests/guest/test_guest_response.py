# SPDX-License-Identifier: Apache-2.0
"""Every response that a workload must refuse, and the ones it must not."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from scripted_provider import (
    AMD,
    IDENTITY,
    NOW,
    Provider,
    Workload,
    sgx_claims,
    stranger_key,
    terms,
)

from tightseal.envelope.hpke import RecipientKey
from tightseal.errors import (
    Code,
    KeyReleaseError,
    ProviderError,
    RequestError,
    ServiceError,
)
from tightseal.guest.exchange import Exchange, check_requests
from tightseal.guest.response import RESPONSE_CHECKS, ReleasedKeys
from tightseal.model.base64url import decode_base64url, encode_base64url
from tightseal.model.claims import PlatformIdentity
from tightseal.model.exchange import Kem, KeyFacts
from tightseal.model.keypath import KeyPart, KeyRequest, KeyType
from tightseal.model.wire import Proof

TWO = (KeyRequest("disk"), KeyRequest("config", "label", 16))
DISK = (KeyRequest("disk"),)


def asked(
    provider: Provider,
    *,
    keys: tuple[KeyRequest, ...] = TWO,
    proof: Proof = Proof.ATTESTED_KEY,
    event_log: bytes | None = None,
    **more: Any,
) -> tuple[Exchange, bytes]:
    """An exchange that has asked, and the provider's response."""
    exchange = Exchange(terms(provider, **more), keys, proof=proof, event_log=event_log)
    challenge = provider.challenge(exchange.challenge_request())
    report_data = exchange.check_challenge(challenge, now=NOW)
    evidence = Workload(provider.evidence).evidence(report_data)
    return exchange, provider.release(exchange.keys_request(evidence))


def released(provider: Provider, **more: Any) -> ReleasedKeys:
    exchange, response = asked(provider, **more)
    return exchange.open_response(response, now=NOW)


@pytest.mark.parametrize("kem", list(Kem))
@pytest.mark.parametrize("proof", list(Proof))
@pytest.mark.parametrize("event_log", [None, b"", b"[]"])
def test_keys_arrive(kem: Kem, proof: Proof, event_log: bytes | None) -> None:
    provider = Provider(keys={("disk", ""): b"k" * 32})
    result = released(provider, kem=kem, proof=proof, event_log=event_log)
    assert result.get("disk").reveal() == b"k" * 32
    assert len(result.get("config", "label")) == 16
    assert result.provider == IDENTITY
    assert not result.simulated
    assert (result.receipt.quote is None) == (proof is Proof.ATTESTED_KEY)


def test_the_receipt_can_be_checked_again() -> None:
    provider = Provider()
    receipt = released(provider).receipt
    provider.signer.public_key().verify(receipt.signature, receipt.signed)
    assert receipt.public_key == provider.signer.public_key().public_bytes_raw()


def test_a_key_that_was_not_asked_for() -> None:
    result = released(Provider())
    for purpose, label in (("other", ""), ("disk", "x"), ("config", "")):
        with pytest.raises(KeyReleaseError):
            result.get(purpose, label)


def test_keys_are_wiped_and_never_shown() -> None:
    provider = Provider(keys={("disk", ""): b"k" * 32})
    with released(provider, keys=DISK) as result:
        key = result.get("disk")
        assert "kkkk" not in repr(result)
        assert "6b6b" not in repr(result)
    assert key.reveal() == bytes(32)


def _flip(text: str) -> str:
    data = bytearray(decode_base64url(text, field="x", max_bytes=1 << 20))
    data[-1] ^= 1
    return encode_base64url(bytes(data))


def _receipt(**fields: Any) -> dict[str, Any]:
    def change(document: dict[str, Any]) -> None:
        receipt = document["receipt"]
        for name, value in fields.items():
            receipt[name] = value(receipt[name]) if callable(value) else value

    return {"response_after": change}


def _doc(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    return {"response_after": change}


def _before(**fields: Any) -> dict[str, Any]:
    return {"response_before": lambda r: replace(r, **fields)}


def _envelopes(change: Callable[[list[str]], list[str]]) -> dict[str, Any]:
    return _doc(lambda d: d | {"envelopes": change(d["envelopes"])})


def _facts(change: Callable[[list[Any]], list[Any]]) -> dict[str, Any]:
    return _doc(lambda d: d | {"keys": change(d["keys"])})


def _fact(index: int, **fields: Any) -> dict[str, Any]:
    def change(document: dict[str, Any]) -> None:
        document["keys"][index] |= fields

    return {"response_after": change}


def _policy(**fields: Any) -> dict[str, Any]:
    def change(document: dict[str, Any]) -> None:
        policy = document["receipt"]["policy"]
        for name, value in fields.items():
            policy[name] = value(policy[name]) if callable(value) else value

    return {"response_after": change}


def _drop(name: str) -> dict[str, Any]:
    def change(document: dict[str, Any]) -> None:
        where = document if name in document else document["receipt"]
        del where[name]

    return _doc(change)


def _quote(**fields: Any) -> dict[str, Any]:
    return {"quote_claims": lambda c: replace(c, **fields)}


INVALID = "response_invalid"
ENVELOPE = "envelope_invalid"
RAW = KeyFacts(KeyType.RAW, KeyPart.PRIVATE, 0)
PAIR = KeyFacts(KeyType.ED25519, KeyPart.PRIVATE, 0)
STRANGER = Ed25519PrivateKey.generate()
STRANGER_PUBLIC = STRANGER.public_key().public_bytes_raw()

CASES: list[tuple[str, dict[str, Any], str]] = [
    ("not_json", _doc(lambda _: b"{"), INVALID),
    ("oversized", _doc(lambda _: b" " * (3 << 20)), INVALID),
    ("version", _doc(lambda d: d | {"version": 2}), INVALID),
    *[
        (f"without_{name}", _drop(name), INVALID)
        for name in (
            "version",
            "envelopes",
            "keys",
            "receipt",
            "transcript_hash",
            "entry_id",
            "issued_at",
            "signature",
            "public_key",
            "single_verifier",
            "trust_domain",
            "policy",
            "anchor",
        )
    ],
    ("signature_padded", _receipt(signature=lambda s: s + "=="), INVALID),
    ("signature_newline", _receipt(signature=lambda s: s + "\n"), INVALID),
    ("no_envelopes", _envelopes(lambda _: []), INVALID),
    ("seventeen_envelopes", _envelopes(lambda e: [e[0]] * 17), INVALID),
    # changed after it was signed
    ("envelope", _envelopes(lambda e: [_flip(e[0]), e[1]]), INVALID),
    ("envelopes_swapped", _envelopes(lambda e: [e[1], e[0]]), INVALID),
    ("envelope_missing", _envelopes(lambda e: e[:1]), INVALID),
    ("envelope_added", _envelopes(lambda e: [*e, e[0]]), INVALID),
    ("transcript_hash", _receipt(transcript_hash=_flip), INVALID),
    ("entry_id", _receipt(entry_id=_flip), INVALID),
    ("issued_at", _receipt(issued_at=NOW + 1), INVALID),
    ("single_verifier", _receipt(single_verifier=True), INVALID),
    ("trust_domain", _receipt(trust_domain="amd"), INVALID),
    ("type", _fact(0, type="ed25519"), INVALID),
    ("generation", _fact(0, generation=1), INVALID),
    (
        "facts_swapped",
        _before(keys=(replace(RAW, generation=1), RAW)) | _facts(lambda k: k[::-1]),
        INVALID,
    ),
    ("policy_version", _policy(version=8), INVALID),
    ("policy_digest", _policy(digest=_flip), INVALID),
    ("policy_gone", _receipt(policy=None), INVALID),
    ("anchor", _receipt(anchor="tpm"), INVALID),
    ("anchor_gone", _receipt(anchor=None), INVALID),
    # facts of another form
    ("no_facts", _facts(lambda _: []), INVALID),
    ("seventeen_facts", _facts(lambda k: [k[0]] * 17), INVALID),
    ("type_unknown", _fact(0, type="rsa"), INVALID),
    ("part_unknown", _fact(0, part="both"), INVALID),
    ("generation_negative", _fact(0, generation=-1), INVALID),
    ("generation_over_32_bits", _fact(0, generation=1 << 32), INVALID),
    ("generation_as_bool", _fact(0, generation=True), INVALID),
    ("policy_digest_short", _policy(digest="AAAA"), INVALID),
    ("policy_version_negative", _policy(version=-1), INVALID),
    ("anchor_unknown", _receipt(anchor="trust me"), INVALID),
    # signed, and not what was asked for
    ("facts_of_one_key", _before(keys=(RAW,)), INVALID),
    ("facts_of_three_keys", _before(keys=(RAW,) * 3), INVALID),
    (
        "public_half_of_a_raw_key",
        _before(keys=(replace(RAW, part=KeyPart.PUBLIC), RAW)),
        INVALID,
    ),
    (
        "public_half_in_place_of_the_private",
        _before(keys=(replace(PAIR, part=KeyPart.PUBLIC), RAW)),
        INVALID,
    ),
    ("pair_of_sixteen_bytes", _before(keys=(RAW, PAIR)), INVALID),
    ("signature", _receipt(signature=_flip), INVALID),
    ("public_key", _receipt(public_key=_flip), INVALID),
    # signed, and still not an answer to this
    ("signed_by_a_stranger", {"response_signer": STRANGER}, INVALID),
    (
        "signed_by_a_stranger_who_says_so",
        {"response_signer": STRANGER} | _before(public_key=STRANGER_PUBLIC),
        INVALID,
    ),
    ("another_transcript", _before(transcript_hash=bytes(64)), INVALID),
    ("issued_in_the_future", _before(issued_at=NOW + 301), INVALID),
    ("issued_before_the_challenge", _before(issued_at=NOW - 301), INVALID),
    ("one_envelope_signed", {"envelopes_before": lambda e: e[:1]}, INVALID),
    ("swapped_and_signed", {"envelopes_before": lambda e: (e[1], e[0])}, ENVELOPE),
    ("first_twice_and_signed", {"envelopes_before": lambda e: (e[0],) * 2}, ENVELOPE),
    ("sealed_to_a_stranger", {"sealed_to": stranger_key()}, ENVELOPE),
    ("sealed_for_another_exchange", {"info_change": lambda i: i + b"x"}, ENVELOPE),
    ("key_too_short", {"keys": {("disk", ""): b"k" * 31}}, INVALID),
    ("key_too_long", {"keys": {("config", "label"): b"k" * 17}}, INVALID),
    (
        "simulated_exchange",
        _before(trust_domain="simulated:" + "22" * 48),
        "provider_simulated",
    ),
]

QUOTE_CASES: list[tuple[str, dict[str, Any], str]] = [
    ("no_quote", {"give_quote": False}, INVALID),
    ("quote_dropped", _receipt(quote=None), INVALID),
    ("quote_not_authentic", _receipt(quote=_flip), "provider_unverified"),
    (
        "quote_over_something_else",
        _quote(report_data=bytes([1]) * 64),
        "provider_unverified",
    ),
    (
        "quote_of_another_machine",
        _quote(platform=PlatformIdentity(ppid=bytes([8]) * 16)),
        INVALID,
    ),
    ("quote_of_no_machine", _quote(platform=PlatformIdentity()), INVALID),
    ("quote_of_a_debug_twin", _quote(debug=True), "provider_debug"),
    (
        "quote_of_another_build",
        _quote(measurements={"mrenclave": bytes(32)}),
        "provider_identity_mismatch",
    ),
    ("quote_of_another_domain", _quote(trust_domain=AMD), "provider_unverified"),
]


@pytest.mark.parametrize(
    ("changes", "code"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_refused(changes: dict[str, Any], code: str) -> None:
    exchange, response = asked(Provider(**changes))
    with pytest.raises((ProviderError, KeyReleaseError)) as caught:
        exchange.open_response(response, now=NOW)
    assert caught.value.code.value == code


@pytest.mark.parametrize(
    ("changes", "code"), [c[1:] for c in QUOTE_CASES], ids=[c[0] for c in QUOTE_CASES]
)
def test_quote_proof_refused(changes: dict[str, Any], code: str) -> None:
    exchange, response = asked(Provider(**changes), proof=Proof.QUOTE)
    with pytest.raises(ProviderError) as caught:
        exchange.open_response(response, now=NOW)
    assert caught.value.code.value == code


def test_a_quote_proof_under_a_vlek_names_no_machine() -> None:
    provider = Provider(claims=sgx_claims(platform=PlatformIdentity()))
    assert released(provider, proof=Proof.QUOTE).receipt.quote is not None


def test_a_quote_that_was_not_asked_for_is_left_out() -> None:
    provider = Provider(response_before=lambda r: replace(r, quote=b"unasked"))
    assert released(provider).receipt.quote is None


def test_a_response_to_an_earlier_exchange() -> None:
    provider = Provider()
    _, old = asked(provider)
    exchange, _ = asked(provider)
    with pytest.raises(ProviderError, match="another exchange"):
        exchange.open_response(old, now=NOW)


def test_what_was_opened_is_wiped_where_a_later_envelope_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = []
    real = RecipientKey.open

    def spying(self: RecipientKey, ciphertext: bytes, *, info: bytes) -> Any:
        secret = real(self, ciphertext, info=info)
        opened.append(secret)
        return secret

    monkeypatch.setattr(RecipientKey, "open", spying)
    exchange, response = asked(Provider(keys={("config", "label"): b"k" * 17}))
    with pytest.raises(ProviderError):
        exchange.open_response(response, now=NOW)
    assert [s.reveal() for s in opened] == [bytes(32), bytes(17)]


def test_nothing_opens_after_wipe() -> None:
    exchange, response = asked(Provider())
    exchange.wipe()
    with pytest.raises(ServiceError):
        exchange.open_response(response, now=NOW)


def test_steps_out_of_order() -> None:
    exchange = Exchange(terms(Provider()), DISK)
    for step in (
        lambda: exchange.keys_request(b"evidence"),
        lambda: exchange.open_response(b"{}", now=NOW),
    ):
        with pytest.raises(ServiceError) as caught:
            step()
        assert caught.value.code is Code.INTERNAL


@pytest.mark.parametrize(
    "keys",
    [
        (),
        tuple(KeyRequest("disk", str(n)) for n in range(17)),
        (KeyRequest(""),),
        (KeyRequest("d" * 129),),
        (KeyRequest("disk", "l" * 129),),
        (KeyRequest("d\N{LATIN SMALL LETTER DOTLESS I}sk"),),
        (KeyRequest("disk\n"),),
        (KeyRequest("disk", length=15),),
        (KeyRequest("disk", length=65),),
        (KeyRequest("disk"), KeyRequest("disk", length=64)),
        (KeyRequest("id"), KeyRequest("id", part=KeyPart.PUBLIC)),
        (KeyRequest("id", length=33, part=KeyPart.PUBLIC),),
        (KeyRequest("id", part=KeyPart.PUBLIC, create=True),),
        (KeyRequest("disk", create=True), KeyRequest("disk")),
    ],
    ids=[
        "none",
        "too_many",
        "no_purpose",
        "purpose_too_long",
        "label_too_long",
        "not_ascii",
        "control_character",
        "too_short",
        "too_long",
        "twice",
        "both_halves_of_one",
        "public_half_of_33",
        "public_half_created",
        "created_and_opened",
    ],
)
def test_key_requests_refused(keys: tuple[KeyRequest, ...]) -> None:
    with pytest.raises(RequestError):
        check_requests(keys)


def test_evidence_and_event_log_have_bounds() -> None:
    provider = Provider()
    with pytest.raises(RequestError):
        Exchange(terms(provider), DISK, event_log=bytes((1 << 22) + 1))
    exchange = Exchange(terms(provider), DISK)
    exchange.check_challenge(provider.challenge(exchange.challenge_request()), now=NOW)
    for evidence in (b"", bytes((1 << 20) + 1)):
        with pytest.raises(RequestError):
            exchange.keys_request(evidence)


def test_the_checks_have_distinct_names() -> None:
    names = [name for name, _ in RESPONSE_CHECKS]
    assert len(set(names)) == len(names) == 10


@given(body=st.binary(max_size=1000))
def test_any_bytes_end_in_a_provider_error(body: bytes) -> None:
    exchange, _ = asked(Provider(), keys=DISK)
    with pytest.raises(ProviderError):
        exchange.open_response(body, now=NOW)


@given(at=st.integers(min_value=0), value=st.integers(0, 255))
def test_a_changed_byte_changes_no_key(at: int, value: int) -> None:
    """Refused, or a change in the two texts that the signature does not cover."""
    exchange, response = asked(Provider(keys={("disk", ""): b"k" * 32}), keys=DISK)
    body = bytearray(response)
    body[at % len(body)] = value
    try:
        result = exchange.open_response(bytes(body), now=NOW)
    except ProviderError:
        return
    assert result.get("disk").reveal() == b"k" * 32
    start = response.index(b'"single_verifier"')
    assert bytes(body) == response or at % len(body) > start
