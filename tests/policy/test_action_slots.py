# SPDX-License-Identifier: Apache-2.0
"""Actions about slots: what may be signed, in which form, and by whom."""

import json
from dataclasses import replace

import pytest

import action_support as support
from tightseal.errors import Code, RequestError
from tightseal.model.action import (
    SLOT_ACTIONS,
    ActionKind,
    KeyringParameters,
    SignedAction,
    SlotParameters,
)
from tightseal.model.action_file import encode_action, parse_action
from tightseal.model.slots import SlotClass
from tightseal.policy.actions import check_form

ADD, REMOVE, RENEW = (
    ActionKind.ADD_SLOT,
    ActionKind.REMOVE_SLOT,
    ActionKind.RENEW_SLOTS,
)
SLOT = b"s" * 16
SGX = (SlotClass.SGX,)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (ADD, SlotParameters(1, factors=SGX)),
        (ADD, SlotParameters(1, factors=SGX, label="second", signer=True)),
        (ADD, SlotParameters(1, factors=(SlotClass.SNP, SlotClass.PASSPHRASE))),
        (REMOVE, SlotParameters(1, SLOT)),
        (RENEW, SlotParameters(1, SLOT)),
        (RENEW, SlotParameters(1)),
    ],
)
def test_form_that_fits(kind: ActionKind, parameters: SlotParameters) -> None:
    asked = support.action(kind, parameters=parameters)
    check_form(asked)
    assert parse_action(encode_action(SignedAction(asked))).action == asked


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (ADD, SlotParameters(1)),
        (ADD, SlotParameters(1, SLOT, factors=SGX)),
        (ADD, SlotParameters(1, factors=(SlotClass.TPM2, SlotClass.SGX))),
        (ADD, SlotParameters(1, factors=(SlotClass.SGX, SlotClass.SGX))),
        (REMOVE, SlotParameters(1)),
        (REMOVE, SlotParameters(1, SLOT, factors=SGX)),
        (REMOVE, SlotParameters(1, SLOT, label="x")),
        (REMOVE, SlotParameters(1, SLOT, signer=True)),
        (RENEW, SlotParameters(1, factors=SGX)),
        (ADD, KeyringParameters(1)),
        (ActionKind.ROTATE_KEYRING, SlotParameters(1, SLOT)),
        (ActionKind.PREPARE_GENERATION, KeyringParameters(1, 2)),
        (ActionKind.RETIRE_GENERATION, KeyringParameters(1)),
    ],
    ids=[
        "add_without_a_class",
        "add_with_an_id",
        "factors_out_of_order",
        "one_factor_twice",
        "remove_without_an_id",
        "remove_with_a_class",
        "remove_with_a_label",
        "remove_with_the_signer",
        "renew_with_a_class",
        "add_with_parameters_of_a_rotation",
        "rotation_with_parameters_of_a_slot",
        "prepare_with_a_generation",
        "retire_without_a_generation",
    ],
)
def test_form_that_does_not_fit_is_malformed(
    kind: ActionKind, parameters: SlotParameters | KeyringParameters
) -> None:
    with pytest.raises(RequestError) as raised:
        check_form(support.action(kind, parameters=parameters))
    assert raised.value.code is Code.ACTION_MALFORMED


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("slot", "AAAA"),
        ("factors", ["hsm"]),
        ("factors", "sgx"),
        ("label", "x" * 129),
        ("label", "ä"),
        ("label", "two\nlines"),
        ("counter", 0),
        ("signer", 1),
        ("more", 1),
    ],
)
def test_file_with_another_value_is_malformed(member: str, value: object) -> None:
    asked = support.action(ADD)
    document = json.loads(encode_action(SignedAction(asked)))
    document["action"]["parameters"][member] = value
    with pytest.raises(RequestError) as raised:
        parse_action(json.dumps(document).encode())
    assert raised.value.code is Code.ACTION_MALFORMED


@pytest.mark.parametrize("kind", sorted(SLOT_ACTIONS))
def test_a_role_of_a_tenant_leaves_slots_alone(kind: ActionKind) -> None:
    """Slots open everybody's keys."""
    asked = support.action(kind)
    found = support.role(tenant="acme", actions=frozenset(SLOT_ACTIONS))
    signed = support.signed(asked, "alice", "bob")
    with pytest.raises(RequestError) as raised:
        support.judged(signed, found)
    assert raised.value.code is Code.ACTION_NOT_ALLOWED
    assert support.judged(signed, replace(found, tenant=None)).action == asked
