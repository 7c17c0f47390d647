# SPDX-License-Identifier: Apache-2.0
"""Slots: the independent ways to open a keyring, as interfaces."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Protocol

from tightseal.model.canonical import Value
from tightseal.model.secret import Secret

__all__ = ["FIRST_FACTORS", "SECOND_FACTORS", "SlotClass", "SlotKey"]


class SlotClass(StrEnum):
    """What gives a slot its key."""

    GRAMINE = "gramine"
    """The sealing key that Gramine hands to this enclave."""

    SGX = "sgx"
    """EGETKEY itself, of a stored request."""

    SNP = "snp"
    """A key derived by the AMD secure processor."""

    PROVIDER = "provider"
    """A key from another provider, which judged our evidence."""

    COUNCIL = "council"
    """People with shares, t of n."""

    TPM2 = "tpm2"
    """A key sealed to PCRs of a TPM 2.0; a second factor."""

    PASSPHRASE = "passphrase"  # noqa: S105 (the name of a class)
    """Argon2id over what a person types; a second factor."""


FIRST_FACTORS: Final = frozenset(
    {
        SlotClass.GRAMINE,
        SlotClass.SGX,
        SlotClass.SNP,
        SlotClass.PROVIDER,
        SlotClass.COUNCIL,
    }
)
"""Classes that may open a keyring alone."""

SECOND_FACTORS: Final = frozenset({SlotClass.TPM2, SlotClass.PASSPHRASE})
"""Classes that count only beside a first factor: the host has both."""


class SlotKey(Protocol):
    """One way to a slot's key; asked once when the slot is made, and at each start."""

    @property
    def slot_class(self) -> SlotClass:
        """Which class of slot this is."""
        ...

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        """Public parameters to be stored, and a key of 32 bytes that they lead to.

        Raises:
            KeyReleaseError: ``slot_unavailable``, where it cannot be had here.
        """
        ...

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        """The key again.

        Stored parameters lie with the host: of them only what cannot weaken the key is
        believed.

        Raises:
            KeyReleaseError: ``slot_unavailable``, with what would be needed.
        """
        ...
