# SPDX-License-Identifier: Apache-2.0
"""Slot ``provider``: a key from another provider, which judged our evidence.

Our provider is the other one's guest: a sidecar's on the same host, or a peer's. What
it gets there belongs to a purpose of its own and to this keyring and slot, and is only
the source of the slot's key. Who the other provider must be is pinned by whoever hands
the asking in; the stored parameters say who it was, and are believed in nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from tightseal.errors import Code, KeyReleaseError, TightsealError
from tightseal.model.canonical import Value
from tightseal.model.generation import MAX_GENERATION
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.platform.slots.derive import (
    CHECK,
    CHECK_BYTES,
    Place,
    sealed,
    short,
    unavailable,
    unsealed,
)
from tightseal.platform.slots.parameters import FORM, Parameters

__all__ = ["ClosedSlot", "OtherProvider", "ProviderSlot", "SlotMaterial", "slot_label"]

ID_BYTES: Final = 32
MIN_MEASUREMENT_BYTES: Final = 32
MAX_MEASUREMENT_BYTES: Final = 48

_NEXT: Final = {
    Code.PROVIDER_UNREACHABLE: "start it, or mend host.keyring.provider.url",
    Code.PROVIDER_REFUSED: "it refuses us, and its log says why",
    Code.PROVIDER_IDENTITY_MISMATCH: "another provider answers there, or the pin in "
    "release.slot_provider is out of date",
}
"""What to do, by the code of what went wrong."""


@dataclass(frozen=True, slots=True)
class SlotMaterial:
    """What the other provider gave.

    Attributes:
        secret: 32 bytes, derived under ``generation``.
        generation: of the other provider's root.
        current: its current generation; a slot of an older one is to be made anew.
    """

    secret: Secret = field(repr=False)
    generation: int
    current: int


class OtherProvider(Protocol):
    """The pinned provider, and how it is asked; bounded in time."""

    @property
    def keyring_id(self) -> bytes:
        """Of the pin, 32 bytes."""
        ...

    @property
    def policy_root(self) -> bytes | None:
        """Of the pin, 32 bytes."""
        ...

    @property
    def measurement(self) -> bytes:
        """Of the pin, 32 or 48 bytes."""
        ...

    def ask(self, label: str, *, generation: int | None) -> SlotMaterial:
        """Prove the platform, check the pin, and get the key of this label.

        Args:
            label: of the key.
            generation: of the other provider's root; its current one where ``None``.

        Raises:
            TightsealError: it cannot be had, with the reason.
        """
        ...


class ProviderSlot:
    """The slot of class ``provider``.

    Args:
        other: the pinned provider.
    """

    def __init__(self, other: OtherProvider) -> None:
        self._other = other
        self._aged: dict[bytes, str] = {}

    @property
    def slot_class(self) -> SlotClass:
        """``provider``."""
        return SlotClass.PROVIDER

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        """Parameters and key of a new slot, under the other's current generation.

        Raises:
            KeyReleaseError: ``slot_unavailable``, with what to do about it.
        """
        place = Place(self.slot_class, keyring_id=keyring_id, slot_id=slot_id)
        got = self._ask(place, None)
        public: dict[str, Value] = {
            "form": FORM,
            "keyring_id": self._other.keyring_id,
            "policy_root": self._other.policy_root or b"",
            "made_by": self._other.measurement,
            "generation": got.generation,
        }
        return sealed(got.secret, public, place)

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        """The key again, where the pinned provider gives the same one.

        Raises:
            KeyReleaseError: ``slot_unavailable``: the slot is another provider's, or
                this one did not give the key, with what to do about it.
        """
        place = Place(self.slot_class, keyring_id=keyring_id, slot_id=slot_id)
        values = self._read(parameters)
        self._require_pinned(values)
        generation = values.whole("generation", minimum=0, maximum=MAX_GENERATION)
        got = self._ask(place, generation)
        key = unsealed(got.secret, parameters, place, causes=self._causes(values))
        why = f"made with generation {generation} of the other provider, now it is at"
        aged = f"{why} {got.current}" if got.current != generation else ""
        self._aged[values.octets(CHECK, CHECK_BYTES)] = aged
        return key

    def rewrap(self, parameters: Mapping[str, Value]) -> str | None:
        """Why the slot should be made anew, as the last opening found; nobody is asked.

        Raises:
            KeyReleaseError: ``slot_unavailable``.
        """
        check = self._read(parameters).octets(CHECK, CHECK_BYTES)
        return self._aged.get(check) or None

    def _read(self, parameters: Mapping[str, Value]) -> Parameters:
        names = ("keyring_id", "policy_root", "made_by", "generation")
        values = Parameters(self.slot_class, parameters, names)
        values.octets("keyring_id", ID_BYTES)
        if len(values.octets("policy_root", 0, ID_BYTES)) not in (0, ID_BYTES):
            raise values.refused(f"policy_root: not 0 or {ID_BYTES} bytes")
        values.octets("made_by", MIN_MEASUREMENT_BYTES, MAX_MEASUREMENT_BYTES)
        return values

    def _require_pinned(self, values: Parameters) -> None:
        stored = values.octets("keyring_id", ID_BYTES)
        root = values.octets("policy_root", 0, ID_BYTES)
        ours = self._other.keyring_id, self._other.policy_root or b""
        if (stored, root) != ours:
            why = (
                f"another provider's: made with {_named(stored, root)}, while"
                f" release.slot_provider pins {_named(*ours)}"
            )
            raise unavailable(self.slot_class, why)

    def _ask(self, place: Place, generation: int | None) -> SlotMaterial:
        label = slot_label(keyring_id=place.keyring_id, slot_id=place.slot_id)
        try:
            return self._other.ask(label, generation=generation)
        except TightsealError as e:
            todo = _NEXT.get(e.code, "look at the other provider's log")
            why = f"{todo}: {e.code.value}: {e.detail}"
            raise unavailable(self.slot_class, why) from e

    def _causes(self, values: Parameters) -> str:
        was = values.octets("made_by", MIN_MEASUREMENT_BYTES, MAX_MEASUREMENT_BYTES)
        now = self._other.measurement
        image = f"its measurement was {short(was)}, is {short(now)}; " * (was != now)
        return (
            f"{image}its policy gives our present image another key, or its own root is"
            " another one (a sidecar after an update, or on another machine)"
        )


class ClosedSlot:
    """A class of slots that cannot be used here, and why.

    Args:
        slot_class: the class.
        why: for the operator.
    """

    def __init__(self, slot_class: SlotClass, why: str) -> None:
        self._class = slot_class
        self._why = why

    @property
    def slot_class(self) -> SlotClass:
        """The class."""
        return self._class

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        """Raises ``slot_unavailable``."""
        del keyring_id, slot_id
        raise self._refused()

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        """Raises ``slot_unavailable``."""
        del parameters, keyring_id, slot_id
        raise self._refused()

    def _refused(self) -> KeyReleaseError:
        return unavailable(self._class, self._why)


def slot_label(*, keyring_id: bytes, slot_id: bytes) -> str:
    """The label of the key of one slot: no two slots share one.

    It is public, and a policy of the other provider can name the keyring in it.
    """
    return f"{keyring_id.hex()}.{slot_id.hex()}"


def _named(keyring_id: bytes, policy_root: bytes) -> str:
    root = short(policy_root) if policy_root else "none"
    return f"keyring {short(keyring_id)}, policy root {root}"
