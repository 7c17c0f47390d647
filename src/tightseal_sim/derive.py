# SPDX-License-Identifier: Apache-2.0
"""Everything in a simulated world grows from one seed, so that processes agree."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["SEED_BYTES", "Seed"]

SEED_BYTES: Final = 32
"""Length of a seed."""

_SALT: Final = b"tightseal_sim/v1"
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_WIDE_SCALAR_BYTES: Final = 48


class Seed:
    """A node of the tree of derived values; the name of a leaf decides its value."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def child(self, *names: str) -> Seed:
        """The seed of a subtree."""
        return Seed(self.octets(*names, length=SEED_BYTES))

    def octets(self, *names: str, length: int) -> bytes:
        """``length`` bytes named by ``names`` (HKDF-SHA256, RFC 5869)."""
        info = b"".join(len(n.encode()).to_bytes(2) + n.encode() for n in names)
        return HKDF(SHA256(), length, _SALT, info).derive(self._value)

    def p256(self, *names: str) -> ec.EllipticCurvePrivateKey:
        """A P-256 key; 48 bytes modulo the order, so that bias is negligible."""
        wide = int.from_bytes(self.octets(*names, length=_WIDE_SCALAR_BYTES))
        return ec.derive_private_key(wide % (_P256_ORDER - 1) + 1, ec.SECP256R1())

    def serial(self, *names: str) -> int:
        """A positive certificate serial number of at most 20 bytes (RFC 5280)."""
        return int.from_bytes(self.octets(*names, length=20)) >> 1 | 1

    def __repr__(self) -> str:
        return "<seed>"
