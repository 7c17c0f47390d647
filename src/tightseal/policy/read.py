# SPDX-License-Identifier: Apache-2.0
"""Text to document, with errors that point at line, column and field."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from tightseal.errors import Code, SettingsError
from tightseal.policy.document import Document
from tightseal.policy.locate import Path, Position, positions, show_path

__all__ = [
    "MAX_DOCUMENT_CHARS",
    "MAX_PATH_PARTS",
    "FieldFault",
    "Parsed",
    "Text",
    "parse",
    "parse_as",
]

MAX_DOCUMENT_CHARS: Final = 8 << 20
"""Longest document; more workloads than fit come in several."""

MAX_PATH_PARTS: Final = 16
"""Deepest field that an error names."""

_AT: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?\Z", re.DOTALL)
_PART: Final = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]|\[(\.\.\.)\]")
_UNKNOWN: Final = re.compile(r"unknown field `(.+)`")
_TOML_AT: Final = re.compile(r"\(at line (\d+), column (\d+)\)")

_T = TypeVar("_T")


class FieldFault(Exception):  # noqa: N818 (caught at once and told as a SettingsError)
    """A field that the types allow and the rules do not.

    Attributes:
        path: the field.
        message: what was expected and what came.
    """

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


@dataclass(frozen=True)
class Text:
    """A TOML text with its name, for errors."""

    name: str
    text: str

    @cached_property
    def found(self) -> Mapping[Path, Position]:
        """Where everything stands; found out when first needed."""
        return positions(self.text)

    def position(self, path: Path) -> Position | None:
        """Where a field stands, or the nearest table around it."""
        for cut in range(len(path), 0, -1):
            if (found := self.found.get(path[:cut])) is not None:
                return found
        return None

    def where(self, path: Path) -> str:
        """``name:line:column`` of a field; ``name`` alone for the document itself."""
        at = self.position(path)
        return self.name if at is None else f"{self.name}:{at.line}:{at.column}"

    def refuse(self, path: Path, message: str) -> NoReturn:
        """Raise ``policy_invalid``, pointing at a field."""
        field = f"{show_path(path)}: " if path else ""
        detail = f"{self.where(path)}: {field}{message}"
        raise SettingsError(Code.POLICY_INVALID, detail)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document with the text that it was read from."""

    source: Text
    document: Document


def parse(text: str, *, name: str = "policy") -> Parsed:
    """Read one policy document.

    Args:
        text: TOML.
        name: of the file, for errors.

    Raises:
        SettingsError: ``policy_invalid``, with ``name:line:column`` and the field.
    """
    return Parsed(Text(name, text), parse_as(Document, text, name=name))


def parse_as(kind: type[_T], text: str, *, name: str) -> _T:
    """Read a TOML text into a typed value; unknown keys are refused.

    Raises:
        SettingsError: ``policy_invalid``, with ``name:line:column`` and the field.
    """
    source = Text(name, text)
    if len(text) > MAX_DOCUMENT_CHARS:
        source.refuse((), f"longer than {MAX_DOCUMENT_CHARS} characters")
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as e:
        _refuse_toml(source, e)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as e:
        path, message = _told(str(e), raw, kind)
    except (RecursionError, OverflowError, ValueError) as e:
        path, message = (), f"cannot be read: {type(e).__name__}"
    return source.refuse(path, message)


def _refuse_toml(source: Text, error: Exception) -> NoReturn:
    message = str(error) if isinstance(error, ValueError) else type(error).__name__
    at = _TOML_AT.search(message)
    where = f"{source.name}:{at[1]}:{at[2]}" if at else source.name
    what = _TOML_AT.sub("", message).strip()
    raise SettingsError(Code.POLICY_INVALID, f"{where}: not TOML: {what}") from error


def _told(message: str, raw: Any, kind: type[Any]) -> tuple[Path, str]:
    """The field and the text of a msgspec error."""
    match = _AT.match(message)
    if match is None:
        return (), message
    what, path = match["what"], _path(match["path"] or "", raw, kind)
    unknown = _UNKNOWN.search(what)
    if unknown:
        return (*path, unknown[1]), "unknown key"
    return path, f"{what[0].lower()}{what[1:]}"


def _path(text: str, raw: Any, kind: type[Any]) -> Path:
    """The path told; for a map's value, which it does not name, the one at fault."""
    path: Path = ()
    value = raw
    for part in list(_PART.finditer(text))[:MAX_PATH_PARTS]:
        name, index, hidden = part.groups()
        key: str | int | None
        if hidden:
            key = _hidden_key(raw, path, value, kind)
        else:
            key = int(index) if index is not None else name
        if key is None:
            return path
        path = (*path, key)
        value = _child(value, key)
    return path


def _child(value: Any, key: str | int) -> Any:
    if isinstance(value, Mapping) and key in value:
        return value[key]
    if isinstance(value, Sequence) and isinstance(key, int) and key < len(value):
        return value[key]
    return None


def _hidden_key(raw: Any, path: Path, value: Any, kind: type[Any]) -> str | None:
    """The key of a map whose value is refused: the one without which less is refused.

    Each key is judged alone, with its neighbours taken out.
    """
    if not isinstance(value, Mapping):
        return None
    for key in value:
        alone = _replaced(raw, path, {key: value[key]})
        try:
            msgspec.convert(alone, kind)
        except msgspec.ValidationError as e:
            match = _AT.match(str(e))
            if match is not None and "[...]" in (match["path"] or ""):
                return str(key)
    return None


def _replaced(value: Any, path: Path, new: Any) -> Any:
    """A copy along ``path`` with another value at its end."""
    if not path:
        return new
    head, rest = path[0], path[1:]
    if isinstance(value, list) and isinstance(head, int):
        # The items before were accepted, and those after are not at fault.
        return [*value[:head], _replaced(value[head], rest, new)]
    if isinstance(value, dict):
        return {**value, head: _replaced(value[head], rest, new)}
    return value
