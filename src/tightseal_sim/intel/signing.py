# SPDX-License-Identifier: Apache-2.0
"""P-256 in the raw forms of quotes and collateral: r and s, x and y, big-endian."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = ["raw_public_key", "raw_signature"]

_DETERMINISTIC = ec.ECDSA(SHA256(), deterministic_signing=True)


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA with SHA-256 over ``data``: 64 bytes, the same every time (RFC 6979)."""
    r, s = decode_dss_signature(key.sign(data, _DETERMINISTIC))
    return r.to_bytes(32) + s.to_bytes(32)


def raw_public_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public point without its leading format byte: 64 bytes."""
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return point[1:]
