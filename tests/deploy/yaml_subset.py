# SPDX-License-Identifier: Apache-2.0
"""The part of YAML that our files use, and nothing else; the rest is a defect.

Block mappings and sequences by two spaces, plain and double-quoted scalars, and flow
sequences of those on one line. Plain scalars that YAML would take for something else
than the text (``yes``, ``null``, ``1e3``, a colon with a space) are refused or typed.
"""

import json
import re
from typing import Any

_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_./-]*):(?: (.*))?")
_PLAIN = re.compile(r"[A-Za-z0-9/._$<(~+-].*")
_AMBIGUOUS = frozenset(
    {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"}
)


class YamlError(Exception):
    """What is wrong, and in which line."""


def load(text: str) -> Any:
    """The one document of a file.

    Raises:
        YamlError: it is not of the subset.
    """
    lines = [
        (number, len(line) - len(line.lstrip(" ")), line.strip(" "))
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    for number, indent, line in lines:
        if indent % 2 or "\t" in line:
            raise YamlError(f"line {number}: indentation")
    if not lines:
        raise YamlError("empty")
    value, at = _block(lines, 0, lines[0][1])
    if at != len(lines):
        raise YamlError(f"line {lines[at][0]}: left over")
    return value


def _block(lines: list[tuple[int, int, str]], at: int, indent: int) -> tuple[Any, int]:
    if lines[at][2].startswith("- "):
        return _sequence(lines, at, indent)
    return _mapping(lines, at, indent)


def _sequence(
    lines: list[tuple[int, int, str]], at: int, indent: int
) -> tuple[list[Any], int]:
    found: list[Any] = []
    while at < len(lines) and lines[at][1] == indent and lines[at][2].startswith("- "):
        number, _, line = lines[at]
        rest = line[2:]
        if _KEY.fullmatch(rest) and not rest.startswith('"'):
            lines[at] = (number, indent + 2, rest)
            value, at = _mapping(lines, at, indent + 2)
        else:
            value, at = _scalar(rest, number), at + 1
        found.append(value)
    return found, at


def _mapping(
    lines: list[tuple[int, int, str]], at: int, indent: int
) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while at < len(lines) and lines[at][1] == indent:
        number, _, line = lines[at]
        key = _KEY.fullmatch(line)
        if key is None:
            break
        name, rest = key.group(1), key.group(2)
        if name in found:
            raise YamlError(f"line {number}: {name} twice")
        at += 1
        if rest:
            found[name] = _scalar(rest, number)
        elif at < len(lines) and lines[at][1] == indent + 2:
            found[name], at = _block(lines, at, indent + 2)
        else:
            found[name] = None
    if at < len(lines) and lines[at][1] > indent:
        raise YamlError(f"line {lines[at][0]}: too deep")
    if not found:
        raise YamlError(f"line {lines[at][0]}: neither a key nor an item")
    return found, at


def _scalar(text: str, number: int) -> Any:
    try:
        if text.startswith(('"', "[")):
            return json.loads(text)
    except ValueError as e:
        raise YamlError(f"line {number}: {text}") from e
    if text in {"true", "false"}:
        return text == "true"
    if re.fullmatch(r"0|-?[1-9][0-9]*", text):
        return int(text)
    ambiguous = text.lower() in _AMBIGUOUS or re.fullmatch(r"[-+.0-9eE_:]+", text)
    odd = any(mark in text for mark in (": ", " #"))
    if odd or ambiguous or not _PLAIN.fullmatch(text) or text.endswith(":"):
        raise YamlError(f"line {number}: quote {text!r}")
    return text
