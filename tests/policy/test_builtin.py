# SPDX-License-Identifier: Apache-2.0
"""The built-in policy: each rule says no by its code; paths carry what they must."""

from dataclasses import replace
from typing import Any

import pytest

from tightseal.errors import Code, PolicyError
from tightseal.model.claims import (
    MEASUREMENT_NAMES,
    Claims,
    PlatformIdentity,
    SnpTcb,
    Tcb,
    TcbStatus,
    Tee,
    TrustDomain,
    Vendor,
)
from tightseal.model.keypath import KeyRequest, ProtocolClass
from tightseal.model.settings import PlatformRule, ReleaseSettings, SnpMinimum
from tightseal.model.verifiers import VerifierException
from tightseal.policy.builtin import Circumstances, decide

INTEL = TrustDomain(Vendor.INTEL, "aa" * 48)
SIM = TrustDomain(Vendor.SIMULATED, "bb" * 48)
OTHER_SIM = TrustDomain(Vendor.SIMULATED, "cc" * 48)
AMD = TrustDomain(Vendor.AMD, "dd" * 48)
HERE = PlatformIdentity(ppid=b"p" * 16, piid=b"i" * 16, fmspc=b"f" * 6)
CHIP = PlatformIdentity(chip_id=b"c" * 64)


def measured(tee: Tee) -> dict[str, bytes]:
    return {name: name.encode().ljust(48, b".") for name in MEASUREMENT_NAMES[tee]}


def td(**changes: Any) -> Claims:
    claims = Claims(
        tee=Tee.TDX,
        trust_domain=INTEL,
        measurements=measured(Tee.TDX),
        report_data=bytes(64),
        debug=False,
        platform=HERE,
        tcb=Tcb(TcbStatus.UP_TO_DATE, frozenset(), 17, "2024-03-13T00:00:00Z"),
    )
    return replace(claims, **changes)


def snp(**changes: Any) -> Claims:
    claims = Claims(
        tee=Tee.SNP,
        trust_domain=AMD,
        measurements={**measured(Tee.SNP), "policy": bytes(8)},
        report_data=bytes(64),
        debug=False,
        platform=CHIP,
        tcb=None,
        snp_tcb=SnpTcb(bootloader=3, tee=0, snp=8, microcode=115),
        single_verifier=True,
    )
    return replace(claims, **changes)


def circumstances(**changes: Any) -> Circumstances:
    settings = changes.pop("settings", ReleaseSettings())
    base = Circumstances(
        settings=settings,
        authority=settings.authority(),
        provider_platform=HERE,
        provider_domain=INTEL,
        protocol_class=ProtocolClass.V1,
    )
    return replace(base, **changes)


DISK = (KeyRequest("disk"),)
ON_CHIP = {"provider_platform": CHIP, "provider_domain": AMD}


def with_status(status: TcbStatus) -> Tcb:
    return Tcb(status, frozenset({"INTEL-SA-01036"}), 17, "2024-03-13T00:00:00Z")


def with_registers(**values: bytes) -> dict[str, bytes]:
    return {**measured(Tee.TDX), **values}


NO_OWNER = {n: bytes(48) for n in ("mr_config_id", "mr_owner", "mr_owner_config")}

