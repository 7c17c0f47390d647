# SPDX-License-Identifier: Apache-2.0
"""What is remembered comes back as it was, or not at all."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import Code, SettingsError
from tightseal.model.canonical import decode, encode
from tightseal.model.state import MAX_VALUE_BYTES
from tightseal.policy.bundle.marks import MAX_MARKS_BYTES, MAX_VERSION, Marks

MARKS = Marks(1, 2, 3, (("targets", 4), ("tenant-acme", 5)), b"d" * 32)
VERSIONS = st.integers(1, MAX_VERSION)


@given(
    st.builds(
        Marks,
        root=VERSIONS,
        timestamp=VERSIONS,
        snapshot=VERSIONS,
        roles=st.dictionaries(st.text(max_size=20), VERSIONS).map(
            lambda d: tuple(sorted(d.items()))
        ),
        digest=st.binary(min_size=32, max_size=32),
    )
)
def test_marks_come_back_from_their_encoding(marks: Marks) -> None:
    assert Marks.from_value(decode(encode(marks.as_value()))) == marks


@pytest.mark.parametrize(
    "change",
    [
        {"root": 0},
        {"timestamp": -1},
        {"snapshot": MAX_VERSION + 1},
        {"root": True},
        {"root": "1"},
        {"roles": []},
        {"roles": {"targets": 0}},
        {"roles": {"targets": None}},
        {"digest": b"d" * 31},
        {"digest": "d" * 32},
        {"more": 1},
    ],
)
def test_marks_of_another_form_are_refused(change: dict[str, Any]) -> None:
    value = MARKS.as_value()
    assert isinstance(value, dict)
    with pytest.raises(SettingsError) as caught:
        Marks.from_value(value | change)
    assert caught.value.code is Code.BUNDLE_MALFORMED


@pytest.mark.parametrize("name", ["root", "timestamp", "snapshot", "roles", "digest"])
def test_marks_without_a_part_are_refused(name: str) -> None:
    value = MARKS.as_value()
    assert isinstance(value, dict)
    with pytest.raises(SettingsError):
        Marks.from_value({k: v for k, v in value.items() if k != name})


@pytest.mark.parametrize("value", [None, 1, [], b"", "marks"])
def test_what_is_no_map_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError):
        Marks.from_value(value)


def test_marks_that_no_record_could_hold_are_refused() -> None:
    names = tuple((f"tenant-{i:0>121}", 1) for i in range(4096))
    with pytest.raises(SettingsError) as caught:
        replace(MARKS, roles=names)
    assert caught.value.code is Code.BUNDLE_MALFORMED
    assert MAX_MARKS_BYTES < MAX_VALUE_BYTES
