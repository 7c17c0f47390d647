# SPDX-License-Identifier: Apache-2.0
"""What every engine's store does: the interface's own promises."""

import pytest
from store_places import Place, sealer

from tightseal.errors import Code, ServiceError
from tightseal.model.state import (
    MAX_BATCH,
    MAX_RECORD_NAME_BYTES,
    MAX_VALUE_BYTES,
    AnchorClass,
    Change,
    Create,
    Delete,
    Expect,
    Replace,
)
from tightseal.state.check import check
from tightseal.state.heads import MAX_KINDS
from tightseal.state.store import SealedStore

NOW = 1_795_000_000


def test_what_is_created_opens_as_it_was(place: Place) -> None:
    store = place.new()
    version = store.create("usage", "a", b"one", now=NOW, expires_at=NOW + 9)
    for reader in (store, place.attach()):
        found = reader.open("usage", "a", now=NOW)
        assert (found.kind, found.name, found.value) == ("usage", "a", b"one")
        assert (found.version, found.expires_at) == (version, NOW + 9)


def test_create_and_open_never_stand_in_for_each_other(place: Place) -> None:
    store = place.new()
    with pytest.raises(ServiceError) as missing:
        store.open("usage", "a", now=NOW)
    assert missing.value.code is Code.STATE_MISSING
    store.create("usage", "a", b"one", now=NOW)
    with pytest.raises(ServiceError) as exists:
        store.create("usage", "a", b"two", now=NOW)
    assert exists.value.code is Code.STATE_EXISTS
    assert store.open("usage", "a", now=NOW).value == b"one"
    with pytest.raises(ServiceError) as absent:
        store.replace("usage", "b", b"", expected=1, now=NOW)
    assert absent.value.code is Code.STATE_MISSING
    with pytest.raises(ServiceError) as gone:
        store.delete("usage", "b", expected=1, now=NOW)
    assert gone.value.code is Code.STATE_MISSING


def test_a_store_is_made_once_and_attached_only_where_it_is(place: Place) -> None:
    with pytest.raises(ServiceError) as missing:
        place.attach()
    assert missing.value.code is Code.STATE_MISSING
    with pytest.raises(ServiceError) as unchecked:
        check(place.engine(), sealer())
    assert unchecked.value.code is Code.STATE_MISSING
    place.new().create("usage", "a", b"one", now=NOW)
    with pytest.raises(ServiceError) as exists:
        place.new()
    assert exists.value.code is Code.STATE_EXISTS
    assert place.attach().open("usage", "a", now=NOW).value == b"one"


def test_compare_and_set_has_one_winner(place: Place) -> None:
    one, two = place.new(), place.attach()
    version = one.create("usage", "a", b"0", now=NOW)
    won = two.replace("usage", "a", b"1", expected=version, now=NOW)
    assert won > version
    with pytest.raises(ServiceError) as lost:
        one.replace("usage", "a", b"2", expected=version, now=NOW)
    assert lost.value.code is Code.STATE_CONFLICT
    with pytest.raises(ServiceError) as kept:
        one.delete("usage", "a", expected=version, now=NOW)
    assert kept.value.code is Code.STATE_CONFLICT
    assert one.open("usage", "a", now=NOW).value == b"1"
    one.delete("usage", "a", expected=won, now=NOW)
    with pytest.raises(ServiceError) as gone:
        two.open("usage", "a", now=NOW)
    assert gone.value.code is Code.STATE_MISSING


def test_no_version_of_a_name_comes_twice(place: Place) -> None:
    store = place.new()
    first = store.create("usage", "a", b"", now=NOW)
    store.delete("usage", "a", expected=first, now=NOW)
    assert store.create("usage", "a", b"", now=NOW) > first


def test_an_expired_record_is_missing_and_can_be_made_anew(place: Place) -> None:
    store = place.new()
    store.create("usage", "a", b"old", now=NOW, expires_at=NOW + 10)
    assert store.open("usage", "a", now=NOW + 9).value == b"old"
    with pytest.raises(ServiceError) as expired:
        store.open("usage", "a", now=NOW + 10)
    assert expired.value.code is Code.STATE_MISSING
    assert store.scan("usage", now=NOW + 10) == ()
    store.create("usage", "a", b"new", now=NOW + 10)
    assert store.open("usage", "a", now=NOW + 99).value == b"new"
    check(place.engine(), sealer())


def test_purge_removes_what_expired_and_nothing_else(place: Place) -> None:
    store = place.new()
    for i in range(5):
        store.create("usage", f"a{i}", b"", now=NOW, expires_at=NOW + 10)
    store.create("usage", "later", b"", now=NOW, expires_at=NOW + 11)
    store.create("usage", "never", b"", now=NOW)
    assert store.purge(now=NOW + 9) == 0
    assert store.purge(now=NOW + 10, limit=2) == 2
    assert store.purge(now=NOW + 10) == 3
    assert len(place.dump().record) == 2
    left = [record.name for record in store.scan("usage", now=NOW)]
    assert left == ["later", "never"]
    check(place.engine(), sealer())


