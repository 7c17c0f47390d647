# SPDX-License-Identifier: Apache-2.0
"""An existing key that a workload hands over: what its evidence commits to."""

from __future__ import annotations

from typing import Final

from tightseal.model.canonical import digest
from tightseal.model.exchange import Kem
from tightseal.model.keypath import MAX_KEY_BYTES
from tightseal.model.labels import Label
from tightseal.model.secret import Secret

__all__ = [
    "IMPORT_COMMITMENT_BYTES",
    "IMPORT_KEM",
    "IMPORT_SALT_BYTES",
    "MAX_IMPORT_BYTES",
    "import_commitment",
]

IMPORT_KEM: Final = Kem.MLKEM768_X25519
"""What imports are sealed with: a key that is kept for years outlives a weaker one."""

IMPORT_SALT_BYTES: Final = 32
"""Random bytes before the key in the envelope: without them the host, which sees the
commitment, could try guesses of a key that somebody chose."""

MAX_IMPORT_BYTES: Final = IMPORT_SALT_BYTES + MAX_KEY_BYTES
"""Longest plaintext of an import: the salt, and the key."""

IMPORT_COMMITMENT_BYTES: Final = 64


def import_commitment(salt: bytes, key: Secret) -> bytes:
    """What stands for the key in the request that evidence commits to; 64 bytes."""
    return digest(Label.IMPORT, [salt, key.reveal()])
