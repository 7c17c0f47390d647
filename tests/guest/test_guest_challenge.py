# SPDX-License-Identifier: Apache-2.0
"""Every challenge that a workload must refuse, before it makes any evidence."""

import base64
import hashlib
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
    SIMULATED,
    URL,
    Evidence,
    Provider,
    Workload,
    sgx_claims,
    terms,
)

from tightseal.errors import Code, CollateralError, ProviderError
from tightseal.guest.challenge import CHALLENGE_CHECKS, ProviderCollateral
from tightseal.guest.client import Client
from tightseal.guest.exchange import Exchange
from tightseal.guest.pins import ProviderPin, RootedIdentity
from tightseal.model.base64url import decode_base64url, encode_base64url
from tightseal.model.claims import Claims, TcbStatus, Tee
from tightseal.model.keypath import KeyRequest

DISK = (KeyRequest("disk"),)
OTHER_KEY = Ed25519PrivateKey.generate()


def _doc(**fields: Any) -> dict[str, Any]:
    """Changes of the JSON after it was signed."""

    def change(document: dict[str, Any]) -> None:
        for name, value in fields.items():
            current = document.get(name)
            document[name] = value(current) if callable(value) else value

    return {"challenge_after": change}


def _drop(name: str) -> dict[str, Any]:
    def change(document: dict[str, Any]) -> None:
        del document[name]

    return {"challenge_after": change}


def _raw(body: bytes) -> dict[str, Any]:
    return {"challenge_after": lambda _: body}


def _binding(**fields: Any) -> dict[str, Any]:
    return {"binding_before": lambda b: replace(b, **fields)}


def _body(**fields: Any) -> dict[str, Any]:
    return {"challenge_before": lambda b: replace(b, **fields)}


def _parsed(**fields: Any) -> dict[str, Any]:
    return {"parsed_after": lambda p: replace(p, **fields)}


def _identity(**fields: Any) -> dict[str, Any]:
    return {"identity": replace(IDENTITY, **fields)}


def _claims(**fields: Any) -> dict[str, Any]:
    return {"claims": sgx_claims(**fields)}


def _flip(text: str) -> str:
    data = bytearray(decode_base64url(text, field="x", max_bytes=1 << 20))
    data[0] ^= 1
    return encode_base64url(bytes(data))


def _trailing_bits(text: str) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]


def _standard_alphabet(_: str) -> str:
    return base64.b64encode(bytes([0xFF]) * 64).rstrip(b"=").decode()


def _forged_key(p: Any) -> Any:
    """The host signs with a key of its own, and shows the genuine evidence."""
    binding = replace(
        p.body.binding, public_key=OTHER_KEY.public_key().public_bytes_raw()
    )
    body = replace(p.body, binding=binding)
    return replace(p, body=body, signature=OTHER_KEY.sign(body.to_sign()))


INVALID = "challenge_invalid"
MISMATCH = "provider_identity_mismatch"
UNVERIFIED = "provider_unverified"
SIM = "provider_simulated"
DAY = 86_400

