# SPDX-License-Identifier: Apache-2.0
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import Code, EvidenceError, ServiceError
from tightseal.model.secret import Secret
from tightseal.state.nonces import (
    MAX_LIFE,
    MAX_SKEW,
    MIN_LIFE,
    NONCE_BYTES,
    NonceMint,
    era_of,
)

NOW = 1_800_000_000
LIFE = 60
KEY = Secret(b"m" * 32)
MINT = NonceMint(KEY, life=LIFE)
NONCE, EXPIRES_AT = MINT.mint(NOW)


def test_layout() -> None:
    mint = NonceMint(KEY, life=LIFE, random=lambda n: b"\x07" * n)
    nonce, expires_at = mint.mint(NOW, era=0x0102)
    head = b"\x01\x02" + b"\x07" * 14
    covered = (
        b"\x82\x76tightseal/v1/mac/nonce\x82\x50"
        + head
        + b"\x1a"
        + expires_at.to_bytes(4, "big")
    )
    mac = hmac.digest(b"m" * 32, covered, "sha256")
    assert nonce == head + expires_at.to_bytes(8, "big") + mac
    assert era_of(nonce) == 0x0102
    assert era_of(NONCE) == 0
    assert len(nonce) == NONCE_BYTES
    assert expires_at == NOW + LIFE


@given(st.integers(0, 1 << 50), st.integers(MIN_LIFE, MAX_LIFE), st.data())
def test_minted_nonce_lives_its_life(now: int, life: int, data: st.DataObject) -> None:
    mint = NonceMint(KEY, life=life)
    nonce, expires_at = mint.mint(now)
    later = now + data.draw(st.integers(-MAX_SKEW, life - 1))
    assert mint.check(nonce, later) == expires_at


@pytest.mark.parametrize("era", [-1, 1 << 16])
def test_an_era_that_does_not_fit_is_no_nonce(era: int) -> None:
    with pytest.raises(ServiceError) as refused:
        MINT.mint(NOW, era=era)
    assert refused.value.code is Code.INTERNAL


def test_another_era_is_another_nonce() -> None:
    """Whoever moves a nonce to another era has no MAC for it."""
    with pytest.raises(EvidenceError) as refused:
        MINT.check(b"\0\1" + NONCE[2:], NOW)
    assert refused.value.code is Code.NONCE_UNKNOWN


def test_another_worker_with_the_key_accepts() -> None:
    assert NonceMint(Secret(b"m" * 32), life=LIFE).check(NONCE, NOW) == EXPIRES_AT


@pytest.mark.parametrize("after", [0, 1, MAX_LIFE, 1 << 40])
def test_expired_nonce_is_refused(after: int) -> None:
    with pytest.raises(EvidenceError) as refused:
        MINT.check(NONCE, EXPIRES_AT + after)
    assert refused.value.code is Code.NONCE_EXPIRED


@pytest.mark.parametrize("back", [MAX_SKEW + 1, 3600, NOW])
def test_clock_that_went_back_is_noticed(back: int) -> None:
    with pytest.raises(ServiceError) as refused:
        MINT.check(NONCE, NOW - back)
    assert refused.value.code is Code.CLOCK_BEHIND


@given(st.integers(0, NONCE_BYTES * 8 - 1))
def test_no_changed_bit_is_accepted(bit: int) -> None:
    changed = bytearray(NONCE)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(EvidenceError) as refused:
        MINT.check(bytes(changed), NOW)
    assert refused.value.code is Code.NONCE_UNKNOWN


@given(st.binary(max_size=128))
def test_foreign_bytes_are_unknown(nonce: bytes) -> None:
    with pytest.raises(EvidenceError) as refused:
        MINT.check(nonce, NOW)
    assert refused.value.code is Code.NONCE_UNKNOWN


def test_another_key_does_not_accept() -> None:
    with pytest.raises(EvidenceError) as refused:
        NonceMint(Secret(b"n" * 32), life=LIFE).check(NONCE, NOW)
    assert refused.value.code is Code.NONCE_UNKNOWN


def test_nonces_do_not_repeat() -> None:
    assert len({MINT.mint(NOW)[0] for _ in range(1000)}) == 1000


@pytest.mark.parametrize("life", [-1, 0, MIN_LIFE - 1, MAX_LIFE + 1])
def test_life_out_of_bounds_is_refused(life: int) -> None:
    with pytest.raises(ServiceError) as refused:
        NonceMint(KEY, life=life)
    assert refused.value.code is Code.SETTINGS_INVALID


@pytest.mark.parametrize("key", [b"", b"m" * 31, bytes(32)])
def test_weak_mac_key_is_refused(key: bytes) -> None:
    with pytest.raises(ServiceError) as refused:
        NonceMint(Secret(key), life=LIFE)
    assert refused.value.code is Code.SETTINGS_INVALID


@pytest.mark.parametrize("now", [-1, -(1 << 70), 1 << 53, 1 << 70])
def test_no_time_mints_nothing(now: int) -> None:
    with pytest.raises(ServiceError) as refused:
        MINT.mint(now)
    assert refused.value.code is Code.INTERNAL
