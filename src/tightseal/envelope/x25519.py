# SPDX-License-Identifier: Apache-2.0
"""Which X25519 public keys are taken as recipients, in either envelope.

RFC 7748 lets an implementation accept every 32-byte string. Two kinds are refused here:

* low-order points, with which everybody can compute the shared secret (the all-zero
  check of RFC 7748 section 6.1), and
* non-canonical encodings (top bit set, or 2^255 - 19 and above): no key generation
  makes them, and one point with two spellings is one recipient with two names.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)

from tightseal.errors import Code, KeyReleaseError

__all__ = ["X25519_BYTES", "load_public"]

X25519_BYTES: Final = 32
"""Length of a public key, in bytes."""

_PRIME: Final = (1 << 255) - 19

_ANY_SCALAR: Final = X25519PrivateKey.from_private_bytes(bytes(X25519_BYTES))
"""A probe, not a secret: clamping makes every scalar a multiple of the cofactor 8, so
the product with any of them is zero exactly for points of low order."""


def load_public(raw: bytes) -> X25519PublicKey:
    """A usable X25519 public key from its 32 bytes.

    Raises:
        KeyReleaseError: ``recipient_key_invalid``, for a wrong length, a non-canonical
            encoding or a point of low order.
    """
    if len(raw) != X25519_BYTES:
        raise _refused(f"X25519 key of {len(raw)} bytes, expected {X25519_BYTES}")
    if int.from_bytes(raw, "little") >= _PRIME:
        raise _refused("X25519 key is not canonically encoded")
    public = X25519PublicKey.from_public_bytes(raw)
    try:
        shared = _ANY_SCALAR.exchange(public)
    except ValueError as e:
        raise _refused("X25519 key is a point of low order") from e
    if not any(shared):
        raise _refused("X25519 key is a point of low order")
    return public


def _refused(detail: str) -> KeyReleaseError:
    return KeyReleaseError(Code.RECIPIENT_KEY_INVALID, detail)
