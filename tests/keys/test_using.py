# SPDX-License-Identifier: Apache-2.0
"""Signing and agreeing, against published vectors and a second implementation."""

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import VerifyKey
from reference_pairs import CURVES, multiple
from reference_using import agree as reference_agree
from reference_using import ecdsa

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.pairs import private_half, public_half, seed_bytes
from tightseal.keys.using import agree, check_peer, sign, verify_signature
from tightseal.model.keypath import KeyType
from tightseal.model.keyuse import Operation
from tightseal.model.secret import Secret

SCALARS = [KeyType.P256, KeyType.SECP256K1]
SIGNERS = [KeyType.ED25519, *SCALARS]
AGREERS = [KeyType.X25519, *SCALARS]
MESSAGES = st.binary(max_size=200)


def private_of(seed: bytes, kind: KeyType) -> Secret:
    wide = hashlib.sha512(seed).digest()
    return private_half(Secret(wide[: seed_bytes(kind)]), kind)


def refused(attempt: Callable[[], object], code: Code, word: str | None = None) -> None:
    with pytest.raises(KeyReleaseError, match=word) as caught:
        attempt()
    assert caught.value.code is code


# RFC 6979 appendix A.2.5, SHA-256.
P256_KEY = "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721"
P256 = {
    b"sample": "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"
    "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
    b"test": "f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367"
    "019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f0083",
}


@pytest.mark.parametrize("message", P256)
def test_p256_signs_as_rfc_6979_says(message: bytes) -> None:
    private = Secret(bytes.fromhex(P256_KEY))
    assert sign(private, KeyType.P256, message).hex() == P256[message]


def test_ed25519_signs_as_rfc_8032_says() -> None:
    """Section 7.1, test 2."""
    private = Secret(
        bytes.fromhex(
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
        )
    )
    assert sign(private, KeyType.ED25519, b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


def test_x25519_agrees_as_rfc_7748_says() -> None:
    """Section 5.2, first vector."""
    private = Secret(
        bytes.fromhex(
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"
        )
    )
    peer = bytes.fromhex(
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c"
    )
    assert agree(private, KeyType.X25519, peer).reveal().hex() == (
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    )


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=8), MESSAGES)
def test_ecdsa_is_that_of_a_second_implementation(seed: bytes, message: bytes) -> None:
    for kind in SCALARS:
        private = private_of(seed, kind)
        r, s = ecdsa(kind.value, private.reveal(), message)
        if kind is KeyType.SECP256K1:
            s = min(s, CURVES[kind.value][3] - s)
        expected = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        assert sign(private, kind, message) == expected


@given(st.binary(max_size=8), MESSAGES)
def test_ed25519_signatures_verify_elsewhere(seed: bytes, message: bytes) -> None:
    private = private_of(seed, KeyType.ED25519)
    public = public_half(private, KeyType.ED25519)
    VerifyKey(public).verify(message, sign(private, KeyType.ED25519, message))


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=8), st.binary(max_size=8))
def test_agreement_is_that_of_a_second_implementation(one: bytes, two: bytes) -> None:
    for kind in AGREERS:
        ours, theirs = private_of(one, kind), private_of(two, kind)
        peer = public_half(theirs, kind)
        shared = agree(ours, kind, peer)
        assert len(shared) == 32
        assert shared == agree(theirs, kind, public_half(ours, kind))
        expected = reference_agree(kind.value, ours.reveal(), peer)
        assert shared.reveal() == expected


@pytest.mark.parametrize("kind", SCALARS)
def test_a_peer_may_write_its_point_out(kind: KeyType) -> None:
    private, peer = private_of(b"ours", kind), private_of(b"theirs", kind)
    x, y = multiple(kind.value, int.from_bytes(peer.reveal(), "big"))
    written = b"\4" + x.to_bytes(32, "big") + y.to_bytes(32, "big")
    shared = agree(private, kind, public_half(peer, kind))
    assert agree(private, kind, written) == shared


@pytest.mark.parametrize("kind", SIGNERS)
def test_a_signature_is_checked(kind: KeyType) -> None:
    private = private_of(b"signer", kind)
    public = public_half(private, kind)
    made = sign(private, kind, b"message")
    verify_signature(public, kind, b"message", made)
    stranger = public_half(private_of(b"another", kind), kind)
    flipped = bytes([made[0] ^ 1]) + made[1:]
    for changed in (
        (public, b"messag", made),
        (stranger, b"message", made),
        (public, b"message", flipped),
        (public, b"message", made[:63]),
        (public, b"message", made + b"\0"),
        (public[:-1], b"message", made),
        (public, b"message", bytes(64)),
    ):
        key, message, signature = changed
        with pytest.raises(KeyReleaseError):
            verify_signature(key, kind, message, signature)


