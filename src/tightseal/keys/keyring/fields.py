# SPDX-License-Identifier: Apache-2.0
"""Strict reading of fields: one type, one range, nothing unknown, nothing missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from tightseal.keys.keyring.faults import malformed
from tightseal.model.canonical import Value

__all__ = [
    "MAX_TIME",
    "elements",
    "instant",
    "maybe_instant",
    "members",
    "octets",
    "text",
    "whole",
]

MAX_TIME: Final = 1 << 40
"""Latest time, in Unix seconds."""


def members(value: Value, names: frozenset[str], what: str) -> Mapping[str, Value]:
    """A map with exactly these keys."""
    if not isinstance(value, Mapping):
        raise malformed(f"{what}: expected a map")
    if value.keys() != names:
        odd = ", ".join(sorted(value.keys() ^ names))
        raise malformed(f"{what}: missing or unknown: {odd}")
    return value


def elements(value: Value, most: int, what: str) -> Sequence[Value]:
    """An array of at most ``most`` elements."""
    if not isinstance(value, list | tuple):
        raise malformed(f"{what}: expected an array")
    if len(value) > most:
        raise malformed(f"{what}: {len(value)}, at most {most}")
    return value


def whole(value: Value, low: int, high: int, what: str) -> int:
    """A whole number from ``low`` to ``high``."""
    if type(value) is not int or not low <= value <= high:
        raise malformed(f"{what}: expected a whole number from {low} to {high}")
    return value


def instant(value: Value, what: str) -> int:
    """Unix seconds."""
    return whole(value, 0, MAX_TIME, what)


def maybe_instant(value: Value, what: str) -> int | None:
    """Unix seconds, or ``None``."""
    return None if value is None else instant(value, what)


def octets(value: Value, size: int, what: str) -> bytes:
    """Bytes of exactly this length."""
    if not isinstance(value, bytes) or len(value) != size:
        raise malformed(f"{what}: expected {size} bytes")
    return value


def text(value: Value, form: re.Pattern[str], what: str) -> str:
    """Text of a form."""
    if not isinstance(value, str) or form.fullmatch(value) is None:
        raise malformed(f"{what}: expected text of the form {form.pattern}")
    return value
