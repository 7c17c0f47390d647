# SPDX-License-Identifier: Apache-2.0
"""What commands over published tiles share, and ``tightseal audit logs``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import parse_qs, urlsplit

from cyclopts import Parameter
from cyclopts.validators import Number

from tightseal.audit.tiles import TileSource, TileStore
from tightseal.cli import ui
from tightseal.errors import Code, SettingsError
from tightseal.model.tls import TlsTrust
from tightseal.service.tilefetch import MAX_READ_SECONDS, FetchBounds
from tightseal.service.tileplaces import (
    LogSummary,
    is_database,
    listed_logs,
    reading,
    writing,
)

__all__ = ["Fetch", "Progress", "Tiles", "logs", "read_tiles", "written_tiles"]

Tiles = Annotated[str, Parameter("--tiles")]

PROGRESS_SECONDS: Final = 5.0
"""Between two lines about work that takes long, in seconds."""


@Parameter(name="*")
@dataclass(frozen=True)
class Fetch:
    """How tiles of others are read.

    Attributes:
        tls: how a server's certificate is judged: by public CAs, or not at all
            (``exchange``). What is read is checked by the log's key either way.
        max_seconds: for the whole reading of a server or a database.
    """

    tls: TlsTrust = TlsTrust.PUBLIC_CA
    max_seconds: Annotated[
        int,
        Parameter("--max-seconds", validator=Number(gte=1, lte=MAX_READ_SECONDS)),
    ] = 3600


@contextmanager
def read_tiles(address: str, origin: str, fetch: Fetch) -> Iterator[TileSource]:
    """Open tiles that a command was pointed at, to be read.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    _require_no_password(address)
    bounds = FetchBounds(seconds=float(fetch.max_seconds))
    with reading(address, origin, tls=fetch.tls, bounds=bounds) as source:
        yield source


@contextmanager
def written_tiles(address: str, origin: str) -> Iterator[TileStore]:
    """The same, to be written.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    _require_no_password(address)
    with writing(address, origin) as store:
        yield store


@dataclass(slots=True)
class Progress:
    """Says on standard error how far a long reading is.

    Attributes:
        what: is done to entries, such as ``checked``.
        monotonic: seconds.
    """

    what: str
    monotonic: Callable[[], float] = time.monotonic
    _due: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        """Say nothing of what is done at once."""
        self._due = self.monotonic() + PROGRESS_SECONDS

    def at(self, count: int) -> None:
        """So many entries are done."""
        now = self.monotonic()
        if now >= self._due:
            self._due = now + PROGRESS_SECONDS
            ui.note(f"{count} entries {self.what} so far")


def logs(*, tiles: Tiles, as_json: Annotated[bool, Parameter("--json")] = False) -> int:
    """List the logs of a database or of a folder's folders: 0 some, 1 none.

    Nothing is checked: size and origin are what each checkpoint says, and the time is
    when it was written by the clock of whoever keeps it. ``tightseal audit verify``
    checks one of them.

    Args:
        tiles: folder that has logs or is one, or ``postgresql://user@host/database``.
        as_json: one JSON document on stdout.
    """
    _require_no_password(tiles)
    found = listed_logs(tiles)
    if as_json:
        ui.print_json({"logs": [_document(log) for log in found]})
    else:
        for log in found:
            ui.facts([(log.log_id or "?", _line(log))])
    if not found:
        ui.note(f"no log in {tiles}")
    return ui.EXIT_YES if found else ui.EXIT_NO


def _line(log: LogSummary) -> str:
    if log.problem:
        return f"{log.place}: {log.problem}"
    return f"{log.size} entries  {_time(log.written)}  {log.origin}  {log.place}"


def _document(log: LogSummary) -> dict[str, Any]:
    return {
        "id": log.log_id,
        "origin": log.origin,
        "size": log.size,
        "checkpoint_time": _time(log.written),
        "place": log.place,
        "problem": log.problem,
    }


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def _require_no_password(address: str) -> None:
    """Command lines are seen by everybody on the host.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    if not is_database(address):
        return
    try:
        parts = urlsplit(address)
        given = parts.password is not None or "password" in parse_qs(parts.query)
    except ValueError as e:
        detail = "--tiles: not an address of a database"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    if given:
        detail = (
            "--tiles: a password on the command line is seen by everybody on the "
            "host: use ?passfile=…, PGPASSFILE or PGPASSWORD"
        )
        raise SettingsError(Code.SETTINGS_INVALID, detail)
