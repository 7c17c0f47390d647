# SPDX-License-Identifier: Apache-2.0
"""Nonces that carry their own proof: nothing is stored until one is redeemed.

A nonce is 56 bytes: its era (2 bytes, big-endian), 14 random bytes, its expiry (8
bytes, big-endian Unix seconds), and HMAC-SHA256 over all of it under a label of the
registry. Whoever holds the MAC key can check one without having minted it, so workers
share nothing but that key. That a nonce is used once is not known here: the recorder
burns it. The era is the recorder's, which refuses nonces of any but its own: see
``Recorder.nonce_era``.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING, Final

from tightseal.errors import Code, EvidenceError, ServiceError
from tightseal.model.canonical import labelled
from tightseal.model.labels import Label

if TYPE_CHECKING:
    from collections.abc import Callable

    from tightseal.model.secret import Secret

__all__ = [
    "MAX_LIFE",
    "MAX_SKEW",
    "MIN_LIFE",
    "NONCE_BYTES",
    "NonceMint",
    "era_of",
]

NONCE_BYTES: Final = 56
"""Length of a nonce."""

MIN_LIFE: Final = 5
MAX_LIFE: Final = 3600
"""Bounds of a nonce's life, in seconds."""

MAX_SKEW: Final = 5
"""How far the clocks of two workers may differ, in seconds."""

_ERA_BYTES: Final = 2
_HEAD_BYTES: Final = 16
"""Era and random bytes."""

_EXPIRY_BYTES: Final = 8
_MAC_KEY_BYTES: Final = 32
_MAX_TIME: Final = (1 << 53) - 1
"""Far beyond any clock, and exact wherever JSON numbers are doubles."""


class NonceMint:
    """Mints and checks nonces under one MAC key.

    Args:
        mac_key: 32 bytes or more, derived from the provider's root.
        life: seconds that a nonce lives, ``MIN_LIFE`` to ``MAX_LIFE``.
        random: source of random bytes; a parameter for tests.

    Raises:
        ServiceError: ``settings_invalid``, where key or life are out of bounds.
    """

    __slots__ = ("_life", "_mac_key", "_random")

    def __init__(
        self,
        mac_key: Secret,
        *,
        life: int,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        if len(mac_key) < _MAC_KEY_BYTES or not any(mac_key.reveal()):
            detail = f"nonce MAC key: expected {_MAC_KEY_BYTES} bytes or more, not zero"
            raise ServiceError(Code.SETTINGS_INVALID, detail)
        if not MIN_LIFE <= life <= MAX_LIFE:
            detail = f"nonce life {life} s, expected {MIN_LIFE} to {MAX_LIFE}"
            raise ServiceError(Code.SETTINGS_INVALID, detail)
        self._mac_key = mac_key
        self._life = life
        self._random = random

    def mint(self, now: int, *, era: int = 0) -> tuple[bytes, int]:
        """A fresh nonce, and the Unix second from which on it is refused.

        Args:
            now: Unix seconds.
            era: the recorder's.

        Raises:
            ServiceError: ``internal``, where ``now`` is no time, or ``era`` is none.
        """
        expires_at = now + self._life
        if not 0 <= now <= expires_at <= _MAX_TIME:
            raise ServiceError(Code.INTERNAL, f"no time: {now}")
        if not 0 <= era < 1 << 8 * _ERA_BYTES:
            raise ServiceError(Code.INTERNAL, f"no era: {era}")
        head = era.to_bytes(_ERA_BYTES, "big")
        head += self._random(_HEAD_BYTES - _ERA_BYTES)
        expiry = expires_at.to_bytes(_EXPIRY_BYTES, "big")
        return head + expiry + self._mac(head, expires_at), expires_at

    def check(self, nonce: bytes, now: int) -> int:
        """The expiry of a nonce that was minted under this key and still lives.

        The MAC is compared in constant time, before the expiry is believed. Does not
        check whether the nonce was redeemed before, nor its era.

        Raises:
            EvidenceError: ``nonce_unknown``, where this key did not mint it;
                ``nonce_expired``.
            ServiceError: ``clock_behind``, where the nonce would live longer than any
                minted now: the clock went back since, and would keep old nonces alive.
        """
        if len(nonce) != NONCE_BYTES:
            detail = f"nonce of {len(nonce)} bytes, expected {NONCE_BYTES}"
            raise EvidenceError(Code.NONCE_UNKNOWN, detail)
        head = nonce[:_HEAD_BYTES]
        expiry = nonce[_HEAD_BYTES : _HEAD_BYTES + _EXPIRY_BYTES]
        expires_at = int.from_bytes(expiry, "big")
        mac = nonce[_HEAD_BYTES + _EXPIRY_BYTES :]
        if not hmac.compare_digest(mac, self._mac(head, expires_at)):
            raise EvidenceError(Code.NONCE_UNKNOWN, "nonce was not minted here")
        if now >= expires_at:
            detail = f"nonce expired at {expires_at}, now {now}"
            raise EvidenceError(Code.NONCE_EXPIRED, detail)
        if expires_at > now + self._life + MAX_SKEW:
            detail = f"nonce expires at {expires_at}, now {now}, life {self._life}"
            raise ServiceError(Code.CLOCK_BEHIND, detail)
        return expires_at

    def _mac(self, head: bytes, expires_at: int) -> bytes:
        covered = labelled(Label.NONCE_MAC, [head, expires_at])
        return hmac.digest(self._mac_key.reveal(), covered, "sha256")


def era_of(nonce: bytes) -> int:
    """The era of a nonce that was checked."""
    return int.from_bytes(nonce[:_ERA_BYTES], "big")
