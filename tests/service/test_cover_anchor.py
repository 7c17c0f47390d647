# SPDX-License-Identifier: Apache-2.0
"""An answer leaves once the state has taken a head with its very entry."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from service_harness import until
from witness_support import NOW, entered, journal_in

from tightseal.audit.journal import SqliteJournal
from tightseal.errors import Code, ServiceError
from tightseal.model.logclass import LogClass, LogCover, LogNeed
from tightseal.model.secret import Secret
from tightseal.model.state import Anchor, AnchorClass
from tightseal.release.hold import Held
from tightseal.release.logmark import LogMark
from tightseal.service.cover import LogCovers
from tightseal.service.cover_anchor import AnchorDesk
from tightseal.service.settings import WitnessSettings
from tightseal.state.anchors import MemoryAnchor, NoAnchor
from tightseal.state.seal import Sealer
from tightseal.state.sqlite import SqliteEngine
from tightseal.state.store import SealedStore

ACCEPTING = LogNeed(LogClass.ANCHORED, without_anchor=True)
STRICT = LogNeed(LogClass.ANCHORED)


class TpmLike(MemoryAnchor):
    """Outlives the process, as far as its class says."""

    anchor_class = AnchorClass.TPM


@dataclass
class Place:
    """A journal with the state that knows it."""

    journal: SqliteJournal
    store: SealedStore
    mark: LogMark


@contextmanager
def place(log: Path, state: Path, anchor: Anchor | None = None) -> Iterator[Place]:
    with journal_in(log) as journal:
        engine = SqliteEngine(state)
        sealer = Sealer(Secret(b"\x55" * 32), trust_domain="simulated")
        make = SealedStore.new if engine.schema() == 0 else SealedStore.attach
        store = make(engine, sealer, anchor=anchor or NoAnchor())
        try:
            mark = LogMark(store, journal, lambda: NOW)
            mark.begin(alone=False, ended=frozenset(), entry_id=b"\x01" * 16)
            yield Place(journal, store, mark)
        finally:
            store.close()


@contextmanager
def covers(found: Place, wait: float = 20.0) -> Iterator[tuple[LogCovers, AnchorDesk]]:
    desk = AnchorDesk(found.journal, found.store, found.mark)
    settings = WitnessSettings(wait_seconds=wait)
    made = LogCovers({LogClass.ANCHORED: desk}, settings)
    try:
        yield made, desk
    finally:
        made.close()


def refused(made: LogCovers, held: Held) -> ServiceError:
    with pytest.raises(ServiceError) as found:
        asyncio.run(made.wait(held))
    return found.value


def stays(made: LogCovers, desk: AnchorDesk, held: Held) -> str:
    """Wait until something was wrong; the answer must still wait then."""

    async def look() -> str:
        waiting = asyncio.ensure_future(made.wait(held))
        await asyncio.to_thread(until, lambda: bool(desk.why), 30)
        why = desk.why
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
        return why

    return asyncio.run(look())


def test_the_state_has_the_head_before_the_answer_leaves(tmp_path: Path) -> None:
    found: list[LogCover] = []
    with (
        place(tmp_path / "log", tmp_path / "state.sqlite", TpmLike()) as here,
        covers(here) as (made, _),
    ):
        for number in range(5):
            held = entered(
                here.journal, STRICT, number, seen=lambda c, _: found.append(c)
            )
            assert asyncio.run(made.wait(held)) == b"answer %d" % number
            size, root = here.mark.taken()
            assert size > held.index
            assert (found[-1].size, found[-1].root) == (size, root)
            assert found[-1].anchor is AnchorClass.TPM


def test_many_who_wait_cost_few_writes(tmp_path: Path) -> None:
    with (
        place(tmp_path / "log", tmp_path / "state.sqlite") as here,
        covers(here) as (made, _),
    ):
        helds = [entered(here.journal, ACCEPTING, number) for number in range(40)]
        before = here.store.freshness().head.counter

        async def all_of_them() -> list[bytes]:
            return await asyncio.gather(*(made.wait(held) for held in helds))

        assert len(asyncio.run(all_of_them())) == 40
        assert here.store.freshness().head.counter - before <= 3


@pytest.mark.parametrize("anchor", [NoAnchor(), MemoryAnchor()])
def test_a_state_without_an_anchor_that_lasts_is_none(
    anchor: Anchor, tmp_path: Path
) -> None:
    with (
        place(tmp_path / "log", tmp_path / "state.sqlite", anchor) as here,
        covers(here) as (made, desk),
    ):
        assert "anchor" in stays(made, desk, entered(here.journal, STRICT, 1))
        held = entered(here.journal, ACCEPTING, 2)
        assert asyncio.run(made.wait(held)) == b"answer 2"


def test_a_state_that_cannot_be_asked_lets_nothing_out(tmp_path: Path) -> None:
    with (
        place(tmp_path / "log", tmp_path / "state.sqlite") as here,
        covers(here) as (made, desk),
    ):
        held = entered(here.journal, ACCEPTING, 1)
        state = tmp_path / "state.sqlite"
        away = tmp_path / "away.sqlite"
        here.store.close()
        state.rename(away)
        assert Code.STATE_UNAVAILABLE.value in stays(made, desk, held)
    with (
        place(tmp_path / "log", away) as here,
        covers(here, wait=0.3) as (made, _),
    ):
        assert asyncio.run(made.wait(held)) == b"answer 1"


def test_a_head_of_a_copy_of_the_log_is_no_cover(tmp_path: Path) -> None:
    """Two copies of a journal over one state: its mark is of the other one."""
    log, copy, state = tmp_path / "log", tmp_path / "copy", tmp_path / "state.sqlite"
    with place(log, state) as here:
        entered(here.journal, ACCEPTING, 1)
    shutil.copytree(log, copy)
    with place(log, state) as here, covers(here) as (made, _):
        with place(copy, state) as there:
            for number in range(2, 9):
                entered(there.journal, ACCEPTING, number)
            there.mark.look()
        held = entered(here.journal, ACCEPTING, 20)
        assert refused(made, held).code is Code.LOG_TAMPERED


def test_another_workers_mark_covers_what_it_has(tmp_path: Path) -> None:
    """One worker asks; the other one's head, further on, is in the state."""
    log, state = tmp_path / "log", tmp_path / "state.sqlite"
    with place(log, state) as one, place(log, state) as two:
        held = entered(one.journal, ACCEPTING, 1)
        entered(two.journal, ACCEPTING, 2)
        two.mark.look()
        with covers(one) as (made, _):
            assert asyncio.run(made.wait(held)) == b"answer 1"
