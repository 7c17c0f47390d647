# SPDX-License-Identifier: Apache-2.0
"""Slot ``gramine``: what keeps its key and what takes it away."""

import errno
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from platform_fakes import GramineTree
from slot_rig import (
    IDS,
    PROVIDER,
    changed,
    corrupted,
    enclave,
    machine,
    made,
    refused,
)

from tightseal.errors import Code, KeyReleaseError, PlatformError, ServiceError
from tightseal.platform.gramine import GraminePlatform
from tightseal.platform.slots.gramine import GramineSlot
from tightseal_sim.intel.egetkey import KEY_BYTES
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.platform import SimPlatform
from tightseal_sim.intel.slots import SimEnclaveKeys


def slot_of(
    platform: SimPlatform, image: EnclaveImage = PROVIDER, *, signer: bool = False
) -> GramineSlot:
    keys = SimEnclaveKeys(enclave(platform, image))
    return GramineSlot(keys, allow_signer=signer, use_signer=signer)


def test_opens_after_a_restart() -> None:
    host = machine()
    parameters, key = made(slot_of(host))
    assert slot_of(host).open(parameters, **IDS) == key
    assert slot_of(host).rewrap(parameters) is None


def test_the_key_is_not_gramines_own() -> None:
    host = machine()
    _, key = made(slot_of(host))
    assert key.reveal()[:KEY_BYTES] != enclave(host).sealing_key().reveal()


def test_keyring_and_slot_enter_the_key() -> None:
    host = machine()
    slot = slot_of(host)
    parameters, key = made(slot)
    for ids in (
        {**IDS, "keyring_id": bytes(32)},
        {**IDS, "slot_id": bytes(16)},
    ):
        with pytest.raises(KeyReleaseError, match="another one"):
            slot.open(parameters, **ids)
        _, other = slot.create(**ids)
        assert other != key


@pytest.mark.parametrize("ids", [{"keyring_id": b"x"}, {"slot_id": bytes(32)}])
def test_ids_of_other_lengths_are_a_bug(ids: dict[str, bytes]) -> None:
    with pytest.raises(ServiceError) as caught:
        slot_of(machine()).create(**{**IDS, **ids})
    assert caught.value.code is Code.INTERNAL


def test_a_microcode_update_ends_it_and_is_named() -> None:
    host = machine()
    parameters, _ = made(slot_of(host))
    host.microcode_update()
    refused(slot_of(host), parameters, "cpu_svn was ")


def test_a_rebuild_ends_it_and_is_named() -> None:
    host = machine()
    parameters, _ = made(slot_of(host))
    rebuilt = replace(PROVIDER, code=b"release 2")
    refused(slot_of(host, rebuilt), parameters, "mr_enclave was ")


def test_other_masks_end_it_and_are_named() -> None:
    host = machine()
    parameters, _ = made(slot_of(host))
    keys = SimEnclaveKeys(enclave(host), xfrm_mask=0)
    refused(GramineSlot(keys, allow_signer=False), parameters, "the seal masks")


def test_another_machine_ends_it() -> None:
    parameters, _ = made(slot_of(machine()))
    refused(slot_of(machine("other")), parameters, "the CPU changed")


def test_the_signers_slot_opens_after_a_rebuild_by_the_same_signer() -> None:
    host = machine()
    parameters, key = made(slot_of(host, signer=True))
    rebuilt = replace(PROVIDER, code=b"release 2")
    assert slot_of(host, rebuilt, signer=True).open(parameters, **IDS) == key


def test_the_signers_slot_stays_closed_to_another_signer() -> None:
    host = machine()
    parameters, _ = made(slot_of(host, signer=True))
    stolen = replace(PROVIDER, code=b"release 2", signer="somebody else")
    refused(slot_of(host, stolen, signer=True), parameters, "mr_signer was ")


def test_the_signers_slot_stays_closed_to_another_product() -> None:
    host = machine()
    parameters, _ = made(slot_of(host, signer=True))
    other = replace(PROVIDER, isv_prod_id=8)
    refused(slot_of(host, other, signer=True), parameters, "isv_prod_id was 0x7")


