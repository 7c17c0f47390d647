# SPDX-License-Identifier: Apache-2.0
"""Slot ``sgx``: EGETKEY(SEAL) of a stored request.

Unlike Gramine's own key this one survives a microcode update: newer security versions
may ask for keys of older ones, so the stored CPUSVN leads to the key that the slot was
made with. It does not survive what the old microcode leaked; ``rewrap`` says when the
slot should be made anew, and that is due at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, Protocol

from tightseal.errors import Code, PlatformError
from tightseal.model.canonical import Value
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.platform.slots.derive import Place, sealed, unavailable, unsealed
from tightseal.platform.slots.enclave import OwnEnclave, read_own_enclave
from tightseal.platform.slots.keyrequest import (
    KEY_ID_BYTES,
    KEY_REQUEST_BYTES,
    SealRequest,
    SgxPolicy,
    key_policy,
    read_seal_request,
)
from tightseal.platform.slots.parameters import FORM, SIGNER_REFUSED, Parameters

__all__ = ["Egetkey", "SgxSlot"]

STATUSES: Final = {
    1 << 1: "SGX_INVALID_ATTRIBUTE",
    1 << 5: "SGX_INVALID_CPUSVN: the machine's microcode is older than the slot",
    1 << 6: "SGX_INVALID_ISVSVN: this build's ISVSVN is below the slot's",
    1 << 8: "SGX_INVALID_KEYNAME",
}
"""What EGETKEY answers (Intel SDM volume 3D), for the operator."""

_OTHER: Final = (
    "another build (MRENCLAVE), another signer or product id, other attributes, another"
    " owner epoch or another CPU"
)


class Egetkey(Protocol):
    """The two instructions; every call may raise ``PlatformError``."""

    def own_report(self) -> bytes:
        """REPORT of this enclave, 432 bytes."""
        ...

    def egetkey(self, request: bytes) -> tuple[int, Secret]:
        """EGETKEY of 512 bytes of KEYREQUEST: status, and 16 bytes where it is 0."""
        ...


class SgxSlot:
    """The slot of class ``sgx``.

    Args:
        door: the native shim, or a simulated enclave.
        allow_signer: whether the signed policy in force allows keys that belong to the
            signer; asked again at every opening.
        use_signer: whether new slots are made that way.

    Raises:
        KeyReleaseError: ``slot_unavailable``, for ``use_signer`` without the policy.
    """

    def __init__(
        self, door: Egetkey, *, allow_signer: bool, use_signer: bool = False
    ) -> None:
        if use_signer and not allow_signer:
            raise unavailable(SlotClass.SGX, SIGNER_REFUSED)
        self._door = door
        self._policy = SgxPolicy.MRSIGNER if use_signer else SgxPolicy.MRENCLAVE
        allowed = {SgxPolicy.MRENCLAVE}
        self._policies = frozenset(
            allowed | {SgxPolicy.MRSIGNER} if allow_signer else allowed
        )

    @property
    def slot_class(self) -> SlotClass:
        """``sgx``."""
        return SlotClass.SGX

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        """Parameters and key of a new slot, at the present security versions.

        Raises:
            KeyReleaseError: ``slot_unavailable``.
        """
        place = Place(self.slot_class, keyring_id=keyring_id, slot_id=slot_id)
        try:
            request = self._present(os.urandom(KEY_ID_BYTES), self._policy)
            material = self._ask(request)
        except PlatformError as e:
            raise unavailable(self.slot_class, e.detail) from e
        public: dict[str, Value] = {"form": FORM, "request": request.pack()}
        return sealed(material, public, place)

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        """The key again, also after security versions rose.

        Raises:
            KeyReleaseError: ``slot_unavailable``, with EGETKEY's status.
        """
        place = Place(self.slot_class, keyring_id=keyring_id, slot_id=slot_id)
        request = self._stored(parameters)
        try:
            # A debug enclave would get another key; it is refused before it asks.
            self._own()
            material = self._ask(request)
        except PlatformError as e:
            raise unavailable(self.slot_class, e.detail) from e
        return unsealed(material, parameters, place, causes=_OTHER)

    def rewrap(self, parameters: Mapping[str, Value]) -> str | None:
        """Why the slot should be made anew, or ``None``.

        Raises:
            KeyReleaseError: ``slot_unavailable``.
        """
        stored = self._stored(parameters)
        try:
            # A slot that was made for the signer on purpose stays that.
            present = self._present(stored.key_id, stored.policy)
        except PlatformError as e:
            raise unavailable(self.slot_class, e.detail) from e
        if stored.pack() == present.pack():
            return None
        before = f"{stored.cpu_svn.hex()}/{stored.isv_svn}/{stored.config_svn}"
        now = f"{present.cpu_svn.hex()}/{present.isv_svn}/{present.config_svn}"
        return (
            f"made with KEYPOLICY {stored.policy:#x} at CPUSVN/ISVSVN/CONFIGSVN"
            f" {before}; now {present.policy:#x} at {now}"
        )

    def for_signer(self) -> SgxSlot:
        """The same, making new slots for the signer.

        Raises:
            KeyReleaseError: ``slot_unavailable``, without the policy.
        """
        allowed = SgxPolicy.MRSIGNER in self._policies
        return SgxSlot(self._door, allow_signer=allowed, use_signer=True)

    def _stored(self, parameters: Mapping[str, Value]) -> SealRequest:
        values = Parameters(self.slot_class, parameters, ("request",))
        data = values.octets("request", KEY_REQUEST_BYTES)
        signers = key_policy(data) == SgxPolicy.MRSIGNER
        if signers and SgxPolicy.MRSIGNER not in self._policies:
            raise values.refused(SIGNER_REFUSED)
        try:
            return read_seal_request(data, policies=self._policies)
        except PlatformError as e:
            raise unavailable(self.slot_class, e.detail) from e

    def _own(self) -> OwnEnclave:
        return read_own_enclave(self._door.own_report())

    def _present(self, key_id: bytes, policy: int) -> SealRequest:
        own = self._own()
        return SealRequest(policy, own.isv_svn, own.cpu_svn, key_id, own.config_svn)

    def _ask(self, request: SealRequest) -> Secret:
        status, key = self._door.egetkey(request.pack())
        if status:
            answer = STATUSES.get(status, f"status {status:#x}")
            raise PlatformError(Code.PLATFORM_FAILED, f"EGETKEY: {answer}")
        return key
