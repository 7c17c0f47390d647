# SPDX-License-Identifier: Apache-2.0
"""Small sequential objects: a usage counter, an allowance of a minute, a nonce.

They are written from the documents (ADR 0014, ADR 0026, docs/exchange.md), not from the
code: none of it is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from history_checker import UNKNOWN

HOUR = 3600

GRANTED = "granted"
LIMITED = "limited"
REPLAYED = "replayed"
REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Release:
    """A release is asked for.

    Attributes:
        tag: names the request where it was sent more than once.
        times: what the provider's clock may have said, one or more readings.
    """

    tag: str | None = None
    times: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class ReadTotal:
    """The number of releases counted so far is read; it is the answer."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a usage counter remembers."""

    total: int = 0
    latest: int = 0
    recent: tuple[int, ...] = ()
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class UsageCounter:
    """Never grants more than its limits; each request is counted once."""

    total: int | None = None
    per_hour: int | None = None

    def first(self) -> Counted:
        return Counted()

    def after(self, state: Counted, call: Any, answer: Any) -> Iterator[Counted]:
        if isinstance(call, ReadTotal):
            if answer is UNKNOWN or answer == state.total:
                yield state
            return
        assert isinstance(call, Release)
        if call.tag is not None and call.tag in state.tags:
            if answer != LIMITED:
                yield state
            return
        outcomes = [self._counted(state, call.tag, now) for now in call.times]
        if answer == GRANTED:
            yield from (after for after in outcomes if after is not None)
        elif answer == LIMITED:
            if None in outcomes:
                yield state
        else:
            yield state
            yield from (after for after in outcomes if after is not None)

    def pure(self, call: Any, answer: Any) -> bool:
        return isinstance(call, ReadTotal) or answer == LIMITED or not call.times

    def _counted(self, state: Counted, tag: str | None, now: int) -> Counted | None:
        """One release more; ``None`` where a limit is reached."""
        if self.total is not None and state.total >= self.total:
            return None
        # Time is the newest that was ever counted at: a clock set back frees nothing.
        now = max(now, state.latest)
        recent = tuple(at for at in state.recent if at > now - HOUR)
        if self.per_hour is None:
            recent = ()
        elif len(recent) >= self.per_hour:
            return None
        else:
            recent = (*recent, now)
        tags = state.tags if tag is None else state.tags | {tag}
        latest = now if self.per_hour is not None else 0
        return replace(
            state, total=state.total + 1, latest=latest, recent=recent, tags=tags
        )


@dataclass(frozen=True, slots=True)
class MinuteAllowance:
    """Grants at most ``limit``. It may refuse early: what a dead node held is lost."""

    limit: int

    def first(self) -> int:
        return 0

    def after(self, state: int, call: Any, answer: Any) -> Iterator[int]:
        # What may have taken a unit need not have: fewer are never worse.
        if self.pure(call, answer):
            yield state
        elif state < self.limit:
            yield state + 1

    def pure(self, call: Any, answer: Any) -> bool:
        del call
        return bool(answer != GRANTED)


@dataclass(frozen=True, slots=True)
class Redeem:
    """A nonce is redeemed.

    Attributes:
        request: names the bytes of the request.
        home: whether the node that is asked minted the nonce.
    """

    request: str
    home: bool = True


@dataclass(frozen=True, slots=True)
class Response:
    """An answer that is kept: a release, or a denial by its code."""

    content: str


@dataclass(frozen=True, slots=True)
class Burned:
    """A redeemed nonce; what was answered may have been seen by nobody so far."""

    request: str
    content: str | None


@dataclass(frozen=True, slots=True)
class Nonce:
    """Gives one response to one request, byte for byte; any other is refused."""

    def first(self) -> Burned | None:
        return None

    def after(
        self, state: Burned | None, call: Any, answer: Any
    ) -> Iterable[Burned | None]:
        assert isinstance(call, Redeem)
        if isinstance(answer, Response):
            ours = state is None or state.request == call.request
            same = state is None or state.content in (None, answer.content)
            after = Burned(call.request, answer.content)
            return (after,) if call.home and ours and same else ()
        if answer == REPLAYED:
            return () if state is None or state.request == call.request else (state,)
        if answer is UNKNOWN and state is None and call.home:
            return (state, Burned(call.request, None))
        return (state,)

    def pure(self, call: Any, answer: Any) -> bool:
        del call
        return answer in (REPLAYED, REFUSED)
