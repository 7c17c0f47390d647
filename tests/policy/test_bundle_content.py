# SPDX-License-Identifier: Apache-2.0
"""What well-signed documents may say, and what release settings may name."""

import pytest
from bundle_support import Scene, tenant_document, verify
from policy_support import document

from tightseal.errors import Code, SettingsError
from tightseal.model.settings import (
    DECIDED_BY_DOCUMENTS,
    MEASURED_ALONE,
    ReleaseSettings,
)
from tightseal.policy.bundle.content import (
    MAX_RELEASE_CHARS,
    read_content,
    read_release,
)

ROLE = f"""
[[role]]
name = "operators"
tenant = "acme"
threshold = 1
keys = ["{"ab" * 32}"]
actions = ["reset-usage"]
"""


def refused(path: str, text: str | bytes, said: str) -> None:
    """In a bundle whose signatures are all good."""
    scene = Scene()
    scene.contents[path] = text.encode() if isinstance(text, str) else text
    with pytest.raises(SettingsError) as caught:
        verify(scene)
    assert caught.value.code is Code.POLICY_INVALID, caught.value
    assert path in caught.value.detail
    assert said in caught.value.detail


# Documents


@pytest.mark.parametrize("other", ["zeta", "default", "acme2"])
def test_a_tenant_s_document_names_another_tenant(other: str) -> None:
    text = tenant_document("acme", "web").decode()
    text += tenant_document(other, "mine").decode().removeprefix("version = 1")
    line = text[: text.rindex("tenant =")].count("\n") + 1
    refused(
        "tenants/acme/web.toml",
        text,
        f":{line}:1: workload[1].tenant: expected acme, whose role signed it, got",
    )


def test_a_tenant_s_document_names_no_tenant() -> None:
    """The default tenant is a tenant like any other."""
    text = document(name="web")
    refused("tenants/acme/web.toml", text, "expected acme, whose role signed it")


@pytest.mark.parametrize(("line", "got"), [('tenant = "zeta"', "zeta"), ("", "none")])
def test_a_tenant_s_role_acts_on_others(line: str, got: str) -> None:
    text = document(name="web", rules='tenant = "acme"')
    text += ROLE.replace('tenant = "acme"', line)
    said = f"role[0].tenant: expected acme, whose role signed it, got {got}"
    refused("tenants/acme/web.toml", text, said)


def test_a_tenant_s_own_role_is_taken() -> None:
    scene = Scene()
    scene.contents["tenants/acme/web.toml"] += ROLE.encode()
    scene.contents["policy/base.toml"] += ROLE.replace("acme", "zeta").encode()
    assert [len(d.document.role) for d in verify(scene).documents] == [1, 0, 1, 0]


def test_documents_of_the_operator_may_name_any_tenant() -> None:
    scene = Scene()
    scene.contents["policy/base.toml"] = tenant_document("acme", "more")
    assert "acme/more" in [str(w) for w in verify(scene).policy.workloads]


def test_a_workload_that_stands_in_two_documents() -> None:
    scene = Scene()
    scene.contents["policy/base.toml"] = tenant_document("acme", "web")
    with pytest.raises(SettingsError) as caught:
        verify(scene)
    assert caught.value.code is Code.POLICY_INVALID
    assert "tenants/acme/web.toml:3:1: " in caught.value.detail
    assert "acme/web stands twice" in caught.value.detail


@pytest.mark.parametrize("path", ["policy/base.toml", "tenants/acme/web.toml"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"version = 2", ":1:1: version:"),
        (b"version = 1\nmore = 1", ":2:1: more: unknown key"),
        (b"version = 1\nmore = =", ":2:8: not TOML"),
        (b"version = 1 # \xff", "not UTF-8 at byte 14"),
        (b"", "version"),
        (b"version = 1\nworkload = " + b"[" * 5000, "not TOML"),
    ],
)
def test_a_document_that_is_none(path: str, text: bytes, said: str) -> None:
    refused(path, text, said)


def test_documents_come_with_names_and_in_order() -> None:
    found = read_content(
        {"policy/a.toml": b"version = 1", "tenants/x/b.toml": b"version = 1"}
    )
    assert [d.source.name for d in found.documents] == [
        "policy/a.toml",
        "tenants/x/b.toml",
    ]
    assert found.release is None
    assert found.policy.workloads == ()


# Release settings


def test_release_settings_are_the_keys_of_the_release_table() -> None:
    assert read_release("") == ReleaseSettings()
    text = "attested_key_life = 600\n[legacy]\nenabled = true"
    assert read_release(text).attested_key_life == 600
    assert read_release(text).legacy.enabled


GIVEN = {
    "accepted_tcb": '["UpToDate"]',
    "tdx_identity": '["mrtd"]',
    "sgx_identity": '["mrenclave"]',
    "snp_identity": '["snp_measurement"]',
    "platform": '"same"',
    "kdf": '"hkdf-sha256"',
    "tenant": '"default"',
    "policy_root": '""',
    "root": '"platform"',
    "keyring_id": '""',
    "keyring_anchor": '"any"',
    "simulated_roots": "[]",
    "snp_minimum_tcb": "{ snp = 0 }",
}


@pytest.mark.parametrize("name", [*DECIDED_BY_DOCUMENTS, *MEASURED_ALONE])
def test_a_setting_that_is_not_for_a_bundle(name: str) -> None:
    """Its default is refused too: whoever writes it thinks that it counts."""
    text = f"nonce_life = 60\n{name} = {GIVEN[name]}\n"
    said = "leave it out" if name in DECIDED_BY_DOCUMENTS else "measured"
    refused("release.toml", text, f":2:1: {name}: ")
    refused("release.toml", text, said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonce_life = 5", ":1:1: nonce_life:"),
        ("[release]\nnonce_life = 60", "release: unknown key"),
        ("host = 1", "host: unknown key"),
        ("nonce_life = ", "not TOML"),
        ('verifier_exceptions = ["sept_ve_enabled", "sept_ve_enabled"]', ""),
        ("#" * (MAX_RELEASE_CHARS + 1), f"longer than {MAX_RELEASE_CHARS}"),
    ],
)
def test_release_settings_that_are_none(text: str, said: str) -> None:
    refused("release.toml", text, said)


@pytest.mark.parametrize("name", ["tdx_identity", "policy_root"])
def test_what_a_setting_says_of_itself_comes_with_the_file(name: str) -> None:
    value = '["rtmr0"]' if name == "tdx_identity" else '"first-start"'
    refused("release.toml", f"{name} = {value}", name)
