# SPDX-License-Identifier: Apache-2.0
"""ECDSA P-256 with SHA-256 over raw keys and raw signatures, as quotes carry them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

__all__ = ["ECDSA_SHA256", "public_key", "sha256", "verifies", "verifies_raw"]

ECDSA_SHA256: Final = ec.ECDSA(SHA256())

P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

_RAW_SIGNATURE_BYTES: Final = 64
_RAW_KEY_BYTES: Final = 64
_CURVE: Final = ec.SECP256R1()
_HASHED_AT_ONCE: Final = 2047
_KEYS_KEPT: Final = 256


def sha256(data: bytes) -> bytes:
    """SHA-256 of a few KiB, without giving up the interpreter lock.

    hashlib hands the lock over for more than 2047 bytes at once; between threads that
    verify quotes, taking it back costs many times the hash.
    """
    digest = hashlib.sha256()
    for at in range(0, len(data), _HASHED_AT_ONCE):
        digest.update(data[at : at + _HASHED_AT_ONCE])
    return digest.digest()


@lru_cache(maxsize=_KEYS_KEPT)
def public_key(raw: bytes) -> ec.EllipticCurvePublicKey | None:
    """The P-256 key with coordinates x and y (64 bytes); ``None`` if off the curve.

    Remembered, since a quoting enclave signs many quotes with one key, and a key that
    was used before is quicker to use.
    """
    if len(raw) != _RAW_KEY_BYTES:
        return None
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, b"\x04" + raw)
    except ValueError:
        return None


def verifies(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
    """Whether a DER signature verifies. The interpreter lock is released meanwhile."""
    try:
        key.verify(signature, message, ECDSA_SHA256)
    except InvalidSignature:
        return False
    return True


def verifies_raw(
    key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes
) -> bool:
    """Whether a signature of raw r and s (64 bytes) verifies.

    r and s must be from 1 to the order less 1 (FIPS 186-5 section 6.4.2). The other s
    of the same r verifies as well: ECDSA is malleable, so that a signature, and the
    hash of what contains it, is no unique name of the message.
    """
    if len(signature) != _RAW_SIGNATURE_BYTES:
        return False
    r = int.from_bytes(signature[:32], "big")
    s = int.from_bytes(signature[32:], "big")
    if not (0 < r < P256_ORDER and 0 < s < P256_ORDER):
        return False
    return verifies(key, encode_dss_signature(r, s), message)
