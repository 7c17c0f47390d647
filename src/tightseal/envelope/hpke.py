# SPDX-License-Identifier: Apache-2.0
"""The envelope: HPKE (RFC 9180), base mode, one message to one recipient.

Two suites, chosen by the KEM; the rest is fixed: HKDF-SHA256 and ChaCha20-Poly1305,
which runs in constant time on every processor.

===================  ==========  ===================  ================================
KEM                  public key  encapsulated key     note
===================  ==========  ===================  ================================
``mlkem768-x25519``  1216 bytes  1120 bytes           default; ML-KEM-768, then X25519
``x25519``           32 bytes    32 bytes             RFC 9180 KEM 0x0020
===================  ==========  ===================  ================================

The hybrid is published as our own suite. As built it combines the two secrets as
X-Wing does (draft-connolly-cfrg-xwing-kem), under HPKE KEM id 0x647a; a second
implementation in the tests holds it there. While X-Wing is a draft, compatibility with
others is not promised.

An envelope is the encapsulated key, the ciphertext, and a 16-byte tag. There is no
associated data: what the envelope belongs to goes into ``info``.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)

from tightseal.envelope.x25519 import X25519_BYTES, load_public
from tightseal.errors import Code, KeyReleaseError
from tightseal.model.exchange import Kem
from tightseal.model.keypath import MAX_KEY_BYTES, MIN_KEY_BYTES
from tightseal.model.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "MAX_INFO_BYTES",
    "MLKEM768_BYTES",
    "Recipient",
    "RecipientKey",
    "check_recipient_key",
    "envelope_bytes",
    "open_with",
    "recipient_key_bytes",
    "seal",
]

MLKEM768_BYTES: Final = 1184
"""Length of an ML-KEM-768 encapsulation key, in bytes (FIPS 203 table 3)."""

MAX_INFO_BYTES: Final = 1024
"""Longest ``info``; the exchange's is about 100 bytes."""

_TAG_BYTES: Final = 16
_MLKEM_SEED_BYTES: Final = 64

_PublicKey: TypeAlias = "X25519PublicKey | hpke.MLKEM768X25519PublicKey"
_PrivateKey: TypeAlias = "X25519PrivateKey | hpke.MLKEM768X25519PrivateKey"


@dataclass(frozen=True, slots=True)
class _Suite:
    cipher: hpke.Suite
    public_bytes: int
    encapsulated_bytes: int


_SUITES: Final[Mapping[Kem, _Suite]] = MappingProxyType(
    {
        Kem.MLKEM768_X25519: _Suite(
            hpke.Suite(
                hpke.KEM.MLKEM768_X25519,
                hpke.KDF.HKDF_SHA256,
                hpke.AEAD.CHACHA20_POLY1305,
            ),
            MLKEM768_BYTES + X25519_BYTES,
            1088 + X25519_BYTES,
        ),
        Kem.X25519: _Suite(
            hpke.Suite(
                hpke.KEM.X25519,
                hpke.KDF.HKDF_SHA256,
                hpke.AEAD.CHACHA20_POLY1305,
            ),
            X25519_BYTES,
            X25519_BYTES,
        ),
    }
)


def recipient_key_bytes(kem: Kem) -> int:
    """Length of a recipient key, in bytes."""
    return _suite(kem).public_bytes


def envelope_bytes(kem: Kem, key_bytes: int) -> int:
    """Length of the envelope of a key of ``key_bytes``, in bytes."""
    return _suite(kem).encapsulated_bytes + key_bytes + _TAG_BYTES


@dataclass(frozen=True, slots=True)
class Recipient:
    """A recipient key that was checked; :func:`check_recipient_key` makes it."""

    _kem: Kem
    _public: _PublicKey

    def seal(
        self, key: Secret, *, info: bytes, max_bytes: int = MAX_KEY_BYTES
    ) -> bytes:
        """As :func:`seal`, to this recipient."""
        if not MIN_KEY_BYTES <= len(key) <= max_bytes:
            raise _invalid(f"a key of {len(key)} bytes cannot be sealed")
        _check_info(info)
        try:
            return _suite(self._kem).cipher.encrypt(key.reveal(), self._public, info)
        except (ValueError, UnsupportedAlgorithm) as e:
            raise _invalid(f"sealing failed: {type(e).__name__}") from e


