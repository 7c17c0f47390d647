# SPDX-License-Identifier: Apache-2.0
"""Parts in memory and on disk: one file a record, named by what it holds.

A record's file is ``<hash of its name>.<SHA-256 of its content>.json``, so a damaged
file shows by its own name. It is written beside, synced and renamed; a crash leaves the
old record, the new one, or both, and of two the newer counts. The folder belongs to the
host: a record that no root signed for counts as absent, and whatever is left is judged
by the verifier like any other collateral. Use one folder for one trust domain.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tightseal.collateral import wire
from tightseal.collateral.bundle import part_from_fields, part_to_fields, read_bounded
from tightseal.collateral.origin import chain_above, check_origin
from tightseal.collateral.parts import Part, PartKind, PartName
from tightseal.errors import Code, CollateralError
from tightseal.model.log import Log
from tightseal.model.roots import TrustedRoots

__all__ = ["MAX_RECORDS", "Record", "RecordCache"]

MAX_RECORDS: Final = 512
"""Most records of each vendor, in memory and on disk. Vendors are counted apart, so
that a flood of made-up chips cannot push Intel's parts out."""

MAX_RECORD_BYTES: Final = 4 << 20
"""Longest record file, in bytes."""

STALE_SECONDS: Final = 3600
"""Age at which another writer's temporary file counts as left behind."""

_NAME_CHARS: Final = 32
_MAX_TIME: Final = 1 << 62

log = Log("tightseal.collateral")


@dataclass(frozen=True, slots=True)
class Record:
    """A part, and when it was last fetched or confirmed (Unix seconds)."""

    part: Part
    fetched_at: int


def _prefix(name: PartName) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()[:_NAME_CHARS]


def _encode(record: Record) -> bytes:
    fields = part_to_fields(record.part) | {"fetched_at": str(record.fetched_at)}
    return json.dumps(fields, indent=1).encode()


def _decode(data: bytes) -> Record:
    fields = wire.json_object(data, code=Code.COLLATERAL_UNREADABLE)
    fetched_at = fields.pop("fetched_at", "")
    if not isinstance(fetched_at, str) or not fetched_at.isdecimal():
        raise CollateralError(Code.COLLATERAL_UNREADABLE, "fetched_at: no number")
    if len(fetched_at) > len(str(_MAX_TIME)):
        raise CollateralError(Code.COLLATERAL_UNREADABLE, "fetched_at: too large")
    return Record(part_from_fields(fields), int(fetched_at))