DENIED: dict[str, tuple[Claims, dict[str, Any], Code]] = {
    "debug": (td(debug=True), {}, Code.DEBUG_ENABLED),
    "snp_with_migration_agent": (
        snp(
            measurements={
                **measured(Tee.SNP),
                "policy": (1 << 18).to_bytes(8, "little"),
            }
        ),
        ON_CHIP,
        Code.SNP_MIGRATABLE,
    ),
    "snp_debug": (snp(debug=True), ON_CHIP, Code.DEBUG_ENABLED),
    "simulated_workload_real_provider": (
        td(trust_domain=SIM),
        {},
        Code.TRUST_DOMAIN_MISMATCH,
    ),
    "real_workload_simulated_provider": (
        td(),
        {"provider_domain": SIM},
        Code.TRUST_DOMAIN_MISMATCH,
    ),
    "two_simulated_worlds": (
        td(trust_domain=SIM),
        {"provider_domain": OTHER_SIM},
        Code.TRUST_DOMAIN_MISMATCH,
    ),
    "one_verifier": (
        td(single_verifier=True),
        {},
        Code.SINGLE_VERIFIER_NOT_ACCEPTED,
    ),
    "other_machine": (
        td(platform=replace(HERE, ppid=b"q" * 16)),
        {},
        Code.PLATFORM_MISMATCH,
    ),
    "other_piid": (
        td(platform=replace(HERE, piid=b"j" * 16)),
        {},
        Code.PLATFORM_MISMATCH,
    ),
    "piid_on_one_side": (
        td(platform=replace(HERE, piid=None)),
        {},
        Code.PLATFORM_MISMATCH,
    ),
    "no_platform": (td(platform=PlatformIdentity()), {}, Code.PLATFORM_UNKNOWN),
    "provider_platform_unknown": (
        td(),
        {"provider_platform": PlatformIdentity()},
        Code.PLATFORM_MISMATCH,
    ),
    "snp_on_intel": (snp(), {}, Code.PLATFORM_MISMATCH),
    "snp_below_minimum": (
        snp(),
        {
            **ON_CHIP,
            "settings": ReleaseSettings(snp_minimum_tcb=SnpMinimum(microcode=116)),
        },
        Code.TCB_STATUS_NOT_ACCEPTED,
    ),
    "snp_fmc_absent": (
        snp(),
        {**ON_CHIP, "settings": ReleaseSettings(snp_minimum_tcb=SnpMinimum(fmc=1))},
        Code.TCB_STATUS_NOT_ACCEPTED,
    ),
    "all_selected_zero": (
        td(measurements={n: bytes(48) for n in MEASUREMENT_NAMES[Tee.TDX]}),
        {},
        Code.IDENTITY_UNBOUND,
    ),
    "rtmr3_left_out_without_owner_field": (
        td(),
        {"settings": ReleaseSettings(tdx_identity=("mrtd", "rtmr0"))},
        Code.IDENTITY_UNBOUND,
    ),
    "rtmr3_left_out_with_zero_owner_fields": (
        td(measurements=with_registers(**NO_OWNER)),
        {"settings": ReleaseSettings(tdx_identity=("mrtd", "mr_config_id"))},
        Code.IDENTITY_UNBOUND,
    ),
    **{
        f"tcb_{status.value}": (
            td(tcb=with_status(status)),
            {},
            Code.TCB_STATUS_NOT_ACCEPTED,
        )
        for status in TcbStatus
        if status is not TcbStatus.UP_TO_DATE
    },
}


@pytest.mark.parametrize("name", DENIED)
def test_denied(name: str) -> None:
    claims, changes, code = DENIED[name]
    with pytest.raises(PolicyError) as caught:
        decide(claims, keys=DISK, circumstances=circumstances(**changes))
    assert caught.value.code is code
    assert caught.value.reasons[-1].satisfied is False  # type: ignore[attr-defined]


GRANTED: dict[str, tuple[Claims, dict[str, Any]]] = {
    "td": (td(), {}),
    "snp": (snp(), ON_CHIP),
    "out_of_date_by_list": (
        td(tcb=with_status(TcbStatus.OUT_OF_DATE)),
        {
            "settings": ReleaseSettings(
                accepted_tcb=(TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE)
            )
        },
    ),
    "any_platform": (
        td(platform=PlatformIdentity()),
        {"settings": ReleaseSettings(platform=PlatformRule.ANY)},
    ),
    "one_verifier_by_name": (
        td(single_verifier=True),
        {
            "settings": ReleaseSettings(
                verifier_exceptions=(VerifierException.SEPT_VE_ENABLED,)
            )
        },
    ),
    "one_simulated_world": (td(trust_domain=SIM), {"provider_domain": SIM}),
    "rtmr3_replaced_by_owner": (
        td(),
        {"settings": ReleaseSettings(tdx_identity=("mrtd", "mr_owner"))},
    ),
}


@pytest.mark.parametrize("name", GRANTED)
def test_granted(name: str) -> None:
    claims, changes = GRANTED[name]
    grant = decide(claims, keys=DISK, circumstances=circumstances(**changes))
    assert [path.purpose for path in grant.paths] == ["disk"]
    assert all(reason.satisfied for reason in grant.reasons)


def test_attributes_always_enter_the_path() -> None:
    claims = td()
    grant = decide(claims, keys=DISK, circumstances=circumstances())
    workload = grant.paths[0].workload
    assert dict(workload.attributes) == {
        name: claims.measurements[name] for name in ("td_attributes", "xfam")
    }
    assert set(dict(workload.measurements)) == set(ReleaseSettings().tdx_identity)


def test_edited_settings_give_another_path() -> None:
    edited = ReleaseSettings(accepted_tcb=(TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE))
    before = decide(td(), keys=DISK, circumstances=circumstances())
    after = decide(td(), keys=DISK, circumstances=circumstances(settings=edited))
    assert before.paths != after.paths


def test_each_request_gets_its_own_path() -> None:
    asked = (KeyRequest("disk"), KeyRequest("disk", "swap"), KeyRequest("tls", "", 48))
    grant = decide(td(), keys=asked, circumstances=circumstances())
    got = [(p.purpose, p.label, p.length) for p in grant.paths]
    assert got == [("disk", "", 32), ("disk", "swap", 32), ("tls", "", 48)]


def test_simulated_domain_enters_the_path() -> None:
    grant = decide(
        td(trust_domain=SIM),
        keys=DISK,
        circumstances=circumstances(provider_domain=SIM),
    )
    assert grant.paths[0].trust_domain == f"simulated:{SIM.root_key_id}"