def test_the_higher_s_is_no_signature_of_secp256k1() -> None:
    kind = KeyType.SECP256K1
    private = private_of(b"signer", kind)
    made = sign(private, kind, b"message")
    high = CURVES[kind.value][3] - int.from_bytes(made[32:], "big")
    other = made[:32] + high.to_bytes(32, "big")
    public = public_half(private, kind)
    refused(
        lambda: verify_signature(public, kind, b"message", other),
        Code.KEY_PATH_INVALID,
        "higher s",
    )


@pytest.mark.parametrize("kind", KeyType)
def test_what_a_type_cannot_do_it_does_not(kind: KeyType) -> None:
    key = Secret(b"\1" * 32)
    if Operation.SIGN not in kind.operations:
        refused(lambda: sign(key, kind, b""), Code.KEY_PATH_INVALID, "does not sign")
    if Operation.AGREE not in kind.operations:
        peer = b"\2" * 32
        refused(lambda: agree(key, kind, peer), Code.KEY_PATH_INVALID, "not agree")


@pytest.mark.parametrize("kind", SIGNERS)
def test_a_private_half_of_another_form_signs_nothing(kind: KeyType) -> None:
    refused(lambda: sign(Secret(b"\1" * 31), kind, b""), Code.KEY_PATH_INVALID)
    if kind in SCALARS:
        order = CURVES[kind.value][3].to_bytes(32, "big")
        for none in (bytes(32), order):
            refused(lambda: sign(Secret(none), kind, b""), Code.KEY_PATH_INVALID)  # noqa: B023


def bad_peers(kind: KeyType) -> dict[str, bytes]:
    good = public_half(private_of(b"peer", kind), kind)
    p = CURVES[kind.value][0]
    off = next(
        bytes([2]) + x.to_bytes(32, "big")
        for x in range(1, 50)
        if not _on_curve(kind, x)
    )
    x, y = multiple(kind.value, 7)
    written = x.to_bytes(32, "big") + y.to_bytes(32, "big")
    return {
        "empty": b"",
        "infinity": b"\0",
        "infinity, padded": bytes(33),
        "raw x": good[1:],
        "short": good[:-1],
        "long": good + b"\0",
        "hybrid form": bytes([6 + (y & 1)]) + written,
        "other mark": b"\5" + good[1:],
        "not on the curve": off,
        "written, not on the curve": b"\4" + written[:-1] + bytes([written[-1] ^ 1]),
        "coordinate of the prime": b"\2" + p.to_bytes(32, "big"),
    }


def _on_curve(kind: KeyType, x: int) -> bool:
    p, a, b, _, _ = CURVES[kind.value]
    return pow((x**3 + a * x + b) % p, (p - 1) // 2, p) in {0, 1}


@pytest.mark.parametrize("kind", SCALARS)
def test_points_that_nothing_is_agreed_with(kind: KeyType) -> None:
    for name, peer in bad_peers(kind).items():
        with pytest.raises(KeyReleaseError) as caught:
            check_peer(peer, kind)
        assert caught.value.code is Code.USE_INPUT_INVALID, name
        with pytest.raises(KeyReleaseError):
            agree(private_of(b"ours", kind), kind, peer)


def test_a_point_of_the_other_curve_is_none() -> None:
    ours, other = KeyType.P256, KeyType.SECP256K1
    peers = [public_half(private_of(bytes([i]), other), other) for i in range(12)]
    # Half of all x are on a curve: written out, with y, none is on the other one.
    for peer in peers:
        x = int.from_bytes(peer[1:], "big")
        p, _, b, _, _ = CURVES[other.value]
        y = pow((x**3 + b) % p, (p + 1) // 4, p)
        written = b"\4" + x.to_bytes(32, "big") + y.to_bytes(32, "big")
        refused(lambda: check_peer(written, ours), Code.USE_INPUT_INVALID)  # noqa: B023


PRIME = (1 << 255) - 19
ORDER_8 = 325606250916557431795983626356110631294008115727848805560023387167927233504
BAD_X25519 = {
    "zero": 0,
    "one": 1,
    "minus one": PRIME - 1,
    "order 8": ORDER_8,
    "prime": PRIME,
    "nine, not canonical": PRIME + 9,
    "nine with the top bit": 9 | 1 << 255,
}


@pytest.mark.parametrize("name", BAD_X25519)
def test_x25519_points_that_nothing_is_agreed_with(name: str) -> None:
    peer = BAD_X25519[name].to_bytes(32, "little")
    refused(lambda: check_peer(peer, KeyType.X25519), Code.USE_INPUT_INVALID)
    private = private_of(b"ours", KeyType.X25519)
    refused(lambda: agree(private, KeyType.X25519, peer), Code.USE_INPUT_INVALID)


def test_an_x25519_point_of_another_length_is_refused() -> None:
    for size in (31, 33, 65):
        peer = b"\x09".ljust(size, b"\0")
        refused(
            lambda: check_peer(peer, KeyType.X25519),  # noqa: B023
            Code.USE_INPUT_INVALID,
            "expected 32",
        )
