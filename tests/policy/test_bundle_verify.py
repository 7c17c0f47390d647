# SPDX-License-Identifier: Apache-2.0
"""A good bundle is taken; signatures, files and delegations: every defect by name."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from bundle_support import (
    ACME,
    ACME_DOCUMENT,
    NOW,
    POLICY_ROOT,
    ROOT_1,
    ROOT_2,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    ZETA,
    Json,
    Scene,
    key,
    keys,
    root,
    to_bytes,
    verify,
)

from tightseal.errors import Code, SettingsError
from tightseal.policy.bundle.archive import pack, unpack
from tightseal.policy.bundle.verify import first_root_of, policy_root_of

RELEASE = "targets/release.toml"
Change = Callable[[Scene], object]


def refused(scene: Scene | bytes, code: Code, said: str = "") -> str:
    with pytest.raises(SettingsError) as caught:
        verify(scene)
    assert (caught.value.code, said in caught.value.detail) == (code, True), (
        caught.value
    )
    return caught.value.detail


def changed(change: Change) -> Scene:
    scene = Scene()
    change(scene)
    return scene


def sign(path: str, *names: str) -> Change:
    return lambda s: s.signers.update({path: keys(*names)})


# What is taken


def test_a_good_bundle_is_taken() -> None:
    data = Scene().pack()
    verified = verify(data)
    assert verified.marks.digest == hashlib.sha256(data).digest()
    assert (verified.marks.root, verified.version, verified.marks.snapshot) == (2, 7, 6)
    assert verified.marks.roles == (
        ("targets", 5),
        ("tenant-acme", 1),
        ("tenant-zeta", 1),
    )
    assert verified.issued_at == NOW - 3600
    assert verified.expires_at == NOW + 7 * 86_400
    assert [d.source.name for d in verified.documents] == [
        "policy/base.toml",
        "tenants/acme/mail.toml",
        "tenants/acme/web.toml",
        "tenants/zeta/web.toml",
    ]
    assert [str(w) for w in verified.policy.workloads] == [
        "acme/mail",
        "acme/web",
        "default/base",
        "zeta/web",
    ]
    assert verified.release is not None
    assert verified.release.nonce_life == 60
    assert verified.release.limits.max_keys == 4


def test_a_bundle_without_tenants_and_settings_is_taken() -> None:
    scene = Scene(tenants=())
    scene.contents = {"policy/base.toml": scene.contents["policy/base.toml"]}
    scene.edit(TARGETS, lambda signed: signed.pop("delegations"))
    verified = verify(scene)
    assert verified.release is None
    assert verified.marks.roles == (("targets", 5),)


def test_more_signatures_than_needed_and_unknown_ones_change_nothing() -> None:
    scene = changed(sign(TARGETS, "targets-1", "targets-2", "targets-3", "stranger"))
    assert verify(scene).policy.workloads == verify(Scene()).policy.workloads


def test_one_bad_signature_does_not_spoil_a_threshold_that_is_met() -> None:
    scene = changed(sign(TARGETS, "targets-1", "targets-2", "targets-3"))
    scene.spoil(TARGETS, lambda whole: whole["signatures"][0].update(sig="00" * 64))
    assert verify(scene).version == 7


def test_the_policy_root_is_that_of_the_first_root() -> None:
    files = Scene().files()
    assert first_root_of(pack(files)) == POLICY_ROOT == policy_root_of(files[ROOT_1])
    assert policy_root_of(files[ROOT_2]) != POLICY_ROOT


def test_signatures_and_spaces_do_not_change_the_policy_root() -> None:
    whole = json.loads(Scene().files()[ROOT_1])
    whole["signatures"] = []
    assert policy_root_of(json.dumps(whole, indent=4).encode()) == POLICY_ROOT
    whole["signed"]["expires"] = "2030-01-01T00:00:00Z"
    assert policy_root_of(to_bytes(whole)) != POLICY_ROOT


def test_a_bundle_without_root_has_no_policy_root() -> None:
    scene = Scene(drops={ROOT_1})
    with pytest.raises(SettingsError) as caught:
        first_root_of(scene.pack())
    assert caught.value.code is Code.BUNDLE_INCOMPLETE


def test_the_root_of_another_is_refused() -> None:
    other = root(1)
    other.add_key(key("stranger").public_key, "root")
    scene = Scene()
    scene.edit(ROOT_1, lambda signed: signed.update(other.to_dict()))
    refused(scene, Code.BUNDLE_ROOT_MISMATCH, POLICY_ROOT.hex())


def test_a_later_root_is_not_the_pinned_one() -> None:
    files = Scene().files()
    with pytest.raises(SettingsError) as caught:
        verify(pack(files), policy_root=policy_root_of(files[ROOT_2]))
    assert caught.value.code is Code.BUNDLE_ROOT_MISMATCH


# Signatures (TUF 1.0, sections 5.3.4, 5.4.2, 5.5.3, 5.6.3)

SIGNED: list[tuple[str, tuple[str, ...]]] = [
    (ROOT_1, ("old-1", "old-2")),
    (ROOT_2, ("old-1", "old-2", "new-1", "new-2")),
    (TIMESTAMP, ("timestamp",)),
    (SNAPSHOT, ("snapshot",)),
    (TARGETS, ("targets-1", "targets-2")),
    (ACME, ("acme-1", "acme-2")),
    (ZETA, ("zeta-1",)),
]


@pytest.mark.parametrize("path", [path for path, _ in SIGNED])
def test_unsigned(path: str) -> None:
    refused(changed(sign(path)), Code.BUNDLE_UNDERSIGNED, path)


@pytest.mark.parametrize(
    ("path", "left_out"), [(path, name) for path, names in SIGNED for name in names]
)
def test_under_signed_by_one(path: str, left_out: str) -> None:
    names = [name for name in dict(SIGNED)[path] if name != left_out]
    refused(changed(sign(path, *names)), Code.BUNDLE_UNDERSIGNED, path)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (ROOT_2, ("targets-1", "targets-2", "targets-3")),
        (TIMESTAMP, ("snapshot", "targets-1", "new-1")),
        (SNAPSHOT, ("timestamp", "targets-1", "targets-2")),
        (TARGETS, ("new-1", "new-2", "snapshot", "acme-1", "acme-2")),
        (ACME, ("zeta-1", "targets-1", "targets-2", "targets-3")),
        (ZETA, ("acme-1", "acme-2")),
    ],
)
def test_signed_by_keys_of_another_role(path: str, names: tuple[str, ...]) -> None:
    refused(changed(sign(path, *names)), Code.BUNDLE_UNDERSIGNED, path)


def test_root_signed_only_by_the_old_keys() -> None:
    scene = changed(sign(ROOT_2, "old-1", "old-2", "old-3"))
    refused(scene, Code.BUNDLE_UNDERSIGNED, f"as {ROOT_2} asks")


def test_root_signed_only_by_the_new_keys() -> None:
    scene = changed(sign(ROOT_2, "new-1", "new-2", "new-3"))
    refused(scene, Code.BUNDLE_UNDERSIGNED, f"as {ROOT_1} asks")


def test_threshold_met_by_one_key_signing_twice() -> None:
    scene = changed(sign(TARGETS, "targets-1", "targets-1"))
    refused(scene, Code.BUNDLE_MALFORMED, "Multiple signatures")


def test_threshold_met_by_one_key_under_two_ids() -> None:
    """The library counts ids; that each is the hash of its key is checked here."""
    scene = Scene()
    scene.spoil(TARGETS, lambda whole: whole["signatures"].pop())
    twin = "ab" * 32

    def doubled(signed: Json) -> None:
        role = signed["roles"]["targets"]
        first = key("targets-1").public_key.keyid
        signed["keys"][twin] = signed["keys"][first]
        role["keyids"] = [first, twin]

    def twice(whole: Json) -> None:
        [signature] = whole["signatures"]
        whole["signatures"].append(signature | {"keyid": twin})

    scene.edit(ROOT_2, doubled).spoil(TARGETS, twice)
    refused(scene, Code.BUNDLE_MALFORMED, f"key {twin}: its id should be")


def test_threshold_met_by_a_key_that_is_named_twice() -> None:
    def doubled(signed: Json) -> None:
        role = signed["roles"]["timestamp"]
        role["keyids"] = role["keyids"] * 2
        role["threshold"] = 1

    scene = Scene().edit(ROOT_2, doubled)
    refused(scene, Code.BUNDLE_MALFORMED, "Nonunique keyids")


def test_a_signature_over_other_bytes() -> None:
    scene = Scene().spoil(TARGETS, lambda whole: whole["signed"].update(version=6))
    scene.edit(SNAPSHOT, lambda s: s["meta"]["targets.json"].update(version=6))
    refused(scene, Code.BUNDLE_UNDERSIGNED, TARGETS)


def test_keys_of_a_root_that_was_replaced_no_longer_count() -> None:
    def other_key(signed: Json) -> None:
        fresh = root(2)
        fresh.revoke_key(key("timestamp").public_key.keyid, "timestamp")
        fresh.add_key(key("timestamp-new").public_key, "timestamp")
        signed.update(fresh.to_dict())

    scene = Scene().edit(ROOT_2, other_key)
    refused(scene, Code.BUNDLE_UNDERSIGNED, TIMESTAMP)
    scene.signers[TIMESTAMP] = keys("timestamp-new")
    assert verify(scene).version == 7


# Roots (section 5.3)


def test_a_root_is_left_out() -> None:
    scene = Scene(drops={ROOT_2}, adds={"metadata/3.root.json": b"{}"})
    refused(scene, Code.BUNDLE_INCOMPLETE, "metadata/2.root.json: missing")


@pytest.mark.parametrize("version", [1, 3])
def test_a_later_root_of_another_version_than_its_place(version: int) -> None:
    scene = Scene().put(ROOT_2, version=version)
    refused(scene, Code.BUNDLE_INCOMPLETE, f"version {version}")


def test_a_first_root_of_another_version() -> None:
    scene = Scene().put(ROOT_1, version=2)
    files = scene.files()
    with pytest.raises(SettingsError) as caught:
        verify(pack(files), policy_root=policy_root_of(files[ROOT_1]))
    assert caught.value.code is Code.BUNDLE_INCOMPLETE


# Files


@pytest.mark.parametrize(
    "path", [ROOT_1, TIMESTAMP, SNAPSHOT, TARGETS, ACME, ZETA, ACME_DOCUMENT, RELEASE]
)
def test_missing(path: str) -> None:
    refused(Scene(drops={path}), Code.BUNDLE_INCOMPLETE, f"{path}: missing")


@pytest.mark.parametrize(
    "path",
    [
        "targets/policy/more.toml",
        "targets/tenants/acme/more.toml",
        "targets/tenants/other/web.toml",
        "metadata/tenant-other.json",
    ],
)
def test_a_file_that_nobody_signed(path: str) -> None:
    scene = Scene(adds={path: b"version = 1"})
    refused(scene, Code.BUNDLE_INCOMPLETE, f"{path}: nobody signed it")


def listed(path: str, target: str, **values: Any) -> Scene:
    return Scene().edit(path, lambda signed: signed["targets"][target].update(values))


@pytest.mark.parametrize(
    ("path", "target"),
    [(TARGETS, "policy/base.toml"), (ACME, "tenants/acme/web.toml")],
)
def test_wrong_hash_and_wrong_length_of_a_target(path: str, target: str) -> None:
    incomplete = Code.BUNDLE_INCOMPLETE
    content = Scene().contents[target]
    sha256 = hashlib.sha256(content).hexdigest()
    sha512 = hashlib.sha512(content).hexdigest()
    both = {"sha256": sha256, "sha512": sha512}
    assert verify(listed(path, target, hashes=both)).version == 7
    assert verify(listed(path, target, hashes={"sha512": sha512})).version == 7
    refused(listed(path, target, hashes={"sha256": "00" * 32}), incomplete, "hash")
    refused(listed(path, target, hashes=both | {"sha512": "00" * 64}), incomplete)
    refused(listed(path, target, length=len(content) + 1), incomplete, "length")
    malformed = Code.BUNDLE_MALFORMED
    refused(listed(path, target, hashes={}), malformed)
    refused(listed(path, target, hashes={"md5": "00" * 16}), malformed, "md5")
    refused(listed(path, target, hashes={"sha1": "00" * 20}), malformed, "sha1")
    refused(listed(path, target, hashes={"sha256": sha256.upper()}), malformed)
    refused(listed(path, target, length=-1), malformed)


@pytest.mark.parametrize("path", [ACME_DOCUMENT, "targets/policy/base.toml"])
def test_a_document_that_was_changed(path: str) -> None:
    other = Scene().files()[path].replace(b"named", b"nam3d")
    refused(Scene(adds={path: other}), Code.BUNDLE_INCOMPLETE, path)


@pytest.mark.parametrize("path", [SNAPSHOT, TARGETS, ACME])
def test_metadata_that_is_not_what_was_listed(path: str) -> None:
    spaced = Scene().files()[path] + b"\n"
    refused(Scene(adds={path: spaced}), Code.BUNDLE_INCOMPLETE, path)


@pytest.mark.parametrize(
    ("path", "by", "entry"),
    [
        (SNAPSHOT, TIMESTAMP, "snapshot.json"),
        (TARGETS, SNAPSHOT, "targets.json"),
        (ACME, SNAPSHOT, "tenant-acme.json"),
    ],
)
def test_mix_and_match(path: str, by: str, entry: str) -> None:
    """Each file is well signed, but another version of it is listed."""

    def other(signed: Json) -> None:
        signed["meta"][entry] = {"version": signed["meta"][entry]["version"] + 1}

    scene = Scene().edit(by, other)
    refused(scene, Code.BUNDLE_INCOMPLETE, f"{path}: version")


@pytest.mark.parametrize("entry", ["targets.json", "tenant-acme.json"])
def test_a_role_that_the_snapshot_does_not_list(entry: str) -> None:
    scene = Scene().edit(SNAPSHOT, lambda signed: signed["meta"].pop(entry))
    refused(scene, Code.BUNDLE_INCOMPLETE, f"does not list {entry}")


@pytest.mark.parametrize(
    "entry", ["root.json", "snapshot.json", "acme.json", "tenant-a/b.json", "targets"]
)
def test_a_snapshot_that_lists_what_is_no_role(entry: str) -> None:
    def more(signed: Json) -> None:
        signed["meta"][entry] = {"version": 1}

    refused(Scene().edit(SNAPSHOT, more), Code.BUNDLE_MALFORMED, entry)


def test_hashes_of_metadata_may_be_left_out() -> None:
    def versions_alone(signed: Json) -> None:
        for meta in signed["meta"].values():
            del meta["hashes"], meta["length"]

    scene = Scene().edit(SNAPSHOT, versions_alone).edit(TIMESTAMP, versions_alone)
    assert verify(scene).version == 7


def test_what_was_unpacked_is_not_changed_by_verifying() -> None:
    data = Scene().pack()
    files = unpack(data)
    verify(data)
    assert unpack(data) == files
