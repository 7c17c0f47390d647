# SPDX-License-Identifier: Apache-2.0
"""Keys of a workload: types, parts, adoption, usage, windows, Cedar, publication."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from policy_support import (
    AMD,
    DISK,
    NOW,
    SIM,
    ask,
    circumstances,
    document,
    td,
    value,
)

from tightseal.errors import Code, PolicyError
from tightseal.model.grant import Grant
from tightseal.model.keypath import (
    KeyPart,
    KeyRequest,
    KeyType,
    ProtocolClass,
)
from tightseal.model.keyuse import KeyUse, Operation
from tightseal.model.usage import UsageDemand, UsageRule, key_record
from tightseal.policy.compile import load_policy
from tightseal.policy.engine import explain
from tightseal.policy.published import grant_published

PAIRS = [kind for kind in KeyType if kind is not KeyType.RAW]
PUBLIC = (KeyRequest("disk", part=KeyPart.PUBLIC),)
SIGNED = (KeyRequest("disk", use=KeyUse(Operation.SIGN)),)
PAIR = 'type = "ed25519"'
OPENED = "2026-09-01T00:00:00Z"
OPENED_AT = 1_788_220_800
ENDED = "2026-09-21T14:13:20Z"  # NOW
RECORD = key_record(tenant="default", workload="database", purpose="disk")


def usage(rules: str, more: str = "") -> str:
    return f"{more}\nusage = {{ {rules} }}"


def signed(time: int) -> dict[str, Any]:
    return {"signed_time": time}


@dataclass(frozen=True)
class Rule:
    """Lines of a key; a request that it grants, one that it denies, and the code."""

    key: str
    code: Code
    yes: tuple[KeyRequest, ...] = DISK
    no: tuple[KeyRequest, ...] = DISK
    yes_where: dict[str, Any] = field(default_factory=dict)
    no_where: dict[str, Any] = field(default_factory=dict)
    no_now: int = NOW


CLOSED = Code.USAGE_WINDOW_CLOSED
WINDOW = usage(f"windows = [{{ from = {OPENED}, until = 2026-10-01T00:00:00Z }}]")
SPRING = "{ from = 2026-03-01T00:00:00Z, until = 2026-06-01T00:00:00Z }"
AUTUMN = f"{{ from = {OPENED} }}"

RULES: dict[str, Rule] = {
    "raw_has_no_public_part": Rule("", Code.KEY_PART_NOT_ALLOWED, no=PUBLIC),
    "public_alone": Rule(
        f'{PAIR}\nparts = ["public"]', Code.KEY_PART_NOT_ALLOWED, yes=PUBLIC
    ),
    "private_alone": Rule(
        f'{PAIR}\nparts = ["private"]', Code.KEY_PART_NOT_ALLOWED, no=PUBLIC
    ),
    "uses_are_none_by_default": Rule(PAIR, Code.USE_NOT_ALLOWED, no=SIGNED),
    "one_use": Rule(
        f'{PAIR}\nparts = ["public"]\nuses = ["sign"]',
        Code.USE_NOT_ALLOWED,
        yes=SIGNED,
        no=(KeyRequest("disk", use=KeyUse(Operation.AGREE)),),
    ),
    "use_is_no_release": Rule(
        f'{PAIR}\nparts = ["public"]\nuses = ["sign"]',
        Code.KEY_PART_NOT_ALLOWED,
        yes=SIGNED,
    ),
    "use_of_the_public_part": Rule(
        f'{PAIR}\nuses = ["sign"]',
        Code.USE_NOT_ALLOWED,
        yes=SIGNED,
        no=(replace(SIGNED[0], part=KeyPart.PUBLIC),),
    ),
    "use_makes_no_derived_key": Rule(
        f'{PAIR}\nuses = ["sign"]',
        Code.CREATE_NOT_ALLOWED,
        yes=SIGNED,
        no=(replace(SIGNED[0], create=True),),
    ),
    "length_of_a_private_half": Rule(
        PAIR,
        Code.KEY_LENGTH_NOT_ALLOWED,
        no=(KeyRequest("disk", "", 33),),
    ),
    "length_of_a_public_half": Rule(
        PAIR,
        Code.KEY_LENGTH_NOT_ALLOWED,
        yes=PUBLIC,
        no=(KeyRequest("disk", "", 64, KeyPart.PUBLIC),),
    ),
    "label_of_a_public_half": Rule(
        PAIR,
        Code.KEY_LABEL_NOT_ALLOWED,
        yes=PUBLIC,
        no=(KeyRequest("disk", "x", part=KeyPart.PUBLIC),),
    ),
    "window": Rule(
        WINDOW, CLOSED, yes_where=signed(OPENED_AT), no_where=signed(OPENED_AT - 1)
    ),
    "window_that_only_the_clock_says_is_open": Rule(
        WINDOW, CLOSED, yes_where=signed(OPENED_AT), no_now=1_790_812_799
    ),
    "window_that_is_over": Rule(
        WINDOW,
        CLOSED,
        yes_where=signed(OPENED_AT),
        no_where=signed(OPENED_AT),
        no_now=1_790_812_800,
    ),
    "window_without_beginning": Rule(
        usage("windows = [{ until = 2026-10-01T00:00:00Z }]"),
        CLOSED,
        no_now=1_790_812_800,
    ),
    "any_of_two_windows": Rule(
        usage(f"windows = [{SPRING}, {AUTUMN}]"),
        CLOSED,
        yes_where=signed(OPENED_AT),
        no_where=signed(OPENED_AT - 1),
    ),
    "window_of_a_private_half": Rule(
        usage(f"windows = [{AUTUMN}]", PAIR), CLOSED, yes=PUBLIC
    ),
    "window_of_either_request": Rule(
        usage(f"windows = [{AUTUMN}]", PAIR), CLOSED, yes=PUBLIC, no=(*PUBLIC, *DISK)
    ),
}


def asked(
    text: str, keys: tuple[KeyRequest, ...], now: int = NOW, **where: Any
) -> Grant:
    return ask(td(), text, keys=keys, where=circumstances(**where), now=now)


@pytest.mark.parametrize("name", RULES)
def test_granted(name: str) -> None:
    rule = RULES[name]
    grant = asked(document(key=rule.key), rule.yes, **rule.yes_where)
    assert len(grant.paths) == len(rule.yes)


@pytest.mark.parametrize("name", RULES)
def test_denied(name: str) -> None:
    rule = RULES[name]
    text = document(key=rule.key)
    with pytest.raises(PolicyError) as caught:
        asked(text, rule.no, rule.no_now, **rule.no_where)
    assert caught.value.code is rule.code
    told = explain(
        td(),
        keys=rule.no,
        policy=load_policy(text),
        circumstances=circumstances(**rule.no_where),
        now=rule.no_now,
    )
    assert told.code is rule.code


@pytest.mark.parametrize("kind", PAIRS)
def test_the_type_enters_the_path_and_the_part_does_not(kind: KeyType) -> None:
    text = document(key=f'type = "{kind.value}"')
    (private,), (public,) = (asked(text, keys).paths for keys in (DISK, PUBLIC))
    assert private.key_type is kind
    assert private == public
    assert private != asked(document(), DISK).paths[0]


# -- usage ------------------------------------------------------------------------

LIMITS = usage(
    'per_hour = 3, total = 9, first_platform = true, without_anchor="accept"'
)


def test_a_grant_demands_what_must_be_counted() -> None:
    grant = asked(document(key=LIMITS), DISK)
    rule = UsageRule(3, 9, first_platform=True, without_anchor=True)
    assert grant.usage == (UsageDemand("disk", RECORD, rule),)


def test_every_use_is_counted_and_all_that_leaves_of_a_purpose_once() -> None:
    rules = f'{LIMITS}\n{PAIR}\nlabels = ["", "a"]\nuses = ["sign"]'
    document_text = document(key=rules)
    private, labelled = KeyRequest("disk"), KeyRequest("disk", "a")
    use = SIGNED[0]
    for keys, expected in (
        ((private,), 1),
        ((private, labelled), 1),
        ((use,), 1),
        ((use, use), 2),
        ((private, use, labelled, use), 3),
        ((*PUBLIC, use), 1),
    ):
        (demand,) = asked(document_text, keys).usage
        assert demand.times == expected
    assert asked(document_text, PUBLIC).usage == ()


@pytest.mark.parametrize(
    "limit", ["per_hour = 1", "total = 1", "first_platform = true"]
)
def test_each_limit_is_demanded_with_an_anchor_by_default(limit: str) -> None:
    (demand,) = asked(document(key=usage(limit)), DISK).usage
    name = limit.partition(" ")[0]
    assert getattr(demand.rule, name)
    assert replace(
        demand.rule, **{name: UsageRule.__dataclass_fields__[name].default}
    ) == (UsageRule())


def test_each_purpose_is_demanded_once_whatever_the_labels() -> None:
    tls = f'[[workload.key]]\npurpose = "tls"\n{usage("total = 2")}'
    text = document(key=LIMITS + '\nlabels = ["*"]', more=tls)
    keys = (KeyRequest("tls"), KeyRequest("disk"), KeyRequest("disk", "swap"))
    assert [demand.purpose for demand in asked(text, keys).usage] == ["disk", "tls"]
    assert [demand.purpose for demand in asked(text, keys[1:]).usage] == ["disk"]


def test_public_halves_are_not_counted() -> None:
    text = document(key=usage("total = 1", PAIR))
    assert asked(text, PUBLIC).usage == ()
    assert len(asked(text, (*PUBLIC, *DISK)).usage) == 1


def test_windows_alone_demand_no_counting() -> None:
    text = document(key=usage("windows = [{ until = 2027-01-01T00:00:00Z }]"))
    assert asked(text, DISK).usage == ()


def test_the_trace_shows_what_will_be_counted() -> None:
    grant = asked(document(key=LIMITS), DISK)
    (noted,) = [reason for reason in grant.reasons if reason.rule == "usage of disk"]
    assert noted.expected == (
        "at most 3 in 3600 seconds, at most 9 ever, the first platform alone"
    )


# -- adoption ---------------------------------------------------------------------


@pytest.mark.parametrize("pair", ["", PAIR])
def test_an_adopted_key_names_its_record(pair: str) -> None:
    tls = '[[workload.key]]\npurpose = "tls"'
    text = document(key=f"{pair}\nadopted = true", more=tls)
    grant = asked(text, (KeyRequest("tls"), *DISK))
    assert grant.adopted == (None, RECORD)


def test_records_belong_to_tenant_workload_and_purpose() -> None:
    names = {
        key_record(tenant=tenant, workload=workload, purpose=purpose)
        for tenant in ("a", "ab")
        for workload in ("b", "bc")
        for purpose in ("c", "d")
    }
    assert len(names) == 8


# -- Cedar ------------------------------------------------------------------------


def cedar(condition: str) -> str:
    text = f"permit(principal, action, resource) when {{ {condition} }};"
    return f"cedar = '''{text}'''"


def test_cedar_narrows() -> None:
    text = document(rules=cedar('resource == Key::"disk"'))
    assert asked(text, DISK).workload == "default/database"
    refused = document(rules=cedar('resource == Key::"tls"'))
    with pytest.raises(PolicyError) as caught:
        asked(refused, DISK)
    assert caught.value.code is Code.CEDAR_NOT_ALLOWED


def test_cedar_grants_nothing_that_the_document_refuses() -> None:
    with pytest.raises(PolicyError) as caught:
        asked(document(rules=cedar("true")), (KeyRequest("tls"),))
    assert caught.value.code is Code.PURPOSE_NOT_ALLOWED


def test_cedar_is_asked_about_every_key() -> None:
    tls = '[[workload.key]]\npurpose = "tls"'
    text = document(rules=cedar('resource == Key::"disk"'), more=tls)
    with pytest.raises(PolicyError) as caught:
        asked(text, (*DISK, KeyRequest("tls")))
    assert caught.value.code is Code.CEDAR_NOT_ALLOWED
    assert caught.value.detail == "cedar for tls: expected allow, got deny"


def test_an_image_less_never_means_a_key_more() -> None:
    """Cedar allows where it does so for any image that fits."""
    second = f"""
