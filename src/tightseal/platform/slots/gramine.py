# SPDX-License-Identifier: Apache-2.0
"""Slot ``gramine``: the sealing key that Gramine hands to this enclave.

Gramine asks EGETKEY for the present security versions, with KEYID zero and the masks of
the manifest, and remembers none of it (``sgx_get_seal_key``). So this slot ends with a
microcode update, another build, another ISVSVN or other masks; it wraps only, and the
keyring's other slots open then. What the slot was made with is stored beside it, to say
which of these it was.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from tightseal.errors import Code, PlatformError
from tightseal.model.canonical import Value
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.platform.files import OS_FILES, FileOps, Retry, Sleep, read_whole
from tightseal.platform.gramine import SEALING_KEY_BYTES, GraminePlatform
from tightseal.platform.selfview import SGX_REPORT_BYTES
from tightseal.platform.slots.derive import Place, sealed, unavailable, unsealed
from tightseal.platform.slots.enclave import (
    BODY_FORMAT,
    OwnEnclave,
    read_own_enclave,
)
from tightseal.platform.slots.parameters import FORM, Parameters

__all__ = ["GramineKeys", "GramineSlot", "SealingKeys"]

SIGNER_KEY_FILE: Final = "keys/_sgx_mrsigner"
REPORT_FILE: Final = "report"

_ENCLAVE: Final = "mrenclave"
_SIGNER: Final = "mrsigner"
_UNSEEN: Final = (
    "the seal masks of the manifest, the owner epoch of the BIOS or the CPU changed"
)


class SealingKeys(Protocol):
    """The sealing keys of one enclave; every call may raise ``PlatformError``."""

    def own_enclave(self) -> OwnEnclave:
        """What this enclave is now."""
        ...

    def sealing_key(self) -> Secret:
        """EGETKEY(SEAL, MRENCLAVE), 16 bytes."""
        ...

    def signer_key(self) -> Secret:
        """EGETKEY(SEAL, MRSIGNER), 16 bytes."""
        ...


class GramineKeys:
    """Gramine's sealing keys, from its attestation tree.

    Args:
        root: the tree; a host setting.
        files: the file operations.
        sleep: waits between retries.
        retry: bounds of the retries.
    """

    def __init__(
        self,
        root: Path = Path("/dev/attestation"),
        *,
        files: FileOps = OS_FILES,
        sleep: Sleep = time.sleep,
        retry: Retry | None = None,
    ) -> None:
        self._root = root
        self._files = files
        self._sleep = sleep
        self._retry = retry or Retry()
        self._platform = GraminePlatform(root, files=files, sleep=sleep, retry=retry)

    def own_enclave(self) -> OwnEnclave:
        """What this enclave is now, by a local report.

        Raises:
            PlatformError: as ``GraminePlatform.start``.
        """
        self._platform.start()
        # Any report data will do, so a second reader of the tree does no harm.
        return read_own_enclave(self._read(REPORT_FILE, SGX_REPORT_BYTES))

    def sealing_key(self) -> Secret:
        """The key bound to this very enclave, 16 bytes.

        Raises:
            PlatformError: as ``GraminePlatform.sealing_key``.
        """
        return self._platform.sealing_key()

    def signer_key(self) -> Secret:
        """The key that every enclave of our signer and product id can have, 16 bytes.

        Raises:
            PlatformError: ``sealing_key_unavailable``, or as ``GraminePlatform.start``.
        """
        self._platform.start()
        key = self._read(SIGNER_KEY_FILE, SEALING_KEY_BYTES + 1)
        if len(key) != SEALING_KEY_BYTES or not any(key):
            detail = f"{SIGNER_KEY_FILE}: {len(key)} bytes or zero, expected 16"
            raise PlatformError(Code.SEALING_KEY_UNAVAILABLE, detail)
        return Secret(key)

    def _read(self, name: str, max_bytes: int) -> bytes:
        path = str(self._root / name)

        def step() -> bytes:
            return read_whole(self._files, path, max_bytes=max_bytes)

        try:
            return self._retry.run(step, sleep=self._sleep)
        except OSError as e:
            number = errno.errorcode.get(e.errno or 0, str(e.errno))
            detail = f"{name}: {number}: is this Gramine on SGX"
            raise PlatformError(Code.SEALING_KEY_UNAVAILABLE, detail) from e


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
        policy, _ = self._read(parameters)
        if policy == _SIGNER and self._policy == _ENCLAVE:
            return "the slot belongs to the signer; new ones to this enclave"
        return None

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
            why = "it belongs to the signer, and the signed policy does not allow that"
            raise unavailable(self.slot_class, why)

    def _ask(self, policy: str) -> Secret:
        return (
            self._keys.signer_key() if policy == _SIGNER else self._keys.sealing_key()
        )
