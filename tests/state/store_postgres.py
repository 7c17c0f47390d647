# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL server in a temporary folder, on a unix socket."""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from debian_support import MissingError, needed

LIBRARY = Path("/usr/lib/postgresql")
START_SECONDS = 60
USER = "postgres"


class Server:
    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries = binaries
        self.folder = folder
        self.data = folder / "data"

    def as_user(self, program: str, *arguments: str) -> None:
        command = [str(self.binaries / program), *arguments]
        if os.geteuid() == 0:
            command = [
                *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
                *command,
            ]
        subprocess.run(
            command,
            check=True,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            timeout=START_SECONDS,
        )

    def initialise(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, USER, USER)
        self.as_user(
            "initdb", "-D", str(self.data), "-U", USER, "-A", "trust", "--no-sync"
        )

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}'"
        log = str(self.folder / "log")
        data = str(self.data)
        self.as_user("pg_ctl", "-D", data, "-w", "-l", log, "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self.as_user("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def new_address(self) -> str:
        """An empty schema of its own: quicker to make and remove than a database."""
        name = f"t{time.monotonic_ns()}"

        async def make() -> None:
            connection = await asyncpg.connect(self._dsn)
            try:
                await connection.execute(f"CREATE SCHEMA {name}")
            finally:
                await connection.close()

        asyncio.run(make())
        return f"{self._dsn}&search_path={name}"

    @property
    def _dsn(self) -> str:
        return f"postgresql://{USER}@/postgres?host={self.folder}"


def binaries() -> Path:
    """The folder of the server's programs, installing them where that is possible."""
    return needed(_found, "postgresql")


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    server = Server(binaries(), folder)
    try:
        server.initialise()
        server.start()
    except (OSError, LookupError, subprocess.SubprocessError) as e:
        message = f"PostgreSQL does not start: {e}"
        raise MissingError(message) from e
    try:
        yield server
    finally:
        server.stop()


def _found() -> Path | None:
    versions = [
        path.parent
        for path in LIBRARY.glob("*/bin/initdb")
        if (path.parent / "postgres").exists()
    ]
    return max(versions, key=lambda path: float(path.parent.name), default=None)
