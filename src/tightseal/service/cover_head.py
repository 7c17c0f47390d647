# SPDX-License-Identifier: Apache-2.0
"""One head of the log with the cosignatures that came for it."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from tightseal.audit.checkpoint import Trust, VerifiedCheckpoint, verify_checkpoint
from tightseal.audit.log import Head
from tightseal.audit.nodes import JournalNodes
from tightseal.audit.note import Note, NoteKey, SignatureLine
from tightseal.errors import ServiceError
from tightseal.model.logclass import LogNeed

__all__ = ["CosignedHead"]

log = structlog.get_logger("tightseal.cover")


@dataclass(slots=True, eq=False)
class CosignedHead:
    """A head with the cosignatures that came for it; for one thread.

    Attributes:
        head: as the file had it; the log's key signed it.
        note: its checkpoint, with the log's own signature alone.
        key: of the log.
        nodes: of its tree.
        lines: cosignatures by name and id of the key; each was verified.
        judged: what became of each need, and with how many lines.
    """

    head: Head
    note: Note
    key: NoteKey
    nodes: JournalNodes
    lines: dict[tuple[str, bytes], SignatureLine] = field(default_factory=dict)
    judged: dict[LogNeed, tuple[int, VerifiedCheckpoint | None]] = field(
        default_factory=dict
    )

    @property
    def size(self) -> int:
        """Entries of the tree."""
        return self.head.frontier.size

    @property
    def root(self) -> bytes:
        """Root of the tree."""
        return self.head.frontier.root()

    def take(self, line: SignatureLine, key: NoteKey) -> None:
        """Keep a cosignature.

        Raises:
            ServiceError: ``log_undersigned``, where it is not by that key over this
                head.
        """
        line.verify(key, self.note.text)
        self.lines[line.name, line.key_id] = line
        self.judged.clear()

    def meets(self, need: LogNeed) -> VerifiedCheckpoint | None:
        """The cosigned checkpoint, where enough of the keys of a need signed it."""
        count, found = self.judged.get(need, (-1, None))
        if count != len(self.lines):
            found = self._judge(need)
            self.judged[need] = len(self.lines), found
        return found

    def _judge(self, need: LogNeed) -> VerifiedCheckpoint | None:
        keys = tuple(map(NoteKey.parse, need.witnesses))
        named = {(key.name, key.key_id) for key in keys}
        lines = [line for at, line in self.lines.items() if at in named]
        if len(lines) < max(1, need.threshold):
            return None
        note = Note(self.note.text, (*self.note.signatures, *lines))
        try:
            trust = Trust(self.key, keys, max(1, need.threshold))
            return verify_checkpoint(note.encode(), trust)
        except ServiceError as e:
            log.error("cosignature_refused", code=e.code.value, detail=e.detail)  # noqa: TRY400
            return None
