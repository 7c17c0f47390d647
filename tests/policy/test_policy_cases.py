# SPDX-License-Identifier: Apache-2.0
"""Claims files, expected decisions, differences, and first documents."""

import json
from typing import Any

import pytest
from eventlog_support import APP_ID, COMPOSE_HASH, booted
from policy_support import (
    DISK,
    NOW,
    around,
    ask,
    document,
    enclave,
    registers,
    snp,
    td,
    value,
)

from tightseal.cli.verdict import Verdict
from tightseal.cli.verdict import document as verdict_document
from tightseal.errors import Code, EvidenceError, SettingsError
from tightseal.model.claims import Claims, PlatformIdentity, SnpTcb
from tightseal.model.keypath import IdentityKind
from tightseal.policy.cases import judge_as, read_cases, run
from tightseal.policy.claimsfile import read_claims
from tightseal.policy.compile import load_policy
from tightseal.policy.diff import Difference, differences
from tightseal.policy.eventlog import replay_event_log
from tightseal.policy.lint import Severity, lint
from tightseal.policy.read import parse
from tightseal.policy.start import LEFT_OUT, first_document, from_claims
from tightseal_sim.intel.eventlog import replay
from tightseal_sim.intel.eventlog_wire import to_dstack_json


def claims_json(claims: Claims) -> dict[str, Any]:
    return verdict_document(Verdict(claims))


def encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize("claims", [td(), enclave(), snp(), td(debug=True)])
def test_claims_of_a_verdict_decide_as_the_claims_do(claims: Claims) -> None:
    got = read_claims(encoded(claims_json(claims)), name="c.json")
    for field in ("tee", "measurements", "debug", "platform", "single_verifier"):
        assert getattr(got, field) == getattr(claims, field)
    assert str(got.trust_domain) == str(claims.trust_domain)
    if claims.tcb is not None:
        assert got.tcb is not None
        assert got.tcb.status is claims.tcb.status
        assert got.tcb.evaluation_number == claims.tcb.evaluation_number


def test_what_verify_does_not_print_may_be_added() -> None:
    form = claims_json(snp())
    form["tcb"]["snp"] = {"bootloader": 3, "snp": 8, "microcode": 115}
    assert read_claims(encoded(form), name="c").snp_tcb == SnpTcb(3, 0, 8, 115)
    form = claims_json(td())
    form["tcb"] |= {"smt_enabled": True, "cached_keys": False}
    tcb = read_claims(encoded(form), name="c").tcb
    assert tcb is not None
    assert (tcb.smt_enabled, tcb.cached_keys, tcb.dynamic_platform) == (
        True,
        False,
        None,
    )


def broken(**changes: Any) -> bytes:
    return encoded(claims_json(td()) | changes)


