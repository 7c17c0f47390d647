# SPDX-License-Identifier: Apache-2.0
"""The published JSON Schema is that of the types, and says what readers rely on."""

import json
import re
from pathlib import Path
from typing import Any

from tightseal.cli.reference import changes
from tightseal.model.claims import TcbStatus
from tightseal.policy.eventlog import IDENTITY_EVENTS
from tightseal.policy.fields import all_names
from tightseal.policy.schema import schema_document

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "policy.schema.json"


def test_the_published_schema_is_fresh() -> None:
    assert PUBLISHED.read_bytes() == schema_document(), "make docs rewrites it"


def test_a_stale_schema_is_found(tmp_path: Path) -> None:
    (tmp_path / PUBLISHED.name).write_text("{}")
    (change,) = changes(tmp_path, {})
    assert change.text.encode() == schema_document()


def every(value: Any) -> list[Any]:
    below = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list):
        return []
    return [value, *(found for item in below for found in every(item))]


def test_no_table_takes_unknown_keys() -> None:
    schema = json.loads(schema_document())
    tables = [d for d in every(schema) if isinstance(d, dict) and "properties" in d]
    named = [t for t in tables if isinstance(t["properties"], dict) and "title" in t]
    assert len(named) >= 9
    assert all(table["additionalProperties"] is False for table in named)


def test_patterns_are_of_the_common_dialect() -> None:
    schema = json.loads(schema_document())
    patterns = [
        found["pattern"]
        for found in every(schema)
        if isinstance(found, dict) and isinstance(found.get("pattern"), str)
    ]
    assert patterns
    for pattern in patterns:
        assert "\\Z" not in pattern
        re.compile(pattern)


def test_the_schema_names_measurements_events_and_statuses() -> None:
    definitions = json.loads(schema_document())["$defs"]
    measurements = definitions["ImageRules"]["properties"]["measurements"]
    assert measurements["propertyNames"]["enum"] == list(all_names())
    events = definitions["ImageRules"]["properties"]["events"]
    assert events["propertyNames"]["enum"] == list(IDENTITY_EVENTS)
    assert set(definitions["TcbStatus"]["enum"]) == {s.value for s in TcbStatus}
