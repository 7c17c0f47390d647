# SPDX-License-Identifier: Apache-2.0
"""From TOML files and the environment to settings, with errors that name the key.

Each of these overrides those before it: defaults, the settings file, the host file
(:mod:`tightseal.service.hostfile`), the environment.

Only host settings can be overridden by the environment: ``TIGHTSEAL_HOST_`` and the
setting's path in capitals, such as ``TIGHTSEAL_HOST_LISTEN`` or
``TIGHTSEAL_HOST_LOG_LEVEL``. A list is given with commas. A variable of that form that
names no such setting is refused, and so is any ``TIGHTSEAL_RELEASE_`` variable: what
decides about keys never comes from the environment. Nor do ``[host.platform]`` and
``[host.keyring]``: they name the places where the roots of all keys are read, and a
file that is measured as a whole must not be undone by a variable that is not.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args, get_origin

import msgspec

from tightseal.errors import Code, SettingsError
from tightseal.model.settings import ReleaseSettings
from tightseal.service.hostfile import Source, given, host_table, overlay
from tightseal.service.settings import HostSettings, Settings

__all__ = [
    "DEFAULT_CONFIG",
    "MAX_CONFIG_BYTES",
    "Described",
    "Loaded",
    "SettingsFiles",
    "describe",
    "host_variables",
    "load_settings",
    "parse_settings",
]

DEFAULT_CONFIG: Final = Path("/etc/tightseal/tightseal.toml")
MAX_CONFIG_BYTES: Final = 1 << 20
HOST_PREFIX: Final = "TIGHTSEAL_HOST_"
RELEASE_PREFIX: Final = "TIGHTSEAL_RELEASE_"
FILE_ONLY: Final = frozenset({"keyring", "platform"})

Described: TypeAlias = tuple[str, Any, str]
"""A setting's dotted path, its value, and what it is."""

_Tree: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where each value comes from.

    Attributes:
        settings: both kinds.
        sources: by dotted path, such as ``host.log.level``; what is not named here is
            a default.
    """

    settings: Settings
    sources: Mapping[str, Source]

    def source(self, path: str) -> Source:
        """Where the value of a setting comes from."""
        return self.sources.get(path, Source.DEFAULT)


@dataclass(frozen=True, slots=True)
class SettingsFiles:
    """The files that settings are read from.

    Attributes:
        config: the settings file; ``None`` means defaults alone.
        host: the host file; ``None`` where there is none.
    """

    config: Path | None
    host: Path | None = None

    def load(self, environment: Mapping[str, str]) -> Loaded:
        """Read both files, then lay host overrides of the environment over them.

        Raises:
            SettingsError: ``settings_invalid``, naming file and key.
        """
        tree: _Tree = {}
        if self.config is not None:
            tree = _in_file(self.config, lambda text: _checked(_toml(text)))
        host: _Tree = {}
        if self.host is not None:
            host = _in_file(self.host, lambda text: _checked_host(_toml(text)))
        return _layered(tree, host, environment)


def load_settings(
    path: Path | None,
    *,
    host_path: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings; see :class:`SettingsFiles`.

    Args:
        path: the settings file; ``None`` means defaults alone.
        host_path: the host file, if any.
        environment: variables to look at; none where omitted.

    Raises:
        SettingsError: ``settings_invalid``, naming file and key.
    """
    return SettingsFiles(path, host_path).load(environment or {}).settings


def parse_settings(
    text: str, *, host_text: str = "", environment: Mapping[str, str]
) -> Settings:
    """Decode settings from the text of the files and host overrides.

    Raises:
        SettingsError: ``settings_invalid``, naming the key.
    """
    tree, host = _checked(_toml(text)), _checked_host(_toml(host_text))
    return _layered(tree, host, environment).settings


def _checked(tree: _Tree) -> _Tree:
    """A settings file must be right by itself, whatever overrides it."""
    _convert(tree, Settings, prefix="")
    return tree


def _checked_host(tree: _Tree) -> _Tree:
    table = host_table(tree)
    _convert(table, HostSettings, prefix="host")
    return table


def _layered(tree: _Tree, table: _Tree, environment: Mapping[str, str]) -> Loaded:
    host = overlay(tree.get("host", {}), table)
    sources = {
        (kind, *p): Source.SETTINGS_FILE for kind in tree for p in given(tree[kind])
    }
    sources |= {("host", *path): Source.HOST_FILE for path in given(table)}
    for name, value in sorted(environment.items()):
        path = _override(host, name, value)
        if path is not None:
            sources["host", *path] = Source.ENVIRONMENT
    settings = Settings(
        host=_convert(host, HostSettings, prefix="host"),
        release=_convert(tree.get("release", {}), ReleaseSettings, prefix="release"),
    )
    return Loaded(settings, {".".join(path): s for path, s in sources.items()})


