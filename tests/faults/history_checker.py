# SPDX-License-Identifier: Apache-2.0
"""Whether a history of concurrent operations is one of a single sequential object.

The search is that of Wing and Gong, with Lowe's memory of configurations: an operation
may come next where no other operation ended before it began; the specification says
which states it can lead to; what was tried from the same set of operations and the same
state is not tried again. Objects are judged one by one, since linearizability is local.

An operation without an end was never answered: it may take effect at any time after it
began, or never. One that was answered with ``UNKNOWN`` took effect before its end, or
not at all.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

MAX_STEPS = 600_000
"""Most configurations looked at for one object."""


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = _Unknown()
"""The answer of an operation of which nobody knows whether it was done."""

State = TypeVar("State", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Operation:
    """One call by one client; times are of one clock for all clients.

    Attributes:
        on: the object that it is about.
        call: what was asked; equal calls without an answer are interchangeable.
        began: when it was sent.
        ended: when its answer came; ``None`` where none ever did.
        answer: what was answered; ``UNKNOWN`` where that says nothing.
        client: for texts.
    """

    on: Hashable
    call: Any
    began: float
    ended: float | None
    answer: Any = UNKNOWN
    client: str = ""

    @property
    def end(self) -> float:
        return math.inf if self.ended is None else self.ended


class Specification(Protocol[State]):
    """A sequential object."""

    def first(self) -> State:
        """The state before anything was done."""
        ...

    def after(self, state: State, call: Any, answer: Any) -> Iterable[State]:
        """Every state that the call can lead to with this answer; none: impossible."""
        ...

    def pure(self, call: Any, answer: Any) -> bool:
        """Whether the call changes no state, whenever it is placed."""
        ...


class NotLinearizableError(AssertionError):
    """No order of the operations explains what was answered."""


class UndecidedError(AssertionError):
    """The search passed its bound; a history that nobody judged is no good history."""


class _Search(Generic[State]):
    """The configurations of one object: which operations are placed, and the state.

    Answered operations and those without an end are kept apart: the former are placed
    in nearly the order in which they began, so that only few are ever open; the latter
    may stay open for good.
    """

    def __init__(
        self, operations: Sequence[Operation], spec: Specification[State]
    ) -> None:
        ordered = sorted(operations, key=lambda o: o.began)
        self.closed = [o for o in ordered if o.ended is not None]
        self.open = [o for o in ordered if o.ended is None]
        self.spec = spec
        self.steps = 0

    def run(self, max_steps: int) -> tuple[Operation, ...]:
        whole = (1 << len(self.closed)) - 1
        seen = set()
        placed: list[Operation] = []
        best: tuple[int, tuple[Operation, ...], State] = (0, (), self.spec.first())
        stack = [self._next(0, 0, self.spec.first())]
        done = whole == 0
        while stack and not done:
            found = next(stack[-1], None)
            if found is None:
                stack.pop()
                if placed:
                    placed.pop()
                continue
            operation, closed, open_, state = found
            if (closed, open_, state) in seen:
                continue
            self.steps += 1
            if self.steps > max_steps:
                raise UndecidedError(f"not decided after {max_steps} configurations")
            seen.add((closed, open_, state))
            placed.append(operation)
            stack.append(self._next(closed, open_, state))
            if closed.bit_count() > best[0]:
                best = (closed.bit_count(), tuple(placed), state)
            done = closed == whole
        if not done:
            raise NotLinearizableError(self._stuck(*best))
        return tuple(placed)

    def _next(
        self, closed: int, open_: int, state: State
    ) -> Iterator[tuple[Operation, int, int, State]]:
        window, limit = self._window(closed)
        for at in window:
            # What changes nothing and fits here fits in no better place.
            if self._passes(state, self.closed[at]):
                yield self.closed[at], closed | 1 << at, open_, state
                return
        yield from self._answered(window, closed, open_, state)
        yield from self._unanswered(limit, closed, open_, state)

    def _answered(
        self, window: Sequence[int], closed: int, open_: int, state: State
    ) -> Iterator[tuple[Operation, int, int, State]]:
        for at in window:
            operation = self.closed[at]
            # What may have had no effect had none as late as it could: when all else
            # that may come before its end is placed.
            late = operation.answer is not UNKNOWN or at == window[0]
            for after in self._after(state, operation):
                if late or after != state:
                    yield operation, closed | 1 << at, open_, after

    def _unanswered(
        self, limit: float, closed: int, open_: int, state: State
    ) -> Iterator[tuple[Operation, int, int, State]]:
        calls = set()
        for at, operation in enumerate(self.open):
            if operation.began > limit:
                break
            # Of equal calls that were never answered the one that began first may
            # stand for any other: its interval holds theirs.
            if open_ >> at & 1 or operation.call in calls:
                continue
            calls.add(operation.call)
            for after in self._after(state, operation):
                if after != state:
                    yield operation, closed, open_ | 1 << at, after

    def _window(self, closed: int) -> tuple[list[int], float]:
        """The answered operations that may come next, and before what all must begin.

        Nothing may be placed before an operation that ended before it began.
        """
        at = (~closed & (closed + 1)).bit_length() - 1
        waiting: list[int] = []
        limit = math.inf
        while at < len(self.closed) and self.closed[at].began <= limit:
            if not closed >> at & 1:
                waiting.append(at)
                limit = min(limit, self.closed[at].end)
            at += 1
        fitting = [at for at in waiting if self.closed[at].began <= limit]
        return sorted(fitting, key=lambda at: self.closed[at].end), limit

    def _passes(self, state: State, operation: Operation) -> bool:
        pure = self.spec.pure(operation.call, operation.answer)
        return pure and any(True for _ in self._after(state, operation))

    def _after(self, state: State, operation: Operation) -> Iterable[State]:
        return self.spec.after(state, operation.call, operation.answer)

    def _stuck(self, many: int, placed: Sequence[Operation], state: State) -> str:
        closed = 0
        for at, operation in enumerate(self.closed):
            if any(operation is one for one in placed):
                closed |= 1 << at
        window, _ = self._window(closed)
        waiting = "\n  ".join(str(self.closed[at]) for at in window)
        return (
            f"{many} of {len(self.closed)} answered operations can be explained, "
            f"{len(self.open)} were never answered; then the state is {state}, and "
            f"none of these can follow:\n  {waiting}"
        )


def explain(
    operations: Sequence[Operation],
    spec: Specification[Any],
    *,
    max_steps: int = MAX_STEPS,
) -> tuple[Operation, ...]:
    """An order of the operations of one object that explains every answer.

    Raises:
        NotLinearizableError: there is none.
        UndecidedError: it was not found within ``max_steps``.
    """
    return _Search(operations, spec).run(max_steps)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a check looked at."""

    objects: int
    operations: int
    unanswered: int


def check(
    history: Iterable[Operation],
    spec_of: Callable[[Hashable], Specification[Any]],
    *,
    max_steps: int = MAX_STEPS,
) -> Judged:
    """Judge a history, object by object.

    Raises:
        NotLinearizableError: with the object that has no order.
        UndecidedError: within ``max_steps`` for an object.
    """
    by_object: dict[Hashable, list[Operation]] = defaultdict(list)
    for operation in history:
        if operation.ended is not None and operation.ended < operation.began:
            raise ValueError(f"ended before it began: {operation}")
        by_object[operation.on].append(operation)
    unanswered = 0
    for name, operations in by_object.items():
        unanswered += sum(o.ended is None for o in operations)
        try:
            explain(operations, spec_of(name), max_steps=max_steps)
        except (NotLinearizableError, UndecidedError) as e:
            raise type(e)(f"{name}: {e}") from None
    total = sum(len(operations) for operations in by_object.values())
    return Judged(len(by_object), total, unanswered)
