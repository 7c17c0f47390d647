# SPDX-License-Identifier: Apache-2.0
"""A proof in one file that an entry is in a log (C2SP tlog-proof).

It holds the entry's index, its audit path and a signed checkpoint, so it is checked
offline with the log's key, and the witnesses' where they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NoReturn

from tightseal.audit.checkpoint import (
    Trust,
    VerifiedCheckpoint,
    parse_number,
    verify_checkpoint,
)
from tightseal.audit.merkle import HASH_BYTES, MAX_PROOF_HASHES, verify_inclusion
from tightseal.audit.note import MAX_NOTE_BYTES, base64_bytes, base64_text
from tightseal.errors import Code, ServiceError

__all__ = ["MAX_LOG_PROOF_BYTES", "LogProof", "parse_hash", "verify_log_proof"]

MAX_LOG_PROOF_BYTES: Final = MAX_NOTE_BYTES + (128 << 10)
"""Longest proof that is read, in bytes: room for an entry and a long checkpoint."""

_FIRST: Final = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class LogProof:
    """Where an entry is, with what shows it; nothing about it is checked.

    Attributes:
        index: of the entry, from 0.
        path: audit path, leaf to root.
        checkpoint: the signed note.
        extra: what came along, which nothing vouches for; the entry, where the proof
            was made for people.
    """

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes = b""

    def encode(self) -> bytes:
        """The proof as a file."""
        lines = [_FIRST, *([f"extra {base64_text(self.extra)}"] if self.extra else [])]
        lines += [f"index {self.index}", *map(base64_text, self.path), "", ""]
        return "\n".join(lines).encode() + self.checkpoint

    @classmethod
    def parse(cls, data: bytes) -> LogProof:
        """Read a proof; checks its form alone.

        Raises:
            ServiceError: ``log_malformed``.
        """
        if len(data) > MAX_LOG_PROOF_BYTES:
            _malformed(f"proof: {len(data)} bytes, at most {MAX_LOG_PROOF_BYTES}")
        head, empty, checkpoint = data.partition(b"\n\n")
        try:
            first, *lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as e:
            raise ServiceError(Code.LOG_MALFORMED, "proof: not ASCII") from e
        if first != _FIRST or not empty:
            _malformed(f"proof: expected {_FIRST} and an empty line further on")
        extra = b""
        if lines and lines[0].startswith("extra "):
            extra = base64_bytes(lines.pop(0).removeprefix("extra "), "extra data")
        if not lines or not lines[0].startswith("index "):
            _malformed("proof: no index")
        index = parse_number(lines.pop(0).removeprefix("index "))
        if len(lines) > MAX_PROOF_HASHES:
            _malformed(f"proof: {len(lines)} hashes, at most {MAX_PROOF_HASHES}")
        return cls(index, tuple(map(parse_hash, lines)), checkpoint, extra)


def verify_log_proof(
    proof: LogProof, *, leaf: bytes, trust: Trust
) -> VerifiedCheckpoint:
    """Check that a log has a leaf.

    1. The checkpoint is the log's, and cosigned as ``trust`` asks.
    2. The path leads from the leaf to the checkpoint's root.

    Args:
        proof: as it was read.
        leaf: hash of the entry, which the caller knows from elsewhere.
        trust: the log's key, and the witnesses'.

    Raises:
        ServiceError: ``log_malformed``, ``log_undersigned``, ``log_proof_invalid``.
    """
    verified = verify_checkpoint(proof.checkpoint, trust)
    head = verified.checkpoint
    verify_inclusion(
        leaf, index=proof.index, size=head.size, proof=proof.path, root=head.root
    )
    return verified


def parse_hash(line: str) -> bytes:
    """A hash of a proof, as a line of base64.

    Raises:
        ServiceError: ``log_malformed``.
    """
    value = base64_bytes(line, "proof")
    if len(value) != HASH_BYTES:
        _malformed(f"proof: a hash of {len(value)} bytes")
    return value


def _malformed(detail: str) -> NoReturn:
    raise ServiceError(Code.LOG_MALFORMED, detail)
