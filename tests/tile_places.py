# SPDX-License-Identifier: Apache-2.0
"""Places that hold a log's tiles, of each kind, filled with whatever a test wants."""

import asyncio
import secrets
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn, Protocol

import asyncpg

from tightseal.audit.tilefiles import FileTileStore
from tightseal.audit.tiles import TileSource
from tightseal.service.tilefetch import HttpTileSource
from tightseal.service.tilerows import RowTileStore

_STATE = str(Path(__file__).parent / "state")
if _STATE not in sys.path:
    sys.path.append(_STATE)

from store_postgres import MissingError, Server, running  # noqa: E402

Files = Mapping[str, bytes]


@contextmanager
def postgres_server(cannot_run: Callable[[str], NoReturn]) -> Iterator[Server]:
    """A PostgreSQL server of the tests' own."""
    # Not below pytest's folder: a socket's path is short, and "postgres" must enter.
    with tempfile.TemporaryDirectory(prefix="tightseal-") as folder:
        try:
            with running(Path(folder)) as server:
                yield server
        except MissingError as missing:
            cannot_run(str(missing))


def sql(
    dsn: str, work: Callable[[asyncpg.Connection], Coroutine[Any, Any, Any]]
) -> Any:
    """What a test does to a database by itself."""

    async def run() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def files_in(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, by path."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


class Place(Protocol):
    """Has tiles, and gives our reader and plain bytes of them."""

    lists: bool
    """Whether it can be asked for everything that it has."""

    def fill(self, files: Files) -> None:
        """Have these files, and no others."""

    def source(self) -> AbstractContextManager[TileSource]:
        """As this program reads it."""

    def get(self, path: str) -> bytes:
        """As anybody reads it."""


class FolderPlace:
    lists = True

    def __init__(self, folder: Path) -> None:
        self._root, self._folder, self._count = folder, folder, 0

    def fill(self, files: Files) -> None:
        self._count += 1
        self._folder = self._root / f"copy-{self._count}"
        for path, data in files.items():
            target = self._folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)

    @contextmanager
    def source(self) -> Iterator[TileSource]:
        yield FileTileStore(self._folder)

    def get(self, path: str) -> bytes:
        return (self._folder / path).read_bytes()


class RowsPlace:
    """Rows, written and read by SQL of the test's own."""

    lists = True

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.log_id = secrets.token_bytes(16)
        with RowTileStore(dsn, self.log_id) as store:
            # Makes the table.
            store.write("checkpoint", b"")

    def fill(self, files: Files) -> None:
        async def fill(connection: asyncpg.Connection) -> None:
            await connection.execute(
                "DELETE FROM tightseal_log_tile WHERE log_id = $1", self.log_id
            )
            await connection.executemany(
                "INSERT INTO tightseal_log_tile (log_id, path, data)"
                " VALUES ($1, $2, $3)",
                [(self.log_id, path, data) for path, data in files.items()],
            )

        sql(self.dsn, fill)

    def source(self) -> RowTileStore:
        return RowTileStore(self.dsn, self.log_id, read_only=True)

    def get(self, path: str) -> bytes:
        async def get(connection: asyncpg.Connection) -> Any:
            return await connection.fetchval(
                "SELECT data FROM tightseal_log_tile WHERE log_id = $1 AND path = $2",
                self.log_id,
                path,
            )

        data = sql(self.dsn, get)
        if not isinstance(data, bytes):
            raise FileNotFoundError(path)
        return data


class ServerPlace:
    """A web server of somebody else, which has files and nothing more."""

    lists = False

    def __init__(self, url: str, files: dict[str, bytes]) -> None:
        self.url = url
        self._files = files

    def fill(self, files: Files) -> None:
        self._files.clear()
        self._files.update(files)

    def source(self) -> HttpTileSource:
        return HttpTileSource(self.url)


@contextmanager
def server_place() -> Iterator[ServerPlace]:
    """A running one."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            data = files.get(self.path.removeprefix("/log/"))
            status = "200 OK" if data is not None else "404 Not Found"
            body = data or b""
            head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n"
            self.wfile.write(head.encode() + body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            del format, arguments

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield ServerPlace(f"http://127.0.0.1:{server.server_port}/log", files)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