def check_recipient_key(kem: Kem, raw: bytes) -> Recipient:
    """Refuse a recipient key that nothing should be sealed to.

    Checks the exact length; of an ML-KEM-768 key the modulus check of FIPS 203 section
    7.2; of an X25519 key, alone or as the hybrid's half, that it is canonical and of
    high order. Does not check that anybody holds the private key.

    Raises:
        KeyReleaseError: ``recipient_key_invalid`` or ``kem_unsupported``.
    """
    return Recipient(kem, _load(kem, raw))


def seal(
    key: Secret,
    *,
    kem: Kem,
    recipient_key: bytes,
    info: bytes,
    max_bytes: int = MAX_KEY_BYTES,
) -> bytes:
    """Seal a key to a recipient key; ``info`` is authenticated, not sent.

    Args:
        key: 16 to 64 bytes.
        kem: the suite.
        recipient_key: raw public key, checked as ``check_recipient_key`` does.
        info: binds the envelope to its exchange; at most ``MAX_INFO_BYTES``.
        max_bytes: longest key.

    Returns:
        the envelope: 1136 bytes longer than the key (hybrid), or 48 (X25519).

    Raises:
        KeyReleaseError: ``recipient_key_invalid``, ``kem_unsupported``, or
            ``envelope_invalid`` for a key or ``info`` outside its bounds.
    """
    recipient = check_recipient_key(kem, recipient_key)
    return recipient.seal(key, info=info, max_bytes=max_bytes)


def open_with(private: Secret, ciphertext: bytes, *, info: bytes) -> Secret:
    """Open an X25519 envelope with a private key that is kept elsewhere.

    Args:
        private: 32 bytes; not wiped here.
        ciphertext: as of :func:`seal`.
        info: likewise.

    Raises:
        KeyReleaseError: ``envelope_invalid``, as ``RecipientKey.open``, or where the
            private key has another length.
    """
    if len(private) != X25519_BYTES:
        raise _invalid(f"private key of {len(private)} bytes")
    key = X25519PrivateKey.from_private_bytes(private.reveal())
    public = key.public_key().public_bytes_raw()
    return RecipientKey(Kem.X25519, key, public).open(ciphertext, info=info)