def test_a_batch_is_all_or_nothing_with_one_version(place: Place) -> None:
    store = place.new()
    version = store.create("usage", "a", b"0", now=NOW)
    common = store.batch(
        [
            Replace("usage", "a", b"1", version),
            Create("grant", "b", b"2"),
            Expect("grant", "c", None),
        ],
        now=NOW,
    )
    assert store.open("usage", "a", now=NOW).version == common
    assert store.open("grant", "b", now=NOW).version == common
    failing: list[tuple[list[Change], Code]] = [
        ([Create("grant", "x", b""), Create("grant", "b", b"")], Code.STATE_EXISTS),
        ([Create("grant", "x", b""), Delete("usage", "z", 1)], Code.STATE_MISSING),
        ([Delete("usage", "a", common), Expect("usage", "q", 1)], Code.STATE_MISSING),
        (
            [Create("grant", "x", b""), Expect("usage", "a", version)],
            Code.STATE_CONFLICT,
        ),
        (
            [Delete("usage", "a", common), Expect("grant", "b", None)],
            Code.STATE_CONFLICT,
        ),
    ]
    before = place.dump()
    for changes, code in failing:
        with pytest.raises(ServiceError) as refused:
            store.batch(changes, now=NOW)
        assert refused.value.code is code
    assert place.dump() == before


def test_expectations_alone_change_nothing(place: Place) -> None:
    store = place.new()
    version = store.create("usage", "a", b"0", now=NOW)
    before = place.dump()
    asked = [Expect("usage", "a", version), Expect("usage", "b", None)]
    assert store.batch(asked, now=NOW) == version
    assert place.dump() == before


def test_scan_gives_every_live_record_in_order(place: Place) -> None:
    store = place.new()
    names = [f"n{i:03}" for i in range(40)]
    store.batch([Create("usage", n, n.encode()) for n in reversed(names)], now=NOW)
    store.create("grant", "other", b"", now=NOW)
    found = place.attach().scan("usage", now=NOW)
    assert [r.name for r in found] == names
    assert all(r.value == r.name.encode() for r in found)
    assert store.scan("none", now=NOW) == ()


@pytest.mark.parametrize("name", ["é" * 128, "a" * 256, "\x00", "a/b\n", "💾"])
def test_names_and_values_at_their_bounds(place: Place, name: str) -> None:
    store = place.new()
    value = bytes(MAX_VALUE_BYTES)
    store.create("k" + "9" * 31, name, value, now=NOW)
    found = place.attach().open("k" + "9" * 31, name, now=NOW)
    assert (found.name, found.value) == (name, value)


def test_what_passes_a_bound_is_refused_and_changes_nothing(place: Place) -> None:
    store = place.new()
    before = place.dump()
    value = bytes(MAX_VALUE_BYTES + 1)
    many = [Create("usage", str(i), b"") for i in range(MAX_BATCH + 1)]
    too_large: list[list[Change]] = [
        [Create("usage", "a", value)],
        [Replace("usage", "a", value, 1)],
        [Create("usage", "", b"")],
        [Create("usage", "a" * (MAX_RECORD_NAME_BYTES + 1), b"")],
        [],
        list(many),
        [Create(f"k{i}", "a", b"") for i in range(MAX_KINDS + 1)],
    ]
    for changes in too_large:
        with pytest.raises(ServiceError) as refused:
            store.batch(changes, now=NOW)
        assert refused.value.code is Code.STATE_TOO_LARGE
    wrong: list[list[Change]] = [
        [Create("Usage", "a", b"")],
        [Create("usage\n", "a", b"")],
        [Create("usage", "\ud800", b"")],
        [Create("usage", "a", b"", expires_at=-1)],
        [Create("usage", "a", b"", expires_at=1 << 63)],
        [Create("usage", "a", b""), Delete("usage", "a", 1)],
    ]
    for changes in wrong:
        with pytest.raises(ServiceError) as refused:
            store.batch(changes, now=NOW)
        assert refused.value.code is Code.INTERNAL
    assert place.dump() == before


def test_the_host_reads_neither_names_nor_values(place: Place) -> None:
    store = place.new()
    name, value = "workload-of-tenant-x", b"a value that nobody should read"
    version = store.create("usage", name, value, now=NOW)
    store.replace("usage", name, value * 2, expected=version, now=NOW)
    seen = repr(place.dump().record) + repr(place.dump().node)
    rows = place.dump().record.values()
    stored = b"".join(row.sealed + row.index for row in rows)
    assert name not in seen
    assert name.encode() not in stored
    assert value not in stored
    assert value.decode() not in repr(store.open("usage", name, now=NOW))


def test_without_an_anchor_freshness_says_what_is_not_noticed(place: Place) -> None:
    store = place.new()
    fresh = store.freshness()
    assert fresh.anchor is AnchorClass.NONE
    assert fresh.head.counter == 0
    assert "older copy of the whole state" in fresh.not_noticed
    version = store.create("usage", "a", b"", now=NOW)
    assert store.freshness().head.counter == version


def test_another_key_or_trust_domain_opens_nothing(place: Place) -> None:
    place.new().create("usage", "a", b"", now=NOW)
    for other in (sealer(b"\x01" * 32), sealer(domain="intel")):
        with pytest.raises(ServiceError) as refused:
            SealedStore.attach(place.engine(), other)
        assert refused.value.code is Code.STATE_TAMPERED


@pytest.mark.parametrize("key", [b"", b"k" * 31, bytes(32)])
def test_a_key_that_is_none_is_refused(key: bytes) -> None:
    with pytest.raises(ServiceError) as refused:
        sealer(key)
    assert refused.value.code is Code.SETTINGS_INVALID


def test_the_store_expected_is_the_one_found(place: Place) -> None:
    store = place.new()
    own = store.freshness().head.store_id
    SealedStore.attach(place.engine(), sealer(), store_id=own)
    with pytest.raises(ServiceError) as refused:
        SealedStore.attach(place.engine(), sealer(), store_id=bytes(16))
    assert refused.value.code is Code.STATE_TAMPERED
