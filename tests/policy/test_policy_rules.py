# SPDX-License-Identifier: Apache-2.0
"""Each rule of a document: claims that it grants, and claims that it denies."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from policy_support import (
    AMD,
    CHIP,
    DISK,
    HERE,
    INTEL,
    NOW,
    SIM,
    around,
    ask,
    circumstances,
    document,
    enclave,
    measured,
    registers,
    snp,
    tcb,
    td,
    value,
)

from tightseal.errors import Code, PolicyError
from tightseal.keys.chain import derive
from tightseal.model.claims import (
    Claims,
    PlatformIdentity,
    SnpTcb,
    TcbStatus,
    Tee,
    TrustDomain,
    Vendor,
)
from tightseal.model.keypath import KeyRequest, ProtocolClass
from tightseal.model.secret import Secret
from tightseal.model.settings import LegacyDerivation
from tightseal.policy.compile import load_policy
from tightseal.policy.engine import Circumstances, explain

ZERO48 = bytes(48)
OTHER = "ab" * 48


@dataclass(frozen=True)
class Rule:
    """One rule: a document, claims that get a key, claims that do not, and the code."""

    text: str
    yes: Claims
    no: Claims
    code: Code
    where: dict[str, Any] = field(default_factory=dict)
    no_where: dict[str, Any] | None = None
    no_now: int = NOW
    no_keys: tuple[KeyRequest, ...] = DISK
    yes_keys: tuple[KeyRequest, ...] = DISK


def differing(name: str, tee: Tee = Tee.TDX) -> Claims:
    changed = {name: value(name, 1)}
    make = {Tee.TDX: td, Tee.SGX: enclave, Tee.SNP: snp}[tee]
    return make(measurements=measured(tee, **changed))


def flag(name: str, said: Any) -> dict[str, Any]:
    return {name: said}


def selector(name: str, rule: str, tee: Tee = Tee.TDX) -> str:
    return document(tee, measurements=f"{name} = {rule}")


def sgx(**changes: bytes) -> Claims:
    return enclave(measurements=measured(Tee.SGX, **changes))


def amd(**changes: bytes) -> Claims:
    return snp(measurements=measured(Tee.SNP, **changes))


BOTH = 'protocols = ["legacy", "v1"]'
COMPATIBLE: dict[str, Any] = {
    "protocol_class": ProtocolClass.LEGACY,
    "legacy_derivation": LegacyDerivation.COMPATIBLE,
}
NOT_ACCEPTED = Code.MEASUREMENTS_NOT_ACCEPTED
PPID, CHIP_ID = (b"p" * 16).hex(), (b"c" * 64).hex()
ATTRIBUTES = "1000000000000000"
MASKED = f'{{ mask = "ff00000000000000", expected = "{ATTRIBUTES}" }}'
UNSET_MASKED = f'{{ mask = "00{"ff" * 47}", expected = "{"00" * 48}" }}'

RULES: dict[str, Rule] = {
    "debug": Rule(document(), td(), td(debug=True), Code.DEBUG_ENABLED),
    "migration_agent": Rule(
        document(Tee.SNP),
        snp(),
        amd(policy=b"\0\0\x07" + bytes(5)),
        Code.SNP_MIGRATABLE,
    ),
    "compatible_formula": Rule(
        document(identity="measured", key=BOTH),
        td(),
        td(),
        Code.TRUST_DOMAIN_MISMATCH,
        where=COMPATIBLE,
        no_where={**COMPATIBLE, "root_simulated": True},
    ),
    "compatible_formula_under_a_simulated_root": Rule(
        document(identity="measured", key=BOTH, rules=f'trust_domain = "{SIM}"'),
        td(trust_domain=SIM),
        td(trust_domain=SIM),
        Code.TRUST_DOMAIN_MISMATCH,
        where={**COMPATIBLE, "provider_domain": SIM, "root_simulated": True},
        no_where={**COMPATIBLE, "provider_domain": SIM},
    ),
    "compatible_formula_knows_no_names": Rule(
        document(key=BOTH),
        td(),
        td(),
        Code.PROTOCOL_NOT_ALLOWED,
        where={"protocol_class": ProtocolClass.LEGACY},
        no_where=COMPATIBLE,
    ),
    "exact": Rule(document(), td(), differing("rtmr2"), NOT_ACCEPTED),
    "absent": Rule(
        document(),
        td(),
        td(measurements={k: v for k, v in td().measurements.items() if k != "rtmr1"}),
        NOT_ACCEPTED,
    ),
    "one_of": Rule(
        selector("rtmr3", f'{{ one_of = ["{OTHER}", "{value("rtmr3").hex()}"] }}'),
        td(),
        differing("rtmr3"),
        NOT_ACCEPTED,
    ),
    "mask": Rule(
        selector("td_attributes", MASKED),
        registers(td_attributes=bytes.fromhex("10000000000000ff")),
        registers(td_attributes=bytes.fromhex("11000000000000ff")),
        NOT_ACCEPTED,
    ),
    "mask_on_all_zero_digest": Rule(
        selector("mr_owner", UNSET_MASKED),
        registers(mr_owner=b"\x01" + bytes(47)),
        registers(mr_owner=ZERO48),
        NOT_ACCEPTED,
    ),
    "zero": Rule(
        selector("mr_owner", "{ zero = true }"),
        registers(mr_owner=ZERO48),
        td(),
        NOT_ACCEPTED,
    ),
    "zero_is_a_value_in_flags": Rule(
        selector("td_attributes", f'"{"00" * 8}"'),
        registers(td_attributes=bytes(8)),
        td(),
        NOT_ACCEPTED,
    ),
    "minimum_isv_svn": Rule(
        selector("isv_svn", "{ minimum = 256 }", Tee.SGX),
        sgx(isv_svn=b"\x00\x01"),
        sgx(isv_svn=b"\xff\x00"),
        NOT_ACCEPTED,
    ),
    "minimum_config_svn": Rule(
        selector("config_svn", "{ minimum = 7 }", Tee.SGX),
        sgx(config_svn=b"\x07\x00"),
        sgx(config_svn=b"\x06\x00"),
        NOT_ACCEPTED,
    ),
    "minimum_guest_svn": Rule(
        selector("guest_svn", "{ minimum = 2 }", Tee.SNP),
        amd(guest_svn=b"\x02\0\0\0"),
        amd(guest_svn=b"\x01\0\0\0"),
        NOT_ACCEPTED,
    ),
    "number": Rule(
        selector("vmpl", "0", Tee.SNP),
        amd(vmpl=bytes(4)),
        amd(vmpl=b"\x01\0\0\0"),
        NOT_ACCEPTED,
    ),
    "tee": Rule(document(), td(), enclave(), NOT_ACCEPTED),
    "from": Rule(
        document(image="from = 2026-09-01T00:00:00Z"),
        td(),
        td(),
        Code.IMAGE_NOT_YET_VALID,
        where={"signed_time": NOW},
        no_where={"signed_time": 1_780_000_000},  # though the clock says NOW
    ),
    "until": Rule(
        document(image="until = 2026-10-01T02:00:00+02:00"),
        td(),
        td(),
        Code.IMAGE_EXPIRED,
        no_now=1_790_812_800,
    ),
    "provider_domain": Rule(
        document(),
        td(),
        td(trust_domain=SIM),
        Code.TRUST_DOMAIN_MISMATCH,
    ),
    "trust_domain": Rule(
        document(rules=f'trust_domain = "{SIM}"'),
        td(trust_domain=SIM),
        td(),
        Code.TRUST_DOMAIN_MISMATCH,
        where={"provider_domain": SIM},
        no_where={"provider_domain": INTEL},
    ),
    "another_simulated_world": Rule(
        document(rules=f'trust_domain = "{SIM}"'),
        td(trust_domain=SIM),
        td(trust_domain=TrustDomain(Vendor.SIMULATED, "cc" * 48)),
        Code.TRUST_DOMAIN_MISMATCH,
        where={"provider_domain": SIM},
    ),
    "platform_same": Rule(
        document(),
        td(),
        td(platform=replace(HERE, ppid=b"q" * 16)),
        Code.PLATFORM_MISMATCH,
    ),
    "platform_unknown": Rule(
        document(), td(), td(platform=PlatformIdentity()), Code.PLATFORM_UNKNOWN
    ),
    "platform_both_unknown": Rule(
        document(),
        td(),
        td(platform=PlatformIdentity()),
        Code.PLATFORM_UNKNOWN,
        no_where={"provider_platform": PlatformIdentity()},
    ),
    "platform_any": Rule(
        document(rules='platform = "any"'),
        td(platform=PlatformIdentity()),
        td(platform=PlatformIdentity(), debug=True),
        Code.DEBUG_ENABLED,
    ),
    "platform_ppid": Rule(
        document(rules=f'platform = [{{ ppid = "{PPID}" }}]'),
        td(),
        td(platform=replace(HERE, ppid=b"q" * 16)),
        Code.PLATFORM_MISMATCH,
        where={"provider_platform": PlatformIdentity(ppid=b"z" * 16)},
    ),
    "platform_piid": Rule(
        document(rules=f'platform = [{{ piid = "{(b"i" * 16).hex()}" }}]'),
        td(),
        td(platform=replace(HERE, piid=None)),
        Code.PLATFORM_MISMATCH,
    ),
    "platform_fmspc": Rule(
        document(rules=f'platform = [{{ fmspc = "{(b"f" * 6).hex()}" }}]'),
        td(),
        td(platform=replace(HERE, fmspc=b"g" * 6)),
        Code.PLATFORM_MISMATCH,
    ),
    "platform_all_ids_of_an_entry": Rule(
        document(
            rules=f'platform = [{{ ppid = "{PPID}", piid = "{(b"i" * 16).hex()}" }}]'
        ),
        td(),
        td(platform=replace(HERE, piid=b"j" * 16)),
        Code.PLATFORM_MISMATCH,
    ),
    "platform_chip_id": Rule(
        document(Tee.SNP, rules=f'platform = [{{ chip_id = "{CHIP_ID}" }}]'),
        snp(),
        snp(platform=PlatformIdentity(chip_id=b"d" * 64)),
        Code.PLATFORM_MISMATCH,
        where={"provider_domain": AMD},
    ),
    "two_verifiers": Rule(
        document(), td(), td(single_verifier=True), Code.SINGLE_VERIFIER_NOT_ACCEPTED
    ),
    "one_verifier": Rule(
        document(rules='single_verifier = "accept"'),
        td(single_verifier=True),
        td(single_verifier=True, debug=True),
        Code.DEBUG_ENABLED,
    ),
    "one_verifier_refused_for_snp": Rule(
        document(Tee.SNP, rules='single_verifier = "refuse"'),
        snp(single_verifier=False),
        snp(),
        Code.SINGLE_VERIFIER_NOT_ACCEPTED,
        where={"provider_platform": CHIP, "provider_domain": AMD},
    ),
    **{
        f"status_{status.value}": Rule(
            document(tcb_rules=f'statuses = ["UpToDate", "{status.value}"]'),
            td(tcb=tcb(status)),
            td(
                tcb=tcb(
                    TcbStatus.OUT_OF_DATE
                    if status is not TcbStatus.OUT_OF_DATE
                    else TcbStatus.CONFIGURATION_NEEDED
                )
            ),
            Code.TCB_STATUS_NOT_ACCEPTED,
        )
        for status in TcbStatus
        if status not in {TcbStatus.REVOKED, TcbStatus.UP_TO_DATE}
    },
    "status_by_default": Rule(
        document(),
        td(),
        td(tcb=tcb(TcbStatus.SW_HARDENING_NEEDED)),
        Code.TCB_STATUS_NOT_ACCEPTED,
    ),
    "grace": Rule(
        document(
            tcb_rules='grace = { statuses = ["OutOfDate"], '
            "until = 2026-10-01T00:00:00Z }"
        ),
        td(tcb=tcb(TcbStatus.OUT_OF_DATE)),
        td(tcb=tcb(TcbStatus.OUT_OF_DATE)),
        Code.TCB_STATUS_NOT_ACCEPTED,
        no_now=1_790_812_800,
    ),
    "refuse_advisories": Rule(
        document(tcb_rules='refuse_advisories = ["INTEL-SA-00837"]'),
        td(tcb=tcb(advisory_ids=frozenset({"INTEL-SA-00614"}))),
        td(tcb=tcb(advisory_ids=frozenset({"INTEL-SA-00614", "INTEL-SA-00837"}))),
        Code.TCB_ADVISORY_NOT_ACCEPTED,
    ),
    "tolerate_advisories": Rule(
        document(tcb_rules='tolerate_advisories = ["INTEL-SA-00837"]'),
        td(tcb=tcb(advisory_ids=frozenset({"INTEL-SA-00837"}))),
        td(tcb=tcb(advisory_ids=frozenset({"INTEL-SA-00614", "INTEL-SA-00837"}))),
        Code.TCB_ADVISORY_NOT_ACCEPTED,
    ),
    "tolerate_nothing": Rule(
        document(tcb_rules="tolerate_advisories = []"),
        td(),
        td(tcb=tcb(advisory_ids=frozenset({"INTEL-SA-00614"}))),
        Code.TCB_ADVISORY_NOT_ACCEPTED,
    ),
    "minimum_evaluation": Rule(
        document(tcb_rules="minimum_evaluation = 17"),
        td(),
        td(tcb=tcb(evaluation_number=16)),
        Code.TCB_EVALUATION_TOO_OLD,
    ),
    **{
        f"{option}_{said}": Rule(
            document(tcb_rules=f'{option} = "refuse"'),
            td(),
            td(tcb=replace(tcb(), **flag(claim, said))),
            Code.PLATFORM_OPTION_NOT_ACCEPTED,
        )
        for option, claim in (
            ("dynamic_platform", "dynamic_platform"),
            ("cached_keys", "cached_keys"),
            ("smt", "smt_enabled"),
        )
        for said in (True, None)
    },
    **{
        f"snp_tcb_{part}": Rule(
            document(Tee.SNP, tcb_rules=f"snp = {{ {part} = 9 }}"),
            snp(snp_tcb=SnpTcb(9, 9, 9, 9, 9)),
            snp(snp_tcb=replace(SnpTcb(9, 9, 9, 9, 9), **flag(part, less))),
            Code.TCB_STATUS_NOT_ACCEPTED,
            where={"provider_platform": CHIP, "provider_domain": AMD},
        )
        for part, less in (
            ("bootloader", 8),
            ("tee", 8),
            ("snp", 8),
            ("microcode", 8),
            ("fmc", None),
        )
    },
    "measured": Rule(
        document(identity="measured"),
        td(),
        td(
            measurements={
                k: v for k, v in td().measurements.items() if k != "mr_config_id"
            }
        ),
        Code.MEASUREMENT_UNAVAILABLE,
    ),
    "measured_without_rtmr3": Rule(
        document(identity="measured", rules='binds = ["mrtd", "mr_owner"]'),
        td(),
        registers(mr_owner=ZERO48),
        Code.IDENTITY_UNBOUND,
    ),
    "purpose": Rule(
        document(),
        td(),
        td(),
        Code.PURPOSE_NOT_ALLOWED,
        no_keys=(*DISK, KeyRequest("tls")),
    ),
    "no_key_asked_for": Rule(
        document(), td(), td(), Code.PURPOSE_NOT_ALLOWED, no_keys=()
    ),
    "length": Rule(
        document(key="length = 64"),
        td(),
        td(),
        Code.KEY_LENGTH_NOT_ALLOWED,
        yes_keys=(KeyRequest("disk", "", 64),),
    ),
    "label_by_default": Rule(
        document(),
        td(),
        td(),
        Code.KEY_LABEL_NOT_ALLOWED,
        no_keys=(KeyRequest("disk", "swap"),),
    ),
    "label_pattern": Rule(
        document(key='labels = ["volume-*-data"]'),
        td(),
        td(),
        Code.KEY_LABEL_NOT_ALLOWED,
        yes_keys=(KeyRequest("disk", "volume-7-data"),),
        no_keys=(KeyRequest("disk", "volume-data"),),
    ),
    "legacy": Rule(
        document(key='protocols = ["legacy", "v1"]'),
        td(),
        td(tcb=tcb(TcbStatus.OUT_OF_DATE)),
        Code.TCB_STATUS_NOT_ACCEPTED,
        where={"protocol_class": ProtocolClass.LEGACY},
    ),
    "legacy_by_default": Rule(
        document(),
        td(),
        td(),
        Code.PROTOCOL_NOT_ALLOWED,
        no_where={"protocol_class": ProtocolClass.LEGACY},
    ),
}


def place(rule: Rule, changes: dict[str, Any] | None) -> Circumstances:
    if rule.yes.tee is Tee.SNP:
        return around(rule.yes)
    return circumstances(**(rule.where if changes is None else changes))


@pytest.mark.parametrize("name", RULES)
def test_granted(name: str) -> None:
    rule = RULES[name]
    grant = ask(rule.yes, rule.text, where=place(rule, None), keys=rule.yes_keys)
    assert [path.purpose for path in grant.paths] == [k.purpose for k in rule.yes_keys]
    assert grant.reasons
    assert all(reason.satisfied for reason in grant.reasons)
    for path in grant.paths:
        assert len(derive(Secret(b"k" * 32), path)) == path.length


@pytest.mark.parametrize("name", RULES)
def test_denied(name: str) -> None:
    rule = RULES[name]
    where = place(rule, rule.no_where)
    with pytest.raises(PolicyError) as caught:
        ask(rule.no, rule.text, where=where, keys=rule.no_keys, now=rule.no_now)
    assert caught.value.code is rule.code
    assert [r.satisfied for r in caught.value.reasons][-1] is False  # type: ignore[attr-defined]
    if rule.no_keys:
        told = explain(
            rule.no,
            keys=rule.no_keys,
            policy=load_policy(rule.text),
            circumstances=where,
            now=rule.no_now,
        )
        assert (told.granted, told.code) == (False, rule.code)