CASES: list[tuple[str, dict[str, Any], str]] = [
    # how it is formed
    ("not_json", _raw(b"{"), INVALID),
    ("empty", _raw(b""), INVALID),
    ("array", _raw(b"[]"), INVALID),
    ("deep", _raw(b"[" * 100_000), INVALID),
    ("not_utf8", _raw(b'{"version":1,"nonce":"\xff"}'), INVALID),
    ("oversized", _raw(b" " * (5 << 20)), INVALID),
    ("version", _doc(version=2), INVALID),
    ("version_text", _doc(version="1"), INVALID),
    *[
        (f"without_{name}", _drop(name), INVALID)
        for name in (
            "version",
            "nonce",
            "expires_at",
            "client_nonce",
            "binding",
            "provider_evidence",
            "signature",
            "simulated",
        )
    ],
    ("expires_at_float", _doc(expires_at=NOW + 0.5), INVALID),
    ("expires_at_negative", _doc(expires_at=-1), INVALID),
    ("expires_at_huge", _doc(expires_at=10**30), INVALID),
    ("signature_padded", _doc(signature=lambda s: s + "=="), INVALID),
    ("signature_newline", _doc(signature=lambda s: s + "\n"), INVALID),
    ("signature_trailing_bits", _doc(signature=_trailing_bits), INVALID),
    ("signature_other_alphabet", _doc(signature=_standard_alphabet), INVALID),
    ("signature_short", _doc(signature=lambda s: s[:-4]), INVALID),
    ("nonce_short", _doc(nonce="AAAA"), INVALID),
    ("evidence_empty", _doc(provider_evidence=""), INVALID),
    # changed after it was signed
    ("nonce", _doc(nonce=_flip), INVALID),
    ("expires_at", _doc(expires_at=lambda t: t + 1), INVALID),
    ("signature", _doc(signature=_flip), INVALID),
    ("evidence", _doc(provider_evidence=_flip), INVALID),
    ("public_key", _parsed(signature=bytes(64)), INVALID),
    # replayed and stale
    ("client_nonce_replaced", _doc(client_nonce=_flip), INVALID),
    ("client_nonce_of_another_exchange", _body(client_nonce=bytes(32)), INVALID),
    ("expired", _body(expires_at=NOW - 300), INVALID),
    ("expires_too_late", _body(expires_at=NOW + 901), INVALID),
    ("key_expired", _binding(not_before=NOW - 4000, not_after=NOW - 301), INVALID),
    (
        "key_not_yet_valid",
        _binding(not_before=NOW + 301, not_after=NOW + 4000),
        INVALID,
    ),
    ("key_lives_too_long", _binding(not_after=NOW + 2 * DAY), INVALID),
    ("key_life_is_negative", _binding(not_after=NOW - 601), INVALID),
    # another provider
    ("relayed_from_another_build", _identity(measurement=bytes(32)), MISMATCH),
    ("another_keyring", _identity(keyring_id=bytes(32)), MISMATCH),
    ("another_policy_root", _identity(policy_root=bytes(32)), MISMATCH),
    ("other_settings", _identity(settings_digest=bytes(64)), MISMATCH),
    ("another_tee", _identity(tee="snp"), MISMATCH),
    ("tls_ends_elsewhere", _binding(tls_key_hash=bytes(32)), INVALID),
    # its evidence
    ("evidence_not_authentic", {"evidence": Evidence()}, UNVERIFIED),
    ("hosts_own_key", {"parsed_after": _forged_key}, UNVERIFIED),
    ("evidence_of_another_key", _claims(report_data=bytes([7]) * 64), UNVERIFIED),
    ("report_data_unbound", _claims(report_data_bound=False), UNVERIFIED),
    ("another_trust_domain", _claims(trust_domain=AMD), UNVERIFIED),
    ("simulated", _claims(trust_domain=SIMULATED), SIM),
    ("says_simulated", _doc(simulated=True), SIM),
    ("debug", _claims(debug=True), "provider_debug"),
    (
        "measured_otherwise",
        _claims(measurements={"mrenclave": bytes(32)}),
        MISMATCH,
    ),
    (
        "evidence_of_another_tee",
        _claims(tee=Tee.TDX, measurements={"mrtd": IDENTITY.measurement}),
        MISMATCH,
    ),
    *[
        (
            f"tcb_{status.value}",
            _claims(tcb=replace(sgx_claims().tcb, status=status)),  # type: ignore[type-var]
            UNVERIFIED,
        )
        for status in TcbStatus
        if status is not TcbStatus.UP_TO_DATE
    ],
]


def refuse_all(provider: Provider, verifier: Evidence) -> ProviderError:
    workload = Workload(provider.evidence)
    client = Client(
        URL,
        source=workload,
        terms=terms(provider, collateral=ProviderCollateral.behind(verifier)),
        clock=lambda: NOW,
        sleep=lambda _: None,
        transport=httpx.MockTransport(provider),
    )
    with client, pytest.raises(ProviderError) as caught:
        client.keys(*DISK)
    assert workload.asked == []
    assert [path for path, _ in provider.requests] == ["/v1/challenge"]
    return caught.value


