# SPDX-License-Identifier: Apache-2.0
"""Roles: who may ask a running provider for what, and roles that are refused."""

import pytest

from tightseal.errors import Code, SettingsError
from tightseal.model.action import ActionKind
from tightseal.policy.compile import load_policy
from tightseal.policy.compiled import Role

ONE, TWO = "ab" * 32, "cd" * 32


def role(
    *,
    name: str = "operators",
    tenant: str = "",
    threshold: int = 2,
    keys: tuple[str, ...] = (ONE, TWO),
) -> str:
    tenant_line = f'tenant = "{tenant}"\n' if tenant else ""
    return (
        f'[[role]]\nname = "{name}"\n{tenant_line}threshold = {threshold}\n'
        f'keys = {list(keys)}\nactions = ["adopt", "reset-usage", "adopt"]\n'
    )


def roles(*texts: str) -> tuple[Role, ...]:
    return load_policy([f"version = 1\n{text}" for text in texts]).roles


def test_a_role_is_compiled() -> None:
    assert roles(role(tenant="acme")) == (
        Role(
            name="operators",
            tenant="acme",
            threshold=2,
            keys=frozenset({b"\xab" * 32, b"\xcd" * 32}),
            actions=frozenset({ActionKind.ADOPT, ActionKind.RESET_USAGE}),
        ),
    )


def test_one_name_stands_once_a_tenant_and_once_among_those_of_none() -> None:
    made = roles(role(tenant="b"), role(), role(tenant="a"), role(name="auditors"))
    assert [str(r) for r in made] == [
        "auditors",
        "operators",
        "a/operators",
        "b/operators",
    ]


REFUSED = {
    "key_twice": (role(keys=(ONE, TWO, ONE)), "role[0].keys[2]", "stands twice"),
    "too_high": (role(threshold=3), "role[0].threshold", "3 of 2 keys"),
    "no_threshold": (role(threshold=0), "role[0].threshold", ">= 1"),
    "no_keys": (role(keys=()), "role[0].keys", "1"),
    "all_zero": (role(keys=(ONE, "00" * 32)), "role[0].keys[1]", "no key"),
    "short": (role(keys=(ONE, "ab" * 31)), "role[0].keys[...]", "regex"),
    "unknown_action": (
        role().replace("reset-usage", "stop"),
        "role[0].actions[1]",
        "stop",
    ),
    "name_twice": (role() + role(), "role[1].name", "stands twice"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    text, field, word = REFUSED[name]
    with pytest.raises(SettingsError) as caught:
        roles(text)
    assert caught.value.code is Code.POLICY_INVALID
    assert f"{field.partition('[...]')[0]}" in caught.value.detail
    assert word in caught.value.detail


def test_a_name_in_two_documents_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"policy\[1\]:3:1: role\[0\]\.name: acme/"):
        roles(role(tenant="acme"), role(tenant="acme"))