def test_the_signer_needs_the_policy_when_made_and_when_opened() -> None:
    host = machine()
    keys = SimEnclaveKeys(enclave(host))
    for forbidden in (
        lambda: GramineSlot(keys, allow_signer=False, use_signer=True),
        lambda: GramineSlot(keys, allow_signer=False).for_signer(),
    ):
        with pytest.raises(KeyReleaseError, match=r"release.slot_signer is not"):
            forbidden()
    parameters, _ = made(slot_of(host, signer=True))
    refused(slot_of(host), parameters, "release.slot_signer is not")


def test_a_slot_cannot_be_turned_into_the_signers() -> None:
    host = machine()
    parameters, _ = made(slot_of(host))
    weaker = changed(parameters, policy="mrsigner")
    refused(slot_of(host), weaker, "release.slot_signer is not")
    refused(slot_of(host, signer=True), weaker, "another one")


def test_a_slot_that_was_made_for_the_signer_stays_that() -> None:
    host = machine()
    allowed = GramineSlot(SimEnclaveKeys(enclave(host)), allow_signer=True)
    parameters, key = made(allowed.for_signer())
    assert parameters["policy"] == "mrsigner"
    assert allowed.open(parameters, **IDS) == key
    assert allowed.rewrap(parameters) is None
    own, _ = made(allowed)
    assert own["policy"] == "mrenclave"


def test_a_debug_enclave_neither_makes_nor_opens() -> None:
    host = machine()
    parameters, _ = made(slot_of(host))
    watched = slot_of(host, replace(PROVIDER, debug=True))
    refused(watched, parameters, "debug")
    with pytest.raises(KeyReleaseError, match="debug"):
        watched.create(**IDS)


def test_a_slot_that_says_it_was_made_by_a_debug_enclave() -> None:
    slot = slot_of(machine())
    parameters, _ = made(slot)
    body = bytearray(parameters["made_by"])  # type: ignore[arg-type]
    body[48] |= 2
    refused(slot, changed(parameters, made_by=bytes(body)), "made_by: our own sgx")


@given(data=st.data())
def test_no_corrupted_parameters_open(data: st.DataObject) -> None:
    parameters = data.draw(corrupted(PARAMETERS))
    with pytest.raises(KeyReleaseError) as caught:
        SLOT_OF_PROPERTY.open(parameters, **IDS)
    assert caught.value.code is Code.SLOT_UNAVAILABLE


SLOT_OF_PROPERTY = slot_of(machine(), signer=True)
PARAMETERS, _ = made(SLOT_OF_PROPERTY)


def keys_of(tree: GramineTree) -> GraminePlatform:
    return GraminePlatform(files=tree, sleep=lambda _: None)


def test_from_gramines_own_files() -> None:
    tree = GramineTree()
    tree.keys["_sgx_mrsigner"] = bytes(range(40, 56))
    mine = GramineSlot(keys_of(tree), allow_signer=True)
    signers = GramineSlot(keys_of(tree), allow_signer=True, use_signer=True)
    for slot in (mine, signers):
        parameters, key = made(slot)
        again = GramineSlot(keys_of(tree), allow_signer=True)
        assert again.open(parameters, **IDS) == key
    tree.keys["_sgx_mrenclave"] = bytes(range(2, 18))
    parameters, _ = made(mine)
    tree.keys["_sgx_mrenclave"] = bytes(range(3, 19))
    refused(mine, parameters, "the seal masks")


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(range(15)), bytes(range(1, 18))])
def test_a_signer_key_that_is_none(key: bytes) -> None:
    tree = GramineTree()
    tree.keys["_sgx_mrsigner"] = key
    with pytest.raises(PlatformError) as caught:
        keys_of(tree).signer_key()
    assert caught.value.code in (Code.SEALING_KEY_UNAVAILABLE, Code.PLATFORM_FAILED)


def test_gramine_without_the_files() -> None:
    tree = GramineTree()
    slot = GramineSlot(keys_of(tree), allow_signer=True, use_signer=True)
    with pytest.raises(KeyReleaseError, match="_sgx_mrsigner: ENOENT"):
        slot.create(**IDS)
    tree.faults[("open", "report")] = [errno.EACCES]
    with pytest.raises(KeyReleaseError, match="report: EACCES"):
        slot.create(**IDS)
    tree.missing.add("attestation_type")
    with pytest.raises(KeyReleaseError, match="gramine-direct") as caught:
        GramineSlot(keys_of(tree), allow_signer=False).create(**IDS)
    assert caught.value.code is Code.SLOT_UNAVAILABLE
