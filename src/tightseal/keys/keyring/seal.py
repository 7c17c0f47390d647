# SPDX-License-Identifier: Apache-2.0
"""Sealing of 32-byte keys under keys: the one box that keyrings are made of.

A sealed key is ``salt (32) || nonce (12) || AES-256-GCM ciphertext (32) || tag (16)``.
The key of a box is HKDF-SHA256 (RFC 5869) of the parent with the box's own salt, so
each box has a key of its own and random nonces never wear out.
"""

from __future__ import annotations

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tightseal.errors import Code, ServiceError
from tightseal.keys.keyring.faults import tampered
from tightseal.model.canonical import Value, labelled
from tightseal.model.labels import Label
from tightseal.model.secret import Secret

__all__ = ["KEY_BYTES", "SEALED_BYTES", "derive", "open_sealed", "seal", "usable"]

KEY_BYTES: Final = 32
"""Length of a root, of the keyring key and of a slot's key."""

_SALT_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_PREFIX_BYTES: Final = _SALT_BYTES + _NONCE_BYTES

SEALED_BYTES: Final = _PREFIX_BYTES + KEY_BYTES + _TAG_BYTES
"""Length of a sealed key."""


def usable(key: Secret) -> bool:
    """Whether it can be a key: 32 bytes, and not the zeros of one that was wiped."""
    return len(key) == KEY_BYTES and key != Secret(bytes(KEY_BYTES))


def derive(
    parent: Secret, *, label: Label, value: Value, salt: bytes | None = None
) -> Secret:
    """HKDF-SHA256 with ``labelled(label, value)`` as info; 32 bytes.

    Raises:
        ServiceError: ``internal``, where the parent is no key: it was wiped.
    """
    if not usable(parent):
        raise ServiceError(Code.INTERNAL, "keyring: derived from a key that was wiped")
    info = labelled(label, value)
    kdf = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=salt, info=info)
    return Secret(kdf.derive(parent.reveal()))


def seal(plain: Secret, *, under: Secret, use: Value, data: bytes) -> bytes:
    """Seal 32 bytes.

    Args:
        plain: the key to seal.
        under: the key to seal it under.
        use: what the box is for; enters the key of the box.
        data: associated data.

    Raises:
        ServiceError: ``internal``, where one of them is no key.
    """
    if not usable(plain):
        raise ServiceError(Code.INTERNAL, "keyring: sealed a key that was wiped")
    fresh = secrets.token_bytes(_PREFIX_BYTES)
    box = _box(under, use, fresh[:_SALT_BYTES])
    return fresh + box.encrypt(fresh[_SALT_BYTES:], plain.reveal(), data)


def open_sealed(sealed: bytes, *, under: Secret, use: Value, data: bytes) -> Secret:
    """Open what ``seal`` made of the same key, use and data.

    Raises:
        KeyReleaseError: ``keyring_tampered``, where it does not open.
    """
    if len(sealed) != SEALED_BYTES:
        raise tampered(f"sealed key of {len(sealed)} bytes, expected {SEALED_BYTES}")
    box = _box(under, use, sealed[:_SALT_BYTES])
    nonce = sealed[_SALT_BYTES:_PREFIX_BYTES]
    try:
        return Secret(box.decrypt(nonce, sealed[_PREFIX_BYTES:], data))
    except InvalidTag as e:
        raise tampered("sealed under another key, or for another place") from e


def _box(under: Secret, use: Value, salt: bytes) -> AESGCM:
    key = derive(under, label=Label.KDF_KEYRING_SEAL, value=use, salt=salt)
    try:
        return AESGCM(key.reveal())
    finally:
        key.wipe()
