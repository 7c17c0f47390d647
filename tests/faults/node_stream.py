# SPDX-License-Identifier: Apache-2.0
"""A stream of requests to nodes, what was told, and laws that hold whatever fails."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from node_world import HOUR, Asking, Node, RefusedError, Told, post

from tightseal.audit.checkpoint import Trust
from tightseal.audit.journal import RecordedEntry
from tightseal.audit.log import log_signer
from tightseal.audit.publish import publish
from tightseal.audit.tilefiles import FileTileStore
from tightseal.audit.verify import verify_log
from tightseal.errors import TightsealError
from tightseal.model.ports import EvidenceSource
from tightseal.model.wire import KEYS_PATH

THREADS = 4
MINUTE = 60


@dataclass(frozen=True, slots=True)
class Outcome:
    """One exchange: who was asked, what it told, and the entry that it named.

    Attributes:
        node: its name.
        code: ``granted``, the provider's code, or the guest's own after ``guest_``.
        entry_id: of the receipt; empty where nothing was released.
    """

    node: str
    code: str
    entry_id: bytes = b""


def exchange(node: Node, workload: EvidenceSource | None = None) -> Outcome:
    """One whole exchange; the workload's clock is the node's, so that all is asked."""
    asking = Asking(node.stage, node.port, node.clock, workload=workload)
    try:
        body = asking.request()
    except RefusedError as refused:
        told: Told = refused.args[0]
        return Outcome(node.name, told.code)
    except TightsealError as e:
        # The clock was stepped under the guest.
        return Outcome(node.name, f"guest_{e.code}")
    return finished(node, asking, post(node.port, KEYS_PATH, body))


def finished(node: Node, asking: Asking, told: Told) -> Outcome:
    if not told.granted:
        return Outcome(node.name, told.code)
    entry_id = asking.entry_id(told.body)
    try:
        asking.open(told.body)
    except TightsealError as e:
        return Outcome(node.name, f"guest_{e.code}", entry_id)
    return Outcome(node.name, "granted", entry_id)


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a stream: something is done, then so many exchanges are made."""

    name: str
    act: Callable[[], None]
    exchanges: int


def stream(
    nodes: Sequence[Node], phases: Iterable[Phase], *, every: int = 5
) -> dict[str, list[Outcome]]:
    """Run phases under one stream: exchanges of the phase before are still under way.

    Args:
        nodes: asked in turn.
        phases: in order.
        every: seconds that true time goes on for each exchange.
    """
    time = nodes[0].stage.time
    lock = threading.Lock()
    told: dict[str, list[Outcome]] = {}

    def one(name: str, node: Node) -> None:
        outcome = exchange(node)
        with lock:
            time.advance(every)
            told.setdefault(name, []).append(outcome)

    with ThreadPoolExecutor(THREADS) as threads:
        for phase in phases:
            phase.act()
            turns = [nodes[n % len(nodes)] for n in range(phase.exchanges)]
            asked = [threads.submit(one, phase.name, node) for node in turns]
            # All but the last few, which the next act finds under way.
            for done in asked[: -(THREADS - 1)]:
                done.result()
    return told


def counts(told: Iterable[Outcome]) -> Counter[str]:
    return Counter(outcome.code for outcome in told)


def every_outcome(told: dict[str, list[Outcome]]) -> list[Outcome]:
    return [outcome for outcomes in told.values() for outcome in outcomes]


# -- laws --------------------------------------------------------------------------


def no_response_without_its_entry(told: Iterable[Outcome], *nodes: Node) -> int:
    """Each released answer names one granted entry of that node, and no entry is left.

    Returns:
        how many were released.
    """
    released = [outcome for outcome in told if outcome.entry_id]
    for node in nodes:
        named = sorted(o.entry_id for o in released if o.node == node.name)
        assert named == sorted(e.entry.entry_id for e in grants(node))
    assert len({outcome.entry_id for outcome in released}) == len(released)
    return len(released)


def grants(node: Node) -> list[RecordedEntry]:
    return [e for e in node.entries() if e.entry.code == "granted"]


def log_is_whole(node: Node) -> int:
    """Published and read from outside: every byte leads to a signed checkpoint.

    Returns:
        the size of the log.
    """
    journal = node.background.sampler.journal
    store = FileTileStore(node.stage.folder / f"tiles-{node.name}")
    publish(journal, store)
    key = log_signer(journal.head().log_id, journal._log_key or _no_key).key
    audited = verify_log(store, Trust(key))
    assert audited.head.checkpoint.size == len(node.entries())
    return audited.head.checkpoint.size


def _no_key(_log_id: bytes) -> bytes:
    raise AssertionError("the log is kept without a key")


def no_minute_gives_more(limit: int, clocks: Iterable[int], *nodes: Node) -> None:
    """A release counts against its own minute, or a later one that some clock showed.

    So whatever minute is taken, those released in it and after it share the minutes
    that any clock showed from it on.
    """
    shown = sorted({now // MINUTE for now in clocks})
    released = [e.entry.time // MINUTE for node in nodes for e in grants(node)]
    assert set(released) <= set(shown)
    for minute in shown:
        later = sum(at >= minute for at in released)
        assert later <= limit * sum(at >= minute for at in shown), minute


def no_hour_holds_more(limit: int, times: Iterable[int]) -> None:
    """Times in the order of their releases; time is the newest that was ever seen."""
    recorded: list[int] = []
    for at in times:
        recorded.append(max([at, *recorded[-1:]]))
    for at in recorded:
        inside = sum(at - HOUR < other <= at for other in recorded)
        assert inside <= limit
