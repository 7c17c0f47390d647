# SPDX-License-Identifier: Apache-2.0
"""A slot of several factors: all of them, in a fixed order, make one key.

A second factor alone opens for the host, which has the TPM and may have heard the
passphrase. Beside a first factor it takes something more than the enclave to open the
keyring. Whoever holds every factor but one learns nothing of the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tightseal.errors import KeyReleaseError
from tightseal.model.canonical import Value, labelled
from tightseal.model.labels import Label
from tightseal.model.secret import Secret
from tightseal.model.slots import (
    FIRST_FACTORS,
    SECOND_FACTORS,
    SlotClass,
    SlotKey,
)
from tightseal.platform.slots.derive import KEY_BYTES, Place, unavailable

__all__ = ["CombinedSlot", "ordered_factors"]

MIN_FACTORS: Final = 2
_ORDER: Final = tuple(SlotClass)


def ordered_factors(classes: Sequence[SlotClass]) -> tuple[SlotClass, ...]:
    """The fixed order of factors: that of ``SlotClass``, first factors before second.

    Raises:
        KeyReleaseError: ``slot_unavailable``: fewer than two, one twice, or not exactly
            one first factor.
    """
    chosen = tuple(sorted(classes, key=_ORDER.index))
    first = [c for c in chosen if c in FIRST_FACTORS]
    second = [c for c in chosen if c in SECOND_FACTORS]
    names = ", ".join(c.value for c in chosen)
    if len(chosen) < MIN_FACTORS or len(set(chosen)) != len(chosen):
        slot_class = chosen[0] if chosen else SlotClass.PASSPHRASE
        raise unavailable(slot_class, f"factors {names}: two or more, none twice")
    if len(first) != 1 or not second:
        why = f"factors {names}: exactly one of"
        allowed = ", ".join(sorted(c.value for c in FIRST_FACTORS))
        raise unavailable(chosen[0], f"{why} {allowed}, and second factors beside it")
    return chosen


class CombinedSlot:
    """One first factor with second factors; its class is that of the first.

    Its parameters are those of the factors, each under the name of its class.

    Args:
        factors: one of each class, in any order.

    Raises:
        KeyReleaseError: ``slot_unavailable``, as ``ordered_factors``.
    """

    def __init__(self, factors: Sequence[SlotKey]) -> None:
        by_class = {SlotClass(f.slot_class): f for f in factors}
        self._order = ordered_factors([SlotClass(f.slot_class) for f in factors])
        self._factors = by_class

    @property
    def slot_class(self) -> SlotClass:
        """The class of the first factor."""
        return self._order[0]

    @property
    def factors(self) -> tuple[SlotClass, ...]:
        """Every factor's class, in the order in which their keys are used."""
        return self._order

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        """Parameters of every factor, and the key that all of them make.

        Raises:
            KeyReleaseError: ``slot_unavailable``, where one factor cannot be had.
        """
        parameters: dict[str, Value] = {}
        keys = []
        for name in self._order:
            made, key = self._factors[name].create(
                keyring_id=keyring_id, slot_id=slot_id
            )
            parameters[name.value] = made
            keys.append(key)
        return parameters, self._joined(keys, keyring_id=keyring_id, slot_id=slot_id)

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        """The key again, where every factor opens; none is left out.

        Raises:
            KeyReleaseError: ``slot_unavailable``, naming the factor.
        """
        stored = self._stored(parameters)
        keys = [
            self._factors[name].open(
                stored[name], keyring_id=keyring_id, slot_id=slot_id
            )
            for name in self._order
        ]
        return self._joined(keys, keyring_id=keyring_id, slot_id=slot_id)

    def rewrap(self, parameters: Mapping[str, Value]) -> str | None:
        """Why the slot should be made anew: what any factor says, or ``None``.

        Raises:
            KeyReleaseError: ``slot_unavailable``.
        """
        stored = self._stored(parameters)
        reasons = []
        for name in self._order:
            ask = getattr(self._factors[name], "rewrap", None)
            reason = None if ask is None else ask(stored[name])
            if reason:
                reasons.append(f"{name.value}: {reason}")
        return "; ".join(reasons) or None

    def _stored(
        self, parameters: Mapping[str, Value]
    ) -> dict[SlotClass, Mapping[str, Value]]:
        names = {name.value for name in self._order}
        if set(parameters) != names:
            raise self._refused(f"parameters of other factors than {sorted(names)}")
        stored: dict[SlotClass, Mapping[str, Value]] = {}
        for name in self._order:
            value = parameters[name.value]
            if not isinstance(value, Mapping):
                raise self._refused(f"parameters of {name.value} are not a map")
            stored[name] = value
        return stored

    def _refused(self, why: str) -> KeyReleaseError:
        return unavailable(self.slot_class, why)

    def _joined(
        self, keys: Sequence[Secret], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        """HKDF over the list of all keys, each with its class."""
        place = Place(self.slot_class, keyring_id=keyring_id, slot_id=slot_id)
        named = zip(self._order, keys, strict=True)
        material = labelled(
            Label.KDF_SLOT_FACTORS,
            [[name.value, key.reveal()] for name, key in named],
        )
        info = labelled(
            Label.KDF_SLOT_FACTORS,
            [place.keyring_id, place.slot_id, [name.value for name in self._order]],
        )
        for key in keys:
            key.wipe()
        kdf = HKDF(hashes.SHA256(), length=KEY_BYTES, salt=None, info=info)
        return Secret(kdf.derive(material))
