# SPDX-License-Identifier: Apache-2.0
"""Versions only rise, ends are kept, and time is what the signers say it was."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from bundle_support import (
    ACME,
    DAY,
    NOW,
    ROOT_1,
    ROOT_2,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    ZETA,
    Json,
    Scene,
    content,
    keys,
    newer,
    root,
    signed_json,
    to_bytes,
    told,
    verify,
)

from tightseal.errors import Code, SettingsError
from tightseal.policy.bundle.archive import pack
from tightseal.policy.bundle.marks import MAX_VERSION, Marks
from tightseal.policy.bundle.verify import (
    MAX_RISE,
    MAX_SKEW,
    ExpiredMetadata,
    policy_root_of,
)

ACCEPT = ExpiredMetadata.ACCEPT


def marks_of(scene: Scene) -> Marks:
    return verify(scene).marks


def refused(
    scene: Scene, code: Code, said: str = "", *, marks: Marks | None = None, **how: Any
) -> None:
    with pytest.raises(SettingsError) as caught:
        verify(scene, marks=marks, **how)
    assert (caught.value.code, said in caught.value.detail) == (code, True), (
        caught.value
    )


# Rollback (TUF 1.0, sections 5.3.5, 5.4.3, 5.5.5)


def test_a_newer_bundle_is_taken_and_its_marks_stand_above() -> None:
    before = marks_of(Scene())
    after = verify(newer(), marks=before).marks
    assert (after.root, after.timestamp, after.snapshot) == (2, 8, 7)
    assert after.roles == (("targets", 6), ("tenant-acme", 2), ("tenant-zeta", 2))
    assert after.digest != before.digest


def test_the_same_bundle_again_gives_the_same_marks() -> None:
    before = marks_of(Scene())
    assert verify(Scene(), marks=before).marks == before


def test_the_bundle_before_is_refused() -> None:
    refused(Scene(), Code.BUNDLE_ROLLED_BACK, f"{TIMESTAMP}: ", marks=marks_of(newer()))


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "tenant-acme"])
def test_rolled_back(role: str) -> None:
    """One role is older than it was; all the others have risen."""
    scene = newer(by=2)
    scene.versions[role] -= 2
    path = f"metadata/{role}.json"
    before = marks_of(newer())
    refused(scene, Code.BUNDLE_ROLLED_BACK, f"{path}: version", marks=before)


def test_rolled_back_root() -> None:
    scene = newer()
    scene.edit(ROOT_1, lambda signed: signed.update(expires=told(DAY)))
    files = scene.files()
    del files[ROOT_2]
    pinned = policy_root_of(files[ROOT_1])
    before = verify(pack(files), policy_root=pinned).marks
    assert before.root == 1
    with pytest.raises(SettingsError) as caught:
        verify(pack(files), policy_root=pinned, marks=replace(before, root=2))
    assert caught.value.code is Code.BUNDLE_ROLLED_BACK
    assert ROOT_1 in caught.value.detail


def test_an_equal_version_with_other_bytes() -> None:
    """Two bundles of one version: which of them is in force would be chance."""
    before = marks_of(Scene())
    scene = Scene()
    scene.signers[TARGETS] = keys("targets-1", "targets-3")
    refused(scene, Code.BUNDLE_ROLLED_BACK, "another bundle", marks=before)


def test_a_new_root_needs_a_new_timestamp() -> None:
    before = marks_of(Scene())
    third = root(2).to_dict() | {"version": 3}
    with pytest.raises(SettingsError) as caught:
        verify(pack(with_third(Scene(), third)), marks=before)
    assert caught.value.code is Code.BUNDLE_ROLLED_BACK
    assert verify(pack(with_third(newer(), third)), marks=before).marks.root == 3


def with_third(scene: Scene, signed: Json) -> dict[str, bytes]:
    third = to_bytes(signed_json(signed, keys("new-1", "new-2")))
    return scene.files() | {"metadata/3.root.json": third}


# Fast forward (section 5.3.11, which is left out)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "tenant-zeta"])
def test_all_versions_used_up_at_once(role: str) -> None:
    before = marks_of(Scene())
    scene = newer()
    scene.versions[role] += MAX_RISE
    refused(scene, Code.BUNDLE_MALFORMED, f"metadata/{role}.json", marks=before)
    scene.versions[role] -= 1
    assert verify(scene, marks=before).version == scene.versions["timestamp"]


def test_new_keys_for_the_timestamp_do_not_let_versions_fall() -> None:
    scene = Scene()
    scene.versions["timestamp"] = 6

    def other_key(signed: Json) -> None:
        fresh = root(2)
        [old] = fresh.roles["timestamp"].keyids
        fresh.revoke_key(old, "timestamp")
        [signer] = keys("timestamp-new")
        fresh.add_key(signer.public_key, "timestamp")
        signed.update(fresh.to_dict())

    scene.edit(ROOT_2, other_key)
    scene.signers[TIMESTAMP] = keys("timestamp-new")
    assert verify(scene).version == 6
    refused(scene, Code.BUNDLE_ROLLED_BACK, TIMESTAMP, marks=marks_of(Scene()))


@pytest.mark.parametrize("path", [ROOT_2, TIMESTAMP, SNAPSHOT, TARGETS, ACME])
@pytest.mark.parametrize("version", [0, -1, MAX_VERSION + 1, 1 << 64, 10**4000, 1.0])
def test_a_version_that_is_none(path: str, version: float) -> None:
    scene = Scene()
    for by in (SNAPSHOT, TIMESTAMP):
        # Nobody lists hashes, so that the file itself is read.
        scene.edit(by, without_hashes)
    whole = json.loads(scene.files()[path])
    whole["signed"]["version"] = "HERE"
    scene.adds = {path: to_bytes(whole).replace(b'"HERE"', str(version).encode())}
    refused(scene, Code.BUNDLE_MALFORMED, path)


def without_hashes(signed: Json) -> None:
    for meta in signed["meta"].values():
        meta.pop("hashes")
        meta.pop("length")


# A tenant goes, and comes back


def test_a_tenant_goes_with_its_delegation_and_its_mark_stays() -> None:
    before = marks_of(newer())
    scene = newer(by=2)
    scene.tenants = ("acme",)
    scene.contents.pop("tenants/zeta/web.toml")
    after = verify(scene, marks=before)
    assert dict(after.marks.roles) == {
        "targets": 7,
        "tenant-acme": 3,
        "tenant-zeta": 2,
    }
    assert "zeta/web" not in [str(w) for w in after.policy.workloads]
    back = newer(by=3)
    back.versions["tenant-zeta"] = 1
    refused(back, Code.BUNDLE_ROLLED_BACK, ZETA, marks=after.marks)
    back.versions["tenant-zeta"] = 2
    assert verify(back, marks=after.marks).marks.timestamp == 10


def test_a_snapshot_cannot_take_a_tenant_away() -> None:
    scene = newer().edit(SNAPSHOT, lambda s: s["meta"].pop("tenant-zeta.json"))
    scene.drops = {ZETA, "targets/tenants/zeta/web.toml"}
    before = marks_of(Scene())
    refused(scene, Code.BUNDLE_INCOMPLETE, "tenant-zeta.json", marks=before)


def test_a_snapshot_may_go_on_listing_a_role_without_delegation() -> None:
    """As section 5.5.5 asks; the version listed still must not fall."""

    def retired(version: int) -> Callable[[Json], None]:
        return lambda signed: signed["meta"].update(
            {"tenant-zeta.json": {"version": version}}
        )

    def bundle(version: int) -> Scene:
        scene = newer(by=2).edit(SNAPSHOT, retired(version))
        scene.tenants = ("acme",)
        scene.contents.pop("tenants/zeta/web.toml")
        return scene

    before = marks_of(newer())
    assert dict(verify(bundle(2), marks=before).marks.roles)["tenant-zeta"] == 2
    refused(bundle(1), Code.BUNDLE_ROLLED_BACK, ZETA, marks=before)
    # Only what a delegation let in is remembered.
    assert dict(verify(bundle(9), marks=before).marks.roles)["tenant-zeta"] == 2


# Ends (sections 5.3.10, 5.4.4, 5.5.6, 5.6.5)


@pytest.mark.parametrize("path", [ROOT_2, TIMESTAMP, SNAPSHOT, TARGETS, ACME, ZETA])
def test_expired(path: str) -> None:
    soon = Scene().put(path, expires=told(60))
    assert verify(soon).expires_at == NOW + 60
    assert verify(soon, now=NOW + 59).version == 7
    refused(soon, Code.BUNDLE_EXPIRED, f"{path}: expired at {told(60)}", now=NOW + 60)
    again = verify(soon, now=NOW + 60, expired=ACCEPT)
    assert content(again) == content(verify(soon))


def test_only_the_newest_root_must_not_have_expired() -> None:
    scene = Scene().put(ROOT_2, expires=told(-1))
    refused(scene, Code.BUNDLE_EXPIRED, ROOT_2)
    assert b'"expires":"' + told(-DAY).encode() in Scene().files()[ROOT_1]


def test_accepting_what_has_expired_accepts_nothing_else() -> None:
    scene = Scene()
    scene.signers[TARGETS] = keys("targets-1")
    refused(scene, Code.BUNDLE_UNDERSIGNED, now=NOW + 10**9, expired=ACCEPT)
    before = marks_of(newer())
    refused(Scene(), Code.BUNDLE_ROLLED_BACK, marks=before, expired=ACCEPT)


@pytest.mark.parametrize(
    "moment",
    [
        "2027-02-30T00:00:00Z",
        "2027-01-01T00:00:61Z",
        "0000-01-01T00:00:00Z",
        "2027-01-01 00:00:00Z",
        "2027-01-01T00:00:00+00:00",
        "2027-01-01T00:00:00.5Z",
        "2027-01-01T00:00:00Z\n",
        "\N{FULLWIDTH DIGIT TWO}027-01-01T00:00:00Z",
        1_800_000_000,
        None,
    ],
)
@pytest.mark.parametrize("name", ["expires", "x-tightseal-issued"])
def test_a_moment_of_another_form(name: str, moment: object) -> None:
    refused(Scene().put(TIMESTAMP, **{name: moment}), Code.BUNDLE_MALFORMED, TIMESTAMP)


# Signed time


def test_issued_later_than_now() -> None:
    scene = Scene().put(TIMESTAMP, **{"x-tightseal-issued": told(MAX_SKEW)})
    assert verify(scene).issued_at == NOW + MAX_SKEW
    refused(scene, Code.CLOCK_BEHIND, told(MAX_SKEW), now=NOW - 1)
    refused(scene, Code.CLOCK_BEHIND, now=NOW - 1, expired=ACCEPT)


def test_issued_after_its_own_end() -> None:
    week = told(7 * DAY)
    scene = Scene().put(TIMESTAMP, **{"x-tightseal-issued": week})
    refused(scene, Code.BUNDLE_MALFORMED, "after its end", expired=ACCEPT)


def test_not_said_when_issued() -> None:
    scene = Scene().edit(TIMESTAMP, lambda signed: signed.pop("x-tightseal-issued"))
    refused(scene, Code.BUNDLE_MALFORMED, "x-tightseal-issued")
