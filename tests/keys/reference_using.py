# SPDX-License-Identifier: Apache-2.0
"""Signing and agreeing a second time, on Python's integers and ``hmac`` alone.

ECDSA from SEC 1 section 4.1.3 with the nonce of RFC 6979 section 3.2, ECDH from SEC 1
section 3.3.1. For tests: slow, and not in constant time.
"""

import hashlib
import hmac

from reference_pairs import CURVES, multiple, x25519


def _nonce(order: int, private: bytes, hashed: bytes) -> int:
    """RFC 6979 section 3.2 with SHA-256, for an order of 256 bits."""
    reduced = (int.from_bytes(hashed, "big") % order).to_bytes(32, "big")
    value, key = b"\1" * 32, bytes(32)
    for mark in (b"\0", b"\1"):
        key = hmac.digest(key, value + mark + private + reduced, "sha256")
        value = hmac.digest(key, value, "sha256")
    while True:
        value = hmac.digest(key, value, "sha256")
        if 1 <= (found := int.from_bytes(value, "big")) < order:
            return found
        key = hmac.digest(key, value + b"\0", "sha256")
        value = hmac.digest(key, value, "sha256")


def ecdsa(curve: str, private: bytes, message: bytes) -> tuple[int, int]:
    """r and s, as they come."""
    order = CURVES[curve][3]
    hashed = hashlib.sha256(message).digest()
    k = _nonce(order, private, hashed)
    r = multiple(curve, k)[0] % order
    d, z = int.from_bytes(private, "big"), int.from_bytes(hashed, "big")
    return r, pow(k, -1, order) * (z + r * d) % order


def ecdh(curve: str, private: bytes, peer: bytes) -> bytes:
    """The x coordinate of the peer's point times the scalar."""
    p, a, b, _, _ = CURVES[curve]
    x = int.from_bytes(peer[1:33], "big")
    y = pow((x**3 + a * x + b) % p, (p + 1) // 4, p)
    if peer[0] == 4:
        y = int.from_bytes(peer[33:], "big")
    elif y & 1 != peer[0] & 1:
        y = p - y
    shared = multiple(curve, int.from_bytes(private, "big"), (x, y))
    return shared[0].to_bytes(32, "big")


def agree(key_type: str, private: bytes, peer: bytes) -> bytes:
    if key_type == "x25519":
        return x25519(private, int.from_bytes(peer, "little"))
    return ecdh(key_type, private, peer)
