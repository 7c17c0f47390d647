# SPDX-License-Identifier: Apache-2.0
"""The receiving half of HPKE a second time, from RFC 9180 and the X-Wing draft.

Only the primitives (X25519, ML-KEM-768, ChaCha20-Poly1305, HMAC, SHA-3) are shared with
the product's library; KEM combiner, key schedule and labels are written out here.
"""

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

X25519_HKDF_SHA256 = 0x0020
X_WING = 0x647A
X_WING_LABEL = b"\\.//^\\"
HKDF_SHA256 = 0x0001
CHACHA20_POLY1305 = 0x0003


def i2osp(n: int, size: int) -> bytes:
    return n.to_bytes(size, "big")


def labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    """RFC 9180 section 4."""
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def labeled_expand(
    suite: bytes, prk: bytes, label: bytes, info: bytes, size: int
) -> bytes:
    labeled = i2osp(size, 2) + b"HPKE-v1" + suite + label + info
    out, block, i = b"", b"", 0
    while len(out) < size:
        i += 1
        block = hmac.digest(prk, block + labeled + bytes([i]), "sha256")
        out += block
    return out[:size]


def dhkem_decap(private: X25519PrivateKey, enc: bytes) -> bytes:
    """RFC 9180 section 4.1, DHKEM(X25519, HKDF-SHA256)."""
    suite = b"KEM" + i2osp(X25519_HKDF_SHA256, 2)
    dh = private.exchange(X25519PublicKey.from_public_bytes(enc))
    context = enc + private.public_key().public_bytes_raw()
    prk = labeled_extract(suite, b"", b"eae_prk", dh)
    return labeled_expand(suite, prk, b"shared_secret", context, 32)


def x_wing_decap(
    mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey, enc: bytes
) -> bytes:
    """draft-connolly-cfrg-xwing-kem, section 5.3."""
    ciphertext, ephemeral = enc[:1088], enc[1088:]
    shared = x25519.exchange(X25519PublicKey.from_public_bytes(ephemeral))
    public = x25519.public_key().public_bytes_raw()
    both = mlkem.decapsulate(ciphertext) + shared
    return hashlib.sha3_256(both + ephemeral + public + X_WING_LABEL).digest()


def open_base(kem: int, secret: bytes, ciphertext: bytes, info: bytes) -> bytes:
    """RFC 9180 sections 5.1 and 5.2: mode base, sequence number 0, no AAD."""
    suite = (
        b"HPKE" + i2osp(kem, 2) + i2osp(HKDF_SHA256, 2) + i2osp(CHACHA20_POLY1305, 2)
    )
    context = (
        b"\x00"
        + labeled_extract(suite, b"", b"psk_id_hash", b"")
        + labeled_extract(suite, b"", b"info_hash", info)
    )
    prk = labeled_extract(suite, secret, b"secret", b"")
    key = labeled_expand(suite, prk, b"key", context, 32)
    nonce = labeled_expand(suite, prk, b"base_nonce", context, 12)
    return ChaCha20Poly1305(key).decrypt(nonce, ciphertext, b"")
