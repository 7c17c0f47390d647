# SPDX-License-Identifier: Apache-2.0
"""Slots that belong to the signer of the enclave, not to this enclave alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

from tightseal.model.canonical import Value
from tightseal.model.slots import SlotClass, SlotKey
from tightseal.platform.slots.derive import unavailable
from tightseal.platform.slots.keyrequest import (
    KEY_REQUEST_BYTES,
    SgxPolicy,
    key_policy,
)

__all__ = ["belongs_to_signer", "for_signer"]

_SIGNER: Final = "mrsigner"


@runtime_checkable
class _MakesSigners(Protocol):
    def for_signer(self) -> SlotKey: ...


def for_signer(slot_key: SlotKey) -> SlotKey:
    """What makes slots of this class for the signer.

    Raises:
        KeyReleaseError: ``slot_unavailable``, where the class knows no signer, or the
            release settings do not allow it.
    """
    if not isinstance(slot_key, _MakesSigners):
        slot_class = SlotClass(slot_key.slot_class)
        raise unavailable(slot_class, "only gramine and sgx have keys of the signer")
    return slot_key.for_signer()


def belongs_to_signer(
    factors: Sequence[SlotClass], parameters: Mapping[str, Value]
) -> bool:
    """Whether stored parameters, those of a slot, name a key of the signer.

    For a keyring that is open they are what was written; else they prove nothing.
    """
    for factor in factors:
        own = parameters if len(factors) == 1 else parameters.get(factor.value)
        if isinstance(own, Mapping) and _signers(factor, own):
            return True
    return False


def _signers(factor: SlotClass, parameters: Mapping[str, Value]) -> bool:
    if factor is SlotClass.GRAMINE:
        return parameters.get("policy") == _SIGNER
    request = parameters.get("request")
    if factor is not SlotClass.SGX or not isinstance(request, bytes):
        return False
    whole = len(request) == KEY_REQUEST_BYTES
    return whole and key_policy(request) == SgxPolicy.MRSIGNER
