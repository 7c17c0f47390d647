# SPDX-License-Identifier: Apache-2.0
"""libsodium's sealed box: the envelope of the legacy protocol.

``crypto_box_seal``: an ephemeral X25519 key, then XSalsa20-Poly1305 with the nonce
BLAKE2b(ephemeral key || recipient key). It binds nothing but the recipient: no context,
no post-quantum half. Only the legacy protocol uses it.
"""

from __future__ import annotations

from typing import Final

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from tightseal.envelope.x25519 import load_public
from tightseal.errors import Code, KeyReleaseError
from tightseal.model.keypath import MAX_KEY_BYTES, MIN_KEY_BYTES
from tightseal.model.secret import Secret

__all__ = ["OVERHEAD_BYTES", "open_legacy", "seal_legacy"]

OVERHEAD_BYTES: Final = 48
"""Ephemeral key (32) and tag (16): what an envelope is longer than its key."""


def seal_legacy(key: Secret, recipient_key: bytes) -> bytes:
    """Seal a key of 16 to 64 bytes to a 32-byte X25519 key; 80 bytes for a key of 32.

    Raises:
        KeyReleaseError: ``recipient_key_invalid``, for a wrong length, a non-canonical
            encoding or a low-order point; ``envelope_invalid`` for a key out of bounds.
    """
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        detail = f"a key of {len(key)} bytes cannot be sealed"
        raise KeyReleaseError(Code.ENVELOPE_INVALID, detail)
    load_public(recipient_key)
    try:
        return bytes(SealedBox(PublicKey(recipient_key)).encrypt(key.reveal()))
    except (CryptoError, ValueError, TypeError) as e:
        detail = f"sealing failed: {type(e).__name__}"
        raise KeyReleaseError(Code.ENVELOPE_INVALID, detail) from e


def open_legacy(ciphertext: bytes, *, private_key: Secret) -> Secret:
    """Open a sealed box with the recipient's 32-byte private key, as a guest does.

    Raises:
        KeyReleaseError: ``envelope_invalid``, for a wrong length, another recipient or
            any changed bit.
    """
    longest = MAX_KEY_BYTES + OVERHEAD_BYTES
    if not MIN_KEY_BYTES + OVERHEAD_BYTES <= len(ciphertext) <= longest:
        detail = f"{len(ciphertext)} bytes, at most {longest}"
        raise KeyReleaseError(Code.ENVELOPE_INVALID, detail)
    try:
        box = SealedBox(PrivateKey(private_key.reveal()))
        return Secret(box.decrypt(ciphertext))
    except (CryptoError, ValueError, TypeError) as e:
        detail = f"the envelope does not open: {type(e).__name__}"
        raise KeyReleaseError(Code.ENVELOPE_INVALID, detail) from e
