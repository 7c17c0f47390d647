# SPDX-License-Identifier: Apache-2.0
"""Goes through all wrapped keys: after a rotation, before a generation is destroyed.

    rotate -> give_up(old): close, rewrap_all, none still under it -> destroy(old)

A release wraps its own key anew by itself, so nothing of this is needed for keys in
use; it is for those that nobody asks for. It costs time in proportion to the number of
keys, and memory for a sixteenth of them. Stopped halfway it has done what it has done.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tightseal.errors import Code, KeyReleaseError, ServiceError
from tightseal.model.ports import KeyRoots
from tightseal.model.state import Record, Replace, StateStore
from tightseal.release.wrapped import KINDS
from tightseal.release.wrapped_floor import Floor, raise_floor, read_floor
from tightseal.release.wrapped_record import Entropy, WrappedRecord

__all__ = ["BATCH", "Rewrapped", "Rewrapper"]

BATCH: Final = 128
"""Most keys that are wrapped anew in one commit."""

_LOST_RACE: Final = frozenset({Code.STATE_CONFLICT, Code.STATE_MISSING})


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What going through all keys has done.

    Attributes:
        moved: keys that are under the current generation now.
        settled: keys that were under it, or a newer one, before.
        overtaken: keys whose record others changed meanwhile; go through again.
        lost: keys under generations that do not open here.
    """

    moved: int = 0
    settled: int = 0
    overtaken: int = 0
    lost: int = 0

    def __add__(self, other: Rewrapped) -> Rewrapped:
        """Both together."""
        return Rewrapped(
            moved=self.moved + other.moved,
            settled=self.settled + other.settled,
            overtaken=self.overtaken + other.overtaken,
            lost=self.lost + other.lost,
        )


class Rewrapper:
    """Wraps all keys of a state store under the current generation.

    Args:
        store: as of ``WrappedKeys``; releases may go on over it.
        roots: likewise.
        entropy: random bytes; replaced in tests.
    """

    def __init__(
        self,
        store: StateStore,
        roots: KeyRoots,
        *,
        entropy: Entropy = secrets.token_bytes,
    ) -> None:
        self._store = store
        self._roots = roots
        self._entropy = entropy

    def close(self, generation: int, *, now: int) -> None:
        """Let no provider wrap another key under a generation, or under an older one.

        For ever: once this returned, ``still_under`` only falls. Providers that still
        take it for the current one create no keys (``provider_not_ready``) until they
        have the newer keyring; keys that they open stay under what they are under.

        Raises:
            KeyReleaseError: ``generation_not_allowed``, where it is the current one.
            ServiceError: what the store raises.
        """
        current = self._roots.generations().current
        if generation >= current:
            detail = f"wrapped keys: generation {generation} is in use: {current}"
            raise KeyReleaseError(Code.GENERATION_NOT_ALLOWED, detail)
        raise_floor(self._store, generation + 1, now=now)

    def give_up(self, generation: int, *, now: int) -> Rewrapped:
        """Move every key away from a generation, for ever; what destroys it calls this.

        Raises:
            KeyReleaseError: ``generation_not_allowed``, where it is the current one, or
                where keys are left under it: nothing may destroy it then.
            ServiceError: as of :meth:`rewrap_all`.
        """
        self.close(generation, now=now)
        done = self.rewrap_all(now=now)
        left = self.still_under(generation, now=now)
        if left:
            detail = f"wrapped keys: {left} are still under generation {generation}"
            raise KeyReleaseError(Code.GENERATION_NOT_ALLOWED, detail)
        return done

    def rewrap_all(self, *, now: int) -> Rewrapped:
        """Wrap every key under the current generation; none is created or changed.

        Raises:
            ServiceError: ``provider_not_ready``, where that generation is closed;
                ``state_tampered``, where a record does not open; what else the store
                raises.
        """
        done = Rewrapped()
        for kind in KINDS:
            records = self._store.scan(kind, now=now)
            for start in range(0, len(records), BATCH):
                done += self._some(records[start : start + BATCH], now=now)
        return done

    def by_generation(self, *, now: int) -> Mapping[int, int]:
        """How many keys are wrapped under each generation.

        Raises:
            ServiceError: ``state_tampered``; what else the store raises.
        """
        found: Counter[int] = Counter()
        for kind in KINDS:
            found.update(
                WrappedRecord.decode(record.value).path.generation
                for record in self._store.scan(kind, now=now)
            )
        return found

    def still_under(self, generation: int, *, now: int) -> int:
        """How many keys would be lost with a generation; raises as the other.

        More can come until the generation is closed.
        """
        return self.by_generation(now=now).get(generation, 0)

    def _some(self, records: tuple[Record, ...], *, now: int) -> Rewrapped:
        current = self._roots.generations().current
        floor = read_floor(self._store, now=now)
        floor.require(current)
        stale = [
            (record, held)
            for record in records
            if (held := WrappedRecord.decode(record.value)).path.generation < current
        ]
        opens = self._roots.generations().open
        ready = [pair for pair in stale if pair[1].path.generation in opens]
        done = Rewrapped(
            settled=len(records) - len(stale), lost=len(stale) - len(ready)
        )
        changes = list(self._changes(ready, current))
        if not changes or self._written(changes, floor, now=now):
            return done + Rewrapped(moved=len(changes))
        # Somebody came first with one of them, which refuses the whole batch.
        won = sum(self._written([change], floor, now=now) for change in changes)
        return done + Rewrapped(moved=won, overtaken=len(changes) - won)

    def _changes(
        self, ready: list[tuple[Record, WrappedRecord]], current: int
    ) -> Iterator[Replace]:
        for before, record in ready:
            moved = record.moved(
                current, name=before.name, roots=self._roots, entropy=self._entropy
            )
            yield Replace(before.kind, before.name, moved.encode(), before.version)

    def _written(self, changes: list[Replace], floor: Floor, *, now: int) -> bool:
        try:
            self._store.batch([*changes, floor.expected], now=now)
        except ServiceError as e:
            if e.code not in _LOST_RACE:
                raise
            return False
        return True
