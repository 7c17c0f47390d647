# SPDX-License-Identifier: Apache-2.0
"""``tightseal config``: what the settings are, whether they can be used, a first file.

Settings are of two kinds, and every output marks them: *host* settings say where and
how the provider runs; *release* settings decide which key leaves, and their digest is
part of the provider's identity.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from tightseal.cli import ui
from tightseal.errors import Code, SettingsError
from tightseal.evidence.roots import simulated_root
from tightseal.service.hostfile import Source
from tightseal.service.load import (
    DEFAULT_CONFIG,
    Described,
    Loaded,
    SettingsFiles,
    describe,
    host_variables,
)
from tightseal.service.settings import Settings

__all__ = ["config_app", "initial_config"]

HOST_TITLE: Final = "host settings: where and how it runs; the host may change them"
RELEASE_TITLE: Final = "release settings: which key leaves; from measured files only"

ConfigFile = Annotated[Path | None, Parameter(name=["--config", "-c"])]
HostFile = Annotated[Path | None, Parameter(name=["--host-config"])]

config_app = App(
    name="config",
    help="Show, check or begin the settings file of a provider.",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)


@config_app.command
def show(
    *,
    config: ConfigFile = None,
    host_config: HostFile = None,
    as_json: Annotated[bool, Parameter("--json")] = False,
) -> int:
    """Print every setting of both kinds, and the digest of the release settings.

    With each value stands where it comes from: default, settings file, host file,
    environment; each overrides those before it.

    Args:
        config: the settings file; /etc/tightseal/tightseal.toml where it exists, else
            the defaults.
        host_config: the host file, as for ``tightseal serve``.
        as_json: one JSON document on stdout.
    """
    loaded = _load(config, host_config)
    settings = loaded.settings
    host, release = describe(settings)
    digest = settings.release.digest().hex()
    if as_json:
        ui.print_json(
            {
                "host": {name: value for name, value, _ in host},
                "release": {name: value for name, value, _ in release},
                "sources": {
                    "host": _sources("host", host, loaded),
                    "release": _sources("release", release, loaded),
                },
                "settings_digest": digest,
                "simulated": settings.simulated,
            }
        )
        return ui.EXIT_YES
    usual_host, usual_release = describe(Settings())
    ui.heading(f"[host]     {HOST_TITLE}")
    ui.facts(_rows(host, usual_host, _sources("host", host, loaded)))
    ui.heading(f"[release]  {RELEASE_TITLE}")
    ui.facts(_rows(release, usual_release, _sources("release", release, loaded)))
    ui.heading("identity")
    ui.facts([("settings_digest", digest)])
    _warn(settings)
    return ui.EXIT_YES


@config_app.command
def check(*, config: ConfigFile = None, host_config: HostFile = None) -> int:
    """Whether the settings can be used: 0 yes, 2 no, with the key at fault.

    Every setting that was given is printed with where it comes from.

    Args:
        config: the settings file.
        host_config: the host file, as for ``tightseal serve``.
    """
    loaded = _load(config, host_config)
    settings = loaded.settings
    for certificate in settings.release.simulated_root_certificates():
        simulated_root(certificate)
    ui.verdict("usable", settings.release.digest().hex(), tone="yes")
    for kind, described, usual in zip(
        ("host", "release"), describe(settings), describe(Settings()), strict=True
    ):
        sources = _sources(kind, described, loaded)
        rows = _rows(described, usual, sources)
        given = [
            row
            for row, source in zip(rows, sources.values(), strict=True)
            if source != Source.DEFAULT
        ]
        if given:
            ui.heading(f"[{kind}]")
            ui.facts(given)
    _warn(settings)
    return ui.EXIT_YES


@config_app.command
def init(
    *,
    out: Annotated[Path, Parameter(allow_leading_hyphen=True)] = DEFAULT_CONFIG,
) -> int:
    """Write a settings file with every setting, its meaning and its default.

    Args:
        out: the new file; never overwritten. - for stdout.
    """
    text = initial_config()
    if str(out) == "-":
        sys.stdout.write(text)
        return ui.EXIT_YES
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as e:
        detail = f"{out}: {e.strerror}; choose another file with --out"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    ui.verdict("written", str(out), tone="yes")
    return ui.EXIT_YES


def initial_config() -> str:
    """A settings file of defaults, every line of it a comment but the tables."""
    variables = {path: name for name, path in host_variables().items()}
    host, release = describe(Settings())
    lines = [
        "# Settings of a Tightseal provider. What is commented out is the default.",
        "",
        f"# {HOST_TITLE}.",
        "# The variable named above a setting overrides it.",
        *_section("host", host, variables),
        f"# {RELEASE_TITLE}.",
        "# Their digest is part of the provider's identity, and of every key: whoever",
        "# changes one gets other keys.",
        *_section("release", release, {}),
    ]
    return "\n".join(lines)


def _section(
    kind: str, settings: list[Described], variables: dict[tuple[str, ...], str]
) -> list[str]:
    lines: list[str] = [f"[{kind}]"]
    table = ""
    # A table's own settings come before its sub-tables, as TOML wants it.
    for path, value, meaning in sorted(settings, key=lambda s: "." in s[0]):
        above, _, name = path.rpartition(".")
        if above != table:
            table = above
            lines += ["", f"[{kind}.{above}]"]
        if meaning:
            lines.append(f"# {meaning}")
        variable = variables.get(tuple(path.split(".")))
        if variable:
            lines.append(f"# {variable}")
        lines.append(f"#{name} = {_toml(value)}")
    return [*lines, ""]


def _toml(value: Any) -> str:
    """A default as TOML; JSON's texts, numbers, booleans and lists are the same."""
    return json.dumps(value, ensure_ascii=True)


def _sources(kind: str, settings: list[Described], loaded: Loaded) -> dict[str, str]:
    return {name: loaded.source(f"{kind}.{name}").value for name, _, _ in settings}


def _rows(
    settings: list[Described], usual: list[Described], sources: dict[str, str]
) -> list[tuple[str, str]]:
    rows = []
    for (name, value, _), (_, default, _) in zip(settings, usual, strict=True):
        changed = "" if value == default else f"; default {_toml(default)}"
        told = f"{_toml(value)}   ({sources[name]}{changed})"
        rows.append((f"{name:<32}", told))
    return rows


def _load(config: Path | None, host_config: Path | None) -> Loaded:
    if config is None and DEFAULT_CONFIG.exists():
        config = DEFAULT_CONFIG
    if config is None:
        ui.note(f"no settings file ({DEFAULT_CONFIG}); these are the defaults")
    return SettingsFiles(config, host_config).load(os.environ)


def _warn(settings: Settings) -> None:
    if settings.simulated:
        ui.note("simulated roots are accepted: for development, not for production")
