# SPDX-License-Identifier: Apache-2.0
"""What is done with a private half that stays where it is: signing and agreeing.

=============  ==================================  ====================================
type           ``sign``, 64 bytes                  ``agree``, 32 bytes
=============  ==================================  ====================================
``ed25519``    RFC 8032 section 5.1.6              none
``x25519``     none                                RFC 7748 section 6.1
``p256``       ECDSA, SHA-256, RFC 6979; r, s      x coordinate (SP 800-56A 5.7.1.2)
``secp256k1``  the same, with the lower s          the same
=============  ==================================  ====================================

A shared secret is raw: a KDF over it and both public keys is the caller's to run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.pairs import (
    PRIVATE_BYTES,
    check_public_half,
    curve_of,
    order_of,
    scalar_of,
)
from tightseal.model.keypath import KeyType
from tightseal.model.keyuse import SIGNATURE_BYTES, Operation
from tightseal.model.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["agree", "check_peer", "require_operation", "sign", "verify_signature"]

_HALF: Final = SIGNATURE_BYTES // 2
_X25519_BYTES: Final = 32
_X25519_PRIME: Final = (1 << 255) - 19
_ANY_SCALAR: Final = X25519PrivateKey.from_private_bytes(bytes(_X25519_BYTES))
"""A probe, not a secret: clamping makes every scalar a multiple of the cofactor 8, so
the product with any of them is zero exactly for points of low order."""

_COMPRESSED_BYTES: Final = 33
_UNCOMPRESSED_BYTES: Final = 65


def require_operation(key_type: KeyType, operation: Operation) -> None:
    """Refuse what a key of this type cannot do.

    Raises:
        KeyReleaseError: ``key_path_invalid``.
    """
    if operation not in key_type.operations:
        raise _invalid(f"{key_type.value} does not {operation.value}")


def sign(private: Secret, key_type: KeyType, message: bytes) -> bytes:
    """Sign a message; 64 bytes: RFC 8032, or r and s big-endian.

    The same message and key always give the same signature.

    Args:
        private: 32 bytes; not wiped here.
        key_type: which kind of pair.
        message: as it stands; ECDSA hashes it here.

    Raises:
        KeyReleaseError: ``key_path_invalid``, where the type does not sign, or the
            private half is none of it.
    """
    require_operation(key_type, Operation.SIGN)
    if len(private) != PRIVATE_BYTES:
        raise _invalid(f"private half of {len(private)} bytes, not {PRIVATE_BYTES}")
    if key_type is KeyType.ED25519:
        return Ed25519PrivateKey.from_private_bytes(private.reveal()).sign(message)
    key = ec.derive_private_key(scalar_of(private, key_type), curve_of(key_type))
    try:
        how = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
        r, s = decode_dss_signature(key.sign(message, how))
    except UnsupportedAlgorithm as e:
        raise _invalid("this OpenSSL has no deterministic ECDSA (RFC 6979)") from e
    if key_type is KeyType.SECP256K1:
        # Of two valid values the lower: what users of this curve take alone (BIP 62).
        s = min(s, order_of(key_type) - s)
    return r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")


def verify_signature(
    public: bytes, key_type: KeyType, message: bytes, signature: bytes
) -> None:
    """Check a signature of :func:`sign` under a public half.

    Raises:
        KeyReleaseError: ``key_path_invalid``, where the type does not sign, the public
            half is none, or the signature does not verify.
    """
    require_operation(key_type, Operation.SIGN)
    check_public_half(public, key_type)
    if len(signature) != SIGNATURE_BYTES:
        detail = f"signature of {len(signature)} bytes, expected {SIGNATURE_BYTES}"
        raise _invalid(detail)
    try:
        if key_type is KeyType.ED25519:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
            return
        halves = signature[:_HALF], signature[_HALF:]
        r, s = (int.from_bytes(half, "big") for half in halves)
        if key_type is KeyType.SECP256K1 and s > order_of(key_type) // 2:
            raise _invalid("the signature has the higher s")
        point = ec.EllipticCurvePublicKey.from_encoded_point(curve_of(key_type), public)
        point.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as e:
        raise _invalid("the signature does not verify") from e


def check_peer(public: bytes, key_type: KeyType) -> None:
    """Refuse a peer's public key that nothing should be agreed with.

    Checks the length, for curves that the point is on it and not at infinity, and for
    X25519 that the encoding is canonical and the point not of low order. Does not check
    who holds the private key.

    Raises:
        KeyReleaseError: ``use_input_invalid``.
    """
    _peer(public, key_type)


def agree(private: Secret, key_type: KeyType, peer: bytes) -> Secret:
    """The shared secret of a private half and a peer's public key; 32 bytes.

    Args:
        private: 32 bytes; not wiped here.
        key_type: which kind of pair.
        peer: 32 bytes (X25519), or 33 or 65 (SEC 1, compressed or not).

    Raises:
        KeyReleaseError: ``use_input_invalid`` as of :func:`check_peer`;
            ``key_path_invalid``, where the type does not agree, or the private half is
            none of it.
    """
    exchange = _peer(peer, key_type)
    try:
        return Secret(exchange(private))
    except ValueError as e:
        raise _bad_peer("no shared secret comes of it") from e


def _peer(public: bytes, key_type: KeyType) -> Callable[[Secret], bytes]:
    """What agrees with a peer, once its public key was found good."""
    require_operation(key_type, Operation.AGREE)
    if key_type is KeyType.X25519:
        point = _x25519(public)
        return lambda private: X25519PrivateKey.from_private_bytes(
            private.reveal()
        ).exchange(point)
    if len(public) not in {_COMPRESSED_BYTES, _UNCOMPRESSED_BYTES}:
        raise _bad_peer(f"{len(public)} bytes, expected 33 or 65")
    curve = curve_of(key_type)
    try:
        other = ec.EllipticCurvePublicKey.from_encoded_point(curve, public)
    except ValueError as e:
        raise _bad_peer(f"no point of {key_type.value}") from e
    return lambda private: ec.derive_private_key(
        scalar_of(private, key_type), curve
    ).exchange(ec.ECDH(), other)


def _x25519(public: bytes) -> X25519PublicKey:
    if len(public) != _X25519_BYTES:
        raise _bad_peer(f"{len(public)} bytes, expected {_X25519_BYTES}")
    if int.from_bytes(public, "little") >= _X25519_PRIME:
        raise _bad_peer("not canonically encoded")
    point = X25519PublicKey.from_public_bytes(public)
    try:
        shared = _ANY_SCALAR.exchange(point)
    except ValueError as e:
        raise _bad_peer("a point of low order") from e
    if not any(shared):
        raise _bad_peer("a point of low order")
    return point


def _bad_peer(why: str) -> KeyReleaseError:
    return KeyReleaseError(Code.USE_INPUT_INVALID, f"peer's public key: {why}")


def _invalid(detail: str) -> KeyReleaseError:
    return KeyReleaseError(Code.KEY_PATH_INVALID, detail)
