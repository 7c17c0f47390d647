# SPDX-License-Identifier: Apache-2.0
"""Key pairs a second time, on Python's integers alone.

Short Weierstrass curves from SEC 1 section 2.2 in affine coordinates, X25519 from
RFC 7748 section 5, Ed25519 from RFC 8032 section 5.1. For tests: slow, and not in
constant time.
"""

import hashlib

TYPES = ("x25519", "ed25519", "p256", "secp256k1")
PRIME = 2**255 - 19

# p, a, b, order, base point
CURVES = {
    "p256": (
        2**256 - 2**224 + 2**192 + 2**96 - 1,
        -3,
        0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
        (
            0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
            0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
        ),
    ),
    "secp256k1": (
        2**256 - 2**32 - 977,
        0,
        7,
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
        (
            0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
            0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
        ),
    ),
}
Point = tuple[int, int]


def _add(one: Point | None, two: Point | None, p: int, a: int) -> Point | None:
    if one is None or two is None:
        return two if one is None else one
    if one[0] == two[0] and (one[1] + two[1]) % p == 0:
        return None
    if one == two:
        slope = (3 * one[0] ** 2 + a) * pow(2 * one[1], -1, p)
    else:
        slope = (two[1] - one[1]) * pow(two[0] - one[0], -1, p)
    x = (slope**2 - one[0] - two[0]) % p
    return x, (slope * (one[0] - x) - one[1]) % p


def multiple(curve: str, scalar: int, point: Point | None = None) -> Point:
    """The base point, or another one, times ``scalar``."""
    p, a, b, _, base = CURVES[curve]
    result: Point | None = None
    addend: Point | None = point or base
    while scalar:
        if scalar & 1:
            result = _add(result, addend, p, a)
        addend = _add(addend, addend, p, a)
        scalar >>= 1
    assert result is not None
    x, y = result
    assert (y * y - x**3 - a * x - b) % p == 0
    return x, y


def compressed(curve: str, scalar: int) -> bytes:
    """SEC 1 section 2.3.3 of the base point times ``scalar``."""
    x, y = multiple(curve, scalar)
    return bytes([2 + (y & 1)]) + x.to_bytes(32, "big")


def clamped(seed: bytes) -> int:
    """``decodeScalar25519`` of RFC 7748 section 5."""
    return int.from_bytes(seed, "little") & ~7 & (2**255 - 1) & ~(1 << 254) | 1 << 254


def x25519(seed: bytes, u: int = 9) -> bytes:
    """RFC 7748 section 5, over the base point 9 or another."""
    scalar = clamped(seed)
    x2, z2, x3, z3, swap = 1, 0, u, 1, 0
    for t in reversed(range(255)):
        bit = scalar >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a, c * b, a * a, b * b
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % PRIME, u * (da - cb) ** 2 % PRIME
        x2, z2 = aa * bb % PRIME, e * (aa + 121665 * e) % PRIME
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, -1, PRIME) % PRIME).to_bytes(32, "little")


def ed25519(seed: bytes) -> bytes:
    """RFC 8032 section 5.1.5, in affine coordinates of the Edwards curve."""
    d = -121665 * pow(121666, -1, PRIME) % PRIME
    y = 4 * pow(5, -1, PRIME) % PRIME
    square = (y * y - 1) * pow(d * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if x * x % PRIME != square:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    x = PRIME - x if x & 1 else x

    def add(one: Point, two: Point) -> Point:
        product = d * one[0] * two[0] * one[1] * two[1] % PRIME
        return (
            (one[0] * two[1] + two[0] * one[1]) * pow(1 + product, -1, PRIME) % PRIME,
            (one[1] * two[1] + one[0] * two[0]) * pow(1 - product, -1, PRIME) % PRIME,
        )

    scalar = clamped(hashlib.sha512(seed).digest()[:32])
    result, addend = (0, 1), (x, y)
    while scalar:
        if scalar & 1:
            result = add(result, addend)
        addend = add(addend, addend)
        scalar >>= 1
    return (result[1] | (result[0] & 1) << 255).to_bytes(32, "little")


def seed_size(key_type: str) -> int:
    return 40 if key_type in CURVES else 32


def private(key_type: str, seed: bytes) -> bytes:
    if key_type in CURVES:
        order = CURVES[key_type][3]
        scalar = int.from_bytes(seed, "big") % (order - 1) + 1
        return scalar.to_bytes(32, "big")
    return clamped(seed).to_bytes(32, "little") if key_type == "x25519" else seed


def public(key_type: str, private: bytes) -> bytes:
    if key_type in CURVES:
        return compressed(key_type, int.from_bytes(private, "big"))
    return x25519(private) if key_type == "x25519" else ed25519(private)
