# SPDX-License-Identifier: Apache-2.0
"""A witness: sees to it that a log only grows, and says so.

C2SP tlog-witness. A log submits its new checkpoint with a proof that the one seen last
is its beginning; the witness checks both, remembers the new one durably, and only then
cosigns it. So no two trees of one log that do not follow from one another are ever
cosigned by one witness, whatever the log's key signs.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from tightseal.audit.checkpoint import (
    Checkpoint,
    Trust,
    VerifiedCheckpoint,
    parse_number,
    verify_checkpoint,
)
from tightseal.audit.merkle import (
    EMPTY_ROOT,
    MAX_PROOF_HASHES,
    verify_consistency,
)
from tightseal.audit.note import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    Note,
    NoteKey,
    NoteSigner,
    SignatureLine,
    base64_text,
    parse_note,
    parse_signature_lines,
)
from tightseal.audit.proof import parse_hash
from tightseal.audit.tiles import CHECKPOINT_PATH, TileStore
from tightseal.errors import Code, ServiceError

__all__ = [
    "MAX_SUBMISSION_BYTES",
    "StaleError",
    "Submission",
    "Witness",
    "merge_cosignatures",
    "origin_hash",
]

MAX_SUBMISSION_BYTES: Final = MAX_NOTE_BYTES + (8 << 10)
"""Longest body of ``add-checkpoint``, in bytes."""


class StaleError(ServiceError):
    """The log proved from another size than the witness saw last.

    Attributes:
        latest: the size to prove from.
    """

    def __init__(self, latest: int) -> None:
        super().__init__(Code.STATE_CONFLICT, f"the last size seen is {latest}")
        self.latest = latest


@dataclass(frozen=True, slots=True)
class Submission:
    """A body of ``add-checkpoint``; nothing about it is checked but its form.

    Attributes:
        old: size that the proof is from.
        proof: of consistency.
        checkpoint: the signed note.
    """

    old: int
    proof: tuple[bytes, ...]
    checkpoint: bytes

    def encode(self) -> bytes:
        """The body."""
        lines = [f"old {self.old}", *map(base64_text, self.proof), "", ""]
        return "\n".join(lines).encode() + self.checkpoint

    @classmethod
    def parse(cls, data: bytes) -> Submission:
        """Read a body.

        Raises:
            ServiceError: ``log_malformed``.
        """
        if len(data) > MAX_SUBMISSION_BYTES:
            _malformed(f"{len(data)} bytes, at most {MAX_SUBMISSION_BYTES}")
        head, empty, checkpoint = data.partition(b"\n\n")
        try:
            first, *lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as e:
            raise ServiceError(Code.LOG_MALFORMED, "submission: not ASCII") from e
        if not empty or not first.startswith("old "):
            _malformed("expected a line 'old SIZE', a proof and an empty line")
        if len(lines) > MAX_PROOF_HASHES:
            _malformed(f"a proof of {len(lines)} hashes, at most {MAX_PROOF_HASHES}")
        old = parse_number(first.removeprefix("old "))
        return cls(old, tuple(map(parse_hash, lines)), checkpoint)


class Witness:
    """Cosigns what follows from what it saw. Safe for threads, alone in its folder.

    Args:
        signer: of cosignatures.
        logs: keys of the logs that are watched; no origin twice.
        store: remembers the last checkpoint of each log. Whoever can put back what is
            in there can make the witness cosign a fork.
    """

    def __init__(
        self, signer: NoteSigner, logs: Sequence[NoteKey], store: TileStore
    ) -> None:
        self._signer = signer
        self._trust = {key.name: Trust(key, (signer.key,)) for key in logs}
        if len(self._trust) != len(logs):
            raise ServiceError(Code.LOG_UNDERSIGNED, "one log is named twice")
        self._paths = {origin_hash(name): name for name in self._trust}
        self._store = store
        self._lock = threading.Lock()

    def add_checkpoint(self, body: bytes, *, now: int) -> bytes:
        """Cosign a checkpoint.

        1. The body has its form; the checkpoint is of a log that is watched.
        2. The log's key signed it.
        3. It is proved from the size that was seen last.
        4. The tree that was seen last is its beginning.
        5. It is remembered, durably.

        Args:
            body: of the request.
            now: Unix seconds, which the cosignature states.

        Returns:
            the signature line.

        Raises:
            StaleError: it is proved from another size.
            ServiceError: ``log_malformed``; ``log_missing``, where the log is not
                watched; ``log_undersigned``; ``log_proof_invalid``; ``log_forked``,
                where two roots are signed for one size; ``log_tampered``, where what
                was remembered was changed; ``journal_failed``.
        """
        submission = Submission.parse(body)
        claimed = Checkpoint.parse(parse_note(submission.checkpoint).text)
        trust = self._trust.get(claimed.origin)
        if trust is None:
            detail = f"the log {claimed.origin!r} is not watched"
            raise ServiceError(Code.LOG_MISSING, detail)
        checked = verify_checkpoint(submission.checkpoint, Trust(trust.log))
        if submission.old > claimed.size:
            _malformed(f"from {submission.old} to a checkpoint of {claimed.size}")
        with self._lock:
            self._require_growth(trust, submission, checked.checkpoint)
            line = self._signer.sign(checked.note.text, now=now)
            # Of the lines only the one that was checked: anybody may submit, and what
            # is kept with lines of theirs may be more than can be read again.
            own = _line_of(checked.note, trust.log)
            note = Note(checked.note.text, (own, line))
            self._store.write(_path(claimed.origin), note.encode())
            self._store.flush()
        return f"{line}\n".encode()

    def checkpoint(self, wanted: str) -> bytes:
        """The last cosigned checkpoint, for whoever watches.

        Args:
            wanted: ``origin_hash`` of the log.

        Raises:
            ServiceError: ``log_missing``; ``log_tampered``.
        """
        origin = self._paths.get(wanted)
        last = None if origin is None else self._last(self._trust[origin])
        if last is None:
            raise ServiceError(Code.LOG_MISSING, "no checkpoint of such a log")
        return last.note.encode()

    def _require_growth(
        self, trust: Trust, submission: Submission, new: Checkpoint
    ) -> None:
        last = self._last(trust)
        size, root = (
            (0, EMPTY_ROOT)
            if last is None
            else (last.checkpoint.size, last.checkpoint.root)
        )
        if submission.old != size:
            raise StaleError(size)
        if size == new.size and root != new.root:
            detail = f"{new.origin}: {root.hex()} and {new.root.hex()} for size {size}"
            raise ServiceError(Code.LOG_FORKED, detail)
        verify_consistency(
            old=size,
            new=new.size,
            old_root=root,
            new_root=new.root,
            proof=submission.proof,
        )

    def _last(self, trust: Trust) -> VerifiedCheckpoint | None:
        """What was cosigned last; what is there must have our own signature."""
        data = self._store.read(_path(trust.log.name))
        if data is None:
            return None
        needed = Trust(trust.log, trust.witnesses, threshold=1)
        try:
            return verify_checkpoint(data, needed)
        except ServiceError as e:
            detail = f"what the witness remembers of {trust.log.name}: {e.detail}"
            raise ServiceError(Code.LOG_TAMPERED, detail) from e


def origin_hash(origin: str) -> str:
    """Under which name a witness serves a log's checkpoint."""
    return hashlib.sha256(origin.encode()).hexdigest()


