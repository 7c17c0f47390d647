# SPDX-License-Identifier: Apache-2.0
"""One metadata file: strict JSON, three kinds of keys, one form."""

import json
import warnings
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from bundle_support import (
    ACME,
    ROOT_1,
    ROOT_2,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Json,
    Scene,
    key,
    root,
    signed_json,
    to_bytes,
    verify,
)
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import CryptoSigner, SSlibKey

from tightseal.errors import Code, SettingsError
from tightseal.policy.bundle import metadata
from tightseal.policy.bundle.metadata import (
    SignedFile,
    policy_root_of,
    read_root,
    read_snapshot,
    read_targets,
    read_timestamp,
)
from tightseal.policy.bundle.schema import MAX_ROLE_KEYS, MAX_SIGNATURES

READERS: dict[str, Callable[[str, bytes], SignedFile[Any]]] = {
    ROOT_2: read_root,
    TIMESTAMP: read_timestamp,
    SNAPSHOT: read_snapshot,
    TARGETS: read_targets,
    ACME: read_targets,
}
FILES = Scene().files()
ANY = pytest.mark.parametrize("path", list(READERS))


def refused(path: str, data: bytes, said: str = "") -> None:
    with pytest.raises(SettingsError) as caught:
        READERS[path](path, data)
    assert caught.value.code is Code.BUNDLE_MALFORMED
    assert path in caught.value.detail
    assert said in caught.value.detail


def edited(path: str, change: Callable[[Json], object]) -> bytes:
    value = json.loads(FILES[path])
    change(value)
    return to_bytes(value)


@ANY
def test_what_was_signed_is_what_is_judged(path: str) -> None:
    file = READERS[path](path, FILES[path])
    assert file.payload == file.metadata.signed_bytes
    assert file.version == json.loads(FILES[path])["signed"]["version"]
    spaced = json.dumps(json.loads(FILES[path]), indent=3).encode()
    assert READERS[path](path, spaced).payload == file.payload


@ANY
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b"{}",
        b'{"signed":null,"signatures":[]}',
        b'{"signed":[],"signatures":[]}',
        b'{"signed":{"_type":"root"},"signatures":[]}',
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"signed":' + b"[" * 20 + b"]" * 20 + b',"signatures":[]}',
        b'{"signed":NaN,"signatures":[]}',
        b'{"signed":1e999,"signatures":[]}',
        b"9" * 5000,
    ],
)
def test_what_is_no_metadata(path: str, data: bytes) -> None:
    refused(path, data)


@ANY
def test_duplicate_keys(path: str) -> None:
    """The last one would count here, and the first one elsewhere."""
    for name in (b'"signed":', b'"version":', b'"signatures":'):
        twice = FILES[path].replace(name, name + b"1," + name, 1)
        refused(path, twice, "a key is given twice")


@ANY
@pytest.mark.parametrize("where", ["whole", "signed", "signature"])
def test_an_unknown_field(path: str, where: str) -> None:
    def more(whole: Json) -> None:
        parts = {
            "whole": whole,
            "signed": whole["signed"],
            "signature": whole["signatures"][0],
        }
        parts[where]["x-more"] = 1

    refused(path, edited(path, more), "x-more")


@ANY
@pytest.mark.parametrize(
    "version", ["2.0.0", "1.1.0", "1", "1.0.", "1.0.31.1", "1.0.x", "01.0.31", "", None]
)
def test_another_version_of_the_specification(path: str, version: object) -> None:
    def other(whole: Json) -> None:
        whole["signed"]["spec_version"] = version

    refused(path, edited(path, other), "spec_version")


@ANY
@pytest.mark.parametrize(
    "kind", ["root", "timestamp", "snapshot", "targets", "mirrors"]
)
def test_metadata_of_another_role(path: str, kind: str) -> None:
    if json.loads(FILES[path])["signed"]["_type"] == kind:
        assert READERS[path](path, FILES[path]).metadata.signed.type == kind
        return
    refused(path, edited(path, lambda whole: whole["signed"].update(_type=kind)))


@ANY
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("keyid", "00" * 31),
        ("keyid", "AB" * 32),
        ("keyid", 1),
        ("sig", "0"),
        ("sig", "zz"),
        ("sig", "00 00"),
        ("sig", None),
        ("sig", "00" * 1025),
    ],
)
def test_a_signature_of_another_form(path: str, name: str, value: object) -> None:
    def other(whole: Json) -> None:
        whole["signatures"][0][name] = value

    refused(path, edited(path, other))


