# SPDX-License-Identifier: Apache-2.0
"""Slot ``snp``: what keeps its key and what takes it away, down to MSG_KEY_REQ."""

import errno
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slot_rig import IDS, changed, corrupted, made, refused

from tightseal.errors import Code, KeyReleaseError, PlatformError
from tightseal.platform.sev_guest import (
    REQUIRED_FIELDS,
    DerivedKey,
    GuestField,
    RootKey,
)
from tightseal.platform.slots.snp import SLOT_FIELDS, SevGuestKeys, SnpSlot
from tightseal_sim.amd.chip import SimChip
from tightseal_sim.amd.firmware import SimSevDevice, decode_tcb
from tightseal_sim.amd.generations import GENERATIONS, encode_tcb
from tightseal_sim.amd.guest import GuestImage
from tightseal_sim.amd.world import AmdWorld

WORLD = AmdWorld(None, bytes(range(32)), rsa_bits=2048)
IMAGE = GuestImage(kernel=b"provider", guest_svn=3)
ID_BLOCK = GuestField.IMAGE_ID | GuestField.FAMILY_ID


def chip(name: str = "host", product: str = "Milan") -> SimChip:
    """A chip in its first state; the chips of one name share their secrets."""
    line = next(g for g in GENERATIONS if g.product == product)
    return SimChip(WORLD, name, line)


def keys_of(host: SimChip, image: GuestImage = IMAGE) -> SevGuestKeys:
    guest = host.launch(image)
    device = SimSevDevice(guest)
    return SevGuestKeys(guest, ioctl=device.ioctl, files=device)


def slot_of(host: SimChip, image: GuestImage = IMAGE) -> SnpSlot:
    return SnpSlot(keys_of(host, image), vmpl=image.vmpl)


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_opens_after_a_restart(product: str) -> None:
    host = chip(product=product)
    parameters, key = made(slot_of(host))
    assert slot_of(host).open(parameters, **IDS) == key
    assert slot_of(host).rewrap(parameters) is None
    assert parameters["fields"] == int(SLOT_FIELDS)
    assert parameters["tcb_version"] == encode_tcb(host.tcb)


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda g: g.product)
def test_the_simulated_device_reads_a_tcb_back(generation: object) -> None:
    tcb = getattr(generation, "tcb")  # noqa: B009
    assert decode_tcb(encode_tcb(tcb), turin=tcb.fmc is not None) == tcb


def test_a_firmware_update_leaves_the_key_and_asks_to_rewrap() -> None:
    host = chip()
    before = encode_tcb(host.tcb).hex()
    parameters, key = made(slot_of(host))
    host.firmware_update()
    slot = slot_of(host)
    assert slot.open(parameters, **IDS) == key
    reason = str(slot.rewrap(parameters))
    assert before in reason
    assert encode_tcb(host.tcb).hex() in reason
    anew, other = made(slot)
    assert other != key
    assert slot.rewrap(anew) is None


def test_older_firmware_is_never_asked_for_a_newer_key() -> None:
    host = chip()
    host.firmware_update()
    parameters, _ = made(slot_of(host))
    guest = chip().launch(IMAGE)
    device = SimSevDevice(guest)
    keys = SevGuestKeys(guest, ioctl=device.ioctl, files=device)
    refused(SnpSlot(keys), parameters, "TCB version above the committed TCB")
    assert device.requests == []


def test_a_higher_guest_svn_opens_and_asks_to_rewrap() -> None:
    host = chip()
    parameters, key = made(slot_of(host))
    newer = slot_of(host, replace(IMAGE, guest_svn=4))
    assert newer.open(parameters, **IDS) == key
    assert "guest SVN 3" in str(newer.rewrap(parameters))
    older = slot_of(host, replace(IMAGE, guest_svn=2))
    refused(older, parameters, "guest SVN 3, launched with 2")


def test_another_image_ends_it_and_is_named() -> None:
    host = chip()
    parameters, _ = made(slot_of(host))
    other = replace(IMAGE, kernel=b"something else")
    refused(slot_of(host, other), parameters, "measurement was ")


def test_another_policy_ends_it() -> None:
    host = chip()
    parameters, _ = made(slot_of(host))
    other = replace(IMAGE, policy=IMAGE.policy | 1 << 16 | 1)
    refused(slot_of(host, other), parameters, "guest policy")


def test_another_chip_ends_it() -> None:
    parameters, _ = made(slot_of(chip()))
    refused(slot_of(chip("other")), parameters, "another chip")


def test_another_vmpl_ends_it() -> None:
    host = chip()
    parameters, _ = made(slot_of(host))
    refused(slot_of(host, replace(IMAGE, vmpl=1)), parameters, "VMPL")


def test_the_vmpl_of_the_settings_must_be_the_guests() -> None:
    with pytest.raises(KeyReleaseError, match="our report is at VMPL 0"):
        SnpSlot(keys_of(chip()), vmpl=1).create(**IDS)


