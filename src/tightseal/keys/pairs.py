# SPDX-License-Identifier: Apache-2.0
"""Key pairs: what the last step of the chain gives, made a private key, and its public.

=============  ==========  ======================================  ==================
type           seed bytes  private half, 32 bytes                  public half, bytes
=============  ==========  ======================================  ==================
``x25519``     32          the seed, clamped (RFC 7748 section 5)  32, little-endian u
``ed25519``    32          the seed (RFC 8032 section 5.1.5)       32, RFC 8032
``p256``       40          scalar, big-endian                      33, SEC 1 compressed
``secp256k1``  40          scalar, big-endian                      33, SEC 1 compressed
=============  ==========  ======================================  ==================

A scalar is made from 64 bits more than the order has, which keeps the bias of the
remainder below 2^-64 (FIPS 186-5 appendix A.2.1).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tightseal.errors import Code, KeyReleaseError
from tightseal.model.keypath import KeyType
from tightseal.model.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "PRIVATE_BYTES",
    "check_public_half",
    "curve_of",
    "order_of",
    "private_half",
    "public_bytes",
    "public_half",
    "scalar_of",
    "seed_bytes",
]

PRIVATE_BYTES: Final = 32
"""Length of the private half of every pair."""

_EXTRA_BYTES: Final = 8
"""The 64 extra bits of FIPS 186-5 appendix A.2.1."""

_PUBLIC_BYTES: Final[Mapping[KeyType, int]] = MappingProxyType(
    {KeyType.X25519: 32, KeyType.ED25519: 32, KeyType.P256: 33, KeyType.SECP256K1: 33}
)
_CURVES: Final[Mapping[KeyType, type[ec.EllipticCurve]]] = MappingProxyType(
    {KeyType.P256: ec.SECP256R1, KeyType.SECP256K1: ec.SECP256K1}
)
_ORDERS: Final[Mapping[KeyType, int]] = MappingProxyType(
    {
        KeyType.P256: (
            0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551
        ),
        KeyType.SECP256K1: (
            0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
        ),
    }
)
"""Orders of the base points: SP 800-186 section 3.2.1.3, SEC 2 section 2.4.1."""


def seed_bytes(key_type: KeyType) -> int:
    """How many bytes of the chain a pair is made from.

    Raises:
        KeyReleaseError: ``key_path_invalid``, where the type is no pair.
    """
    _require_pair(key_type)
    return PRIVATE_BYTES + (_EXTRA_BYTES if key_type in _CURVES else 0)


def public_bytes(key_type: KeyType) -> int:
    """Length of a public half: 32 raw, or 33 compressed.

    Raises:
        KeyReleaseError: ``key_path_invalid``, where the type is no pair.
    """
    _require_pair(key_type)
    return _PUBLIC_BYTES[key_type]


def private_half(seed: Secret, key_type: KeyType) -> Secret:
    """The private half that a seed of the chain stands for; 32 bytes.

    Big integers of Python are neither wiped nor handled in constant time; see
    ``Secret`` for the first. The one operation on them is a remainder.

    Args:
        seed: of ``seed_bytes(key_type)``, from a KDF; not wiped here.
        key_type: which kind of pair.

    Raises:
        KeyReleaseError: ``key_path_invalid``, where the type is no pair or the seed has
            another length.
    """
    wanted = seed_bytes(key_type)
    if len(seed) != wanted:
        raise _invalid(f"seed of {len(seed)} bytes, {key_type.value} takes {wanted}")
    if key_type in _ORDERS:
        # FIPS 186-5 A.2.1, steps 4 and 5: (c mod (n - 1)) + 1.
        wide = int.from_bytes(seed.reveal(), "big")
        scalar = wide % (_ORDERS[key_type] - 1) + 1
        return Secret(scalar.to_bytes(PRIVATE_BYTES, "big"))
    private = bytearray(seed.reveal())
    if key_type is KeyType.X25519:
        # The function would clamp by itself. Clamped already, the same key comes out
        # of libraries that leave that to the caller.
        private[0] &= 0xF8
        private[31] = private[31] & 0x7F | 0x40
    return Secret(private)


def public_half(private: Secret, key_type: KeyType) -> bytes:
    """The public half of a private one: raw 32 bytes, or 33 bytes SEC 1 compressed.

    Raises:
        KeyReleaseError: ``key_path_invalid``, where the type is no pair, the private
            half is not 32 bytes, or a scalar is not from 1 to the order less 1.
    """
    _require_pair(key_type)
    if len(private) != PRIVATE_BYTES:
        raise _invalid(f"private half of {len(private)} bytes, not {PRIVATE_BYTES}")
    if key_type is KeyType.X25519:
        exchange = X25519PrivateKey.from_private_bytes(private.reveal())
        return exchange.public_key().public_bytes_raw()
    if key_type is KeyType.ED25519:
        signing = Ed25519PrivateKey.from_private_bytes(private.reveal())
        return signing.public_key().public_bytes_raw()
    scalar = scalar_of(private, key_type)
    point = ec.derive_private_key(scalar, _CURVES[key_type]()).public_key()
    return point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def curve_of(key_type: KeyType) -> ec.EllipticCurve:
    """The curve of a pair whose private half is a scalar.

    Raises:
        KeyReleaseError: ``key_path_invalid``, where it is none.
    """
    if key_type not in _CURVES:
        raise _invalid(f"{key_type.value}: no scalar")
    return _CURVES[key_type]()


def order_of(key_type: KeyType) -> int:
    """The order of the base point; raises as :func:`curve_of`."""
    curve_of(key_type)
    return _ORDERS[key_type]


def scalar_of(private: Secret, key_type: KeyType) -> int:
    """The private half of a curve as a number, from 1 to the order less 1.

    Raises:
        KeyReleaseError: ``key_path_invalid``, where it is none.
    """
    scalar = int.from_bytes(private.reveal(), "big")
    if len(private) != PRIVATE_BYTES or not 1 <= scalar < order_of(key_type):
        raise _invalid(f"private half is no scalar of {key_type.value}")
    return scalar


def check_public_half(public: bytes, key_type: KeyType) -> None:
    """Check the form of a public half: its length, and a point that is on the curve.

    For ``x25519`` and ``ed25519`` only the length is judged: any 32 bytes are taken by
    the functions that use them, which refuse what they must.

    Raises:
        KeyReleaseError: ``key_path_invalid``.
    """
    wanted = public_bytes(key_type)
    if len(public) != wanted:
        raise _invalid(f"public half of {len(public)} bytes, not {wanted}")
    try:
        if key_type is KeyType.X25519:
            X25519PublicKey.from_public_bytes(public)
        elif key_type is KeyType.ED25519:
            Ed25519PublicKey.from_public_bytes(public)
        else:
            curve = _CURVES[key_type]()
            ec.EllipticCurvePublicKey.from_encoded_point(curve, public)
    except ValueError as e:
        raise _invalid(f"public half is no point of {key_type.value}") from e


def _require_pair(key_type: KeyType) -> None:
    if key_type not in _PUBLIC_BYTES:
        raise _invalid(f"{key_type.value}: no key pair")


def _invalid(detail: str) -> KeyReleaseError:
    return KeyReleaseError(Code.KEY_PATH_INVALID, detail)