@ANY
def test_too_many_signatures(path: str) -> None:
    def many(count: int) -> Callable[[Json], None]:
        return lambda whole: whole.update(
            signatures=[{"keyid": f"{i:064x}", "sig": ""} for i in range(count)]
        )

    READERS[path](path, edited(path, many(MAX_SIGNATURES)))
    refused(path, edited(path, many(MAX_SIGNATURES + 1)), "signatures")


@pytest.mark.parametrize("text", ["\ud800", '\\"', "\N{GREEK SMALL LETTER ALPHA}"])
def test_text_that_has_no_one_encoding_is_refused_or_kept(text: str) -> None:
    def other(whole: Json) -> None:
        targets = whole["signed"]["targets"]
        targets[text] = targets.pop("policy/base.toml")

    data = edited(TARGETS, other)
    try:
        file = read_targets(TARGETS, data)
    except SettingsError:
        refused(TARGETS, data)
        assert text == "\ud800"
    else:
        assert text in file.signed.targets


@pytest.mark.parametrize("value", [True, 1, "false"])
def test_consistent_snapshots(value: object) -> None:
    def other(whole: Json) -> None:
        whole["signed"]["consistent_snapshot"] = value

    refused(ROOT_2, edited(ROOT_2, other), "consistent_snapshot")


def test_no_word_on_consistent_snapshots_means_none() -> None:
    data = edited(ROOT_2, lambda whole: whole["signed"].pop("consistent_snapshot"))
    assert read_root(ROOT_2, data).version == 2


# Roles of the root


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
@pytest.mark.parametrize(
    "values",
    [
        {"threshold": 0},
        {"threshold": -1},
        {"threshold": 4},
        {"threshold": 1 << 60},
        {"threshold": True},
        {"threshold": None},
        {"keyids": []},
        {"keyids": "ab" * 32},
        {"keyids": ["ab" * 32]},
        {"keyids": [f"{i:064x}" for i in range(MAX_ROLE_KEYS + 1)]},
        {"name": "more"},
    ],
)
def test_a_role_of_the_root_of_another_form(role: str, values: Json) -> None:
    def other(whole: Json) -> None:
        whole["signed"]["roles"][role].update(values)

    refused(ROOT_2, edited(ROOT_2, other))


@pytest.mark.parametrize("name", ["timestamp", "mirrors"])
def test_a_root_with_a_role_too_few_or_too_many(name: str) -> None:
    def other(whole: Json) -> None:
        roles = whole["signed"]["roles"]
        taken = roles.pop(name, None)
        roles.update({} if taken else {name: roles["root"]})

    refused(ROOT_2, edited(ROOT_2, other), name)


# Keys


def with_key(public: SSlibKey | Json, keyid: str | None = None) -> bytes:
    """Root 2 with one more key."""
    value = public if isinstance(public, dict) else public.to_dict()
    name = keyid or (public.keyid if isinstance(public, SSlibKey) else "00" * 32)
    return edited(ROOT_2, lambda whole: whole["signed"]["keys"].update({name: value}))


def as_json(keytype: str, scheme: str, public: object) -> Json:
    return {"keytype": keytype, "scheme": scheme, "keyval": {"public": public}}


def spki(public: Any) -> str:
    form = PublicFormat.SubjectPublicKeyInfo
    return str(public.public_bytes(Encoding.PEM, form).decode())


P256 = ec.derive_private_key(7, ec.SECP256R1())
P384 = ec.derive_private_key(7, ec.SECP384R1())
RSA = rsa.generate_private_key(65_537, 3072)
ED_KEY = ed25519.Ed25519PrivateKey.generate()
WEAK = rsa.generate_private_key(65_537, 2048)


@pytest.mark.parametrize("signer", [CryptoSigner(P256), CryptoSigner(RSA), key("ed")])
def test_each_kind_of_key_can_sign(signer: CryptoSigner) -> None:
    def other_key(signed: Json) -> None:
        fresh = root(2)
        [old] = fresh.roles["timestamp"].keyids
        fresh.revoke_key(old, "timestamp")
        fresh.add_key(signer.public_key, "timestamp")
        signed.update(fresh.to_dict())

    scene = Scene().edit(ROOT_2, other_key)
    scene.signers[TIMESTAMP] = [signer]
    assert verify(scene).version == 7
    scene.spoil(TIMESTAMP, lambda whole: whole["signed"].update(version=8))
    with pytest.raises(SettingsError) as caught:
        verify(scene)
    assert caught.value.code is Code.BUNDLE_UNDERSIGNED


ED = "ab" * 32
GOOD_PEM = spki(P256.public_key())
RAW_RSA = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()


