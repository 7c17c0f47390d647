# SPDX-License-Identifier: Apache-2.0
"""The door to the platforms: a kind and its options in, a platform out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from tightseal.errors import Code, SettingsError
from tightseal.model.ports import RootPlatform
from tightseal.platform.configfs import ConfigfsTsm, TsmProvider
from tightseal.platform.gramine import GraminePlatform
from tightseal.platform.sev_guest import DerivedKey, GuestField, SevGuestPlatform

__all__ = ["ENTRY_POINT_GROUP", "PLATFORM_KINDS", "open_platform"]

ENTRY_POINT_GROUP: Final = "tightseal.platforms"
"""Where an installed simulated world announces itself, under the name ``sim``."""

_Options: TypeAlias = Mapping[str, Any]


def open_platform(kind: str, options: Mapping[str, Any] | None = None) -> RootPlatform:
    """Open a platform; nothing of the hardware is touched yet.

    Args:
        kind: ``gramine``, ``configfs-tsm``, ``sev-guest`` or ``sim``. The first three
            are here; ``sim`` exists only where the simulated world is installed, and
            nothing of it is imported otherwise.
        options: of the kind. ``gramine``: ``root``. ``configfs-tsm``: ``root``,
            ``provider``, ``privlevel``. ``sev-guest``: ``root``, ``device``, ``vmpl``,
            ``fields`` (names of guest fields). ``sim``: the simulated world's own.

    Raises:
        SettingsError: ``settings_invalid``: no such kind, option or value.
    """
    opener = _OPENERS.get(kind)
    if opener is None:
        raise _invalid(f"platform {kind!r}, expected one of {', '.join(_OPENERS)}")
    return opener(options or {})


def _gramine(options: _Options) -> RootPlatform:
    _only(options, "gramine", {"root"})
    return GraminePlatform(_path(options, "root", "/dev/attestation"))


def _configfs(options: _Options) -> RootPlatform:
    _only(options, "configfs-tsm", {"root", "provider", "privlevel"})
    provider = options.get("provider")
    try:
        wanted = None if provider is None else TsmProvider(provider)
    except ValueError as e:
        expected = [p.value for p in TsmProvider]
        raise _invalid(f"provider {provider!r}, expected one of {expected}") from e
    return ConfigfsTsm(
        _path(options, "root", "/sys/kernel/config/tsm/report"),
        provider=wanted,
        privlevel=_whole(options, "privlevel", None),
    )


def _sev_guest(options: _Options) -> RootPlatform:
    _only(options, "sev-guest", {"root", "device", "vmpl", "fields"})
    vmpl = _whole(options, "vmpl", 0) or 0
    key = DerivedKey(fields=_guest_fields(options), vmpl=vmpl)
    reports = ConfigfsTsm(
        _path(options, "root", "/sys/kernel/config/tsm/report"),
        provider=TsmProvider.SNP,
        privlevel=vmpl,
    )
    device = _path(options, "device", "/dev/sev-guest")
    return SevGuestPlatform(reports, key=key, device=device)


def _sim(options: _Options) -> RootPlatform:
    found = tuple(entry_points(group=ENTRY_POINT_GROUP, name="sim"))
    if len(found) != 1:
        detail = f"platform 'sim': {len(found)} installed, expected 1 (tightseal[sim])"
        raise _invalid(detail)
    opener = cast("Callable[[_Options], RootPlatform]", found[0].load())
    return opener(options)


_OPENERS: Final[Mapping[str, Callable[[_Options], RootPlatform]]] = {
    "gramine": _gramine,
    "configfs-tsm": _configfs,
    "sev-guest": _sev_guest,
    "sim": _sim,
}

PLATFORM_KINDS: Final = tuple(_OPENERS)
"""Every kind that ``open_platform`` knows."""


def _only(options: _Options, kind: str, known: set[str]) -> None:
    unknown = sorted(set(options) - known)
    if unknown:
        raise _invalid(f"{kind}: unknown options {unknown}, expected {sorted(known)}")


def _path(options: _Options, name: str, default: str) -> Path:
    value = options.get(name, default)
    if not isinstance(value, str | Path) or not Path(value).is_absolute():
        raise _invalid(f"{name} {value!r}, expected an absolute path")
    return Path(value)


def _whole(options: _Options, name: str, default: int | None) -> int | None:
    value = options.get(name, default)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise _invalid(f"{name} {value!r}, expected a whole number")
    return value


def _guest_fields(options: _Options) -> GuestField:
    names = options.get("fields", ["measurement", "policy"])
    if isinstance(names, str):
        names = names.split(",")
    known = {f.name.lower(): f for f in GuestField if f.name is not None}
    listed = isinstance(names, list | tuple)
    if not listed or not all(isinstance(n, str) and n in known for n in names):
        raise _invalid(f"fields {names!r}, expected names of {sorted(known)}")
    fields = GuestField(0)
    for name in names:
        fields |= known[name]
    return fields


def _invalid(detail: str) -> SettingsError:
    return SettingsError(Code.SETTINGS_INVALID, detail)
