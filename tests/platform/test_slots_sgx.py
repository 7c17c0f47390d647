# SPDX-License-Identifier: Apache-2.0
"""Slot ``sgx``: EGETKEY of a stored request, against the simulated instruction."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
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

from tightseal.errors import Code, KeyReleaseError, PlatformError
from tightseal.model.secret import Secret
from tightseal.platform.slots.keyrequest import (
    KEY_REQUEST_BYTES,
    SealMasks,
    SealRequest,
    read_seal_request,
)
from tightseal.platform.slots.sgx import SgxSlot
from tightseal_sim.intel.egetkey import SdkSimulationSecrets, egetkey
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.platform import SimPlatform
from tightseal_sim.intel.slots import SimEnclaveKeys
from tightseal_sim.intel.structures import KeyRequest, ReportBody

BOTH = frozenset({1, 2})


def slot_of(
    platform: SimPlatform, image: EnclaveImage = PROVIDER, *, signer: bool = False
) -> SgxSlot:
    door = SimEnclaveKeys(enclave(platform, image))
    return SgxSlot(door, allow_signer=signer, use_signer=signer)


# -- KEYREQUEST ---------------------------------------------------------------------

VECTOR_ENCLAVE = ReportBody(
    flags=0x85,
    xfrm=3,
    mr_enclave=b"\x11" * 32,
    mr_signer=b"\x22" * 32,
    config_id=b"\x33" * 64,
    isv_prod_id=0x0102,
    isv_svn=5,
    config_svn=7,
    isv_family_id=b"\x44" * 16,
    isv_ext_prod_id=b"\x55" * 16,
    cpu_svn=SdkSimulationSecrets.DEFAULT,
)
VECTORS = [
    (0x01, "0c7a351a262d823068f89b30df020ff4"),
    (0x03, "5418d62d7d958a8bb4b4617a4033a3cb"),
    (0x0A, "1e08d4ecebb3ca1fdb5b4a7dccd6b3c5"),
    (0x22, "eb0c64ebabd8d1e88fe8340cf19cc376"),
]


@pytest.mark.parametrize(("policy", "expected"), VECTORS, ids=[v[1] for v in VECTORS])
def test_egetkey_vectors_through_the_packed_request(policy: int, expected: str) -> None:
    request = SealRequest(
        policy,
        isv_svn=5,
        cpu_svn=SdkSimulationSecrets.DEFAULT,
        key_id=bytes(32),
        config_svn=7,
        masks=SealMasks(flags=0xFFFFFFFFFFFFFFFF, xfrm=0, misc=0),
    )
    unpacked = KeyRequest.unpack(request.pack())
    assert egetkey(SdkSimulationSecrets(), VECTOR_ENCLAVE, unpacked).hex() == expected


def test_key_request_layout() -> None:
    data = SealRequest(
        0x02, 0x0A0B, bytes(range(16)), bytes(range(32, 64)), 0x0C0D
    ).pack()
    assert len(data) == KEY_REQUEST_BYTES
    assert struct.unpack_from("<HHH", data) == (4, 0x02, 0x0A0B)
    assert data[6:8] == bytes(2)
    assert data[8:24] == bytes(range(16))
    assert data[24:40] == struct.pack("<QQ", 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFF9FF1B)
    assert data[40:72] == bytes(range(32, 64))
    assert struct.unpack_from("<IH", data, 72) == (0xFFFFFFFF, 0x0C0D)
    assert data[78:] == bytes(434)


@pytest.mark.parametrize("flags", [0, 1, 2, 0xFFFFFFFFFFFFFFFC])
def test_a_mask_without_init_and_debug(flags: int) -> None:
    with pytest.raises(PlatformError, match="INIT and DEBUG must be in"):
        SealMasks(flags=flags, xfrm=0, misc=0)


@pytest.mark.parametrize("policy", [0, 0x04, 0x3C])
def test_a_policy_that_names_no_identity(policy: int) -> None:
    with pytest.raises(PlatformError, match="neither MRENCLAVE nor MRSIGNER"):
        SealRequest(policy, 1, bytes(16), bytes(32))


@given(
    policy=st.sampled_from([1, 2]),
    isv_svn=st.integers(0, 0xFFFF),
    config_svn=st.integers(0, 0xFFFF),
    cpu_svn=st.binary(min_size=16, max_size=16),
    key_id=st.binary(min_size=32, max_size=32),
)
def test_a_request_reads_back(
    policy: int, isv_svn: int, config_svn: int, cpu_svn: bytes, key_id: bytes
) -> None:
    request = SealRequest(policy, isv_svn, cpu_svn, key_id, config_svn)
    assert read_seal_request(request.pack(), policies=BOTH) == request


@pytest.mark.parametrize(("cpu_svn", "key_id"), [(15, 32), (16, 31), (0, 0)])
def test_svn_and_key_id_of_other_lengths(cpu_svn: int, key_id: int) -> None:
    with pytest.raises(PlatformError, match="expected 16 and 32"):
        SealRequest(1, 1, bytes(cpu_svn), bytes(key_id))


@pytest.mark.parametrize("length", [0, 511, 513])
def test_a_stored_request_of_another_length(length: int) -> None:
    with pytest.raises(PlatformError, match=f"KEYREQUEST of {length} bytes"):
        read_seal_request(bytes(length), policies=BOTH)


SPOILED = [
    ("key_name", 0, b"\x03\x00", "name 3"),
    ("policy_zero", 2, b"\x00\x00", "KEYPOLICY 0x0"),
    ("policy_noisvprodid", 2, b"\x05\x00", "KEYPOLICY 0x5"),
    ("flags_mask", 24, b"\x03" + bytes(7), "masks 0x3"),
    ("xfrm_mask", 32, bytes(8), "masks"),
    ("misc_mask", 72, bytes(4), "masks"),
    ("reserved_head", 6, b"\x01", "reserved"),
    ("reserved_tail", 511, b"\x01", "reserved"),
]


@pytest.mark.parametrize(
    ("at", "value", "words"), [c[1:] for c in SPOILED], ids=[c[0] for c in SPOILED]
)
def test_of_a_stored_request_only_svns_and_keyid_are_believed(
    at: int, value: bytes, words: str
) -> None:
    slot = slot_of(machine(), signer=True)
    parameters, _ = made(slot)
    before = parameters["request"]
    assert isinstance(before, bytes)
    spoiled = before[:at] + value + before[at + len(value) :]
    assert spoiled != before
    refused(slot, changed(parameters, request=spoiled), words)


# -- the slot -----------------------------------------------------------------------


def test_opens_after_a_restart() -> None:
    host = machine()
    parameters, key = made(slot_of(host))
    assert slot_of(host).open(parameters, **IDS) == key
    assert slot_of(host).rewrap(parameters) is None


def test_each_slot_has_a_key_of_its_own() -> None:
    slot = slot_of(machine())
    (_, one), (_, two) = made(slot), made(slot)
    assert one != two


def test_a_microcode_update_leaves_the_key_and_asks_to_rewrap() -> None:
    host = machine()
    old = host.cpusvn.hex()
    parameters, key = made(slot_of(host))
    host.microcode_update()
    slot = slot_of(host)
    assert slot.open(parameters, **IDS) == key
    reason = slot.rewrap(parameters)
    assert reason is not None
    assert old in reason
    assert host.cpusvn.hex() in reason
    anew, other = made(slot)
    assert other != key
    assert slot.rewrap(anew) is None


def test_a_slot_of_newer_microcode_does_not_open_on_older() -> None:
    updated = machine()
    updated.microcode_update()
    parameters, _ = made(slot_of(updated))
    refused(slot_of(machine()), parameters, "SGX_INVALID_CPUSVN")


def test_a_stored_svn_can_be_lowered_and_leads_nowhere() -> None:
    host = machine()
    slot = slot_of(host)
    parameters, _ = made(slot)
    request = read_seal_request(bytes(parameters["request"]), policies=BOTH)  # type: ignore[arg-type]
    lower = replace(request, isv_svn=request.isv_svn - 1)
    refused(slot, changed(parameters, request=lower.pack()), "another one")


def test_a_higher_isvsvn_of_the_signer_opens_and_asks_to_rewrap() -> None:
    host = machine()
    parameters, key = made(slot_of(host, signer=True))
    newer = replace(PROVIDER, code=b"release 2", isv_svn=4)
    slot = slot_of(host, newer, signer=True)
    assert slot.open(parameters, **IDS) == key
    assert "/3/0" in str(slot.rewrap(parameters))


def test_a_lower_isvsvn_of_the_signer_stays_closed() -> None:
    host = machine()
    parameters, _ = made(slot_of(host, signer=True))
    older = replace(PROVIDER, code=b"release 0", isv_svn=2)
    refused(slot_of(host, older, signer=True), parameters, "SGX_INVALID_ISVSVN")


def test_a_rebuild_ends_the_enclaves_own_slot() -> None:
    host = machine()
    parameters, _ = made(slot_of(host))
    rebuilt = replace(PROVIDER, code=b"release 2")
    refused(slot_of(host, rebuilt), parameters, "another build (MRENCLAVE)")


def test_a_new_signer_ends_the_signers_slot() -> None:
    host = machine()
    parameters, _ = made(slot_of(host, signer=True))
    stolen = replace(PROVIDER, signer="somebody else")
    refused(slot_of(host, stolen, signer=True), parameters, "another signer")


def test_another_machine_ends_it() -> None:
    parameters, _ = made(slot_of(machine()))
    refused(slot_of(machine("other")), parameters, "another CPU")


def test_the_masks_of_gramines_manifest_do_not_matter() -> None:
    host = machine()
    parameters, key = made(slot_of(host))
    door = SimEnclaveKeys(enclave(host), flags_mask=3, xfrm_mask=0, misc_mask=0)
    assert SgxSlot(door, allow_signer=False).open(parameters, **IDS) == key


def test_the_signer_needs_the_policy_when_made_and_when_opened() -> None:
    host = machine()
    door = SimEnclaveKeys(enclave(host))
    for forbidden in (
        lambda: SgxSlot(door, allow_signer=False, use_signer=True),
        lambda: SgxSlot(door, allow_signer=False).for_signer(),
    ):
        with pytest.raises(KeyReleaseError, match=r"release.slot_signer is not"):
            forbidden()
    parameters, key = made(slot_of(host, signer=True))
    refused(slot_of(host), parameters, "release.slot_signer is not")
    with pytest.raises(KeyReleaseError, match=r"release.slot_signer is not"):
        slot_of(host).rewrap(parameters)
    allowed = SgxSlot(door, allow_signer=True)
    assert allowed.open(parameters, **IDS) == key


def test_a_signers_slot_stays_one_and_follows_the_microcode() -> None:
    host = machine()
    allowed = SgxSlot(SimEnclaveKeys(enclave(host)), allow_signer=True)
    parameters, key = made(allowed.for_signer())
    assert allowed.rewrap(parameters) is None
    host.microcode_update()
    assert allowed.open(parameters, **IDS) == key
    assert "KEYPOLICY 0x2" in str(allowed.rewrap(parameters))


def test_a_debug_enclave_neither_makes_nor_opens() -> None:
    host = machine()
    parameters, _ = made(slot_of(host))
    watched = slot_of(host, replace(PROVIDER, debug=True))
    refused(watched, parameters, "debug")
    with pytest.raises(KeyReleaseError, match="debug"):
        watched.create(**IDS)


class Broken:
    """An instruction that answers what it likes."""

    def __init__(self, status: int, report: bytes) -> None:
        self.status = status
        self.report = report

    def own_report(self) -> bytes:
        return self.report

    def egetkey(self, request: bytes) -> tuple[int, Secret]:
        assert len(request) == KEY_REQUEST_BYTES
        return self.status, Secret(bytes(16))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (2, "SGX_INVALID_ATTRIBUTE"),
        (256, "SGX_INVALID_KEYNAME"),
        (0x4000, "status 0x4000"),
        (0, "gave no key"),
    ],
)
def test_what_the_instruction_answers(status: int, words: str) -> None:
    report = SimEnclaveKeys(enclave(machine())).own_report()
    with pytest.raises(KeyReleaseError, match=words):
        SgxSlot(Broken(status, report), allow_signer=False).create(**IDS)


@pytest.mark.parametrize("report", [b"", bytes(431), bytes(432)])
def test_a_report_that_is_none(report: bytes) -> None:
    with pytest.raises(KeyReleaseError) as caught:
        SgxSlot(Broken(0, report), allow_signer=False).create(**IDS)
    assert caught.value.code is Code.SLOT_UNAVAILABLE


def test_without_a_report_it_cannot_say_whether_to_rewrap() -> None:
    parameters, _ = made(slot_of(machine()))
    with pytest.raises(KeyReleaseError, match="report of 3 bytes"):
        SgxSlot(Broken(0, b"abc"), allow_signer=False).rewrap(parameters)


SLOT_OF_PROPERTY = slot_of(machine(), signer=True)
PARAMETERS, _ = made(SLOT_OF_PROPERTY)


@given(data=st.data())
def test_no_corrupted_parameters_open(data: st.DataObject) -> None:
    parameters = data.draw(corrupted(PARAMETERS))
    with pytest.raises(KeyReleaseError) as caught:
        SLOT_OF_PROPERTY.open(parameters, **IDS)
    assert caught.value.code is Code.SLOT_UNAVAILABLE