@pytest.mark.parametrize(
    "public",
    [
        as_json("ed25519", "ed25519", "ab" * 31),
        as_json("ed25519", "ed25519", ED.upper()),
        as_json("ed25519", "ed25519", f" {ED}"),
        as_json("ed25519", "ed25519", "zz"),
        as_json("ed25519", "ed25519", ""),
        as_json("ed25519", "ed25519", None),
        as_json("ed25519", "ed25519", GOOD_PEM),
        as_json("ed25519", "ecdsa-sha2-nistp256", ED),
        as_json("ecdsa", "ecdsa-sha2-nistp256", spki(P384.public_key())),
        as_json("ecdsa", "ecdsa-sha2-nistp384", spki(P384.public_key())),
        as_json("ecdsa", "ecdsa-sha2-nistp256", ED),
        as_json("ecdsa", "ecdsa-sha2-nistp256", GOOD_PEM + "\n"),
        as_json("ecdsa", "ecdsa-sha2-nistp256", GOOD_PEM.strip()),
        as_json("ecdsa", "ecdsa-sha2-nistp256", GOOD_PEM.replace("\n", "\r\n")),
        as_json("ecdsa", "ecdsa-sha2-nistp256", GOOD_PEM.replace("M", "N", 1)),
        as_json("ecdsa", "ecdsa-sha2-nistp256", GOOD_PEM[:60]),
        as_json("ecdsa", "ecdsa-sha2-nistp256", spki(RSA.public_key())),
        as_json("ecdsa", "ecdsa-sha2-nistp256", spki(ED_KEY.public_key())),
        as_json("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256", GOOD_PEM),
        as_json("rsa", "rsassa-pss-sha256", spki(WEAK.public_key())),
        as_json("rsa", "rsassa-pss-sha256", RAW_RSA),
        as_json("rsa", "rsassa-pss-sha256", GOOD_PEM),
        as_json("rsa", "rsassa-pss-sha512", spki(RSA.public_key())),
        as_json("rsa", "rsa-pkcs1v15-sha256", spki(RSA.public_key())),
        as_json("rsa", "pgp+rsa-pkcsv1.5", spki(RSA.public_key())),
        as_json("ml-dsa", "ml-dsa-44/1", GOOD_PEM),
        as_json("sigstore-oidc", "Fulcio", "a"),
        as_json("ed25519", "ed25519", ED) | {"keyid_hash_algorithms": ["sha256"]},
        {"keytype": "ed25519", "scheme": "ed25519", "keyval": {}},
        {"keytype": "ed25519", "scheme": "ed25519", "keyval": ED},
        {
            "keytype": "ed25519",
            "scheme": "ed25519",
            "keyval": {"public": ED, "private": ED},
        },
    ],
)
def test_another_kind_or_form_of_key(public: Json) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(ROOT_2, with_key(public))


def test_a_weak_rsa_exponent() -> None:
    numbers = rsa.RSAPublicNumbers(3, RSA.public_key().public_numbers().n)
    public = SSlibKey.from_crypto(numbers.public_key())
    refused(ROOT_2, with_key(public), "expected P-256 or RSA")


def test_a_key_under_an_id_that_is_not_its_own() -> None:
    public = key("fresh").public_key
    assert read_root(ROOT_2, with_key(public)).version == 2
    refused(ROOT_2, with_key(public, "ab" * 32), f"should be {public.keyid}")


def test_an_approver_s_key_under_an_id_that_is_not_its_own() -> None:
    def other(whole: Json) -> None:
        found = whole["signed"]["delegations"]["keys"]
        found["ab" * 32] = found[key("acme-1").public_key.keyid]

    refused(TARGETS, edited(TARGETS, other), "its id should be")


def test_what_the_library_would_read_in_another_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It drops what it does not know; a form that let such a thing in is caught."""
    forgetful = json.loads(FILES[TIMESTAMP])
    forgetful["signed"]["meta"]["other.json"] = {"version": 1}
    data = to_bytes(signed_json(forgetful["signed"], [key("timestamp")]))
    refused(TIMESTAMP, data, "other.json")
    monkeypatch.setitem(metadata.FORMS, "timestamp", Anything)
    refused(TIMESTAMP, data, "another thing to the TUF library")


class Anything(msgspec.Struct):
    signed: Any


def test_a_policy_root_is_told_of_a_root_only() -> None:
    assert len(policy_root_of(FILES[ROOT_1])) == 32
    for path in (TIMESTAMP, SNAPSHOT, TARGETS):
        with pytest.raises(SettingsError) as caught:
            policy_root_of(FILES[path])
        assert caught.value.code is Code.BUNDLE_MALFORMED
