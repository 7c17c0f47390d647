# SPDX-License-Identifier: Apache-2.0
"""The nodes over one state: who is there, what differs, and which format all know.

A node writes one record about itself, seldom, and never for a release: nobody waits for
it, nobody leads, and no release asks whether another node lives. What a node is told
here is for people, and decides one thing alone: when the state may be raised to a newer
format of records (:mod:`tightseal.model.formats`), which has time.

Times of others are by their clocks, so they are not believed: a node is silent by how
long *this* process saw no new record of it. Only at the first look, where there is
nothing else to go by, does the time in the record count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from tightseal.errors import Code, ServiceError
from tightseal.model import formats
from tightseal.model.node import (
    NodeRecord,
    NodeState,
    decode_node,
    encode_node,
)
from tightseal.model.state import Change, Create, Delete, Expect, Record, StateStore
from tightseal.model.state import Replace as ReplaceRecord

__all__ = [
    "FORGET_SECONDS",
    "HEARTBEAT_SECONDS",
    "MAX_NODES",
    "NODE_KIND",
    "RAISE_AFTER_SECONDS",
    "STALE_SECONDS",
    "NodeBook",
    "NodeView",
    "Nodes",
    "Standing",
    "Wrong",
]

NODE_KIND: Final = "node"
"""Kind of the records, named by log id in hex."""

HEARTBEAT_SECONDS: Final = 20
"""A node writes its record so often where nothing changed."""

STALE_SECONDS: Final = 90
"""A node that wrote nothing for so long is stale."""

CLOCK_APART_SECONDS: Final = 30
"""Clocks that differ by more are said to."""

FORGET_SECONDS: Final = 7 * 86_400
"""A record goes so long after its node last wrote it, by that node's clock."""

MAX_NODES: Final = 256
"""Most nodes that a state keeps a record of."""

RAISE_AFTER_SECONDS = 86_400
"""For so long every node must have understood a newer format, as this process saw it,
before it raises the state to it. Until then the older version can be put back."""

_LOST_RACE: Final = frozenset(
    {Code.STATE_CONFLICT, Code.STATE_EXISTS, Code.STATE_MISSING}
)


class Standing(StrEnum):
    """What is known of a node."""

    SERVING = "serving"
    DRAINING = "draining"
    STALE = "stale"
    LEFT = "left"


