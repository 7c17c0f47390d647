# SPDX-License-Identifier: Apache-2.0
"""The guard against going back: what was admitted once is the floor from then on.

Inside its window of some 30 days, collateral can be replaced by older collateral that
is just as authentic: from before a TCB recovery, or before a revocation.

The rule, per trust domain, kind and subject: **neither the issue date nor the number
may be lower than any admitted before**; either may stay. Both are needed. Intel's CRLs
have carried number 1 for years, so only their date tells them apart; TCB info is
reissued under one evaluation number for months, so a date alone would let a later
issue of the standard feed undo the early feed's recovery. Whoever mixes the two feeds
is refused the lower one: choose one. All facts of a set are judged before any is
admitted, so a refused set raises nothing.

A mark only ever rises, and merging two memories takes the maximum of each number, so
merging is commutative, associative and idempotent.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from tightseal.errors import Code, CollateralError
from tightseal.model.collateral import CollateralFacts

__all__ = [
    "EMPTY",
    "MAX_MARKS",
    "RELEASE_FLOORS",
    "Floor",
    "FloorCheck",
    "Mark",
    "MarkKey",
    "Marks",
    "MemoryGuard",
    "check_facts",
    "merge",
    "raised",
]

MAX_MARKS: Final = 4096
"""Most subjects remembered; Intel has some hundred platform families."""


class Mark(NamedTuple):
    """The highest issue date (Unix seconds) and number admitted for one subject."""

    issued_at: int
    number: int


class MarkKey(NamedTuple):
    """What a mark is about."""

    trust_domain: str
    kind: str
    subject: str


Marks = Mapping[MarkKey, Mark]
"""A memory of marks; replaced, never changed in place, so reading needs no lock."""


@dataclass(frozen=True, slots=True)
class Floor:
    """The lowest issue date and number of a kind that a release accepts."""

    trust_domain: str
    kind: str
    issued_at: int
    number: int


def _date(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())


RELEASE_FLOORS: Final[tuple[Floor, ...]] = (
    Floor("intel", "tcb_info", _date(2026, 8, 1), 18),
    Floor("intel", "qe_identity", _date(2026, 8, 1), 18),
    Floor("intel", "pck_crl", _date(2026, 8, 1), 1),
    Floor("intel", "root_crl", _date(2026, 2, 26), 1),
)
"""Intel's floors of this release: older collateral expired before it came out.

Documents and PCK CRLs live 30 days, and evaluation number 18 was current in February
2026; the root CRL of 2026-02-26 is the one in force. Every release may raise them.
A check of evidence as of a past time runs without a guard.
"""

EMPTY: Final[Marks] = MappingProxyType({})


class FloorCheck(Protocol):
    """The part of a guard that refuses early, on facts that nobody verified."""

    def check(self, facts: tuple[CollateralFacts, ...]) -> None:
        """Refuse facts below a mark or floor; remember nothing.

        Raises:
            CollateralError: ``collateral_rollback``.
        """
        ...


def _key(fact: CollateralFacts) -> MarkKey:
    return MarkKey(fact.trust_domain, fact.kind, fact.subject)


def check_facts(
    facts: tuple[CollateralFacts, ...], marks: Marks, floors: tuple[Floor, ...]
) -> bool:
    """Judge facts by marks and floors.

    Returns:
        whether admitting them would raise any mark.

    Raises:
        CollateralError: ``collateral_rollback``.
    """
    rises = False
    for fact in facts:
        mark = marks.get(_key(fact))
        if mark is None:
            rises = True
        else:
            if fact.issued_at < mark.issued_at or fact.number < mark.number:
                raise _rollback(fact, mark, "admitted before")
            rises = rises or (fact.issued_at, fact.number) != mark
        for floor in floors:
            if (fact.trust_domain, fact.kind) == (floor.trust_domain, floor.kind) and (
                fact.issued_at < floor.issued_at or fact.number < floor.number
            ):
                lowest = Mark(floor.issued_at, floor.number)
                raise _rollback(fact, lowest, "the floor of this release")
    return rises


def _rollback(fact: CollateralFacts, mark: Mark, what: str) -> CollateralError:
    return CollateralError(
        Code.COLLATERAL_ROLLBACK,
        f"{fact.kind} {fact.subject}: got issue {fact.issued_at} number {fact.number}, "
        f"{what}: issue {mark.issued_at} number {mark.number}",
    )


def merge(one: Marks, other: Marks) -> Marks:
    """Both memories in one: the maximum of each number.

    Raises:
        CollateralError: ``collateral_too_large``, beyond ``MAX_MARKS``.
    """
    merged = dict(one)
    for key, mark in other.items():
        old = merged.get(key, mark)
        merged[key] = Mark(
            max(old.issued_at, mark.issued_at), max(old.number, mark.number)
        )
    if len(merged) > MAX_MARKS:
        raise CollateralError(
            Code.COLLATERAL_TOO_LARGE, f"{len(merged)} marks, at most {MAX_MARKS}"
        )
    return MappingProxyType(merged)


def raised(marks: Marks, facts: tuple[CollateralFacts, ...]) -> Marks:
    """The memory after admitting ``facts``.

    Raises:
        CollateralError: ``collateral_too_large``.
    """
    new: dict[MarkKey, Mark] = {}
    for fact in facts:
        old = new.get(_key(fact), Mark(fact.issued_at, fact.number))
        new[_key(fact)] = Mark(
            max(old.issued_at, fact.issued_at), max(old.number, fact.number)
        )
    return merge(marks, new)


class MemoryGuard:
    """A guard for one process; implements ``CollateralGuard``.

    Args:
        floors: floors besides what is remembered; the release's own by default. An
            empty tuple for collateral of a past time.
    """

    def __init__(self, *, floors: tuple[Floor, ...] = RELEASE_FLOORS) -> None:
        self._floors = floors
        self._marks: Marks = EMPTY
        self._lock = threading.Lock()

    @property
    def marks(self) -> Marks:
        """What has been admitted."""
        return self._marks

    def check(self, facts: tuple[CollateralFacts, ...]) -> None:
        """Refuse facts below a mark or floor; remember nothing.

        Raises:
            CollateralError: ``collateral_rollback``.
        """
        check_facts(facts, self._marks, self._floors)

    def admit(self, facts: tuple[CollateralFacts, ...], *, now: int) -> None:
        """Admit the facts of verified collateral, or refuse them.

        ``now`` is not used: the verifier has judged the windows, and a mark in the
        future can only come from a signer that dates into the future.

        Raises:
            CollateralError: ``collateral_rollback``, ``collateral_too_large``.
        """
        del now
        if not check_facts(facts, self._marks, self._floors):
            return
        with self._lock:
            check_facts(facts, self._marks, self._floors)
            self._marks = raised(self._marks, facts)

    def admitted(self, *, trust_domain: str, kind: str, subject: str) -> bool:
        """Whether collateral on this subject was ever admitted."""
        return MarkKey(trust_domain, kind, subject) in self._marks
