# SPDX-License-Identifier: Apache-2.0
"""The keyring of a running provider: its roots, and changes to them.

    change -> lock -> newest version -> apply -> share -> save, read back, open
    -> anchor -> in use

Several workers have one file: who changes it takes the newest first, and the others
find it by its digest. Several providers have one state store, where the newest version
lies for all of them (:mod:`tightseal.release.sharing`).
"""

from __future__ import annotations

import hashlib
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
    Loaded,
    OpenedKeyring,
    Terms,
    UnseenKeyring,
    check_goes_on,
    keep,
    keep_opened,
    open_keyring,
    open_with_key,
    probe_slots,
    working,
)
from tightseal.keys.keyring.file import Basis
from tightseal.keys.keyring.header import is_simulated
from tightseal.model.generation import Generations
from tightseal.model.keyring import KeyringAnchor
from tightseal.model.ports import Clock
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotKey
from tightseal.model.state import AnchorClass, Record, StateStore
from tightseal.release.anchored import Anchors, KeyedAnchor, held
from tightseal.release.sharing import KeyringShare, SharedCopy

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
        keyed: what remembers the counter and is read with the keyring's key.
    """

    file: KeyringFile
    slot_keys: Sequence[SlotKey]
    terms: Terms
    anchor: KeyringAnchor | None = None
    damaged: DamagedSlots = DamagedSlots.REFUSE
    keyed: KeyedAnchor | None = None


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
        loaded, self.opened = _opened_newest(ways)
        keyed = None if ways.keyed is None else ways.keyed(self.opened.keyring)
        self._keyed, self._anchor = keyed, keyed or ways.anchor
        keep_opened(self.opened, anchor=self._anchor)
        self._share: KeyringShare | None = None
        self._newest: SharedCopy | None = None
        self._in_use = _in_use(self.opened.keyring, loaded)

    def anchor_with(
        self, anchor: KeyringAnchor, share: KeyringShare | None = None
    ) -> None:
        """Hold the keyring against what something remembers that lies under its key.

        From then on every version is told to it.

        Args:
            anchor: remembers the counter.
            share: has the newest version, which is taken over first.

        Raises:
            KeyReleaseError: ``keyring_rolled_back``.
            ServiceError: it cannot be asked.
        """
        with self._lock:
            if share is not None:
                self._share = share
                self._look()
            header = self.keyring.header
            known = anchor.remembered(header.keyring_id)
            if known is not None and known > header.counter:
                detail = f"keyring: counter {header.counter}, remembered is {known}"
                raise KeyReleaseError(Code.KEYRING_ROLLED_BACK, detail)
            anchor.remember(header.keyring_id, header.counter)
            keyed = self._keyed
            self._anchor = anchor if keyed is None else Anchors((keyed, anchor))

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

    @property
    def working(self) -> frozenset[bytes]:
        """Ids of slots that opened the keyring here: one, or none after a handoff."""
        slot = self.opened.slot
        return frozenset() if slot is None else frozenset({slot.slot_id})

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
            for _ in range(MAX_ATTEMPTS):
                self._look()
                before = self._in_use
                counter = before.keyring.header.counter
                if expected is not None and expected != counter:
                    detail = f"keyring: counter {counter}, expected {expected}"
                    raise ServiceError(Code.STATE_CONFLICT, detail)
                after = change(before.keyring)
                if not self._publish(after):
                    # Another provider came first: apply it to what that one made.
                    continue
                self._keep(after, before.basis)
                return after
        detail = f"keyring: other providers came first {MAX_ATTEMPTS} times"
        raise ServiceError(Code.OVERLOADED, detail)

    def _publish(self, keyring: Keyring) -> bool:
        """Put a version where other providers find it; before the file has it.

        A crash in between leaves the file behind, which the next look makes up for. The
        other way round two providers could each go on from a version of their own.
        """
        if self._share is None:
            return True
        header = keyring.header
        return self._share.publish(
            header.keyring_id, keyring.seal(), header.counter, after=self._newest
        )

    def _keep(self, keyring: Keyring, replaces: Basis) -> None:
        """Save a version and use it, unless another worker just saved the very same."""
        file = self._ways.file
        try:
            basis: Basis = keep(file, keyring, replaces=replaces, anchor=self._anchor)
        except ServiceError as e:
            basis = file.load()
            same = hashlib.sha256(keyring.seal()).digest() == basis.digest
            if e.code is not Code.STATE_CONFLICT or not same:
                raise
        self._in_use = _in_use(keyring, basis)

    def _look(self) -> bool:
        loaded = self._ways.file.load()
        if self._share is None:
            return self._take_file(loaded, anchor=self._anchor)
        return self._take_shared(self._share, loaded)

    def _take_file(self, loaded: Loaded, *, anchor: KeyringAnchor | None) -> bool:
        before = self._in_use
        if loaded.digest == before.basis.digest:
            return False
        opened = self._opened(loaded.data, anchor=anchor)
        was, found = (k.header.counter for k in (before.keyring, opened.keyring))
        if found <= was:
            detail = f"keyring: counter {found} on disk, {was} in use"
            raise KeyReleaseError(Code.KEYRING_ROLLED_BACK, detail)
        self._require_way(opened.keyring)
        keep_opened(opened, anchor=self._anchor)
        self._in_use = _in_use(opened.keyring, loaded)
        return True

    def _take_shared(self, share: KeyringShare, loaded: Loaded) -> bool:
        """Take over the shared version, or publish ours, where it is ahead.

        Ours is ahead where the share had none yet, after a crash of a file's writer in
        an older version, and where a command changed the file. At the same counter the
        shared one counts: nobody else has seen ours.

        Raises:
            KeyReleaseError: ``keyring_rolled_back``, where the file is ahead by count
                and lacks what others rotated to; ``slot_unavailable``, where the shared
                one was left without a slot that opens here: we were revoked.
        """
        before = self._in_use
        keyring_id = before.keyring.header.keyring_id
        self._newest = newest = share.newest(keyring_id)
        if newest is not None and (
            newest.digest == loaded.digest == before.basis.digest
        ):
            return False
        on_disk = self._opened(loaded.data, anchor=None).keyring
        if newest is None or newest.counter < on_disk.header.counter:
            # Not the anchor's business: a host that puts an older file here gets the
            # shared version back, and no newer one than we wrote opens.
            if newest is not None:
                self._check_goes_on(share, on_disk)
            taken = self._take_file(loaded, anchor=None)
            if self._publish(self._in_use.keyring):
                self._newest = share.newest(keyring_id)
            return taken
        if newest.digest == loaded.digest:
            self._require_way(on_disk)
            self._in_use = _in_use(on_disk, loaded)
            return True
        fetched = share.fetch(keyring_id)
        if fetched is None:
            return False
        found = self._opened(fetched[1], anchor=None).keyring
        self._require_way(found)
        self._newest = fetched[0]
        self._keep(found, loaded)
        return True

    def _check_goes_on(self, share: KeyringShare, on_disk: Keyring) -> None:
        fetched = share.fetch(on_disk.header.keyring_id)
        if fetched is None:
            return
        data = fetched[1]
        try:
            shared = self._opened(data, anchor=None).keyring
        except KeyReleaseError:
            # Under the keyring key from before a renewal, as which it lies here sealed
            # anew; whoever did not take part in that does not open this store.
            return
        check_goes_on(shared, on_disk)

    def _require_way(self, keyring: Keyring) -> None:
        """Refuse a version from which our slots were taken.

        The host of a provider that was revoked can put its older file back, which opens
        here, and leads to the store that the others share. Our own image must not go on
        from there to roots that were made to be kept from it.
        """
        ours = self.opened.slot
        there = {slot.slot_id for slot in keyring.slots}
        if ours is None or ours.slot_id in there:
            return
        if working(probe_slots(keyring, self._ways.slot_keys)):
            return
        detail = f"counter {keyring.header.counter} has no slot that opens here"
        raise KeyReleaseError(
            Code.SLOT_UNAVAILABLE,
            f"keyring: {detail}: this provider was revoked, or never confirmed; join",
        )

    def _opened(self, data: bytes, *, anchor: KeyringAnchor | None) -> OpenedKeyring:
        key = self._in_use.keyring.key
        return open_with_key(data, key=key, terms=self._ways.terms, anchor=anchor)


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


def _opened_newest(ways: Ways) -> tuple[Loaded, OpenedKeyring]:
    """Open the file, again where somebody saved another version meanwhile.

    Of a version that was saved since the anchor knows more than the one we read says.
    """
    for _ in range(MAX_ATTEMPTS):
        loaded = ways.file.load()
        opened = open_keyring(
            loaded.data,
            terms=ways.terms,
            slot_keys=ways.slot_keys,
            anchor=ways.anchor,
            unseen=UnseenKeyring.REFUSE,
            damaged=ways.damaged,
        )
        if ways.keyed is None:
            return loaded, opened
        try:
            return loaded, held(opened, ways.keyed(opened.keyring))
        except BaseException as e:
            opened.keyring.wipe()
            late = isinstance(e, KeyReleaseError)
            if not late or ways.file.load().digest == loaded.digest:
                raise
    detail = f"keyring: others saved it {MAX_ATTEMPTS} times while it was opened"
    raise ServiceError(Code.OVERLOADED, detail)


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