def test_a_guest_that_the_host_may_read_neither_makes_nor_opens() -> None:
    host = chip()
    parameters, _ = made(slot_of(host))
    watched = slot_of(host, replace(IMAGE, policy=IMAGE.policy | 1 << 19))
    refused(watched, parameters, "debug")
    with pytest.raises(KeyReleaseError, match="debug"):
        watched.create(**IDS)


@pytest.mark.parametrize(
    "fields",
    [
        GuestField(0),
        GuestField.MEASUREMENT,
        GuestField.POLICY,
        ID_BLOCK | GuestField.POLICY,
        GuestField.TCB_VERSION | GuestField.MEASUREMENT,
    ],
)
def test_fewer_fields_than_measurement_and_policy(fields: GuestField) -> None:
    keys = keys_of(chip())
    with pytest.raises(KeyReleaseError, match="at least 0x9 must"):
        SnpSlot(keys, fields=fields)
    slot = SnpSlot(keys)
    parameters, _ = made(slot)
    weaker = changed(parameters, fields=int(fields), guest_svn=0, tcb_version=bytes(8))
    refused(slot, weaker, "at least 0x9 must")


def test_what_the_caller_demands_holds_for_stored_slots_too() -> None:
    keys = keys_of(chip())
    parameters, _ = made(SnpSlot(keys))
    stricter = SnpSlot(keys, fields=SLOT_FIELDS | ID_BLOCK, minimum=ID_BLOCK)
    refused(stricter, parameters, "at least 0xf must")
    parameters, key = made(stricter)
    assert stricter.open(parameters, **IDS) == key


def test_a_slot_of_fewer_fields_opens_and_asks_to_rewrap() -> None:
    keys = keys_of(chip())
    parameters, key = made(SnpSlot(keys, fields=REQUIRED_FIELDS))
    assert (parameters["guest_svn"], parameters["tcb_version"]) == (0, bytes(8))
    now = SnpSlot(keys)
    assert now.open(parameters, **IDS) == key
    assert "fields 0x9" in str(now.rewrap(parameters))


def test_values_of_fields_that_are_not_selected() -> None:
    slot = SnpSlot(keys_of(chip()), fields=REQUIRED_FIELDS)
    parameters, _ = made(slot)
    refused(slot, changed(parameters, guest_svn=1), "its field is not selected")


def test_a_stored_tcb_can_be_lowered_and_leads_nowhere() -> None:
    slot = slot_of(chip())
    parameters, _ = made(slot)
    refused(slot, changed(parameters, tcb_version=bytes(8)), "another one")


def test_after_a_request_that_failed_no_other_key_is_asked_for() -> None:
    guest = chip().launch(IMAGE)
    device = SimSevDevice(guest)
    sent: list[int] = []

    def broken(_fd: int, number: int, _argument: bytearray) -> int:
        sent.append(number)
        raise OSError(errno.EIO, "no")

    keys = SevGuestKeys(guest, ioctl=broken, files=device)
    with pytest.raises(PlatformError, match="EIO"):
        keys.derive(DerivedKey())
    with pytest.raises(PlatformError, match="not asked again"):
        keys.derive(DerivedKey(fields=SLOT_FIELDS))
    assert len(sent) == 1


def test_a_device_that_does_not_open_may_be_tried_again() -> None:
    guest = chip().launch(IMAGE)

    class Closed(SimSevDevice):
        closed = True

        def open(self, path: str, flags: int) -> int:
            if self.closed:
                raise OSError(errno.EACCES, "no")
            return super().open(path, flags)

    device = Closed(guest)
    slot = SnpSlot(SevGuestKeys(guest, ioctl=device.ioctl, files=device))
    with pytest.raises(KeyReleaseError, match="EACCES"):
        slot.create(**IDS)
    device.closed = False
    parameters, key = made(slot)
    assert slot.open(parameters, **IDS) == key


def test_the_simulated_firmware_never_forgives() -> None:
    keys = keys_of(chip())
    with pytest.raises(PlatformError, match="EIO"):
        keys.derive(DerivedKey(root_key=RootKey.VMRK))
    guest = chip().launch(IMAGE)
    device = SimSevDevice(guest)
    for root, words in ((RootKey.VMRK, "EIO"), (RootKey.VCEK, "ENOTTY")):
        anew = SevGuestKeys(guest, ioctl=device.ioctl, files=device)
        with pytest.raises(PlatformError, match=words):
            anew.derive(DerivedKey(root_key=root))


SLOT_OF_PROPERTY = slot_of(chip())
PARAMETERS, _ = made(SLOT_OF_PROPERTY)


@given(data=st.data())
def test_no_corrupted_parameters_open(data: st.DataObject) -> None:
    parameters = data.draw(corrupted(PARAMETERS))
    with pytest.raises(KeyReleaseError) as caught:
        SLOT_OF_PROPERTY.open(parameters, **IDS)
    assert caught.value.code is Code.SLOT_UNAVAILABLE