@pytest.mark.parametrize(
    ("changes", "code"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_refused_before_any_evidence(changes: dict[str, Any], code: str) -> None:
    verifier = changes.get("evidence") or Evidence()
    provider = Provider(**(changes | {"evidence": Evidence()}))
    if "evidence" not in changes:
        verifier = provider.evidence
    assert refuse_all(provider, verifier).code.value == code


def test_the_unchanged_challenge_is_accepted() -> None:
    provider = Provider()
    exchange = Exchange(terms(provider), DISK)
    body = provider.challenge(exchange.challenge_request())
    assert len(exchange.check_challenge(body, now=NOW)) == 64


def test_a_recorded_challenge_does_not_serve_another_exchange() -> None:
    provider = Provider()
    first, second = Exchange(terms(provider), DISK), Exchange(terms(provider), DISK)
    recorded = provider.challenge(first.challenge_request())
    with pytest.raises(ProviderError) as caught:
        second.check_challenge(recorded, now=NOW)
    assert caught.value.code is Code.CHALLENGE_INVALID


def test_a_challenge_relayed_from_a_provider_with_its_own_settings() -> None:
    genuine = Provider()
    hosts_own = Provider(
        evidence=genuine.evidence,
        identity=replace(IDENTITY, settings_digest=bytes([5]) * 64),
    )
    exchange = Exchange(terms(genuine), DISK)
    with pytest.raises(ProviderError) as caught:
        exchange.check_challenge(
            hosts_own.challenge(exchange.challenge_request()), now=NOW
        )
    assert caught.value.code is Code.PROVIDER_IDENTITY_MISMATCH
    assert "settings_digest" in caught.value.detail


def test_missing_collateral_is_named() -> None:
    def no_collateral(evidence: bytes, *, now: int) -> Claims:
        del evidence, now
        raise CollateralError(Code.COLLATERAL_UNAVAILABLE, "none")

    provider = Provider()
    exchange = Exchange(
        terms(provider, collateral=ProviderCollateral.behind(no_collateral)), DISK
    )
    body = provider.challenge(exchange.challenge_request())
    with pytest.raises(ProviderError, match="collateral_unavailable") as caught:
        exchange.check_challenge(body, now=NOW)
    assert caught.value.code is Code.PROVIDER_UNVERIFIED


def _accepts(provider: Provider, pin: ProviderPin, **more: Any) -> bool:
    exchange = Exchange(terms(provider, pin=pin), DISK)
    body = provider.challenge(exchange.challenge_request())
    return len(exchange.check_challenge(body, now=NOW, **more)) == 64


def test_a_simulated_provider_needs_both_words_in_the_pin() -> None:
    provider = Provider(claims=sgx_claims(trust_domain=SIMULATED))
    domain = frozenset({str(SIMULATED)})
    assert _accepts(provider, ProviderPin(IDENTITY, domain, allow_simulated=True))
    for wrong in (
        PIN,
        ProviderPin(IDENTITY, frozenset({"intel"}), allow_simulated=True),
        ProviderPin(
            IDENTITY, frozenset({"simulated:" + "44" * 48}), allow_simulated=True
        ),
    ):
        with pytest.raises(ProviderError):
            _accepts(provider, wrong)


ROOT = b"r" * 32
ROOTED = ProviderPin(
    RootedIdentity("sgx", IDENTITY.measurement, IDENTITY.keyring_id, ROOT),
    frozenset({"intel"}),
)


@pytest.mark.parametrize("digest", [bytes(64), b"\1" * 64])
def test_settings_left_to_the_policy_root_may_be_any(digest: bytes) -> None:
    provider = Provider(**_identity(policy_root=ROOT, settings_digest=digest))
    assert _accepts(provider, ROOTED)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("policy_root", None),
        ("policy_root", b"R" * 32),
        ("keyring_id", bytes(32)),
        ("measurement", bytes(32)),
        ("tee", "snp"),
    ],
    ids=["no_root", "root_of_the_host", "keyring", "measurement", "tee"],
)
def test_leaving_settings_out_leaves_nothing_else_out(part: str, value: Any) -> None:
    """The host's own policy root on the genuine image is refused by name."""
    twin = Provider(**_identity(**{"policy_root": ROOT, part: value}))
    with pytest.raises(ProviderError, match=f"{part}: ") as caught:
        _accepts(twin, ROOTED)
    assert caught.value.code is Code.PROVIDER_IDENTITY_MISMATCH


