# SPDX-License-Identifier: Apache-2.0
"""Copies of a store: consistent, still sealed, and restored only where there is none.

The form: ``MAGIC``, then frames of a 4-byte big-endian length and deterministic CBOR.
The first is ``[schema, store id, sealed head]``, then one of ``[kind, index, version,
expires_at, sealed]`` for each record, then ``[count, SHA-256]`` over all before it. The
hash finds accidents; what is authentic is decided by the sealed head alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, Final

from tightseal.errors import Code, RequestError, ServiceError
from tightseal.model.canonical import Value, decode, encode
from tightseal.state.check import StateReport, check_rows
from tightseal.state.faults import tampered, too_large, unavailable
from tightseal.state.rows import (
    MAX_SEALED_BYTES,
    SCHEMA,
    Changes,
    HeadRow,
    Row,
    Wanted,
    head_row,
    record_row,
)

if TYPE_CHECKING:
    from tightseal.state.rows import Engine
    from tightseal.state.seal import Sealer

__all__ = ["MAGIC", "MAX_RECORDS", "backup", "restore"]

MAGIC: Final = b"tightseal state backup 1\n"

MAX_RECORDS: Final = 1 << 21
"""Most records of a backup that is restored: they are held in memory."""

_MAX_FRAME: Final = MAX_SEALED_BYTES + 1024
_LENGTH_BYTES: Final = 4
_HEAD_MEMBERS: Final = 3
_RECORD_MEMBERS: Final = 5
_END_MEMBERS: Final = 2


def backup(engine: Engine, out: BinaryIO) -> int:
    """Write a copy of one moment of the store; needs no key.

    Returns:
        how many records were written.

    Raises:
        ServiceError: ``state_missing``, ``state_tampered``, ``state_unavailable``.
    """
    if engine.schema() == 0:
        raise ServiceError(Code.STATE_MISSING, f"{engine.name}: there is no state")
    writer = _FrameWriter(out)
    count = 0
    with engine.read() as view:
        head = view.fetch(Wanted()).head
        if head is None:
            raise tampered("the head is missing")
        writer.frame([head.schema, head.store_id, head.sealed])
        for row in view.records():
            values: list[Value] = [
                row.kind,
                row.index,
                row.version,
                row.expires_at,
                row.sealed,
            ]
            writer.frame(values)
            count += 1
    writer.frame([count, writer.digest()])
    return count


def restore(engine: Engine, source: BinaryIO, sealer: Sealer | None) -> StateReport:
    """Fill an empty place from a backup, all at once or not at all.

    With a sealer everything is verified first. Without one only accidents are found
    here, and what the host changed is found by the provider that attaches to it. That
    newer states existed is never noticed here: an anchor says so at ``attach``.

    Raises:
        ServiceError: ``state_exists``, where there is a store; ``state_tampered``,
            where the backup is truncated or changed; ``state_schema_unsupported``,
            where another version made it; ``state_too_large``; ``state_unavailable``.
    """
    head, rows = _read(source)
    if head.schema != SCHEMA:
        detail = f"backup of schema {head.schema}, expected {SCHEMA}"
        raise ServiceError(Code.STATE_SCHEMA_UNSUPPORTED, detail)
    report, maps = check_rows(head, rows, sealer)
    engine.prepare(
        Changes(
            head,
            {(row.kind, row.index): row for row in rows},
            {(k, p): body for k, bodies in maps.items() for p, body in bodies.items()},
        )
    )
    return report


class _FrameWriter:
    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._hash = hashlib.sha256()
        self._write(MAGIC)

    def digest(self) -> bytes:
        return self._hash.digest()

    def frame(self, value: Value) -> None:
        body = encode(value)
        self._write(len(body).to_bytes(_LENGTH_BYTES, "big") + body)

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        try:
            self._out.write(data)
        except OSError as e:
            raise unavailable("writing the backup", e) from e


def _read(source: BinaryIO) -> tuple[HeadRow, list[Row]]:
    """Parse a backup, strictly; raises as ``restore``."""
    frames = _frames(source)
    _, first = next(frames, (b"", None))
    if not isinstance(first, list) or len(first) != _HEAD_MEMBERS:
        raise tampered("backup: the first frame is malformed")
    schema, store_id, sealed = first
    head = head_row(store_id, schema, sealed)
    rows: list[Row] = []
    for digest, value in frames:
        if not isinstance(value, list):
            raise tampered("backup: a frame is malformed")
        if len(value) == _END_MEMBERS:
            if value != [len(rows), digest] or source.read(1):
                raise tampered("backup: changed, or cut, or something follows it")
            return head, rows
        if len(value) != _RECORD_MEMBERS:
            raise tampered("backup: a frame is malformed")
        if len(rows) == MAX_RECORDS:
            raise too_large(f"backup of more than {MAX_RECORDS} records")
        rows.append(record_row(*value))
    raise tampered("backup: truncated")


def _frames(source: BinaryIO) -> Iterator[tuple[bytes, Value]]:
    """Each frame, with the hash of all that came before it."""
    digest = hashlib.sha256()
    try:
        data = source.read(len(MAGIC))
        if data != MAGIC:
            raise tampered("not a backup of a state store")
        while True:
            digest.update(data)
            length = source.read(_LENGTH_BYTES)
            size = int.from_bytes(length, "big")
            if len(length) != _LENGTH_BYTES or size > _MAX_FRAME:
                raise tampered("backup: truncated, or a frame is too long")
            body = source.read(size)
            if len(body) != size:
                raise tampered("backup: truncated")
            yield digest.digest(), decode(body)
            data = length + body
    except RequestError as e:
        raise tampered("backup: a frame is malformed") from e
    except OSError as e:
        raise unavailable("reading the backup", e) from e