def merge_cosignatures(note: Note, answer: bytes, witnesses: Iterable[NoteKey]) -> Note:
    """A checkpoint with the cosignatures that witnesses answered with.

    Lines of keys that are not named are dropped; an older line of a key that signed
    again makes room.

    Args:
        note: the checkpoint.
        answer: signature lines.
        witnesses: whose are taken.

    Raises:
        ServiceError: ``log_malformed``; ``log_undersigned``, where a line is not by its
            key, or none is by any.
    """
    lines = parse_signature_lines(answer)
    new = Note(note.text, lines)
    ids = {(one.key.name, one.key.key_id) for one in new.verified(witnesses)}
    if not ids:
        raise ServiceError(
            Code.LOG_UNDERSIGNED, "no cosignature by a key that is named"
        )
    kept = tuple(s for s in note.signatures if (s.name, s.key_id) not in ids)
    added = {(s.name, s.key_id): s for s in lines if (s.name, s.key_id) in ids}
    if len(kept) + len(added) > MAX_SIGNATURES:
        _malformed(f"more than {MAX_SIGNATURES} signatures")
    return Note(note.text, (*kept, *added.values()))


def _line_of(note: Note, key: NoteKey) -> SignatureLine:
    """The first line of a key that signed the note."""
    named = key.name, key.key_id
    return next(s for s in note.signatures if (s.name, s.key_id) == named)


def _path(origin: str) -> str:
    return f"{origin_hash(origin)}/{CHECKPOINT_PATH}"


def _malformed(detail: str) -> NoReturn:
    raise ServiceError(Code.LOG_MALFORMED, f"submission: {detail}")
