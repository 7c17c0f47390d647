# SPDX-License-Identifier: Apache-2.0
"""Witnesses come and go while answers wait: none leaves uncovered, none is lost."""

import asyncio
import random
from contextlib import ExitStack
from pathlib import Path

import pytest
from witness_support import Served, covers, entered, journal_in, need, signer, witness

from tightseal.audit.checkpoint import Trust
from tightseal.audit.journal import SqliteJournal
from tightseal.audit.note import NoteKey
from tightseal.audit.proof import LogProof, verify_log_proof
from tightseal.errors import Code, ServiceError
from tightseal.model.logclass import LogCover, LogNeed
from tightseal.release.hold import Held
from tightseal.service.cover import LogCovers

SIGNERS = [signer(number) for number in (1, 2, 3)]
NEEDS = [
    need(SIGNERS[0]),
    need(SIGNERS[1], SIGNERS[2], threshold=1),
    need(*SIGNERS, threshold=2),
    need(*SIGNERS),
]


class History:
    """Many guests over two workers of one log; each retries until it is answered."""

    def __init__(self, seed: int, journals: list[SqliteJournal]) -> None:
        self.random = random.Random(seed)
        self.journals = journals
        self.proofs: dict[int, tuple[LogCover, bytes]] = {}
        self.refused = 0
        self.answered = 0

    async def guest(self, number: int, makers: list[LogCovers]) -> None:
        wanted = self.random.choice(NEEDS)
        at = self.random.randrange(2)
        held = await asyncio.to_thread(
            entered,
            self.journals[at],
            wanted,
            number,
            seen=lambda cover, proof: self.proofs.update({number: (cover, proof)}),
        )
        while True:
            try:
                # A retry may come to another worker.
                answer = await self.random.choice(makers).wait(held)
                break
            except ServiceError as e:
                if e.code is not Code.LOG_NOT_WITNESSED:
                    raise
                self.refused += 1
                await asyncio.sleep(self.random.random() / 20)
        assert answer == b"answer %d" % number
        self.check(held, wanted, number)
        self.answered += 1

    def check(self, held: Held, wanted: LogNeed, number: int) -> None:
        """Whoever knows log and witnesses alone finds the very entry cosigned."""
        cover, proof = self.proofs[number]
        keys = tuple(map(NoteKey.parse, wanted.witnesses))
        trust = Trust(self.journals[0].verifier(), keys, wanted.threshold)
        found = verify_log_proof(
            LogProof.parse(proof), leaf=held.promise.leaf, trust=trust
        )
        assert (cover.size, cover.root) == (
            found.checkpoint.size,
            found.checkpoint.root,
        )

    async def weather(self, served: list[Served], done: asyncio.Event) -> None:
        """Witnesses hang and come back; at the end all are there."""
        while not done.is_set():
            one = self.random.choice(served)
            (one.gate.clear if one.gate.is_set() else one.gate.set)()
            await asyncio.sleep(self.random.random() / 10)
        for one in served:
            one.gate.set()

    async def run(
        self, guests: int, makers: list[LogCovers], served: list[Served]
    ) -> None:
        calm = asyncio.Event()
        weather = asyncio.ensure_future(self.weather(served, calm))
        numbers = iter(range(guests))

        async def some() -> None:
            for number in numbers:
                if number > guests * 3 // 4:
                    calm.set()
                await self.guest(number, makers)

        await asyncio.gather(*(some() for _ in range(16)))
        calm.set()
        await weather


def history(tmp_path: Path, seed: int, guests: int) -> History:
    with ExitStack() as stack:
        log = tmp_path / "log"
        journals = [stack.enter_context(journal_in(log)) for _ in range(2)]
        key = journals[0].verifier()
        served = [
            stack.enter_context(witness(tmp_path, number, key)) for number in (1, 2, 3)
        ]
        urls = [one.url for one in served]
        makers = [
            stack.enter_context(covers(journal, *urls, wait=0.2, request=0.3, most=12))[
                0
            ]
            for journal in journals
        ]
        made = History(seed, journals)
        asyncio.run(made.run(guests, makers, served))
        assert all(maker.waiting == 0 for maker in makers)
        return made


def test_every_answer_is_covered_whatever_witnesses_do(tmp_path: Path) -> None:
    made = history(tmp_path, 1, 60)
    assert made.answered == 60


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 5))
def test_every_answer_is_covered_for_long(seed: int, tmp_path: Path) -> None:
    made = history(tmp_path, seed, 2_000)
    assert made.answered == 2_000
    assert made.refused
