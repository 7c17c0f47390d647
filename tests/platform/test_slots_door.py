# SPDX-License-Identifier: Apache-2.0
"""Which slots a platform can open by itself."""

from pathlib import Path

import pytest
from slot_rig import IDS, enclave, machine, made

from tightseal.errors import Code, KeyReleaseError, SettingsError
from tightseal.model.ports import RootPlatform
from tightseal.model.slots import SlotClass
from tightseal.platform.door import open_platform
from tightseal.platform.slots.door import platform_slots
from tightseal_sim.amd.guest import GuestImage
from tightseal_sim.amd.world import AmdWorld
from tightseal_sim.intel.td import TdImage


def hardware(kind: str, tmp_path: Path, **options: object) -> set[SlotClass]:
    given = {"root": str(tmp_path), **options}
    opened = open_platform(kind, given)
    return set(platform_slots(kind, opened, given, allow_signer=False))


def test_slots_of_each_platform(tmp_path: Path) -> None:
    both = {SlotClass.GRAMINE, SlotClass.SGX}
    assert hardware("gramine", tmp_path) == both
    assert hardware("sev-guest", tmp_path, vmpl="1") == {SlotClass.SNP}
    assert hardware("configfs-tsm", tmp_path) == set()


def test_listed_slots_say_why_they_do_not_open(tmp_path: Path) -> None:
    options = {"root": str(tmp_path)}
    for kind in ("gramine", "sev-guest"):
        opened = open_platform(kind, options)
        missing = tmp_path / "shim.so"
        slots = platform_slots(kind, opened, options, allow_signer=False, shim=missing)
        for slot in slots.values():
            with pytest.raises(KeyReleaseError) as caught:
                slot.create(**IDS)
            assert caught.value.code is Code.SLOT_UNAVAILABLE


def test_a_vmpl_that_is_no_number(tmp_path: Path) -> None:
    opened = open_platform("sev-guest", {"root": str(tmp_path)})
    with pytest.raises(SettingsError, match="vmpl"):
        platform_slots("sev-guest", opened, {"vmpl": "high"}, allow_signer=False)


def simulated() -> dict[str, RootPlatform]:
    amd = AmdWorld(None, bytes(range(32)), rsa_bits=2048)
    return {
        "enclave": enclave(machine()),
        "guest": amd.chip("host", "Milan").launch(GuestImage(kernel=b"provider")),
        "td": machine().launch_td(TdImage()),
    }


def test_slots_of_the_simulated_world() -> None:
    found = {
        name: platform_slots("sim", platform, allow_signer=True)
        for name, platform in simulated().items()
    }
    assert {name: set(slots) for name, slots in found.items()} == {
        "enclave": {SlotClass.GRAMINE, SlotClass.SGX},
        "guest": {SlotClass.SNP},
        "td": set(),
    }
    again = simulated()
    for name, slots in found.items():
        for slot_class, slot in slots.items():
            parameters, key = made(slot)
            after = platform_slots("sim", again[name], allow_signer=False)
            assert after[slot_class].open(parameters, **IDS) == key
            assert after[slot_class].slot_class is slot_class
