# SPDX-License-Identifier: Apache-2.0
"""Slot ``passphrase``: Argon2id over what a person types. A second factor.

Alone it opens for whoever holds the file and guesses, on machines of their choice;
the keyring takes it beside a first factor, and alone only in a simulated trust domain.
Cost and salt lie with the host, so they are bounded both ways: too cheap would help
who guesses, too dear would take the provider's memory.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from tightseal.model.canonical import Value
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.platform.slots.derive import Place, sealed, unavailable, unsealed
from tightseal.platform.slots.parameters import FORM, Parameters

__all__ = ["Ask", "Cost", "PassphraseSlot"]

MIN_MEMORY_KIB: Final = 64 * 1024
MIN_PASSES: Final = 3
"""RFC 9106 section 4, the second recommended choice: the least that counts."""

MAX_MEMORY_KIB: Final = 1024 * 1024
MAX_PASSES: Final = 16
MAX_LANES: Final = 8
"""What a stored slot may cost at most: 1 GiB, and seconds of a core."""

SALT_BYTES: Final = 16
MATERIAL_BYTES: Final = 32
MIN_PASSPHRASE_CHARS: Final = 14
"""Shortest passphrase of a new slot."""

MAX_PASSPHRASE_BYTES: Final = 1024

Ask: TypeAlias = Callable[[], Secret]
"""Asks for the passphrase: UTF-8, without line ends."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one try costs (RFC 9106).

    Attributes:
        memory_kib: memory in KiB.
        passes: passes over it.
        lanes: parallel lanes.
    """

    memory_kib: int = MIN_MEMORY_KIB
    passes: int = MIN_PASSES
    lanes: int = 4


class PassphraseSlot:
    """The slot of class ``passphrase``.

    Args:
        ask: asks for the passphrase, once for each call of ``create`` and ``open``.
        cost: of new slots.
    """

    def __init__(self, ask: Ask, *, cost: Cost | None = None) -> None:
        self._ask = ask
        self._cost = cost or Cost()

    @property
    def slot_class(self) -> SlotClass:
        """``passphrase``."""
        return SlotClass.PASSPHRASE

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        """Parameters and key of a new slot.

        Raises:
            KeyReleaseError: ``slot_unavailable``: a passphrase under 14 characters, or
                a cost outside the bounds.
        """
        place = Place(self.slot_class, keyring_id=keyring_id, slot_id=slot_id)
        public: dict[str, Value] = {
            "form": FORM,
            "memory_kib": self._cost.memory_kib,
            "passes": self._cost.passes,
            "lanes": self._cost.lanes,
            "salt": os.urandom(SALT_BYTES),
        }
        # The rules for stored parameters hold for new ones: a slot opens again.
        cost, salt = self._read({**public, "check": bytes(16)})
        typed = self._typed()
        if len(typed.decode()) < MIN_PASSPHRASE_CHARS:
            why = f"passphrase under {MIN_PASSPHRASE_CHARS} characters"
            raise unavailable(self.slot_class, why)
        return sealed(self._stretched(typed, cost, salt), public, place)

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        """The key again, where the same passphrase is typed.

        Raises:
            KeyReleaseError: ``slot_unavailable``: another passphrase, or parameters
                outside the bounds, found before memory is spent.
        """
        place = Place(self.slot_class, keyring_id=keyring_id, slot_id=slot_id)
        cost, salt = self._read(parameters)
        material = self._stretched(self._typed(), cost, salt)
        causes = "another passphrase, or parameters that were changed"
        return unsealed(material, parameters, place, causes=causes)

    def rewrap(self, parameters: Mapping[str, Value]) -> str | None:
        """Why the slot should be made anew: it costs less than new ones, or ``None``.

        Raises:
            KeyReleaseError: ``slot_unavailable``.
        """
        cost, _ = self._read(parameters)
        wanted = self._cost
        if cost.memory_kib >= wanted.memory_kib and cost.passes >= wanted.passes:
            return None
        return (
            f"made with {cost.memory_kib} KiB and {cost.passes} passes; now"
            f" {wanted.memory_kib} KiB and {wanted.passes}"
        )

    def _read(self, parameters: Mapping[str, Value]) -> tuple[Cost, bytes]:
        names = ("memory_kib", "passes", "lanes", "salt")
        values = Parameters(self.slot_class, parameters, names)
        cost = Cost(
            values.whole("memory_kib", minimum=MIN_MEMORY_KIB, maximum=MAX_MEMORY_KIB),
            values.whole("passes", minimum=MIN_PASSES, maximum=MAX_PASSES),
            values.whole("lanes", minimum=1, maximum=MAX_LANES),
        )
        return cost, values.octets("salt", SALT_BYTES)

    def _typed(self) -> bytes:
        """The passphrase as NFC: keyboards differ in how they compose letters."""
        given = self._ask().reveal()
        if not 0 < len(given) <= MAX_PASSPHRASE_BYTES:
            why = f"passphrase of {len(given)} bytes, 1 to {MAX_PASSPHRASE_BYTES}"
            raise unavailable(self.slot_class, why)
        try:
            return unicodedata.normalize("NFC", given.decode()).encode()
        except UnicodeDecodeError:
            # The cause would carry the bytes themselves.
            raise unavailable(self.slot_class, "passphrase is not UTF-8") from None

    def _stretched(self, typed: bytes, cost: Cost, salt: bytes) -> Secret:
        try:
            function = Argon2id(
                salt=salt,
                length=MATERIAL_BYTES,
                iterations=cost.passes,
                lanes=cost.lanes,
                memory_cost=cost.memory_kib,
            )
            return Secret(function.derive(typed))
        except (UnsupportedAlgorithm, MemoryError) as e:
            why = f"Argon2id with {cost.memory_kib} KiB: {type(e).__name__}"
            raise unavailable(self.slot_class, why) from e
