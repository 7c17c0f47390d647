# SPDX-License-Identifier: Apache-2.0
"""Where a log's tiles are, by address: a folder, a database, a server."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tightseal.audit.checkpoint import Checkpoint
from tightseal.audit.log import LOG_ID_BYTES, log_origin
from tightseal.audit.note import parse_note
from tightseal.audit.tilefiles import FileTileStore
from tightseal.audit.tiles import CHECKPOINT_PATH, TileSource, TileStore
from tightseal.errors import Code, ServiceError, SettingsError
from tightseal.model.tls import TlsTrust
from tightseal.service.tilefetch import FetchBounds, HttpTileSource

if TYPE_CHECKING:
    from tightseal.service.tilerows import RowTileStore, StoredLog

__all__ = [
    "MAX_LOGS",
    "LogSummary",
    "is_database",
    "is_server",
    "listed_logs",
    "log_id_of",
    "reading",
    "row_store",
    "writing",
]

MAX_LOGS: Final = 10_000
"""Most logs of one folder that are listed."""

_DATABASES: Final = ("postgresql://", "postgres://")
_SERVERS: Final = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class LogSummary:
    """A log as its place lists it; nothing of it is checked.

    Attributes:
        place: folder or address, as ``reading`` takes it.
        origin: as its checkpoint says; empty where that cannot be read.
        size: entries, likewise.
        written: when the checkpoint was, by the place's clock, in Unix seconds.
        problem: why the checkpoint cannot be read; empty where it can.
    """

    place: str
    origin: str
    size: int
    written: int
    problem: str = ""

    @property
    def log_id(self) -> str:
        """The id, hex; empty where the origin is none of this program's."""
        try:
            return log_id_of(self.origin).hex()
        except SettingsError:
            return ""


def is_database(address: str) -> bool:
    """Whether tiles there are rows."""
    return address.startswith(_DATABASES)


def is_server(address: str) -> bool:
    """Whether tiles there are read over HTTP."""
    return address.startswith(_SERVERS)


def log_id_of(origin: str) -> bytes:
    """The id in an origin, 16 bytes.

    Raises:
        SettingsError: ``settings_invalid``, where it is no log of this program.
    """
    text = origin.rpartition("/")[2]
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != LOG_ID_BYTES or log_origin(found) != origin:
        detail = f"{origin!r} is no origin such as tightseal/v1/log/0123…"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return found


@contextmanager
def reading(
    address: str,
    origin: str,
    *,
    tls: TlsTrust = TlsTrust.PUBLIC_CA,
    bounds: FetchBounds | None = None,
) -> Iterator[TileSource]:
    """Open a log's tiles to be read.

    Args:
        address: a folder, ``postgresql://…``, or the ``http(s)://…`` below which the
            paths of C2SP tlog-tiles are.
        origin: of the log: a database has several.
        tls: for ``https``.
        bounds: of what is read over HTTP; of a database, how long it may take.

    Raises:
        SettingsError: ``settings_invalid``, where the address is none.
    """
    if is_server(address):
        with HttpTileSource(address, tls=tls, bounds=bounds) as source:
            yield source
        return
    if is_database(address):
        seconds = math.inf if bounds is None else bounds.seconds
        log_id = log_id_of(origin)
        with row_store(address, log_id, read_only=True, seconds=seconds) as rows:
            yield rows
        return
    yield FileTileStore(_folder(address))


@contextmanager
def writing(address: str, origin: str) -> Iterator[TileStore]:
    """Open a log's tiles to be published; held by nobody yet.

    Args:
        address: a folder, or ``postgresql://…``.
        origin: of the log.

    Raises:
        SettingsError: ``settings_invalid``, where it is another address.
    """
    if is_server(address):
        detail = f"{address}: what a server has can be read alone"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    if is_database(address):
        with row_store(address, log_id_of(origin)) as rows:
            yield rows
        return
    yield FileTileStore(_folder(address))


def row_store(
    dsn: str, log_id: bytes, *, read_only: bool = False, seconds: float = math.inf
) -> RowTileStore:
    """Rows of a database; arguments as of ``RowTileStore``.

    Raises:
        ServiceError: ``log_unreachable``, where the driver is missing;
            ``settings_invalid``.
    """
    # Late: the driver is an extra.
    try:
        from tightseal.service.tilerows import RowTileStore  # noqa: PLC0415
    except ImportError as e:
        raise _no_driver() from e
    return RowTileStore(dsn, log_id, read_only=read_only, seconds=seconds)


def listed_logs(address: str) -> tuple[LogSummary, ...]:
    """The logs of a database, or of the folders in a folder; nothing is checked.

    Raises:
        SettingsError: ``settings_invalid``, where the address is none, or a server's.
        ServiceError: ``log_missing``, where there is no such folder;
            ``log_unreachable``, ``log_tampered``, ``journal_failed``.
    """
    if is_server(address):
        detail = f"{address}: a server does not say which logs it has"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    if is_database(address):
        return tuple(_of_row(address, log) for log in _stored_logs(address))
    return tuple(_of_folders(_folder(address)))


def _stored_logs(address: str) -> tuple[StoredLog, ...]:
    try:
        from tightseal.service.tilerows import stored_logs  # noqa: PLC0415
    except ImportError as e:
        raise _no_driver() from e
    return stored_logs(address)


def _of_row(address: str, log: StoredLog) -> LogSummary:
    found = _summary(address, log.checkpoint, log.written)
    if not found.problem and found.origin != log_origin(log.log_id):
        problem = f"log {log.log_id.hex()}: the checkpoint is of {found.origin}"
        return LogSummary(found.place, "", 0, log.written, problem)
    return found


def _of_folders(root: Path) -> Iterator[LogSummary]:
    try:
        folders = [root, *sorted(p for p in root.iterdir() if p.is_dir())]
    except OSError as e:
        raise ServiceError(Code.LOG_MISSING, f"{root}: {e.strerror}") from e
    if len(folders) > MAX_LOGS:
        detail = f"{root}: over {MAX_LOGS} folders"
        raise ServiceError(Code.LOG_TAMPERED, detail)
    for folder in folders:
        data = FileTileStore(folder).read(CHECKPOINT_PATH)
        if data is None:
            continue
        try:
            written = int((folder / CHECKPOINT_PATH).stat().st_mtime)
        except OSError as e:
            detail = f"{folder}: {e.strerror}"
            raise ServiceError(Code.JOURNAL_FAILED, detail) from e
        yield _summary(str(folder), data, written)


def _summary(place: str, data: bytes, written: int) -> LogSummary:
    try:
        found = Checkpoint.parse(parse_note(data).text)
    except ServiceError as e:
        return LogSummary(place, "", 0, written, f"{e.code.value}: {e.detail}")
    return LogSummary(place, found.origin, found.size, written)


def _folder(address: str) -> Path:
    if "://" in address:
        scheme = address.partition("://")[0]
        detail = (
            f"{scheme}://…: expected a folder, postgresql://user@host/database, "
            "https://… or http://…"
        )
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return Path(address)


def _no_driver() -> ServiceError:
    detail = "tiles in PostgreSQL: pip install tightseal[postgres]"
    return ServiceError(Code.LOG_UNREACHABLE, detail)
