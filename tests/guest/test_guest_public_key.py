# SPDX-License-Identifier: Apache-2.0
"""Public halves that anybody may ask for: every answer that must be refused."""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from scripted_provider import (
    AMD,
    IDENTITY,
    NOW,
    PIN,
    POLICY,
    PUBLIC_HALF,
    SIMULATED,
    URL,
    Provider,
    problem_answer,
    sgx_claims,
    terms,
)

from tightseal.errors import Code, ProviderError, RequestError
from tightseal.guest.async_client import AsyncClient
from tightseal.guest.client import Client
from tightseal.guest.http import RefusedError
from tightseal.guest.pins import RootedIdentity
from tightseal.guest.provider import ProviderCollateral
from tightseal.guest.public_key import (
    PUBLIC_KEY_CHECKS,
    KeyName,
    PublicKey,
    public_key_request,
    verify_public_key,
)
from tightseal.model.claims import TcbStatus
from tightseal.model.keypath import KeyType
from tightseal.model.public_key import PublicKeyQuestion
from tightseal.model.wire import Problem, PublicKeyRequest, decode_json

NAME = KeyName("acme", "web", "signing", "a")
NONCE = b"n" * 32
STRANGER = Ed25519PrivateKey.generate()
both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def answer_of(provider: Provider, name: KeyName = NAME) -> bytes:
    request = public_key_request(name, client_nonce=NONCE, collateral=False)
    return provider.public_key(request)


def checked(body: bytes, provider: Provider, **changes: Any) -> PublicKey:
    values: dict[str, Any] = {
        "name": NAME,
        "client_nonce": NONCE,
        "pin": PIN,
        "collateral": ProviderCollateral.behind(provider.evidence),
        "now": NOW,
    }
    return verify_public_key(body, **values | changes)


def asked(provider: Provider, *, asynchronous: bool) -> PublicKey:
    options: dict[str, Any] = {"terms": terms(provider), "clock": lambda: NOW}
    if not asynchronous:
        with Client(URL, transport=httpx.MockTransport(provider), **options) as client:
            return client.public_key("acme", "web", "signing", "a")

    async def serve(request: httpx.Request) -> httpx.Response:
        return provider(request)

    async def whole() -> PublicKey:
        transport = httpx.MockTransport(serve)
        async with AsyncClient(URL, transport=transport, **options) as client:
            return await client.public_key("acme", "web", "signing", "a")

    return asyncio.run(whole())


@both
def test_a_public_half_arrives_without_evidence(asynchronous: bool) -> None:  # noqa: FBT001
    provider = Provider()
    said = asked(provider, asynchronous=asynchronous)
    assert said.public_key == PUBLIC_HALF
    assert (said.type, said.generation) == (KeyType.ED25519, 0)
    assert (said.name, said.policy, said.provider) == (NAME, POLICY, IDENTITY)
    assert not said.simulated
    provider.signer.public_key().verify(said.signature, said.signed)
    ((path, body),) = provider.requests
    assert path == "/v1/public-key"
    question = decode_json(body, PublicKeyRequest).parsed()
    assert len(question.client_nonce) == 32
    assert (question.tenant, question.label) == ("acme", "a")


def test_every_request_has_its_own_nonce() -> None:
    provider = Provider()
    for _ in range(2):
        asked(provider, asynchronous=False)
    first, second = (
        decode_json(body, PublicKeyRequest).parsed().client_nonce
        for _, body in provider.requests
    )
    assert first != second


def _body(**fields: Any) -> dict[str, Any]:
    return {"public_before": lambda b: replace(b, **fields)}


def _asked(**fields: Any) -> dict[str, Any]:
    return {
        "public_before": lambda b: replace(b, question=replace(b.question, **fields))
    }


def _doc(**fields: Any) -> dict[str, Any]:
    def change(document: dict[str, Any]) -> None:
        for name, value in fields.items():
            document[name] = value(document[name]) if callable(value) else value

    return {"public_after": change}


def _drop(name: str) -> dict[str, Any]:
    def change(document: dict[str, Any]) -> None:
        del document[name]

    return {"public_after": change}


def _raw(body: bytes) -> dict[str, Any]:
    return {"public_after": lambda _: body}


def _identity(**fields: Any) -> dict[str, Any]:
    return {"identity": replace(IDENTITY, **fields)}


def _claims(**fields: Any) -> dict[str, Any]:
    return {"claims": sgx_claims(**fields)}


def _binding(**fields: Any) -> dict[str, Any]:
    return {"binding_before": lambda b: replace(b, **fields)}


def _flip(text: str) -> str:
    data = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    data[0] ^= 1
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _forged(body: Any) -> Any:
    """The host signs with a key of its own, and shows the genuine evidence."""
    public = STRANGER.public_key().public_bytes_raw()
    return replace(body, binding=replace(body.binding, public_key=public))


