# SPDX-License-Identifier: Apache-2.0
"""EGETKEY and EREPORT: known answers and the rules behind them."""

import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import PlatformError
from tightseal_sim.intel.egetkey import (
    CpuSecrets,
    EgetkeyError,
    SdkSimulationSecrets,
    SgxStatus,
    aes_cmac,
    egetkey,
    report_key,
)
from tightseal_sim.intel.enclave import EnclaveImage, SimEnclave
from tightseal_sim.intel.structures import (
    AttributeFlags,
    KeyName,
    KeyPolicy,
    KeyRequest,
    Report,
    ReportBody,
    TargetInfo,
)
from tightseal_sim.world import World

SDK = SdkSimulationSecrets()

ENCLAVE = ReportBody(
    cpu_svn=SDK.DEFAULT,
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
)
REQUEST = KeyRequest(
    KeyName.SEAL,
    KeyPolicy.MRENCLAVE,
    isv_svn=5,
    cpu_svn=SDK.DEFAULT,
    flags_mask=(1 << 64) - 1,
    config_svn=7,
)
KNOWN_ANSWERS = (
    (0x01, "0c7a351a262d823068f89b30df020ff4"),
    (0x03, "5418d62d7d958a8bb4b4617a4033a3cb"),
    (0x0A, "1e08d4ecebb3ca1fdb5b4a7dccd6b3c5"),
    (0x22, "eb0c64ebabd8d1e88fe8340cf19cc376"),
)


def key(body: ReportBody = ENCLAVE, **changes: object) -> bytes:
    return egetkey(SDK, body, replace(REQUEST, **changes))  # type: ignore[arg-type]


