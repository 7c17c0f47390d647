# SPDX-License-Identifier: Apache-2.0
"""The guard: what is refused, that marks never sink, and how its file can break."""

import json
import multiprocessing
import threading
import time
from pathlib import Path

import pytest
from collateral_support import Recorded
from hypothesis import given
from hypothesis import strategies as st

from tightseal.collateral.guard import (
    EMPTY,
    RELEASE_FLOORS,
    Floor,
    Mark,
    MarkKey,
    Marks,
    MemoryGuard,
    check_facts,
    merge,
    raised,
)
from tightseal.collateral.guardfile import FileGuard
from tightseal.collateral.parts import split
from tightseal.errors import Code, CollateralError
from tightseal.model.collateral import CollateralFacts
from tightseal.model.secret import Secret


def fact(
    issued_at: int = 10,
    number: int = 10,
    *,
    subject: str = "tdx:b0c06f000000",
    kind: str = "tcb_info",
    domain: str = "intel",
) -> CollateralFacts:
    return CollateralFacts(domain, subject, kind, issued_at, number)


keys = st.builds(
    MarkKey,
    st.sampled_from(["intel", "simulated:00"]),
    st.sampled_from(["tcb_info", "pck_crl"]),
    st.sampled_from(["a", "b"]),
)
marks_ = st.dictionaries(
    keys, st.builds(Mark, st.integers(0, 9), st.integers(0, 9)), max_size=6
)
facts_ = st.lists(
    st.builds(
        CollateralFacts,
        trust_domain=st.sampled_from(["intel", "simulated:00"]),
        subject=st.sampled_from(["a", "b"]),
        kind=st.sampled_from(["tcb_info", "pck_crl"]),
        issued_at=st.integers(0, 9),
        number=st.integers(0, 9),
    ),
    max_size=4,
).map(tuple)


def below(one: Marks, other: Marks) -> bool:
    """Whether ``other`` remembers at least what ``one`` does."""
    return all(
        key in other
        and mark.issued_at <= other[key].issued_at
        and mark.number <= other[key].number
        for key, mark in one.items()
    )


@given(marks_, marks_, marks_)
def test_merging_is_a_maximum(one: Marks, two: Marks, three: Marks) -> None:
    assert merge(one, two) == merge(two, one)
    assert merge(one, one) == one
    assert merge(one, merge(two, three)) == merge(merge(one, two), three)
    assert below(one, merge(one, two))
    assert merge(one, EMPTY) == one


@given(st.lists(facts_, max_size=12))
def test_marks_never_sink_and_a_refusal_changes_nothing(
    history: list[tuple[CollateralFacts, ...]],
) -> None:
    guard = MemoryGuard(floors=())
    for facts in history:
        before = guard.marks
        try:
            guard.admit(facts, now=0)
        except CollateralError as error:
            assert error.code is Code.COLLATERAL_ROLLBACK  # noqa: PT017
            assert guard.marks == before
        else:
            assert below(before, guard.marks)
            assert guard.marks == raised(before, facts)


@given(marks_, facts_)
def test_what_was_admitted_is_admitted_again_unless_its_set_disagrees(
    marks: Marks, facts: tuple[CollateralFacts, ...]
) -> None:
    one_each = tuple({(f.trust_domain, f.kind, f.subject): f for f in facts}.values())
    try:
        check_facts(one_each, marks, ())
    except CollateralError:
        return
    assert check_facts(one_each, raised(marks, one_each), ()) is False


@pytest.mark.parametrize(
    ("issued_at", "number"), [(9, 10), (10, 9), (11, 9), (9, 11), (0, 0)]
)
def test_a_lower_date_or_number_is_refused(issued_at: int, number: int) -> None:
    guard = MemoryGuard(floors=())
    guard.admit((fact(),), now=0)
    with pytest.raises(CollateralError, match="admitted before") as caught:
        guard.admit((fact(issued_at, number),), now=0)
    assert caught.value.code is Code.COLLATERAL_ROLLBACK


