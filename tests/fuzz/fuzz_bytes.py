# SPDX-License-Identifier: Apache-2.0
"""Small mutations of bytes, texts and signed DER that all fuzzers share."""

from __future__ import annotations

import base64
from random import Random
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from tightseal_sim.intel import der

__all__ = [
    "P256_ORDER",
    "interesting",
    "pem_of",
    "resigned",
    "spoil_bytes",
    "spoil_text",
]

P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ECDSA_SHA256: Final = der.sequence(der.oid("1.2.840.10045.4.3.2"))


def interesting(rng: Random, length: int, old: bytes | None = None) -> bytes:
    """Zeros, ones, noise, or the old value with one bit or one byte changed."""
    kind = rng.randrange(6 if old else 3)
    if kind == 0 or not length:
        return bytes(length)
    if kind == 1:
        return b"\xff" * length
    if kind == 2 or old is None:
        return rng.randbytes(length)
    data = bytearray(old)
    at = rng.randrange(len(data))
    if kind == 3:
        data[at] ^= 1 << rng.randrange(8)
    else:
        data[at] = (data[at] + rng.choice((1, -1))) & 0xFF
    return bytes(data)


def spoil_bytes(rng: Random, data: bytes) -> bytes:
    """One byte changed, or a piece cut out, doubled, moved or put in."""
    if not data:
        return rng.randbytes(3)
    kind = rng.randrange(7)
    a = rng.randrange(len(data))
    b = min(len(data), a + rng.choice((1, 1, 2, 4, 16, 64)))
    if kind == 0:
        return data[:a] + data[b:]
    if kind == 1:
        return data[:b] + data[a:]
    if kind == 2:
        return data[:a] + rng.randbytes(b - a) + data[a:]
    if kind == 3:
        at = rng.randrange(len(data))
        return data[:at] + data[a:b] + data[at:]
    return data[:a] + interesting(rng, 1, data[a : a + 1]) + data[a + 1 :]


_INSERTS: Final = (
    "\n",
    "\r\n",
    " ",
    "\t",
    "\0",
    "\0\0",
    "text\n",
    "# comment\n",
    "\N{LATIN SMALL LETTER E WITH ACUTE}",
    "=",
    "-----BEGIN CERTIFICATE-----\n",
    "-----END CERTIFICATE-----\n",
    "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
)


def spoil_text(rng: Random, text: str) -> str:
    """A PEM text written in another way, or with something in it."""
    kind = rng.randrange(9)
    if kind < 4:
        return (
            text.replace("\n", "\r\n"),
            text.replace("\n", ""),
            rng.choice(_INSERTS) + text,
            text + rng.choice(_INSERTS),
        )[kind]
    if kind == 4:
        lines = text.splitlines(keepends=True)
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(_INSERTS))
        return "".join(lines)
    if kind == 5:
        return text.replace("CERTIFICATE", rng.choice(("X509 CERTIFICATE", "CRL")))
    at = rng.randrange(len(text) + 1)
    if kind == 6:
        return text[:at] + rng.choice(_INSERTS) + text[at:]
    if kind == 7:
        return text[:at] + text[at + rng.choice((1, 2, 65)) :]
    other = rng.choice("ABCabc019+/=-")
    return text[:at] + other + text[at + 1 :]


def pem_of(data: bytes) -> str:
    """DER as one PEM certificate."""
    text = base64.b64encode(data).decode()
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


def resigned(rng: Random, signed: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate or CRL (DER) whose content is spoiled, and signed again.

    Args:
        rng: decides what is spoiled.
        signed: SEQUENCE of content, algorithm and signature.
        key: the issuer's.
    """
    content = _first_element(signed)
    spoiled = spoil_bytes(rng, content)
    if rng.random() < 0.5:
        # Keep the outer length right, so that more of the content is looked at.
        inner = spoil_bytes(rng, content[_header_bytes(content) :])
        spoiled = der.sequence(inner)
    algorithm = ec.ECDSA(SHA256(), deterministic_signing=True)
    signature = key.sign(spoiled, algorithm)
    return der.sequence(spoiled, _ECDSA_SHA256, der.bit_string(signature))


def _header_bytes(data: bytes) -> int:
    return 2 + (data[1] & 0x7F if data[1] & 0x80 else 0)


def _first_element(data: bytes) -> bytes:
    rest = data[_header_bytes(data) :]
    skip = _header_bytes(rest)
    size = rest[1] if skip == 2 else int.from_bytes(rest[2:skip])
    return rest[: skip + size]
