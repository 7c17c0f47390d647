# SPDX-License-Identifier: Apache-2.0
"""The simulated AMD world: the same for every process, and keys by AMD's rules."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import Code, PlatformError, SettingsError
from tightseal.evidence.roots import simulated_root
from tightseal.evidence.snp.verifier import verify_report
from tightseal.model.claims import SnpTcb
from tightseal.model.ports import RootPlatform
from tightseal_sim.amd import (
    AmdWorld,
    DerivedKeyRequest,
    FieldSelect,
    GuestImage,
    SimGuest,
)
from tightseal_sim.amd.generations import GENERATIONS
from tightseal_sim.amd.guest import RootKey

SEED = bytes(range(32))
ALL = FieldSelect(0b111111)
IMAGE = GuestImage(
    b"kernel", family_id=b"f" * 16, image_id=b"i" * 16, guest_svn=3, vmpl=1
)


@pytest.fixture(scope="module")
def guest(world: AmdWorld) -> SimGuest:
    return world.chip("one", "Turin").launch(IMAGE)


def request(**changes: object) -> DerivedKeyRequest:
    good = DerivedKeyRequest(select=ALL, vmpl=1, guest_svn=3)
    return replace(good, **changes)  # type: ignore[arg-type]


def test_a_second_process_sees_the_same_world(tmp_path: Path, now: int) -> None:
    first = AmdWorld(tmp_path, SEED, rsa_bits=2048)
    second = AmdWorld(tmp_path, SEED, rsa_bits=2048)
    evidence = first.chip("a").launch(IMAGE).evidence(bytes(64))
    chain = second.chip("a").certificates()
    assert first.root_certificate("Milan") == second.root_certificate("Milan")
    claims = verify_report(
        evidence, chain, now=now, roots=(second.trusted_root("Milan"),)
    )
    assert claims.platform.chip_id == second.chip("a").chip_id


def test_the_first_key_in_a_folder_decides(tmp_path: Path) -> None:
    worlds = [AmdWorld(tmp_path, SEED, rsa_bits=2048) for _ in range(3)]
    keys = {w.root_key("Genoa").private_numbers().d for w in worlds}
    assert len(keys) == 1
    assert {p.suffix for p in (tmp_path / "amd").iterdir()} == {".key"}


def test_a_damaged_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "amd").mkdir()
    (tmp_path / "amd" / "Milan-ark.key").write_bytes(b"no key")
    with pytest.raises(SettingsError):
        AmdWorld(tmp_path, SEED, rsa_bits=2048).root_key("Milan")


def test_the_seed_decides_chips_and_keys(world: AmdWorld) -> None:
    other = AmdWorld(None, bytes(32), rsa_bits=2048)
    for line in GENERATIONS:
        chip, again = (world.chip("x", line.product) for _ in range(2))
        assert chip.chip_id == again.chip_id
        assert len(chip.chip_id) == line.chip_id_bytes
        assert chip.chip_id != world.chip("y", line.product).chip_id
        assert chip.chip_id != other.chip("x", line.product).chip_id
        assert chip.derived_key_root() == again.derived_key_root()
        assert chip.derived_key_root() != other.chip("x").derived_key_root()


def test_roots_open_as_simulated_domains(world: AmdWorld) -> None:
    assert {r.product for r in world.trusted_roots} == {"Milan", "Genoa", "Turin"}
    for root in world.trusted_roots:
        assert root.trust_domain.simulated
        assert simulated_root(world.root_certificate(root.product)).amd == (root,)


def test_an_unknown_product_is_refused(world: AmdWorld) -> None:
    with pytest.raises(SettingsError):
        world.chip("x", "Rome")


def test_a_guest_is_a_root_platform(guest: SimGuest) -> None:
    platform: RootPlatform = guest
    assert platform.name == "sim"
    assert platform.own_measurement() == ("snp", IMAGE.measurement)
    assert len(platform.sealing_key()) == 32


def test_a_debug_guest_is_no_provider(world: AmdWorld) -> None:
    debug = world.chip("x").launch(replace(IMAGE, policy=0xB0000))
    with pytest.raises(PlatformError) as refused:
        debug.own_measurement()
    assert refused.value.code is Code.PROVIDER_DEBUG


@pytest.mark.parametrize("length", [0, 63, 65])
def test_report_data_has_64_bytes(guest: SimGuest, length: int) -> None:
    with pytest.raises(PlatformError):
        guest.evidence(bytes(length))


def test_reports_of_one_guest_share_a_report_id(world: AmdWorld) -> None:
    chip = world.chip("x")
    first, second = chip.launch(IMAGE), chip.launch(IMAGE)
    assert first.report_id != second.report_id
    assert first.report(bytes(64)) == first.report(bytes(64))
    assert first.sealing_key() == second.sealing_key()


def test_the_sealing_key_survives_a_firmware_update(world: AmdWorld) -> None:
    chip = world.chip("updated")
    before = chip.launch(IMAGE).sealing_key()
    chip.firmware_update()
    assert chip.launch(IMAGE).sealing_key() == before


def test_the_sealing_key_belongs_to_measurement_policy_and_chip(
    world: AmdWorld,
) -> None:
    key = world.chip("x").launch(IMAGE).sealing_key()
    others = (
        world.chip("y").launch(IMAGE),
        world.chip("x", "Genoa").launch(IMAGE),
        world.chip("x").launch(replace(IMAGE, kernel=b"kernem")),
        world.chip("x").launch(replace(IMAGE, policy=0xB0000)),
    )
    assert all(other.sealing_key() != key for other in others)
    same = world.chip("x").launch(replace(IMAGE, host_data=bytes([1]) * 32))
    assert same.sealing_key() == key


MIXED = {
    FieldSelect.POLICY: {"policy": 0x20000},
    FieldSelect.IMAGE_ID: {"image_id": bytes(16)},
    FieldSelect.FAMILY_ID: {"family_id": bytes(16)},
    FieldSelect.MEASUREMENT: {"kernel": b"other"},
}


@pytest.mark.parametrize("field", list(MIXED))
@given(select=st.integers(0, 63))
def test_exactly_the_selected_fields_enter_the_key(
    world: AmdWorld, field: FieldSelect, select: int
) -> None:
    chip = world.chip("x")
    changed = chip.launch(replace(IMAGE, **MIXED[field]))  # type: ignore[arg-type]
    asked = request(select=select)
    same = chip.launch(IMAGE).derived_key(asked) == changed.derived_key(asked)
    assert same is not bool(select & field)


def test_svn_and_tcb_enter_only_where_selected(guest: SimGuest) -> None:
    lower = SnpTcb(1, 0, 0, 0, 0)
    for select in range(64):
        svn = guest.derived_key(request(select=select, guest_svn=3))
        older = guest.derived_key(request(select=select, guest_svn=2))
        assert (svn != older) is bool(select & FieldSelect.GUEST_SVN)
        tcb = guest.derived_key(request(select=select, tcb=lower))
        assert (svn != tcb) is bool(select & FieldSelect.TCB_VERSION)


def test_the_vmpl_always_enters(guest: SimGuest) -> None:
    keys = [guest.derived_key(request(select=0, vmpl=v)).reveal() for v in (1, 2, 3)]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"select": 1 << 6},
        {"select": 1 << 7, "message_version": 2},
        {"root": RootKey.VMRK},
        {"root": 2},
        {"vmpl": 0},
        {"vmpl": 4},
        {"guest_svn": 4},
        {"guest_svn": -1},
        {"tcb": SnpTcb(255, 0, 0, 0, 0)},
        {"tcb": SnpTcb(0, 0, 0, 255, 0)},
    ],
)
def test_requests_beyond_the_guest_are_refused(
    guest: SimGuest, changes: dict[str, object]
) -> None:
    with pytest.raises(PlatformError) as refused:
        guest.derived_key(request(**changes))
    assert refused.value.code is Code.PLATFORM_FAILED


def test_message_version_2_brings_the_mitigation_vector(guest: SimGuest) -> None:
    select = ALL | FieldSelect.LAUNCH_MIT_VECTOR
    newer = guest.derived_key(request(select=select, message_version=2))
    assert newer != guest.derived_key(request())