class Wrong(StrEnum):
    """What is wrong with a node, as the one that was asked sees it."""

    STALE = "stale"
    SETTINGS = "settings_differ"
    POLICY = "policy_differs"
    KEYRING = "keyring_differs"
    CLOCK = "clock_apart"
    REPLACED = "log_in_use_twice"


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node, and what is known of it.

    Attributes:
        name: the id of its log in hex.
        record: as it last said itself.
        standing: what is known of it.
        silent: seconds since it wrote, as this process saw it.
        wrong: in the order of ``Wrong``; empty for one that has left.
    """

    name: str
    record: NodeRecord
    standing: Standing
    silent: int
    wrong: tuple[Wrong, ...] = ()


@dataclass(frozen=True, slots=True)
class Nodes:
    """All nodes of a state.

    Attributes:
        own: name of the node that was asked.
        format: that the state is of.
        understood: newest format that every node understands.
        nodes: in the order of names.
    """

    own: str
    format: int
    understood: int
    nodes: tuple[NodeView, ...] = ()

    def count(self) -> dict[Standing, int]:
        """How many there are of each standing."""
        found = dict.fromkeys(Standing, 0)
        for node in self.nodes:
            found[node.standing] += 1
        return found

    def silent(self) -> int:
        """The longest silence of a node that has not left, in seconds."""
        there = (n.silent for n in self.nodes if n.standing is not Standing.LEFT)
        return max(there, default=0)

    def wrong(self, what: Wrong) -> tuple[str, ...]:
        """Names of the nodes with which this is wrong."""
        return tuple(node.name for node in self.nodes if what in node.wrong)


@dataclass(slots=True)
class _Watched:
    """When this process first saw a version of a record, and how far clocks were."""

    version: int
    since: int
    apart: int | None = None


@dataclass(slots=True)
class NodeBook:
    """This process's look at the nodes of a state. Not safe for threads.

    Attributes:
        store: that the nodes share.
        name: of this node.
        ended: names of nodes that are gone, as the host says.
    """

    store: StateStore
    name: str
    ended: frozenset[str] = frozenset()
    _watched: dict[str, _Watched] = field(default_factory=dict)
    _written: bool = False
    _replaced: bool = False
    _understood_since: tuple[int, int] | None = None

    def look(self, own: NodeRecord, *, now: int) -> Nodes:
        """Write this node's record where it is due, and read all of them.

        Args:
            own: what this node is now.
            now: Unix seconds.

        Raises:
            ServiceError: what the store raises; ``state_tampered``, for a record that
                is none of ours; ``state_too_large`` beyond ``MAX_NODES``.
        """
        found = {record.name: record for record in self._scan(now)}
        mine = found.get(self.name)
        if self._due(own, None if mine is None else decode_node(mine.value)):
            self._write(own, mine, nodes=len(found), now=now)
            found = {record.name: record for record in self._scan(now)}
        self._forget(found, now=now)
        seen = _judged(self._watch(found, now=now), self._own(own))
        nodes = self._nodes(seen)
        if self._may_raise(nodes, now=now):
            self._raise(nodes.understood, found, now=now)
        return nodes

    def _scan(self, now: int) -> Sequence[Record]:
        return self.store.scan(NODE_KIND, now=now)

    # -- our own record ---------------------------------------------------------------

    def _due(self, own: NodeRecord, kept: NodeRecord | None) -> bool:
        if self.name in self.ended:
            return False
        if kept is not None and kept.run != own.run:
            # Whoever took our place after we wrote started later, with our log.
            self._replaced = self._written
            return not self._written
        self._replaced = False
        if kept is None or own.state.rank > kept.state.rank:
            return True
        if own.state is NodeState.LEFT and own.log_size > kept.log_size:
            return True
        same = replace(
            own, seen=kept.seen, log_size=kept.log_size, started=kept.started
        )
        changed = replace(same, state=kept.state) != kept
        return changed or abs(own.seen - kept.seen) >= HEARTBEAT_SECONDS

    def _write(
        self, own: NodeRecord, mine: Record | None, *, nodes: int, now: int
    ) -> None:
        if mine is None and nodes >= MAX_NODES:
            detail = f"{nodes} nodes, at most {MAX_NODES}: name those that are gone"
            raise ServiceError(
                Code.STATE_TOO_LARGE, f"{detail} in host.state.ended_logs"
            )
        if mine is not None:
            own = _onward(own, decode_node(mine.value))
        value, ends = encode_node(own), now + FORGET_SECONDS
        change: Change = Create(NODE_KIND, self.name, value, ends)
        if mine is not None:
            change = ReplaceRecord(NODE_KIND, self.name, value, mine.version, ends)
        self._written = self._try((change,), now=now) or self._written

    def _forget(self, found: dict[str, Record], *, now: int) -> None:
        """Remove the records that the host named as of nodes that are gone."""
        for name in self.ended & found.keys() - {self.name}:
            self._try((Delete(NODE_KIND, name, found.pop(name).version),), now=now)

    def _try(self, changes: Sequence[Change], *, now: int) -> bool:
        """Whether it was done; not where another worker or node came first."""
        try:
            self.store.batch(changes, now=now)
        except ServiceError as e:
            if e.code not in _LOST_RACE:
                raise
            return False
        return True

    # -- the others -------------------------------------------------------------------

    def _watch(self, found: Mapping[str, Record], *, now: int) -> list[NodeView]:
        views = []
        for name, record in found.items():
            node = decode_node(record.value)
            kept = self._watched.get(name)
            if kept is None:
                kept = _Watched(record.version, min(node.seen, now))
            elif kept.version != record.version:
                kept = _Watched(record.version, now, node.seen - now)
            self._watched[name] = kept
            silent = max(0, now - kept.since)
            standing = _standing(node, silent)
            wrong = [Wrong.STALE] if standing is Standing.STALE else []
            if kept.apart is not None and abs(kept.apart) > CLOCK_APART_SECONDS:
                wrong.append(Wrong.CLOCK)
            views.append(NodeView(name, node, standing, silent, tuple(wrong)))
        self._watched = {name: self._watched[name] for name in found}
        return views

    def _own(self, own: NodeRecord) -> NodeView:
        """This node as it is, whatever could be written of it."""
        wrong = (Wrong.REPLACED,) if self._replaced else ()
        return NodeView(self.name, own, Standing(own.state.value), 0, wrong)

    def _nodes(self, seen: Iterable[NodeView]) -> Nodes:
        views = tuple(sorted(seen, key=lambda view: view.name))
        there = [v.record.format for v in views if v.standing is not Standing.LEFT]
        understood = min(there, default=formats.FORMAT)
        return Nodes(self.name, self._format(), understood, views)

    # -- the format -------------------------------------------------------------------

    def _format(self) -> int:
        """The state's format; the head has refused one that is beyond us."""
        for number in range(formats.FORMAT, formats.FIRST_FORMAT, -1):
            if self.store.scan(formats.format_kind(number), now=0):
                return number
        return formats.FIRST_FORMAT

    def _may_raise(self, nodes: Nodes, *, now: int) -> bool:
        wanted = min(nodes.understood, formats.FORMAT)
        if wanted <= nodes.format:
            self._understood_since = None
            return False
        before = self._understood_since
        if before is None or before[0] != wanted or now < before[1]:
            before = self._understood_since = (wanted, now)
        return now - before[1] >= RAISE_AFTER_SECONDS

    def _raise(self, wanted: int, found: Mapping[str, Record], *, now: int) -> None:
        """Raise the state, unless a node's record changed since it was read.

        A node that appears meanwhile, too old, is refused by the head like any other.
        """
        wanted = min(wanted, formats.FORMAT)
        expected: list[Change] = [
            Expect(NODE_KIND, name, record.version) for name, record in found.items()
        ]
        kind = formats.format_kind(wanted)
        self._try((Create(kind, "state", b""), *expected[: MAX_NODES - 1]), now=now)


