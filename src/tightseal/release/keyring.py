# SPDX-License-Identifier: Apache-2.0
"""The keyring of a running provider: its roots, and changes to them.

    change -> lock -> newest file -> apply -> save, read back, open -> anchor -> in use

Several workers have one file: who changes it takes the newest first, and the others
find it by its digest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from tightseal.errors import Code, KeyReleaseError, ServiceError
from tightseal.keys.keyring import (
    DamagedSlots,
    GenerationState,
    Keyring,
    KeyringFile,
    OpenedKeyring,
    Terms,
    UnseenKeyring,
    keep,
    keep_opened,
    open_keyring,
    open_with_key,
)
from tightseal.keys.keyring.file import Basis
from tightseal.keys.keyring.header import is_simulated
from tightseal.model.generation import Generations
from tightseal.model.keyring import KeyringAnchor
from tightseal.model.ports import Clock
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotKey
from tightseal.model.state import AnchorClass, Record, StateStore

__all__ = [
    "POLICY_NOT_YET_KNOWN",
    "Change",
    "KeyringKeeper",
    "StoreAnchor",
    "Ways",
]

POLICY_NOT_YET_KNOWN: Final = (1 << 53) - 1
"""Policy version for opening a keyring before the policy, which lies under its key, is
read; :meth:`KeyringKeeper.check_policy` makes up for it before anything is released."""

Change: TypeAlias = Callable[[Keyring], Keyring]
"""From a keyring to the next one; pure."""

MAX_ATTEMPTS: Final = 64
"""Most times that a counter is written while others come first."""

_ANCHOR_KIND: Final = "keyring"
_LOST_RACE: Final = frozenset({Code.STATE_CONFLICT, Code.STATE_EXISTS})
_OPEN: Final = frozenset({GenerationState.CURRENT, GenerationState.RETIRED})


@dataclass(frozen=True, slots=True)
class Ways:
    """How a provider opens its keyring.

    Attributes:
        file: where it lies.
        slot_keys: the ways to a slot's key that this provider has.
        terms: what this provider is.
        anchor: what remembers the counter; ``None`` where nothing does.
        damaged: what to do with slots that are not as they were written.
    """

    file: KeyringFile
    slot_keys: Sequence[SlotKey]
    terms: Terms
    anchor: KeyringAnchor | None = None
    damaged: DamagedSlots = DamagedSlots.REFUSE


@dataclass(frozen=True, slots=True)
class _InUse:
    """One version of the keyring."""

    keyring: Keyring
    basis: Basis
    generations: Generations
    roots: dict[int, Secret] = field(default_factory=dict, repr=False)


class KeyringKeeper:
    """Implements ``KeyRoots`` over a keyring's file. Thread-safe.

    Args:
        ways: how it is opened.

    Raises:
        KeyReleaseError: it is missing, or does not open here; each slot says why.
        ServiceError: the file system or the anchor failed.
    """

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        self._lock = threading.Lock()
        loaded = ways.file.load()
        self.opened: OpenedKeyring = open_keyring(
            loaded.data,
            terms=ways.terms,
            slot_keys=ways.slot_keys,
            anchor=ways.anchor,
            unseen=UnseenKeyring.REFUSE,
            damaged=ways.damaged,
        )
        keep_opened(self.opened, anchor=ways.anchor)
        self._anchor = ways.anchor
        self._in_use = _in_use(self.opened.keyring, loaded)

    def anchor_with(self, anchor: KeyringAnchor) -> None:
        """Hold the keyring against what something remembers that lies under its key.

        From then on every version is told to it.

        Raises:
            KeyReleaseError: ``keyring_rolled_back``.
            ServiceError: it cannot be asked.
        """
        with self._lock:
            header = self.keyring.header
            known = anchor.remembered(header.keyring_id)
            if known is not None and known > header.counter:
                detail = f"keyring: counter {header.counter}, remembered is {known}"
                raise KeyReleaseError(Code.KEYRING_ROLLED_BACK, detail)
            anchor.remember(header.keyring_id, header.counter)
            self._anchor = anchor

    @property
    def keyring(self) -> Keyring:
        """The version in use."""
        return self._in_use.keyring

    @property
    def keyring_id(self) -> bytes:
        """32 bytes."""
        return self.keyring.header.keyring_id

    @property
    def simulated(self) -> bool:
        """Whether the keyring is of a simulated world."""
        return is_simulated(self.keyring.header.trust_domain)

    @property
    def anchor(self) -> AnchorClass:
        """What would notice an older file."""
        return self.opened.anchor

    def generations(self) -> Generations:
        """Current and retired ones; those that were destroyed are gone."""
        return self._in_use.generations

    def root(self, generation: int) -> Secret:
        """The root of a generation, 32 bytes.

        Raises:
            KeyReleaseError: ``generation_unknown``, ``generation_not_allowed``.
        """
        in_use = self._in_use
        root = in_use.roots.get(generation)
        if root is None:
            # Two threads may open it twice; each copy is the same root.
            root = in_use.roots[generation] = in_use.keyring.root(generation)
        return root

    def check_policy(self, version: int | None) -> None:
        """Refuse an older policy than the keyring asks for.

        Args:
            version: of the bundle in force; ``None`` for the built-in policy.

        Raises:
            KeyReleaseError: ``keyring_mismatch``.
        """
        least = self.keyring.header.minimum_policy_version
        if (version or 0) < least:
            detail = f"the keyring asks for policy {least} at least, got {version or 0}"
            raise KeyReleaseError(Code.KEYRING_MISMATCH, detail)

    def check_domain(self, trust_domain: str) -> None:
        """Refuse a provider whose own quote is of another world than its keyring.

        Raises:
            KeyReleaseError: ``keyring_mismatch``.
        """
        ours = self.keyring.header.trust_domain
        if ours != trust_domain:
            detail = f"the keyring is of {ours}, our own quote of {trust_domain}"
            raise KeyReleaseError(Code.KEYRING_MISMATCH, detail)

    def look(self) -> bool:
        """Take over a newer version that another worker wrote; whether there was one.

        Raises:
            KeyReleaseError: the file is gone, or is no newer version of this keyring.
            ServiceError: the file system or the anchor failed.
        """
        with self._lock:
            return self._look()

    def change(self, change: Change, *, expected: int | None = None) -> Keyring:
        """Change the keyring, durably; the new version is in use from then on.

        Args:
            change: made of the newest version.
            expected: the counter that the newest version must have, where whoever asks
                has seen one.

        Raises:
            KeyReleaseError: what the change or the file refuses.
            ServiceError: ``state_conflict``, where the counter is another one;
                ``state_unavailable``.
        """
        with self._lock:
            self._look()
            before = self._in_use
            counter = before.keyring.header.counter
            if expected is not None and expected != counter:
                detail = f"keyring: counter {counter}, expected {expected}"
                raise ServiceError(Code.STATE_CONFLICT, detail)
            after = change(before.keyring)
            saved = keep(
                self._ways.file,
                after,
                replaces=before.basis,
                anchor=self._anchor,
            )
            self._in_use = _in_use(after, saved)
            return after

    def _look(self) -> bool:
        ways, before = self._ways, self._in_use
        loaded = ways.file.load()
        if loaded.digest == before.basis.digest:
            return False
        opened = open_with_key(
            loaded.data,
            key=before.keyring.key,
            terms=ways.terms,
            anchor=self._anchor,
        )
        was, found = (k.header.counter for k in (before.keyring, opened.keyring))
        if found <= was:
            detail = f"keyring: counter {found} on disk, {was} in use"
            raise KeyReleaseError(Code.KEYRING_ROLLED_BACK, detail)
        keep_opened(opened, anchor=self._anchor)
        self._in_use = _in_use(opened.keyring, loaded)
        return True


class StoreAnchor:
    """Implements ``KeyringAnchor`` in the state store, which lies under the keyring.

    It notices an older keyring that is put back without the state; both put back
    together are noticed as far as the store's own anchor allows.

    Args:
        store: the state store.
        clock: Unix seconds.
    """

    def __init__(self, store: StateStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    @property
    def anchor_class(self) -> AnchorClass:
        """The store's."""
        return self._store.freshness().anchor

    def remembered(self, keyring_id: bytes) -> int | None:
        """The highest counter taken; raises ``ServiceError`` as the store does."""
        held = self._held(keyring_id)
        return None if held is None else int.from_bytes(held.value, "big")

    def remember(self, keyring_id: bytes, counter: int) -> None:
        """Take a counter; raises ``ServiceError`` as the store does."""
        name, value = keyring_id.hex(), counter.to_bytes(8, "big")
        for _ in range(MAX_ATTEMPTS):
            held, now = self._held(keyring_id), self._clock()
            if held is not None and held.value >= value:
                return
            try:
                if held is None:
                    self._store.create(_ANCHOR_KIND, name, value, now=now)
                else:
                    expected = held.version
                    self._store.replace(
                        _ANCHOR_KIND, name, value, expected=expected, now=now
                    )
            except ServiceError as e:
                if e.code not in _LOST_RACE:
                    raise
            else:
                return
        detail = f"keyring counter: others came first {MAX_ATTEMPTS} times"
        raise ServiceError(Code.OVERLOADED, detail)

    def _held(self, keyring_id: bytes) -> Record | None:
        try:
            return self._store.open(_ANCHOR_KIND, keyring_id.hex(), now=self._clock())
        except ServiceError as e:
            if e.code is not Code.STATE_MISSING:
                raise
            return None


def _in_use(keyring: Keyring, basis: Basis) -> _InUse:
    previous = keyring.previous
    return _InUse(
        keyring,
        basis,
        Generations(
            current=keyring.current.number,
            previous=None if previous is None else previous.number,
            open=frozenset(g.number for g in keyring.generations if g.state in _OPEN),
        ),
    )
