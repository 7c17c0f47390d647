# SPDX-License-Identifier: Apache-2.0
"""No two different key paths, requests or records encode alike."""

import itertools
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tightseal.model.canonical import encode
from tightseal.model.claims import MEASUREMENT_NAMES, Tee
from tightseal.model.generation import GenerationName
from tightseal.model.keypath import (
    Authority,
    IdentityKind,
    Kdf,
    KeyPart,
    KeyPath,
    KeyRequest,
    KeyType,
    ProtocolClass,
    WorkloadBinding,
)
from tightseal.model.keyuse import KeyUse, Operation
from tightseal.model.usage import key_record

TEXTS = st.text(alphabet='ab/,:[]"\\', min_size=1, max_size=4)
VALUES = st.binary(min_size=1, max_size=3)
PAIRS = st.dictionaries(st.sampled_from(MEASUREMENT_NAMES[Tee.TDX][:4]), VALUES).map(
    lambda pairs: tuple(sorted(pairs.items()))
)
BINDINGS = st.builds(
    WorkloadBinding,
    identity=st.sampled_from(IdentityKind),
    name=st.none() | TEXTS,
    tee=st.sampled_from(Tee),
    attributes=PAIRS,
    measurements=PAIRS,
    authority=st.builds(Authority, TEXTS, VALUES),
)
PATHS = st.builds(
    KeyPath,
    kdf=st.sampled_from(Kdf),
    trust_domain=TEXTS,
    tenant=TEXTS,
    workload=BINDINGS,
    protocol_class=st.sampled_from(ProtocolClass),
    generation=st.integers(0, 3),
    purpose=TEXTS,
    label=TEXTS | st.just(""),
    length=st.integers(16, 18),
    key_type=st.sampled_from(KeyType),
)
KEYS = st.builds(
    KeyRequest,
    TEXTS,
    TEXTS | st.just(""),
    st.integers(16, 18),
    st.sampled_from(KeyPart),
    st.sampled_from(GenerationName) | st.integers(0, 2),
    st.booleans(),
    st.none()
    | st.builds(
        KeyUse, st.sampled_from(Operation), st.binary(max_size=2), st.binary(max_size=2)
    ),
    st.none() | st.binary(max_size=2),
)


@settings(deadline=None)
@given(st.lists(PATHS, min_size=2, max_size=6))
def test_two_different_key_paths_never_encode_alike(paths: list[KeyPath]) -> None:
    for one, other in itertools.combinations(paths, 2):
        same = encode(one.as_value()) == encode(other.as_value())
        assert same == (one == other)


@settings(deadline=None)
@given(PATHS, st.data())
def test_every_part_of_a_key_path_enters_its_encoding(
    path: KeyPath, data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from(KeyPath.__slots__))
    other = replace(path, **{field: getattr(data.draw(PATHS), field)})
    assert (encode(path.as_value()) == encode(other.as_value())) == (path == other)


@settings(deadline=None)
@given(st.lists(KEYS, min_size=2, max_size=6))
def test_two_different_requests_never_encode_alike(keys: list[KeyRequest]) -> None:
    for one, other in itertools.combinations(keys, 2):
        same = encode(one.as_value()) == encode(other.as_value())
        assert same == (one == other)


@settings(deadline=None)
@given(KEYS, st.data())
def test_every_part_of_a_request_enters_its_encoding(
    key: KeyRequest, data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from(KeyRequest.__slots__))
    other = replace(key, **{field: getattr(data.draw(KEYS), field)})
    assert (encode(key.as_value()) == encode(other.as_value())) == (key == other)


RECORDS = st.tuples(TEXTS, TEXTS, TEXTS)


@given(RECORDS, RECORDS)
def test_two_purposes_never_share_a_record(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    names = ("tenant", "workload", "purpose")
    records = [key_record(**dict(zip(names, it, strict=True))) for it in (one, other)]
    assert (records[0] == records[1]) == (one == other)
