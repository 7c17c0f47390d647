# SPDX-License-Identifier: Apache-2.0
"""Every value has one text, and every other text is refused."""

import base64
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import Code, RequestError
from tightseal.model.base64url import (
    base64url_chars,
    decode_base64url,
    encode_base64url,
)

ALPHABET = string.ascii_letters + string.digits + "-_"
ODD = "+/= \n\0!é\ud800\uff21"


def decode(text: str) -> bytes:
    return decode_base64url(text, field="x", max_bytes=4096)


def by_the_book(text: str) -> bytes | None:
    """The slow way: the alphabet by a pattern, and encoded again as a whole."""
    if re.fullmatch(r"[A-Za-z0-9_-]*", text) is None or len(text) % 4 == 1:
        return None
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    again = base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    return data if again == text else None


@given(st.binary(max_size=300))
def test_what_is_encoded_is_decoded(data: bytes) -> None:
    text = encode_base64url(data)
    assert decode(text) == data
    assert len(text) == base64url_chars(len(data))


@given(st.text(alphabet=ALPHABET + ODD, max_size=24) | st.text(ALPHABET, max_size=24))
def test_a_text_is_taken_where_the_book_takes_it(text: str) -> None:
    wanted = by_the_book(text)
    if wanted is not None:
        assert decode(text) == wanted
        return
    with pytest.raises(RequestError) as e:
        decode(text)
    assert e.value.code is Code.REQUEST_MALFORMED


@pytest.mark.parametrize("length", [1, 2, 3])
def test_every_last_group_but_the_canonical_ones_is_refused(length: int) -> None:
    taken = 0
    for last in ALPHABET:
        text = "AAAA" + "Q" * (length - 1) + last
        try:
            decode(text)
        except RequestError:
            continue
        taken += 1
    assert taken == {1: 0, 2: 4, 3: 16}[length]


@pytest.mark.parametrize(
    "text", ["QUI=", "QQ==", "Q Q", "QQ\n", "Q+_A", "Q/-A", "=", "Q"]
)
def test_padding_space_and_the_other_alphabet_are_refused(text: str) -> None:
    with pytest.raises(RequestError) as e:
        decode(text)
    assert e.value.code is Code.REQUEST_MALFORMED


@pytest.mark.parametrize("size", [1, 4])
def test_sizes_outside_the_bounds_are_refused(size: int) -> None:
    with pytest.raises(RequestError, match=r"2 to 3 bytes|at most 3 bytes"):
        decode_base64url(
            encode_base64url(bytes(size)), field="x", min_bytes=2, max_bytes=3
        )
