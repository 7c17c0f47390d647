# SPDX-License-Identifier: Apache-2.0
"""How one setting is described and bounded; the documentation prints it."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from tightseal.errors import Code, SettingsError

__all__ = ["Connections", "Seconds", "about", "require_no_password"]


def about(
    text: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    max_length: int | None = None,
) -> msgspec.Meta:
    """What a setting means, with its bounds as the decoder holds them."""
    given = {"ge": ge, "gt": gt, "le": le, "lt": lt, "max_length": max_length}
    bounds: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    return msgspec.Meta(description=text, **bounds)


Seconds = Annotated[float, msgspec.Meta(gt=0, le=600)]
Connections = Annotated[int, msgspec.Meta(ge=1, le=100_000)]


def require_no_password(address: str, *, setting: str) -> None:
    """Refuse a password in a database's address: settings are shown, copied and kept.

    Raises:
        SettingsError: ``settings_invalid``; the address is not in it.
    """
    try:
        parts = urlsplit(address)
        found = parts.password is not None or "password" in parse_qs(parts.query)
    except ValueError as e:
        detail = f"{setting} is not an address"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    if found:
        detail = f"{setting} has a password in it: put that into a password file, and"
        hint = "name the file: postgresql://user@host/database?passfile=/path"
        raise SettingsError(Code.SETTINGS_INVALID, f"{detail} {hint}")
