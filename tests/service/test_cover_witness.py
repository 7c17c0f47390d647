# SPDX-License-Identifier: Apache-2.0
"""An answer leaves once enough named witnesses have its very entry, and not before."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from service_harness import until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from witness_support import (
    NOW,
    Served,
    covers,
    entered,
    journal_in,
    need,
    signer,
    witness,
)

from tightseal.audit.checkpoint import Trust
from tightseal.audit.journal import SqliteJournal
from tightseal.audit.note import parse_note
from tightseal.audit.proof import LogProof, verify_log_proof
from tightseal.audit.witness import Submission
from tightseal.errors import Code, ServiceError
from tightseal.model.logclass import AuditLogSettings, LogClass, LogCover
from tightseal.release.hold import Held
from tightseal.service.cover import LogCovers
from tightseal.service.cover_witness import WitnessDesk
from tightseal.service.settings import WitnessSettings
from tightseal_sim.scene import free_port

A, B, C = signer(1), signer(2), signer(3)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    with journal_in(tmp_path / "log") as made:
        yield made


def refused(made: LogCovers, held: Held) -> ServiceError:
    with pytest.raises(ServiceError) as found:
        asyncio.run(made.wait(held))
    return found.value


async def happens(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (it happens on other threads)
            await asyncio.sleep(0.005)


def stays(
    made: LogCovers,
    desk: WitnessDesk,
    held: Held,
    *,
    also: Callable[[], bool] = lambda: True,
) -> str:
    """Wait until a witness answered something bad; the answer must still wait then."""

    async def look() -> str:
        waiting = asyncio.ensure_future(made.wait(held))
        await happens(lambda: bool(desk.why) and also())
        why = desk.why
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
        return why

    return asyncio.run(look())


def first_answers(desk: WitnessDesk) -> Callable[[], bool]:
    return lambda: desk.states()[0].answers


def liar(answer: Callable[[Submission], str]) -> Served:
    """A server in a witness's place; what it answers is made of the submission."""

    async def add(http: Request) -> Response:
        body = await http.body()
        return Response(answer(Submission.parse(body)))

    return Served(Starlette(routes=[Route("/add-checkpoint", add, methods=["POST"])]))


