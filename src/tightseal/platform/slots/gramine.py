# SPDX-License-Identifier: Apache-2.0
"""Slot ``gramine``: the sealing key that Gramine hands to this enclave.

Gramine asks EGETKEY for the present security versions, with KEYID zero and the masks of
the manifest, and remembers none of it (``sgx_get_seal_key``). So this slot ends with a
microcode update, another build, another ISVSVN or other masks; it wraps only, and the
keyring's other slots open then. What the slot was made with is stored beside it, to say
which of these it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from tightseal.errors import PlatformError
from tightseal.model.canonical import Value
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.platform.slots.derive import Place, sealed, unavailable, unsealed
from tightseal.platform.slots.enclave import (
    BODY_FORMAT,
    OwnEnclave,
    read_own_enclave,
)
from tightseal.platform.slots.parameters import FORM, SIGNER_REFUSED, Parameters

__all__ = ["GramineSlot", "SealingKeys"]

_ENCLAVE: Final = "mrenclave"
_SIGNER: Final = "mrsigner"
_UNSEEN: Final = (
    "the seal masks of the manifest, the owner epoch of the BIOS or the CPU changed"
)


class SealingKeys(Protocol):
    """The sealing keys of one enclave; every call may raise ``PlatformError``.

    ``GraminePlatform`` is one.
    """

    def own_enclave(self) -> OwnEnclave:
        """What this enclave is now."""
        ...

    def sealing_key(self) -> Secret:
        """EGETKEY(SEAL, MRENCLAVE), 16 bytes."""
        ...

    def signer_key(self) -> Secret:
        """EGETKEY(SEAL, MRSIGNER), 16 bytes."""
        ...


class GramineSlot:
    """The slot of class ``gramine``.

    Args:
        keys: Gramine's, or a simulated enclave's.
        allow_signer: whether the signed policy in force allows keys that belong to the
            signer: whoever has the signing key can build an enclave that opens them.
            Asked again at every opening: a stored slot cannot allow itself.
        use_signer: whether new slots are made that way.

    Raises:
        KeyReleaseError: ``slot_unavailable``, for ``use_signer`` without the policy.
    """

    def __init__(
        self, keys: SealingKeys, *, allow_signer: bool, use_signer: bool = False
    ) -> None:
        self._keys = keys
        self._allow_signer = allow_signer
        self._policy = _SIGNER if use_signer else _ENCLAVE
        self._refuse(self._policy)

    @property
    def slot_class(self) -> SlotClass:
        """``gramine``."""
        return SlotClass.GRAMINE

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        """Parameters and key of a new slot.

        Raises:
            KeyReleaseError: ``slot_unavailable``.
        """
        place = Place(self.slot_class, keyring_id=keyring_id, slot_id=slot_id)
        try:
            made_by = self._keys.own_enclave()
            material = self._ask(self._policy)
        except PlatformError as e:
            raise unavailable(self.slot_class, e.detail) from e
        public: dict[str, Value] = {
            "form": FORM,
            "policy": self._policy,
            "made_by": made_by.pack(),
        }
        return sealed(material, public, place)

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        """The key again, where enclave, masks and microcode are the same.

        Raises:
            KeyReleaseError: ``slot_unavailable``, with what changed.
        """
        place = Place(self.slot_class, keyring_id=keyring_id, slot_id=slot_id)
        policy, made_by = self._read(parameters)
        self._refuse(policy)
        try:
            now = self._keys.own_enclave()
            material = self._ask(policy)
        except PlatformError as e:
            raise unavailable(self.slot_class, e.detail) from e
        causes = "; ".join(now.changes(made_by)) or _UNSEEN
        return unsealed(material, parameters, place, causes=causes)

    def rewrap(self, parameters: Mapping[str, Value]) -> str | None:
        """Why the slot should be made anew: none that could still be opened."""
        self._read(parameters)
        return None

    def for_signer(self) -> GramineSlot:
        """The same, making new slots for the signer.

        Raises:
            KeyReleaseError: ``slot_unavailable``, without the policy.
        """
        return GramineSlot(self._keys, allow_signer=self._allow_signer, use_signer=True)

    def _read(self, parameters: Mapping[str, Value]) -> tuple[str, OwnEnclave]:
        values = Parameters(self.slot_class, parameters, ("policy", "made_by"))
        policy = values.text("policy", (_ENCLAVE, _SIGNER))
        try:
            made_by = read_own_enclave(values.octets("made_by", BODY_FORMAT.size))
        except PlatformError as e:
            raise unavailable(self.slot_class, f"made_by: {e.detail}") from e
        return policy, made_by

    def _refuse(self, policy: str) -> None:
        if policy == _SIGNER and not self._allow_signer:
            raise unavailable(self.slot_class, SIGNER_REFUSED)

    def _ask(self, policy: str) -> Secret:
        return (
            self._keys.signer_key() if policy == _SIGNER else self._keys.sealing_key()
        )
