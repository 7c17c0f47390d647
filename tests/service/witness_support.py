# SPDX-License-Identifier: Apache-2.0
"""Real witnesses on loopback ports, and answers that wait for them."""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from tightseal.audit.journal import SqliteJournal
from tightseal.audit.note import NoteKey, NoteSigner, SignatureType
from tightseal.audit.tilefiles import FileTileStore
from tightseal.audit.witness import Witness
from tightseal.model.logclass import AuditLogSettings, LogClass, LogCover, LogNeed
from tightseal.model.ports import JournalEntry
from tightseal.release.hold import Held, index_of
from tightseal.service.cover import LogCovers
from tightseal.service.cover_witness import WitnessDesk
from tightseal.service.settings import WitnessSettings
from tightseal.service.witness import witness_app
from tightseal_sim.scene import LoopbackServer

NOW = 1_800_000_000


def log_key(log_id: bytes) -> bytes:
    return hashlib.sha256(b"of these tests" + log_id).digest()


def signer(number: int) -> NoteSigner:
    name = f"witness.example/{number}"
    return NoteSigner(name, SignatureType.COSIGNATURE, bytes([number]) * 32)


def need(*signers: NoteSigner, threshold: int | None = None) -> LogNeed:
    keys = tuple(str(one.key) for one in signers)
    wanted = len(keys) if threshold is None else threshold
    return LogNeed(LogClass.COSIGNED, keys, wanted)


@dataclass
class Served:
    """A witness that can be held up.

    Attributes:
        gate: requests wait for it.
        asked: requests that came so far.
    """

    app: Starlette
    gate: threading.Event = field(default_factory=threading.Event)
    asked: int = 0
    server: LoopbackServer = field(init=False)

    def __post_init__(self) -> None:
        self.gate.set()
        self.server = LoopbackServer(self)  # type: ignore[arg-type]
        self.server.start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        await asyncio.to_thread(self.gate.wait, 60)
        await self.app(scope, receive, send)

    @property
    def url(self) -> str:
        return self.server.url

    def stop(self) -> None:
        self.gate.set()
        self.server.stop()


@contextmanager
def witness(
    folder: Path, number: int, *logs: NoteKey, key: NoteSigner | None = None
) -> Iterator[Served]:
    """A real witness of these logs, with a key of its number."""
    store = FileTileStore(folder / f"witness-{number}")
    made = Witness(key or signer(number), list(logs), store)
    served = Served(witness_app(made, lambda: NOW))
    try:
        yield served
    finally:
        served.stop()


@contextmanager
def journal_in(folder: Path) -> Iterator[SqliteJournal]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "journal.sqlite"
    journal = SqliteJournal.open_or_create(path, log_key=log_key)
    try:
        yield journal
    finally:
        journal.close()


def entered(
    journal: SqliteJournal,
    wanted: LogNeed,
    number: int = 0,
    *,
    seen: Callable[[LogCover, bytes], None] = lambda _cover, _proof: None,
) -> Held:
    """A release whose entry is in the journal, and whose answer waits."""
    entry = JournalEntry(
        entry_id=hashlib.sha256(b"%d" % number).digest()[:16],
        time=NOW,
        granted=True,
        protocol_class="v1",
        code="granted",
        body={"number": number},
    )
    promise = journal.promise(entry)
    assert promise is not None
    proof = journal.record(entry, redemption=None, response=lambda proof: proof)

    def complete(cover: LogCover, proof: bytes) -> bytes:
        seen(cover, proof)
        return b"answer %d" % number

    return Held(wanted, promise, index_of(proof), complete)


@contextmanager
def covers(
    journal: SqliteJournal,
    *urls: str,
    wait: float = 20.0,
    request: float = 10.0,
    most: int = 256,
    rules: AuditLogSettings | None = None,
) -> Iterator[tuple[LogCovers, WitnessDesk]]:
    """Where answers wait for the witnesses at these addresses."""
    settings = WitnessSettings(
        urls=urls, wait_seconds=wait, request_seconds=request, max_waiting=most
    )
    desk = WitnessDesk(
        urls, journal, lambda: rules or AuditLogSettings(), seconds=request
    )
    made = LogCovers({LogClass.COSIGNED: desk}, settings)
    try:
        yield made, desk
    finally:
        made.close()
