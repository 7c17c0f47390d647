# SPDX-License-Identifier: Apache-2.0
"""Who is connected, for how long, and who goes first when it gets full.

Both transports share one rule. A connection *waits* (nothing came), *reads* (part of a
request came) or is *served*. Where the table is full, or one peer has its share, the
oldest waiting connection goes, then the oldest reading one; one being served never
does, and if nothing else is left the newcomer is refused. So thousands of connections
that say nothing cost a bounded amount of memory and shut nobody out. Strangers' go
before those of sources that somebody known is behind.

Deadlines are attributes, looked at by one sweep: no timer per connection.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from enum import IntEnum
from itertools import chain, islice
from typing import Final, Protocol, TypeAlias

from tightseal.errors import Code, ServiceError

__all__ = [
    "SWEEP_SECONDS",
    "ByteBudget",
    "ConnectionTable",
    "Guarded",
    "Phase",
    "peer_of",
]

SWEEP_SECONDS: Final = 0.25
"""How often deadlines are looked at; a limit may be exceeded by this much."""

MAX_LOOKED_AT: Final = 128
"""Most connections of a phase that are looked at for one of a stranger."""

UNKNOWN_PEER: Final = "unknown"
IPV6_SITE_BITS: Final = 64

OnClosed: TypeAlias = Callable[[str], None]
"""Told why a connection was closed by us: ``timeout``, ``evicted`` or ``full``."""


class Phase(IntEnum):
    """What a connection is doing."""

    WAITING = 0
    READING = 1
    SERVING = 2


class Guarded(Protocol):
    """A connection as the table sees it.

    Attributes:
        deadline: loop time after which :meth:`expire` is called.
        peer: the share that it counts against.
        phase: kept by the table.
    """

    deadline: float
    peer: str
    phase: Phase

    def expire(self) -> None:
        """The deadline passed: answer or close, and set a later deadline or drop."""

    def evict(self) -> None:
        """Close at once, to make room."""


class _Lane:
    """Connections by phase, each in order of arrival in that phase."""

    __slots__ = ("phases",)

    def __init__(self) -> None:
        self.phases: tuple[dict[Guarded, None], ...] = ({}, {}, {})

    def __len__(self) -> int:
        return sum(len(phase) for phase in self.phases)

    def oldest_idle(self) -> Guarded | None:
        waiting, reading, _ = self.phases
        return next(chain(waiting, reading), None)

    def oldest_of_strangers(self, known: Callable[[str], bool]) -> Guarded | None:
        """The oldest idle one that nobody known is behind; else the oldest idle one."""
        waiting, reading, _ = (islice(p, MAX_LOOKED_AT) for p in self.phases)
        strangers = (c for c in chain(waiting, reading) if not known(c.peer))
        return next(strangers, None) or self.oldest_idle()


class ConnectionTable:
    """The connections of one transport in one worker. Used on the event loop only.

    Args:
        max_total: most connections.
        max_per_peer: most connections of one peer.
        on_closed: told of each connection that the table closed, and why.
        known: whether somebody known is behind a source.
    """

    def __init__(
        self,
        *,
        max_total: int,
        max_per_peer: int,
        on_closed: OnClosed = lambda _reason: None,
        known: Callable[[str], bool] = lambda _source: False,
    ) -> None:
        self._known = known
        self._max_total = max_total
        self._max_per_peer = max_per_peer
        self._on_closed = on_closed
        self._all = _Lane()
        self._peers: dict[str, _Lane] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Guarded]:
        return iter([c for phase in self._all.phases for c in phase])

    def count(self, phase: Phase) -> int:
        """How many connections are in a phase."""
        return len(self._all.phases[phase])

    def admit(self, connection: Guarded) -> bool:
        """Take a new connection in; ``False`` where there is no room for it."""
        lane = self._peers.get(connection.peer)
        if lane is not None and len(lane) >= self._max_per_peer:
            room = self._evict(lane.oldest_idle())
        elif len(self._all) >= self._max_total:
            room = self.evict_oldest()
        else:
            room = True
        if not room:
            self._on_closed("full")
            return False
        connection.phase = Phase.WAITING
        for kept in (self._all, self._peers.setdefault(connection.peer, _Lane())):
            kept.phases[Phase.WAITING][connection] = None
        return True

    def move(self, connection: Guarded, phase: Phase, *, deadline: float) -> None:
        """Note that a connection entered a phase, with the deadline of that phase."""
        connection.deadline = deadline
        lane = self._peers.get(connection.peer)
        if lane is None or connection not in self._all.phases[connection.phase]:
            return
        if phase is connection.phase and phase is not Phase.WAITING:
            return
        for kept in (self._all, lane):
            del kept.phases[connection.phase][connection]
            kept.phases[phase][connection] = None
        connection.phase = phase

    def drop(self, connection: Guarded) -> None:
        """Forget a connection; harmless where it is not known."""
        lane = self._peers.get(connection.peer)
        if lane is None:
            return
        for kept in (self._all, lane):
            kept.phases[connection.phase].pop(connection, None)
        if not lane:
            del self._peers[connection.peer]

    def evict_oldest(self) -> bool:
        """Close the oldest idle connection; ``False`` where all are being served."""
        return self._evict(self._all.oldest_of_strangers(self._known))

    def sweep(self, now: float) -> None:
        """Call ``expire`` on every connection whose deadline passed."""
        for connection in self:
            if connection.deadline <= now:
                self._on_closed("timeout")
                connection.expire()

    def _evict(self, connection: Guarded | None) -> bool:
        if connection is None:
            return False
        self._on_closed("evicted")
        self.drop(connection)
        connection.evict()
        return True


class ByteBudget:
    """Request bytes held at once, over all connections of a worker.

    Without it, many half-sent requests of the longest size would fill the memory
    although each of them keeps its own limit.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held

    def take(self, count: int) -> None:
        """Hold ``count`` more bytes.

        Raises:
            ServiceError: ``overloaded``.
        """
        if self._held + count > self._limit:
            detail = f"{self._held} request bytes held, at most {self._limit}"
            raise ServiceError(Code.OVERLOADED, detail)
        self._held += count

    def give_back(self, count: int) -> None:
        """Let ``count`` bytes go."""
        self._held -= count


def peer_of(address: object) -> str:
    """The share that an address counts against: IPv4 address, or IPv6 /64."""
    if not isinstance(address, tuple) or not address:
        return UNKNOWN_PEER
    text = str(address[0])
    if ":" not in text:
        return text
    try:
        parsed = ipaddress.IPv6Address(text.partition("%")[0])
    except ValueError:
        return UNKNOWN_PEER
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    site = int(parsed) >> (128 - IPV6_SITE_BITS)
    return f"{site:016x}/{IPV6_SITE_BITS}"
