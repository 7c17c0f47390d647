# SPDX-License-Identifier: Apache-2.0
"""Where strangers' requests wait while strangers are a flood, before any work is done.

To refuse a request costs a tenth of what it costs to verify one, so a flood that is
refused as fast as it comes takes the provider from the known all the same. While it
lasts, a stranger's request waits here instead: read, not begun, and not answered. Who
waits for an answer sends no other. Few are let in at once, source by source, and those
are paced by the threads' queue.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from tightseal.model import wire
from tightseal.model.wire_handoff import HANDOFF_PATH
from tightseal.service.connections import Phase

__all__ = ["AT_ONCE", "PATHS", "TICK_SECONDS", "Doorway", "Waiting"]

PATHS: Final = frozenset(
    {wire.CHALLENGE_PATH, wire.KEYS_PATH, wire.PUBLIC_KEY_PATH, HANDOFF_PATH}
)
"""Requests that wait. Not health and metrics, which are needed most in a flood; nor
bundles and actions: operators come from anywhere, and have a thread of their own."""

AT_ONCE: Final = 4
"""Strangers' requests of one worker that are worked on, while others wait."""

AFTERWARDS: Final = 32
"""Let in with each tick when the flood is over: all at once would be another one."""

TICK_SECONDS: Final = 0.02
GRACE_SECONDS: Final = 0.5
"""Who was let in and has not sent the rest by then does not keep others waiting."""


class Waiting(Protocol):
    """A connection with a request that was read and not begun.

    Attributes:
        peer: the share that it counts against.
        phase: kept by the connection table.
    """

    peer: str
    phase: Phase

    def let_in(self) -> None:
        """Begin to work on the request."""


class Doorway:
    """Who waits, in turns of their sources. Used on the event loop only.

    Args:
        loop: tells the time, and when to look again.
        pressed: whether strangers are a flood now.
        known: whether somebody known is behind a source.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        pressed: Callable[[], bool],
        known: Callable[[str], bool],
    ) -> None:
        self._loop = loop
        self._pressed = pressed
        self._known = known
        self._sources: OrderedDict[str, dict[Waiting, None]] = OrderedDict()
        self._inside: dict[Waiting, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._open = False

    def __len__(self) -> int:
        return sum(map(len, self._sources.values()))

    def closed_to(self, source: str) -> bool:
        """Whether a request from this source has to wait."""
        return not self._open and self._pressed() and not self._known(source)

    def wait(self, who: Waiting) -> None:
        """Let a request wait for its turn."""
        self._sources.setdefault(who.peer, {})[who] = None
        self._let_in()

    def leave(self, who: Waiting) -> None:
        """Forget a connection: it was answered, or is gone."""
        line = self._sources.get(who.peer)
        if line is not None:
            line.pop(who, None)
            if not line:
                del self._sources[who.peer]
        if self._inside.pop(who, None) is not None:
            self._let_in()

    def open(self) -> None:
        """Let everybody in, from now on: the worker is about to end."""
        self._open = True
        self._let_in()

    def _let_in(self) -> None:
        """Let in whoever may, and look again in a moment while anybody waits."""
        room = AT_ONCE - self._busy()
        if self._open or not self._pressed():
            room = len(self) if self._open else AFTERWARDS
        while self._sources and room > 0:
            self._next().let_in()
            room -= 1
        if self._sources and self._timer is None:
            self._timer = self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._let_in()

    def _next(self) -> Waiting:
        source, line = next(iter(self._sources.items()))
        who = next(iter(line))
        del line[who]
        if line:
            self._sources.move_to_end(source)
        else:
            del self._sources[source]
        self._inside[who] = self._loop.time()
        return who

    def _busy(self) -> int:
        now = self._loop.time()
        for who, since in list(self._inside.items()):
            if who.phase is not Phase.SERVING and now - since > GRACE_SECONDS:
                del self._inside[who]
        return len(self._inside)
