# SPDX-License-Identifier: Apache-2.0
"""``tightseal audit query``: the entries that fit, out of the journal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from tightseal.audit.journal import MAX_LISTED, RecordedEntry, SqliteJournal
from tightseal.cli import ui
from tightseal.cli.audit_keys import LogKeys
from tightseal.cli.audit_read import fitting_of_tiles, trust_for
from tightseal.cli.audit_text import document, line
from tightseal.cli.audit_tiles import Fetch, Tiles
from tightseal.errors import Code, SettingsError
from tightseal.model.canonical import Value
from tightseal.service.load import DEFAULT_CONFIG, SettingsFiles

__all__ = ["query"]

MAX_FOUND = 100_000
"""Most entries of one answer."""


@Parameter(name="*")
@dataclass(frozen=True)
class Wanted:
    """What an entry must be; what is not given does not matter.

    Attributes:
        outcome: granted, or denied.
        code: stable code of the refusal, or ``granted``.
        protocol_class: such as ``v1``, ``legacy`` or ``action``.
        workload: name in the policy.
        purpose: of a key that was released.
        evidence: hash of the evidence in hex, or its beginning.
        entry_id: id in hex, or its beginning, as a receipt names it.
        since: not before this time, such as ``2026-03-01T12:00:00Z``.
        until: before this time.
    """

    outcome: Literal["granted", "denied"] | None = None
    code: str = ""
    protocol_class: Annotated[str, Parameter("--class")] = ""
    workload: str = ""
    purpose: str = ""
    evidence: str = ""
    entry_id: str = ""
    since: str = ""
    until: str = ""

    def rules(self) -> list[Callable[[RecordedEntry], bool]]:
        """What all must hold of an entry.

        Raises:
            SettingsError: ``settings_invalid``, where a time is none.
        """
        since, until = _moment(self.since), _moment(self.until)
        rules: list[tuple[object, Callable[[RecordedEntry], bool]]] = [
            (self.outcome, lambda r: r.entry.granted is (self.outcome == "granted")),
            (self.code, lambda r: r.entry.code == self.code),
            (
                self.protocol_class,
                lambda r: r.entry.protocol_class == self.protocol_class,
            ),
            (self.workload, lambda r: _body(r).get("workload") == self.workload),
            (self.purpose, lambda r: self.purpose in _purposes(r)),
            (self.evidence, lambda r: _begins(_body(r), self.evidence)),
            (self.entry_id, lambda r: _hex(r.entry.entry_id, self.entry_id)),
            (self.since, lambda r: r.entry.time >= since),
            (self.until, lambda r: r.entry.time < until),
        ]
        return [rule for given, rule in rules if given]


def query(
    *,
    wanted: Wanted | None = None,
    tiles: Tiles = "",
    keys: LogKeys | None = None,
    fetch: Fetch | None = None,
    config: Annotated[Path, Parameter(name=["--config", "-c"])] = DEFAULT_CONFIG,
    host_config: Annotated[Path | None, Parameter(name=["--host-config"])] = None,
    after: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    count: Annotated[int, Parameter(validator=Number(gte=1, lte=MAX_FOUND))] = 100,
    as_json: Annotated[bool, Parameter("--json")] = False,
) -> int:
    """Print the entries that fit, oldest first: 0 found, 1 none fits, 2 no settings.

    Reads the journal from the start, or from ``--after``. What is printed is what the
    file says; ``tightseal audit verify`` says whether it was changed. With ``--tiles``
    it reads the published log, and checks every byte of it before it prints.

    Args:
        wanted: what an entry must be.
        tiles: folder that ``audit export`` wrote, ``postgresql://…``, or the address
            of a log that is served, in place of the journal.
        keys: whose signatures its checkpoint needs.
        fetch: how tiles of a server or a database are read.
        config: the provider's settings file; says where its journal is.
        host_config: the host file, as for ``tightseal serve``.
        after: entries behind this number alone.
        count: most entries.
        as_json: one JSON document on stdout, with everything that an entry holds.
    """
    rules = (wanted or Wanted()).rules()
    trust = trust_for(tiles, keys)

    def fits(recorded: RecordedEntry) -> bool:
        return recorded.seq > after and all(rule(recorded) for rule in rules)

    if trust is not None:
        how = fetch or Fetch()
        found, more = fitting_of_tiles(tiles, trust, how, fits, count=count)
    else:
        host = SettingsFiles(config, host_config).load(os.environ).settings.host
        found, more = _fitting(host.journal_path, fits, after=after, count=count)
    if as_json:
        ui.print_json({"entries": [document(e) for e in found], "more": more})
    for recorded in found if not as_json else ():
        ui.facts([(str(recorded.seq), line(recorded))])
    if more:
        ui.note(f"there are more: go on with --after {found[-1].seq}")
    return ui.EXIT_YES if found else ui.EXIT_NO


def _fitting(
    path: Path, fits: Callable[[RecordedEntry], bool], *, after: int, count: int
) -> tuple[list[RecordedEntry], bool]:
    found: list[RecordedEntry] = []
    with closing(SqliteJournal.open(path)) as journal:
        for recorded in _pages(journal, after):
            if fits(recorded):
                if len(found) == count:
                    return found, True
                found.append(recorded)
    return found, False


def _pages(journal: SqliteJournal, after: int) -> Iterator[RecordedEntry]:
    while page := journal.entries(after=after, limit=MAX_LISTED):
        yield from page
        after = page[-1].seq


def _body(recorded: RecordedEntry) -> dict[str, Value]:
    body = recorded.entry.body
    return dict(body) if isinstance(body, dict) else {}


def _purposes(recorded: RecordedEntry) -> set[Value]:
    keys = _body(recorded).get("keys")
    listed = keys if isinstance(keys, list | tuple) else ()
    return {key.get("purpose") for key in listed if isinstance(key, dict)}


def _begins(body: dict[str, Value], wanted: str) -> bool:
    found = body.get("evidence_hash")
    return isinstance(found, bytes) and _hex(found, wanted)


def _hex(value: bytes, wanted: str) -> bool:
    return value.hex().startswith(wanted.lower())


def _moment(text: str) -> int:
    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as e:
        detail = f"{text!r} is no time: expected such as 2026-03-01T12:00:00Z"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp())
