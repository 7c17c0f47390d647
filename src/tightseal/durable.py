# SPDX-License-Identifier: Apache-2.0
"""SQLite files that survive a crash: how the journal and the state store open theirs.

The file lies with the host. What its contents are worth is for the owners to judge.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["connect", "create_file", "pragma"]

_CHECKPOINT_PAGES: Final = 1000
_WAL_LIMIT_BYTES: Final = 64 << 20


def connect(path: Path, *, busy_seconds: float) -> sqlite3.Connection:
    """A connection to an existing file, with full sync; never creates one.

    Args:
        path: the file.
        busy_seconds: longest wait for another process that holds the lock.

    Raises:
        sqlite3.Error: the file is missing, or no database.
    """
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=rw",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        for setting in (
            "trusted_schema = OFF",
            "cell_size_check = ON",
            "cache_spill = OFF",
            "synchronous = FULL",
            f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
            f"journal_size_limit = {_WAL_LIMIT_BYTES}",
        ):
            connection.execute(f"PRAGMA {setting}")
        if pragma(connection, "journal_mode") != "wal":
            # Truncating syncs the emptied journal; deleting would need the folder too.
            connection.execute("PRAGMA journal_mode = TRUNCATE")
    except BaseException:
        connection.close()
        raise
    return connection


def create_file(path: Path, *, exclusive: bool) -> None:
    """Create the empty file, mode 0600, and make its name durable.

    Args:
        path: the file; never behind a link.
        exclusive: refuse one that is there. Otherwise it is taken as a crash left it.

    Raises:
        FileExistsError: there is one, and ``exclusive``.
        OSError: the folder is missing or cannot be written.
    """
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    os.close(os.open(path, flags | (os.O_EXCL if exclusive else 0), 0o600))
    folder = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def pragma(connection: sqlite3.Connection, name: str) -> object:
    """The value of a pragma; ``name`` is a constant, never input."""
    return connection.execute(f"PRAGMA {name}").fetchone()[0]