REFUSED = {
    "not_json": b"{",
    "no_object": b"[]",
    "too_long": b" " * ((1 << 20) + 1),
    "rejected": broken(verdict="rejected"),
    "no_tee": broken(tee=None),
    "no_domain": broken(trust_domain=None),
    "unknown_domain": broken(trust_domain="arm"),
    "unknown_measurement": broken(measurements={"pcr0": "00"}),
    "measurement_not_hex": broken(measurements={"mrtd": "xy"}),
    "no_attributes": broken(measurements={"mrtd": "ab" * 48}),
    "platform_not_hex": broken(platform={"ppid": "xy"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_claims_that_are_refused(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_claims(REFUSED[name], name="c.json")
    assert caught.value.code is Code.POLICY_INVALID
    assert caught.value.detail.startswith("c.json: ")


def test_an_all_zero_platform_id_is_none() -> None:
    form = broken(platform={"ppid": "00" * 16, "chip_id": ""})
    assert read_claims(form, name="c").platform == PlatformIdentity()


def test_what_is_not_said_is_taken_for_the_worse() -> None:
    claims = read_claims(broken(debug=None, single_verifier=None), name="c")
    assert (claims.debug, claims.single_verifier) == (True, True)


CASE = """version = 1
[[case]]
claims = "good.json"
at = 2026-10-05T00:00:00Z
"""
LOG = booted()
RTMRS = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")
MEASURED = registers(
    td_attributes=bytes(8), **dict(zip(RTMRS, replay(LOG), strict=True))
)
CLAIMS = {
    "good.json": td(),
    "other.json": registers(rtmr2=value("rtmr2", 1)),
    "booted.json": MEASURED,
}
LOGS = {"log.json": to_dstack_json(LOG)}

ASKED = 'key = [{ purpose = "disk" }]'

PASSING = {
    "granted": 'workload = "default/database"\nimage = "2026-10"',
    "granted_keys": 'key = [{ purpose = "disk" }]',
    "denied_keys": 'key = [{ purpose = "tls" }]\nexpect = "purpose_not_allowed"',
    "elsewhere": 'provider = "elsewhere"\nexpect = "platform_mismatch"',
    "legacy": 'key = [{ purpose = "disk" }]\nprotocol = "legacy"\n'
    'expect = "protocol_not_allowed"',
}
FAILING = {
    "wrongly_granted": 'expect = "debug_enabled"',
    "another_code": 'key = [{ purpose = "tls" }]\nexpect = "debug_enabled"',
    "another_workload": 'workload = "default/web"',
    "another_image": 'image = "2026-11"',
    "wrongly_denied": 'key = [{ purpose = "tls" }]',
}


@pytest.mark.parametrize("name", [*PASSING, *FAILING])
def test_expected_decisions(name: str) -> None:
    cases = read_cases(CASE + (PASSING | FAILING)[name])
    policy = load_policy(document())
    (result,) = run(
        policy, cases, claims_of=CLAIMS.__getitem__, log_of=LOGS.__getitem__
    )
    assert result.passed is (name in PASSING), result.got
    assert result.place == "cases.toml:2:1"


def test_a_case_of_other_claims_names_the_nearest_image() -> None:
    text = CASE.replace("good", "other") + 'expect = "measurements_not_accepted"'
    (result,) = run(
        load_policy(document()),
        read_cases(text),
        claims_of=CLAIMS.__getitem__,
        log_of=LOGS.__getitem__,
    )
    assert result.passed
    assert result.explanation.nearest.startswith("rtmr2 differs; all else matches")


def composed() -> str:
    return from_claims(
        MEASURED,
        tenant="default",
        name="database",
        identity=IdentityKind.NAMED,
        label="2026-10",
        purpose="disk",
        events=replay_event_log(LOGS["log.json"], MEASURED),
    )


@pytest.mark.parametrize(
    "more",
    [
        'event_log = "log.json"\nworkload = "default/database"',
        'expect = "measurements_not_accepted"',
    ],
    ids=["with_its_log", "without"],
)
def test_a_case_may_have_an_event_log(more: str) -> None:
    cases = read_cases(CASE.replace("good", "booted") + more)
    (result,) = run(
        load_policy(composed()),
        cases,
        claims_of=CLAIMS.__getitem__,
        log_of=LOGS.__getitem__,
    )
    assert result.passed, result.got


def test_a_case_with_a_log_of_other_evidence_is_refused() -> None:
    cases = read_cases(CASE + 'event_log = "log.json"')
    with pytest.raises(EvidenceError) as caught:
        run(
            load_policy(composed()),
            cases,
            claims_of=CLAIMS.__getitem__,
            log_of=LOGS.__getitem__,
        )
    assert caught.value.code is Code.EVENT_LOG_MISMATCH


PUBLIC = '\nkey = [{ purpose = "disk", part = "public" }]'
IMPORT = '\nkey = [{ purpose = "disk", imported = true }]'
USE = '\nkey = [{ purpose = "disk", use = "agree" }]'
CREATE = '\nkey = [{ purpose = "disk", create = true }]'


@pytest.mark.parametrize(
    ("rules", "more"),
    [
        ('type = "x25519"', PUBLIC),
        ("", f'expect = "key_part_not_allowed"{PUBLIC}'),
        ('source = "wrapped"', CREATE),
        ("", f'expect = "create_not_allowed"{CREATE}'),
        ('source = "wrapped"\nimports = true', IMPORT),
        ('source = "wrapped"', f'expect = "import_not_allowed"{IMPORT}'),
        ('type = "p256"\nuses = ["agree"]', USE),
        ('type = "p256"\nuses = ["sign"]', f'expect = "use_not_allowed"{USE}'),
        ("usage.windows = [{ from = 2026-10-05T00:00:00Z }]", ASKED),
        (
            "usage.windows = [{ from = 2026-10-05T00:00:01Z }]",
            f'expect = "usage_window_closed"\n{ASKED}',
        ),
    ],
    ids=[
        "public",
        "raw",
        "create",
        "derived",
        "import",
        "no_import",
        "use",
        "another_use",
        "window_open",
        "window_closed",
    ],
)
def test_cases_of_parts_and_windows(rules: str, more: str) -> None:
    (result,) = run(
        load_policy(document(key=rules)),
        read_cases(CASE + more),
        claims_of=CLAIMS.__getitem__,
        log_of=LOGS.__getitem__,
    )
    assert result.passed, result.got


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ('expect = "no_such_code"', "cases.toml:5:1: case[0].expect: "),
        ('event_log = "../x"', "cases.toml:5:1: case[0].event_log: "),
        ("exepct = 3", "cases.toml:5:1: case[0].exepct: "),
        ("key = [{ purpose = 3 }]", "cases.toml:5:10: case[0].key[0].purpose: "),
    ],
)
def test_cases_that_are_refused(more: str, place: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_cases(CASE + more)
    assert caught.value.detail.startswith(place)


@pytest.mark.parametrize("name", ["../x.json", "/etc/x", "a/b", ".x"])
def test_cases_name_files_of_their_own_folder(name: str) -> None:
    with pytest.raises(SettingsError, match=r"case\[0\]\.claims"):
        read_cases(CASE.replace("good.json", name))


# -- first documents and differences ----------------------------------------------


@pytest.mark.parametrize("identity", IdentityKind)
@pytest.mark.parametrize("claims", [td(), enclave(), snp()], ids=lambda c: c.tee.value)
def test_a_document_from_claims_grants_them(
    claims: Claims, identity: IdentityKind
) -> None:
    text = from_claims(
        claims, tenant="t", name="w", identity=identity, label="a b", purpose="disk"
    )
    grant = ask(claims, text)
    assert grant.paths[0].tenant == "t"
    for name, got in claims.measurements.items():
        changed = dict(claims.measurements) | {name: bytes(b ^ 4 for b in got)}
        other = type(claims)(
            **{
                field: getattr(claims, field)
                for field in claims.__slots__
                if field != "measurements"
            },
            measurements=changed,
        )
        told = judge_as(
            other,
            keys=DISK,
            policy=load_policy(text),
            elsewhere=False,
            protocol=around(claims).protocol_class,
            now=NOW,
        )
        assert told.granted is (name in LEFT_OUT), name


def test_a_document_from_unset_fields_requires_them_unset() -> None:
    claims = registers(rtmr3=bytes(48), td_attributes=bytes(8))
    text = from_claims(
        claims,
        tenant="t",
        name="w",
        identity=IdentityKind.NAMED,
        label="a",
        purpose="disk",
    )
    assert "rtmr3 = { zero = true }" in text
    assert ask(claims, text).paths
    dangers = [f for f in lint([parse(text)], now=NOW) if f.severity is Severity.DANGER]
    assert dangers == []


def test_the_first_document_compiles_and_lint_says_what_is_missing() -> None:
    found = lint([parse(first_document())], now=NOW)
    assert [finding.id.value for finding in found] == ["empty-set"]


def test_no_difference_between_two_spellings() -> None:
    one = document(
        tcb_rules='statuses = ["UpToDate", "OutOfDate"]',
        image="until = 2026-10-01T02:00:00+02:00",
    )
    other = document(
        tcb_rules='statuses = ["OutOfDate", "UpToDate"]',
        image="until = 2026-10-01T00:00:00Z",
        rules='platform = "same" # the default\ntenant = "default"',
    )
    assert differences([parse(one)], [parse(other)]) == ()


def test_differences_are_named_by_field() -> None:
    before = document(key="length = 32")
    after = document(
        key="length = 64", measurements=f'rtmr2 = "{"ab" * 48}"', more='labels = ["a"]'
    )
    found = differences([parse(before)], [parse(after)])
    rtmr2 = "image[2026-10].measurements.rtmr2"
    assert found == (
        Difference("default/database", rtmr2, value("rtmr2").hex(), "ab" * 48),
        Difference("default/database", "key[disk].labels", "''", "a"),
        Difference("default/database", "key[disk].length", "32", "64"),
    )


def test_a_document_from_a_log_selects_the_compose_file_in_place_of_rtmr3() -> None:
    rules = parse(composed()).document.workload[0]
    image = rules.image[0]
    assert image.events == {"app-id": APP_ID.hex(), "compose-hash": COMPOSE_HASH.hex()}
    assert "rtmr3" not in image.measurements
    found = lint([parse(composed())], now=NOW)
    assert [f for f in found if f.severity is Severity.DANGER] == []


def test_a_document_from_a_log_without_a_compose_file_selects_rtmr3() -> None:
    log = to_dstack_json(LOG[:-3])  # without the boundary nothing is an identity
    cut = registers(**dict(zip(RTMRS, replay(LOG[:-3]), strict=True)))
    text = from_claims(
        cut,
        tenant="t",
        name="w",
        identity=IdentityKind.NAMED,
        label="a",
        purpose="disk",
        events=replay_event_log(log, cut),
    )
    image = parse(text).document.workload[0].image[0]
    assert image.events == {}
    assert "rtmr3" in image.measurements


ROLE = f'[[role]]\nname = "ops"\nthreshold = 1\nkeys = ["{"ab" * 32}"]\nactions = '


def test_differences_of_events_usage_and_roles() -> None:
    def with_parts(digest: str, per_hour: int, actions: str) -> str:
        logged = f'{{ register = "rtmr1", digest = "{digest * 48}", about = "kernel" }}'
        return document(
            image=f"logged = [{logged}]",
            measurements=f'[workload.image.events]\napp-id = "{digest}"',
            key=f"usage = {{ per_hour = {per_hour} }}",
            more=ROLE + actions,
        )

    before = with_parts("ab", 2, '["adopt"]')
    after = with_parts("cd", 3, '["adopt", "reset-usage"]')
    found = differences([parse(before)], [parse(after)])
    changes = {(d.workload, d.field): (d.before, d.after) for d in found}
    kernel = "register rtmr1; digest {}; about kernel"
    workload = "default/database"
    assert changes == {
        (workload, "image[2026-10].events.app-id"): ("ab", "cd"),
        (workload, "image[2026-10].logged"): (
            kernel.format("ab" * 48),
            kernel.format("cd" * 48),
        ),
        (workload, "key[disk].usage.per_hour"): ("2", "3"),
        ("role ops", "actions"): ("adopt", "adopt, reset-usage"),
    }


def test_a_role_on_one_side_alone() -> None:
    one = "version = 1\n" + ROLE + '["adopt"]'
    found = differences(
        [parse(one)], [parse(one.replace('"ops"', '"ops"\ntenant="a"'))]
    )
    assert [(d.workload, d.before) for d in found] == [
        ("role a/ops", "-"),
        ("role ops", "present"),
    ]


def test_workloads_on_one_side_alone() -> None:
    found = differences([parse(document(name="a"))], [parse(document(name="b"))])
    assert found == (
        Difference("default/a", "", "present", "-"),
        Difference("default/b", "", "-", "present"),
    )


def test_uses_and_imports_are_compared() -> None:
    before = document(key='type = "p256"\nuses = ["sign"]')
    after = document(key='type = "p256"\nuses = ["sign", "agree"]\nsource = "wrapped"')
    found = differences([parse(before)], [parse(f"{after}\nimports = true")])
    assert {(d.field, d.before, d.after) for d in found} == {
        ("key[disk].uses", "sign", "agree, sign"),
        ("key[disk].source", "derived", "wrapped"),
        ("key[disk].imports", "false", "true"),
    }
