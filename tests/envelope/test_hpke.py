# SPDX-License-Identifier: Apache-2.0
import copy
import pickle

import pytest
import reference_hpke
from bad_points import BAD_POINTS, LOW_ORDER
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tightseal.envelope.hpke import (
    MAX_INFO_BYTES,
    RecipientKey,
    check_recipient_key,
    envelope_bytes,
    recipient_key_bytes,
    seal,
)
from tightseal.errors import Code, KeyReleaseError
from tightseal.model.exchange import Kem
from tightseal.model.secret import Secret

KEY = Secret(bytes(range(32)))
INFO = b"this exchange"
KEMS = pytest.mark.parametrize("kem", Kem)
HELD = {kem: RecipientKey.generate(kem) for kem in Kem}
ENVELOPES = {
    kem: seal(KEY, kem=kem, recipient_key=HELD[kem].public_bytes(), info=INFO)
    for kem in Kem
}


def refused(code: Code) -> "pytest.RaisesExc[KeyReleaseError]":
    return pytest.RaisesExc(KeyReleaseError, check=lambda e: e.code is code)


@given(
    st.sampled_from(Kem),
    st.binary(min_size=16, max_size=64),
    st.binary(max_size=MAX_INFO_BYTES),
)
def test_sealed_key_opens(kem: Kem, key: bytes, info: bytes) -> None:
    public = HELD[kem].public_bytes()
    envelope = seal(Secret(key), kem=kem, recipient_key=public, info=info)
    assert len(envelope) == envelope_bytes(kem, len(key))
    assert HELD[kem].open(envelope, info=info).reveal() == key


def test_lengths() -> None:
    assert recipient_key_bytes(Kem.X25519) == len(HELD[Kem.X25519].public_bytes()) == 32
    hybrid = HELD[Kem.MLKEM768_X25519].public_bytes()
    assert recipient_key_bytes(Kem.MLKEM768_X25519) == len(hybrid) == 1216
    assert len(ENVELOPES[Kem.X25519]) == 32 + 48
    assert len(ENVELOPES[Kem.MLKEM768_X25519]) == 32 + 1136


@KEMS
def test_two_envelopes_of_one_key_differ(kem: Kem) -> None:
    public = HELD[kem].public_bytes()
    again = seal(KEY, kem=kem, recipient_key=public, info=INFO)
    assert again != ENVELOPES[kem]


def test_x25519_suite_is_rfc_9180() -> None:
    private = X25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    envelope = seal(KEY, kem=Kem.X25519, recipient_key=public, info=INFO)
    secret = reference_hpke.dhkem_decap(private, envelope[:32])
    opened = reference_hpke.open_base(
        reference_hpke.X25519_HKDF_SHA256, secret, envelope[32:], INFO
    )
    assert opened == KEY.reveal()


def test_hybrid_suite_is_x_wing_in_hpke() -> None:
    mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    public = (
        mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
    )
    envelope = seal(KEY, kem=Kem.MLKEM768_X25519, recipient_key=public, info=INFO)
    secret = reference_hpke.x_wing_decap(mlkem, x25519, envelope[:1120])
    opened = reference_hpke.open_base(
        reference_hpke.X_WING, secret, envelope[1120:], INFO
    )
    assert opened == KEY.reveal()


@KEMS
def test_other_info_does_not_open(kem: Kem) -> None:
    with refused(Code.ENVELOPE_INVALID):
        HELD[kem].open(ENVELOPES[kem], info=INFO + b"\x00")


@KEMS
def test_other_recipient_does_not_open(kem: Kem) -> None:
    with refused(Code.ENVELOPE_INVALID):
        RecipientKey.generate(kem).open(ENVELOPES[kem], info=INFO)


@settings(max_examples=300)
@given(st.sampled_from(Kem), st.integers(0, (1 << 20) - 1))
@example(Kem.X25519, 255)  # X25519 ignores this bit, the KEM's context does not
@example(Kem.MLKEM768_X25519, 1120 * 8 - 1)
def test_no_changed_bit_opens(kem: Kem, bit: int) -> None:
    envelope = bytearray(ENVELOPES[kem])
    bit %= len(envelope) * 8
    envelope[bit // 8] ^= 1 << bit % 8
    with refused(Code.ENVELOPE_INVALID):
        HELD[kem].open(bytes(envelope), info=INFO)


@KEMS
@pytest.mark.parametrize("size", [0, 1, 31, 48, 63, 1135, 1151, 1200, 1201, 1 << 20])
def test_wrong_length_does_not_open(kem: Kem, size: int) -> None:
    with refused(Code.ENVELOPE_INVALID):
        HELD[kem].open(bytes(size), info=INFO)


@KEMS
def test_truncated_or_extended_does_not_open(kem: Kem) -> None:
    for envelope in (ENVELOPES[kem][:-1], ENVELOPES[kem] + b"\0", ENVELOPES[kem][1:]):
        with refused(Code.ENVELOPE_INVALID):
            HELD[kem].open(envelope, info=INFO)


@KEMS
@pytest.mark.parametrize("defect", LOW_ORDER)
def test_low_order_encapsulation_does_not_open(kem: Kem, defect: str) -> None:
    at = len(ENVELOPES[kem]) - 48 - 32
    envelope = ENVELOPES[kem][:at] + LOW_ORDER[defect] + ENVELOPES[kem][at + 32 :]
    with refused(Code.ENVELOPE_INVALID):
        HELD[kem].open(envelope, info=INFO)


@KEMS
@pytest.mark.parametrize("defect", BAD_POINTS)
def test_bad_point_is_refused(kem: Kem, defect: str) -> None:
    raw = HELD[kem].public_bytes()[:-32] + BAD_POINTS[defect]
    with refused(Code.RECIPIENT_KEY_INVALID):
        check_recipient_key(kem, raw)
    with refused(Code.RECIPIENT_KEY_INVALID):
        seal(KEY, kem=kem, recipient_key=raw, info=INFO)


def test_low_order_points_are_of_low_order() -> None:
    for raw in LOW_ORDER.values():
        with pytest.raises(ValueError, match="shared key"):
            X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(raw))