def test_cmac_of_rfc_4493() -> None:
    tag = aes_cmac(bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"), b"")
    assert tag.hex() == "bb1d6929e95937287fa37d129b756746"


@pytest.mark.parametrize(("policy", "expected"), KNOWN_ANSWERS)
def test_seal_key_known_answers(policy: int, expected: str) -> None:
    assert key(key_policy=policy).hex() == expected


def test_report_key_known_answer() -> None:
    agent = replace(ENCLAVE, mr_enclave=b"\xbb" * 32)
    request = KeyRequest(KeyName.REPORT, key_id=SDK.report_key_id)
    expected = "829e6a0a99c157d0a086f7433375419f"
    assert egetkey(SDK, agent, request).hex() == expected
    target = TargetInfo(agent.mr_enclave, 0x85, 3, 7, 0, agent.config_id)
    assert report_key(SDK, target, SDK.report_key_id).hex() == expected


def test_layouts_have_their_sizes() -> None:
    assert len(ENCLAVE.pack()) == 384
    assert len(REQUEST.pack()) == 512
    assert len(TargetInfo(bytes(32), 5, 3).pack()) == 512
    assert KeyRequest.unpack(REQUEST.pack()) == replace(REQUEST, reserved=bytes(436))


# Which enclave field each policy bit lets in: changing the field changes the key
# exactly where the bit is set.
BIT_FIELDS = (
    (KeyPolicy.MRENCLAVE, {"mr_enclave": b"\x99" * 32}),
    (KeyPolicy.MRSIGNER, {"mr_signer": b"\x99" * 32}),
    (KeyPolicy.CONFIGID, {"config_id": b"\x99" * 64}),
    (KeyPolicy.ISVFAMILYID, {"isv_family_id": b"\x99" * 16}),
    (KeyPolicy.ISVEXTPRODID, {"isv_ext_prod_id": b"\x99" * 16}),
)


@pytest.mark.parametrize(("bit", "change"), BIT_FIELDS)
@given(rest=st.integers(0, 0x3F))
def test_each_policy_bit_binds_its_field_and_no_other(
    bit: KeyPolicy, change: dict[str, bytes], rest: int
) -> None:
    policy = rest | (
        KeyPolicy.MRSIGNER if bit is KeyPolicy.MRENCLAVE else KeyPolicy.MRENCLAVE
    )
    other = replace(ENCLAVE, **change)  # type: ignore[arg-type]
    bound, free = policy | bit, policy & ~bit
    assert key(key_policy=bound) != key(other, key_policy=bound)
    assert key(key_policy=free) == key(other, key_policy=free)


def test_noisvprodid_leaves_the_product_out() -> None:
    other = replace(ENCLAVE, isv_prod_id=9)
    assert key() != key(other)
    assert key(key_policy=5) == key(other, key_policy=5)


def test_policy_value_itself_enters() -> None:
    blank = replace(ENCLAVE, config_id=bytes(64), config_svn=0)
    plain = key(blank, key_policy=1, config_svn=0)
    assert plain != key(blank, key_policy=9, config_svn=0)


def test_config_svn_enters_with_configid_only() -> None:
    assert key(key_policy=9, config_svn=6) != key(key_policy=9, config_svn=7)
    assert key(key_policy=1, config_svn=6) == key(key_policy=1, config_svn=7)


def test_masks_leave_attributes_out_but_never_debug_or_init() -> None:
    more = replace(ENCLAVE, flags=0x85 | AttributeFlags.AEX_NOTIFY, xfrm=0xE7)
    debug = replace(ENCLAVE, flags=0x85 | AttributeFlags.DEBUG)
    assert key() != key(more)
    assert key(flags_mask=0) == key(more, flags_mask=0)
    assert key(flags_mask=0) != key(debug, flags_mask=0)
    assert key(xfrm_mask=0xFF) != key(replace(ENCLAVE, xfrm=0xE7), xfrm_mask=0xFF)
    assert key() == key(replace(ENCLAVE, xfrm=0xE7))


def test_masks_themselves_enter() -> None:
    keys = {
        key(),
        key(flags_mask=0),
        key(flags_mask=0x85),
        key(xfrm_mask=4),
        key(misc_mask=1),
        key(key_id=b"\x01" * 32),
    }
    assert len(keys) == 6


def test_lower_svns_are_given_and_differ() -> None:
    keys = {
        key(),
        key(isv_svn=4),
        key(cpu_svn=SDK.DOWNGRADED),
        key(isv_svn=4, cpu_svn=SDK.DOWNGRADED),
    }
    assert len(keys) == 4


def test_newer_enclave_derives_the_older_key() -> None:
    newer = replace(ENCLAVE, isv_svn=6)
    assert key(newer) == key()


def test_zero_cpusvn_is_the_default_in_sdk_simulation() -> None:
    assert key(cpu_svn=bytes(16)) == key()


REFUSALS = (
    ("policy_zero", {"key_policy": 0}, SgxStatus.POLICY_REFUSED),
    ("policy_without_identity", {"key_policy": 0x08}, SgxStatus.POLICY_REFUSED),
    ("policy_reserved_bit", {"key_policy": 0x41}, SgxStatus.GENERAL_PROTECTION),
    ("reserved_bytes", {"reserved": b"\0\0\1"}, SgxStatus.GENERAL_PROTECTION),
    ("isv_svn_beyond", {"isv_svn": 6}, SgxStatus.INVALID_ISVSVN),
    ("config_svn_beyond", {"config_svn": 8}, SgxStatus.INVALID_ISVSVN),
    ("cpu_svn_beyond", {"cpu_svn": SDK.UPGRADED}, SgxStatus.INVALID_CPUSVN),
    ("cpu_svn_unknown", {"cpu_svn": b"\x01" * 16}, SgxStatus.INVALID_CPUSVN),
    ("provision_key", {"key_name": KeyName.PROVISION}, SgxStatus.INVALID_ATTRIBUTE),
    ("token_key", {"key_name": KeyName.EINITTOKEN}, SgxStatus.INVALID_ATTRIBUTE),
    ("key_name_unknown", {"key_name": 5}, SgxStatus.INVALID_KEYNAME),
)


@pytest.mark.parametrize(
    ("changes", "status"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS]
)
def test_refusals(changes: dict[str, Any], status: SgxStatus) -> None:
    with pytest.raises(EgetkeyError) as refused:
        key(**changes)
    assert refused.value.status is status
    again = pickle.loads(pickle.dumps(refused.value))
    assert (again.status, again.detail) == (status, refused.value.detail)


@pytest.mark.parametrize("policy", [0x05, 0x09, 0x11, 0x21])
def test_kss_policy_without_kss_faults(policy: int) -> None:
    plain = replace(ENCLAVE, flags=0x05, config_svn=0)
    with pytest.raises(EgetkeyError) as refused:
        key(plain, key_policy=policy, config_svn=0)
    assert refused.value.status is SgxStatus.GENERAL_PROTECTION
    with pytest.raises(EgetkeyError):
        key(plain, config_svn=1)
    assert key(plain, config_svn=0)


svns = st.binary(min_size=16, max_size=16)


@given(asked=svns, present=svns)
def test_cpusvn_is_compared_component_by_component(
    asked: bytes, present: bytes
) -> None:
    cpu = CpuSecrets(bytes(16), bytes(16), bytes(16), bytes(32), present)
    allowed = all(a <= p for a, p in zip(asked, present, strict=True))
    assert (cpu.resolve_cpusvn(asked) == asked) == allowed


def test_cpusvn_is_no_integer() -> None:
    # As a big-endian integer the request is smaller; its second component is not.
    present = bytes([2, 2]) + bytes(14)
    cpu = CpuSecrets(bytes(16), bytes(16), bytes(16), bytes(32), present)
    assert cpu.resolve_cpusvn(bytes([1, 3]) + bytes(14)) is None


# -- on the world's own machines ---------------------------------------------------


@pytest.fixture
def enclave(world: World) -> SimEnclave:
    return world.intel.platform("egetkey").load_enclave(EnclaveImage("one"))


def test_sealing_key_is_bound_to_machine_enclave_and_microcode(world: World) -> None:
    first, second = world.intel.platform("seal-a"), world.intel.platform("seal-b")
    one, other = EnclaveImage("one"), EnclaveImage("one", code=b"\1")
    keys = [first.load_enclave(one).sealing_key().reveal()]
    assert first.load_enclave(one).sealing_key().reveal() == keys[0]
    keys += [
        first.load_enclave(other).sealing_key().reveal(),
        second.load_enclave(one).sealing_key().reveal(),
        first.load_enclave(replace(one, debug=True)).sealing_key().reveal(),
    ]
    old = first.load_enclave(one).sealing_request()
    first.microcode_update()
    keys.append(first.load_enclave(one).sealing_key().reveal())
    assert len(set(keys)) == len(keys)
    assert {len(k) for k in keys} == {16}
    # Who remembers the old security versions still gets the old key.
    assert first.load_enclave(one).egetkey(old) == keys[0]


def test_older_microcode_never_gets_the_newer_key(world: World) -> None:
    platform = world.intel.platform("seal-c")
    request = platform.load_enclave(EnclaveImage("one")).sealing_request()
    newer = replace(
        request, cpu_svn=bytes([request.cpu_svn[0] + 1, *request.cpu_svn[1:]])
    )
    with pytest.raises(EgetkeyError) as refused:
        platform.load_enclave(EnclaveImage("one")).egetkey(newer)
    assert refused.value.status is SgxStatus.INVALID_CPUSVN


def test_report_is_verified_by_its_target_only(enclave: SimEnclave) -> None:
    platform = enclave.platform
    target = platform.load_enclave(EnclaveImage("target"))
    report = enclave.ereport(target.target_info(), b"\x07" * 64)
    target.verify_report(report)
    target.verify_report(Report.unpack(report.pack()))
    stranger = platform.load_enclave(EnclaveImage("stranger"))
    elsewhere = platform.world.platform("elsewhere").load_enclave(target.image)
    for wrong in (stranger, elsewhere):
        with pytest.raises(PlatformError):
            wrong.verify_report(report)


@given(at=st.integers(0, 431))
def test_any_changed_byte_of_a_report_is_noticed(world: World, at: int) -> None:
    enclave = world.intel.platform("egetkey").load_enclave(EnclaveImage("one"))
    report = bytearray(enclave.ereport(enclave.target_info(), bytes(64)).pack())
    report[at] ^= 1
    with pytest.raises(PlatformError):
        enclave.verify_report(Report.unpack(bytes(report)))


def test_report_key_changes_with_microcode(world: World) -> None:
    platform = world.intel.platform("report")
    enclave = platform.load_enclave(EnclaveImage("one"))
    report = enclave.ereport(enclave.target_info(), bytes(64))
    platform.microcode_update()
    with pytest.raises(PlatformError):
        enclave.verify_report(report)


def test_kss_fields_need_kss(world: World) -> None:
    platform = world.intel.platform("egetkey")
    with pytest.raises(PlatformError):
        platform.load_enclave(EnclaveImage("one", config_id=b"\1" * 64))
    with pytest.raises(PlatformError):
        platform.load_enclave(EnclaveImage("one", extra_flags=0x10))
    kss = EnclaveImage("one", kss=True, config_id=b"\1" * 64, config_svn=3)
    body = platform.load_enclave(kss).body
    assert (body.config_id, body.config_svn) == (b"\1" * 64, 3)
