# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of policy documents, generated from their types."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgspec

from tightseal.policy.document import Document
from tightseal.policy.eventlog.facts import IDENTITY_EVENTS
from tightseal.policy.fields import all_names

__all__ = ["schema_document"]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


@cache
def schema_document() -> bytes:
    """The schema as indented JSON; the same bytes for the same version.

    TOML's dates are texts of format ``date-time`` in it. What depends on two fields at
    once (lengths, names of a TEE) is checked by ``tightseal policy lint`` alone.
    """
    schema: dict[str, Any] = {"$schema": DIALECT, "title": "Tightseal policy document"}
    schema |= _portable(msgspec.json.schema(Document))
    definitions = schema["$defs"]
    image = definitions["ImageRules"]["properties"]
    image["measurements"]["propertyNames"] = {"enum": list(all_names())}
    image["events"]["propertyNames"] = {"enum": list(IDENTITY_EVENTS)}
    definitions["SelectorRules"]["oneOf"] = [
        {"required": names}
        for names in (["one_of"], ["mask", "expected"], ["minimum"], ["zero"])
    ]
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def _portable(value: Any) -> Any:
    """The form that any validator reads: ECMA's end of text in place of Python's.

    ``null`` as a type or default goes: TOML has none, and an absent key says it.
    """
    if isinstance(value, dict):
        return {
            name: _portable(item)
            for name, item in value.items()
            if not (name == "default" and item is None)
        }
    if isinstance(value, list | tuple):
        return [_portable(item) for item in value if item != {"type": "null"}]
    if isinstance(value, str) and value.endswith("\\Z"):
        return value.removesuffix("\\Z") + "$"
    return value