def _onward(own: NodeRecord, kept: NodeRecord) -> NodeRecord:
    """What to write over a record: a run never goes back in state or log."""
    if kept.run != own.run:
        return own
    state = max(own.state, kept.state, key=lambda state: state.rank)
    size = max(own.log_size, kept.log_size)
    started = min(own.started, kept.started)
    return replace(own, state=state, log_size=size, started=started)


def _standing(node: NodeRecord, silent: int) -> Standing:
    if node.state is NodeState.LEFT:
        return Standing.LEFT
    if silent > STALE_SECONDS:
        return Standing.STALE
    return Standing(node.state.value)


def _judged(seen: Iterable[NodeView], own: NodeView) -> list[NodeView]:
    """Each node held against our own; nothing is wrong with one that has left."""
    judged = [_against(view, own.record) for view in seen if view.name != own.name]
    return [*judged, own]


def _against(view: NodeView, own: NodeRecord) -> NodeView:
    if view.standing is Standing.LEFT:
        return replace(view, wrong=())
    other = view.record
    differs = (
        (Wrong.SETTINGS, other.settings != own.settings),
        (Wrong.POLICY, other.policy != own.policy),
        (Wrong.KEYRING, other.keyring != own.keyring),
    )
    found = {*view.wrong, *(what for what, wrong in differs if wrong)}
    return replace(view, wrong=tuple(what for what in Wrong if what in found))
