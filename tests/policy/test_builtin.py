# SPDX-License-Identifier: Apache-2.0
"""The built-in policy: each rule says no by its code; paths carry what they must."""

from dataclasses import replace
from typing import Any

import policy_support as support
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
from tightseal.model.grant import Grant
from tightseal.model.keypath import KeyPart, KeyRequest
from tightseal.model.settings import PlatformRule, ReleaseSettings, SnpMinimum
from tightseal.model.verifiers import VerifierException
from tightseal.policy.builtin import builtin_policy
from tightseal.policy.compile import load_policy
from tightseal.policy.engine import Circumstances, decide
from tightseal.policy.eventlog.facts import EventFacts, LogFormat

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


NOW = 1_790_000_000
DEFAULTS = ReleaseSettings()


def asked(
    claims: Claims,
    *,
    keys: tuple[KeyRequest, ...],
    settings: ReleaseSettings = DEFAULTS,
    **changes: Any,
) -> Grant:
    base = Circumstances(
        authority=settings.authority(),
        provider_platform=HERE,
        provider_domain=INTEL,
        legacy_derivation=settings.legacy.derivation,
    )
    return decide(
        claims,
        keys=keys,
        policy=builtin_policy(settings),
        circumstances=replace(base, **changes),
        now=NOW,
    )


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
        asked(claims, keys=DISK, **changes)
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
    grant = asked(claims, keys=DISK, **changes)
    assert [path.purpose for path in grant.paths] == ["disk"]
    assert all(reason.satisfied for reason in grant.reasons)


def test_attributes_always_enter_the_path() -> None:
    claims = td()
    grant = asked(claims, keys=DISK)
    workload = grant.paths[0].workload
    assert dict(workload.attributes) == {
        name: claims.measurements[name] for name in ("td_attributes", "xfam")
    }
    assert set(dict(workload.measurements)) == set(ReleaseSettings().tdx_identity)


def test_edited_settings_give_another_path() -> None:
    edited = ReleaseSettings(accepted_tcb=(TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE))
    before = asked(td(), keys=DISK)
    after = asked(td(), keys=DISK, settings=edited)
    assert before.paths != after.paths


def test_each_request_gets_its_own_path() -> None:
    keys = (KeyRequest("disk"), KeyRequest("disk", "swap"), KeyRequest("tls", "", 48))
    grant = asked(td(), keys=keys)
    got = [(p.purpose, p.label, p.length) for p in grant.paths]
    assert got == [("disk", "", 32), ("disk", "swap", 32), ("tls", "", 48)]


def test_simulated_domain_enters_the_path() -> None:
    grant = asked(td(trust_domain=SIM), keys=DISK, provider_domain=SIM)
    assert grant.paths[0].trust_domain == f"simulated:{SIM.root_key_id}"


def test_a_public_half_of_a_raw_key_is_refused() -> None:
    with pytest.raises(PolicyError) as caught:
        asked(td(), keys=(KeyRequest("disk", part=KeyPart.PUBLIC),))
    assert caught.value.code is Code.KEY_PART_NOT_ALLOWED


def test_no_key_is_no_question() -> None:
    with pytest.raises(PolicyError) as caught:
        asked(td(), keys=())
    assert caught.value.code is Code.PURPOSE_NOT_ALLOWED


def test_a_grant_names_nobody_and_demands_nothing() -> None:
    grant = asked(td(), keys=DISK)
    assert (grant.workload, grant.image, grant.usage) == ("", "", ())
    assert grant.adopted == (None,)


def test_an_event_log_changes_nothing() -> None:
    """Keys of the built-in policy belong to measurements alone."""
    events = EventFacts(LogFormat.DSTACK, {}, ("rtmr3",), True, {"app-id": b"a"})
    given: dict[str, Any] = {
        "keys": DISK,
        "policy": builtin_policy(ReleaseSettings()),
        "circumstances": Circumstances(ReleaseSettings().authority(), HERE, INTEL),
        "now": NOW,
    }
    assert decide(td(), **given) == decide(td(), events=events, **given)


DOCUMENT = """
version = 1
[[workload]]
name = "any"
identity = "measured"
tee = "{tee}"
[[workload.image]]
label = "all"
[workload.image.measurements]
{selectors}
[[workload.key]]
purpose = "disk"
"""


@pytest.mark.parametrize("tee", [Tee.TDX, Tee.SNP])
def test_a_measured_workload_of_a_document_has_the_same_path(tee: Tee) -> None:
    """One engine: what a document says as the settings do derives the same key."""
    claims = support.td() if tee is Tee.TDX else support.snp()
    where = {
        "provider_platform": claims.platform,
        "provider_domain": claims.trust_domain,
    }
    launch = "mrtd" if tee is Tee.TDX else "snp_measurement"
    text = DOCUMENT.format(
        tee=tee.value, selectors=f'{launch} = "{claims.measurements[launch].hex()}"'
    )
    authority = ReleaseSettings().authority()
    documented = decide(
        claims,
        keys=DISK,
        policy=load_policy(text),
        circumstances=Circumstances(authority, claims.platform, claims.trust_domain),
        now=NOW,
    )
    assert asked(claims, keys=DISK, **where).paths == documented.paths
