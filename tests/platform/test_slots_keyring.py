# SPDX-License-Identifier: Apache-2.0
"""Slots in a keyring: a microcode update costs one slot, and no key."""

import pytest
from slot_rig import enclave, machine

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring.change import new_keyring
from tightseal.keys.keyring.change_slots import rewrap_slot
from tightseal.keys.keyring.open import open_keyring
from tightseal.keys.keyring.probe import probe_slots
from tightseal.keys.keyring.terms import Terms
from tightseal.model.slots import SlotClass, SlotKey
from tightseal.platform.slots.combined import CombinedSlot
from tightseal.platform.slots.tpm2 import Tpm2Slot
from tightseal_sim.intel.platform import SimPlatform
from tightseal_sim.tpm import SimTpm

TERMS = Terms(trust_domain="simulated:" + "ab" * 48, policy_root=None, policy_version=0)


def ways(host: SimPlatform, tpm: SimTpm) -> list[SlotKey]:
    """``gramine``, ``sgx``, and ``sgx`` with all PCRs of a TPM."""
    own = enclave(host).slots(allow_signer=False)
    sgx = own[SlotClass.SGX]
    both = CombinedSlot([Tpm2Slot(tpm.open, pcrs=range(24)), sgx])
    return [own[SlotClass.GRAMINE], sgx, both]


def keyring_of(host: SimPlatform, tpm: SimTpm) -> bytes:
    made = new_keyring(
        ways(host, tpm),
        trust_domain=TERMS.trust_domain,
        policy_root=None,
        minimum_policy_version=0,
        slot_classes=tuple(SlotClass),
        now=1,
    )
    return made.seal()


def test_a_microcode_update_costs_one_slot_and_no_key() -> None:
    host, tpm = machine(), SimTpm(bytes(32))
    data = keyring_of(host, tpm)
    before = open_keyring(data, terms=TERMS, slot_keys=ways(host, tpm), anchor=None)
    assert before.slot is not None
    assert before.slot.slot_class is SlotClass.GRAMINE
    assert before.rewrap == ""
    host.microcode_update()
    after = open_keyring(data, terms=TERMS, slot_keys=ways(host, tpm), anchor=None)
    assert after.slot is not None
    assert after.slot.factors == (SlotClass.SGX,)
    assert host.cpusvn.hex() in after.rewrap
    assert "cpu_svn was" in after.closed[0].refusal
    anew = rewrap_slot(after.keyring, after.slot.slot_id, ways(host, tpm)[1], now=2)
    refusals = [bool(p.refusal) for p in probe_slots(anew, ways(host, tpm))]
    assert refusals == [True, False, False]
    again = open_keyring(
        anew.seal(), terms=TERMS, slot_keys=ways(host, tpm), anchor=None
    )
    assert again.rewrap == ""
    assert again.keyring.key == before.keyring.key


def test_both_factors_are_needed() -> None:
    host, tpm = machine(), SimTpm(bytes(32))
    data = keyring_of(host, tpm)
    both = ways(host, tpm)[2:]
    assert open_keyring(data, terms=TERMS, slot_keys=both, anchor=None).slot
    tpm.extend(7, bytes(32))
    with pytest.raises(KeyReleaseError, match="PCR 7 was") as caught:
        open_keyring(data, terms=TERMS, slot_keys=both, anchor=None)
    assert caught.value.code is Code.SLOT_UNAVAILABLE


def test_on_another_machine_each_slot_says_why() -> None:
    data = keyring_of(machine(), SimTpm(bytes(32)))
    strange = ways(machine("other"), SimTpm(b"o" * 32))
    with pytest.raises(KeyReleaseError) as caught:
        open_keyring(data, terms=TERMS, slot_keys=strange, anchor=None)
    assert caught.value.code is Code.SLOT_UNAVAILABLE
    assert "slot gramine: the key is another one" in caught.value.detail
    assert "slot sgx: the key is another one" in caught.value.detail
