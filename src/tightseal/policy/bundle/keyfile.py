# SPDX-License-Identifier: Apache-2.0
"""Key files of approvers and operators: Ed25519, under a passphrase.

The private half is ``NAME.key``, in OpenSSH's format, whose passphrases go through
bcrypt; the public half ``NAME.pub`` (SubjectPublicKeyInfo, RFC 8410). Keys that
``ssh-keygen -t ed25519`` or openssl (PKCS#8) made are read as well. Nothing here is a
provider's: these keys live with people.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from tightseal.errors import Code, SettingsError

__all__ = [
    "MAX_KEY_FILE_BYTES",
    "MIN_PASSPHRASE_BYTES",
    "SigningKey",
    "generate_key",
    "is_encrypted",
    "load_signing_key",
    "public_file",
    "read_public",
    "read_public_key",
    "write_key_pair",
]

MAX_KEY_FILE_BYTES: Final = 65_536
"""Longest key file that is read."""

MIN_PASSPHRASE_BYTES: Final = 12
"""Shortest passphrase of a new key; whoever has the file can guess offline."""

BCRYPT_ROUNDS: Final = 64
"""Rounds of bcrypt's KDF; about a second of work for whoever tries a passphrase."""

_KEY_MODE: Final = 0o600
_PUBLIC_MODE: Final = 0o644
_OPENSSH: Final = b"-----BEGIN OPENSSH PRIVATE KEY-----"


class SigningKey:
    """A person's Ed25519 key; says nothing of itself but its public half."""

    __slots__ = ("_key",)

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def __repr__(self) -> str:
        return f"SigningKey({self.public_key.hex()})"

    @property
    def public_key(self) -> bytes:
        """The public half, 32 bytes."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes (RFC 8032); the caller labels the message."""
        return self._key.sign(message)

    def private(self) -> Ed25519PrivateKey:
        """The key itself, for libraries that sign with it."""
        return self._key


def generate_key() -> SigningKey:
    """A new key, from the system's randomness."""
    return SigningKey(Ed25519PrivateKey.generate())


def public_file(key_file: Path) -> Path:
    """Where the public half of a key file is written: ``alice.key``, ``alice.pub``."""
    return key_file.with_suffix(".pub")


def write_key_pair(
    key: SigningKey, key_file: Path, *, passphrase: bytes | None
) -> Path:
    """Write both halves into new files; nothing is ever overwritten.

    Args:
        key: to write.
        key_file: the private half, mode 0600; the public half beside it (``.pub``).
        passphrase: at least ``MIN_PASSPHRASE_BYTES``; ``None`` leaves the key readable
            to whoever reads the file, for development.

    Returns:
        the file of the public half.

    Raises:
        SettingsError: ``settings_invalid``: a file is there already or cannot be
            written, or the passphrase is too short.
    """
    if passphrase is not None and len(passphrase) < MIN_PASSPHRASE_BYTES:
        detail = (
            f"passphrase of {len(passphrase)} bytes, expected at least "
            f"{MIN_PASSPHRASE_BYTES}: whoever has the file can guess offline"
        )
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    public = public_file(key_file)
    if public == key_file:
        detail = f"{key_file}: .pub is for the public half; name it NAME.key"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    for file in (key_file, public):
        if os.path.lexists(file):
            detail = f"{file}: there is a file already, and no key is overwritten"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
    _write_new(key_file, _private_pem(key, passphrase), _KEY_MODE)
    try:
        _write_new(public, _public_pem(key), _PUBLIC_MODE)
    except SettingsError:
        with suppress(OSError):
            key_file.unlink()
        raise
    return public


def is_encrypted(key_file: Path) -> bool:
    """Whether a key file needs a passphrase.

    Raises:
        SettingsError: ``settings_invalid``, where it cannot be read.
    """
    return _needs_passphrase(_read(key_file))


def load_signing_key(key_file: Path, *, passphrase: bytes | None) -> SigningKey:
    """Read a private half.

    Args:
        key_file: OpenSSH's format, or PKCS#8 PEM.
        passphrase: ``None`` where the file is not encrypted.

    Raises:
        SettingsError: ``settings_invalid``: unreadable, another kind of key, a
            passphrase that is wrong, missing or not needed.
    """
    data = _read(key_file)
    try:
        key = _private(data, passphrase)
    except TypeError as e:
        wanted = "needs a passphrase" if passphrase is None else "has no passphrase"
        detail = f"{key_file}: the key {wanted}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    except (ValueError, UnsupportedAlgorithm) as e:
        encrypted = _needs_passphrase(data)
        why = "the passphrase is wrong" if encrypted else "not a private key file"
        detail = f"{key_file}: {why}"
        # The library's text may quote what it decrypted.
        raise SettingsError(Code.SETTINGS_INVALID, detail) from None if encrypted else e
    if not isinstance(key, Ed25519PrivateKey):
        detail = f"{key_file}: {type(key).__name__}, expected an Ed25519 key"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return SigningKey(key)


def read_public_key(file: Path) -> PublicKeyTypes:
    """Read a public half of any kind, in PEM or OpenSSH's one line.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    data = _read(file)
    try:
        if data.startswith(b"ssh-"):
            return load_ssh_public_key(data)
        return load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        detail = f"{file}: not a public key in PEM, such as tightseal policy keygen"
        raise SettingsError(Code.SETTINGS_INVALID, f"{detail} writes beside it") from e


def read_public(file: Path) -> bytes:
    """Read an Ed25519 public half.

    Returns:
        32 bytes.

    Raises:
        SettingsError: ``settings_invalid``: unreadable, or another kind of key.
    """
    key = read_public_key(file)
    if not isinstance(key, Ed25519PublicKey):
        detail = f"{file}: {type(key).__name__}, expected an Ed25519 key"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


# -- how it is written -------------------------------------------------------------


def _private(data: bytes, passphrase: bytes | None) -> object:
    load = load_ssh_private_key if _OPENSSH in data else load_pem_private_key
    return load(data, passphrase)


def _needs_passphrase(data: bytes) -> bool:
    try:
        _private(data, None)
    except TypeError:
        return True
    except (ValueError, UnsupportedAlgorithm):
        return False
    return False


def _private_pem(key: SigningKey, passphrase: bytes | None) -> bytes:
    how: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        builder = PrivateFormat.OpenSSH.encryption_builder()
        how = builder.kdf_rounds(BCRYPT_ROUNDS).build(passphrase)
    return key.private().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, how)


def _public_pem(key: SigningKey) -> bytes:
    return (
        key.private()
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as e:
        detail = f"{file}: {e.strerror}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    if len(data) > MAX_KEY_FILE_BYTES:
        detail = f"{file}: longer than {MAX_KEY_FILE_BYTES} bytes"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return data


def _write_new(file: Path, data: bytes, mode: int) -> None:
    """A new file, whole and durable, or none."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(file, flags, mode)
    except OSError as e:
        detail = f"{file}: {e.strerror}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        folder = os.open(file.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as e:
        with suppress(OSError):
            file.unlink()
        raise SettingsError(Code.SETTINGS_INVALID, f"{file}: {e.strerror}") from e
