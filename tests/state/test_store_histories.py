# SPDX-License-Identifier: Apache-2.0
"""Random histories against a dictionary, and the laws of the authenticated map."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_places import MemoryPlace, Place, PostgresPlace, SqlitePlace, sealer
from store_postgres import Server

from tightseal.errors import Code, ServiceError
from tightseal.model.state import Change, Create, Delete, Expect, Replace
from tightseal.state.authmap import KindMap, Leaf, build_root, depth_hint, prefixes
from tightseal.state.check import check

KINDS = ("usage", "grant")
NAMES = ("a", "b", "c", "d", "e", "f")

KEYS = st.tuples(st.sampled_from(KINDS), st.sampled_from(NAMES))
STEP = st.tuples(
    st.sampled_from(["create", "replace", "delete", "expect", "absent"]),
    KEYS,
    st.binary(max_size=3),
    st.one_of(st.none(), st.integers(0, 12)),
    st.booleans(),
)
TICK = st.lists(STEP, min_size=1, max_size=4, unique_by=lambda step: step[1])
HISTORY = st.lists(st.tuples(st.integers(0, 3), TICK), max_size=25)


@dataclass
class Held:
    value: bytes
    version: int
    expires_at: int | None


Model = dict[tuple[str, str], Held]
Step = tuple[str, tuple[str, str], bytes, int | None, bool]


def alive(model: Model, key: tuple[str, str], now: int) -> Held | None:
    held = model.get(key)
    if held is None or (held.expires_at is not None and held.expires_at <= now):
        return None
    return held


def change_of(model: Model, step: Step) -> Change:
    what, (kind, name), value, expires_at, right = step
    held = model.get((kind, name))
    expected = held.version if held is not None and right else 10_000
    if what == "create":
        return Create(kind, name, value, expires_at)
    if what == "replace":
        return Replace(kind, name, value, expected, expires_at)
    if what == "delete":
        return Delete(kind, name, expected)
    return Expect(kind, name, None if what == "absent" else expected)


def verdict(model: Model, change: Change, now: int) -> Code | None:
    held = alive(model, (change.kind, change.name), now)
    if isinstance(change, Create):
        return None if held is None else Code.STATE_EXISTS
    if isinstance(change, Expect) and change.expected is None:
        return None if held is None else Code.STATE_CONFLICT
    if held is None:
        return Code.STATE_MISSING
    return None if held.version == change.expected else Code.STATE_CONFLICT


def settle(model: Model, change: Change, version: int) -> None:
    key = change.kind, change.name
    if isinstance(change, Delete):
        del model[key]
    elif isinstance(change, Create | Replace):
        model[key] = Held(change.value, version, change.expires_at)


def play(place: Place, history: list[tuple[int, list[Step]]]) -> None:
    stores = [place.new(), place.attach()]
    model: Model = {}
    now = top = 0
    for turn, (passed, steps) in enumerate(history):
        now += passed
        store = stores[turn % len(stores)]
        changes = [change_of(model, step) for step in steps]
        codes = [code for c in changes if (code := verdict(model, c, now))]
        if codes:
            with pytest.raises(ServiceError) as refused:
                store.batch(changes, now=now)
            assert refused.value.code is codes[0]
        else:
            version = store.batch(changes, now=now)
            writes = any(not isinstance(c, Expect) for c in changes)
            assert version == top + 1 if writes else version == top
            top = version
            for change in changes:
                settle(model, change, version)
        if turn % 5 == 4:
            due = [k for k in model if alive(model, k, now) is None]
            assert store.purge(now=now) == len(due)
            top += bool(due)
            for key in due:
                del model[key]
    agree(place, model, now)


def agree(place: Place, model: Model, now: int) -> None:
    store = place.attach()
    for kind in KINDS:
        wanted = {
            name: held
            for (k, name) in model
            if k == kind and (held := alive(model, (k, name), now))
        }
        found = {
            r.name: Held(r.value, r.version, r.expires_at)
            for r in store.scan(kind, now=now)
        }
        assert found == wanted
        for name in NAMES:
            if name in wanted:
                assert store.open(kind, name, now=now).value == wanted[name].value
            else:
                with pytest.raises(ServiceError) as missing:
                    store.open(kind, name, now=now)
                assert missing.value.code is Code.STATE_MISSING
    report = check(place.engine(), sealer())
    assert sum(k.records for k in report.kinds) == len(model)


@given(HISTORY)
@settings(deadline=None, max_examples=80)
def test_memory_histories_are_those_of_a_dictionary(
    history: list[tuple[int, list[Step]]],
) -> None:
    play(MemoryPlace(), history)


@given(HISTORY)
@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_sqlite_histories_are_those_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[int, list[Step]]]
) -> None:
    place = SqlitePlace(tmp_path_factory.mktemp("history") / "state.db")
    try:
        play(place, history)
    finally:
        place.close()


@given(HISTORY)
@settings(deadline=None, max_examples=12)
def test_postgres_histories_are_those_of_a_dictionary(
    postgres: Server, history: list[tuple[int, list[Step]]]
) -> None:
    place = PostgresPlace(postgres.new_address())
    try:
        play(place, history)
    finally:
        place.close()


def index_of(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


# Few distinct nibbles at first, so that paths collide deep and nodes fold up again.
CLOSE = st.lists(st.sampled_from([0, 1, 0x10]), min_size=6, max_size=6).map(
    lambda start: bytes(start) + hashlib.sha256(bytes(start)).digest()[6:]
)
INDEXES = st.one_of(st.integers(0, 30).map(index_of), CLOSE)
EDITS = st.lists(st.tuples(INDEXES, st.booleans(), st.binary(min_size=1, max_size=1)))


def nothing(_: list[bytes]) -> dict[bytes, bytes]:
    return {}


@given(EDITS)
@settings(deadline=None)
def test_the_root_depends_on_the_leaves_alone(
    edits: list[tuple[bytes, bool, bytes]],
) -> None:
    live = KindMap("usage", None, nothing)
    rows: dict[bytes, bytes] = {}
    model: dict[bytes, bytes] = {}
    for index, remove, seed in edits:
        digest = hashlib.sha256(seed).digest()
        if remove and index in model:
            live.remove(index)
            del model[index]
        else:
            live.put(index, digest)
            model[index] = digest
        apply(rows, live.finish())
        again = KindMap("usage", live.root, stored(rows))
        assert again.find(index) == model.get(index)
    fresh = build_root("usage", (Leaf(i, d) for i, d in sorted(model.items())))
    made: dict[bytes, bytes] = {}
    apply(made, fresh.finish())
    assert (fresh.root, made) == (live.root, rows)
    opened = KindMap("usage", live.root, stored(rows))
    assert {leaf.index: leaf.digest for leaf in opened.leaves()} == model


def apply(rows: dict[bytes, bytes], changes: dict[bytes, bytes | None]) -> None:
    for prefix, body in changes.items():
        if body is None:
            rows.pop(prefix, None)
        else:
            rows[prefix] = body


def stored(
    rows: dict[bytes, bytes],
) -> Callable[[list[bytes]], dict[bytes, bytes]]:
    return lambda wanted: {p: rows[p] for p in wanted if p in rows}


@given(st.dictionaries(INDEXES, st.just(bytes(32)), min_size=1), st.data())
@settings(deadline=None)
def test_no_changed_node_is_walked(
    leaves: dict[bytes, bytes], data: st.DataObject
) -> None:
    built = build_root("usage", (Leaf(i, d) for i, d in leaves.items()))
    rows: dict[bytes, bytes] = {}
    apply(rows, built.finish())
    prefix = data.draw(st.sampled_from(sorted(rows)))
    at = data.draw(st.integers(0, len(rows[prefix]) - 1))
    body = bytearray(rows[prefix])
    body[at] ^= data.draw(st.integers(1, 255))
    rows[prefix] = bytes(body)
    with pytest.raises(ServiceError) as noticed:
        list(KindMap("usage", built.root, stored(rows)).leaves())
    assert noticed.value.code is Code.STATE_TAMPERED


def test_a_write_touches_as_many_nodes_as_a_path_has() -> None:
    """16 times the records cost one node more."""
    built = KindMap("usage", None, nothing)
    costs = {}
    for number in range(4096):
        built.put(index_of(number), bytes(32))
        costs[number + 1] = len(built.finish())
    for size in (16, 256, 4096):
        most = max(costs[n] for n in range(size // 2, size + 1))
        # Two names that share a longer prefix than most add a node or two.
        assert most <= depth_hint(size) + 2
    assert sum(costs[n] for n in range(4000, 4097)) / 97 < 4.5


def test_indexes_that_part_too_late_are_refused() -> None:
    built = build_root("usage", [Leaf(bytes(32), bytes(32))])
    with pytest.raises(ServiceError) as refused:
        built.put(bytes(31) + b"\x01", bytes(32))
    assert refused.value.code is Code.STATE_TAMPERED


def test_prefixes_are_the_nibbles_of_the_index() -> None:
    assert prefixes(b"\x12\x34" + bytes(30), 3) == [
        b"",
        b"\x01",
        b"\x01\x02",
        b"\x01\x02\x03",
    ]
