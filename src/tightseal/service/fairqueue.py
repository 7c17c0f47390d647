# SPDX-License-Identifier: Apache-2.0
"""What waits for a thread, and who comes next: pure, and in order of fairness.

Three levels. Whoever verified well of late (*known*) has a reserved share of the work;
all others share the rest. Inside each class groups take turns, and inside a group its
members do, by deficit round robin (Shreedhar and Varghese, 1995): a turn is worth
``QUANTUM`` units of work. So a group that sends a thousand requests delays every other
one by no more than a group that sends one.

Where the queue is full, the group that has most in it loses its newest: a flood pushes
itself out, and nobody else.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

from tightseal.errors import Code, ServiceError

__all__ = ["MAX_COST", "QUANTUM", "FairQueue", "Flow"]

QUANTUM: Final = 16
"""Units of work that one turn is worth: one verification."""

MAX_COST: Final = 2 * QUANTUM
"""Most units that one piece of work counts as."""

_T = TypeVar("_T")


class Flow(NamedTuple):
    """Where work belongs.

    Attributes:
        known: whether it may use the reserved share.
        group: takes turns with other groups of its class.
        member: takes turns with other members of its group.
    """

    known: bool = False
    group: str = ""
    member: str = ""


class _Line(Generic[_T]):
    """The work of one member, oldest first."""

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: deque[tuple[_T, int]] = deque()

    def __len__(self) -> int:
        return len(self.items)

    def pop(self) -> tuple[_T, int]:
        return self.items.popleft()


class _Turns(Generic[_T]):
    """Children that take turns; each keeps what is left of its turn."""

    __slots__ = ("children", "count", "credit")

    def __init__(self) -> None:
        self.children: OrderedDict[str, _Turns[_T] | _Line[_T]] = OrderedDict()
        self.credit: dict[str, int] = {}
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def pop(self) -> tuple[_T, int]:
        while True:
            name, child = next(iter(self.children.items()))
            if self.credit[name] <= 0:
                self.credit[name] += QUANTUM
                self.children.move_to_end(name)
                continue
            item, cost = child.pop()
            self.count -= 1
            self.credit[name] -= cost
            if not child:
                # What is left of a turn is not kept for later.
                del self.children[name], self.credit[name]
            elif self.credit[name] <= 0:
                self.credit[name] += QUANTUM
                self.children.move_to_end(name)
            return item, cost


class _Lengths:
    """How much each group has waiting; the longest is found at once."""

    __slots__ = ("_by_length", "_longest", "_of")

    def __init__(self) -> None:
        self._of: dict[str, int] = {}
        self._by_length: dict[int, dict[str, None]] = {}
        self._longest = 0

    def of(self, group: str) -> int:
        return self._of.get(group, 0)

    def longest(self) -> str:
        return next(iter(self._by_length[self._longest]))

    def add(self, group: str, by: int) -> None:
        before = self._of.get(group, 0)
        after = before + by
        if before:
            same = self._by_length[before]
            del same[group]
            if not same:
                del self._by_length[before]
        if after:
            self._of[group] = after
            self._by_length.setdefault(after, {})[group] = None
        else:
            del self._of[group]
        self._longest = max(self._longest, after)
        while self._longest and self._longest not in self._by_length:
            self._longest -= 1


@dataclass(slots=True)
class _Class(Generic[_T]):
    """Known or unknown: its groups, its weight, and the work done for it."""

    weight: float
    room: int
    groups: _Turns[_T] = field(default_factory=_Turns)
    lengths: _Lengths = field(default_factory=_Lengths)
    done: float = 0.0

    def push(self, item: _T, flow: Flow, cost: int) -> None:
        group = self.groups.children.get(flow.group)
        if group is None:
            group = self.groups.children[flow.group] = _Turns()
            self.groups.credit[flow.group] = QUANTUM
        assert isinstance(group, _Turns)
        line = group.children.get(flow.member)
        if line is None:
            line = group.children[flow.member] = _Line()
            group.credit[flow.member] = QUANTUM
        assert isinstance(line, _Line)
        line.items.append((item, cost))
        group.count += 1
        self.groups.count += 1
        self.lengths.add(flow.group, 1)

    def pop(self) -> tuple[_T, int]:
        name = self._next_group()
        item, cost = self.groups.pop()
        self.lengths.add(name, -1)
        self.done += cost / self.weight
        return item, cost

    def _next_group(self) -> str:
        """Turn to the group that ``pop`` will serve."""
        turns = self.groups
        while turns.credit[name := next(iter(turns.children))] <= 0:
            turns.credit[name] += QUANTUM
            turns.children.move_to_end(name)
        return name

    def drop_newest(self, name: str) -> _T:
        """Take out the newest of the longest line of a group."""
        group = self.groups.children[name]
        assert isinstance(group, _Turns)
        member = max(group.children, key=lambda at: len(group.children[at]))
        line = group.children[member]
        assert isinstance(line, _Line)
        item, _cost = line.items.pop()
        if not line:
            del group.children[member], group.credit[member]
        group.count -= 1
        self.groups.count -= 1
        if not group:
            del self.groups.children[name], self.groups.credit[name]
        self.lengths.add(name, -1)
        return item


class FairQueue(Generic[_T]):
    """Work that waits. For one thread.

    Args:
        limit: most that waits; at least 1.
        reserved_share: of the work that known flows may have where both classes wait,
            and of the room; above 0, below 1.
    """

    def __init__(self, *, limit: int, reserved_share: float = 0.8) -> None:
        self._limit = limit
        room = min(max(1, round(limit * reserved_share)), max(1, limit - 1))
        self._classes: dict[bool, _Class[_T]] = {
            True: _Class(reserved_share, room),
            False: _Class(1 - reserved_share, limit - room),
        }

    def __len__(self) -> int:
        return sum(len(c.groups) for c in self._classes.values())

    def waiting(self, *, known: bool) -> int:
        """How much of one class waits."""
        return len(self._classes[known].groups)

    def push(self, item: _T, flow: Flow, *, cost: int = 1) -> _T | None:
        """Let work wait.

        Returns:
            what had to go for it; ``None`` where there was room.

        Raises:
            ServiceError: ``overloaded``, where this is what has to go.
        """
        mine = self._classes[flow.known]
        gone = self._make_room(mine, flow) if len(self) >= self._limit else None
        other = self._classes[not flow.known]
        # Idle time is not saved up: who waited for nothing has no claim to more.
        if not mine.groups and other.groups:
            mine.done = max(mine.done, other.done)
        elif not mine.groups:
            mine.done = other.done = 0.0
        mine.push(item, flow, min(max(cost, 1), MAX_COST))
        return gone

    def pop(self, *, known_only: bool = False) -> _T:
        """Take out what comes next; there must be something."""
        ready = [c for c in self._classes.values() if c.groups]
        if known_only:
            ready = [self._classes[True]]
        item, _cost = min(ready, key=lambda c: c.done).pop()
        return item

    def _make_room(self, mine: _Class[_T], flow: Flow) -> _T:
        other = self._classes[not flow.known]
        if len(other.groups) > other.room:
            return other.drop_newest(other.lengths.longest())
        if mine.groups:
            longest = mine.lengths.longest()
            # More than the newcomer would have: else newcomers push each other out.
            if mine.lengths.of(longest) > mine.lengths.of(flow.group) + 1:
                return mine.drop_newest(longest)
        detail = f"{len(self)} calls wait, at most {self._limit}"
        raise ServiceError(Code.OVERLOADED, detail)