class RecordCache:
    """Records by name; safe for several threads and several processes.

    Args:
        folder: made where missing; ``None`` for memory alone.
        roots: the roots that are switched on; a record signed under none of them is
            not read. Without roots of a vendor, its records are read whoever signed.
        max_records: most records of each vendor.

    Raises:
        CollateralError: ``collateral_unreadable``, where the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        roots: TrustedRoots | None = None,
        max_records: int = MAX_RECORDS,
    ) -> None:
        self._folder = folder
        self._roots = roots or TrustedRoots()
        self._max = max_records
        self._lock = threading.RLock()
        self._records: dict[PartName, Record] = {}
        self._files_read: dict[str, PartName] = {}
        self._files_refused: set[str] = set()
        self.generation = 0
        if folder is not None:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise CollateralError(
                    Code.COLLATERAL_UNREADABLE, f"{folder}: {error.strerror}"
                ) from error

    def origin(self, part: Part) -> str | None:
        """Refuse a part of no root that is switched on; see ``check_origin``.

        Returns:
            the trust domain of one of Intel's parts, where it says.

        Raises:
            CollateralError: ``root_not_trusted``.
        """
        return check_origin(part, self._roots, chain=self._chain_above(part))

    def _chain_above(self, part: Part) -> Part | None:
        if part.name.kind is not PartKind.SNP_SIGNER:
            return None
        record = self.get(chain_above(part.name))
        return None if record is None else record.part

    def get(self, name: PartName) -> Record | None:
        """The record from memory, else from disk."""
        return self._records.get(name) or self.reload(name)

    def reload(self, name: PartName) -> Record | None:
        """Look at the disk again: another process may have a newer record."""
        for record in self._files(_prefix(name)):
            self._remember(record)
        return self._records.get(name)

    def put(self, part: Part, *, now: int) -> Record:
        """Keep a part that was fetched at ``now``.

        Where the same part is there already, the very object is kept, so that what
        hangs on it stays reusable. A failing disk is logged; memory serves on.

        Raises:
            CollateralError: ``collateral_rollback``, where a newer part is there.
        """
        with self._lock:
            old = self.reload(part.name)
            if old is not None and part.older_than(old.part):
                raise CollateralError(
                    Code.COLLATERAL_ROLLBACK,
                    f"{part.name}: got issue {part.issued_at} number {part.number}, "
                    f"kept issue {old.part.issued_at} number {old.part.number}",
                )
            same = old is not None and old.part == part
            record = Record(old.part, now) if old and same else Record(part, now)
            self._store(record)
            self._records[part.name] = record
            self.generation += 0 if same else 1
            self._evict(part.name)
            return record

    def records(self) -> tuple[Record, ...]:
        """Every record of memory and disk, ordered by name."""
        for record in self._files(""):
            self._remember(record)
        with self._lock:
            return tuple(sorted(self._records.values(), key=lambda r: str(r.part.name)))

    def _remember(self, record: Record) -> None:
        """Take a record into memory, unless a newer one is there."""
        with self._lock:
            old = self._records.get(record.part.name)
            if old is not None:
                if record.part.older_than(old.part):
                    return
                if record.part == old.part:
                    fetched_at = max(old.fetched_at, record.fetched_at)
                    self._records[record.part.name] = Record(old.part, fetched_at)
                    return
            self._records[record.part.name] = record
            self.generation += 1

    def _files(self, prefix: str) -> Iterator[Record]:
        """Records of files whose names start with ``prefix``, not read before."""
        if self._folder is None:
            return
        try:
            paths = sorted(self._folder.glob(f"{prefix}*.json"))
        except OSError as error:
            log.warning("collateral_cache_unreadable", reason=error.strerror)
            return
        for path in paths[: 4 * self._max]:
            # A file is named by its content: what was read once needs no second look.
            if self._files_read.get(path.name) in self._records:
                continue
            record = None if path.name in self._files_refused else _read(path)
            if record is not None and self._is_known(record.part, path.name):
                if len(self._files_read) > 8 * self._max:
                    self._files_read.clear()
                self._files_read[path.name] = record.part.name
                yield record

    def _is_known(self, part: Part, file: str) -> bool:
        """Whether a record may be used; a stranger's is logged once and left alone."""
        unjudged = part.name.kind is PartKind.SNP_SIGNER and self._roots.amd
        if unjudged and self._chain_above(part) is None:
            return False  # looked at again when the chain above it is there
        try:
            self.origin(part)
        except CollateralError as error:
            log.warning(
                "collateral_record_of_no_root",
                file=file,
                record=str(part.name),
                code=error.code.value,
            )
            if len(self._files_refused) > 8 * self._max:
                self._files_refused.clear()
            self._files_refused.add(file)
            return False
        return True

    def _store(self, record: Record) -> None:
        if self._folder is None:
            return
        data = _encode(record)
        prefix = _prefix(record.part.name)
        path = self._folder / f"{prefix}.{hashlib.sha256(data).hexdigest()}.json"
        try:
            _write(path, data)
            for old in self._folder.glob(f"{prefix}.*.json"):
                if old != path:
                    old.unlink(missing_ok=True)
            self._sweep(path)
        except OSError as error:
            log.warning(
                "collateral_record_not_written",
                record=str(record.part.name),
                reason=error.strerror,
            )

    def _sweep(self, written: Path) -> None:
        """Remove temporary files that a crash left behind, by the disk's own clock."""
        assert self._folder is not None
        oldest = written.stat().st_mtime - STALE_SECONDS
        for path in self._folder.glob(".new-*"):
            with suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def _evict(self, newest: PartName) -> None:
        """Drop the longest unconfirmed records of the vendor that has too many."""
        vendor = newest.kind.intel
        mine = [r for r in self._records.values() if r.part.name.kind.intel is vendor]
        mine.sort(key=lambda record: (record.part.name == newest, record.fetched_at))
        for record in mine[: max(0, len(mine) - self._max)]:
            del self._records[record.part.name]
            self.generation += 1
            if self._folder is not None:
                for path in self._folder.glob(f"{_prefix(record.part.name)}.*.json"):
                    with suppress(OSError):
                        path.unlink()


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".new-{secrets.token_hex(16)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> Record | None:
    """Read a record file; a damaged one is logged and counts as missing."""
    try:
        data = read_bounded(path, MAX_RECORD_BYTES)
        prefix, _, rest = path.name.partition(".")
        if rest != f"{hashlib.sha256(data).hexdigest()}.json":
            raise CollateralError(
                Code.COLLATERAL_UNREADABLE, "content differs from its name"
            )
        record = _decode(data)
        if _prefix(record.part.name) != prefix:
            raise CollateralError(Code.COLLATERAL_UNREADABLE, "not what it is named")
    except CollateralError as error:
        if path.exists():
            log.warning(
                "collateral_record_corrupt",
                file=path.name,
                code=error.code.value,
                detail=error.detail,
            )
        return None
    return record
