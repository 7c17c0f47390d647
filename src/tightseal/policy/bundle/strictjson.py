# SPDX-License-Identifier: Apache-2.0
"""JSON that every reader reads alike: no key twice, no float, bounded depth."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

from tightseal.errors import Code, SettingsError

__all__ = ["MAX_INT_CHARS", "MAX_JSON_DEPTH", "decode_json"]

MAX_JSON_DEPTH: Final = 12
"""Deepest nesting; metadata of the known form needs seven levels."""

MAX_INT_CHARS: Final = 16
"""Longest integer: one of 53 bits."""


def decode_json(path: str, data: bytes) -> dict[str, Any]:
    """Decode a JSON object.

    Args:
        path: of the file, for errors.
        data: UTF-8; the caller has bounded its length.

    Raises:
        SettingsError: ``bundle_malformed``, also for keys given twice, floats, integers
            over ``MAX_INT_CHARS``, nesting over ``MAX_JSON_DEPTH``.
    """
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError) as e:
        raise _refused(path, f"not JSON as expected: {e}") from e
    _check_depth(path, value)
    if not isinstance(value, dict):
        raise _refused(path, "not a JSON object")
    return value


def _check_depth(path: str, value: object) -> None:
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise _refused(path, f"nested deeper than {MAX_JSON_DEPTH}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        message = "a key is given twice"
        raise ValueError(message)
    return found


def _integer(text: str) -> int:
    if len(text) > MAX_INT_CHARS:
        message = f"an integer of {len(text)} digits"
        raise ValueError(message)
    return int(text)


def _no_number(text: str) -> NoReturn:
    message = f"not an integer: {text[:32]}"
    raise ValueError(message)


def _refused(path: str, why: str) -> SettingsError:
    return SettingsError(Code.BUNDLE_MALFORMED, f"{path}: {why}")
