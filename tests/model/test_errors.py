# SPDX-License-Identifier: Apache-2.0
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal import errors
from tightseal.errors import CODES, MAX_DETAIL_CHARS, Code, Fault, TightsealError

PUBLISHED = Path(__file__).resolve().parent.parent / "data" / "codes.txt"
FAMILIES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, TightsealError)
]


def test_published_codes_are_append_only() -> None:
    """Codes are relied on by others: none goes away; new ones go to the end."""
    published = PUBLISHED.read_text().split()
    assert len(set(published)) == len(published)
    current = {code.value for code in Code}
    assert set(published) - current == set(), "published codes that are gone"
    assert current - set(published) == set(), f"append these to {PUBLISHED.name}"


def test_every_code_has_its_meaning() -> None:
    assert set(CODES) == set(Code)
    for code, info in CODES.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]+", code.value)
        assert isinstance(info.fault, Fault)
        assert 400 <= info.status <= 599, code
        assert info.public.endswith("."), code
        assert info.public.isascii(), code


def test_names_and_values_agree() -> None:
    for name, code in Code.__members__.items():
        assert code.value == name.lower() or name.lower() in code.value


def test_public_text_names_no_detail() -> None:
    error = errors.EvidenceError(Code.QUOTE_MALFORMED, "at byte 7: got 1, expected 2")
    assert error.public == CODES[Code.QUOTE_MALFORMED].public
    assert "7" not in error.public
    assert str(error) == "quote_malformed: at byte 7: got 1, expected 2"


@pytest.mark.parametrize("kind", FAMILIES)
def test_errors_cross_process_borders(kind: type[TightsealError]) -> None:
    error = kind(Code.INTERNAL, "detail")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.code, again.detail) == (error.code, error.detail)


@given(st.text())
def test_detail_is_printable_and_bounded(detail: str) -> None:
    error = TightsealError(Code.INTERNAL, detail)
    assert len(error.detail) <= MAX_DETAIL_CHARS
    assert error.detail.isprintable()


def test_detail_carries_no_terminal_sequences() -> None:
    error = TightsealError(
        Code.INTERNAL, "\x1b[31mred\r\nforged line\u202e" + "x" * 5000
    )
    assert "\x1b" not in str(error)
    assert "\n" not in str(error)
    assert "\u202e" not in str(error)
    assert len(error.detail) == MAX_DETAIL_CHARS
