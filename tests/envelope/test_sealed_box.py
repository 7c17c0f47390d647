# SPDX-License-Identifier: Apache-2.0
import hashlib

import pytest
from bad_points import BAD_POINTS
from hypothesis import example, given
from hypothesis import strategies as st
from nacl import bindings
from nacl.public import PrivateKey

from tightseal.envelope.sealed_box import open_legacy, seal_legacy
from tightseal.errors import Code, KeyReleaseError
from tightseal.model.secret import Secret

GUEST = bytes(range(0x20, 0x40))
GUEST_PUBLIC = bytes.fromhex(
    "358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254"
)
SEED = bytes(range(32))
BOX = bytes.fromhex(
    "79a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51a841918745f765615"
    "6724e041d891db498d4096b6bdffcc2f21612caa6823635f263bc5e4cf0235c3b230bcdfe71c12e8"
)


def box_from_primitives(key: bytes, public: bytes, ephemeral: bytes) -> bytes:
    """crypto_box_seal with a fixed ephemeral key."""
    ephemeral_public = bindings.crypto_scalarmult_base(ephemeral)
    nonce = hashlib.blake2b(ephemeral_public + public, digest_size=24).digest()
    return ephemeral_public + bindings.crypto_box(key, nonce, public, ephemeral)


def test_golden_vector_from_primitives() -> None:
    assert bytes(PrivateKey(GUEST).public_key) == GUEST_PUBLIC
    assert box_from_primitives(SEED, GUEST_PUBLIC, bytes(range(0x40, 0x60))) == BOX
    assert (
        hashlib.sha256(BOX).hexdigest()
        == "3ff3260d700cd73f4c879583770ee0377868e017c79bc7426c7a02f7f0d6ab78"
    )


def test_golden_vector_opens() -> None:
    assert open_legacy(BOX, private_key=Secret(GUEST)).reveal() == SEED


@given(st.binary(min_size=16, max_size=64))
def test_sealed_key_opens(key: bytes) -> None:
    box = seal_legacy(Secret(key), GUEST_PUBLIC)
    assert len(box) == len(key) + 48
    assert open_legacy(box, private_key=Secret(GUEST)).reveal() == key


def test_sealed_key_opens_with_primitives() -> None:
    box = seal_legacy(Secret(SEED), GUEST_PUBLIC)
    assert len(box) == 80
    assert bindings.crypto_box_seal_open(box, GUEST_PUBLIC, GUEST) == SEED


@pytest.mark.parametrize("defect", BAD_POINTS)
def test_bad_point_is_refused(defect: str) -> None:
    with pytest.raises(KeyReleaseError) as refused:
        seal_legacy(Secret(SEED), BAD_POINTS[defect])
    assert refused.value.code is Code.RECIPIENT_KEY_INVALID


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_recipient_key_of_wrong_length_is_refused(size: int) -> None:
    with pytest.raises(KeyReleaseError) as refused:
        seal_legacy(Secret(SEED), b"\x09" * size)
    assert refused.value.code is Code.RECIPIENT_KEY_INVALID


@pytest.mark.parametrize("size", [0, 15, 65])
def test_key_out_of_bounds_is_not_sealed(size: int) -> None:
    with pytest.raises(KeyReleaseError) as refused:
        seal_legacy(Secret(bytes(size)), GUEST_PUBLIC)
    assert refused.value.code is Code.ENVELOPE_INVALID


@given(st.integers(0, 80 * 8 - 1))
@example(255)  # X25519 ignores this bit, the nonce does not
def test_no_changed_bit_opens(bit: int) -> None:
    box = bytearray(BOX)
    box[bit // 8] ^= 1 << bit % 8
    with pytest.raises(KeyReleaseError) as refused:
        open_legacy(bytes(box), private_key=Secret(GUEST))
    assert refused.value.code is Code.ENVELOPE_INVALID


@pytest.mark.parametrize("size", [0, 47, 63, 113, 1 << 20])
def test_wrong_length_does_not_open(size: int) -> None:
    with pytest.raises(KeyReleaseError) as refused:
        open_legacy(bytes(size), private_key=Secret(GUEST))
    assert refused.value.code is Code.ENVELOPE_INVALID


@pytest.mark.parametrize("private", [b"", bytes(31), b"\1" * 32])
def test_another_private_key_does_not_open(private: bytes) -> None:
    with pytest.raises(KeyReleaseError) as refused:
        open_legacy(BOX, private_key=Secret(private))
    assert refused.value.code is Code.ENVELOPE_INVALID