INVALID = "response_invalid"
MISMATCH = "provider_identity_mismatch"
UNVERIFIED = "provider_unverified"
FIELDS = (
    *("version", "tenant", "workload", "purpose", "label", "client_nonce", "type"),
    *("generation", "public_key", "trust_domain", "issued_at", "policy", "binding"),
    *("provider_evidence", "signature", "collateral", "simulated"),
)

CASES: list[tuple[str, dict[str, Any], str]] = [
    ("not_json", _raw(b"{"), INVALID),
    ("empty", _raw(b""), INVALID),
    ("oversized", _raw(b" " * (5 << 20)), INVALID),
    *[(f"without_{name}", _drop(name), INVALID) for name in FIELDS],
    ("version", _doc(version=2), INVALID),
    ("type_unknown", _doc(type="rsa"), INVALID),
    ("public_key_of_64_bytes", _doc(public_key="A" * 86), INVALID),
    # changed after it was signed
    ("public_key", _doc(public_key=_flip), INVALID),
    ("type", _doc(type="x25519"), INVALID),
    ("generation", _doc(generation=1), INVALID),
    ("issued_at", _doc(issued_at=NOW - 1), INVALID),
    ("trust_domain", _doc(trust_domain="amd"), INVALID),
    ("policy_gone", _doc(policy=None), INVALID),
    ("policy_digest", _doc(policy=lambda p: p | {"digest": "A" * 43}), INVALID),
    ("policy_version", _doc(policy=lambda p: p | {"version": 8}), INVALID),
    ("evidence", _doc(provider_evidence=_flip), INVALID),
    ("signature", _doc(signature=_flip), INVALID),
    ("lifetime", _doc(binding=lambda b: b | {"not_after": NOW + 9}), INVALID),
    # an answer to somebody else, or about something else
    ("nonce_of_another", _asked(client_nonce=bytes(32)), INVALID),
    ("another_tenant", _asked(tenant="evil"), INVALID),
    ("another_workload", _asked(workload="web2"), INVALID),
    ("another_purpose", _asked(purpose="tls"), INVALID),
    ("another_label", _asked(label=""), INVALID),
    ("tenant_changed_after", _doc(tenant="evil"), INVALID),
    # signed by a stranger
    ("signed_by_a_stranger", {"response_signer": STRANGER}, INVALID),
    (
        "stranger_with_genuine_evidence",
        {"response_signer": STRANGER, "public_before": _forged},
        UNVERIFIED,
    ),
    # the genuine image under another keyring, root or settings
    ("measurement", _identity(measurement=bytes(32)), MISMATCH),
    ("keyring", _identity(keyring_id=bytes(32)), MISMATCH),
    ("policy_root", _identity(policy_root=bytes(32)), MISMATCH),
    ("settings", _identity(settings_digest=bytes(64)), MISMATCH),
    # its evidence
    ("evidence_of_another_key", _claims(report_data=b"\1" * 64), UNVERIFIED),
    ("evidence_unbound", _claims(report_data_bound=False), UNVERIFIED),
    ("evidence_of_amd", _claims(trust_domain=AMD), UNVERIFIED),
    ("evidence_debug", _claims(debug=True), "provider_debug"),
    (
        "evidence_of_another_build",
        _claims(measurements={"mrenclave": bytes(32)}),
        MISMATCH,
    ),
    (
        "evidence_out_of_date",
        _claims(tcb=replace(sgx_claims().tcb, status=TcbStatus.OUT_OF_DATE)),  # type: ignore[type-var]
        UNVERIFIED,
    ),
    ("simulated_evidence", _claims(trust_domain=SIMULATED), "provider_simulated"),
    ("simulated_key", _body(trust_domain=str(SIMULATED)), "provider_simulated"),
    # times
    ("key_that_lives_for_ever", _binding(not_after=NOW + 10**7), INVALID),
    ("key_of_yesterday", _binding(not_before=1, not_after=86_400), INVALID),
    ("issued_in_the_future", _body(issued_at=NOW + 301), INVALID),
    ("issued_before_the_key", _body(issued_at=NOW - 901), INVALID),
    # signed by the provider, and no public half
    ("half_of_another_length", _body(public_key=PUBLIC_HALF + b"\1"), INVALID),
    ("half_of_a_raw_key", _body(key_type=KeyType.RAW), INVALID),
    ("half_off_the_curve", _body(key_type=KeyType.P256), INVALID),
    (
        "point_off_the_curve",
        _body(key_type=KeyType.P256, public_key=b"\2" + b"\xff" * 32),
        INVALID,
    ),
]


