# SPDX-License-Identifier: Apache-2.0
"""One file from many, and back: one encoding, known paths, bounded sizes."""

from collections.abc import Mapping

import cbor2
import pytest
from bundle_support import Scene
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import Code, SettingsError
from tightseal.policy.bundle import archive
from tightseal.policy.bundle.archive import (
    MAX_BUNDLE_BYTES,
    MAX_FILES,
    MAX_ROOT_BYTES,
    is_target,
    pack,
    root_versions,
    tenant_of_role,
    tenant_of_target,
    tenant_pattern,
    tenant_role,
    unpack,
)

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
PATHS = st.one_of(
    st.integers(1, 1024).map(lambda n: f"metadata/{n}.root.json"),
    NAMES.map(lambda n: f"metadata/tenant-{n}.json"),
    NAMES.map(lambda n: f"targets/policy/{n}.toml"),
    st.tuples(NAMES, NAMES).map(lambda n: f"targets/tenants/{n[0]}/{n[1]}.toml"),
)


def whole(**changes: object) -> bytes:
    """An encoding in the right order of keys, of anything."""
    value = {"files": {}, "format": "tightseal-policy-bundle", "version": 1} | changes
    return cbor2.dumps(value)


def refused(data: bytes) -> str:
    with pytest.raises(SettingsError) as caught:
        unpack(data)
    assert caught.value.code is Code.BUNDLE_MALFORMED
    return caught.value.detail


@given(st.dictionaries(PATHS, st.binary(max_size=300), max_size=20))
def test_what_is_packed_is_unpacked(files: Mapping[str, bytes]) -> None:
    data = pack(files)
    assert unpack(data) == files
    assert pack(dict(reversed(files.items()))) == data


@given(st.binary(max_size=200))
def test_bytes_are_refused_or_are_the_one_encoding_of_their_files(data: bytes) -> None:
    try:
        files = unpack(data)
    except SettingsError:
        refused(data)
    else:
        assert pack(files) == data


def test_every_truncation_is_refused() -> None:
    data = pack(
        {"targets/release.toml": b"nonce_life = 60", "metadata/1.root.json": b""}
    )
    for end in range(len(data)):
        refused(data[:end])
    refused(data + b"\0")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "metadata/../targets/release.toml",
        "targets/policy/../../etc/passwd.toml",
        "targets/policy/..toml/x.toml",
        "targets/policy/.toml",
        "targets/policy/.hidden.toml",
        "targets/policy/-.toml",
        "targets//release.toml",
        "/targets/release.toml",
        "targets/release.toml/",
        "targets/release.toml\n",
        "targets\\release.toml",
        "Targets/release.toml",
        "targets/policy/Base.toml",
        "targets/policy/b\N{LATIN SMALL LETTER A WITH DIAERESIS}se.toml",
        "targets/policy/base.json",
        "targets/tenants/acme.toml",
        "targets/tenants/../web.toml",
        "targets/tenants/acme/deeper/web.toml",
        "targets/tenants/*/web.toml",
        "targets/" + "p" * 400,
        "metadata/root.json",
        "metadata/0.root.json",
        "metadata/01.root.json",
        "metadata/1025.root.json",
        "metadata/tenant-.json",
        "metadata/tenant-a/b.json",
        "metadata/acme.json",
        "metadata/1.timestamp.json",
    ],
)
def test_a_path_of_no_known_form_is_refused(path: str) -> None:
    with pytest.raises(SettingsError) as caught:
        pack({path: b""})
    assert caught.value.code is Code.BUNDLE_MALFORMED
    refused(whole(files={path: b""}))


def canonical_paths() -> dict[str, bytes]:
    return {"metadata/1.root.json": b"r", "metadata/2.root.json": b"s"}


@pytest.mark.parametrize(
    "data",
    [
        whole(format="tightseal-policy-bundlf"),
        whole(version=2),
        whole(version=1.0),
        whole(more=1),
        whole(files=[]),
        whole(files={"targets/release.toml": "text"}),
        whole(files={"targets/release.toml": None}),
        whole(files={b"targets/release.toml": b""}),
        whole(files={1: b""}),
        whole(files=dict(reversed(canonical_paths().items()))),
        cbor2.dumps({"version": 1, "format": "tightseal-policy-bundle", "files": {}}),
        cbor2.dumps([1, 2, 3]),
        b"",
        # A key twice.
        whole(files=canonical_paths()).replace(b"2.root", b"1.root"),
        # A length that is not the shortest.
        whole(files={"metadata/1.root.json": b"r"}).replace(b"\x41r", b"\x58\x01r"),
        # Indefinite lengths, RFC 8949 section 3.2.
        whole().replace(b"\x65files\xa0", b"\x65files\xbf\xff"),
        b"\xbf" + whole()[1:] + b"\xff",
    ],
)
def test_another_form_is_refused(data: bytes) -> None:
    refused(data)


def test_the_canonical_form_is_what_cbor2_makes_of_ordered_keys() -> None:
    assert unpack(whole(files=canonical_paths())) == canonical_paths()


def test_a_bundle_over_its_limit_is_refused_unread() -> None:
    detail = refused(bytes(MAX_BUNDLE_BYTES + 1))
    assert f"at most {MAX_BUNDLE_BYTES}" in detail
    parts = {f"targets/policy/{i}.toml": bytes(7 << 20) for i in range(5)}
    with pytest.raises(SettingsError, match=f"at most {MAX_BUNDLE_BYTES}"):
        pack(parts)


def test_a_root_over_its_limit_is_refused() -> None:
    large = {"metadata/1.root.json": bytes(MAX_ROOT_BYTES + 1)}
    assert f"at most {MAX_ROOT_BYTES}" in refused(whole(files=large))


def test_too_many_files_are_refused_by_their_count() -> None:
    """The count is told by the head; none of the files need be there."""
    claimed = b"\xa3\x65files\xba" + (MAX_FILES + 1).to_bytes(4, "big")
    assert f"at most {MAX_FILES}" in refused(claimed)
    many = {f"targets/policy/{i}.toml": b"" for i in range(MAX_FILES + 1)}
    with pytest.raises(SettingsError, match=f"at most {MAX_FILES}"):
        pack(many)


def test_a_length_beyond_the_end_costs_nothing() -> None:
    head = b"\xa3\x65files\xa1\x74metadata/1.root.json"
    assert "truncated" in refused(head + b"\x5b" + b"\xff" * 8)


def test_names_of_roles_and_folders_go_together() -> None:
    assert tenant_of_role(tenant_role("acme")) == "acme"
    assert tenant_of_role("targets") is None
    assert tenant_of_role("tenant-A") is None
    assert tenant_of_role("tenant-a/b") is None
    assert tenant_pattern("acme") == "tenants/acme/*.toml"
    assert tenant_of_target("tenants/acme/web.toml") == "acme"
    assert tenant_of_target("policy/web.toml") is None
    assert is_target("release.toml")
    assert not is_target("../release.toml")


def test_roots_are_found_in_the_order_of_numbers() -> None:
    files = {f"metadata/{i}.root.json": b"" for i in (10, 9, 1)} | Scene().files()
    assert root_versions(files) == [1, 2, 9, 10]


def test_every_limit_fits_into_the_whole() -> None:
    assert archive.MAX_METADATA_BYTES < MAX_BUNDLE_BYTES
    assert archive.MAX_TARGET_BYTES < MAX_BUNDLE_BYTES
