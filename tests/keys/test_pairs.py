# SPDX-License-Identifier: Apache-2.0
"""Key pairs: published vectors of the functions, ends of ranges, and the laws."""

import dataclasses
from itertools import combinations

import pytest
import reference_kdf
import reference_pairs
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st
from test_chain import PATH, ROOT

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.chain import derive, released_key
from tightseal.keys.pairs import (
    check_public_half,
    private_half,
    public_bytes,
    public_half,
    seed_bytes,
)
from tightseal.model.keypath import Kdf, KeyPart, KeyPath, KeyType
from tightseal.model.secret import Secret

PAIRS = tuple(k for k in KeyType if k is not KeyType.RAW)
CURVES = {KeyType.P256: ec.SECP256R1(), KeyType.SECP256K1: ec.SECP256K1()}
seeds = st.binary(min_size=40, max_size=40)
every_pair = pytest.mark.parametrize("kind", PAIRS)


def of_type(kind: KeyType, path: KeyPath = PATH) -> KeyPath:
    return dataclasses.replace(path, key_type=kind)


KNOWN = [
    # RFC 7748 section 6.1
    (
        KeyType.X25519,
        "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
    ),
    # RFC 8032 section 7.1, tests 1 and 2
    (
        KeyType.ED25519,
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    ),
    (
        KeyType.ED25519,
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    ),
    # RFC 6979 appendix A.2.5
    (
        KeyType.P256,
        "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721",
        "0360fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6",
    ),
    # SEC 2 section 2.4.1: the base point
    (
        KeyType.SECP256K1,
        "01".rjust(64, "0"),
        "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
    ),
]


@pytest.mark.parametrize(("kind", "private", "public"), KNOWN)
def test_published_public_halves(kind: KeyType, private: str, public: str) -> None:
    half = Secret(bytes.fromhex(private))
    assert public_half(half, kind).hex() == public
    assert reference_pairs.public(kind, half.reveal()).hex() == public


@every_pair
@given(data=seeds)
def test_product_and_reference_agree_on_halves(kind: KeyType, data: bytes) -> None:
    seed = data[: seed_bytes(kind)]
    private = private_half(Secret(seed), kind)
    assert private.reveal() == reference_pairs.private(kind, seed)
    public = public_half(private, kind)
    assert public == reference_pairs.public(kind, private.reveal())
    assert len(public) == public_bytes(kind)
    check_public_half(public, kind)


def ends(order: int) -> list[tuple[int, int]]:
    """Wide values at the ends, and the scalar that each must give."""
    top = (1 << 320) - 1
    return [
        (0, 1),
        (order - 2, order - 1),
        (order - 1, 1),
        (order, 2),
        ((order - 1) << 64, 1),
        (top, top % (order - 1) + 1),
    ]


@pytest.mark.parametrize("kind", CURVES)
def test_scalars_stay_between_one_and_the_order(kind: KeyType) -> None:
    order = reference_pairs.CURVES[kind][3]
    for wide, scalar in ends(order):
        private = private_half(Secret(wide.to_bytes(40, "big")), kind)
        assert int.from_bytes(private.reveal(), "big") == scalar
        assert 1 <= scalar < order
        assert len(private) == 32
        public_half(private, kind)


def test_x25519_is_clamped_and_stays_the_same_key() -> None:
    for seed in (bytes(32), b"\xff" * 32, bytes(range(32))):
        private = private_half(Secret(seed), KeyType.X25519).reveal()
        assert private[0] & 7 == 0
        assert private[31] & 0xC0 == 0x40
        theirs = X25519PrivateKey.from_private_bytes(seed).public_key()
        assert public_half(Secret(private), KeyType.X25519) == theirs.public_bytes_raw()


def test_released_halves_work_with_libraries() -> None:
    def halves(kind: KeyType) -> tuple[bytes, bytes]:
        private, public = (
            released_key(ROOT, of_type(kind), part).reveal() for part in KeyPart
        )
        return private, public

    private, public = halves(KeyType.ED25519)
    signature = Ed25519PrivateKey.from_private_bytes(private).sign(b"message")
    Ed25519PublicKey.from_public_bytes(public).verify(signature, b"message")
    for kind, curve in CURVES.items():
        private, public = halves(kind)
        scalar = int.from_bytes(private, "big")
        signed = ec.derive_private_key(scalar, curve).sign(
            b"message", ec.ECDSA(SHA256())
        )
        point = ec.EllipticCurvePublicKey.from_encoded_point(curve, public)
        point.verify(signed, b"message", ec.ECDSA(SHA256()))


