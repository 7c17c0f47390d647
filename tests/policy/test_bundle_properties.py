# SPDX-License-Identifier: Apache-2.0
"""Laws: damage is refused or changes nothing, whoever does it and wherever."""

import json
from typing import Any

import pytest
from bundle_support import (
    ACME,
    NOW,
    ROOT_2,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Json,
    Scene,
    content,
    newer,
    to_bytes,
    verify,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.exceptions import FormatError

from tightseal.errors import TightsealError
from tightseal.policy.bundle.archive import pack
from tightseal.policy.bundle.verify import ExpiredMetadata

GOOD = Scene().pack()
FILES = Scene().files()
VERIFIED = verify(GOOD)
SAID, MARKS = content(VERIFIED), VERIFIED.marks
ROLES = (ROOT_2, TIMESTAMP, SNAPSHOT, TARGETS, ACME)

quick = settings(max_examples=100, deadline=None)


def same_or_refused(data: bytes) -> None:
    try:
        verified = verify(data)
    except TightsealError:
        with pytest.raises(TightsealError):
            verify(data, expired=ExpiredMetadata.ACCEPT)
        return
    assert content(verified) == SAID


@quick
@given(at=st.integers(0, len(GOOD) - 1), by=st.integers(1, 255))
def test_a_flipped_byte(at: int, by: int) -> None:
    same_or_refused(GOOD[:at] + bytes([GOOD[at] ^ by]) + GOOD[at + 1 :])


@quick
@given(
    path=st.sampled_from(sorted(FILES)), where=st.floats(0, 1), by=st.integers(1, 255)
)
def test_a_flipped_byte_of_a_file(path: str, where: float, by: int) -> None:
    data = FILES[path]
    at = min(int(where * len(data)), len(data) - 1)
    flipped = data[:at] + bytes([data[at] ^ by]) + data[at + 1 :]
    same_or_refused(pack(FILES | {path: flipped}))


@quick
@given(st.integers(0, len(GOOD) - 1))
def test_truncated(end: int) -> None:
    with pytest.raises(TightsealError):
        verify(GOOD[:end])


@quick
@given(st.sampled_from(sorted(FILES)), st.floats(0, 1, exclude_max=True))
def test_a_truncated_file(path: str, where: float) -> None:
    data = FILES[path]
    with pytest.raises(TightsealError):
        verify(pack(FILES | {path: data[: int(where * len(data))]}))


@quick
@given(st.sampled_from(sorted(FILES)), st.sampled_from(sorted(FILES)))
def test_files_change_places(one: str, other: str) -> None:
    swapped = FILES | {one: FILES[other], other: FILES[one]}
    same_or_refused(pack(swapped))


@quick
@given(st.sets(st.sampled_from(sorted(FILES)), min_size=1))
def test_files_of_two_bundles_mixed(paths: set[str]) -> None:
    """What was published together is used together, or not at all."""
    fresh = newer()
    fresh.contents["policy/base.toml"] += b"# changed\n"
    files = fresh.files()
    mixed = FILES | {path: files[path] for path in paths}
    try:
        verified = verify(pack(mixed))
    except TightsealError:
        return
    assert content(verified) in (SAID, content(verify(pack(files))))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at]
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, child in items:
            found += places(child, (*at, name))
    return found


def put(value: Any, at: tuple[Any, ...], new: Any) -> None:
    for part in at[:-1]:
        value = value[part]
    value[at[-1]] = new


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(ROLES), st.integers(0, 10_000), JSON)
def test_any_value_anywhere_in_what_is_well_signed(
    path: str, which: int, new: Any
) -> None:
    """Even the holders of the keys get nothing out of the library but our errors."""
    signed = json.loads(FILES[path])["signed"]
    where = places(signed)[1:]
    at = where[which % len(where)]

    def edit(value: Json) -> None:
        put(value, at, new)

    try:
        data = Scene().edit(path, edit).pack()
    except FormatError:  # it has no canonical form, so it cannot be signed
        data = pack(FILES | {path: to_bytes({"signatures": [], "signed": new})})
    try:
        verified = verify(data)
    except TightsealError:
        return
    assert verified.documents


@quick
@given(JSON, st.sampled_from(ROLES))
def test_any_json_in_place_of_metadata(value: Any, path: str) -> None:
    with pytest.raises(TightsealError):
        verify(pack(FILES | {path: to_bytes(value)}))


@quick
@given(st.integers(-(10**6), 10**8))
def test_a_bundle_is_good_from_its_issue_to_its_first_end(moment: int) -> None:
    now = NOW + moment
    good = NOW - 3600 - 300 <= now < VERIFIED.expires_at
    try:
        verified = verify(GOOD, now=now)
    except TightsealError:
        assert not good
    else:
        assert good
        assert content(verified) == SAID


@quick
@given(st.permutations(range(4)))
def test_marks_never_fall(order: list[int]) -> None:
    """Whatever the order in which bundles come."""
    bundles = [newer(by=i + 1).pack() for i in range(4)]
    marks, seen = MARKS, MARKS.timestamp
    for i in order:
        try:
            marks = verify(bundles[i], marks=marks).marks
        except TightsealError:
            assert 8 + i < seen
        else:
            assert marks.timestamp == 8 + i > seen
            seen = marks.timestamp
