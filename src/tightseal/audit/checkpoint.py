# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the signed head of a log, and who saw it.

C2SP tlog-checkpoint: the note's text is origin, size and root, a line each, and
extension lines, on which nothing here relies. A checkpoint counts once the log's own
key signed it; how many witnesses cosigned it too is for the reader to require.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NoReturn

from tightseal.audit.merkle import HASH_BYTES, MAX_SIZE
from tightseal.audit.note import (
    MAX_NAME_CHARS,
    Note,
    NoteKey,
    NoteSigner,
    SignatureType,
    Signed,
    base64_bytes,
    base64_text,
    parse_note,
)
from tightseal.errors import Code, ServiceError

__all__ = [
    "MAX_EXTENSIONS",
    "Checkpoint",
    "Trust",
    "VerifiedCheckpoint",
    "parse_number",
    "sign_checkpoint",
    "verify_checkpoint",
]

MAX_EXTENSIONS: Final = 16
"""Most extension lines of a checkpoint that is read."""

_LINES: Final = 3
_MAX_DIGITS: Final = len(str(MAX_SIZE))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log.

    Attributes:
        origin: which log it is; the name of its key.
        size: number of entries.
        root: of the tree, 32 bytes.
        extensions: further lines, which nothing here relies on.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The text of the note."""
        lines = (self.origin, str(self.size), base64_text(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read a note's text; checks its form alone.

        Raises:
            ServiceError: ``log_malformed``.
        """
        lines = text.removesuffix("\n").split("\n")
        if not _LINES <= len(lines) <= _LINES + MAX_EXTENSIONS or not all(lines):
            _malformed("checkpoint: expected origin, size and root, none of them empty")
        origin, size, root, *extensions = lines
        if len(origin) > MAX_NAME_CHARS:
            _malformed(f"checkpoint: origin over {MAX_NAME_CHARS} characters")
        value = base64_bytes(root, "checkpoint")
        if len(value) != HASH_BYTES:
            _malformed(f"checkpoint: a root of {len(value)} bytes")
        return cls(origin, parse_number(size), value, tuple(extensions))


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures a checkpoint must have.

    Attributes:
        log: the log's own key; its name is the origin.
        witnesses: keys whose cosignatures count, each public key once.
        threshold: how many of them must have cosigned.
    """

    log: NoteKey
    witnesses: tuple[NoteKey, ...] = ()
    threshold: int = 0

    def __post_init__(self) -> None:
        """Refuse keys that cannot mean what they are named for.

        Raises:
            ServiceError: ``log_undersigned``.
        """
        if self.log.kind is not SignatureType.ED25519:
            _undersigned(f"{self.log.name}: a witness's key in place of a log's")
        for key in self.witnesses:
            if key.kind is not SignatureType.COSIGNATURE:
                _undersigned(f"{key.name}: no key of a witness")
        # One witness under two names must not count twice, nor the log as its own.
        keys = [key.public_key for key in (self.log, *self.witnesses)]
        if len(set(keys)) != len(keys):
            _undersigned("one public key is named twice")
        if not 0 <= self.threshold <= len(self.witnesses):
            count = len(self.witnesses)
            _undersigned(f"a threshold of {self.threshold} of {count} witnesses")


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A checkpoint whose signatures were checked.

    Attributes:
        checkpoint: the head.
        note: as it was read, with lines of keys that are not known too.
        witnesses: cosignatures that verified.
    """

    checkpoint: Checkpoint
    note: Note
    witnesses: tuple[Signed, ...]


def sign_checkpoint(checkpoint: Checkpoint, signer: NoteSigner) -> Note:
    """Sign a head with the log's key; the caller sees to it that it extends the last.

    Raises:
        ServiceError: ``internal``, where the key is another origin's.
    """
    if signer.key.name != checkpoint.origin:
        raise ServiceError(Code.INTERNAL, "the key is not of this log")
    text = checkpoint.text()
    return Note(text, (signer.sign(text),))


def verify_checkpoint(data: bytes, trust: Trust) -> VerifiedCheckpoint:
    """Check a signed checkpoint.

    1. It is a note whose text is a checkpoint.
    2. The origin is the log's.
    3. The log's key signed it.
    4. No line of a known key fails to verify.
    5. Enough witnesses cosigned it.

    It does not check how old it is, nor that the tree behind it exists.

    Raises:
        ServiceError: ``log_malformed``, ``log_undersigned``.
    """
    note = parse_note(data)
    checkpoint = Checkpoint.parse(note.text)
    if checkpoint.origin != trust.log.name:
        _undersigned(f"origin {checkpoint.origin!r}, expected {trust.log.name!r}")
    signed = note.verified((trust.log, *trust.witnesses))
    if not any(one.key == trust.log for one in signed):
        _undersigned(f"no signature by {trust.log}")
    witnesses = tuple(one for one in signed if one.key != trust.log)
    if len(witnesses) < trust.threshold:
        got = ", ".join(one.key.name for one in witnesses) or "none"
        _undersigned(f"cosigned by {got}; {trust.threshold} witnesses are needed")
    return VerifiedCheckpoint(checkpoint, note, witnesses)


def parse_number(text: str) -> int:
    """A size or an index: decimal, without leading zeroes, at most ``MAX_SIZE``.

    Raises:
        ServiceError: ``log_malformed``.
    """
    digits = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    if not digits or str(int(text)) != text or int(text) > MAX_SIZE:
        _malformed("expected a decimal number without leading zeroes")
    return int(text)


def _undersigned(detail: str) -> NoReturn:
    raise ServiceError(Code.LOG_UNDERSIGNED, detail)


def _malformed(detail: str) -> NoReturn:
    raise ServiceError(Code.LOG_MALFORMED, detail)
