# SPDX-License-Identifier: Apache-2.0
"""How journal entries are told: for people, and as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from tightseal.audit.journal import RecordedEntry
from tightseal.model.canonical import Value

__all__ = ["document", "line", "plain"]

SHOWN_HASH_CHARS: Final = 16
"""How much of a hash stands in a line."""


def line(recorded: RecordedEntry) -> str:
    """An entry in one line."""
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


def document(recorded: RecordedEntry) -> dict[str, Any]:
    """All that an entry holds, for JSON."""
    entry = recorded.entry
    return {
        "seq": recorded.seq,
        "entry_id": entry.entry_id.hex(),
        "time": _time(entry.time),
        "granted": entry.granted,
        "protocol_class": entry.protocol_class,
        "code": entry.code,
        "body": plain(entry.body),
    }


def plain(value: Value) -> Any:
    """A canonical value as JSON has it: bytes in hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)
