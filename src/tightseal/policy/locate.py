# SPDX-License-Identifier: Apache-2.0
"""Where in a TOML text a value stands.

``tomllib`` gives values without positions. This walks text that ``tomllib`` has already
accepted, so it needs to know no more of the grammar (TOML v1.0.0) than where keys and
values begin; it decides nothing, it only helps an error to point.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["Path", "Position", "positions", "show_path"]

Path: TypeAlias = tuple[str | int, ...]
"""Keys and indices from the top of a document, such as ``("workload", 0, "name")``."""

_SPACE: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK: Final = re.compile(r"[ \t]*")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|'
    r"'''.*?'{3,5}|"
    r'"(?:[^"\\\n]|\\.)*"|'
    r"'[^'\n]*'",
    re.DOTALL,
)
_SCALAR: Final = re.compile(r"[^,\]}#\r\n]+")
_ESCAPE: Final = re.compile(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)")
_ESCAPES: Final = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


@dataclass(frozen=True, slots=True)
class Position:
    """Line and column, both from 1."""

    line: int
    column: int


def show_path(path: Path) -> str:
    """A path for people: ``workload[0].image[1].label``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def positions(text: str) -> dict[Path, Position]:
    """The position of every table, key and list item of a TOML text.

    A key's position is that of the key, a list item's that of its value, a table's that
    of its header. Text that is not TOML gives as many as were found before the fault.
    """
    walker = _Walker(text.replace("\r\n", "\n"))
    with suppress(_LostError, RecursionError):
        walker.document()
    return walker.found_positions()


class _LostError(Exception):
    """The text is not what ``tomllib`` would have accepted."""


class _Walker:
    """One pass over a text; offsets first, lines and columns at the end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.offsets: dict[Path, int] = {}
        self.counts: dict[Path, int] = {}

    def found_positions(self) -> dict[Path, Position]:
        found: dict[Path, Position] = {}
        line, start = 1, 0
        for path, offset in sorted(self.offsets.items(), key=lambda item: item[1]):
            line += self.text.count("\n", start, offset)
            start = max(start, offset)
            column = offset - (self.text.rfind("\n", 0, offset) + 1) + 1
            found[path] = Position(line, column)
        return found

    def skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        if match is not None:
            self.at = match.end()

    def take(self, expected: str) -> bool:
        if self.text.startswith(expected, self.at):
            self.at += len(expected)
            return True
        return False

    def need(self, expected: str) -> None:
        if not self.take(expected):
            raise _LostError

    def document(self) -> None:
        prefix: Path = ()
        while True:
            self.skip(_SPACE)
            if self.at >= len(self.text):
                return
            start = self.at
            if self.take("[["):
                prefix = self.header(start, "]]")
            elif self.take("["):
                prefix = self.header(start, "]")
            else:
                self.pair(prefix)

    def header(self, start: int, end: str) -> Path:
        """A table's header; its path goes into the last item of lists on the way."""
        keys = self.key()
        self.need(end)
        path = self.into((), keys if end == "]" else keys[:-1])
        if end == "]]":
            listed = (*path, keys[-1])
            index = self.counts.get(listed, 0)
            self.counts[listed] = index + 1
            self.offsets.setdefault(listed, start)
            path = (*listed, index)
        self.offsets.setdefault(path, start)
        return path

    def into(self, path: Path, keys: tuple[str, ...]) -> Path:
        for key in keys:
            path = (*path, key)
            if path in self.counts:
                path = (*path, self.counts[path] - 1)
        return path

    def pair(self, prefix: Path) -> None:
        start = self.at
        keys = self.key()
        path = prefix
        for key in keys:
            path = (*path, key)
            self.offsets.setdefault(path, start)
        self.need("=")
        self.skip(_BLANK)
        self.value(path)

    def key(self) -> tuple[str, ...]:
        keys: list[str] = []
        while True:
            self.skip(_BLANK)
            match = _BARE.match(self.text, self.at) or _STRING.match(self.text, self.at)
            if match is None:
                raise _LostError
            self.at = match.end()
            keys.append(_plain(match.group()))
            self.skip(_BLANK)
            if not self.take("."):
                return tuple(keys)

    def value(self, path: Path) -> None:
        if self.take("["):
            self.items(path)
        elif self.take("{"):
            self.inline(path)
        else:
            match = _STRING.match(self.text, self.at) or _SCALAR.match(
                self.text, self.at
            )
            if match is None:
                raise _LostError
            self.at = match.end()

    def items(self, path: Path) -> None:
        index = 0
        while True:
            self.skip(_SPACE)
            if self.take("]"):
                return
            self.offsets[(*path, index)] = self.at
            self.value((*path, index))
            index += 1
            self.skip(_SPACE)
            self.take(",")

    def inline(self, path: Path) -> None:
        while True:
            self.skip(_SPACE)
            if self.take("}"):
                return
            self.pair(path)
            self.skip(_SPACE)
            self.take(",")


def _plain(key: str) -> str:
    """A key without its quotes."""
    if key.startswith("'"):
        return key[1:-1]
    if not key.startswith('"'):
        return key
    return _ESCAPE.sub(_unescaped, key[1:-1])


def _unescaped(match: re.Match[str]) -> str:
    code = match.group(1)
    if code[0] in "uU":
        return chr(int(code[1:], 16))
    return _ESCAPES.get(code, code)
