# SPDX-License-Identifier: Apache-2.0
"""Token buckets by name, and who verified well of late: bounded tables of one worker.

Time is the event loop's. Both protect this host alone, so its clock is the right one.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

__all__ = ["MAX_NAMES", "Buckets", "Standing"]

MAX_NAMES: Final = 65_536
"""Most names that a table keeps. The one used longest ago goes first: whoever has that
many addresses gains nothing by a bucket that is forgotten."""

DEEPEST: Final = 2.0
"""A bucket goes into debt by at most its burst, so its wait is bounded."""


class Buckets:
    """A bucket of ``burst`` units for each name, filled at ``rate`` units a second.

    Args:
        rate: units a second; 0 switches the buckets off.
        burst: units of a full bucket.
        max_names: most names kept.
    """

    def __init__(
        self, *, rate: float, burst: float, max_names: int = MAX_NAMES
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._max_names = max_names
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._spent)

    def wait(self, name: str, units: float, *, now: float) -> int:
        """Whole seconds until the bucket has ``units``; 0 where it has them now."""
        if self._rate <= 0:
            return 0
        missing = self._of(name, now) + min(units, self._burst) - self._burst
        return max(0, math.ceil(missing / self._rate)) if missing > 0 else 0

    def take(self, name: str, units: float, *, now: float) -> int:
        """Take units, if they are there; else the whole seconds to wait, at least 1."""
        wait = self.wait(name, units, now=now)
        if not wait:
            self.charge(name, units, now=now)
        return wait

    def charge(self, name: str, units: float, *, now: float) -> None:
        """Take units, whether they are there or not; negative ones are given back."""
        if self._rate <= 0:
            return
        spent = self._of(name, now) + units
        self._spent[name] = min(max(spent, 0.0), DEEPEST * self._burst), now
        self._spent.move_to_end(name)
        if len(self._spent) > self._max_names:
            self._spent.popitem(last=False)

    def _of(self, name: str, now: float) -> float:
        spent, at = self._spent.get(name, (0.0, now))
        return max(0.0, spent - self._rate * max(0.0, now - at))


@dataclass(frozen=True, slots=True)
class _Good:
    tenant: str
    until: float


class Standing:
    """Pairs of source and claimed platform that verified well of late.

    Only a verification that ended well puts a pair in, so whoever presents bad evidence
    cannot fill the table. A claim means something together with its source alone: who
    claims another's platform from elsewhere is a stranger.

    Args:
        seconds: that a pair is remembered after its last good verification.
        max_names: most pairs.
    """

    def __init__(self, *, seconds: float, max_names: int = MAX_NAMES) -> None:
        self._seconds = seconds
        self._max_names = max_names
        self._pairs: OrderedDict[tuple[str, str], _Good] = OrderedDict()
        self._sources: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def good(self, source: str, claim: str, *, tenant: str, now: float) -> None:
        """Note a verification that ended well, and the tenant that it was for."""
        pair = (source, claim)
        if self._pairs.pop(pair, None) is None:
            self._sources[source] = self._sources.get(source, 0) + 1
        self._pairs[pair] = _Good(tenant, now + self._seconds)
        while len(self._pairs) > self._max_names:
            self._forget(next(iter(self._pairs)))
        # The oldest are first, so this ends soon.
        while (first := next(iter(self._pairs.items())))[1].until <= now:
            self._forget(first[0])

    def spoil(self, source: str, claim: str) -> None:
        """Forget a pair."""
        if (source, claim) in self._pairs:
            self._forget((source, claim))

    def tenant(self, source: str, claim: str, *, now: float) -> str | None:
        """The tenant of a pair in good standing; ``None`` for every other."""
        found = self._pairs.get((source, claim))
        return found.tenant if found is not None and found.until > now else None

    def has(self, source: str) -> bool:
        """Whether any pair of a source is remembered."""
        return source in self._sources

    def _forget(self, pair: tuple[str, str]) -> None:
        del self._pairs[pair]
        left = self._sources[pair[0]] - 1
        if left:
            self._sources[pair[0]] = left
        else:
            del self._sources[pair[0]]
