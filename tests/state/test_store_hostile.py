# SPDX-License-Identifier: Apache-2.0
"""The host edits, swaps, drops, duplicates and puts back what lies beneath."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from store_places import DOMAIN, MemoryPlace, Place, sealer

from tightseal.errors import Code, ServiceError
from tightseal.model.state import AnchorClass, Create
from tightseal.state.anchors import MemoryAnchor
from tightseal.state.check import check
from tightseal.state.memory import Tables
from tightseal.state.rows import HeadRow, Row
from tightseal.state.store import SealedStore

NOW = 1_795_000_000
LIVES = NOW + 1000


@dataclass(frozen=True)
class Scene:
    """The same store at two moments, and where its records lie."""

    old: Tables
    new: Tables
    one: tuple[str, bytes]
    two: tuple[str, bytes]
    other: tuple[str, bytes]
    gone: tuple[str, bytes]
    absent: tuple[str, bytes]
    stranger: HeadRow


def scene(place: Place) -> Scene:
    store = place.new()
    names = [f"filler{i}" for i in range(40)]
    store.batch([Create("usage", name, b"") for name in names], now=NOW)
    one = store.create("usage", "one", b"1", now=NOW, expires_at=LIVES)
    store.create("usage", "two", b"2", now=NOW, expires_at=LIVES)
    store.create("grant", "one", b"3", now=NOW)
    gone = store.create("usage", "gone", b"4", now=NOW)
    old = place.dump()
    store.delete("usage", "gone", expected=gone, now=NOW)
    store.replace("usage", "one", b"9", expected=one, now=NOW, expires_at=LIVES)
    another = MemoryPlace()
    another.new()
    stranger = another.dump().head
    assert stranger is not None
    place.load(place.dump())
    assert place.attach().open("usage", "one", now=NOW).value == b"9"

    def key(kind: str, name: str) -> tuple[str, bytes]:
        return kind, sealer().index(kind, name)

    return Scene(
        old=old,
        new=place.dump(),
        one=key("usage", "one"),
        two=key("usage", "two"),
        other=key("grant", "one"),
        gone=key("usage", "gone"),
        absent=key("usage", "absent"),
        stranger=stranger,
    )


def edited(tables: Tables, key: tuple[str, bytes], **fields: object) -> Tables:
    tables.record[key] = replace(tables.record[key], **fields)  # type: ignore[arg-type]
    return tables


def flipped(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def sealed_of(s: Scene, key: tuple[str, bytes]) -> bytes:
    return s.new.record[key].sealed


def moved(tables: Tables, row: Row, key: tuple[str, bytes]) -> Tables:
    tables.record[key] = replace(row, kind=key[0], index=key[1])
    return tables


def swapped_rows(s: Scene, t: Tables) -> Tables:
    moved(t, s.new.record[s.one], s.two)
    return moved(t, s.new.record[s.two], s.one)


def renamed(s: Scene, t: Tables) -> Tables:
    moved(t, t.record.pop(s.one), s.absent)
    return t


def dropped(_: Scene, t: Tables, *keys: tuple[str, bytes]) -> Tables:
    for key in keys:
        del t.record[key]
    return t


def other_head(t: Tables, **fields: object) -> Tables:
    assert t.head is not None
    t.head = replace(t.head, **fields)  # type: ignore[arg-type]
    return t


def nodes_changed(t: Tables, change: Callable[[bytes], bytes | None]) -> Tables:
    for key, body in list(t.node.items()):
        made = change(body)
        if made is None:
            del t.node[key]
        else:
            t.node[key] = made
    return t


# Every act is judged by whoever asks for ``usage one`` and by a check of the whole.
ON_ONE: dict[str, Callable[[Scene, Tables], Tables]] = {
    "sealed value edited": lambda s, t: edited(
        t, s.one, sealed=flipped(sealed_of(s, s.one))
    ),
    "salt edited": lambda s, t: edited(
        t, s.one, sealed=flipped(sealed_of(s, s.one), 5)
    ),
    "form byte edited": lambda s, t: edited(
        t, s.one, sealed=flipped(sealed_of(s, s.one), 0)
    ),
    "sealed value cut": lambda s, t: edited(t, s.one, sealed=sealed_of(s, s.one)[:-1]),
    "sealed value emptied": lambda s, t: edited(t, s.one, sealed=b""),
    "version raised": lambda s, t: edited(
        t, s.one, version=s.new.record[s.one].version + 1
    ),
    "version of an older value": lambda s, t: edited(
        t, s.one, version=s.old.record[s.one].version
    ),
    "expiry moved": lambda s, t: edited(t, s.one, expires_at=LIVES + 1),
    "expiry removed": lambda s, t: edited(t, s.one, expires_at=None),
    "expiry brought forward": lambda s, t: edited(t, s.one, expires_at=NOW - 1),
    "sealed values swapped": lambda s, t: edited(
        edited(t, s.one, sealed=sealed_of(s, s.two)),
        s.two,
        sealed=sealed_of(s, s.one),
    ),
    "rows swapped": swapped_rows,
    "row renamed": renamed,
    "row of another kind": lambda s, t: moved(t, s.new.record[s.other], s.one),
    "row dropped": lambda s, t: dropped(s, t, s.one),
    "every row dropped": lambda s, t: dropped(s, t, *list(t.record)),
    "row put back": lambda s, t: moved(t, s.old.record[s.one], s.one),
    "rows put back": lambda s, t: Tables(t.head, s.old.record, t.node),
    "rows and nodes put back": lambda s, t: Tables(t.head, s.old.record, s.old.node),
    "nodes put back": lambda s, t: Tables(t.head, t.record, s.old.node),
    "head put back": lambda s, t: Tables(s.old.head, t.record, t.node),
    "head and rows put back": lambda s, t: Tables(s.old.head, s.old.record, t.node),
    "nodes dropped": lambda _, t: nodes_changed(t, lambda _: None),
    "nodes edited": lambda _, t: nodes_changed(t, flipped),
    "nodes cut": lambda _, t: nodes_changed(t, lambda body: body[:-1]),
    "nodes emptied": lambda _, t: nodes_changed(t, lambda _: b""),
    "head dropped": lambda _, t: Tables(None, t.record, t.node),
    "head edited": lambda s, t: other_head(
        t, sealed=flipped(s.new.head.sealed if s.new.head else b"")
    ),
    "head of another store": lambda s, t: other_head(t, sealed=s.stranger.sealed),
    "store id changed": lambda _, t: other_head(t, store_id=bytes(16)),
    "store id too long": lambda _, t: other_head(t, store_id=bytes(17)),
    "older schema claimed": lambda _, t: other_head(t, schema=1),
    "everything but the head dropped": lambda _, t: Tables(t.head, {}, {}),
}


@pytest.mark.parametrize("act", ON_ONE)
def test_what_the_host_does_to_a_record_is_noticed(place: Place, act: str) -> None:
    found = scene(place)
    place.load(ON_ONE[act](found, found.new.copy()))
    for use in (
        lambda: place.attach().open("usage", "one", now=NOW),
        lambda: place.attach().replace("usage", "one", b"", expected=1, now=NOW),
        lambda: place.attach().create("usage", "one", b"", now=NOW),
        lambda: place.attach().delete("usage", "one", expected=1, now=NOW),
        lambda: check(place.engine(), sealer()),
    ):
        with pytest.raises(ServiceError) as noticed:
            use()
        # A claimed schema is refused before the head that contradicts it is opened.
        allowed = {Code.STATE_TAMPERED}
        if act == "older schema claimed":
            allowed.add(Code.STATE_SCHEMA_UNSUPPORTED)
        assert noticed.value.code in allowed, act
    place.load(found.new)
    assert place.attach().open("usage", "one", now=NOW).value == b"9"


@pytest.mark.parametrize(
    "act",
    sorted(
        set(ON_ONE)
        # The map is rebuilt from the rows, so its stored nodes are not looked at: they
        # do not matter, and without them rows with their head are all of it put back.
        - {"nodes put back", "nodes dropped", "nodes edited", "nodes cut"}
        - {"nodes emptied", "head and rows put back"}
    ),
)
def test_a_scan_hides_and_adds_nothing(place: Place, act: str) -> None:
    found = scene(place)
    place.load(ON_ONE[act](found, found.new.copy()))
    with pytest.raises(ServiceError) as noticed:
        place.attach().scan("usage", now=NOW)
    assert noticed.value.code in {Code.STATE_TAMPERED, Code.STATE_SCHEMA_UNSUPPORTED}


def test_a_deleted_record_put_back_is_noticed(place: Place) -> None:
    found = scene(place)
    tables = found.new.copy()
    tables.record[found.gone] = found.old.record[found.gone]
    place.load(tables)
    for use in (
        lambda: place.attach().open("usage", "gone", now=NOW),
        lambda: place.attach().create("usage", "gone", b"", now=NOW),
        lambda: place.attach().scan("usage", now=NOW),
        lambda: check(place.engine(), sealer()),
    ):
        with pytest.raises(ServiceError) as noticed:
            use()
        assert noticed.value.code is Code.STATE_TAMPERED


def test_a_duplicate_under_another_name_is_noticed(place: Place) -> None:
    found = scene(place)
    place.load(moved(found.new.copy(), found.new.record[found.one], found.absent))
    for use in (
        lambda: place.attach().open("usage", "absent", now=NOW),
        lambda: place.attach().scan("usage", now=NOW),
        lambda: check(place.engine(), sealer()),
    ):
        with pytest.raises(ServiceError) as noticed:
            use()
        assert noticed.value.code is Code.STATE_TAMPERED


def test_a_kind_that_the_head_does_not_know_is_noticed(place: Place) -> None:
    found = scene(place)
    row = found.new.record[found.one]
    place.load(moved(found.new.copy(), row, ("strange", row.index)))
    with pytest.raises(ServiceError) as noticed:
        place.attach().scan("strange", now=NOW)
    assert noticed.value.code is Code.STATE_TAMPERED
    with pytest.raises(ServiceError) as checked:
        check(place.engine(), sealer())
    assert checked.value.code is Code.STATE_TAMPERED


def test_nodes_that_no_record_makes_are_found_by_a_check(place: Place) -> None:
    found = scene(place)
    tables = found.new.copy()
    tables.node["usage", b"\x00\x01\x02\x03"] = next(iter(tables.node.values()))
    place.load(tables)
    with pytest.raises(ServiceError) as noticed:
        check(place.engine(), None)
    assert noticed.value.code is Code.STATE_TAMPERED


def test_all_of_it_put_back_is_noticed_by_a_process_that_saw_more(
    place: Place,
) -> None:
    found = scene(place)
    store = place.attach()
    place.load(found.old)
    for use in (
        lambda: store.open("usage", "one", now=NOW),
        lambda: store.create("usage", "new", b"", now=NOW),
        lambda: store.scan("usage", now=NOW),
        lambda: store.scan("grant", now=NOW),
    ):
        with pytest.raises(ServiceError) as noticed:
            use()
        assert noticed.value.code is Code.STATE_ROLLED_BACK


def test_all_of_it_put_back_is_noticed_by_an_anchor_after_a_restart(
    place: Place,
) -> None:
    anchor = MemoryAnchor()
    store = SealedStore.new(place.engine(), sealer(), anchor=anchor)
    version = store.create("usage", "one", b"1", now=NOW)
    old = place.dump()
    store.replace("usage", "one", b"2", expected=version, now=NOW)
    assert store.freshness().anchor is AnchorClass.PROCESS
    place.load(old)
    with pytest.raises(ServiceError) as noticed:
        SealedStore.attach(place.engine(), sealer(), anchor=anchor)
    assert noticed.value.code is Code.STATE_ROLLED_BACK


def test_all_of_it_put_back_without_an_anchor_is_reported_as_not_noticed(
    place: Place,
) -> None:
    found = scene(place)
    place.load(found.old)
    store = place.attach()
    assert store.open("usage", "one", now=NOW).value == b"1"
    fresh = store.freshness()
    assert fresh.anchor is AnchorClass.NONE
    assert fresh.not_noticed == AnchorClass.NONE.not_noticed
    report = check(place.engine(), sealer())
    assert report.not_noticed == AnchorClass.NONE.not_noticed


def test_two_histories_never_pass_for_one(place: Place) -> None:
    """The host forks the store: each half alone is authentic."""
    anchor = MemoryAnchor()
    store = SealedStore.new(place.engine(), sealer(), anchor=anchor)
    store.create("usage", "one", b"1", now=NOW)
    fork = place.dump()
    store.create("usage", "here", b"", now=NOW)
    place.load(fork)
    place.attach().create("usage", "there", b"", now=NOW)
    for use in (
        lambda: store.open("usage", "one", now=NOW),
        lambda: SealedStore.attach(place.engine(), sealer(), anchor=anchor),
    ):
        with pytest.raises(ServiceError) as noticed:
            use()
        assert noticed.value.code is Code.STATE_ROLLED_BACK


def test_another_store_of_the_same_provider_is_noticed(place: Place) -> None:
    store = place.new()
    store.create("usage", "one", b"1", now=NOW)
    another = MemoryPlace()
    longer = another.new()
    for i in range(9):
        longer.create("usage", f"n{i}", b"", now=NOW)
    place.load(another.dump())
    with pytest.raises(ServiceError) as noticed:
        store.open("usage", "one", now=NOW)
    assert noticed.value.code is Code.STATE_TAMPERED
    with pytest.raises(ServiceError) as unknown:
        SealedStore.attach(place.engine(), sealer(), anchor=MemoryAnchor())
    assert unknown.value.code is Code.STATE_ROLLED_BACK
    adopted = SealedStore.attach(
        place.engine(), sealer(), anchor=MemoryAnchor(), adopt=True
    )
    assert adopted.freshness().anchor is AnchorClass.PROCESS


def test_a_row_hidden_from_the_purge_stays_and_stays_expired(place: Place) -> None:
    store = place.new()
    store.create("usage", "one", b"", now=NOW, expires_at=NOW + 1)
    tables = place.dump()
    key = ("usage", sealer().index("usage", "one"))
    place.load(edited(tables.copy(), key, expires_at=None))
    assert store.purge(now=NOW + 2) == 0
    place.load(tables)
    with pytest.raises(ServiceError) as expired:
        store.open("usage", "one", now=NOW + 2)
    assert expired.value.code is Code.STATE_MISSING


def test_a_live_row_passed_off_as_expired_is_not_purged(place: Place) -> None:
    store = place.new()
    store.create("usage", "one", b"", now=NOW, expires_at=NOW + 10)
    key = ("usage", sealer().index("usage", "one"))
    place.load(edited(place.dump(), key, expires_at=NOW - 10))
    with pytest.raises(ServiceError) as noticed:
        store.purge(now=NOW)
    assert noticed.value.code is Code.STATE_TAMPERED


def test_errors_name_no_value_and_no_key(place: Place) -> None:
    found = scene(place)
    place.load(ON_ONE["sealed value edited"](found, found.new.copy()))
    with pytest.raises(ServiceError) as noticed:
        place.attach().open("usage", "one", now=NOW)
    assert DOMAIN not in noticed.value.detail
    assert noticed.value.public == "The provider cannot serve this request."