class RecipientKey:
    """A recipient's key pair, made for one exchange.

    ``wipe`` drops the private key; OpenSSL clears its memory when the last reference
    goes. Copies that the interpreter or a caller made are out of reach.
    """

    __slots__ = ("_kem", "_private", "_public")

    def __init__(self, kem: Kem, private: _PrivateKey, public: bytes) -> None:
        self._kem = kem
        self._private: _PrivateKey | None = private
        self._public = public

    @classmethod
    def generate(cls, kem: Kem) -> RecipientKey:
        """A fresh key pair.

        Raises:
            KeyReleaseError: ``kem_unsupported``, where the library has no ML-KEM.
        """
        _suite(kem)
        x25519 = X25519PrivateKey.generate()
        return cls._of(kem, x25519, MLKEM768PrivateKey.generate)

    @classmethod
    def from_seed(cls, kem: Kem, seed: Secret) -> RecipientKey:
        """The key pair of a seed: the same one every time.

        Args:
            kem: the suite.
            seed: 96 bytes; 64 for ML-KEM-768 (FIPS 203, d and z), then 32 for X25519.
                Not wiped here.

        Raises:
            KeyReleaseError: ``kem_unsupported``; ``envelope_invalid``, where the seed
                has another length.
        """
        _suite(kem)
        if len(seed) != _MLKEM_SEED_BYTES + X25519_BYTES:
            raise _invalid(f"seed of {len(seed)} bytes")
        raw = seed.reveal()
        x25519 = X25519PrivateKey.from_private_bytes(raw[_MLKEM_SEED_BYTES:])
        return cls._of(
            kem,
            x25519,
            lambda: MLKEM768PrivateKey.from_seed_bytes(raw[:_MLKEM_SEED_BYTES]),
        )

    @classmethod
    def _of(
        cls,
        kem: Kem,
        x25519: X25519PrivateKey,
        make: Callable[[], MLKEM768PrivateKey],
    ) -> RecipientKey:
        public = x25519.public_key().public_bytes_raw()
        if kem is Kem.X25519:
            return cls(kem, x25519, public)
        try:
            mlkem = make()
        except UnsupportedAlgorithm as e:
            raise _unsupported(kem) from e
        hybrid = hpke.MLKEM768X25519PrivateKey(mlkem, x25519)
        return cls(kem, hybrid, mlkem.public_key().public_bytes_raw() + public)

    @property
    def kem(self) -> Kem:
        """The suite that this key is for."""
        return self._kem

    def public_bytes(self) -> bytes:
        """The raw recipient key: ML-KEM-768 encapsulation key, then X25519."""
        return self._public

    def open(
        self, ciphertext: bytes, *, info: bytes, max_bytes: int = MAX_KEY_BYTES
    ) -> Secret:
        """Open an envelope sealed to this key under the same ``info``.

        Args:
            ciphertext: as of :func:`seal`.
            info: likewise.
            max_bytes: likewise.

        Raises:
            KeyReleaseError: ``envelope_invalid``, for a wrong length, another
                recipient, another ``info``, any changed bit, or after ``wipe``.
        """
        if self._private is None:
            raise _invalid("the recipient key was wiped")
        _check_info(info)
        shortest = envelope_bytes(self._kem, MIN_KEY_BYTES)
        longest = envelope_bytes(self._kem, max_bytes)
        if not shortest <= len(ciphertext) <= longest:
            detail = f"{len(ciphertext)} bytes, expected {shortest} to {longest}"
            raise _invalid(detail)
        try:
            opened = _suite(self._kem).cipher.decrypt(ciphertext, self._private, info)
        except (InvalidTag, ValueError) as e:
            raise _invalid("the envelope does not open") from e
        return Secret(opened)

    def wipe(self) -> None:
        """Drop the private key; the public key stays readable."""
        self._private = None

    def __repr__(self) -> str:
        return f"<recipient key {self._kem.value}>"

    def __reduce__(self) -> NoReturn:
        message = "a recipient key does not leave the process"
        raise TypeError(message)


def _suite(kem: object) -> _Suite:
    if not isinstance(kem, Kem):
        raise _unsupported(kem)
    return _SUITES[kem]


def _load(kem: Kem, raw: bytes) -> _PublicKey:
    suite = _suite(kem)
    if len(raw) != suite.public_bytes:
        detail = f"{kem.value}: {len(raw)} bytes, expected {suite.public_bytes}"
        raise KeyReleaseError(Code.RECIPIENT_KEY_INVALID, detail)
    x25519 = load_public(raw[-X25519_BYTES:])
    if kem is Kem.X25519:
        return x25519
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(raw[:MLKEM768_BYTES])
    except UnsupportedAlgorithm as e:
        raise _unsupported(kem) from e
    except ValueError as e:
        detail = "ML-KEM-768 encapsulation key fails the modulus check"
        raise KeyReleaseError(Code.RECIPIENT_KEY_INVALID, detail) from e
    return hpke.MLKEM768X25519PublicKey(mlkem, x25519)


def _check_info(info: bytes) -> None:
    if len(info) > MAX_INFO_BYTES:
        raise _invalid(f"info of {len(info)} bytes, at most {MAX_INFO_BYTES}")


def _invalid(detail: str) -> KeyReleaseError:
    return KeyReleaseError(Code.ENVELOPE_INVALID, detail)


def _unsupported(kem: object) -> KeyReleaseError:
    return KeyReleaseError(Code.KEM_UNSUPPORTED, f"no suite for KEM {kem!s}")
