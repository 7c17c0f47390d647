# SPDX-License-Identifier: Apache-2.0
"""Who may ask for what: each check refuses by its own name."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import action_support as support
from tightseal.errors import Code, RequestError
from tightseal.model.action import (
    Action,
    ActionKind,
    Signature,
    SignedAction,
)
from tightseal.model.claims import Tee
from tightseal.model.keypath import Authority
from tightseal.policy.actions import (
    CHECKS,
    CLOCK_SKEW_SECONDS,
    MAX_LIFE_SECONDS,
    AuthorisedAction,
    check_form,
    verifies,
)
from tightseal.policy.compiled import Role

NOW = support.NOW


def refused(
    signed: SignedAction, *roles: Role, code: Code, check: str, **changes: Any
) -> str:
    with pytest.raises(RequestError) as caught:
        support.judged(signed, *roles, **changes)
    assert caught.value.code is code
    assert check in CHECKS
    assert caught.value.detail.startswith(f"{check}: ")
    return caught.value.detail


@pytest.mark.parametrize("kind", ActionKind)
def test_enough_signatures_of_a_role_authorise(kind: ActionKind) -> None:
    asked = support.action(kind)
    role = support.role(threshold=2)
    given_ = support.judged(support.signed(asked, "bob", "alice"), role)
    assert given_ == AuthorisedAction(
        asked, role, tuple(sorted((support.public("alice"), support.public("bob"))))
    )


# -- 1. form ----------------------------------------------------------------------

SOURCES: dict[str, dict[str, Any]] = {
    "an attribute missing": {"attributes": (("xfam", bytes(8)),)},
    "an attribute too many": {
        "attributes": (("mrtd", bytes(48)), *support.source().attributes)
    },
    "an attribute of another length": {
        "attributes": (("td_attributes", bytes(8)), ("xfam", bytes(9)))
    },
    "a measurement of another tee": {"measurements": (("mrenclave", b"m" * 32),)},
    "a measurement of another length": {"measurements": (("mrtd", b"m" * 32),)},
    "no launch measurement": {"measurements": (("rtmr3", b"3" * 48),)},
    "a launch measurement that is zero": {"measurements": (("mrtd", bytes(48)),)},
    "nothing measured": {"measurements": ()},
    "another tee": {"tee": Tee.SGX},
}


@pytest.mark.parametrize("defect", SOURCES)
def test_a_source_that_no_key_had_is_refused(defect: str) -> None:
    parameters = support.adopt(**SOURCES[defect])
    asked = support.action(ActionKind.ADOPT, parameters=parameters)
    signed = support.signed(asked, "alice")
    refused(signed, code=Code.ACTION_MALFORMED, check="form")
    with pytest.raises(RequestError):
        check_form(asked)


@pytest.mark.parametrize(
    "asked",
    [
        support.action(ActionKind.ADOPT, parameters=support.DISK),
        support.action(ActionKind.RESET_USAGE, parameters=support.adopt()),
    ],
    ids=["adopt", "reset"],
)
def test_parameters_of_another_kind_are_refused(asked: Action) -> None:
    signed = support.signed(asked, "alice")
    refused(signed, code=Code.ACTION_MALFORMED, check="form")


# -- 2. provider ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ({"policy_root": b"x" * 32}, "policy root"),
        ({"policy_root": None}, "none"),
        ({"keyring_id": b"x" * 32}, "keyring"),
    ],
    ids=["policy root", "no policy root", "keyring"],
)
def test_an_action_for_another_provider_is_refused(
    ours: dict[str, Any], said: str
) -> None:
    signed = support.signed(support.action(), "alice")
    detail = refused(
        signed, code=Code.ACTION_PROVIDER_MISMATCH, check="provider", **ours
    )
    assert said in detail


# -- 3. time ----------------------------------------------------------------------


def lives(issued_at: int, expires_at: int) -> SignedAction:
    asked = support.action(issued_at=issued_at, expires_at=expires_at)
    return support.signed(asked, "alice")


@pytest.mark.parametrize(
    ("issued_at", "expires_at"),
    [
        (NOW, NOW + 1),
        (NOW + CLOCK_SKEW_SECONDS, NOW + CLOCK_SKEW_SECONDS + 1),
        (NOW, NOW + MAX_LIFE_SECONDS),
        (NOW + 1 - MAX_LIFE_SECONDS, NOW + 1),
    ],
)
def test_an_action_in_its_life_is_authorised(issued_at: int, expires_at: int) -> None:
    support.judged(lives(issued_at, expires_at))


@pytest.mark.parametrize(
    ("issued_at", "expires_at"),
    [
        (NOW - 1, NOW),
        (NOW - 100, NOW - 50),
        (NOW + CLOCK_SKEW_SECONDS + 1, NOW + CLOCK_SKEW_SECONDS + 2),
        (NOW, NOW + MAX_LIFE_SECONDS + 1),
        (NOW, NOW),
        (NOW + 5, NOW + 4),
    ],
    ids=["ends now", "past", "ahead", "too long", "no life", "ends before it begins"],
)
def test_an_action_out_of_its_life_is_refused(issued_at: int, expires_at: int) -> None:
    signed = lives(issued_at, expires_at)
    refused(signed, code=Code.ACTION_EXPIRED, check="time")


# -- 4. source ---------------------------------------------------------------------


def from_under(authority: Authority) -> SignedAction:
    parameters = support.adopt(authority=authority)
    asked = support.action(ActionKind.ADOPT, parameters=parameters)
    return support.signed(asked, "alice")


@pytest.mark.parametrize(
    "authority",
    [
        support.BEFORE,
        Authority("policy_root", b"x" * 32),
        Authority("settings_digest", support.ROOT),
    ],
    ids=["the settings of before", "another policy root", "another kind"],
)
def test_keys_under_another_authority_are_not_ours_to_adopt(
    authority: Authority,
) -> None:
    signed = from_under(authority)
    refused(signed, code=Code.ACTION_NOT_ALLOWED, check="source")


def test_keys_under_the_same_policy_root_may_be_adopted() -> None:
    support.judged(from_under(support.OURS))


# -- 5. role ----------------------------------------------------------------------


def test_no_role_allows_nothing() -> None:
    signed = support.signed(support.action(), "alice")
    role = support.role(actions=frozenset())
    refused(signed, role, code=Code.ACTION_NOT_ALLOWED, check="role")


def test_a_role_for_other_actions_is_refused() -> None:
    signed = support.signed(support.action(ActionKind.RESET_USAGE), "alice")
    role = support.role(actions=frozenset({ActionKind.RELEASE_PLATFORM}))
    refused(signed, role, code=Code.ACTION_NOT_ALLOWED, check="role")


def test_a_tenant_s_role_acts_on_its_tenant() -> None:
    signed = support.signed(support.action(), "alice")
    support.judged(signed, support.role(tenant="acme"))
    other = support.role(tenant="other")
    refused(signed, other, code=Code.ACTION_NOT_ALLOWED, check="role")


def crossing(into: str, out_of: str) -> SignedAction:
    parameters = replace(support.adopt(tenant=out_of), tenant=into)
    return support.signed(
        support.action(ActionKind.ADOPT, parameters=parameters), "alice"
    )


@pytest.mark.parametrize(("into", "out_of"), [("acme", "other"), ("other", "acme")])
def test_a_tenant_s_role_adopts_no_other_tenant_s_key(into: str, out_of: str) -> None:
    signed = crossing(into, out_of)
    for tenant in ("acme", "other"):
        role = support.role(tenant=tenant)
        refused(signed, role, code=Code.ACTION_NOT_ALLOWED, check="role")


def test_a_role_of_no_tenant_adopts_across_tenants() -> None:
    support.judged(crossing("acme", "default"), support.role())


# -- 6. signatures ----------------------------------------------------------------


def undersigned(signed: SignedAction, *roles: Role) -> str:
    return refused(signed, *roles, code=Code.ACTION_UNDERSIGNED, check="signatures")


def test_too_few_signatures_are_counted() -> None:
    signed = support.signed(support.action(), "alice")
    role = support.role(threshold=2, tenant="acme")
    assert "1 of 2 of role acme/operators" in undersigned(signed, role)


def test_none_is_too_few_whatever_the_threshold() -> None:
    undersigned(support.signed(support.action()), support.role(threshold=0))


def test_two_signatures_by_one_key_count_once() -> None:
    asked = support.action()
    undersigned(support.signed(asked, "alice", "alice"), support.role(threshold=2))


def test_a_key_of_no_role_counts_for_nothing() -> None:
    signed = support.signed(support.action(), "alice", "mallory")
    undersigned(signed, support.role(threshold=2))


def test_a_signature_over_another_action_counts_for_nothing() -> None:
    asked = support.action()
    other = support.signature(replace(asked, action_id=b"j" * 16), "alice")
    undersigned(SignedAction(asked, (other,)))


def test_a_signature_under_another_s_name_counts_for_nothing() -> None:
    asked = support.action()
    forged = replace(support.signature(asked, "mallory"), key=support.public("alice"))
    undersigned(SignedAction(asked, (forged,)))


def test_a_wrong_signature_beside_enough_right_ones_is_no_harm() -> None:
    asked = support.action()
    wrong = Signature(support.public("carol"), bytes(64))
    signed = SignedAction(asked, (wrong, *support.signed(asked, "alice").signatures))
    assert support.judged(signed).signers == (support.public("alice"),)


def test_a_role_s_key_that_is_none_counts_for_nothing() -> None:
    asked = support.action()
    role = support.role(keys=frozenset({b"short"}))
    undersigned(SignedAction(asked, (Signature(b"short", bytes(64)),)), role)


def test_signatures_of_two_roles_do_not_add_up() -> None:
    signed = support.signed(support.action(), "alice", "dave")
    one = support.role(threshold=2)
    two = support.role(
        name="others",
        threshold=2,
        keys=frozenset({support.public("dave"), support.public("erin")}),
    )
    detail = undersigned(signed, one, two)
    assert "1 of 2 of role operators" in detail
    assert "1 of 2 of role others" in detail


def test_the_role_that_is_satisfied_counts() -> None:
    signed = support.signed(support.action(), "dave")
    two = support.role(name="others", keys=frozenset({support.public("dave")}))
    assert support.judged(signed, support.role(), two).role == two


FIELDS: dict[str, dict[str, Any]] = {
    "kind": {"kind": ActionKind.RELEASE_PLATFORM},
    "action id": {"action_id": b"j" * 16},
    "issued": {"issued_at": NOW - 1},
    "expires": {"expires_at": NOW + 1},
    "parameters": {"parameters": replace(support.DISK, workload="other")},
}


@pytest.mark.parametrize("field", FIELDS)
def test_nothing_of_an_action_can_be_changed_after_it_was_signed(field: str) -> None:
    signed = support.signed(support.action(), "alice")
    changed = replace(signed, action=replace(signed.action, **FIELDS[field]))
    undersigned(changed)
    assert not verifies(changed.action, changed.signatures[0])
    assert verifies(signed.action, signed.signatures[0])


PEOPLE = ("alice", "bob", "carol", "dave")


@given(
    signers=st.lists(st.sampled_from(PEOPLE), max_size=6),
    holders=st.sets(st.sampled_from(PEOPLE), min_size=1),
    threshold=st.integers(1, 4),
)
def test_exactly_the_threshold_of_different_holders_authorises(
    signers: list[str], holders: set[str], threshold: int
) -> None:
    signed = support.signed(support.action(), *signers)
    keys = frozenset(support.public(name) for name in holders)
    role = support.role(threshold=threshold, keys=keys)
    count = len(set(signers) & holders)
    if count >= threshold:
        assert len(support.judged(signed, role).signers) == count
    else:
        assert f"{count} of {threshold}" in undersigned(signed, role)