@pytest.mark.parametrize(
    ("changes", "code"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_refused(changes: dict[str, Any], code: str) -> None:
    provider = Provider(**changes)
    with pytest.raises(ProviderError) as caught:
        checked(answer_of(provider), provider)
    assert caught.value.code.value == code


@both
def test_both_clients_refuse_a_stranger(asynchronous: bool) -> None:  # noqa: FBT001
    with pytest.raises(ProviderError) as caught:
        asked(Provider(response_signer=STRANGER), asynchronous=asynchronous)
    assert caught.value.code is Code.RESPONSE_INVALID


@both
def test_an_old_answer_is_not_taken_for_a_new_one(asynchronous: bool) -> None:  # noqa: FBT001
    provider = Provider()
    provider.public_after = lambda _doc: kept
    kept = answer_of(Provider(evidence=provider.evidence, signer=provider.signer))
    with pytest.raises(ProviderError, match="nonce"):
        asked(provider, asynchronous=asynchronous)


def test_a_kept_answer_can_be_judged_by_others() -> None:
    provider = Provider()
    body = answer_of(provider)
    assert checked(body, provider, client_nonce=None).public_key == PUBLIC_HALF
    for name in (replace(NAME, tenant="evil"), replace(NAME, label="")):
        with pytest.raises(ProviderError):
            checked(body, provider, client_nonce=None, name=name)


@pytest.mark.parametrize("late", [3301, 86_400, 10**9])
def test_a_kept_answer_ends_with_its_attested_key(late: int) -> None:
    provider = Provider()
    body = answer_of(provider)
    with pytest.raises(ProviderError, match="attested key"):
        checked(body, provider, client_nonce=None, now=NOW + late)


def test_a_pin_that_leaves_settings_to_the_policy_root() -> None:
    root = b"r" * 32
    rooted = RootedIdentity("sgx", IDENTITY.measurement, IDENTITY.keyring_id, root)
    pin = replace(PIN, identity=rooted)
    for digest in (bytes(64), b"\1" * 64):
        good = Provider(**_identity(policy_root=root, settings_digest=digest))
        assert checked(answer_of(good), good, pin=pin).public_key == PUBLIC_HALF
    for other in (None, bytes(32)):
        twin = Provider(**_identity(policy_root=other))
        with pytest.raises(ProviderError, match="policy_root") as caught:
            checked(answer_of(twin), twin, pin=pin)
        assert caught.value.code is Code.PROVIDER_IDENTITY_MISMATCH


def test_a_simulated_answer_where_the_pin_allows_it() -> None:
    provider = Provider(
        **_claims(trust_domain=SIMULATED), **_body(trust_domain=str(SIMULATED))
    )
    pin = replace(PIN, trust_domains=frozenset({str(SIMULATED)}), allow_simulated=True)
    assert checked(answer_of(provider), provider, pin=pin).simulated


NAMES: list[tuple[str, Callable[[], KeyName]]] = [
    ("no_tenant", lambda: KeyName("", "web", "signing")),
    ("no_workload", lambda: KeyName("acme", "", "signing")),
    ("no_purpose", lambda: KeyName("acme", "web", "")),
    ("newline", lambda: KeyName("acme\n", "web", "signing")),
    ("not_ascii", lambda: KeyName("acm\u00e9", "web", "signing")),
    ("too_long", lambda: KeyName("acme", "w" * 129, "signing")),
    ("label_too_long", lambda: KeyName("acme", "web", "signing", "l" * 129)),
]


@pytest.mark.parametrize("make", [n[1] for n in NAMES], ids=[n[0] for n in NAMES])
def test_names_refused(make: Callable[[], KeyName]) -> None:
    with pytest.raises(RequestError):
        make()


def test_the_longest_names_fit() -> None:
    name = KeyName('"' * 128, "\\" * 128, '"' * 128, "\\" * 128)
    body = public_key_request(name, client_nonce=NONCE, collateral=True)
    question = decode_json(body, PublicKeyRequest).parsed()
    assert question == PublicKeyQuestion(
        name.tenant, name.workload, name.purpose, name.label, NONCE
    )


@both
def test_a_refusal_carries_the_code(asynchronous: bool) -> None:  # noqa: FBT001
    class Refuses(Provider):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            request.read()
            return problem_answer(Problem.of(Code.KEY_PART_NOT_ALLOWED))

    with pytest.raises(RefusedError) as caught:
        asked(Refuses(), asynchronous=asynchronous)
    assert caught.value.refusal is Code.KEY_PART_NOT_ALLOWED


def test_the_checks_have_distinct_names() -> None:
    names = [name for name, _ in PUBLIC_KEY_CHECKS]
    assert len(set(names)) == len(names) == 7


@given(body=st.binary(max_size=1000))
def test_any_bytes_end_in_a_provider_error(body: bytes) -> None:
    with pytest.raises(ProviderError):
        checked(body, Provider())
