# SPDX-License-Identifier: Apache-2.0
"""Signed notes: text with signature lines, and the keys that verify them.

C2SP signed-note and tlog-cosignature. Two kinds of signature are known: Ed25519 over
the text (type 1), by logs, and timestamped cosignatures (type 4), by witnesses.
Signatures by keys that nobody named are ignored, as the specification demands.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from tightseal.errors import Code, ServiceError

__all__ = [
    "MAX_NAME_CHARS",
    "MAX_NOTE_BYTES",
    "MAX_SIGNATURES",
    "Note",
    "NoteKey",
    "NoteSigner",
    "SignatureLine",
    "SignatureType",
    "Signed",
    "base64_bytes",
    "base64_text",
    "parse_note",
    "parse_signature_lines",
]

MAX_NOTE_BYTES: Final = 1 << 17
"""Longest note that is read, in bytes: room for 16 post-quantum signatures."""

MAX_SIGNATURES: Final = 64
"""Most signature lines of a note."""

MAX_NAME_CHARS: Final = 255
"""Longest name of a key."""

KEY_ID_BYTES: Final = 4
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
TIME_BYTES: Final = 8
MAX_TIME: Final = (1 << 63) - 1

_DASH: Final = "\N{EM DASH} "
_VKEY_PARTS: Final = 3


class SignatureType(IntEnum):
    """What a key signs; the byte that enters its id."""

    ED25519 = 0x01
    """The text of the note: how logs sign."""

    COSIGNATURE = 0x04
    """The time and a checkpoint: how witnesses sign."""


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A public key with its name: who may sign a note.

    Attributes:
        name: of the key; a log's is its origin.
        kind: what it signs.
        public_key: 32 bytes of Ed25519.
    """

    name: str
    kind: SignatureType
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """Four bytes that say which key of that name it is; no strong hash."""
        covered = self.name.encode() + b"\n" + bytes([self.kind]) + self.public_key
        return hashlib.sha256(covered).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        """The verifier key: name, key id and key, as people pass it around."""
        material = base64_text(bytes([self.kind]) + self.public_key)
        return f"{self.name}+{self.key_id.hex()}+{material}"

    @classmethod
    def parse(cls, text: str) -> NoteKey:
        """Read a verifier key.

        Raises:
            ServiceError: ``log_malformed``, also for a type of key that is not known,
                and an id that is not the key's.
        """
        if len(text) > MAX_NAME_CHARS + 128:
            _malformed("verifier key: too long")
        # Twice from the left: a name has no plus, and base64 may have one.
        parts = text.split("+", _VKEY_PARTS - 1)
        if len(parts) != _VKEY_PARTS:
            _malformed("verifier key: expected name, id and key with '+' between")
        name, key_id, encoded = parts
        material = base64_bytes(encoded, "verifier key")
        if len(material) != 1 + PUBLIC_KEY_BYTES or material[0] not in list(
            SignatureType
        ):
            _malformed("verifier key: expected a type of 1 or 4 and 32 bytes of key")
        key = cls(_name(name), SignatureType(material[0]), material[1:])
        if key.key_id.hex() != key_id:
            _malformed(f"verifier key: id {key_id!r}, its key has {key.key_id.hex()}")
        return key


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """One signature line; nothing about it has been checked but its form.

    Attributes:
        name: of the key that it claims to be of.
        key_id: likewise, 4 bytes.
        signature: what follows the id, 1 byte or more.
    """

    name: str
    key_id: bytes
    signature: bytes

    def __str__(self) -> str:
        """The line, without its newline."""
        return f"{_DASH}{self.name} {base64_text(self.key_id + self.signature)}"

    def verify(self, key: NoteKey, text: str) -> int | None:
        """Check the signature by a key of this name and id.

        Returns:
            the time that the signature states, Unix seconds, for a cosignature.

        Raises:
            ServiceError: ``log_undersigned``, where it is not by that key over that
                text.
        """
        signature, time = self.signature, None
        covered = text.encode()
        if key.kind is SignatureType.COSIGNATURE:
            time = int.from_bytes(signature[:TIME_BYTES], "big")
            signature = signature[TIME_BYTES:]
            covered = cosigned_bytes(text, time)
        try:
            Ed25519PublicKey.from_public_bytes(key.public_key).verify(
                signature, covered
            )
        except (InvalidSignature, ValueError) as e:
            detail = f"the signature of {key.name} is not by the key named for it"
            raise ServiceError(Code.LOG_UNDERSIGNED, detail) from e
        if time is not None and time > MAX_TIME:
            detail = f"the cosignature of {key.name} is dated out of range"
            raise ServiceError(Code.LOG_UNDERSIGNED, detail)
        return time


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature that was verified: by whom, and when where it says so."""

    key: NoteKey
    time: int | None


@dataclass(frozen=True, slots=True)
class Note:
    """A note: its text, which ends with a newline, and its signature lines."""

    text: str
    signatures: tuple[SignatureLine, ...]

    def encode(self) -> bytes:
        """The note as it is written."""
        lines = "".join(f"{line}\n" for line in self.signatures)
        return f"{self.text}\n{lines}".encode()

    def verified(self, keys: Iterable[NoteKey]) -> tuple[Signed, ...]:
        """The signatures by these keys, each key once.

        1. A line whose name and id are those of no key is ignored.
        2. Every other line verifies, or the whole note is refused.

        That there is any is for the caller to require.

        Raises:
            ServiceError: ``log_undersigned``.
        """
        known = {(key.name, key.key_id): key for key in keys}
        found: dict[NoteKey, Signed] = {}
        for line in self.signatures:
            key = known.get((line.name, line.key_id))
            if key is not None:
                found[key] = Signed(key, line.verify(key, self.text))
        return tuple(found.values())


class NoteSigner:
    """A private key that signs notes or cosigns checkpoints.

    Args:
        name: of the key.
        kind: what it signs.
        private_key: 32 bytes, the seed of RFC 8032.
    """

    __slots__ = ("_private", "key")

    def __init__(self, name: str, kind: SignatureType, private_key: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(private_key)
        public = self._private.public_key().public_bytes_raw()
        self.key = NoteKey(_name(name), kind, public)

    def sign(self, text: str, *, now: int | None = None) -> SignatureLine:
        """Sign a note's text.

        Args:
            text: ends with a newline.
            now: Unix seconds, which a cosignature states and another one must not.
        """
        if (now is None) is (self.key.kind is SignatureType.COSIGNATURE):
            raise ServiceError(Code.INTERNAL, "a cosignature, and no other, has a time")
        if now is None:
            signature = self._private.sign(text.encode())
        else:
            stated = now.to_bytes(TIME_BYTES, "big")
            signature = stated + self._private.sign(cosigned_bytes(text, now))
        return SignatureLine(self.key.name, self.key.key_id, signature)


def cosigned_bytes(text: str, time: int) -> bytes:
    """What a version 1 cosignature covers."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def parse_note(data: bytes) -> Note:
    """Read a signed note; checks its form alone.

    Raises:
        ServiceError: ``log_malformed``: too long, not UTF-8, with control characters,
            without an empty line before its signatures, or with a line among them that
            is no signature.
    """
    text = _text(data)
    at = text.rfind("\n\n")
    if at < 0:
        _malformed("note: no empty line before the signatures")
    return Note(text[: at + 1], _lines(text[at + 2 :]))