@pytest.mark.parametrize(("issued_at", "number"), [(10, 10), (11, 10), (10, 11)])
def test_equal_or_higher_is_admitted(issued_at: int, number: int) -> None:
    guard = MemoryGuard(floors=())
    guard.admit((fact(),), now=0)
    guard.admit((fact(issued_at, number),), now=0)
    key = MarkKey("intel", "tcb_info", "tdx:b0c06f000000")
    assert guard.marks[key] == Mark(issued_at, number)


def test_subjects_kinds_and_domains_share_nothing() -> None:
    guard = MemoryGuard(floors=())
    guard.admit((fact(),), now=0)
    for other in ({"subject": "x"}, {"kind": "pck_crl"}, {"domain": "simulated:1"}):
        guard.admit((fact(0, 0, **other),), now=0)
    assert len(guard.marks) == 4


def test_one_old_fact_keeps_the_whole_set_out() -> None:
    guard = MemoryGuard(floors=())
    guard.admit((fact(),), now=0)
    before = guard.marks
    with pytest.raises(CollateralError):
        guard.admit((fact(99, 99, subject="new"), fact(1, 1)), now=0)
    assert guard.marks == before


def test_checking_remembers_nothing() -> None:
    guard = MemoryGuard(floors=())
    guard.check((fact(99, 99),))
    assert not guard.marks


def test_the_floors_of_the_release_refuse_2025_and_take_october_2026(
    june: Recorded, october: Recorded
) -> None:
    guard = MemoryGuard()
    new = tuple(part.facts("intel") for part in split(october.collateral_))
    old = tuple(part.facts("intel") for part in split(june.collateral_))
    guard.admit(new, now=october.now)
    for one in old:
        with pytest.raises(CollateralError, match=r"floor|admitted before"):
            MemoryGuard().check((one,))
    simulated = tuple(part.facts("simulated:00") for part in split(june.collateral_))
    guard.admit(simulated, now=june.now)
    assert {floor.trust_domain for floor in RELEASE_FLOORS} == {"intel"}


def test_a_memory_that_is_full_refuses_more() -> None:
    guard = MemoryGuard(floors=())
    guard.admit(tuple(fact(subject=str(n)) for n in range(4096)), now=0)
    with pytest.raises(CollateralError) as caught:
        guard.admit((fact(subject="one more"),), now=0)
    assert caught.value.code is Code.COLLATERAL_TOO_LARGE


