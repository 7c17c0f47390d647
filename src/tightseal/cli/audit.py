# SPDX-License-Identifier: Apache-2.0
"""``tightseal audit``: what a provider decided, from its journal; changes nothing."""

from __future__ import annotations

import os
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tightseal.audit.journal import MAX_LISTED, RecordedEntry, SqliteJournal
from tightseal.cli import ui
from tightseal.model.canonical import Value
from tightseal.service.load import DEFAULT_CONFIG, SettingsFiles

__all__ = ["audit_app"]

SHOWN_HASH_CHARS: Final = 16

audit_app = App(
    name="audit",
    help="What a provider decided, from its journal.",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)


@audit_app.command
def tail(
    *,
    config: Annotated[Path, Parameter(name=["--config", "-c"])] = DEFAULT_CONFIG,
    host_config: Annotated[Path | None, Parameter(name=["--host-config"])] = None,
    after: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
    count: Annotated[int, Parameter(validator=Number(gte=1, lte=MAX_LISTED))] = 20,
    as_json: Annotated[bool, Parameter("--json")] = False,
) -> int:
    """Print journal entries, oldest first: 0 read, 1 not in order, 2 no settings.

    The journal holds no key. What is printed is what the file says: whoever can write
    to the file can change it.

    Args:
        config: the provider's settings file; says where its journal is.
        host_config: the host file, as for ``tightseal serve``.
        after: entries behind this number; by default the last ones.
        count: most entries.
        as_json: one JSON document on stdout, with everything that an entry holds.
    """
    host = SettingsFiles(config, host_config).load(os.environ).settings.host
    with closing(SqliteJournal.open(host.journal_path)) as journal:
        latest = journal.latest()
        start = max(0, latest - count) if after is None else after
        entries = journal.entries(after=start, limit=count)
    if as_json:
        ui.print_json({"latest": latest, "entries": [_document(e) for e in entries]})
        return ui.EXIT_YES
    for recorded in entries:
        ui.facts([(str(recorded.seq), _line(recorded))])
    if not entries:
        ui.note(f"no entries behind {start}; the last one is {latest}")
    return ui.EXIT_YES


def _line(recorded: RecordedEntry) -> str:
    entry = recorded.entry
    body = entry.body if isinstance(entry.body, dict) else {}
    evidence = body.get("evidence_hash")
    shown = evidence.hex()[:SHOWN_HASH_CHARS] if isinstance(evidence, bytes) else "-"
    keys = body.get("keys")
    purposes = [
        str(key["purpose"])
        for key in (keys if isinstance(keys, list | tuple) else ())
        if isinstance(key, dict) and "purpose" in key
    ]
    words = [
        _time(entry.time),
        "granted" if entry.granted else f"denied {entry.code}",
        f"class={entry.protocol_class}",
        f"evidence={shown}",
    ]
    if purposes:
        words.append(f"purposes={','.join(purposes)}")
    return "  ".join(words)


def _document(recorded: RecordedEntry) -> dict[str, Any]:
    entry = recorded.entry
    return {
        "seq": recorded.seq,
        "entry_id": entry.entry_id.hex(),
        "time": _time(entry.time),
        "granted": entry.granted,
        "protocol_class": entry.protocol_class,
        "code": entry.code,
        "body": _plain(entry.body),
    }


def _plain(value: Value) -> Any:
    """A canonical value as JSON has it: bytes in hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)
