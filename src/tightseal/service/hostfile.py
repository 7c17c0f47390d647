# SPDX-License-Identifier: Apache-2.0
"""The host file: host settings apart from the measured settings file.

Where the settings file is measured, a change of a port is another provider with other
keys. So what a host may well change can stand in a second file, which nobody measures:
the table ``[host]`` alone. Whoever writes it is the adversary, so it can do no more
than a host can do anyway: withhold, delay, choose among signed collateral. It names
neither the platform nor any place where the provider keeps or reads what is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, TypeAlias

from tightseal.errors import Code, SettingsError

__all__ = ["NOT_IN_HOST_FILE", "Source", "given", "host_table", "overlay"]

Tree: TypeAlias = dict[str, Any]

NOT_IN_HOST_FILE: Final[Mapping[tuple[str, ...], str]] = {
    ("platform",): "it names the place where the root of all keys is read",
    ("state_dir",): "another folder may be one that the host can read and edit",
    ("state",): "a fresh or foreign state forgets what was counted",
    ("keyring", "path"): "it names the place where the roots of all keys lie",
    ("keyring", "create"): "a keyring is made where the settings file says so",
    ("keyring", "passphrase_file"): "files would be read where the host points",
    ("keyring", "tpm"): "it says what a second factor is bound to",
    ("keyring", "join", "invitation"): "files would be read where the host points",
    ("tls", "certificate"): "files would be read where the host points",
    ("tls", "key"): "files would be read where the host points",
    ("policy_bundle",): "files would be read where the host points",
    ("log_tiles",): "files would be written where the host points",
    ("collateral", "cache_dir"): "files would be written where the host points",
    ("collateral", "bundle"): "files would be read where the host points",
}
"""Host settings that only the settings file may hold, and why."""


class Source(StrEnum):
    """Where a setting's value comes from; each overrides those before it."""

    DEFAULT = "default"
    SETTINGS_FILE = "settings file"
    HOST_FILE = "host file"
    ENVIRONMENT = "environment"


def host_table(tree: Tree) -> Tree:
    """The ``[host]`` table of a host file.

    Raises:
        SettingsError: ``settings_invalid``: another table, or a setting that only the
            settings file may hold.
    """
    if "release" in tree:
        detail = (
            "release: a host file holds host settings alone; what decides about keys "
            "stands in the settings file, which is measured"
        )
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    if unknown := sorted(set(tree) - {"host"}):
        detail = f"{', '.join(unknown)}: a host file holds the table [host] alone"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    table = tree.get("host", {})
    if not isinstance(table, dict):
        raise SettingsError(Code.SETTINGS_INVALID, "host: expected a table")
    present = set(given(table, whole_tables=True))
    for path, why in NOT_IN_HOST_FILE.items():
        if path in present:
            name = ".".join(("host", *path))
            detail = f"{name}: only the settings file may hold it: {why}"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
    return table


def overlay(below: Tree, above: Tree) -> Tree:
    """Both tables in one; where both have a setting, the one above counts."""
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        nested = isinstance(old, dict) and isinstance(value, dict)
        merged[name] = overlay(old or {}, value) if nested else value
    return merged


def given(
    table: Mapping[str, Any],
    above: tuple[str, ...] = (),
    *,
    whole_tables: bool = False,
) -> Iterator[tuple[str, ...]]:
    """The path of every setting in a table; on request those of its tables too."""
    for name, value in table.items():
        path = (*above, name)
        nested = isinstance(value, Mapping)
        if nested:
            yield from given(value, path, whole_tables=whole_tables)
        if whole_tables or not nested:
            yield path
