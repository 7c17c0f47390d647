# SPDX-License-Identifier: Apache-2.0
"""Each tenant's role signs for its tenant, in its folder, and hands nothing on."""

from collections.abc import Callable
from typing import Any

import pytest
from bundle_support import (
    ACME,
    TARGETS,
    Json,
    Scene,
    delegations,
    keys,
    tenant_document,
    verify,
)

from tightseal.errors import Code, SettingsError


def refused(scene: Scene, code: Code, said: str = "") -> str:
    with pytest.raises(SettingsError) as caught:
        verify(scene)
    assert (caught.value.code, said in caught.value.detail) == (code, True), (
        caught.value
    )
    return caught.value.detail


def delegating(change: Callable[[Json], object]) -> Scene:
    return Scene().edit(TARGETS, lambda signed: change(signed["delegations"]))


def role_of_acme(**values: Any) -> Scene:
    return delegating(lambda d: d["roles"][0].update(values))


@pytest.mark.parametrize(
    "paths",
    [
        ["tenants/zeta/*.toml"],
        ["tenants/*/*.toml"],
        ["tenants/acme/*"],
        ["tenants/acme/web.toml"],
        ["tenants/acme/**.toml"],
        ["policy/*.toml"],
        ["*"],
        ["release.toml"],
    ],
)
def test_a_delegation_of_another_path(paths: list[str]) -> None:
    refused(role_of_acme(paths=paths), Code.BUNDLE_MALFORMED, "delegates")


@pytest.mark.parametrize(
    "values",
    [
        {"paths": []},
        {"paths": ["tenants/acme/*.toml", "policy/*.toml"]},
        {"paths": None},
        {"path_hash_prefixes": ["00"]},
        {"terminating": False},
        {"threshold": 0},
        {"threshold": 3},
        {"threshold": True},
        {"threshold": "2"},
        {"keyids": []},
        {"keyids": ["00" * 32]},
        {"name": "targets"},
        {"name": "tenant-"},
        {"name": "tenant-../acme"},
        {"name": "acme"},
        {"more": 1},
    ],
)
def test_a_delegation_of_another_form(values: Json) -> None:
    refused(role_of_acme(**values), Code.BUNDLE_MALFORMED, TARGETS)


def test_two_delegations_of_one_tenant() -> None:
    scene = delegating(lambda d: d["roles"].append(dict(d["roles"][0])))
    refused(scene, Code.BUNDLE_MALFORMED, "Duplicate role tenant-acme")


def test_hash_bins() -> None:
    bins = {"keyids": ["00" * 32], "threshold": 1, "bit_length": 8, "name_prefix": "b"}
    scene = delegating(lambda d: d.update(succinct_roles=bins))
    refused(scene, Code.BUNDLE_MALFORMED, "succinct_roles")


@pytest.mark.parametrize("tenants", [(), ("other",)])
def test_a_nested_delegation(tenants: tuple[str, ...]) -> None:
    scene = Scene().put(ACME, delegations=delegations(tenants).to_dict())
    refused(scene, Code.BUNDLE_MALFORMED, "a tenant's role cannot")


@pytest.mark.parametrize(
    "target",
    [
        "tenants/zeta/more.toml",
        "policy/more.toml",
        "release.toml",
        "tenants/acme/../zeta/more.toml",
        "tenants/acme/deeper/more.toml",
        "tenants/acme/more.json",
        "../more.toml",
    ],
)
def test_a_tenant_signs_outside_its_path(target: str) -> None:
    def more(signed: Json) -> None:
        signed["targets"][target] = signed["targets"]["tenants/acme/web.toml"]

    refused(Scene().edit(ACME, more), Code.BUNDLE_MALFORMED, "not for this role")


@pytest.mark.parametrize(
    "target", ["tenants/acme/web.toml", "tenants/other/web.toml", "../more.toml", "x"]
)
def test_the_targets_role_signs_below_a_tenant(target: str) -> None:
    def more(signed: Json) -> None:
        signed["targets"][target] = signed["targets"]["policy/base.toml"]

    refused(Scene().edit(TARGETS, more), Code.BUNDLE_MALFORMED, "not for this role")


def test_a_tenant_whose_delegation_went_while_its_files_stay() -> None:
    scene = delegating(lambda d: d["roles"].pop(0))
    refused(scene, Code.BUNDLE_INCOMPLETE, ACME)


def test_a_tenant_s_approvers_are_those_that_targets_names() -> None:
    """Acme's own keys are replaced by the role above; the old ones no longer count."""

    def other_keys(signed: Json) -> None:
        fresh = delegations(("zeta", "other"))
        role = fresh.to_dict()["roles"][1] | {
            "name": "tenant-acme",
            "paths": ["tenants/acme/*.toml"],
        }
        roles = [role, signed["delegations"]["roles"][1]]
        signed["delegations"] = fresh.to_dict() | {"roles": roles}

    scene = Scene().edit(TARGETS, other_keys)
    refused(scene, Code.BUNDLE_UNDERSIGNED, ACME)
    scene.signers[ACME] = keys("other-1")
    assert verify(scene).version == 7


def test_documents_of_two_tenants_may_have_one_name() -> None:
    scene = Scene()
    scene.contents["tenants/zeta/mail.toml"] = tenant_document("zeta", "mail")
    assert len(verify(scene).documents) == 5
