# SPDX-License-Identifier: Apache-2.0
"""Stored parameters, read strictly: they lie with the host."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from tightseal.errors import KeyReleaseError
from tightseal.model.canonical import Value
from tightseal.model.slots import SlotClass
from tightseal.platform.slots.derive import CHECK, CHECK_BYTES, unavailable

__all__ = ["FORM", "SIGNER_REFUSED", "Parameters"]

FORM: Final = 1
"""Version of the parameters of every class here."""

SIGNER_REFUSED: Final = (
    'it belongs to the signer, and release.slot_signer is not "allow"'
)
"""Why a slot of the signer neither opens nor is made."""

_FORM: Final = "form"


class Parameters:
    """The parameters of one slot: exactly the names given, each of its kind.

    Raises:
        KeyReleaseError: ``slot_unavailable``, where names are missing or unknown, or
            the form is another one.
    """

    def __init__(
        self,
        slot_class: SlotClass,
        values: Mapping[str, Value],
        names: Collection[str],
    ) -> None:
        self._class = slot_class
        self._values = values
        expected = {*names, _FORM, CHECK}
        if set(values) != expected:
            unknown = sorted(str(name)[:40] for name in set(values) - expected)[:4]
            missing = sorted(expected - set(values))
            raise self.refused(f"parameters missing {missing}, unknown {unknown}")
        if self.whole(_FORM, minimum=0, maximum=0xFFFF) != FORM:
            raise self.refused(f"parameters of another form than {FORM}")
        self.octets(CHECK, CHECK_BYTES)

    def refused(self, why: str) -> KeyReleaseError:
        """``slot_unavailable``, with the slot's class."""
        return unavailable(self._class, why)

    def octets(self, name: str, minimum: int, maximum: int | None = None) -> bytes:
        """Bytes of this length, or of a length between two."""
        value = self._values[name]
        most = minimum if maximum is None else maximum
        if not isinstance(value, bytes) or not minimum <= len(value) <= most:
            raise self.refused(f"{name}: not {minimum} to {most} bytes")
        return value

    def whole(self, name: str, *, minimum: int, maximum: int) -> int:
        """A whole number between two."""
        value = self._values[name]
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refused(f"{name}: not a whole number")
        if not minimum <= value <= maximum:
            raise self.refused(f"{name}: {value}, allowed are {minimum} to {maximum}")
        return value

    def text(self, name: str, choices: Collection[str]) -> str:
        """One of these texts."""
        value = self._values[name]
        if not isinstance(value, str) or value not in choices:
            raise self.refused(f"{name}: not one of {sorted(choices)}")
        return value

    def items(self, name: str, maximum: int) -> list[Value]:
        """A list of one to ``maximum`` items."""
        value = self._values[name]
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= maximum:
            raise self.refused(f"{name}: not a list of 1 to {maximum}")
        return list(value)