@pytest.mark.parametrize("kdf", Kdf)
def test_no_two_types_share_bytes(kdf: Kdf) -> None:
    path = dataclasses.replace(PATH, kdf=kdf)
    made = [released_key(ROOT, of_type(k, path), p) for k in PAIRS for p in KeyPart]
    made += [
        derive(ROOT, dataclasses.replace(path, length=length))
        for length in (16, 32, 40, 64)
    ]
    for one, other in combinations([m.reveal() for m in made], 2):
        assert one[:16] != other[:16]
        assert one[-16:] != other[-16:]


@every_pair
@pytest.mark.parametrize("length", [32, 40, 64])
def test_a_raw_key_is_not_above_a_pair(kind: KeyType, length: int) -> None:
    """Who holds a purpose's raw key cannot compute the pair of the same label."""
    raw = derive(ROOT, dataclasses.replace(PATH, length=length)).reveal()
    pair = derive(ROOT, of_type(kind)).reveal()
    size = reference_pairs.seed_size(kind)
    for value in ([kind.value], [kind.value, "", size]):
        seed = reference_kdf.step(PATH.kdf, raw, "key-pair", value, size)
        assert reference_pairs.private(kind, seed) != pair


@every_pair
def test_labels_make_other_pairs(kind: KeyType) -> None:
    labels = ("", "a", kind.value)
    paths = [dataclasses.replace(of_type(kind), label=label) for label in labels]
    publics = {released_key(ROOT, p, KeyPart.PUBLIC).reveal() for p in paths}
    assert len(publics) == len(labels)


@every_pair
def test_public_half_belongs_to_the_private_one(kind: KeyType) -> None:
    private, public = (released_key(ROOT, of_type(kind), part) for part in KeyPart)
    assert private == derive(ROOT, of_type(kind))
    assert public.reveal() == public_half(private, kind)


def refused(error: pytest.ExceptionInfo[KeyReleaseError]) -> None:
    assert error.value.code is Code.KEY_PATH_INVALID


def test_raw_key_has_no_public_half() -> None:
    for call in (
        lambda: released_key(ROOT, PATH, KeyPart.PUBLIC),
        lambda: public_half(Secret(b"k" * 32), KeyType.RAW),
        lambda: private_half(Secret(b"k" * 32), KeyType.RAW),
        lambda: seed_bytes(KeyType.RAW),
        lambda: public_bytes(KeyType.RAW),
    ):
        with pytest.raises(KeyReleaseError) as error:
            call()
        refused(error)


@every_pair
def test_halves_of_another_length_are_refused(kind: KeyType) -> None:
    for size in (0, 31, 33, 64):
        with pytest.raises(KeyReleaseError) as error:
            public_half(Secret(b"\1" * size), kind)
        refused(error)
    for size in (0, seed_bytes(kind) - 1, seed_bytes(kind) + 1):
        with pytest.raises(KeyReleaseError) as error:
            private_half(Secret(b"\1" * size), kind)
        refused(error)
    for size in (0, public_bytes(kind) - 1, public_bytes(kind) + 1, 65):
        with pytest.raises(KeyReleaseError) as error:
            check_public_half(b"\2" * size, kind)
        refused(error)


@pytest.mark.parametrize("kind", CURVES)
def test_scalars_out_of_range_are_refused(kind: KeyType) -> None:
    order = reference_pairs.CURVES[kind][3]
    for scalar in (0, order, order + 1, (1 << 256) - 1):
        with pytest.raises(KeyReleaseError) as error:
            public_half(Secret(scalar.to_bytes(32, "big")), kind)
        refused(error)


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize(
    "point",
    [b"\x02" + b"\xff" * 32, b"\x04" + b"\1" * 32, bytes(33)],
    ids=["not on the field", "uncompressed tag", "zeros"],
)
def test_what_is_no_point_is_refused(kind: KeyType, point: bytes) -> None:
    with pytest.raises(KeyReleaseError) as error:
        check_public_half(point, kind)
    refused(error)


def test_refusals_say_nothing_of_the_key() -> None:
    order = reference_pairs.CURVES[KeyType.P256][3]
    secret = (order + 7).to_bytes(32, "big")
    with pytest.raises(KeyReleaseError) as error:
        public_half(Secret(secret), KeyType.P256)
    assert secret.hex()[-8:] not in str(error.value)
    assert str(order + 7) not in str(error.value)
