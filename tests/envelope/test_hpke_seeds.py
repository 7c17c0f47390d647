# SPDX-License-Identifier: Apache-2.0
"""Recipient keys from seeds, keys that are kept elsewhere, and longer secrets."""

import pytest
import reference_hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tightseal.envelope.hpke import RecipientKey, open_with, seal
from tightseal.errors import Code, KeyReleaseError
from tightseal.model.exchange import Kem
from tightseal.model.secret import Secret

SEED = Secret(bytes(range(96)))
HYBRID = Kem.MLKEM768_X25519
INFO = b"this exchange"
SECRET = Secret(b"s" * 96)


def sealed(kem: Kem, secret: Secret = SECRET, *, max_bytes: int = 96) -> bytes:
    public = RecipientKey.from_seed(kem, SEED).public_bytes()
    return seal(secret, kem=kem, recipient_key=public, info=INFO, max_bytes=max_bytes)


def test_a_seed_is_d_and_z_and_then_the_scalar() -> None:
    """What opens is made here from the halves of the seed, by another way."""
    envelope = sealed(HYBRID)
    mlkem = MLKEM768PrivateKey.from_seed_bytes(SEED.reveal()[:64])
    x25519 = X25519PrivateKey.from_private_bytes(SEED.reveal()[64:])
    shared = reference_hpke.x_wing_decap(mlkem, x25519, envelope[:1120])
    opened = reference_hpke.open_base(
        reference_hpke.X_WING, shared, envelope[1120:], INFO
    )
    assert opened == SECRET.reveal()


@pytest.mark.parametrize("kem", Kem)
def test_a_seed_is_one_key(kem: Kem) -> None:
    envelope = sealed(kem)
    again = RecipientKey.from_seed(kem, SEED)
    assert again.open(envelope, info=INFO, max_bytes=96) == SECRET
    other = RecipientKey.from_seed(kem, Secret(bytes(range(1, 97))))
    assert other.public_bytes() != again.public_bytes()
    with pytest.raises(KeyReleaseError):
        other.open(envelope, info=INFO, max_bytes=96)


@pytest.mark.parametrize("size", [0, 32, 64, 95, 97])
def test_a_seed_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(KeyReleaseError) as caught:
        RecipientKey.from_seed(HYBRID, Secret(bytes(size)))
    assert caught.value.code is Code.ENVELOPE_INVALID


def test_what_is_longer_than_a_key_opens_only_where_it_is_expected() -> None:
    envelope = sealed(HYBRID)
    key = RecipientKey.from_seed(HYBRID, SEED)
    with pytest.raises(KeyReleaseError):
        key.open(envelope, info=INFO)
    with pytest.raises(KeyReleaseError):
        sealed(HYBRID, max_bytes=95)


def test_a_key_that_is_kept_elsewhere_opens_its_envelope() -> None:
    private = Secret(SEED.reveal()[64:])
    envelope = sealed(Kem.X25519, Secret(b"k" * 32))
    assert open_with(private, envelope, info=INFO).reveal() == b"k" * 32
    for attempt in (
        lambda: open_with(private, envelope, info=b"another"),
        lambda: open_with(Secret(b"o" * 32), envelope, info=INFO),
        lambda: open_with(Secret(b"o" * 31), envelope, info=INFO),
        lambda: open_with(private, sealed(Kem.X25519), info=INFO),
    ):
        with pytest.raises(KeyReleaseError) as caught:
            attempt()
        assert caught.value.code is Code.ENVELOPE_INVALID