def test_point_next_to_a_bad_one_is_taken() -> None:
    check_recipient_key(Kem.X25519, (9).to_bytes(32, "little"))
    check_recipient_key(Kem.X25519, ((1 << 255) - 21).to_bytes(32, "little"))


@KEMS
@pytest.mark.parametrize("change", [-1, 1])
def test_recipient_key_of_wrong_length_is_refused(kem: Kem, change: int) -> None:
    raw = (HELD[kem].public_bytes() + b"\1")[: recipient_key_bytes(kem) + change]
    with refused(Code.RECIPIENT_KEY_INVALID):
        check_recipient_key(kem, raw)


def test_key_of_the_other_suite_is_refused() -> None:
    for kem, other in zip(Kem, reversed(Kem), strict=True):
        with refused(Code.RECIPIENT_KEY_INVALID):
            check_recipient_key(kem, HELD[other].public_bytes())


@pytest.mark.parametrize("at", [0, 1, 383, 767])
@pytest.mark.parametrize("coefficient", [3329, 4095])
def test_mlkem_coefficient_over_the_modulus_is_refused(
    at: int, coefficient: int
) -> None:
    raw = bytearray(HELD[Kem.MLKEM768_X25519].public_bytes())
    packed = int.from_bytes(raw[:1152], "little")
    packed &= ~(0xFFF << (12 * at))
    packed |= coefficient << (12 * at)
    raw[:1152] = packed.to_bytes(1152, "little")
    with refused(Code.RECIPIENT_KEY_INVALID):
        check_recipient_key(Kem.MLKEM768_X25519, bytes(raw))


def test_mlkem_largest_coefficient_is_taken() -> None:
    raw = bytearray(HELD[Kem.MLKEM768_X25519].public_bytes())
    raw[0] = 0x00
    raw[1] = raw[1] & 0xF0 | 0x0D  # 3328
    check_recipient_key(Kem.MLKEM768_X25519, bytes(raw))


@pytest.mark.parametrize("kem", ["x25519", "mlkem768-x25519", "p256", None, 0])
def test_unknown_kem_is_refused(kem: object) -> None:
    with refused(Code.KEM_UNSUPPORTED):
        check_recipient_key(kem, bytes(32))  # type: ignore[arg-type]
    with refused(Code.KEM_UNSUPPORTED):
        RecipientKey.generate(kem)  # type: ignore[arg-type]


@KEMS
@pytest.mark.parametrize("size", [0, 15, 65])
def test_key_out_of_bounds_is_not_sealed(kem: Kem, size: int) -> None:
    public = HELD[kem].public_bytes()
    with refused(Code.ENVELOPE_INVALID):
        seal(Secret(bytes(size)), kem=kem, recipient_key=public, info=INFO)


@KEMS
def test_info_over_the_limit_is_refused(kem: Kem) -> None:
    info = bytes(MAX_INFO_BYTES + 1)
    with refused(Code.ENVELOPE_INVALID):
        seal(KEY, kem=kem, recipient_key=HELD[kem].public_bytes(), info=info)
    with refused(Code.ENVELOPE_INVALID):
        HELD[kem].open(ENVELOPES[kem], info=info)


@KEMS
def test_wiped_key_opens_nothing(kem: Kem) -> None:
    held = RecipientKey.generate(kem)
    envelope = seal(KEY, kem=kem, recipient_key=held.public_bytes(), info=INFO)
    held.wipe()
    held.wipe()
    with refused(Code.ENVELOPE_INVALID):
        held.open(envelope, info=INFO)
    assert len(held.public_bytes()) == recipient_key_bytes(kem)


@KEMS
def test_recipient_key_does_not_show_or_leave(kem: Kem) -> None:
    assert repr(HELD[kem]) == f"<recipient key {kem.value}>"
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="leave"):
            leave(HELD[kem])


def test_library_accepts_what_the_suite_names() -> None:
    assert hpke.KEM.MLKEM768_X25519.enc_length() == 1120
    assert hpke.KEM.X25519.enc_length() == 32