def test_the_cover_proves_the_very_entry_to_whoever_knows_the_witnesses(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    found: list[tuple[LogCover, bytes]] = []
    key = journal.verifier()
    with (
        witness(tmp_path, 1, key) as one,
        witness(tmp_path, 2, key) as two,
        covers(journal, one.url, two.url) as (made, _),
    ):
        for number in range(300):
            held = entered(
                journal,
                need(A, B),
                number,
                seen=lambda cover, proof: found.append((cover, proof)),
            )
            if number % 60 == 0 or number == 299:
                assert asyncio.run(made.wait(held)) == b"answer %d" % number
                cover, proof = found[-1]
                trust = Trust(key, (A.key, B.key), threshold=2)
                verified = verify_log_proof(
                    LogProof.parse(proof), leaf=held.promise.leaf, trust=trust
                )
                head = verified.checkpoint
                assert (cover.size, cover.root) == (head.size, head.root)
                assert cover.log_class is LogClass.COSIGNED
                assert set(cover.witnesses) == {str(A.key), str(B.key)}


def test_one_round_serves_everybody_who_waits(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    async def many() -> list[bytes]:
        one.gate.clear()
        helds = [entered(journal, need(A), number) for number in range(40)]
        waiting = [asyncio.ensure_future(made.wait(held)) for held in helds]
        await happens(lambda: made.waiting == 40 and one.asked > 0)
        one.gate.set()
        return await asyncio.gather(*waiting)

    with (
        witness(tmp_path, 1, journal.verifier()) as one,
        covers(journal, one.url) as (made, _),
    ):
        answers = asyncio.run(many())
        assert answers == [b"answer %d" % number for number in range(40)]
        assert one.asked <= 3


def test_a_witness_that_is_down_lets_nothing_out(journal: SqliteJournal) -> None:
    held = entered(journal, need(A))
    url = f"http://127.0.0.1:{free_port()}"
    with covers(journal, url) as (made, desk):
        assert Code.PROVIDER_UNREACHABLE.value in stays(made, desk, held)
    with covers(journal, url, wait=0.3) as (made, _):
        error = refused(made, held)
        assert error.code is Code.LOG_NOT_WITNESSED
        assert error.retry_after
        assert made.waiting == 0


def test_one_that_waits_is_served_when_the_witness_comes_back(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    """The same witness forgets nothing while it is away, and needs no restart of us."""

    async def through() -> bytes:
        waiting = asyncio.ensure_future(made.wait(entered(journal, need(A), 1)))
        await happens(lambda: bool(desk.why))
        one.gate.set()
        return await waiting

    with (
        witness(tmp_path, 1, journal.verifier()) as one,
        covers(journal, one.url, wait=25, request=0.3) as (made, desk),
    ):
        one.gate.clear()
        assert asyncio.run(through()) == b"answer 1"
        assert desk.why == ""


def test_a_slow_witness_holds_up_nobody_who_does_not_need_it(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    key = journal.verifier()

    async def both() -> bytes:
        slow.gate.clear()
        later = asyncio.ensure_future(made.wait(entered(journal, need(A, B), 1_000)))
        for number in range(20):
            held = entered(journal, need(A), number)
            assert await made.wait(held) == b"answer %d" % number
        assert not later.done()
        slow.gate.set()
        return await later

    with (
        witness(tmp_path, 1, key) as one,
        witness(tmp_path, 2, key) as slow,
        covers(journal, one.url, slow.url, request=30) as (made, _),
    ):
        assert asyncio.run(both()) == b"answer 1000"


def test_two_of_three_are_enough_and_one_is_not(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    key = journal.verifier()
    with witness(tmp_path, 1, key) as one:
        with (
            witness(tmp_path, 2, key) as two,
            covers(journal, one.url, two.url) as (made, _),
        ):
            held = entered(journal, need(A, B, C, threshold=2), 1)
            assert asyncio.run(made.wait(held)) == b"answer 1"
        with covers(journal, one.url, two.url) as (made, desk):
            held = entered(journal, need(A, B, C, threshold=2), 2)
            assert two.url in stays(made, desk, held, also=first_answers(desk))


def test_one_witness_at_two_addresses_counts_once(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    with (
        witness(tmp_path, 1, journal.verifier()) as one,
        covers(journal, one.url, one.url + "/") as (made, desk),
    ):

        async def look() -> None:
            held = entered(journal, need(A, B, threshold=2))
            waiting = asyncio.ensure_future(made.wait(held))
            await happens(lambda: all(state.answers for state in desk.states()))
            assert not waiting.done()
            waiting.cancel()
            await asyncio.wait([waiting])

        asyncio.run(look())


def test_a_cosignature_by_a_key_that_policy_does_not_name_counts_for_nothing(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    with (
        witness(tmp_path, 2, journal.verifier()) as stranger,
        covers(journal, stranger.url) as (made, desk),
    ):
        why = stays(made, desk, entered(journal, need(A)))
        assert "no cosignature by a key that the policy names" in why


def test_an_older_tree_cosigned_is_no_cover(
    journal: SqliteJournal,
) -> None:
    """The witness signs, but what it saw before: the entry is not in there."""
    entered(journal, need(A), 1)
    older = parse_note(journal.head().checkpoint).text
    entered(journal, need(A), 2)

    def sign(_: Submission) -> str:
        return f"{A.sign(older, now=NOW)}\n"

    _refuses_what_is_signed(journal, sign)


def test_the_cosignature_of_another_log_is_no_cover(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    with journal_in(tmp_path / "other") as other:
        entered(other, need(A), 1)
        text = parse_note(other.head().checkpoint).text

    def sign(_: Submission) -> str:
        return f"{A.sign(text, now=NOW)}\n"

    _refuses_what_is_signed(journal, sign)


def test_a_line_under_a_named_key_by_another_key_is_no_cover(
    journal: SqliteJournal,
) -> None:
    def sign(submission: Submission) -> str:
        text = parse_note(submission.checkpoint).text
        line = B.sign(text, now=NOW)
        forged = type(line)(A.key.name, A.key.key_id, line.signature)
        return f"{forged}\n"

    _refuses_what_is_signed(journal, sign)


def test_an_answer_that_is_no_signature_is_no_cover(journal: SqliteJournal) -> None:
    _refuses_what_is_signed(journal, lambda _: "thanks\n", Code.LOG_MALFORMED)


def _refuses_what_is_signed(
    journal: SqliteJournal,
    sign: Callable[[Submission], str],
    code: Code = Code.LOG_UNDERSIGNED,
) -> None:
    served = liar(sign)
    try:
        with covers(journal, served.url) as (made, desk):
            held = entered(journal, need(A), 3)
            assert code.value in stays(made, desk, held)
    finally:
        served.stop()


def test_a_cosigned_tree_without_the_entry_is_no_cover(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    """Whatever the rows say: the leaf that was promised must be in the signed tree."""
    held = entered(journal, need(A), 1)
    foreign = type(held.promise)(held.promise.key, bytes(32))
    strange = type(held)(held.need, foreign, held.index, held.complete)
    with (
        witness(tmp_path, 1, journal.verifier()) as one,
        covers(journal, one.url) as (made, _),
    ):
        assert refused(made, strange).code is Code.LOG_TAMPERED
        assert asyncio.run(made.wait(held)) == b"answer 1"


def test_rows_that_were_changed_make_no_cover(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    """The host edits a row once the head over it was signed and cosigned."""
    held = entered(journal, need(A), 1)
    entered(journal, need(A), 2)
    with sqlite3.connect(tmp_path / "log" / "journal.sqlite") as host:
        host.execute("UPDATE journal SET time = time + 1 WHERE seq = 2")
    host.close()
    with (
        witness(tmp_path, 1, journal.verifier()) as one,
        covers(journal, one.url) as (made, _),
    ):
        assert refused(made, held).code is Code.LOG_TAMPERED


def test_a_fork_that_the_witness_saw_stops_releases(tmp_path: Path) -> None:
    """A copy of the journal goes on beside it: whoever comes second is refused."""
    first, second = tmp_path / "first", tmp_path / "second"
    with journal_in(first) as journal:
        entered(journal, need(A), 1)
        key = journal.verifier()
    shutil.copytree(first, second)
    with (
        witness(tmp_path, 1, key) as one,
        journal_in(first) as journal,
        journal_in(second) as copy,
    ):
        with covers(journal, one.url) as (made, _):
            for number in (2, 3):
                held = entered(journal, need(A), number)
                assert asyncio.run(made.wait(held)) == b"answer %d" % number
        for number in (4, 5, 6):
            held = entered(copy, need(A), number)
            with covers(copy, one.url) as (made, desk):
                assert Code.LOG_FORKED.value in stays(made, desk, held)


def test_a_journal_put_back_beneath_what_was_cosigned_stops_releases(
    tmp_path: Path,
) -> None:
    """The witness saw more entries than there are: no newer head will come."""
    log, older = tmp_path / "log", tmp_path / "older"
    with journal_in(log) as journal:
        entered(journal, need(A), 1)
        key = journal.verifier()
    shutil.copytree(log, older)
    with witness(tmp_path, 1, key) as one:
        with journal_in(log) as journal, covers(journal, one.url) as (made, _):
            for number in range(2, 9):
                held = entered(journal, need(A), number)
            assert asyncio.run(made.wait(held)) == b"answer 8"
        with (
            journal_in(older) as journal,
            covers(journal, one.url) as (made, desk),
        ):
            held = entered(journal, need(A), 20)
            assert Code.LOG_FORKED.value in stays(made, desk, held)


def test_workers_of_one_log_are_each_served(tmp_path: Path) -> None:
    """Each submits the newest head of the file, whoever signed it."""

    async def in_turns() -> None:
        for number in range(12):
            turn = number % 2
            held = entered((one, two)[turn], need(A), number)
            assert await makers[turn].wait(held) == b"answer %d" % number

    async def at_once() -> None:
        helds = [entered((one, two)[n % 2], need(A), n) for n in range(100, 140)]
        waits = [makers[n % 2].wait(held) for n, held in enumerate(helds)]
        await asyncio.gather(*waits)

    with (
        journal_in(tmp_path / "log") as one,
        journal_in(tmp_path / "log") as two,
        witness(tmp_path, 1, one.verifier()) as served,
        covers(one, served.url) as (first, _),
        covers(two, served.url) as (second, _),
    ):
        makers = (first, second)
        asyncio.run(in_turns())
        asyncio.run(at_once())


def test_only_so_many_wait_and_whoever_is_gone_makes_room(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    async def crowd() -> None:
        one.gate.clear()
        waiting = [
            asyncio.ensure_future(made.wait(entered(journal, need(A), number)))
            for number in range(3)
        ]
        await asyncio.sleep(0)
        with pytest.raises(ServiceError) as refusal:
            await made.wait(entered(journal, need(A), 3))
        assert refusal.value.code is Code.LOG_NOT_WITNESSED
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        last = asyncio.ensure_future(made.wait(entered(journal, need(A), 4)))
        await asyncio.sleep(0)
        one.gate.set()
        await asyncio.gather(*waiting[1:], last)

    with (
        witness(tmp_path, 1, journal.verifier()) as one,
        covers(journal, one.url, most=3) as (made, _),
    ):
        asyncio.run(crowd())


def test_nobody_to_ask_is_said_at_once(journal: SqliteJournal) -> None:
    made = LogCovers({}, WitnessSettings())
    error = refused(made, entered(journal, need(A)))
    assert "host.witnesses.urls is empty" in error.detail


def test_what_was_cosigned_before_needs_no_witness_again(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    held = entered(journal, need(A), 1)
    with (
        witness(tmp_path, 1, journal.verifier()) as one,
        covers(journal, one.url) as (made, _),
    ):
        assert asyncio.run(made.wait(held)) == b"answer 1"
        asked = one.asked
        one.gate.clear()
        assert asyncio.run(made.wait(held)) == b"answer 1"
        assert one.asked == asked


def test_health_knows_who_answers_though_nobody_waits(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    rules = AuditLogSettings(witnesses=(str(A.key),), threshold=1)
    entered(journal, need(A), 1)
    with (
        witness(tmp_path, 1, journal.verifier()) as one,
        covers(journal, one.url, rules=rules) as (made, desk),
    ):
        assert [state.answers for state in desk.states()] == [False]
        made.look()
        until(lambda: desk.states()[0].answers, 30)
        assert desk.states()[0].keys == {str(A.key)}
