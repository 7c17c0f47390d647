# SPDX-License-Identifier: Apache-2.0
"""Entries out of published tiles, for ``tightseal audit tail | query``."""

from __future__ import annotations

from collections.abc import Callable

from tightseal.audit.checkpoint import Trust
from tightseal.audit.entry import parse_entry
from tightseal.audit.journal import RecordedEntry
from tightseal.audit.verify import read_checkpoint, read_entries, verify_log
from tightseal.cli.audit_keys import LogKeys
from tightseal.cli.audit_tiles import Fetch, Progress, read_tiles
from tightseal.errors import Code, SettingsError
from tightseal.model.ports import JournalEntry

__all__ = ["fitting_of_tiles", "last_of_tiles", "trust_for"]


def trust_for(tiles: str, keys: LogKeys | None) -> Trust | None:
    """Whose signatures published tiles need; ``None`` where the journal is read.

    Raises:
        SettingsError: ``settings_invalid``, where one was given without the other.
    """
    if bool(tiles) is not (keys is not None):
        detail = "give both --tiles and --log-key, or, for the journal, none"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return None if keys is None else keys.trust()


def last_of_tiles(
    tiles: str, trust: Trust, fetch: Fetch, *, after: int | None, count: int
) -> tuple[int, tuple[RecordedEntry, ...]]:
    """The number of the last entry, and entries, each proved to be in the log.

    Args:
        tiles: folder or address.
        trust: whose signatures the checkpoint needs.
        fetch: how tiles of a server or a database are read.
        after: entries behind this number; ``None`` for the last ones.
        count: most entries.

    Raises:
        ServiceError: as of ``verify.read_entries``; ``log_malformed``.
    """
    with read_tiles(tiles, trust.log.name, fetch) as source:
        head = read_checkpoint(source, trust)
        size = head.checkpoint.size
        start = max(0, size - count) if after is None else min(after, size)
        found = read_entries(source, head, start, min(size, start + count))
    return size, tuple(_recorded(start + at, data) for at, data in enumerate(found))


def fitting_of_tiles(
    tiles: str,
    trust: Trust,
    fetch: Fetch,
    fits: Callable[[RecordedEntry], bool],
    *,
    count: int,
) -> tuple[list[RecordedEntry], bool]:
    """The first entries that fit, and whether there are more.

    Every byte of the log is checked before anything is given out.

    Raises:
        ServiceError: as of ``verify.verify_log``; ``log_malformed``.
    """
    found: list[RecordedEntry] = []
    more = False
    progress = Progress("checked")

    def each(index: int, data: bytes) -> None:
        nonlocal more
        progress.at(index)
        if more:
            return
        recorded = _recorded(index, data)
        if fits(recorded):
            more = len(found) == count
            if not more:
                found.append(recorded)

    with read_tiles(tiles, trust.log.name, fetch) as source:
        verify_log(source, trust, each=each)
    return found, more


def _recorded(index: int, data: bytes) -> RecordedEntry:
    entry = parse_entry(data)
    return RecordedEntry(
        index + 1,
        JournalEntry(
            entry_id=entry.entry_id,
            time=entry.time,
            granted=entry.granted,
            protocol_class=entry.protocol_class,
            code=entry.code,
            body=entry.body,
        ),
    )