def test_a_pinned_root_does_not_stand_in_for_pinned_settings() -> None:
    identity = replace(IDENTITY, policy_root=ROOT)
    pin = replace(PIN, identity=identity)
    assert _accepts(Provider(identity=identity), pin)
    other = replace(identity, settings_digest=bytes(64))
    with pytest.raises(ProviderError, match="settings_digest: "):
        _accepts(Provider(identity=other), pin)


def test_another_tcb_status_can_be_accepted_by_name() -> None:
    tcb = replace(sgx_claims().tcb, status=TcbStatus.OUT_OF_DATE)  # type: ignore[type-var]
    provider = Provider(claims=sgx_claims(tcb=tcb))
    pin = replace(PIN, accepted_tcb=frozenset({TcbStatus.OUT_OF_DATE}))
    assert _accepts(provider, pin)


def test_a_bound_tls_key_must_be_the_connections() -> None:
    spki_hash = hashlib.sha256(b"spki").digest()
    provider = Provider(binding_before=lambda b: replace(b, tls_key_hash=spki_hash))
    assert _accepts(provider, PIN, tls_key_hash=spki_hash)
    for other in (None, bytes(32)):
        with pytest.raises(ProviderError, match="another key"):
            _accepts(provider, PIN, tls_key_hash=other)


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        (_body(expires_at=NOW - 299), True),
        (_body(expires_at=NOW - 300), False),
        (_body(expires_at=NOW + 900), True),
        (_body(expires_at=NOW + 901), False),
        (_binding(not_before=NOW + 300, not_after=NOW + 4000), True),
        (_binding(not_before=NOW + 301, not_after=NOW + 4000), False),
        (_binding(not_before=NOW - 4000, not_after=NOW - 300), True),
        (_binding(not_before=NOW - 4000, not_after=NOW - 301), False),
        (_binding(not_before=NOW - 1, not_after=NOW - 1 + 2 * DAY), True),
        (_binding(not_before=NOW - 1, not_after=NOW + 2 * DAY), False),
    ],
)
def test_the_edges_of_the_tolerance(change: dict[str, Any], accepted: bool) -> None:  # noqa: FBT001
    provider = Provider(**change)
    if accepted:
        assert _accepts(provider, PIN)
    else:
        with pytest.raises(ProviderError):
            _accepts(provider, PIN)


def test_the_checks_have_distinct_names() -> None:
    names = [name for name, _ in CHALLENGE_CHECKS]
    assert len(set(names)) == len(names) == 8


@given(body=st.binary(max_size=2000))
def test_any_bytes_end_in_a_provider_error(body: bytes) -> None:
    exchange = Exchange(terms(Provider()), DISK)
    with pytest.raises(ProviderError):
        exchange.check_challenge(body, now=NOW)


@given(at=st.integers(min_value=0), value=st.integers(0, 255))
def test_any_changed_byte_is_refused(at: int, value: int) -> None:
    provider = Provider()
    exchange = Exchange(terms(provider), DISK)
    body = bytearray(provider.challenge(exchange.challenge_request()))
    at %= len(body)
    if body[at] == value:
        value ^= 1
    body[at] = value
    with pytest.raises(ProviderError):
        exchange.check_challenge(bytes(body), now=NOW)
