# SPDX-License-Identifier: Apache-2.0
"""A simulated enclave as keyring slots see it: Gramine's keys and the instructions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass, SlotKey
from tightseal.platform.slots.enclave import OwnEnclave, read_own_enclave
from tightseal.platform.slots.gramine import GramineSlot
from tightseal.platform.slots.sgx import SgxSlot
from tightseal_sim.intel.egetkey import EgetkeyError, SgxStatus
from tightseal_sim.intel.enclave import (
    GRAMINE_FLAGS_MASK,
    GRAMINE_MISC_MASK,
    GRAMINE_XFRM_MASK,
    REPORT_DATA_BYTES,
    SimEnclave,
)
from tightseal_sim.intel.structures import KeyPolicy, KeyRequest

__all__ = ["SimEnclaveKeys", "enclave_slots"]

STATUSES: Final = {
    SgxStatus.INVALID_ATTRIBUTE: 1 << 1,
    SgxStatus.INVALID_CPUSVN: 1 << 5,
    SgxStatus.INVALID_ISVSVN: 1 << 6,
    SgxStatus.INVALID_KEYNAME: 1 << 8,
}
"""EGETKEY's answers; other faults are no answers, and raise."""


class SimEnclaveKeys:
    """Both doors of one enclave: ``SealingKeys`` and ``Egetkey``.

    Args:
        enclave: the enclave.
        flags_mask, xfrm_mask, misc_mask: ``sgx.seal_key`` of the manifest; only
            Gramine's own keys follow them.
    """

    def __init__(
        self,
        enclave: SimEnclave,
        *,
        flags_mask: int = GRAMINE_FLAGS_MASK,
        xfrm_mask: int = GRAMINE_XFRM_MASK,
        misc_mask: int = GRAMINE_MISC_MASK,
    ) -> None:
        self.enclave = enclave
        self._flags_mask = flags_mask
        self._xfrm_mask = xfrm_mask
        self._misc_mask = misc_mask

    def own_report(self) -> bytes:
        """EREPORT for ourselves over zero report data, 432 bytes."""
        target = self.enclave.target_info()
        return self.enclave.ereport(target, bytes(REPORT_DATA_BYTES)).pack()

    def own_enclave(self) -> OwnEnclave:
        """What the enclave is now.

        Raises:
            PlatformError: ``provider_debug``.
        """
        return read_own_enclave(self.own_report())

    def egetkey(self, request: bytes) -> tuple[int, Secret]:
        """EGETKEY of 512 bytes of KEYREQUEST.

        Raises:
            EgetkeyError: where the instruction faults.
        """
        try:
            return 0, Secret(self.enclave.egetkey(KeyRequest.unpack(request)))
        except EgetkeyError as e:
            if e.status not in STATUSES:
                raise
            return STATUSES[e.status], Secret(bytes(16))

    def sealing_key(self) -> Secret:
        """Gramine's ``_sgx_mrenclave``, 16 bytes."""
        return self._gramine(KeyPolicy.MRENCLAVE)

    def signer_key(self) -> Secret:
        """Gramine's ``_sgx_mrsigner``, 16 bytes."""
        return self._gramine(KeyPolicy.MRSIGNER)

    def _gramine(self, policy: KeyPolicy) -> Secret:
        request = replace(
            self.enclave.sealing_request(policy),
            flags_mask=self._flags_mask,
            xfrm_mask=self._xfrm_mask,
            misc_mask=self._misc_mask,
        )
        return Secret(self.enclave.egetkey(request))


def enclave_slots(
    enclave: SimEnclave, *, allow_signer: bool
) -> Mapping[SlotClass, SlotKey]:
    """The slots that an enclave can open by itself, by class."""
    keys = SimEnclaveKeys(enclave)
    return {
        SlotClass.GRAMINE: GramineSlot(keys, allow_signer=allow_signer),
        SlotClass.SGX: SgxSlot(keys, allow_signer=allow_signer),
    }
