# SPDX-License-Identifier: Apache-2.0
"""A keyring that is open: its parts and the keyring key, as one immutable value."""

from __future__ import annotations

from dataclasses import dataclass, field

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring.faults import unavailable
from tightseal.keys.keyring.generation import (
    Generation,
    GenerationState,
    open_root,
)
from tightseal.keys.keyring.header import Header
from tightseal.keys.keyring.seal import derive
from tightseal.keys.keyring.sealed import check_whole, encode_keyring, sealed_by
from tightseal.keys.keyring.slot import Slot
from tightseal.model.branch import BranchRoot
from tightseal.model.canonical import Value
from tightseal.model.labels import Label
from tightseal.model.secret import Secret

__all__ = ["Keyring"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """An open keyring. Roots stay sealed until they are asked for.

    Attributes:
        header: whose it is.
        generations: by number, from 1.
        slots: in their order.
        key: the keyring key, 32 bytes. Values made from one another by changes share
            it, except through ``renew_key``.

    Raises:
        KeyReleaseError: ``keyring_malformed``, where the parts do not fit.
    """

    header: Header
    generations: tuple[Generation, ...]
    slots: tuple[Slot, ...]
    key: Secret = field(repr=False)

    def __post_init__(self) -> None:
        check_whole(self.header, self.generations, self.slots)

    @property
    def current(self) -> Generation:
        """The generation that new keys come from."""
        return next(g for g in self.generations if g.state is GenerationState.CURRENT)

    @property
    def previous(self) -> Generation | None:
        """The newest living one that was current before; ``None`` where there is none.

        One that was destroyed is passed over.
        """
        before = self.generations[: self.current.number - 1]
        used = [g for g in before if g.living and g.activated_at is not None]
        return used[-1] if used else None

    def generation(self, number: int) -> Generation:
        """A generation by its number.

        Raises:
            KeyReleaseError: ``generation_unknown``.
        """
        if not 1 <= number <= len(self.generations):
            detail = f"generation {number}: there are 1 to {len(self.generations)}"
            raise KeyReleaseError(Code.GENERATION_UNKNOWN, detail)
        return self.generations[number - 1]

    def root(self, number: int) -> Secret:
        """The root of a current or retired generation, 32 bytes; the caller wipes it.

        In a branch it is a ``BranchRoot``.

        Raises:
            KeyReleaseError: ``generation_unknown``; ``generation_not_allowed``, where
                it is pre-active or destroyed.
        """
        generation = self.generation(number)
        if generation.state is GenerationState.PRE_ACTIVE or not generation.living:
            detail = f"generation {number} is {generation.state.value}"
            raise KeyReleaseError(Code.GENERATION_NOT_ALLOWED, detail)
        header = self.header
        root = open_root(generation, key=self.key, keyring_id=header.keyring_id)
        if header.branch is None:
            return root
        try:
            return BranchRoot(
                root.reveal(),
                trust_domain=header.trust_domain,
                tenant=header.branch.tenant,
            )
        finally:
            root.wipe()

    def slot(self, slot_id: bytes) -> Slot:
        """A slot by its id.

        Raises:
            KeyReleaseError: ``slot_unavailable``.
        """
        for slot in self.slots:
            if slot.slot_id == slot_id:
                return slot
        raise unavailable(f"no slot {slot_id.hex()} in this keyring")

    def derive(self, label: Label, value: Value) -> Secret:
        """A key of the provider's own, 32 bytes, from the keyring key.

        The same after rotation, another one after ``renew_key``.
        """
        full: list[Value] = [self.header.keyring_id, value]
        return derive(self.key, label=label, value=full)

    def seal(self) -> bytes:
        """The bytes of the file; the same for the same value.

        Raises:
            KeyReleaseError: ``keyring_malformed``, where they are too many.
        """
        return encode_keyring(
            sealed_by(
                self.key,
                header=self.header,
                generations=self.generations,
                slots=self.slots,
            )
        )

    def wipe(self) -> None:
        """Wipe the keyring key: of this value and of all that share it."""
        self.key.wipe()
