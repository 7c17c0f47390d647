# SPDX-License-Identifier: Apache-2.0
"""Key files of approvers, keys that are no files, and the folder they work in."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import HSMSigner

from tightseal.errors import Code, SettingsError
from tightseal.policy.bundle import keyfile
from tightseal.policy.bundle.folder import (
    keep_approver,
    read_folder,
    read_published,
    write_files,
)
from tightseal.policy.bundle.keyfile import (
    MAX_KEY_FILE_BYTES,
    generate_key,
    is_encrypted,
    load_signing_key,
    read_public,
    write_key_pair,
)
from tightseal.policy.bundle.signers import EXTRAS, approver_key, open_signer

PASSPHRASE = b"correct horse battery"


def refused(text: str, code: Code = Code.SETTINGS_INVALID) -> Any:
    return pytest.raises(SettingsError, match=f"(?s){code.value}.*{text}")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfile, "BCRYPT_ROUNDS", 1)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    write_key_pair(generate_key(), tmp_path / "alice.key", passphrase=PASSPHRASE)
    return tmp_path / "alice.key"


@pytest.fixture
def curve(tmp_path: Path) -> Path:
    """A P-256 key pair, as an HSM has."""
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "hsm.pub").write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "curve.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return tmp_path / "hsm.pub"


def test_a_pair_is_written_and_read(tmp_path: Path) -> None:
    for name, passphrase in (("open", None), ("sealed", PASSPHRASE)):
        key, file = generate_key(), tmp_path / f"{name}.key"
        public = write_key_pair(key, file, passphrase=passphrase)
        assert public == tmp_path / f"{name}.pub"
        assert file.stat().st_mode & 0o777 == 0o600
        assert is_encrypted(file) is (passphrase is not None)
        again = load_signing_key(file, passphrase=passphrase)
        assert again.public_key == key.public_key == read_public(public)
        assert again.sign(b"message") == key.sign(b"message")


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.OpenSSH])
def test_keys_of_other_tools_are_read(tmp_path: Path, form: PrivateFormat) -> None:
    """As openssl and ssh-keygen write them."""
    key = Ed25519PrivateKey.generate()
    how = BestAvailableEncryption(PASSPHRASE)
    file, public = tmp_path / "other.key", tmp_path / "other.pub"
    file.write_bytes(key.private_bytes(Encoding.PEM, form, how))
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    public.write_bytes(line + b" alice@desk\n")
    assert is_encrypted(file)
    read = load_signing_key(file, passphrase=PASSPHRASE)
    assert read.public_key == read_public(public) == key.public_key().public_bytes_raw()


def test_a_wrong_or_missing_passphrase(pair: Path, tmp_path: Path) -> None:
    with refused("the passphrase is wrong") as caught:
        load_signing_key(pair, passphrase=b"another passphrase")
    assert caught.value.__cause__ is None
    with refused("needs a passphrase"):
        load_signing_key(pair, passphrase=None)
    write_key_pair(generate_key(), tmp_path / "open.key", passphrase=None)
    with refused("has no passphrase"):
        load_signing_key(tmp_path / "open.key", passphrase=PASSPHRASE)


def test_a_short_passphrase(tmp_path: Path) -> None:
    with refused("passphrase of 5 bytes"):
        write_key_pair(generate_key(), tmp_path / "a.key", passphrase=b"short")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taken", ["alice.key", "alice.pub"])
def test_no_key_is_overwritten(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).symlink_to("nowhere")
    with refused("no key is overwritten"):
        write_key_pair(generate_key(), tmp_path / "alice.key", passphrase=None)
    assert [p.name for p in tmp_path.iterdir()] == [taken]


def test_a_public_half_that_cannot_be_written_leaves_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def fails(path: Any, *arguments: Any, **more: Any) -> int:
        if str(path).endswith(".pub"):
            raise OSError(28, "No space left on device", str(path))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(os, "open", fails)
    with refused("No space left"):
        write_key_pair(generate_key(), tmp_path / "alice.key", passphrase=None)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_the_private_half_is_not_named_as_the_public_one(tmp_path: Path) -> None:
    with refused("name it NAME.key"):
        write_key_pair(generate_key(), tmp_path / "alice.pub", passphrase=None)


def test_files_that_are_no_keys(tmp_path: Path, curve: Path) -> None:
    file = tmp_path / "x.key"
    with refused("No such file"):
        load_signing_key(file, passphrase=None)
    file.write_bytes(b"nothing")
    with refused("not a private key file"):
        load_signing_key(file, passphrase=None)
    with refused("not a public key"):
        read_public(file)
    file.write_bytes(bytes(MAX_KEY_FILE_BYTES + 1))
    with refused("longer than"):
        load_signing_key(file, passphrase=None)
    with refused("expected an Ed25519 key"):
        load_signing_key(tmp_path / "curve.key", passphrase=None)
    with refused("expected an Ed25519 key"):
        read_public(curve)


def test_nothing_secret_is_told(pair: Path) -> None:
    key = load_signing_key(pair, passphrase=PASSPHRASE)
    raw = key.private().private_bytes_raw()
    assert raw.hex() not in repr(key)
    assert repr(key) == f"SigningKey({key.public_key.hex()})"
    assert raw not in pair.read_bytes()


def test_a_key_file_signs_for_its_approver(pair: Path) -> None:
    asked: list[str] = []

    def secret(name: str) -> str:
        asked.append(name)
        return PASSPHRASE.decode()

    signer = open_signer(str(pair), public=None, secret=secret)
    assert asked == ["passphrase"]
    key = approver_key(pair.with_suffix(".pub"))
    assert signer.public_key.keyid == key.keyid
    key.verify_signature(signer.sign(b"payload"), b"payload")


def never(_name: str) -> str:
    raise AssertionError


@pytest.mark.parametrize("scheme", EXTRAS)
def test_a_missing_library_is_named(
    scheme: str, curve: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from securesystemslib.signer import SIGNER_FOR_URI_SCHEME  # noqa: PLC0415

    def missing(*_: object) -> None:
        raise UnsupportedLibraryError

    kind = SIGNER_FOR_URI_SCHEME[scheme]
    monkeypatch.setattr(kind, "from_priv_key_uri", staticmethod(missing))
    with refused(rf"securesystemslib\[{EXTRAS[scheme]}\]"):
        open_signer(f"{scheme}:2", public=curve, secret=never)


def test_a_device_needs_the_public_half(curve: Path) -> None:
    with refused("--public"):
        open_signer("hsm:2", public=None, secret=never)
    assert curve.exists()


def test_a_device_that_fails_is_told(
    curve: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise RuntimeError("token removed")

    monkeypatch.setattr(HSMSigner, "from_priv_key_uri", staticmethod(gone))
    with refused("RuntimeError: token removed"):
        open_signer("hsm:2", public=curve, secret=never)


# -- the folder --------------------------------------------------------------------


FILES = {
    "metadata/1.root.json": b"{}",
    "targets/policy/base.toml": b"version = 1\n",
    "targets/tenants/acme/db.toml": b"version = 1\n",
    "targets/release.toml": b"",
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    write_files(tmp_path / "F", FILES)
    yield tmp_path / "F"
    left = [p for p in (tmp_path / "F").rglob(".*") if p.name != ".keep"]
    assert left == []


def test_a_folder_is_read_as_written(folder: Path, pair: Path) -> None:
    write_files(folder, dict([keep_approver(folder, pair.with_suffix(".pub"))]))
    (folder / "targets" / ".keep").write_bytes(b"")
    (folder / "README").write_bytes(b"")
    found = read_folder(folder)
    assert found.files == FILES
    assert list(found.names.values()) == ["alice"]
    assert read_published(folder) is None
    write_files(folder, {"published.tsb": b"bundle"})
    assert read_published(folder) == b"bundle"


@pytest.mark.parametrize(
    "name", ["notes.txt", "policy/Base.toml", "policy/a/b.toml", "tenants/x.toml"]
)
def test_a_file_that_no_bundle_holds_is_refused(folder: Path, name: str) -> None:
    write_files(folder, {f"targets/{name}": b""})
    with refused("a bundle holds", Code.BUNDLE_MALFORMED):
        read_folder(folder)


@pytest.mark.parametrize("place", ["targets/policy/x.toml", "metadata/targets.json"])
def test_a_link_is_refused(folder: Path, place: str) -> None:
    (folder / place).symlink_to("/etc/passwd")
    with refused("a link", Code.BUNDLE_MALFORMED):
        read_folder(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with refused("policy init", Code.BUNDLE_INCOMPLETE):
        read_folder(tmp_path / "none")


def test_two_keys_of_one_name(folder: Path, tmp_path: Path, pair: Path) -> None:
    write_files(folder, dict([keep_approver(folder, pair.with_suffix(".pub"))]))
    (tmp_path / "other").mkdir()
    write_key_pair(generate_key(), tmp_path / "other" / "alice.key", passphrase=None)
    with refused("another key is called alice"):
        keep_approver(folder, tmp_path / "other" / "alice.pub")


def test_a_failure_before_the_last_file_leaves_all_old(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) == len(FILES):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with refused("still whole"):
        write_files(folder, dict.fromkeys(FILES, b"new"))
    assert read_folder(folder).files == FILES


@pytest.mark.parametrize("after", range(4))
def test_a_failure_between_files_leaves_each_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    moved = os.replace
    count = iter(range(10))

    def fails(source: Any, place: Any) -> None:
        if next(count) == after:
            raise OSError(5, "Input/output error")
        moved(source, place)

    monkeypatch.setattr(os, "replace", fails)
    with refused("still whole"):
        write_files(folder, dict.fromkeys(FILES, b"new"))
    found = [read_folder(folder).files[name] for name in FILES]
    assert found == [b"new"] * after + list(FILES.values())[after:]