[[workload.image]]
label = "2026-11"
[workload.image.measurements]
mrtd = "{value("mrtd").hex()}"
"""
    rules = cedar('context.image == "2026-11"')
    both = document(rules=rules, more=second)
    alone = document(rules=rules).replace("2026-10", "2026-11")
    assert asked(both, DISK).paths == asked(alone, DISK).paths


# -- publication ------------------------------------------------------------------

PUBLISHED = f"{PAIR}\npublished = true"


def published(text: str, *, workload: str = "database", **changes: Any) -> Grant:
    given = {"tenant": "default", "purpose": "disk", "label": ""} | changes
    where = circumstances(**given.pop("where", {}))
    policy = load_policy(text)
    return grant_published(
        policy, workload=workload, circumstances=where, now=NOW, **given
    )


@pytest.mark.parametrize(
    "key",
    [
        PUBLISHED,
        f"{PUBLISHED}\nadopted = true",
        usage(f"windows = [{AUTUMN}]", PUBLISHED),
    ],
)
def test_a_published_path_is_that_of_the_workloads_own_key(key: str) -> None:
    text = document(key=key)
    grant, own = published(text), asked(text, PUBLIC)
    assert (grant.paths, grant.adopted) == (own.paths, own.adopted)
    assert grant.usage == ()


SIMULATED = document(key=PUBLISHED, rules=f'trust_domain = "{SIM}"')
IN_SIM = {"provider_domain": SIM}


def test_a_simulated_world_publishes_its_own() -> None:
    path = published(SIMULATED, where=IN_SIM).paths[0]
    assert path.trust_domain == str(SIM)


UNPUBLISHED: dict[str, tuple[str, dict[str, Any], Code]] = {
    "not_published": (document(key=PAIR), {}, Code.PURPOSE_NOT_ALLOWED),
    "no_such_purpose": (
        document(key=PUBLISHED),
        {"purpose": "tls"},
        Code.PURPOSE_NOT_ALLOWED,
    ),
    "no_such_workload": (
        document(key=PUBLISHED),
        {"workload": "databas"},
        Code.PURPOSE_NOT_ALLOWED,
    ),
    "another_tenants": (
        document(key=PUBLISHED),
        {"tenant": "acme"},
        Code.PURPOSE_NOT_ALLOWED,
    ),
    "measured": (
        document(key=PAIR, identity="measured"),
        {},
        Code.PURPOSE_NOT_ALLOWED,
    ),
    "label": (document(key=PUBLISHED), {"label": "x"}, Code.KEY_LABEL_NOT_ALLOWED),
    "legacy": (
        document(key=PUBLISHED),
        {"where": {"protocol_class": ProtocolClass.LEGACY}},
        Code.PROTOCOL_NOT_ALLOWED,
    ),
    "hardware_key_of_a_simulated_provider": (
        document(key=PUBLISHED),
        {"where": IN_SIM},
        Code.TRUST_DOMAIN_MISMATCH,
    ),
    "simulated_key_of_a_hardware_provider": (
        SIMULATED,
        {},
        Code.TRUST_DOMAIN_MISMATCH,
    ),
    "simulated_key_on_amd": (
        SIMULATED,
        {"where": {"provider_domain": AMD}},
        Code.TRUST_DOMAIN_MISMATCH,
    ),
}


@pytest.mark.parametrize("name", UNPUBLISHED)
def test_what_is_not_published(name: str) -> None:
    text, changes, code = UNPUBLISHED[name]
    with pytest.raises(PolicyError) as caught:
        published(text, **changes)
    assert caught.value.code is code
    assert caught.value.reasons[-1].satisfied is False  # type: ignore[attr-defined]


def test_a_workload_is_found_among_many() -> None:
    texts = [
        document(name=f"n{i}", rules=f'tenant = "{t}"', key=PUBLISHED)
        for i in range(7)
        for t in ("a", "a.b", "b")
    ]
    policy = load_policy(texts)
    for workload in policy.workloads:
        assert policy.named(workload.tenant, workload.name) is workload
    assert policy.named("a", "n7") is None
    assert policy.named("", "n1") is None