def test_a_file_guard_remembers_across_restarts(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    FileGuard.create(path, floors=()).admit((fact(),), now=0)
    again = FileGuard.open(path, floors=())
    with pytest.raises(CollateralError, match="admitted before"):
        again.admit((fact(9, 10),), now=0)
    with pytest.raises(CollateralError, match="floor"):
        FileGuard.open(path, floors=(Floor("intel", "tcb_info", 11, 0),)).check(
            (fact(),)
        )


def test_two_file_guards_see_each_other_at_once(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    one = FileGuard.create(path, floors=())
    two = FileGuard.open(path, floors=())
    one.admit((fact(10, 10),), now=0)
    with pytest.raises(CollateralError):
        two.admit((fact(9, 10),), now=0)
    two.admit((fact(12, 10),), now=0)
    with pytest.raises(CollateralError):
        one.check((fact(11, 10),))


def test_nothing_is_written_where_nothing_rose(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    guard = FileGuard.create(path, floors=())
    guard.admit((fact(),), now=0)
    before = path.stat()
    for _ in range(100):
        guard.admit((fact(),), now=0)
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "guard.json",
        "guard.json.lock",
    ]


def test_a_warm_admission_costs_microseconds(tmp_path: Path) -> None:
    guard = FileGuard.create(tmp_path / "guard.json", floors=RELEASE_FLOORS)
    facts = tuple(
        fact(2_000_000_000, 99, subject=str(n), kind="tcb_info") for n in range(4)
    )
    guard.admit(facts, now=0)
    begin = time.perf_counter()
    for _ in range(1000):
        guard.admit(facts, now=0)
    assert (time.perf_counter() - begin) / 1000 < 0.0005


def _damage(text: str) -> dict[str, str]:
    fields = json.loads(text)
    lower = json.loads(text)
    lower["marks"][0][3] -= 5
    twice = fields | {"marks": fields["marks"] * 2}
    return {
        "empty": "",
        "cut": text[: len(text) // 2],
        "another version": json.dumps(fields | {"version": 2}),
        "a mark lowered": json.dumps(lower),
        "a mark removed": json.dumps(fields | {"marks": []}),
        "a mark twice": json.dumps(twice),
        "a mark of numbers": json.dumps(fields | {"marks": [[1, 2, 3, 4, 5]]}),
        "marks no list": json.dumps(fields | {"marks": 7}),
        "no check": json.dumps({k: v for k, v in fields.items() if k != "check"}),
        "check no text": json.dumps(fields | {"check": 7}),
        "a list": "[]",
        "too long": " " * (3 << 20),
    }


@pytest.mark.parametrize("defect", sorted(_damage('{"marks":[[0,0,0,0]]}')))
def test_a_damaged_file_is_an_error_and_never_a_fresh_start(
    tmp_path: Path, defect: str
) -> None:
    path = tmp_path / "guard.json"
    running = FileGuard.create(path, floors=())
    running.admit((fact(),), now=0)
    path.write_text(_damage(path.read_text())[defect])
    for guard in (lambda: FileGuard.open(path, floors=()), lambda: running):
        with pytest.raises(CollateralError) as caught:
            guard().admit((fact(),), now=0)
        assert caught.value.code is Code.COLLATERAL_GUARD_BROKEN
        assert caught.value.info.remedy


def test_a_missing_file_is_an_error_and_create_does_not_replace(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    with pytest.raises(CollateralError) as caught:
        FileGuard.open(path)
    assert caught.value.code is Code.COLLATERAL_GUARD_BROKEN
    guard = FileGuard.create(path, floors=())
    with pytest.raises(CollateralError, match="exists"):
        FileGuard.create(path)
    path.unlink()
    with pytest.raises(CollateralError):
        guard.admit((fact(),), now=0)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CollateralError) as caught:
        FileGuard.create(tmp_path / "missing" / "guard.json")
    assert caught.value.code is Code.COLLATERAL_GUARD_BROKEN


def test_an_older_file_put_back_lowers_nothing_while_we_run(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    guard = FileGuard.create(path, floors=())
    guard.admit((fact(10, 10),), now=0)
    old = path.read_bytes()
    guard.admit((fact(20, 20),), now=0)
    path.write_bytes(old)
    with pytest.raises(CollateralError, match="admitted before"):
        guard.admit((fact(15, 20),), now=0)
    guard.admit((fact(21, 20),), now=0)
    assert FileGuard.open(path, floors=()).marks == guard.marks


def test_a_keyed_file_opens_under_its_key_only(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    key = Secret(bytes(range(32)))
    FileGuard.create(path, floors=(), key=key).admit((fact(),), now=0)
    assert FileGuard.open(path, floors=(), key=key).marks
    for other in (None, Secret(bytes(32))):
        with pytest.raises(CollateralError, match="another key"):
            FileGuard.open(path, floors=(), key=other)
    assert key.reveal().hex() not in path.read_text()


def test_threads_on_one_file_lose_no_mark(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    FileGuard.create(path, floors=())
    failed: list[BaseException] = []

    def work(which: int) -> None:
        try:
            guard = FileGuard.open(path, floors=())
            for n in range(8):
                guard.admit((fact(subject=f"{which}:{n}"),), now=0)
        except BaseException as error:  # noqa: BLE001  # shown by the assertion
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(FileGuard.open(path, floors=()).marks) == 32


def _process(path: str, which: int) -> None:
    guard = FileGuard.open(Path(path), floors=())
    for n in range(8):
        guard.admit((fact(subject=f"{which}:{n}"),), now=0)


def test_processes_on_one_file_lose_no_mark(tmp_path: Path) -> None:
    path = tmp_path / "guard.json"
    FileGuard.create(path, floors=())
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_process, args=(str(path), n)) for n in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(FileGuard.open(path, floors=()).marks) == 24
