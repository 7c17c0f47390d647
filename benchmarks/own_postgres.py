# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server of a benchmark's own, in a temporary folder, on a unix socket."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from rows import note

LIBRARY = Path("/usr/lib/postgresql")
USER = "postgres"
OPTIONS = (
    "-c listen_addresses='' -c fsync=off -c full_page_writes=off -c max_wal_size=8GB"
)
"""The defaults of the package, except for what would survive a crash: nothing of it is
measured, and filling waits for it."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        folder: of its socket.
    """

    folder: Path

    def new_address(self, name: str) -> str:
        """The address of an empty schema of this name."""
        address = f"postgresql://{USER}@/postgres?host={self.folder}"

        async def make() -> None:
            connection = await asyncpg.connect(address)
            try:
                await connection.execute(f"CREATE SCHEMA {name}")
            finally:
                await connection.close()

        asyncio.run(make())
        return f"{address}&search_path={name}"


@contextmanager
def postgres() -> Iterator[Server]:
    """Start a server; stop it in the end, also where this process is told to stop."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    programs = _programs()
    with tempfile.TemporaryDirectory(prefix="tightseal-pg-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            shutil.chown(folder, USER, USER)
        data = str(folder / "data")
        _run(programs / "initdb", "-D", data, "-U", USER, "-A", "trust", "--no-sync")
        options = f"{OPTIONS} -c unix_socket_directories='{folder}'"
        log = str(folder / "log")
        _run(programs / "pg_ctl", "-D", data, "-w", "-l", log, "-o", options, "start")
        try:
            yield Server(folder)
        finally:
            _run(programs / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")


def _run(program: Path, *arguments: str) -> None:
    """The server refuses to run as root."""
    command = [str(program), *arguments]
    if os.geteuid() == 0:
        other = (f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
        command = ["setpriv", *other, *command]
    subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL)


def _programs() -> Path:
    """The folder of the server's programs, installed where that is allowed."""
    if not _found() and os.geteuid() == 0 and shutil.which("apt-get"):
        note("installing postgresql")
        for arguments in (["update"], ["install", "-y", "postgresql"]):
            subprocess.run(
                ["apt-get", "-qq", *arguments], check=False, capture_output=True
            )
    if not (found := _found()):
        message = "PostgreSQL is missing: install Debian's package postgresql"
        raise SystemExit(message)
    return max(found, key=lambda path: float(path.parent.name))


def _found() -> list[Path]:
    return [path.parent for path in LIBRARY.glob("*/bin/initdb")]