def parse_signature_lines(data: bytes) -> tuple[SignatureLine, ...]:
    """Read signature lines alone, as a witness answers with them.

    Raises:
        ServiceError: ``log_malformed``.
    """
    return _lines(_text(data))


def base64_text(data: bytes) -> str:
    """Standard base64 (RFC 4648 section 4)."""
    return base64.b64encode(data).decode()


def base64_bytes(text: str, what: str) -> bytes:
    """Decode standard base64, of which every value has one text only.

    Raises:
        ServiceError: ``log_malformed``.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise ServiceError(Code.LOG_MALFORMED, f"{what}: not base64") from e
    if base64_text(data) != text:
        _malformed(f"{what}: not the base64 that its bytes have")
    return data


def _text(data: bytes) -> str:
    if len(data) > MAX_NOTE_BYTES:
        _malformed(f"note: {len(data)} bytes, at most {MAX_NOTE_BYTES}")
    try:
        text = data.decode("utf-8", "strict")
    except UnicodeDecodeError as e:
        raise ServiceError(Code.LOG_MALFORMED, "note: not UTF-8") from e
    if any(c < " " and c != "\n" for c in text):
        _malformed("note: a control character")
    return text


def _lines(text: str) -> tuple[SignatureLine, ...]:
    if not text.endswith("\n"):
        _malformed("note: the last line has no end")
    lines = text[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        _malformed(f"note: {len(lines)} signatures, at most {MAX_SIGNATURES}")
    return tuple(map(_line, lines))


def _line(line: str) -> SignatureLine:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH):
        _malformed("note: a line among the signatures that is none")
    data = base64_bytes(encoded, "signature")
    if len(data) <= KEY_ID_BYTES:
        _malformed(f"signature: {len(data)} bytes")
    return SignatureLine(_name(name), data[:KEY_ID_BYTES], data[KEY_ID_BYTES:])


def _name(name: str) -> str:
    plain = all(not _space(c) and c != "+" for c in name)
    if not 1 <= len(name) <= MAX_NAME_CHARS or not plain:
        _malformed("key name: expected 1 to 255 characters without spaces and '+'")
    return name


def _space(character: str) -> bool:
    category = unicodedata.category(character)
    return character.isspace() or category == "Cc" or category.startswith("Z")


def _malformed(detail: str) -> NoReturn:
    raise ServiceError(Code.LOG_MALFORMED, detail)