def host_variables() -> dict[str, tuple[str, ...]]:
    """Every environment variable that overrides a host setting, with its path."""
    return {
        HOST_PREFIX + "_".join(path).upper(): path
        for path, _ in _leaves(HostSettings)
        if path[0] not in FILE_ONLY
    }


def describe(settings: Settings) -> tuple[list[Described], list[Described]]:
    """Every host setting and every release setting with value and meaning."""
    host = [
        (".".join(path), _value_at(settings.host, path), _meaning(field))
        for path, field in _leaves(HostSettings)
    ]
    release = [
        (".".join(path), _value_at(settings.release, path), _documented(path, field))
        for path, field in _leaves(ReleaseSettings)
    ]
    return host, release


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            detail = f"{path}: longer than {MAX_CONFIG_BYTES} bytes"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        return data.decode()
    except OSError as e:
        detail = f"{path}: {e.strerror}; make one with: tightseal config init"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    except UnicodeDecodeError as e:
        detail = f"{path}: not UTF-8 at byte {e.start}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e


def _in_file(path: Path, decode: Callable[[str], _Tree]) -> _Tree:
    text = _read(path)
    try:
        return decode(text)
    except SettingsError as e:
        raise SettingsError(Code.SETTINGS_INVALID, f"{path}: {e.detail}") from e


def _toml(text: str) -> _Tree:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        raise SettingsError(Code.SETTINGS_INVALID, f"not TOML: {e}") from e


def _convert(tree: _Tree, kind: type[Any], *, prefix: str) -> Any:
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as e:
        raise SettingsError(Code.SETTINGS_INVALID, _name_key(e, prefix)) from e


def _name_key(error: msgspec.ValidationError, prefix: str) -> str:
    """Put the key before the complaint: ``host.workers: Expected `int`...``."""
    if isinstance(error.__cause__, SettingsError):
        return error.__cause__.detail
    text, _, at = str(error).partition(" - at `$")
    path = at.removesuffix("`").removeprefix(".")
    key = ".".join(part for part in (prefix, path) if part)
    return f"{key}: {text}" if key else text


def _override(host: _Tree, name: str, value: str) -> tuple[str, ...] | None:
    """Put one variable's value into the tree; gives the path of its setting."""
    if name.startswith(RELEASE_PREFIX):
        detail = f"{name}: release settings never come from the environment"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    if not name.startswith(HOST_PREFIX):
        return None
    path = host_variables().get(name)
    if path is None:
        raise SettingsError(
            Code.SETTINGS_INVALID, f"{name}: no host setting of that name"
        )
    field = dict(_leaves(HostSettings))[path]
    items = [v.strip() for v in value.split(",") if v.strip()]
    try:
        converted = msgspec.convert(
            items if _is_list(field.type) else value, field.type, strict=False
        )
    except msgspec.ValidationError as e:
        raise SettingsError(Code.SETTINGS_INVALID, f"{name}: {e}") from e
    branch = host
    for part in path[:-1]:
        branch[part] = dict(branch.get(part, {}))
        branch = branch[part]
    branch[path[-1]] = msgspec.to_builtins(converted)
    return path


def _leaves(
    kind: type[msgspec.Struct], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], msgspec.structs.FieldInfo]]:
    for field in msgspec.structs.fields(kind):
        here = (*above, field.name)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from _leaves(field.type, here)
        else:
            yield here, field


def _value_at(settings: msgspec.Struct, path: tuple[str, ...]) -> Any:
    value: Any = settings
    for part in path:
        value = getattr(value, part)
    return msgspec.to_builtins(value)


def _meaning(field: msgspec.structs.FieldInfo) -> str:
    for meta in getattr(field.type, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.description:
            return meta.description
    return ""


def _documented(path: tuple[str, ...], field: msgspec.structs.FieldInfo) -> str:
    """What a release setting may be, or what its class's docstring says of it."""
    if isinstance(field.type, type) and issubclass(field.type, Enum):
        return "one of " + ", ".join(str(member.value) for member in field.type)
    holder: type[Any] = ReleaseSettings
    for part in path[:-1]:
        fields = {f.name: f.type for f in msgspec.structs.fields(holder)}
        holder = fields[part]
    lines = inspect.cleandoc(holder.__doc__ or "").splitlines()
    found: list[str] = []
    for line in lines[lines.index("Attributes:") + 1 :]:
        deeper = line.startswith(" " * 5)
        names, colon, text = line.strip().partition(": ")
        if found and not deeper:
            break
        if found:
            found.append(line.strip())
        elif colon and not deeper and path[-1] in names.split(", "):
            found.append(text)
    return " ".join(found).replace("``", "").removesuffix(".")


def _is_list(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is None:
        return annotation is tuple
    if origin is tuple:
        return True
    args = get_args(annotation)
    return bool(args) and hasattr(annotation, "__metadata__") and _is_list(args[0])
