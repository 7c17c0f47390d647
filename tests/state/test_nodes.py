# SPDX-License-Identifier: Apache-2.0
"""Nodes over one state: who is there, what differs, and when the state is raised."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_places import sealer

from tightseal.errors import Code, ServiceError
from tightseal.model import formats
from tightseal.model.canonical import decode, encode
from tightseal.model.formats import MAX_FORMAT, format_in, format_kind
from tightseal.model.node import (
    MAX_NODE_RECORD_BYTES,
    KeyringSeen,
    NodeRecord,
    NodeState,
    decode_node,
    encode_node,
)
from tightseal.release import nodes as nodes_module
from tightseal.release.nodes import (
    CLOCK_APART_SECONDS,
    FORGET_SECONDS,
    HEARTBEAT_SECONDS,
    MAX_NODES,
    NODE_KIND,
    RAISE_AFTER_SECONDS,
    STALE_SECONDS,
    NodeBook,
    Nodes,
    NodeView,
    Standing,
    Wrong,
)
from tightseal.state.memory import MemoryEngine
from tightseal.state.store import SealedStore

NOW = 1_790_000_000
RING = KeyringSeen(b"r" * 32, 2, 5)


def record(**changes: Any) -> NodeRecord:
    made = NodeRecord(
        software="1.0.0",
        format=formats.FORMAT,
        tee="sgx",
        measurement=b"m" * 32,
        settings=b"s" * 64,
        policy=3,
        keyring=RING,
        log_key="tightseal/v1/log/00+0badf00d+key",
        log_size=7,
        run=b"r" * 16,
        started=NOW,
        seen=NOW,
        state=NodeState.SERVING,
    )
    return replace(made, **changes)


class Node:
    """A node with a clock of its own, over a store that others look at too."""

    def __init__(self, store: SealedStore, name: str, **own: Any) -> None:
        self.store = store
        ended = own.pop("ended", frozenset())
        self.book = NodeBook(store, name * 16, ended)
        self.own = record(run=name.encode() * 8, **own)

    def look(self, now: int, *, clock: int = 0, **changes: Any) -> Nodes:
        self.own = replace(self.own, seen=now + clock, **changes)
        return self.book.look(self.own, now=now + clock)


def new_store() -> SealedStore:
    return SealedStore.new(MemoryEngine(), sealer())


def seen(nodes: Nodes, name: str) -> NodeView:
    (found,) = [node for node in nodes.nodes if node.name == name * 16]
    return found


def writes(store: SealedStore) -> int:
    return store.freshness().head.counter


# -- the record --------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written() -> None:
    for made in (record(), record(policy=None, keyring=None, state=NodeState.LEFT)):
        assert decode_node(encode_node(made)) == made


def test_members_and_states_of_newer_versions_are_passed_over() -> None:
    value = decode(encode_node(record()))
    assert isinstance(value, dict)
    newer = {**value, "racks": [1, 2], "state": "dreaming"}
    assert decode_node(encode(newer)) == record()


@pytest.mark.parametrize(
    ("member", "wrong"),
    [
        ("format", -1),
        ("format", True),
        ("format", MAX_FORMAT + 1),
        ("software", "x" * 257),
        ("software", None),
        ("measurement", "text"),
        ("settings", b"s" * 65),
        ("policy", "3"),
        ("keyring", [1]),
        ("seen", 1 << 60),
        ("state", None),
    ],
)
def test_a_record_with_a_wrong_member_is_refused(member: str, wrong: Any) -> None:
    value = decode(encode_node(record()))
    assert isinstance(value, dict)
    with pytest.raises(ServiceError) as no:
        decode_node(encode({**value, member: wrong}))
    assert no.value.code is Code.STATE_TAMPERED


@pytest.mark.parametrize(
    "data", [b"", b"\xff", encode([1]), b"x" * (MAX_NODE_RECORD_BYTES + 1)]
)
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(ServiceError) as no:
        decode_node(data)
    assert no.value.code is Code.STATE_TAMPERED


# -- who is there ------------------------------------------------------------------


def test_nodes_write_seldom_and_see_each_other() -> None:
    store = new_store()
    a, b = Node(store, "a"), Node(store, "b")
    for second in range(0, HEARTBEAT_SECONDS, 5):
        a.look(NOW + second)
        both = b.look(NOW + second)
    assert writes(store) == 2
    assert [node.standing for node in both.nodes] == [Standing.SERVING] * 2
    assert all(not node.wrong for node in both.nodes)
    a.look(NOW + HEARTBEAT_SECONDS)
    assert writes(store) == 3


def test_workers_of_one_node_write_one_record_between_them() -> None:
    store = new_store()
    one, two = Node(store, "a"), Node(store, "a", started=NOW + 1)
    for second in range(0, 3 * HEARTBEAT_SECONDS, 5):
        one.look(NOW + second)
        found = two.look(NOW + second)
    assert writes(store) == 3
    assert len(found.nodes) == 1
    assert not found.wrong(Wrong.REPLACED)


def test_what_changes_is_said_at_once() -> None:
    store = new_store()
    a, b = Node(store, "a"), Node(store, "b")
    a.look(NOW)
    b.look(NOW)
    a.look(NOW + 1, policy=4)
    assert seen(b.look(NOW + 2), "a").record.policy == 4
    before = writes(store)
    a.look(NOW + 3, log_size=1000)
    assert writes(store) == before, "a release is no reason to write"


def test_a_node_that_is_killed_gets_stale_and_the_others_say_so() -> None:
    store = new_store()
    a, b = Node(store, "a"), Node(store, "b")
    a.look(NOW)
    for second in range(0, STALE_SECONDS + 1, 10):
        found = b.look(NOW + second)
    assert seen(found, "a").standing is Standing.SERVING
    found = b.look(NOW + STALE_SECONDS + 1)
    assert seen(found, "a").wrong == (Wrong.STALE,)
    assert found.count()[Standing.STALE] == 1
    assert found.silent() == STALE_SECONDS + 1
    assert seen(a.look(NOW + STALE_SECONDS + 2), "a").wrong == ()
    assert not b.look(NOW + STALE_SECONDS + 3).wrong(Wrong.STALE)


def test_a_node_that_was_stale_before_we_came_is_stale_at_the_first_look() -> None:
    store = new_store()
    Node(store, "a").look(NOW)
    found = Node(store, "b").look(NOW + STALE_SECONDS + 1)
    assert found.wrong(Wrong.STALE) == ("a" * 16,)


@pytest.mark.parametrize("apart", [-3600, 3600])
def test_a_clock_that_is_apart_is_named_and_its_node_is_not_stale(apart: int) -> None:
    store = new_store()
    a, b = Node(store, "a"), Node(store, "b")
    for second in range(0, 5 * HEARTBEAT_SECONDS, 5):
        a.look(NOW + second, clock=apart)
        found = b.look(NOW + second)
    assert seen(found, "a").wrong == (Wrong.CLOCK,)
    assert seen(found, "a").standing is Standing.SERVING


def test_clocks_a_little_apart_are_in_order() -> None:
    store = new_store()
    a, b = Node(store, "a"), Node(store, "b")
    for second in range(0, 5 * HEARTBEAT_SECONDS, 5):
        a.look(NOW + second, clock=CLOCK_APART_SECONDS - 5)
        found = b.look(NOW + second)
    assert seen(found, "a").wrong == ()


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"settings": b"t" * 64}, Wrong.SETTINGS),
        ({"policy": 2}, Wrong.POLICY),
        ({"keyring": replace(RING, counter=6)}, Wrong.KEYRING),
        ({"keyring": None}, Wrong.KEYRING),
    ],
)
def test_what_differs_is_named_by_either_node(
    changes: dict[str, Any], wrong: Wrong
) -> None:
    store = new_store()
    a, b = Node(store, "a", **changes), Node(store, "b")
    a.look(NOW)
    assert seen(b.look(NOW), "a").wrong == (wrong,)
    assert seen(a.look(NOW), "b").wrong == (wrong,)


def test_another_version_and_measurement_are_no_fault() -> None:
    """They are what an upgrade looks like from within."""
    store = new_store()
    Node(store, "a", software="0.9", measurement=b"n" * 32).look(NOW)
    assert seen(Node(store, "b").look(NOW), "a").wrong == ()


def test_nothing_is_wrong_with_a_node_that_left() -> None:
    store = new_store()
    a, b = Node(store, "a", policy=1), Node(store, "b")
    for state in NodeState:
        a.look(NOW, state=state)
    found = seen(b.look(NOW + 10 * STALE_SECONDS), "a")
    assert (found.standing, found.wrong) == (Standing.LEFT, ())
    assert b.look(NOW + 10 * STALE_SECONDS).silent() == 0


def test_a_run_never_goes_back_and_its_last_size_is_kept() -> None:
    """One worker is done while another still serves: the record says the furthest."""
    store = new_store()
    one, two = Node(store, "a"), Node(store, "a")
    one.look(NOW)
    one.look(NOW, state=NodeState.DRAINING)
    two.look(NOW + HEARTBEAT_SECONDS)
    other = Node(store, "b")
    assert seen(other.look(NOW), "a").standing is Standing.DRAINING
    one.look(NOW, state=NodeState.LEFT, log_size=9)
    two.look(NOW, state=NodeState.LEFT, log_size=8)
    assert seen(other.look(NOW), "a").record.log_size == 9
    two.look(NOW, state=NodeState.LEFT, log_size=12)
    assert seen(other.look(NOW), "a").record.log_size == 12


def test_a_node_that_starts_again_is_there_again() -> None:
    store = new_store()
    a = Node(store, "a")
    a.look(NOW)
    a.look(NOW, state=NodeState.LEFT)
    again = Node(store, "a", started=NOW + 5)
    again.own = replace(again.own, run=b"next")
    assert seen(again.look(NOW + 5), "a").standing is Standing.SERVING
    found = Node(store, "b").look(NOW + 5)
    assert seen(found, "a").record.run == b"next"


def test_two_processes_with_one_log_are_told_and_do_not_fight() -> None:
    store = new_store()
    old, new = Node(store, "a"), Node(store, "a")
    new.own = replace(new.own, run=b"twin")
    old.look(NOW)
    assert not new.look(NOW).wrong(Wrong.REPLACED)
    before = writes(store)
    for second in range(HEARTBEAT_SECONDS):
        assert old.look(NOW + second).wrong(Wrong.REPLACED) == ("a" * 16,)
    assert writes(store) == before


def test_a_record_goes_after_a_week_or_when_the_host_names_its_node() -> None:
    store = new_store()
    Node(store, "a").look(NOW)
    Node(store, "c").look(NOW)
    b = Node(store, "b", ended=frozenset({"a" * 16}))
    assert [node.name[0] for node in b.look(NOW + 1).nodes] == ["b", "c"]
    late = NOW + FORGET_SECONDS
    assert [node.name[0] for node in b.look(late).nodes] == ["b"]
    Node(store, "c").look(late + 1)
    assert [node.name[0] for node in b.look(late + 1).nodes] == ["b", "c"]


def test_there_is_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_NODES == 256
    monkeypatch.setattr(nodes_module, "MAX_NODES", 2)
    store = new_store()
    Node(store, "a").look(NOW)
    Node(store, "b").look(NOW)
    with pytest.raises(ServiceError) as no:
        Node(store, "c").look(NOW)
    assert no.value.code is Code.STATE_TOO_LARGE
    assert "host.state.ended_logs" in no.value.detail


# -- the format --------------------------------------------------------------------


def test_a_state_says_its_format_by_kinds_alone() -> None:
    assert format_in([]) == format_in(["usage", "node", "formats"]) == 1
    assert format_in(["usage", format_kind(2), format_kind(3)]) == 3
    for strange in ("format-", "format-x", "format-1000", "format-2x"):
        assert format_in([strange]) == MAX_FORMAT


def raise_now(patch: pytest.MonkeyPatch, newest: int, *, after: int = 0) -> None:
    patch.setattr(formats, "FORMAT", newest)
    patch.setattr(nodes_module, "RAISE_AFTER_SECONDS", after)


def test_a_state_is_raised_once_every_node_understands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raise_now(monkeypatch, 2)
    store = new_store()
    old, new = Node(store, "a", format=1), Node(store, "b")
    old.look(NOW)
    for second in range(STALE_SECONDS + 10):
        found = new.look(NOW + second)
        assert (found.format, found.understood) == (1, 1), "stale is not gone"
    old.look(NOW, state=NodeState.LEFT)
    assert new.look(NOW + 200).understood == 2
    assert new.look(NOW + 205).format == 2


def test_a_state_waits_a_day_so_that_the_older_version_can_be_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert RAISE_AFTER_SECONDS == 86_400
    raise_now(monkeypatch, 2, after=RAISE_AFTER_SECONDS)
    store = new_store()
    new, old = Node(store, "b"), Node(store, "a", format=1)
    new.look(NOW)
    half = NOW + RAISE_AFTER_SECONDS // 2
    old.look(half)
    assert new.look(half).understood == 1
    old.look(half + 1, state=NodeState.LEFT)
    begun = half + 2
    for moment in (begun, begun + RAISE_AFTER_SECONDS - 1):
        assert new.look(moment).format == 1
    new.look(begun + RAISE_AFTER_SECONDS)
    assert new.look(begun + RAISE_AFTER_SECONDS + 1).format == 2


def test_a_process_that_is_too_old_can_do_nothing_from_that_commit_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = MemoryEngine()
    older = SealedStore.new(engine, sealer())
    version = older.create("usage", "x", b"1", now=NOW)
    with monkeypatch.context() as newer:
        raise_now(newer, 2)
        store = SealedStore.attach(engine, sealer())
        node = Node(store, "b")
        node.look(NOW)
        assert node.look(NOW + 1).format == 2
        store.replace("usage", "x", b"2", expected=version, now=NOW)
    for attempt in (
        lambda: older.open("usage", "x", now=NOW),
        lambda: older.replace("usage", "x", b"3", expected=version, now=NOW),
        lambda: older.scan("usage", now=NOW),
        lambda: SealedStore.attach(engine, sealer()),
    ):
        with pytest.raises(ServiceError) as no:
            attempt()
        assert no.value.code is Code.STATE_SCHEMA_UNSUPPORTED
        assert "format 2, this version understands 1" in no.value.detail
        assert "run their version" in no.value.detail


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from(["look", "leave", "upgrade", "downgrade"]),
            st.integers(0, 120),
        ),
        max_size=25,
    )
)
def test_no_history_raises_a_state_over_a_node_that_is_there(
    steps: list[tuple[str, str, int]],
) -> None:
    """Nodes come, go, and change versions; the format never passes one that is there.

    A node that comes too late is refused by the head, and does not count as there.
    """
    with pytest.MonkeyPatch.context() as patch:
        raise_now(patch, 3)
        store, now = new_store(), NOW
        newest = dict.fromkeys("abc", 1)
        nodes = {name: Node(store, name, format=1) for name in "abc"}
        there: set[str] = set()
        formats_seen = [1]
        for name, what, pause in steps:
            now += pause
            node = nodes[name]
            if what in {"upgrade", "downgrade"} and name not in there:
                newest[name] = min(3, newest[name] + 1) if what == "upgrade" else 1
            if newest[name] < formats_seen[-1]:
                continue
            patch.setattr(formats, "FORMAT", newest[name])
            leaves = what == "leave" and name in there
            state = NodeState.LEFT if leaves else NodeState.SERVING
            if name not in there:
                node.book = NodeBook(store, name * 16)
                node.own = replace(node.own, run=f"{name}{now}".encode())
            node.look(now, format=newest[name], state=state)
            there = there - {name} if leaves else there | {name}
            patch.setattr(formats, "FORMAT", 3)
            kinds = {k for k in (2, 3) if store.scan(format_kind(k), now=now)}
            formats_seen.append(max(kinds, default=1))
            assert all(newest[other] >= formats_seen[-1] for other in there)
        assert all(before <= after for before, after in pairwise(formats_seen))


def test_records_of_nodes_are_sealed_and_a_changed_one_is_found() -> None:
    store = new_store()
    Node(store, "a").look(NOW)
    kept = store.open(NODE_KIND, "a" * 16, now=NOW)
    store.replace(NODE_KIND, "a" * 16, b"junk", expected=kept.version, now=NOW)
    with pytest.raises(ServiceError) as no:
        Node(store, "b").look(NOW)
    assert no.value.code is Code.STATE_TAMPERED
